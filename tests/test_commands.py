"""Every command of sam2edge in the documentation runs; tests/test_synopses.py looks at those that cannot."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge import Bundle, cli
from sam2edge.commands import INTERRUPTED
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.sources import VideoSource
from tests import device
from tests.conftest import REPO
from tests.documents import PAGES, Command, commands
from tests.unit.engines.fake_tensorrt import install

SAYS = {
    "bench": r"^not measured: PyTorch",
    "build": r"^engines in ",
    "calibrate": r"^mean IoU with FP32 on samples/clip\.mp4: (0\.9[789]|1)",
    "doctor": r"^This machine can track\.$",
    "export": r"^wrote out/nano$",
    "inspect": r"^memory_attention ",
    "segment": r"^2 of 2 images, \d+ masks: out/photos$",
    "track": r"^(\d+ frames, |sam2edge: interrupted after \d+ frames)",
    "verify": r"^gate .* passed",
}
"""What a verb prints if all went well. `ui` is run as documented by tests/unit/ui/test_command.py."""
IS_LIVE = re.compile(r"/dev/video|csi:|gst:|rtsp:")


def sam2edge_arguments(command: Command) -> tuple[str, ...]:
    """Return the arguments of sam2edge, also of one that runs in a container."""
    if command.program == "sam2edge":
        return command.words[1:]
    if command.words[:2] == ("docker", "run"):
        return command.words[command.words.index("sam2edge") + 1 :]
    return ()


def true_mask() -> np.ndarray:
    """Return the mask of the ball, which the documentation's box marks on the first frame: bool [H,W]."""
    with np.load(REPO / "samples" / "clip_masks.npz") as arrays:
        return arrays["labels"][0] == 1


def first_frame() -> np.ndarray:
    with VideoSource(REPO / "samples" / "clip.mp4") as video:
        return next(iter(video))


@pytest.fixture
def folder(nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the repository, with the bundles and photographs that pages assume."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("samples", "deploy"):
        (tmp_path / name).symlink_to(REPO / name)
    for bundle in ("out/nano", "out/tiny"):
        shutil.copytree(nano.path, bundle)
    (tmp_path / "nano").symlink_to("out/nano")
    (tmp_path / "photos").mkdir()
    for name in ("one.png", "two.png"):
        cv2.imwrite(f"photos/{name}", first_frame()[..., ::-1])
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_page(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its commands run in order; the files that commands of other programs name exist."""
    for command in commands(page):
        words = sam2edge_arguments(command) if command.real else ()
        if words and words[0] != "ui":
            run(words, folder, capsys)
        elif command.real:
            for file in (word.rpartition("=")[2] for word in command.words):
                assert not file.startswith(("out/", "samples/", "deploy/")) or Path(file).exists(), command


def run(words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one command of sam2edge, on simulated devices if it needs some, and check what it prints and writes."""
    args = cli.parse(words)
    live = bool(IS_LIVE.match(getattr(args, "source", None) or ""))
    if words[0] == "export":
        shutil.rmtree(args.out)
    with simulated_devices(args, live, folder) as shown:
        code = cli.main(words)
        gc.collect()  # what is left on the GPU, while there is one
    printed = capsys.readouterr()
    assert code == (INTERRUPTED if live and not shown else 0), (words, printed.err)
    assert re.search(SAYS[words[0]], printed.out + printed.err, re.MULTILINE), (words, printed.out)
    for name in ("output", "report", "plots"):
        if path := getattr(args, name, None):
            assert any(path.iterdir()) if path.is_dir() else path.stat().st_size > 10_000
    if words[0] == "track" and args.json:
        check_tracks(args.json, live)
    if words[0] == "segment":
        assert len(args.json.read_text().splitlines()) == 2
    if shown:
        changed = (shown[0] != first_frame()[..., ::-1]).any(axis=-1)
        assert changed[true_mask()].mean() > 0.8, "nothing is drawn on the object"


@contextlib.contextmanager
def simulated_devices(args: argparse.Namespace, live: bool, folder: Path) -> Iterator[list[np.ndarray]]:
    """Simulate the devices that a command needs; yield the frames that are shown on the screen."""
    shown: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        if args.name == "build" or getattr(args, "backend", None) == "tensorrt":
            fake = install(patch, "10.3.0")
            stack.callback(fake.gpu.check)
        if live:
            device.plug_in_cameras(patch, folder, first_frame())
        if getattr(args, "window", False):
            shown = device.plug_in_screen(patch)
            stack.enter_context(device.interrupting(lambda: False))
        elif live:
            args.json.unlink(missing_ok=True)
            stack.enter_context(device.interrupting(lambda: lines(args.json) >= device.ENOUGH))
        yield shown


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def check_tracks(file: Path, live: bool) -> None:
    tracks = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(tracks) >= device.ENOUGH if live else len(tracks) == 120
    mask = rle.decode(tracks[0]["objects"][0]["segmentation"])
    assert (mask & true_mask()).sum() / (mask | true_mask()).sum() > 0.8
