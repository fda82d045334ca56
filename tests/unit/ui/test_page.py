"""The page in headless Chromium, as a person uses it. Skipped where chromium and chromedriver are not installed."""

import shutil
import threading

import cv2
import numpy as np
import pytest

from sam2edge import WordDetector
from sam2edge.runtime.media.sources import ArraySource, VideoSource
from sam2edge.ui import session as session_module
from sam2edge.ui.server import Server
from sam2edge.ui.session import Session
from tests.helpers import CLIP, iou
from tests.unit.ui.conftest import TRUTH, playing
from tests.webdriver import Browser

HEIGHT, WIDTH = TRUTH.shape[1:]
BALL, BLOCK = (138, 84), (262, 60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Open one window for all tests of this file."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    with Browser(chromium, driver, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser, session):
    """Open the page without a source, and check afterwards that its only errors were refused calls."""
    with playing(session) as player, Server(player) as server:
        browser.open(server.url)
        browser.wait("document.getElementById('empty').checkVisibility()")
        yield browser
        assert [error for error in browser.errors() if "400 (Bad Request)" not in error] == []
        browser.open("about:blank")


def open_clip(page):
    """Type the path of the bundled clip and press Enter."""
    page.type("#source", f"{CLIP}\n")
    wait_for_frame(page, 0)


def wait_for_frame(page, number):
    page.wait(f"document.getElementById('position').textContent == 'frame {number} / 119'")


def click(page, point, **how):
    """Click on a pixel of the frame."""
    width, height = page.run(
        "const box = arguments[0].getBoundingClientRect(); return [box.width, box.height]", stage(page)
    )
    page.click("#stage", ((point[0] / WIDTH - 0.5) * width, (point[1] / HEIGHT - 0.5) * height), **how)


def stage(page):
    return {"element-6066-11e4-a52e-4f735466cecf": page.find("#stage")}


def objects(page):
    """Return the ids of the objects that are drawn."""
    return page.run("return [...document.querySelectorAll('.object')].map((path) => Number(path.dataset.object))")


def wait_for_objects(page, *ids):
    page.wait(
        f"[...document.querySelectorAll('.object')].map((path) => path.dataset.object) == '{','.join(map(str, ids))}'"
    )


def drawn(page, object_id):
    """Return what the browser fills for an object: bool [H,W] at the frame's pixels."""
    script = """
        const path = document.querySelector(`.object[data-object="${arguments[0]}"]`);
        const [width, height] = [arguments[1], arguments[2]];
        const row = (y) => Array.from({ length: width }, (_, x) => path.isPointInFill(new DOMPoint(x + 0.5, y + 0.5)));
        return Array.from({ length: height }, (_, y) => row(y).map(Number).join(""));
    """
    return np.array([list(row) for row in page.run(script, object_id, WIDTH, HEIGHT)]) == "1"


def number(page):
    """Return the number of the frame that is shown."""
    return int(page.run("return document.getElementById('position').textContent").split()[1])


def tinted(page, index):
    """Return the pixels of the screen that differ from this frame of the clip: bool [H,W]."""
    with VideoSource(CLIP) as source:
        frame = next(frame for n, frame in enumerate(source) if n == index)
    seen = cv2.imdecode(np.frombuffer(page.screenshot("#stage"), np.uint8), cv2.IMREAD_COLOR_RGB)
    seen = cv2.resize(seen, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.abs(seen.astype(int) - frame).max(axis=2) > 24


def test_open_click_track(page):
    """The contours of two objects lie on them for 15 frames, in the page's own geometry and on the screen."""
    open_clip(page)
    click(page, BALL)
    page.press("n")  # at once, before the page knows the outcome of the click
    click(page, BLOCK)
    wait_for_objects(page, 1, 2)
    overlaps = {1: [], 2: []}
    for index in range(1, 16):
        page.press("right")
        wait_for_frame(page, index)
        for object_id, ious in overlaps.items() if index % 5 == 0 else ():
            ious.append(iou(drawn(page, object_id), TRUTH[index] == object_id))
    assert min(overlaps[1]) > 0.7
    assert min(overlaps[2]) > 0.7
    assert iou(tinted(page, 15), np.isin(TRUTH[15], (1, 2))) > 0.7


def test_words(browser, tracker, shapes, tmp_path):
    """What the field names is outlined and listed by its word; emptied, it is gone."""
    with (
        WordDetector(shapes) as detector,
        Session(tracker, tmp_path, detector=detector) as session,
        playing(session) as player,
        Server(player) as server,
    ):
        browser.open(server.url)
        open_clip(browser)
        browser.type("#words", "red ball\n")
        wait_for_objects(browser, 1)
        browser.wait("document.querySelector('.name').textContent == 'red ball 1'")
        assert iou(drawn(browser, 1), TRUTH[0] == 1) > 0.8
        browser.press("right")  # not in the field any more
        wait_for_frame(browser, 1)
        browser.run("document.getElementById('words').value = ''")
        browser.type("#words", "\n")
        wait_for_objects(browser)
        browser.open("about:blank")


def test_play_and_pause(page, session):
    """The page stays on the session's frame, with its contour."""
    open_clip(page)
    click(page, BALL)
    wait_for_objects(page, 1)
    page.press("space")
    page.wait("parseInt(document.getElementById('position').textContent.split(' ')[1]) >= 10")
    page.press("space")
    page.wait("!document.getElementById('play').classList.contains('on')")
    index, result = number(page), session.view().result
    assert result.frame_index == index
    assert iou(drawn(page, 1), result.masks[0]) > 0.95
    assert iou(tinted(page, index), result.masks[0]) > 0.7


def test_a_key_that_is_held_waits_for_the_program(page):
    """Otherwise steps would queue up and go on after the key is released."""
    open_clip(page)
    script = """
        let sent = 0;
        const real = window.fetch;
        window.fetch = (name, ...rest) => ((sent += name === "step"), real(name, ...rest));
        for (let n = 0; n < 9; n += 1) {
          document.body.dispatchEvent(
            new KeyboardEvent("keydown", { key: "ArrowRight", repeat: n > 0, bubbles: true }));
        }
        window.fetch = real;
        return sent;
    """
    assert page.run(script) == 1
    wait_for_frame(page, 1)
    assert page.run(script) == 1


@pytest.mark.parametrize("how", [{"button": 2}, {"shift": True}])
def test_background_click_and_undo(page, how):
    open_clip(page)
    click(page, BALL)
    wait_for_objects(page, 1)
    before = drawn(page, 1)
    click(page, (150, 100), **how)
    page.wait("document.querySelectorAll('.click').length == 2")
    assert page.run("return document.querySelectorAll('.click')[1].getAttribute('fill')") == "#222"
    page.press("z")
    page.wait("document.querySelectorAll('.click').length == 1")
    assert (drawn(page, 1) == before).all()


def test_objects_are_chosen_and_removed(page):
    open_clip(page)
    click(page, BALL)
    wait_for_objects(page, 1)
    page.click("#new")
    click(page, BLOCK)
    wait_for_objects(page, 1, 2)
    page.press("1")
    click(page, (120, 84))
    page.wait("document.querySelectorAll('.click').length == 3")
    assert objects(page) == [1, 2]
    page.click("li[data-object='1'] .drop")
    wait_for_objects(page, 2)


def test_save(page, tmp_path):
    open_clip(page)
    click(page, BALL)
    wait_for_objects(page, 1)
    page.click("#save")
    page.wait("document.getElementById('save').textContent == 'Stop saving'")
    shown = drawn(page, 1)
    assert str(tmp_path / "saved" / "001") in page.run("return document.getElementById('saving').textContent")
    page.click("#save")
    page.wait("document.getElementById('save').textContent == 'Save masks'")
    mask = cv2.imread(str(tmp_path / "saved" / "001" / "masks" / "00000.png"), cv2.IMREAD_UNCHANGED)
    assert iou(shown, mask == 1) > 0.97


def test_a_camera(page, monkeypatch):
    """It plays at once, and an object can be clicked while it runs."""
    stop = threading.Event()

    def frames():
        with VideoSource(CLIP) as source:
            still = next(iter(source))
        while not stop.wait(0.1):  # a click may be two frames late
            yield still

    monkeypatch.setattr(session_module, "open_source", lambda word, **_: ArraySource(frames(), live=True, name=word))
    page.type("#source", "0\n")
    page.wait("document.getElementById('play').classList.contains('on')")
    click(page, BALL)
    wait_for_objects(page, 1)
    page.wait(f"parseInt(document.getElementById('position').textContent.split(' ')[1]) > {number(page) + 5}")
    assert iou(drawn(page, 1), TRUTH[0] == 1) > 0.7
    assert not page.run("return document.getElementById('restart').checkVisibility()")
    stop.set()


def test_a_file_chosen_in_the_browser(page):
    page.type("#file", CLIP)
    wait_for_frame(page, 0)
    assert page.run("return document.title") == "clip.mp4 – sam2edge"


def test_keys_control_the_video_after_a_button(page):
    open_clip(page)
    page.type("#source", "x")
    page.click("#step")
    wait_for_frame(page, 1)
    page.press("right")
    wait_for_frame(page, 2)


def test_the_error_of_a_call_is_shown(page):
    page.type("#source", "missing.mp4\n")
    page.wait("document.getElementById('notice').textContent == 'missing.mp4: no such video file'")
    assert page.run("return document.getElementById('notice').checkVisibility()")
