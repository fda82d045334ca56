"""Make the pictures of the README and the documentation.

From the top of the repository,

    python -m tools.make_images BUNDLE

writes docs/images/demo.webp, the bundled clip with the masks that the bundled model finds, and docs/images/ui.png, the
page of `sam2edge ui`. The page needs chromium and chromedriver (Debian: chromium, chromium-driver) and what the tests
need.
"""

import json
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import cv2
from PIL import Image

from sam2edge import VideoTracker
from sam2edge.runtime.media.overlay import color, draw
from sam2edge.runtime.media.sources import VideoSource
from sam2edge.ui.player import Player
from sam2edge.ui.server import Server
from sam2edge.ui.session import Session
from tests.webdriver import Browser

REPO = Path(__file__).parent.parent
CLIP = REPO / "samples" / "clip.mp4"
IMAGES = REPO / "docs" / "images"
BOXES = {
    int(object_id): prompt["box"]
    for object_id, prompt in json.loads((REPO / "samples" / "clip.json").read_text())["prompts"].items()
}


def make_demo(bundle: Path) -> None:
    """Track the clip from a box for each toy; the first picture shows the boxes for a second."""
    pictures = []
    with VideoTracker(bundle, min_confidence=0.7) as tracker, VideoSource(CLIP) as source:
        for frame in source:
            result = tracker.track(frame)
            if not pictures:
                for object_id, box in BOXES.items():
                    x0, y0, x1, y1 = box
                    cv2.rectangle(frame, (x0, y0), (x1, y1), color(object_id), 1)
                    result = tracker.prompt(object_id, box=box)
                pictures.append(frame)
            pictures.append(draw(frame, result))
        frame_time = round(1000 / source.fps)
    first, *others = map(Image.fromarray, pictures)
    durations = [1000, *[frame_time] * len(others)]
    first.save(IMAGES / "demo.webp", save_all=True, append_images=others, duration=durations, loop=0, quality=80)


def make_page(bundle: Path) -> None:
    """Click on each toy, follow them for some frames and photograph the window."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    with (
        tempfile.TemporaryDirectory() as folder,
        VideoTracker(bundle) as tracker,
        Session(tracker, Path(folder) / "masks") as session,
        Browser(*programs, folder) as browser,
    ):
        session.open("samples/clip.mp4")
        player, stop = Player(session), threading.Event()
        thread = threading.Thread(target=player.run, args=(stop,))
        thread.start()
        try:
            with Server(player) as server:
                browser.open(server.url)
                click_and_follow(browser)
                (IMAGES / "ui.png").write_bytes(browser.screenshot())
        finally:
            stop.set()
            thread.join()


def click_and_follow(browser: Browser, frames: int = 15) -> None:
    """Make an object of each toy by a click in the middle of its box, then go on frame by frame."""
    browser.wait("document.getElementById('position').textContent == 'frame 0 / 119'")
    size = "(({width, height}) => [width, height])(document.getElementById('stage').getBoundingClientRect())"
    width, height = browser.run(f"return {size}")
    for object_id, (x0, y0, x1, y1) in BOXES.items():
        browser.press("n")
        browser.click("#stage", (((x0 + x1) / 640 - 0.5) * width, ((y0 + y1) / 480 - 0.5) * height))
        browser.wait(f"document.querySelectorAll('.object').length == {object_id}")
    for index in range(1, frames + 1):
        browser.press("right")
        browser.wait(f"document.getElementById('position').textContent == 'frame {index} / 119'")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    make_demo(Path(sys.argv[1]))
    make_page(Path(sys.argv[1]))
