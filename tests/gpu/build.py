"""Build engines of several bundles side by side, each in a process of its own: on a lent machine minutes are short.

    python -m tests.gpu.build LOGS BUNDLE,PRECISION[,attention=FORM][,LIMIT=N …] …

What several sets have in common is built once, so that they differ in nothing else. An engine has a line when it is
done, and a set is in BUNDLE.engines/PRECISION as soon as all of its engines are; one that fails stops no other, and
without the one that resizes frames a set is used all the same. Layers that have another precision than was asked for,
or that cannot be read, are reported here and refuse no engine: what it computes is compared afterwards. LOGS gets what
TensorRT says of every layer.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2edge import Bundle, Sam2EdgeError, bundle as bundles
from sam2edge.bundle.engines import (
    MEMORY_ATTENTION,
    RESIZE,
    Engine,
    Limits,
    check_replaceable,
    default_directory,
)
from sam2edge.engines import build as product
from sam2edge.engines.build import EngineBuilder
from sam2edge.engines.layer_precision import check_precision
from sam2edge.engines.profiles import PRESETS, Preset
from sam2edge.errors import BuildError, EngineError
from sam2edge.runtime.backends.tensorrt_api import Shape

ONE = "--one"
PROCESSES = 32
"""More than any step builds engines at a time."""


@dataclass(frozen=True)
class Order:
    """A set of engines to build."""

    bundle: Path
    precision: str
    attention: str | None
    preset: Preset

    @staticmethod
    def parse(text: str) -> Order:
        """Read an order as the command line has it; limits are those of the desktop profile unless they are given."""
        bundle, precision, *options = text.split(",")
        given = dict(option.split("=") for option in options)
        attention = given.pop("attention", None)
        limits = Limits(**{name: int(number) for name, number in given.items()})
        return Order(Path(bundle), precision, attention, dataclasses.replace(PRESETS["desktop"], limits=limits))


def report_precision(name: str, requested: str, counts: Mapping[str, int], quantized: int = 0) -> None:
    """Print what the product's check would refuse."""
    try:
        check_precision(name, requested, counts, quantized)
    except BuildError as error:
        print(f"WARNING: {error}", flush=True)


def described(layers: Callable[..., list[dict[str, Any]]], file: Path) -> Callable[..., list[dict[str, Any]]]:
    """Make a `TensorRT.layers` that writes them into a file, and has none where they cannot be read."""

    def described_layers(engine: Any, shapes: Mapping[str, Shape]) -> list[dict[str, Any]]:
        try:
            found = layers(engine, shapes)
        except EngineError as error:
            print(f"WARNING: {error}", flush=True)
            return []
        file.write_text(json.dumps(found, indent=1))
        return found

    return described_layers


def build_one(text: str, name: str, file: Path, logs: Path) -> Engine:
    """Build one engine of an order in this process, which from then on only reports precisions."""
    order = Order.parse(text)
    builder = EngineBuilder.here(order.preset)
    layers = logs / f"{order.bundle.name}-{order.precision}-{name}.layers.json"
    builder.api.layers = described(builder.api.layers, layers)
    product.check_precision = report_precision
    bundle = Bundle.open(order.bundle)
    return builder.build(bundle, name, order.precision, file, lambda *_: None, attention=order.attention)


def build_apart(text: str, name: str, file: Path, logs: Path) -> Engine:
    """Build one engine in a process of its own, and print how that went; BuildError if it failed."""
    command = [sys.executable, "-m", "tests.gpu.build", ONE, text, name, str(file), str(logs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{name}: exit code {done.returncode}\n{done.stdout.strip()}")
    engine: Engine = pickle.loads(file.with_suffix(".pickle").read_bytes())
    file.with_suffix(".pickle").unlink()
    sizes = f"{engine.bytes >> 20} MiB, activations {engine.activation_bytes >> 20} MiB, layers {engine.layers}"
    print(f"{text} {name}: {engine.seconds:.0f} s, {sizes}\n{done.stdout}".strip(), flush=True)
    return engine


class Builds:
    """The engines that were begun, each in a process of its own, with their files in one folder."""

    def __init__(self, folder: Path, logs: Path, threads: ThreadPoolExecutor) -> None:
        self._folder, self._logs, self._threads = folder, logs, threads
        self._lock, self._begun = threading.Lock(), dict[Hashable, Future[tuple[Path, Engine]]]()

    def begin(self, text: str, name: str) -> Future[tuple[Path, Engine]]:
        """Return the engine's file and entry in the future, or BuildError for every set that has it."""
        order = Order.parse(text)
        bundle = Bundle.open(order.bundle)
        graph = bundle.model if name == RESIZE else bundle.graph(name).sha256
        form = order.attention if name == MEMORY_ATTENTION else None
        with self._lock:
            key = name, graph, form, order.precision, order.preset
            if key not in self._begun:
                file = self._folder / f"{len(self._begun)}.engine"
                self._begun[key] = self._threads.submit(lambda: (file, build_apart(text, name, file, self._logs)))
            return self._begun[key]


def build_set(text: str, builds: Builds) -> bool:
    """Build all engines of an order and put them in their place; tell whether that worked."""
    order, failed, engines = Order.parse(text), set[str](), dict[str, Engine]()
    try:
        bundle = Bundle.open(order.bundle)
        directory = default_directory(bundle.path, order.precision)
        product.check_bundle_precision(bundle, order.precision)
        building = {name: builds.begin(text, name) for name in (*bundle.graph_names, RESIZE)}
        with bundles.replacing(directory, check_replaceable) as new:
            for name, future in building.items():
                try:
                    file, engine = future.result()
                except BuildError as error:
                    print(f"{text} FAILED: {error}", flush=True)
                    failed.add(name)
                else:
                    engines[name] = dataclasses.replace(engine, file=f"{name}.engine")
                    shutil.copy(file, new / f"{name}.engine")
            if failed - {RESIZE}:
                raise BuildError(f"{len(failed)} of {len(building)} engines failed")
            EngineBuilder.here(order.preset).finished(new, order.precision, engines)
    except Sam2EdgeError as error:
        print(f"{text}: no engines: {error}", flush=True)
        return False
    print(f"{text}: READY, {directory}", flush=True)
    return not failed


def main(arguments: Sequence[str]) -> int:
    """Build what the arguments say; return 1 if any set failed, and 2 for one engine after its error."""
    if arguments[0] == ONE:
        text, name, file, logs = arguments[1:]
        try:
            engine = build_one(text, name, Path(file), Path(logs))
        except Sam2EdgeError as error:
            print(error)  # a traceback of each would hide the others
            return 2
        Path(file).with_suffix(".pickle").write_bytes(pickle.dumps(engine))
        return 0
    logs, *orders = arguments
    Path(logs).mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(PROCESSES) as processes,
        ThreadPoolExecutor(len(orders)) as threads,
    ):
        builds = Builds(Path(folder), Path(logs), processes)
        return 0 if all(list(threads.map(lambda text: build_set(text, builds), orders))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
