"""Fixtures that several folders of tests share."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

from sam2edge import Bundle
from sam2edge.files import sha256
from sam2edge.runtime.model.prompts import Prompt
from tests.sessions import Remembering

if TYPE_CHECKING:
    from sam2edge.calibration.measure.targets import Prompts

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"
NANO = REPO / "samples" / "nano"
WORD_DETECTOR = REPO / "samples" / "words"
ALL = bool(os.environ.get("SAM2EDGE_CONFORMANCE"))
"""Whether every family of models goes every way to its end, alike as they may be: `make conformance`."""

gc.set_threshold(100_000, 20, 20)  # PyTorch and transformers make a million objects, which were looked through for long

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_configure() -> None:
    """Give each process of pytest-xdist its share of the cores.

    ONNX Runtime takes as many threads as there are cores. Two processes with two threads each on two cores take half as
    much processor time again as with one each.
    """
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
        cores, count = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        if count <= len(cores):
            os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) :: count])


LONG = (
    "test_compiler.py", "test_tracker.py", "test_samples.py", "test_ray.py", "test_efficienttam.py",
    "test_video_predictor.py", "test_low_precision.py", "test_source.py", "test_predictor.py", "test_build.py",
    "test_exclude.py", "test_commands.py", "test_edgetam.py", "test_docs.py", "test_calibrate.py", "test_soak.py",
    "test_page.py", "test_mask_generator.py", "test_cases.py", "test_checked_build.py", "test_images.py",
    "test_device.py", "test_server.py", "test_engines.py", "test_exporter.py", "test_follower.py", "test_report.py",
    "test_tensorrt.py", "test_rewrites.py", "test_gpu_steps.py", "test_runs.py", "test_sensitivity.py",
)  # fmt: skip
"""Files that take long, which come first: at the end one of them would keep one process busy and others waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@functools.cache
def _digest(file: Path, state: tuple[int, ...]) -> str:
    return sha256(file)


def content(file: Path) -> str:
    """Return the sha256 of a file, read once until it changes: bundles are copied and calibrated again and again."""
    status = file.stat()
    return _digest(file.resolve(), (status.st_ino, status.st_size, status.st_mtime_ns))


@pytest.fixture(scope="session", autouse=True)
def shared_sessions() -> Iterator[None]:
    """Open each graph once in a process, and run it once for the same inputs: many tests track the same clip.

    Fresh processes, in which memory and time are measured, open their own sessions. So do tests that give a number of
    threads to a stand-in.
    """
    import onnxruntime

    from sam2edge.runtime.backends import onnx

    real, genuine = onnx.new_session, onnxruntime.InferenceSession

    @functools.lru_cache(maxsize=48)
    def opened(digest: str, kind: object, threads: int | None) -> Any:
        session = real(files[digest], "CPUExecutionProvider", {}, threads=threads)
        return Remembering(session, (digest, kind, threads))

    files: dict[str, Path] = {}

    def new_session(graph: Path, provider: str, *options: Any, threads: int | None = None) -> Any:
        kind = onnxruntime.InferenceSession  # of which tests may make a stand-in
        own = threads is not None and kind is not genuine
        if own or provider != "CPUExecutionProvider" or options != ({},) or not graph.is_file():
            return real(graph, provider, *options, threads=threads)
        files[digest := content(graph)] = graph
        return opened(digest, kind, threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "new_session", new_session)
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_graphs() -> Iterator[None]:
    """Prepare each graph for TensorRT once in a process: it follows from the graph's file and a few words alone."""
    from sam2edge.engines import build

    real, prepared = build._prepare, dict[object, Any]()

    def prepare(bundle: Bundle, graph: str, *words: Any) -> Any:
        state = bundle.model if graph == build.RESIZE else content(bundle.graph_path(graph))
        key = graph, state, build.rewrite, *words  # of which tests may make a stand-in
        if key not in prepared:
            prepared[key] = real(bundle, graph, *words)
        return prepared[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_prepare", prepare)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real clips and photograph that are not part of the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED / 'data'} is not there: real clips and photograph are not in the repository")
    return SHARED / "data"


@pytest.fixture(scope="session")
def bedroom(shared_data: Path) -> npt.NDArray[np.uint8]:
    """Every second of the first 64 frames of a real clip: uint8 [32,540,960,3]."""
    from sam2edge.runtime.media.sources import VideoSource

    with VideoSource(shared_data / "bedroom.mp4") as source:
        return np.stack(list(islice(source, 0, 64, 2)))


