"""Workers that are processes of this machine, each with a pipe to the scheduler's.

A process of its own is what a worker has to be: what kills it, as a broken video in a decoder or a full memory, kills
nothing else. It begins anew, as a program and not as a copy, so that its threads are limited before numpy starts any.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Protocol

from sam2edge.errors import BackendError, Sam2EdgeError
from sam2edge.labelling.items import Item, Record, StoppedError
from sam2edge.labelling.scheduler import Died, Event, Finished, Pool, Progress, Refused, Started
from sam2edge.labelling.store import Store

_LEAVE = 10.0
"""Seconds that a worker has to end the frame it is at."""
_END = None
"""What a worker gets instead of an item when there is nothing more to do."""


class LabelsItems(Protocol):
    """What a worker opens once: `Labeller`."""

    def label(
        self, item: Item, store: Store, tell: Callable[[int, int | None], None], stop: Callable[[], bool]
    ) -> Record: ...

    def close(self) -> None: ...


OpenLabeller = Callable[..., LabelsItems]
"""Opens a labeller, given `threads` and `gpu`. It is sent to other processes, which must be able to import it."""


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment in which a program's libraries use so many threads; they read it as they are imported."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    return dict.fromkeys(names, str(threads))


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    gpu: int | None


class Processes(Pool):
    """Workers that are processes of this machine.

    Args:
        open_labeller: What each worker calls once.
        out: The folder of the run.
        threads: Of a worker.
        gpus: Their numbers, shared evenly among the workers; none for the CPU, or the backend's own choice.
    """

    def __init__(self, open_labeller: OpenLabeller, out: Path, *, threads: int, gpus: Sequence[int] = ()) -> None:
        self._open_labeller, self._out = open_labeller, out
        self._threads, self._gpus = threads, gpus
        self._workers: dict[int, _Worker] = {}
        self._numbers = itertools.count()

    def start(self) -> int:
        number = next(self._numbers)
        used = collections.Counter(worker.gpu for worker in self._workers.values())
        gpu = min(self._gpus, key=lambda each: used[each], default=None)
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        ours, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "sam2edge.labelling.processes", str(theirs.fileno())],
                env={**os.environ, **thread_variables(self._threads), "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is the scheduler's, which lets workers end their frame
            )
        self._workers[number] = _Worker(process, ours, gpu)
        options = {"threads": self._threads, "gpu": gpu}
        self._send(number, (number, self._out, functools.partial(self._open_labeller, **options)))
        return number

    def submit(self, worker: int, item: Item) -> None:
        self._send(worker, item)

    def kill(self, worker: int) -> None:
        gone = self._workers.pop(worker)
        gone.process.kill()
        gone.process.wait()
        gone.pipe.close()

    def wait(self, timeout: float) -> list[Event]:
        numbers = {worker.pipe: number for number, worker in self._workers.items()}
        ready = [pipe for pipe in connection.wait(list(numbers), timeout) if isinstance(pipe, Connection)]
        return [event for pipe in ready for event in self._events(numbers[pipe])]

    def close(self) -> None:
        for worker in self._workers:
            self._send(worker, _END)
        deadline = time.monotonic() + _LEAVE
        try:
            for each in self._workers.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    each.process.wait(max(deadline - time.monotonic(), 0))
        finally:
            for worker in list(self._workers):
                self.kill(worker)

    def _send(self, worker: int, message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is gone, as `wait` will say
            self._workers[worker].pipe.send(message)

    def _events(self, number: int) -> list[Event]:
        """Return what a worker has said, and that it died if it did."""
        events: list[Event] = []
        worker = self._workers[number]
        try:
            while worker.pipe.poll() and not (events and isinstance(events[-1], Died)):
                events.append(worker.pipe.recv())
        except (EOFError, OSError):  # OSError: killed in the middle of a message
            with contextlib.suppress(subprocess.TimeoutExpired):  # it says nothing more, but may not be quite gone
                worker.process.wait(_LEAVE)
            events.append(Died(number, _reason(worker.process.returncode)))
        if events and isinstance(events[-1], Died):
            self.kill(number)
        return events


def _reason(code: int | None) -> str:
    """Return why a process ended that said nothing. code: what it returned, None if it still runs."""
    if code is None:
        return "closed its pipe, but did not end"
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as the kernel does when memory is full"
    names = {each.value: each.name for each in signal.Signals}
    return f"killed by {names.get(-code, -code)}" if code < 0 else f"ended by itself, with exit code {code}"


def main(descriptor: int) -> None:
    """Be a worker, until the scheduler says that it is enough, or is gone."""
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the scheduler was killed
        number, out, open_labeller = pipe.recv()
        try:
            with contextlib.closing(open_labeller()) as labeller, Store(out) as store:
                pipe.send(Started(number, f"process {os.getpid()} on {socket.gethostname()}"))
                while (item := pipe.recv()) is not _END:
                    _label(number, item, labeller, store, pipe)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            if not isinstance(error, Sam2EdgeError):
                traceback.print_exc()
            pipe.send(Died(number, str(error) if isinstance(error, Sam2EdgeError) else repr(error)))


def _label(number: int, item: Item, labeller: LabelsItems, store: Store, pipe: Connection) -> None:
    """Do an item. What only this item can be to blame for is said; after other errors this process should end."""

    def tell(frames: int, total: int | None) -> None:
        try:
            pipe.send(Progress(number, frames, total))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise StoppedError from error

    try:
        # Something to read while there is an item is the end of the run, or of the scheduler.
        record = labeller.label(item, store, tell, pipe.poll)
    except StoppedError:
        return
    except BackendError:
        raise
    except (Sam2EdgeError, OSError) as error:
        pipe.send(Refused(number, str(error)))
    else:
        pipe.send(Finished(number, record))


if __name__ == "__main__":
    main(int(sys.argv[1]))
