"""What clips showed, kept in files, so that a killed calibration goes on and another recipe needs no tracking.

One file for each clip. Its name is a hash of all that the content depends on: the graphs, the clip's pixels, the
recorded frames and the prompts. Histograms serve every method and recipe, so neither is part of it.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sam2edge.bundle import Bundle
from sam2edge.calibration.int8.activations import Statistics
from sam2edge.calibration.int8.histogram import BINS, Histogram
from sam2edge.calibration.measure.targets import Prompts
from sam2edge.errors import InputError
from sam2edge.files import replacing_file

_VERSION = 2
"""To be raised when what is collected changes."""


def prepare(directory: Path) -> None:
    """Make the directory. InputError, before anything is tracked, where nothing can be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise InputError(
            f"{directory}: what was tracked is to be kept there, but it cannot be written ({error.strerror}); set "
            "XDG_CACHE_HOME to another directory"
        ) from error


def key(bundle: Bundle, clip: str, record: Sequence[int], prompts: Prompts | None) -> str:
    """Hex digest. clip: sha256 of its pixels. prompts: None for automatic ones, which follow from graphs and pixels."""
    digest = hashlib.sha256()
    parts: list[object] = [_VERSION, BINS, [graph.sha256 for graph in bundle.manifest.graphs.values()], clip, *record]
    if prompts is not None:
        parts += [
            # as a list, since numpy leaves out the middle of a large array
            (object_id, name, value.tolist() if isinstance(value, np.ndarray) else value)
            for object_id, prompt in prompts.items()
            for name, value in prompt.arguments.items()
        ]
    for part in parts:
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()


def write(file: Path, statistics: Statistics) -> None:
    """Write the statistics to a file, which appears whole or not at all."""
    rows = [(graph, name, histogram) for graph, found in statistics.items() for name, histogram in found.items()]
    with replacing_file(file) as new, new.open("wb") as stream:
        np.savez_compressed(
            stream,
            names=np.array([(graph, name) for graph, name, _ in rows]),
            reach=np.array([(histogram.largest, histogram.limit) for *_, histogram in rows]),
            counts=np.array([histogram.counts for *_, histogram in rows]),
        )


def read(file: Path) -> Statistics | None:
    """What was written; None where there is nothing, or nothing that can be read."""
    try:
        with file.open("rb") as stream, np.load(stream) as data:
            names, reach, counts = data["names"].tolist(), data["reach"].tolist(), data["counts"]
    except Exception:  # numpy's, zipfile's and zlib's own, whichever meets the damage
        return None
    statistics: Statistics = {}
    for (graph, name), (largest, limit), row in zip(names, reach, counts, strict=True):
        statistics.setdefault(graph, {})[name] = Histogram(largest, limit, row)
    return statistics
