"""What a run came to: what is done, what failed and why, how fast it was, and which frames a person should look at."""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sam2edge.errors import MediaError
from sam2edge.files import write_text
from sam2edge.labelling.items import Doubtful
from sam2edge.labelling.store import Store

REPORT = "report.json"
_MAX_DOUBTFUL, _PRINTED = 50, 5


@dataclass(frozen=True)
class Report:
    """A run's state at its end.

    Attributes:
        items: How many there are.
        done: How many of them are done, in this run or before.
        frames: Frames and images of what is done.
        objects: Objects of what is done.
        seconds: Of all workers together, for what is done.
        frames_a_second: Of this run; None if there was nothing to do.
        failed: What `Store.fail` noted of each that failed.
        problems: What could not be done without ending an item, as an image that cannot be read.
        remarks: What else a person should know, as that damaged frames were left out.
        doubtful: The frames of the lowest scores, the worst one first.
    """

    items: int
    done: int
    frames: int
    objects: int
    seconds: float
    frames_a_second: float | None
    failed: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    doubtful: tuple[Doubtful, ...]

    @staticmethod
    def of(store: Store, keys: Sequence[str], frames_a_second: float | None) -> Report:
        """Sum up what a run of these items has in its folder."""
        done = store.done()
        frames, objects, seconds = 0, 0, 0.0
        problems, remarks, worst = list[str](), list[str](), list[Doubtful]()
        for record in (store.record(key) for key in keys if key in done):
            frames, objects, seconds = frames + record.frames, objects + record.objects, seconds + record.seconds
            problems += record.problems
            remarks += record.remarks
            worst = heapq.nsmallest(_MAX_DOUBTFUL, (*worst, *record.doubtful), key=lambda one: one.score)
        wanted = set(keys)
        failed = tuple(note for note in store.failures() if note["key"] in wanted)
        rate = None if frames_a_second is None else round(frames_a_second, 2)
        counts = len(keys), len(done & wanted), frames, objects, round(seconds, 1), rate
        return Report(*counts, failed, tuple(problems), tuple(remarks), tuple(worst))

    def write(self, store: Store) -> None:
        """Write report.json; MediaError if that fails."""
        path = store.out / REPORT
        try:
            write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        except OSError as error:
            raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error

    def lines(self) -> list[str]:
        """Return what the command prints of it, but for the failures, which were said as they happened."""
        rate = "" if self.frames_a_second is None else f", {self.frames_a_second:.1f} frames/s"
        failed = f", {len(self.failed)} failed; the same command tries again" if self.failed else ""
        lines = [f"{self.done} of {self.items} items, {self.frames} frames, {self.objects} objects{rate}{failed}"]
        if self.doubtful:
            lines.append(f"worth a look ({REPORT} has {len(self.doubtful)}):")
            lines += [
                f"  {one.source}, frame {one.frame}, object {one.object}: {one.reason}, score {one.score:.2f}"
                for one in self.doubtful[:_PRINTED]
            ]
        return lines
