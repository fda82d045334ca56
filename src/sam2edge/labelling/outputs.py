"""What an item becomes: its labels as JSON lines or Parquet, its label images, and what a person should look at.

Labels of either format are the lines that `track --json` and `segment --json` write. `read_frames` reads both.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sam2edge.errors import BackendError, MediaError
from sam2edge.files import finite
from sam2edge.labelling import LABEL_IMAGE_LAYOUTS
from sam2edge.labelling.items import Doubtful, Item, Record, Settings
from sam2edge.labelling.store import LABELS, Store
from sam2edge.runtime.media.mask_files import encode_labels
from sam2edge.runtime.media.sinks import frame_record, label_image
from sam2edge.runtime.model.result import FrameResult

MASKS = "masks"
_MAX_DOUBTFUL, _SPAN = 20, 25
"""Frames of an item that are noted, at most one for each object in so many frames, and how many of these there are."""
_SURE = 0.7
"""The score from which nobody has to look."""
_ROWS, _CHARACTERS = 2000, 4 << 20
"""Rows, and characters of their run lengths, that wait until they are written."""
_COLUMNS = {
    "source": "string",
    "frame_index": "int32",
    "time": "float64",
    "height": "int32",
    "width": "int32",
    "id": "int32",
    "word": "string",
    "score": "float64",
    "counts": "string",
    "x": "int32",
    "y": "int32",
    "w": "int32",
    "h": "int32",
    "iou": "float64",
    "object_score": "float64",
    "stability": "float64",
    "visible": "bool",
    "state": "string",
}
"""Parquet's columns (docs/reference/manifests.md). A frame without objects is a row without an id."""
_BOX = "xywh"
_OF_OBJECT = ("id", "word", "score", "iou", "object_score", "stability", "visible", "state")
_MAY_BE_NULL = ("iou", "object_score")
"""Of a video's objects, where they are not finite."""


class Outputs:
    """Writes what one item becomes into its staging folder.

    Attributes:
        frames: Frames or images that were written.
        objects: How many objects they had in all: those of a video by their ids.
    """

    def __init__(self, folder: Path, item: Item, settings: Settings) -> None:
        self._item = item
        self._masks: Path | None = None
        (folder / LABELS).mkdir()
        self._lines: _JsonLines | _Parquet = _FORMATS[settings.format](folder / LABELS / item.key)
        if item.kind == "video" and set(settings.layouts).intersection(LABEL_IMAGE_LAYOUTS):
            self._masks = folder / MASKS / item.key
            self._masks.mkdir(parents=True)
        self._ids: set[int] = set()
        self._doubts = _Doubts(item.sources[0])
        self.frames = self.objects = 0

    def add_frame(self, result: FrameResult) -> None:
        """Write a frame of a video."""
        self._lines.add(self._item.sources[0], frame_record(result))
        if self._masks:
            labels = label_image(result.frame_size, result.object_ids, result.patches())
            (self._masks / f"{result.frame_index:05d}.png").write_bytes(encode_labels(labels, indexed=True))
        self._doubts.add(result)
        self._ids.update(result.object_ids)
        self.frames, self.objects = self.frames + 1, len(self._ids)

    def add_image(self, source: str, size: tuple[int, ...], objects: list[dict[str, Any]]) -> None:
        """Write an image, with what `Segment.record` says of each object."""
        self._lines.add(source, {"image": source, "size": list(size), "objects": objects})
        for found in objects:
            self._doubts.note(source, 0, found["id"], _product(found["predicted_iou"], found["stability_score"]))
        self.frames, self.objects = self.frames + 1, self.objects + len(objects)

    def doubtful(self) -> tuple[Doubtful, ...]:
        """Return the frames that a person should look at, the worst one first."""
        return self._doubts.worst()

    def close(self) -> None:
        """Finish the labels."""
        self._lines.close()


