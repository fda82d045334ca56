"""`sam2edge label`: its arguments, what it says, restarts and interruption. The workers' labeller is a double."""

import contextlib
import functools
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from sam2edge import cli
from sam2edge.commands import label
from sam2edge.labelling import LAYOUTS, layouts
from sam2edge.labelling.items import Settings
from sam2edge.labelling.scheduler import Tally
from sam2edge.runtime.image import predictor
from tests.conftest import REPO
from tests.unit.labelling.double import FRAMES, open_with_bundle


@pytest.fixture
def bundle(write_bundle):
    return write_bundle().path


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that makes videos of these names, with a file of prompts for all of them."""
    monkeypatch.setattr(label, "_labeller", lambda settings: functools.partial(open_with_bundle, tmp_path))

    def make(*names):
        file = tmp_path / "prompts.jsonl"
        for name in names:
            (tmp_path / name).touch()
        file.write_text("".join(json.dumps({"source": name, "box": [0, 0, 9, 9]}) + "\n" for name in names))
        return file

    return make


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def keys(out, folder="items"):
    """The names of the videos that are done."""
    return sorted(name.rpartition("-")[0] for name in os.listdir(out / folder))


def test_run_and_rerun(run, bundle, make, out):
    """What failed is named and tried again, what is done is not, and the exit code says whether all is well."""
    words = "label", bundle, "-o", out, "--prompts", make("a.mp4", "refuses.mp4", "b.mp4"), "--workers", 1
    code, printed, err = run(*words)
    refused = out.parent / "refuses.mp4"
    assert (code, err) == (1, f"sam2edge: {refused}: cannot be read\n")
    assert re.fullmatch(
        f"2 of 3 items, {2 * FRAMES} frames, 2 objects, [\\d.]+ frames/s, 1 failed; the same command tries again\n"
        f"in {re.escape(str(out))}\n",
        printed,
    )
    report = json.loads((out / "report.json").read_text())
    assert (report["items"], report["done"], report["frames"]) == (3, 2, 2 * FRAMES)
    assert [(each["sources"], each["attempts"]) for each in report["failed"]] == [([str(refused)], 1)]
    assert (keys(out), keys(out, "failed")) == (["a", "b"], ["refuses"])
    before = {file.name: file.stat().st_ino for file in (out / "items").iterdir()}
    assert run(*words)[0] == 1
    assert {file.name: file.stat().st_ino for file in (out / "items").iterdir()} == before


def test_layouts_are_those_that_can_be_made():
    assert set(LAYOUTS) == set(layouts._WRITERS)


def test_done_starts_no_worker(run, bundle, make, out, monkeypatch):
    words = "label", bundle, "-o", out, "--prompts", make("a.mp4")
    said = f"1 of 1 items, {FRAMES} frames, 1 objects"
    assert run(*words)[1].startswith(f"{said}, ")
    monkeypatch.setattr(label, "_pool", None)
    assert run(*words) == (0, f"{said}\nin {out}\n", "")


def test_source_that_changed_is_done_again(run, bundle, make, out):
    words = "label", bundle, "-o", out, "--prompts", make("a.mp4")
    run(*words)
    (out.parent / "a.mp4").write_bytes(b"longer")
    code, printed, _ = run(*words)
    assert code == 0
    assert printed.endswith("1 more items are kept there, of sources that have changed or are not named now\n")
    assert keys(out) == ["a", "a"]


def test_missing_video_and_bad_mask_do_not_end_the_run(run, bundle, make, out):
    prompts = make("a.mp4")
    (out.parent / "b.mp4").touch()
    with prompts.open("a") as file:
        print(json.dumps({"source": "gone.mp4", "box": [0, 0, 9, 9]}), file=file)
        print(json.dumps({"source": "b.mp4", "mask": "a.mp4"}), file=file)
    code, _, err = run("label", bundle, "-o", out, "--prompts", prompts)
    assert code == 1
    assert f"sam2edge: {out.parent / 'gone.mp4'}: no such file or folder\n" in err
    assert f"sam2edge: {out.parent / 'b.mp4'}: {out.parent / 'a.mp4'}: " in err
    assert (keys(out), keys(out, "failed")) == (["a"], ["b", "gone"])


def test_other_settings_and_another_bundle(run, error_of, bundle, make, out):
    words = "label", bundle, "-o", out, "--prompts", make("a.mp4")
    run(*words)
    refusal = error_of(*words, "--memory-stride", 2, "--format", "parquet")
    assert refusal == (
        f'{out}: is a run with other settings: format "jsonl" (now "parquet"), --memory-stride 1 '
        "(now 2); give the same settings, or another folder to -o"
    )
    assert 'other settings: layouts "" (now "davis or youtube-vos");' in error_of(*words, "--layout", "davis")
    same = "--backend", "onnx", "--workers", 2, "--threads", 1, "--split-objects", 2
    assert run(*words, *same)[0] == 0
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert 'is a run with other settings: bundle "' in error_of(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give one of --prompts FILE.jsonl (follow that), --auto (everything) and --words 'red cup'"),
        (("a.mp4", "--auto", "--words", "cup"), "give one of --prompts FILE.jsonl (follow that), "),
        (("--auto",), "nothing to label: name videos, images or folders"),
        (("a.mp4", "--words", "cup", "--points-per-side", 8), "--points-per-side does nothing without --auto"),
        (("a.jpg", "--auto", "--words-score", 0.5), "--words-score does nothing without --words"),
        (("a.jpg", "--auto", "--workers", 0), "--workers must be"),
        (("a.jpg", "--auto", "--gpus", "1,0"), "--gpus does nothing with --backend onnx, which runs on the CPU"),
        (
            ("a.jpg", "--auto", "--backend", "tensorrt", "--gpus=0,-1"),
            "--gpus must be an integer of at least 0 but got -1",
        ),
        (("a.jpg", "--auto", "--cpus-per-worker", 2), "--cpus-per-worker does nothing without --ray"),
        (("a.jpg", "--auto", "--gpus-per-worker", 1), "--gpus-per-worker does nothing without --ray"),
        (("a.jpg", "--auto", "--ray", "auto", "--threads", 1), "with --ray give --cpus-per-worker, --gpus-per-worker"),
        (("a.jpg", "--auto", "--ray", "auto", "--gpus-per-worker", -1), "--gpus-per-worker must be a finite number of"),
        (("a.jpg", "--auto", "--split-objects", 2), "--split-objects 2 needs --prompts: its parts must"),
        (("--prompts", "p.jsonl", "--split-objects", 2, "--track-every", 2), "needs --track-every 1"),
        (("--prompts", "p.jsonl", "--split-objects", 2, "--layout", "davis"), "needs no --layout davis or youtube-vos"),
        (("--prompts", "p.jsonl", "--split-objects", 2, "--format", "parquet"), "needs --format jsonl"),
        (("0", "--prompts", "p.jsonl"), "p.jsonl: cannot be read: No such file"),
        (("a.mp4", "--words", "cup"), "has no word detector; add one with"),
    ],
)
def test_wrong_options(error_of, bundle, out, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of("label", bundle, *words, "-o", out)
    assert not out.exists()


def test_ray_is_optional(error_of, bundle, make, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "sam2edge.labelling.ray", raising=False)
    refusal = error_of("label", bundle, "--prompts", make("a.mp4"), "-o", out, "--ray")
    assert refusal == '--ray needs ray: pip install "sam2edge[ray]"'


def test_bundle_comes_first(error_of, make, out):
    video = make("a.mp4").with_name("a.mp4")
    assert "the bundle comes first: sam2edge label BUNDLE SOURCE" in error_of("label", video, "-o", out, "--auto")


def test_sources_after_an_option(run, bundle, out):
    code, _, err = run("label", bundle, "-o", out, "a.jpg", "--auto")
    assert code == 2
    assert err.endswith("error: unrecognized arguments: a.jpg; name the sources right after the bundle\n")


def test_numbers_of_gpus(run, bundle, out):
    code, _, err = run("label", bundle, "a.jpg", "--auto", "-o", out, "--gpus", "0,a")
    assert code == 2
    assert "expected numbers of GPUs with commas between but got '0,a'" in err


@pytest.mark.parametrize(
    ("words", "backend", "gigabytes", "shares"),
    [
        ((), "onnx", 64, (8, 1)),
        ((), "onnx", 3.5, (3, 2)),
        ((), "onnx", 0.1, (1, 8)),
        (("--workers", "3"), "onnx", 0.1, (3, 2)),
        (("--workers", "16"), "onnx", 64, (16, 1)),
        (("--threads", "2"), "onnx", 64, (8, 2)),
        ((), "tensorrt", 64, (1, 8)),
        (("--gpus", "0,1"), "tensorrt", 64, (2, 4)),
    ],
)
def test_shares_of_eight_cores(write_bundle, monkeypatch, words, backend, gigabytes, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(predictor, "available_memory", lambda: int(gigabytes * 2**30))
    args = cli.parse(["label", "bundle", "a.jpg", "--auto", "-o", "out", "--backend", backend, *words])
    assert label._shares(args, write_bundle()) == shares


def test_settings():
    args = cli.parse(
        ["label", "b", "a", "-o", "o", "--words", "red cup,dog", "--not", "cat", "--range=1,2", "--layout", "coco"]
    )
    assert label._settings(args) == Settings(
        mode="words",
        backend="onnx",
        words=("red cup", "dog"),
        others=("cat",),
        value_range=(1.0, 2.0),
        layouts=("coco",),
    )


def test_layouts_that_need_no_other_labels_are_the_same_run(write_bundle):
    bundle = write_bundle()
    plain, coco, davis, both = (
        label._run(bundle, Settings(layouts=names)) for names in ((), ("coco",), ("davis",), ("coco", "youtube-vos"))
    )
    assert plain == coco != davis == both


def test_progress():
    tally = Tally(total=10, done=3)
    tally.started -= 100
    assert label._progress(tally) == "3/10 items, 0.0 frames/s"
    tally.failed, tally.frames, tally.finished = 1, 200, 2
    assert label._progress(tally) == "3/10 items, 1 failed, 2.0 frames/s, 5:00 left"
    assert label._clock(3725) == "1:02:05"


CHILD = """
import functools
import sys
from pathlib import Path
from sam2edge import cli
from sam2edge.commands import label
from tests.unit.labelling.double import open_with_bundle

label._labeller = lambda settings: functools.partial(open_with_bundle, Path(sys.argv[1]))
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption(bundle, make, out, number):
    """Ctrl-C and SIGTERM keep what is done; the same command goes on."""
    words = ["label", bundle, "-o", out, "--prompts", make("a.mp4", "waits.mp4"), "--workers", "1"]
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-c", CHILD, out.parent, *words], cwd=REPO, stderr=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    shown = ""
    while "1/2 items" not in shown:
        shown += os.read(ours, 1000).decode()
    command.send_signal(number)
    printed, _ = command.communicate(timeout=30)
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while more := os.read(ours, 1000).decode():
            shown += more
    os.close(ours)
    assert (command.returncode, printed) == (130, "")
    said = "\r\x1b[Ksam2edge: interrupted: 1 of 2 items are done; the same command goes on\r\n"
    assert shown.removesuffix("\r\x1b[K").endswith(said)
    assert (keys(out), list((out / ".tmp").iterdir())) == (["a"], [])