@pytest.fixture(scope="module")
def quick_collection() -> Iterator[None]:
    """Let `gc.collect()` look only at what the file's tests make: with PyTorch loaded it takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def gpu(quick_collection: None) -> Iterator[Any]:
    """A stand-in for the GPU of this machine (tests/fake_gpu.py); it must have lost nothing at the end."""
    from tests.fake_gpu import new_gpu

    made = new_gpu()
    with pytest.MonkeyPatch.context() as patch:  # of its own, for tests that undo theirs
        made.install(patch)
        yield made
        gc.collect()
        made.check()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Return a function that lets `make` fill a folder once for all processes of pytest-xdist; do not write into it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = base / name
        with FileLock(base / f"{name}.lock"):
            if not folder.exists():
                make(base / f"{name}.part")
                (base / f"{name}.part").rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def nano(made_once: MadeOnce) -> Bundle:
    """The bundled model, exported. $SAM2EDGE_NANO: one that was exported where PyTorch is."""
    if ready := os.environ.get("SAM2EDGE_NANO"):
        return Bundle.open(ready)
    from sam2edge.export import export

    return Bundle.open(made_once("nano", lambda folder: export(NANO, folder)))


@pytest.fixture(scope="session")
def pooled(made_once: MadeOnce) -> Bundle:
    """The bundled model with memory tokens pooled 2×2."""
    from sam2edge.export import export

    return Bundle.open(made_once("pooled", lambda folder: export(NANO, folder, memory_pool=2)))


@pytest.fixture(scope="session")
def wary(made_once: MadeOnce) -> Bundle:
    """The bundled model, which sees doubtful objects as absent; its checkpoint is the folder "model" beside it."""
    from tests.models import write_wary_nano

    return _with_checkpoint(made_once, "wary", write_wary_nano)


@pytest.fixture(scope="session")
def nano_2_0(made_once: MadeOnce) -> Bundle:
    """The bundled model as a SAM 2.0; its checkpoint is the folder "model" beside it."""
    from tests.models import write_nano_2_0

    return _with_checkpoint(made_once, "nano-2-0", write_nano_2_0)


def _with_checkpoint(made_once: MadeOnce, name: str, write: Callable[[Path], Path]) -> Bundle:
    from sam2edge.export import export

    return Bundle.open(made_once(name, lambda folder: export(write(folder / "model"), folder / "bundle")) / "bundle")


@pytest.fixture(scope="session")
def tiny_model(made_once: MadeOnce) -> Path:
    """The checkpoint of a randomly initialised SAM 2.1 tiny at 256."""
    from tests.models import write_random

    return made_once("tiny-model", lambda folder: write_random(folder, 256))


@pytest.fixture(scope="session")
def tiny(made_once: MadeOnce, tiny_model: Path) -> Bundle:
    """That model, exported."""
    from sam2edge.export import export

    return Bundle.open(made_once("tiny", lambda folder: export(tiny_model, folder)))


@pytest.fixture(scope="session")
def edgetam_model(made_once: MadeOnce) -> Path:
    """The checkpoint of a randomly initialised EdgeTAM at 256."""
    from tests.models import write_edgetam

    return made_once("edgetam-model", lambda folder: write_edgetam(folder, 256))


@pytest.fixture(scope="session")
def edgetam(made_once: MadeOnce, edgetam_model: Path) -> Bundle:
    """That model, exported."""
    from sam2edge.export import export

    return Bundle.open(made_once("edgetam", lambda folder: export(edgetam_model, folder)))


@pytest.fixture(scope="session")
def efficienttam_1(made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A made-up EfficientTAM ti_1, whose keys are pooled, exported at 256."""
    from sam2edge.export import export
    from tests.unit.export.efficienttam_layout import write_checkpoint

    def make(folder: Path) -> None:
        export(write_checkpoint(tmp_path_factory.mktemp("ti_1"), "ti_1"), folder, image_size=256)

    return Bundle.open(made_once("efficienttam-1", make))


