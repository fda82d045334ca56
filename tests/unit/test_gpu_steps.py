"""The steps of tests/gpu in a dry form, and their programs on stand-ins for TensorRT and a GPU."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sam2edge import Bundle, VideoTracker, cli
from sam2edge.bundle.engines import ENGINES, MEMORY_ATTENTION, RESIZE, Engine, default_directory, read_manifest
from sam2edge.engines import build as product
from sam2edge.errors import BuildError
from sam2edge.runtime.backends import tensorrt_api
from sam2edge.runtime.backends.tensorrt import TensorRTBackend
from tests.conftest import REPO
from tests.gpu import bars, build, clips, smoke
from tests.gpu.small import SMALL
from tests.unit.engines.fake_tensorrt import install

STEPS = sorted((REPO / "tests" / "gpu").glob("[1-9]_*.sh"))
LEFT = REPO / "tests" / "gpu" / "left.sh"
"""Only for a sitting that was shorter."""
BACKGROUND = [(STEPS[0], "pytorch"), (STEPS[2], "builds"), (STEPS[4], "others")]
START, CALL, SITTING = 120, 5, 900
"""Seconds that it may take until a machine is there, that a call takes to bring its files, and that there are."""


class Dry:
    """A folder in which steps run with commands that only note their arguments.

    `started` has them by step and function ("main", or another): first `timeout` or `setsid`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, dict[tuple[str, str], list[list[str]]]()
        (folder / "bin").mkdir()
        for name in ("timeout", "setsid", "the-one-with-tensorrt"):
            program = folder / "bin" / name
            program.write_text(f'#!/usr/bin/env bash\n(printf "%q " {name} "$@"; echo) >> {folder}/notes\n')
            program.chmod(0o755)
        for file in (
            *("1/part", "2/part", "10/part", "tiny/manifest.json", "nano.engines/fp16/engines.json"),
            "nano.engines/fp16/resize.engine",
        ):
            (folder / "work" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "work" / file).write_text(f"{file}\n")
        (folder / "work" / "tools").mkdir()
        (folder / "work" / "tools" / "unpack.sh").write_text(f"cp $1 {folder}/joined\n")

    def tree(self, function: str) -> Path:
        """Where a function in the background runs, since the next call writes the tree again."""
        return self.folder / "work" / f"tree-{function}"

    def call(self, step: Path, function: str = "main", code: int = 0) -> str:
        """Run a step or one of its functions, one in the background where it would be; return what it prints."""
        environment = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SAM2EDGE_GPU_WORK": str(self.folder / "work"),
            "CARRIED": str(self.folder / "carried"),
            "OUT": str(self.folder / "out"),
            "TRT": "the-one-with-tensorrt",
            "TORCH": "the-one-with-pytorch",
        }
        (self.folder / "notes").write_text("")
        script = self.tree(function) / step.relative_to(REPO) if (step, function) in BACKGROUND else step
        command = [script] if function == "main" else [script, function]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, "")
        noted = [shlex.split(line) for line in (self.folder / "notes").read_text().splitlines()]
        self.started[step.name, function] = noted
        return done.stdout

    def noted(self, step: Path) -> list[str]:
        """Call a step and return the last word of each command, without folders."""
        self.call(step)
        return [Path(words[-1]).name for words in self.started[step.name, "main"]]

    def all(self) -> Iterator[list[str]]:
        for commands in self.started.values():
            yield from commands


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Dry:
    """A whole sitting, in which what is in the background is done at once."""
    made = Dry(tmp_path_factory.mktemp("dry"))
    for step in (*STEPS, LEFT):
        made.call(step)
        if step == STEPS[2]:  # which goes on when all is unpacked
            unpacking = made.started[step.name, "main"]
            made.call(step, "unpack")
            made.call(step)
            made.started[step.name, "main"] += unpacking
        for function in (function for other, function in BACKGROUND if other == step):
            made.call(step, function)
    return made


