"""The TensorRT engines of a bundle: engines.json, and whether engines may be loaded on this machine.

Loading an engine runs its code, and one for another GPU or TensorRT may also compute wrong values. So engines are
checked against their bundle, the machine and their hash before TensorRT sees a byte of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge import checks
from sam2edge.bundle import GRAPHS, Bundle
from sam2edge.bundle.words import DETECTOR
from sam2edge.errors import DamagedEngineError, EngineError, InputError, StaleEngineError
from sam2edge.files import user_path

FORMAT = "sam2edge-engines"
SCHEMA = 4
RESIZE = "resize"
"""Name of the graph that resizes frames (engines/resize.py)."""
RESIZE_WINDOWS = 16
"""Blocks of its output's rows, and of its columns; each block reads a window of the frame."""
MEMORY_ATTENTION = "memory_attention"
"""Name of the graph that has several forms (engines/rewrites.py)."""
ENGINES = (*GRAPHS, RESIZE)
"""Names of the bundle's graphs and the one that resizes frames, of which every bundle has engines."""
MANIFEST = "engines.json"
CACHE_SUFFIX = ".cache"
"""Of the file beside an engine that holds kernels compiled at its first use (runtime/backends/runtime_cache.py)."""
PREFERENCE = ("auto", "fp16", "int8", "bf16", "fp32")
"""The order in which the engines of a bundle are looked for. "auto" was measured on this GPU."""
TENSORRT = "tensorrt"
RTX = "tensorrt-rtx"
_FOLDERS = {TENSORRT: "", RTX: "rtx"}
"""Where the engines of each product are, below BUNDLE.engines."""


@dataclass(frozen=True)
class Limits:
    """The largest inputs that engines accept, and the usual number of objects; InputError for a value below 1.

    Attributes:
        objects: Objects that are tracked at a time.
        usual_objects: For how many objects kernels are chosen, at most `objects`.
        conditioning_frames: VideoTracker's max_conditioning_frames.
        prompts: Prompts in one run of the mask decoder on images (AutomaticMaskGenerator's points_per_batch).
        points: Points of one prompt; a box counts as two.
        images: Images in one run of the image encoder.
        side: Rows and columns of frames that are resized on the GPU; larger frames are resized on the host.
        words: Words in one run of the word detector, those to reject included.
    """

    objects: int = 16
    usual_objects: int = 1
    conditioning_frames: int = 1
    prompts: int = 64
    points: int = 16
    images: int = 1
    side: int = 1920
    words: int = 32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            checks.integer(field.name, getattr(self, field.name), 1)
        if self.usual_objects > self.objects:
            raise InputError(
                f"usual_objects must be at most the largest number of objects, {self.objects}, but got "
                f"{self.usual_objects}"
            )


@dataclass(frozen=True)
class Target:
    """What engines are built for, or the machine that is to run them.

    Attributes:
        product: TENSORRT or RTX, the name of the backend that runs the engines.
        version: The product's version.
        gpu: Name of the GPU, "" for any of the compute capabilities. All Orins have one name.
        multiprocessors: Their number in the GPU, 0 for any.
        board: Model of the board, where the machine says what it is (a Jetson does), or "".
        compute_capabilities: Of the GPU, or of all GPUs that engines are built for.
    """

    product: str
    version: str
    gpu: str
    multiprocessors: int
    board: str
    compute_capabilities: tuple[str, ...]

    def __str__(self) -> str:
        capabilities = ", ".join(self.compute_capabilities)
        return f"{self.product} {self.version}, {self.hardware or 'any GPU'}, compute capability {capabilities}"

    @property
    def hardware(self) -> str:
        """What kernels are chosen for: the GPU and its board; "" for any GPU."""
        if not self.gpu:
            return ""
        return f"{self.gpu} with {self.multiprocessors} multiprocessors" + (f" on {self.board}" if self.board else "")

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Target:
        """Read a target of a JSON file; TypeError or KeyError."""
        return Target(**{**data, "compute_capabilities": tuple(map(str, data["compute_capabilities"]))})

    def mismatches(self, here: Target) -> list[str]:
        """Say why engines for this target do not run on another one, in parts of a sentence."""
        reasons = []
        if (self.product, self.version) != (here.product, here.version):
            reasons.append(f"built for {self.product} {self.version} but this is {here.product} {here.version}")
        other_gpu = (self.gpu, self.multiprocessors) != (here.gpu, here.multiprocessors)
        other_board = self.board and here.board and self.board != here.board  # a container may hide it
        if self.gpu and (other_gpu or other_board):
            same_board = self.gpu == here.gpu and here.board and not other_board
            mode = " (in another power mode? see `nvpmodel -q`)" if same_board else ""
            reasons.append(f"built for GPU {self.hardware} but this is {here.hardware}{mode}")
        if not set(self.compute_capabilities).issuperset(here.compute_capabilities):
            built, actual = ", ".join(self.compute_capabilities), ", ".join(here.compute_capabilities)
            reasons.append(f"built for compute capability {built} but this is {actual}")
        return reasons


