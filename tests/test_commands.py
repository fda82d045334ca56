"""Every command of sam2edge in the documentation runs; what those that cannot run name exists."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge import Bundle, cli
from sam2edge.bench import plan, worker
from sam2edge.commands import INTERRUPTED
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.sources import VideoSource
from tests import device
from tests.conftest import REPO
from tests.documents import COMMANDS, NOT_RUN, PAGES, RUN, VERBS, Command, commands
from tests.helpers import write_samples
from tests.unit.engines.fake_tensorrt import RTX, install

SAYS = {
    "bench": r"^not measured: PyTorch",
    "build": r"^engines in ",
    "calibrate": r"^mean IoU with FP32 on samples/clip\.mp4: (0\.9[789]|1)",
    "doctor": r"^This machine can track\.$",
    "export": r"^wrote out/nano$",
    "inspect": r"^memory_attention ",
    "label": r"^1 of 1 items, ",
    "segment": r"^2 of 2 images, \d+ masks: out/photos$",
    "triton": r"^wrote out/repository; serve it with: tritonserver ",
    "track": r"^(\d+ frames, |sam2edge: interrupted after \d+ frames)",
    "verify": r"^gate .* passed",
}
"""What a verb prints if all went well. `ui` is run as documented by tests/unit/ui/test_command.py."""
FRAMES = 8
"""What the bundled clip is cut to: the memory bank of 7 is full at the end."""
SMALLER = {
    "bench": {"--frames": "3", "--objects": "1", "--memory-frames": "1"},
    "label": {"--points-per-side": "8"},
    "segment": {"--points-per-side": "8"},
}
"""Options of verbs, unless the documentation has them: whether they run is tested here, not how fast or how well."""
IS_LIVE = re.compile(r"/dev/video|csi:|gst:|rtsp:")


def sam2edge_arguments(command: Command) -> tuple[str, ...]:
    """Return the arguments of sam2edge, also of one that runs in a container."""
    if command.program == "sam2edge":
        return command.words[1:]
    if command.words[:2] == ("docker", "run") and "sam2edge" in command.words:
        return command.words[command.words.index("sam2edge") + 1 :]
    return ()


def true_mask() -> np.ndarray:
    """Return the mask of the ball, which the documentation's box marks on the first frame: bool [H,W]."""
    with np.load(REPO / "samples" / "clip_masks.npz") as arrays:
        return arrays["labels"][0] == 1


def first_frame() -> np.ndarray:
    with VideoSource(REPO / "samples" / "clip.mp4") as video:
        return next(iter(video))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write_samples(folder := tmp_path_factory.mktemp("short") / "samples", FRAMES)
    return folder


@pytest.fixture(scope="module")
def have_run() -> set[tuple[str, ...]]:
    """Arguments of sam2edge. What `export samples/nano out/nano` writes, on several pages, is in each page's folder."""
    return set()


@pytest.fixture
def folder(
    nano: Bundle, samples: Path, quick_collection: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder that looks like the repository, with the bundles and photographs that pages assume."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "samples").symlink_to(samples)
    (tmp_path / "deploy").symlink_to(REPO / "deploy")
    for bundle in ("out/nano", "out/tiny"):
        shutil.copytree(nano.path, bundle, copy_function=os.link)
    (tmp_path / "nano").symlink_to("out/nano")
    (tmp_path / "prompts.jsonl").write_text('{"source": "samples/clip.mp4", "box": [101, 47, 176, 122]}\n')
    (tmp_path / "photos").mkdir()
    for name in ("one.png", "two.png"):
        cv2.imwrite(f"photos/{name}", first_frame()[..., ::-1])
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_page(page: Path, folder: Path, have_run: set[tuple[str, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    """Its commands run in order, but for those of other pages; the files that other programs' commands name exist."""
    for command in commands(page):
        words = sam2edge_arguments(command) if command.real else ()
        if words and words[0] != "ui":
            if words not in have_run:
                run(words, folder, capsys)
            have_run.add(words)
        elif command.real:
            for file in (word.rpartition("=")[2] for word in command.words):
                assert not file.startswith(("out/", "samples/", "deploy/")) or Path(file).exists(), command


def run(words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one command of sam2edge, on simulated devices if it needs some, and check what it prints and writes."""
    if words[0] == "bench" or "--auto" in words:
        words = (*words, *(word for pair in SMALLER[words[0]].items() if pair[0] not in words for word in pair))
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
        if args.name == "build" or getattr(args, "backend", None) in ("tensorrt", "tensorrt-rtx"):
            rtx = "rtx" in (getattr(args, "product", ""), getattr(args, "backend", "").partition("-")[2])
            fake = install(patch, RTX if rtx else "10.3.0")
            stack.callback(fake.gpu.check)
        if live:
            device.plug_in_cameras(patch, folder, first_frame())
        if args.name == "bench":  # tests/unit/bench has its processes
            patch.setattr(plan, "run_case", worker.measure)
            patch.setattr(worker, "WARM_UP", 2)
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
    assert len(tracks) >= device.ENOUGH if live else len(tracks) == FRAMES
    mask = rle.decode(tracks[0]["objects"][0]["segmentation"])
    assert (mask & true_mask()).sum() / (mask | true_mask()).sum() > 0.8


def test_no_command_hides_in_another_block() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```(\w*)", page.read_text(), re.MULTILINE)
        assert set(fences[::2]) <= {"sh", "python", "json", "text"}, page  # text: for other programs
        texts = "".join(re.findall(r"^```text\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
        hidden = re.findall(r"^ {4}(?:sudo )?(\S+) ", page.read_text(), re.MULTILINE)
        hidden += re.findall(r"^(?:sudo )?(\S+) ", texts, re.MULTILINE)
        assert not set(hidden) & (RUN | NOT_RUN), page


def test_what_commands_name_exists() -> None:
    """Of sam2edge's synopses the options, of make the targets, of pip the packages and extras."""
    project = (REPO / "pyproject.toml").read_text()
    packages = {".", "sam2edge", "scikit-image", *re.findall(r'"([\w-]+)[><=]', project)}  # scikit-image: for training
    targets = set(re.findall(r"^(\S+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    checked = set()
    for command in COMMANDS:
        program, words = command.program, command.words
        checked.add(program)
        if program == "sam2edge" and not command.real:
            assert options(" ".join(words[2:])) <= options(VERBS[words[1]].format_help()), command
        elif program == "make":
            assert set(words[1:]) <= targets, command
        elif program == "pip":
            for package in (word for word in words[2:] if not word.startswith("-")):
                name, _, extra = package.removesuffix("]").partition("[")
                assert name in packages, command
                assert not extra or re.search(rf"^{extra} = \[", project, re.MULTILINE), command
    assert {"sam2edge", "make", "pip"} <= checked <= RUN | NOT_RUN


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]*", text))


def test_python_programs_are_run_elsewhere_or_have_these_options() -> None:
    elsewhere = (REPO / "tests" / "test_samples.py").read_text()
    for command in (command for command in COMMANDS if command.program == "python"):
        module = command.words[1] == "-m"
        program = command.words[2].replace(".", "/") + ".py" if module else command.words[1]
        [file] = {file for file in (REPO / program, command.page.parent / program) if file.exists()}
        if command.real:
            assert re.search(rf'\b(run|load)\((short / )?"{file.stem}(\.py)?"', elsewhere), command
        for option in (word for word in command.words[3:] if word.startswith("--")):
            assert f'"{option}"' in file.read_text(), command