def test_a_step_waits_for_what_uses_the_gpu(tmp_path: Path) -> None:
    """It measures nothing before, and begins nothing twice; called again, it goes on."""
    dry = Dry(tmp_path)
    assert dry.noted(STEPS[3]) == ["builds.done"]
    assert dry.noted(STEPS[4]) == ["others", "others.done"]
    assert dry.noted(STEPS[4]) == ["others.done"]
    assert dry.noted(STEPS[5]) == ["others.done"]
    dry.call(STEPS[4], "others")
    (tmp_path / "work" / "logs" / "build-others.log").write_text("what was built\n")
    assert dry.call(STEPS[4]).endswith("what was built\n")
    assert len(dry.noted(STEPS[5])) > 1


def test_a_part_that_is_broken(tmp_path: Path) -> None:
    """Nothing runs before all is unpacked, which the next call tries again."""
    dry = Dry(tmp_path)
    (tmp_path / "work" / "tools" / "unpack.sh").write_text("exit 3\n")
    dry.call(STEPS[2], "unpack", code=3)
    assert [dry.noted(STEPS[2]) for _ in range(2)] == [["unpack"]] * 2


def test_a_sitting_fits(dry: Dry) -> None:
    """Each command has a limit. The page has each step with the sum of its limits, and what all take together."""
    page = (REPO / "tests" / "gpu" / "README.md").read_text()
    rows = re.findall(r"^\| `(\d_\w+\.sh)`(?:, (\d+) times)? \|.*\| (\d+) \|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == [step.name for step in STEPS]
    for (_, function), commands in dry.started.items():
        limited = [words[:3] == ["timeout", "-k", "5"] for words in commands if words[0] != "setsid"]
        assert all(limited) or function == "unpack"  # which is itself limited
    limits = {
        name: sum(int(words[3]) for words in dry.started[name, "main"] if words[0] == "timeout") for name, *_ in rows
    }
    assert {name: int(seconds) for name, _, seconds in rows} == {
        name: int(times or 1) * limits[name] for name, times, _ in rows
    }
    calls = sum(int(times or 1) for _, times, _ in rows)
    whole = START + CALL * calls + sum(int(seconds) for *_, seconds in rows)
    assert whole <= SITTING
    assert f"{calls} calls" in page
    assert f"{whole} s" in page


def test_what_comes_back(dry: Dry) -> None:
    """Logs, tables and manifests in a file for each step; no engine, no model."""
    assert sorted(os.listdir(dry.folder / "out")) == [f"{step.stem}.tar.gz" for step in (*STEPS, LEFT)]
    with tarfile.open(dry.folder / "out" / "7_int8.tar.gz") as archive:
        names = set(archive.getnames())
    assert {"./logs/pytorch-rows.log", "./logs/bars.log", "./nano.engines/fp16/engines.json"} <= names
    assert {Path(name).suffix for name in names} == {".log", ".json", ".done"}


def test_parts_are_joined_in_order(dry: Dry) -> None:
    assert (dry.folder / "joined").read_text() == "1/part\n2/part\n10/part\n"


def test_work_in_the_background(dry: Dry) -> None:
    """It runs in its copy of the tree, and says when it is done with what others wait for."""
    begun = {tuple(words[-2:]) for words in dry.all() if "nohup" in words}
    trees = {function: dry.tree(function) for _, function in BACKGROUND}
    assert begun == {(str(trees[function] / step.relative_to(REPO)), function) for step, function in BACKGROUND}
    for step, function in BACKGROUND:
        paths = {words[5].split(":")[0] for words in dry.started[step.name, function] if words[4] == "env"}
        assert paths == {f"PYTHONPATH={trees[function]}/src"}
    awaited = {words[-1] for words in dry.all() if words[-1].endswith(".done")}
    assert {Path(file).name for file in awaited} == {"pytorch-rows.done", "export.done", "builds.done", "others.done"}
    assert all(Path(file).exists() for file in awaited)


def test_each_command_goes_to_its_python(dry: Dry) -> None:
    """Programs are there, and understand their arguments as far as that can be seen without running them."""
    seen = set()
    for words in dry.all():
        if words[4:5] != ["env"]:
            continue
        path, python, *arguments = words[5:]
        assert path.endswith("/site") is (python == "the-one-with-tensorrt")
        program = arguments[1] if arguments[0] == "-m" else arguments[0]
        seen.add((python.rpartition("-")[2], program))
        if program == "sam2edge":
            cli.parse(arguments[2:])
        elif program == "tests.gpu.build":
            assert all(build.Order.parse(text).preset.limits.images in (1, 3) for text in arguments[3:])
        elif program != "pytest":
            assert (REPO / program).is_file() or (REPO / f"{program.replace('.', '/')}.py").is_file()
    ours = {"tests.gpu.smoke", "tests.gpu.build", "tests.gpu.bars", "pytest", "sam2edge", "samples/gpu_speed.py"}
    theirs = {"tests.models", "sam2edge", "samples/gpu_speed.py"}
    assert seen == {*(("tensorrt", program) for program in ours), *(("pytorch", program) for program in theirs)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_collection: None):
    """TensorRT 8.6, which the lent machine has; what a process of a build changes is undone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(product, "check_precision", product.check_precision)
    return install(monkeypatch, "8.6.0")


def answers(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return dict(re.findall(r"^ *[\d.]+ s  ([^:]+): (.*)$", capsys.readouterr().out, re.MULTILINE))


def test_smoke(fake, nano: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main(str(nano.path), str(tmp_path / "smoke")) == 0
    found = answers(capsys)
    assert list(found) == list(smoke.QUESTIONS)
    assert found["three contexts on one profile"] == "active profiles [0, -1, -1], chosen [True, True, True], errors []"
    assert found["a run against the CPU"].endswith("kept)")
    assert found["a frame resized, against the CPU"].endswith("kept)")
    assert re.fullmatch(r"the same values, \d+ µs a launch", found["runs, recorded and launched"])
    assert (tmp_path / "smoke" / "inspector.json").stat().st_size > 0


def test_smoke_asks_on(fake, nano: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recording that is refused fails by itself, and its reason is shown."""
    fake.gpu.faults.end_capture = 900
    assert smoke.main(str(nano.path), str(tmp_path / "smoke")) == 2
    printed = capsys.readouterr().out
    failed = re.findall(r"^ *[\d.]+ s  ([^:]+): FAILED$", printed, re.MULTILINE)
    assert failed == ["copies, recorded and launched", "runs, recorded and launched"]
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in printed


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build in threads of this process, which has the stand-in, and not in processes."""

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.CompletedProcess(command, build.main(command[3:]), "")
        except Exception:
            return subprocess.CompletedProcess(command, 1, traceback.format_exc())

    monkeypatch.setattr(build, "subprocess", SimpleNamespace(run=run, PIPE=None, STDOUT=None))


@pytest.fixture
def copied(nano: Bundle, nano_int8: Bundle, tmp_path: Path) -> Path:
    """A folder with bundles as the steps have them; their engines come beside them."""
    for name, bundle in (("nano", nano), ("nano-int8", nano_int8)):
        shutil.copytree(bundle.path, tmp_path / name)
    return tmp_path


def test_builds_and_their_bars(fake, inline, dry: Dry, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FP16 engines are those of tests/gpu/test_backend.py; `verify` as in the last step, and what is read from it."""
    logs = copied / "logs"
    assert build.main([str(logs), f"{copied}/nano,fp16,images=3", f"{copied}/nano-int8,int8"]) == 0
    assert capsys.readouterr().out.count("READY") == 2
    assert len(list(logs.glob("nano-fp16-*.layers.json"))) == 5
    fake.calls.clear()
    product.build(copied / "nano", preset=SMALL)
    assert fake.calls == []
    clips.write_clip(copied / "clip.mp4", clips.clip_frames(3))
    verify = next(words for words in dry.started["7_int8.sh", "main"] if "verify" in words)
    arguments = [str(copied / "nano") if word.endswith("work/nano") else word for word in verify[9:]]
    changed = {"--candidate": copied / "nano-int8", "--frames": 3, "--report": copied / "report"}
    arguments = [str(changed.get(before, word)) for before, word in zip(["", *arguments], arguments, strict=False)]
    cli.main(arguments)
    capsys.readouterr()
    bars.main([str(copied / "report" / "report.json")])
    fp16, int8 = capsys.readouterr().out.splitlines()
    judged = r"[\d.e-]+ \(bar: {}: \w+\)"
    assert re.fullmatch(
        rf"clip\.mp4, nano fp16 engines: relative error {judged.format('at most 0.005')} in \w+ \w+, jumping: .*, "
        rf"IoU with FP32 [\d.]+, lost none, J&F differs by points: -?{judged.format('at most 0.5')}",
        fp16,
    )
    assert re.fullmatch(
        rf"clip\.mp4, nano-int8 int8 engines: IoU with FP32 {judged.format('at least 0.97')}, lost none", int8
    )


def test_a_build_that_fails(fake, inline, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stops no other set, and is named; what the inspector does not say stops none."""
    fake.faults.inspector, builds = True, itertools.count()
    fake.faults.during = lambda: 1 / next(builds)
    orders = "nano,fp16", "nano,fp32", "nano-int8,fp16"
    assert build.main([str(copied / "logs"), *(f"{copied}/{order}" for order in orders)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("no engines: 1 of 5 engines failed") == 1
    assert "ZeroDivisionError" in printed
    assert "nano-int8,fp16: no engines: " in printed
    assert "WARNING: TensorRT 8.6.0 describes the engine's layers in JSON that cannot be read" in printed
    assert sum(default_directory(copied / "nano", precision).is_dir() for precision in ("fp16", "fp32")) == 1
    assert tensorrt_api.load().layers.__func__ is tensorrt_api.TensorRT.layers


def test_sets_share_their_engines(fake, inline, copied: Path) -> None:
    """Of sets that differ in the form of the attention, only that is built twice."""
    shutil.copytree(copied / "nano", copied / "fused")
    orders = "nano,fp16,attention=narrow", "fused,fp16,attention=fused"
    assert build.main([str(copied / "logs"), *(f"{copied}/{order}" for order in orders)]) == 0
    sets = [default_directory(copied / name, "fp16") for name in ("nano", "fused")]
    narrow, fused = (read_manifest(path, Bundle.open(copied / "nano")).engines for path in sets)
    assert {name for name in ENGINES if narrow[name] != fused[name]} == {MEMORY_ATTENTION}
    assert [narrow[MEMORY_ATTENTION].attention, fused[MEMORY_ATTENTION].attention] == ["narrow", "fused"]
    assert sum(call.startswith("build") for call in fake.calls) == len(ENGINES) + 1
    assert all(TensorRTBackend(path).open(copied / "nano" / "mask_decoder.onnx") for path in sets)


def test_frames_may_be_resized_on_the_host(
    fake, inline, copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set without that engine is used, and reported; `sam2edge build` does not take it for a whole one."""
    build_one = build.build_one

    def refusing(text: str, name: str, *rest: Path) -> Engine:
        if name == RESIZE:
            raise BuildError("no bytes")
        return build_one(text, name, *rest)

    monkeypatch.setattr(build, "build_one", refusing)
    assert build.main([str(copied / "logs"), f"{copied}/nano,fp16,images=3"]) == 1
    printed = capsys.readouterr().out
    assert "no bytes" in printed
    assert "FAILED: resize: exit code 2" in printed
    assert "READY" in printed
    bundle = Bundle.open(copied / "nano")
    assert TensorRTBackend().resizer(bundle.path, (240, 320)) is None
    with VideoTracker(bundle, "tensorrt") as tracker:
        tracker.track(clips.clip_frames(1)[0])
        assert tracker.prompt(1, box=(101, 47, 176, 122)).visible.all()
    fake.calls.clear()
    product.build(bundle, preset=SMALL)
    assert sum(call.startswith("build") for call in fake.calls) == len(ENGINES)


def test_a_process_of_a_build_that_dies(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without TensorRT here: the process's last words are shown."""
    with pytest.raises(build.BuildError, match=r"^resize: exit code 2\nTensorRT cannot be imported"):
        build.build_apart(f"{copied}/nano,fp16", "resize", copied / "resize.engine", copied)