@pytest.fixture(scope="session")
def efficienttam(made_once: MadeOnce, efficienttam_1: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """EfficientTAM ti with the same weights."""
    from sam2edge.export.source import load_source
    from tests.models import write_variant
    from tests.unit.export.efficienttam_layout import write_checkpoint

    def make(folder: Path) -> None:
        source = load_source(write_checkpoint(tmp_path_factory.mktemp("ti"), "ti"), image_size=256)
        write_variant(efficienttam_1, source, folder)

    return Bundle.open(made_once("efficienttam", make))


@pytest.fixture(scope="session")
def owl_model(made_once: MadeOnce) -> Callable[[str], Path]:
    """Return a function that gives the checkpoint of a random "owlv2" or "owlvit" at 96, two layers deep."""
    from tests.models import write_owl

    return lambda kind: made_once(f"{kind}-model", lambda folder: write_owl(folder, kind, 96))


@pytest.fixture(scope="session")
def with_words(made_once: MadeOnce, nano: Bundle, owl_model: Callable[[str], Path]) -> Callable[[str], Bundle]:
    """Return a function that gives the bundled model with such a word detector."""
    from sam2edge.export.words import export_words

    def made(kind: str) -> Bundle:
        def make(folder: Path) -> None:
            shutil.copytree(nano.path, folder, copy_function=os.link)
            export_words(owl_model(kind), folder)

        return Bundle.open(made_once(f"nano-{kind}", make))

    return made


@pytest.fixture(scope="session")
def shapes(made_once: MadeOnce, nano: Bundle) -> Bundle:
    """The bundled model with the bundled word detector, which knows drawn shapes. $SAM2EDGE_SHAPES: one made before."""
    if ready := os.environ.get("SAM2EDGE_SHAPES"):
        return Bundle.open(ready)
    from sam2edge.export.words import export_words

    def make(folder: Path) -> None:
        shutil.copytree(nano.path, folder, copy_function=os.link)
        export_words(WORD_DETECTOR, folder)

    return Bundle.open(made_once("nano-shapes", make))


@pytest.fixture(scope="session")
def nano_words(with_words: Callable[[str], Bundle]) -> Bundle:
    """The bundled model with a random OWLv2 at 96; its tokenizer knows "red", "cup" and "cat" as tokens, else bytes."""
    return with_words("owlv2")


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    """The prompts of the bundled clip's objects on its first frame."""
    clip = json.loads((REPO / "samples" / "clip.json").read_text())
    return {int(object_id): Prompt(**prompt) for object_id, prompt in clip["prompts"].items()}


@pytest.fixture(scope="session")
def int8_of(
    prompts: Prompts, made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Bundle, int], Bundle]:
    """Return a function that makes a bundle INT8 by so many of the bundled clip's first frames."""
    from sam2edge.calibration.int8.calibrate import calibrate
    from tests.helpers import clip_frames, write_frames

    def made(bundle: Bundle, frames: int) -> Bundle:
        def make(folder: Path) -> None:
            work = tmp_path_factory.mktemp("int8")
            write_frames(work / "frames", clip_frames(frames))
            calibrate(bundle, folder, [work / "frames"], [prompts], frames=16, gate=None, cache=work / "cache")

        return Bundle.open(made_once(f"{bundle.path.name}-int8", make))

    return made


@pytest.fixture(scope="session")
def nano_int8(nano: Bundle, int8_of: Callable[[Bundle, int], Bundle]) -> Bundle:
    """The bundled model in INT8."""
    return int8_of(nano, 32)


@pytest.fixture(scope="session")
def edgetam_int8(edgetam: Bundle, int8_of: Callable[[Bundle, int], Bundle]) -> Bundle:
    return int8_of(edgetam, 6)


@pytest.fixture(scope="session")
def efficienttam_int8(efficienttam: Bundle, int8_of: Callable[[Bundle, int], Bundle]) -> Bundle:
    return int8_of(efficienttam, 6)


@pytest.fixture(scope="session")
def wide_int8(nano_int8: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same with eight times one range of the mask decoder."""
    from tests.models import write_widened

    directory = tmp_path_factory.mktemp("wide") / "wide"
    return write_widened(nano_int8, directory, "mask_decoder", "/hypernetworks.0/activation/Relu_output_0")


@pytest.fixture(scope="session")
def half(nano: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundled model with weights rounded to float16; do not write into it."""
    from tests.models import halved, write_changed

    return write_changed(nano, tmp_path_factory.mktemp("half") / "half", halved)


@pytest.fixture(scope="session")
def broken(nano: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundled model with a memory attention that is wrong; do not write into it."""
    from tests.models import overdriven, write_changed

    return write_changed(nano, tmp_path_factory.mktemp("broken") / "broken", overdriven)