@dataclass(frozen=True)
class Tensor:
    """An input or output: its numpy dtype name, and for dynamic inputs the smallest, usual and largest shape."""

    dtype: str
    profile: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Engine:
    """One engine file.

    Attributes:
        attention: The form of the memory attention, "fused" or "narrow"; "" for other graphs.
        graph_sha256: Hash of the ONNX file that it was built from.
        layers: Number of computing layers by precision, as the engine reports them.
        small_weights: How many weights FP16 or BF16 turned to 0 ("zero") or holds with fewer bits ("subnormal").
        activation_bytes: Memory that running it takes beside its weights.
    """

    file: str
    sha256: str
    bytes: int
    precision: str
    attention: str
    graph_sha256: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    layers: dict[str, int]
    small_weights: dict[str, int]
    activation_bytes: int
    seconds: float


@dataclass(frozen=True)
class EngineManifest:
    """The content of engines.json. With precision "auto" each engine has its own."""

    precision: str
    target: Target
    limits: Limits
    workspace: int
    engines: dict[str, Engine]


def default_directory(bundle: Path, precision: str, product: str = TENSORRT) -> Path:
    """Return where the engines of a bundle are looked for: BUNDLE.engines/PRECISION, or for RTX in its folder `rtx`.

    They are beside the bundle and not in it, since engines belong to some machines, while bundles are copied between
    all machines and may be read-only, and since an unlisted file in a bundle is an error.
    """
    bundle = bundle.resolve()
    return bundle.with_name(f"{bundle.name}.engines") / _FOLDERS[product] / precision


def engine_directories(bundle: Path, product: str = TENSORRT) -> list[Path]:
    """Return the directories with a bundle's engines for a product, in order of preference."""
    directories = (default_directory(bundle, precision, product) for precision in PREFERENCE)
    return [directory for directory in directories if (directory / MANIFEST).is_file()]


@dataclass(frozen=True)
class Engines:
    """Engines that may be loaded on this machine for this bundle. None of them was loaded yet."""

    path: Path
    manifest: EngineManifest

    @staticmethod
    def open(path: str | os.PathLike[str], bundle: Bundle, target: Target) -> Engines:
        """Check engines.json against the bundle, the machine and the sizes of the files, not yet their hashes.

        Raises StaleEngineError or DamagedEngineError; each says how to build them again.
        """
        directory = user_path(path)
        manifest = read_manifest(directory, bundle)
        unmet = set(target.compute_capabilities).difference(manifest.target.compute_capabilities)
        command = build_command(bundle.path, target.product, unmet)
        again = f"build them again with `{command} --precision {manifest.precision}`"
        if reasons := _stale(manifest, bundle, target):
            raise StaleEngineError(f"{directory}: {'; '.join(reasons)}; {again}")
        for engine in manifest.engines.values():
            file = directory / engine.file
            if not file.is_file():
                raise DamagedEngineError(f"{file}: missing; {again}")
            if (size := file.stat().st_size) != engine.bytes:
                raise DamagedEngineError(f"{file}: {size} bytes, but {MANIFEST} says {engine.bytes}; {again}")
        return Engines(directory, manifest)

    def read(self, graph: str) -> bytes:
        """Return the serialised engine of a graph; DamagedEngineError unless its hash is right."""
        engine = self.manifest.engines[graph]
        content = (self.path / engine.file).read_bytes()
        if hashlib.sha256(content).hexdigest() != engine.sha256:
            raise DamagedEngineError(
                f"{self.path / engine.file}: its sha256 is not the one in {MANIFEST}; build the engines again with "
                "`sam2edge build --force`"
            )
        return content