class _JsonLines:
    suffix = ".jsonl"

    def __init__(self, stem: Path) -> None:
        self._file = stem.with_name(stem.name + self.suffix).open("w", encoding="ascii")

    def add(self, source: str, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    suffix = ".parquet"

    def __init__(self, stem: Path) -> None:
        self._pyarrow = pyarrow = _load_pyarrow()
        fields = [(name, getattr(pyarrow, kind if kind != "bool" else "bool_")()) for name, kind in _COLUMNS.items()]
        self._schema = pyarrow.schema(fields)
        path = stem.with_name(stem.name + self.suffix)
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def add(self, source: str, line: dict[str, Any]) -> None:
        height, width = line["size"]
        frame = {"source": source, "frame_index": line.get("frame_index"), "time": line.get("time")}
        frame |= {"height": height, "width": width}
        rows = [_row(found) for found in line["objects"]] or [{}]
        self._rows += [{**frame, **row} for row in rows]
        self._characters += sum(len(row.get("counts", "")) for row in rows)
        if len(self._rows) >= _ROWS or self._characters >= _CHARACTERS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_batch(self._pyarrow.RecordBatch.from_pylist(self._rows, self._schema))
        self._rows.clear()
        self._characters = 0


_FORMATS: Mapping[str, type[_JsonLines] | type[_Parquet]] = {"jsonl": _JsonLines, "parquet": _Parquet}


def check_format(settings: Settings) -> None:
    """Raise a BackendError if this machine lacks what the format needs."""
    if settings.format == "parquet":
        _load_pyarrow()


def read_frames(store: Store, record: Record) -> Iterator[dict[str, Any]]:
    """Yield the frames or images of an item that is done, as the lines of its labels in JSON.

    Of Parquet they have what its columns have. Raises MediaError if the labels are missing or damaged.
    """
    stem = store.out / LABELS / record.key
    paths = [stem.with_name(stem.name + kind.suffix) for kind in _FORMATS.values()]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise MediaError(f"{stem}: the labels of an item that is done are missing; remove its file in items/")
    if path.suffix == _JsonLines.suffix:
        with path.open(encoding="ascii") as lines:
            yield from (json.loads(line) for line in lines)
        return
    with contextlib.closing(_load_pyarrow().parquet.ParquetFile(path)) as table:
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in table.iter_batches(_ROWS))
        for _, group in itertools.groupby(rows, key=lambda row: (row["source"], row["frame_index"])):
            yield _frame(list(group))


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of a line as a row of Parquet."""
    of_image = {"iou": found.get("predicted_iou"), "stability": found.get("stability_score")}
    counts = found["segmentation"]["counts"]
    named = {**of_image, **found, "counts": counts, **dict(zip(_BOX, found["bbox"], strict=True))}
    return {name: named[name] for name in _COLUMNS if name in named}


def _frame(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows of one frame as a line."""
    first, objects = rows[0], []
    size, is_image = [first["height"], first["width"]], first["frame_index"] is None
    for row in rows:
        if row["id"] is not None:
            mask = {"size": size, "counts": row.pop("counts")}
            box = [row.pop(side) for side in _BOX]
            nulls = () if is_image else _MAY_BE_NULL
            values = {name: row[name] for name in _OF_OBJECT}
            own = {name: value for name, value in values.items() if value is not None or name in nulls}
            objects.append({**own, "segmentation": mask, "bbox": box})
    if is_image:
        return {"image": first["source"], "size": size, "objects": objects}
    return {"frame_index": first["frame_index"], "time": first["time"], "size": size, "objects": objects}


def _load_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise BackendError(f"--format parquet needs {error.name}: pip install 'sam2edge[parquet]'") from error
    return pyarrow


class _Doubts:
    """The frames of an item on which objects are in doubt, few of each object, and of all only the worst."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._worst: list[tuple[float, int, Doubtful]] = []
        self._open: dict[int, tuple[int, Doubtful]] = {}
        self._numbers = itertools.count()
        self._lost: frozenset[int] = frozenset()

    def add(self, result: FrameResult) -> None:
        lost = frozenset(result.lost)
        for n, object_id in enumerate(result.object_ids):
            if object_id in lost - self._lost:
                self._keep(Doubtful(self._source, result.frame_index, object_id, 0.0, "lost: it needs a prompt"))
            elif result.visible[n]:
                in_view = 1 / (1 + math.exp(-min(float(result.object_scores[n]), 50.0)))
                score = _product(float(result.ious[n]), float(result.stability[n]), in_view)
                self.note(self._source, result.frame_index, object_id, score)
        self._lost = lost

    def note(self, source: str, frame: int, object_id: int, score: float) -> None:
        """Note how sure an object is; of those near each other the worst is kept."""
        if source != self._source:
            self._close()
            self._source = source
        span, before = self._open.get(object_id, (-1, None))
        if before and span != frame // _SPAN:
            self._keep(self._open.pop(object_id)[1])
            before = None
        if score < _SURE and (before is None or score < before.score):
            new = Doubtful(source, frame, object_id, round(score, 4), "unsure mask")
            self._open[object_id] = frame // _SPAN, new

    def worst(self) -> tuple[Doubtful, ...]:
        self._close()
        ordered = sorted((one for _, _, one in self._worst), key=lambda one: (one.score, one.source, one.frame))
        return tuple(ordered)

    def _close(self) -> None:
        for _, one in self._open.values():
            self._keep(one)
        self._open.clear()

    def _keep(self, one: Doubtful) -> None:
        heapq.heappush(self._worst, (-one.score, -next(self._numbers), one))  # of equals the earlier ones stay
        if len(self._worst) > _MAX_DOUBTFUL:
            heapq.heappop(self._worst)


def _product(*parts: float) -> float:
    """Return a score of 0 to 1; 0 if a part is not a number, as from a graph that overflows."""
    return math.prod(min(max(part, 0.0), 1.0) if finite(part) is not None else 0.0 for part in parts)
