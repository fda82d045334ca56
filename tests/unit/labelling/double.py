"""A labeller without a model: it does with an item what the item's name says."""

import functools
import os
import signal
import time
from pathlib import Path

from sam2edge import Bundle
from sam2edge.errors import BackendError, InputError
from sam2edge.labelling.items import Item, Record, StoppedError
from sam2edge.labelling.plan import Draft
from sam2edge.labelling.store import LABELS, write_record

FRAMES = 3


class Double:
    """Writes a line for each frame.

    Sources whose names begin so: `kills` always kills its worker, `kills-once` once, `breaks` and `refuses` raise,
    `waits` goes on until it is stopped, or until there is a file `go-on` in the folder. Workers that find a file
    `start` there do not start.
    """

    def __init__(self, folder, *, threads, gpu):
        self.folder, self.threads, self.gpu = folder, threads, gpu
        if (problem := folder / "start").exists():
            raise BackendError(problem.read_text())

    def label(self, item, store, tell, stop):
        [source] = item.sources
        act = Path(source).name
        with store.staged(item.key) as staging:
            (staging / LABELS).mkdir()
            with (staging / LABELS / f"{item.key}.jsonl").open("w") as file:
                for frame in range(FRAMES):
                    if stop():
                        raise StoppedError
                    print(f"{source} {frame}", file=file)
                    tell(frame + 1, FRAMES)
            if act.startswith("kills-once") and not (mark := self.folder / act).exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            elif act.startswith("kills") and not act.startswith("kills-once"):
                os.kill(os.getpid(), signal.SIGKILL)
            elif act.startswith("breaks"):
                raise ZeroDivisionError("a bug")
            elif act.startswith("refuses"):
                raise InputError(f"{source}: cannot be read")
            while act.startswith("waits") and not (stop() or (self.folder / "go-on").exists()):
                time.sleep(0.01)
            if stop():
                raise StoppedError
            where = f"threads {self.threads}, OMP {os.environ.get('OMP_NUM_THREADS')}, gpu {self.gpu}"
            record = Record(item.key, item.sources, FRAMES, 1, 0.1, where=where)
            write_record(staging, record)
        return record

    def close(self):
        pass


def opener(folder):
    return functools.partial(Double, folder)


def open_with_bundle(folder, bundle, *, threads, gpu):
    Bundle.open(bundle)
    return Double(folder, threads=threads, gpu=gpu)


def draft(name):
    return Draft(name, "video", (f"/videos/{name}",))


def item(name):
    return Item(name, "video", (f"/videos/{name}",))