def _stale(manifest: EngineManifest, bundle: Bundle, target: Target) -> list[str]:
    reasons = manifest.target.mismatches(target)
    # the engines of an INT8 bundle may be built from the FP32 graphs it was made from, where those were faster
    calibration = bundle.manifest.calibration
    origin = calibration.source if calibration else {}
    changed = [
        name
        for name in GRAPHS
        if manifest.engines[name].graph_sha256 not in (bundle.manifest.graphs[name].sha256, origin.get(name))
    ]
    return reasons + ([f"built from another {', '.join(changed)}.onnx than is in {bundle.path}"] if changed else [])


def build_command(bundle: Path, product: str, capabilities: Collection[str] = ()) -> str:
    """Return the command that builds engines of a bundle for a product, and for GPUs of compute capabilities."""
    asked = f" --compute-capability {' '.join(sorted(capabilities))}" if capabilities else ""
    return f"sam2edge build {bundle}" + (f" --for rtx{asked}" if product == RTX else "")


def read_manifest(directory: Path, bundle: Bundle) -> EngineManifest:
    """Read engines.json without checking the engines; DamagedEngineError."""
    file = directory / MANIFEST
    if not file.is_file():
        raise DamagedEngineError(f"{file}: missing; build engines with `sam2edge build {bundle.path}`")
    try:
        data = json.loads(file.read_bytes())
        if data["format"] != FORMAT or data["schema"] != SCHEMA:
            raise ValueError(f"format {data['format']!r}, schema {data['schema']!r}")
        manifest = _manifest_from(data)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RecursionError) as error:
        raise DamagedEngineError(
            f"{file}: not a manifest of engines that this sam2edge reads ({error!r}); build them again with "
            f"`sam2edge build {bundle.path}`"
        ) from error
    for engine in manifest.engines.values():
        if Path(str(engine.file)).name != engine.file:
            raise DamagedEngineError(f"{file}: lists {engine.file!r}, which lies outside {directory}")
    return manifest


def _manifest_from(data: dict[str, Any]) -> EngineManifest:
    engines = {}
    for name in (*GRAPHS, *(other for other in (RESIZE, DETECTOR) if other in data["engines"])):
        engine = dict(data["engines"][name])
        for side in ("inputs", "outputs"):
            engine[side] = {tensor: _tensor(fields) for tensor, fields in engine[side].items()}
        engines[name] = Engine(**{**engine, "sha256": str(engine["sha256"])})
    target, limits = Target.from_json(data["target"]), Limits(**data["limits"])
    return EngineManifest(str(data["precision"]), target, limits, int(data["workspace"]), engines)


def _tensor(fields: dict[str, Any]) -> Tensor:
    profile = tuple(tuple(map(int, shape)) for shape in fields["profile"])
    if len(profile) not in (0, 3) or len({len(shape) for shape in profile}) > 1:
        raise ValueError(f"profile {fields['profile']!r}")
    return Tensor(str(fields["dtype"]), profile)


def write_manifest(directory: Path, manifest: EngineManifest) -> None:
    """Write engines.json into a directory."""
    data = {"format": FORMAT, "schema": SCHEMA, **dataclasses.asdict(manifest)}
    (directory / MANIFEST).write_text(json.dumps(data, indent=2) + "\n")


def check_replaceable(out: Path) -> None:
    """Raise EngineError if anything but engines, whole or damaged, is at `out`."""
    if not out.exists():
        return
    foreign = sorted(entry.name for entry in out.iterdir() if not _is_ours(entry)) if out.is_dir() else [out.name]
    if foreign:
        raise EngineError(
            f"{out}: exists but does not hold engines (unexpected {foreign[0]}); give another path or remove it"
        )


def _is_ours(entry: Path) -> bool:
    """Tell whether a file is one of a build or of a runtime cache, also half of one that a killed process left."""
    name = entry.name.lstrip(".").partition(".")[0]
    return entry.name == MANIFEST or (name in (*ENGINES, DETECTOR) and entry.suffix in (".engine", CACHE_SUFFIX))
