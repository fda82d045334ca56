"""Workers on a Ray cluster: an actor each. Ray places them; whatever dies is replaced by the scheduler, not by Ray."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sam2edge import __version__
from sam2edge.errors import BackendError, BundleError, InputError, Sam2EdgeError
from sam2edge.labelling.items import Item, Record
from sam2edge.labelling.parcel import Parcel, pack, unpack
from sam2edge.labelling.processes import LabelsItems, OpenLabeller, thread_variables
from sam2edge.labelling.scheduler import Died, Event, Finished, Pool, Progress, Refused, Started
from sam2edge.labelling.store import Store
from sam2edge.runtime import BACKENDS

_ADDRESS = "RAY_ADDRESS"
_POLL = 0.5
"""Seconds between two questions how far a worker is, and the longest wait for an event."""
_PATIENCE = 20.0
"""Seconds after which it is said why workers do not start."""
_LEAVE = 10.0
"""Seconds that a worker has to end the frame it is at."""
_BESIDE = {"concurrency_group": "beside"}
"""Of a call that is answered while an item is being done."""
_STORE = 80 << 20
"""Bytes of the object store of a Ray of this machine alone, through which nothing large goes."""


_DEATHS = (
    ("No module named 'sam2edge", "this node's Python has no sam2edge; install it there, with its extra ray"),
    ("node has died|NodeDied", "its node was lost"),
    ("low on memory|OutOfMemory", "Ray's memory monitor ended it, since the node had no memory left"),
    ("process has died", "its process was killed (often by the kernel, when memory is full)"),
    ("unavailable", "it cannot be reached: its node or the network was lost"),
)
"""What Ray says of a worker that is gone, and what that means."""


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know."""

    open_labeller: OpenLabeller
    bundle: Path | Parcel
    out: Path
    token: Path
    threads: int
    gpu: int | None
    version: str


class _Worker:
    """The actor."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._done: tuple[int, int | None] = 0, None

    def place(self) -> str:
        """Return where this is."""
        return f"{socket.gethostname()} ({ray.util.get_node_ip_address()}), process {os.getpid()}"

    def open(self, job: _Job) -> None:
        """Get ready."""
        if job.version != __version__:
            raise InputError(f"has sam2edge {__version__}, not {job.version}: install the same version on all nodes")
        if not job.token.is_dir():
            raise InputError(f"does not see {job.out}, which must be a folder that all nodes share, at the same path")
        self._labeller = self._opened(job)
        self._store = Store(job.out)

    def _opened(self, job: _Job) -> LabelsItems:
        options = {"threads": job.threads, "gpu": job.gpu}
        if isinstance(job.bundle, Path):
            return job.open_labeller(job.bundle, **options)
        try:
            return job.open_labeller(unpack(job.bundle, ray.get), **options)
        except BundleError:  # the copy in the cache has been damaged since
            shutil.rmtree(job.bundle.directory, ignore_errors=True)
            return job.open_labeller(unpack(job.bundle, ray.get), **options)

    def label(self, item: Item) -> Record:
        self._done = 0, None
        return self._labeller.label(item, self._store, self._tell, self._stop.is_set)

    def _tell(self, frames: int, total: int | None) -> None:
        self._done = frames, total

    def progress(self) -> tuple[int, int | None]:
        return self._done

    def stop(self) -> None:
        self._stop.set()


class RayPool(Pool):
    """Workers on the nodes of a Ray cluster, or of a Ray of this machine alone, which ends with the pool.

    Args:
        open_labeller: What each worker calls once, as in `Processes`, but with the bundle's directory on its machine.
        bundle: Directory of the bundle; it travels to other machines by itself, with its engines for TensorRT.
        backend: Name of what runs the graphs.
        words: Whether the bundle's word detector is needed.
        out: The run's folder, which every node must have at this path.
        address: Of a cluster, as `ray.init` takes it. Default: $RAY_ADDRESS, or else this machine alone.
        cpus: Cores of a worker; they are also its threads.
        gpus: Of a worker, also a part of one. Default: one for a backend that needs a GPU.
        memory: Bytes that a worker needs of its node, beyond which Ray places none there.
        tell: Takes what a person should know: why workers do not start.
    """

    def __init__(
        self,
        open_labeller: OpenLabeller,
        bundle: Path,
        out: Path,
        *,
        backend: str = "auto",
        words: bool = False,
        address: str | None = None,
        cpus: int = 1,
        gpus: float | None = None,
        memory: int = 0,
        tell: Callable[[str], None] = print,
    ) -> None:
        self._numbers = itertools.count()
        self._actors: dict[int, Any] = {}
        self._places: dict[int, str] = {}
        self._running: dict[Any, tuple[int, str]] = {}
        self._asked = self._heard = time.monotonic()
        self._tell = tell
        gpus = float(BACKENDS[backend] != BACKENDS["onnx"]) if gpus is None else gpus
        self._needs = {"CPU": float(cpus), "GPU": gpus, "memory": float(memory)}
        self._token = out.absolute() / ".tmp" / f"token.{uuid.uuid4().hex}"  # a folder, as all there
        address = address or os.environ.get(_ADDRESS)
        _connect(address)
        try:
            if not address:
                _check_fits(self._needs)
            self._token.mkdir(parents=True)
            sent = pack(bundle, backend, words, ray.put) if address else bundle.absolute()
            gpu = 0 if gpus else None  # Ray hides the others
            self._job = ray.put(_Job(open_labeller, sent, out.absolute(), self._token, cpus, gpu, __version__))
        except BaseException:
            self.close()
            raise
        options = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"beside": 1}}
        variables = {"env_vars": thread_variables(cpus)}
        self._actor = ray.remote(num_cpus=cpus, num_gpus=gpus, memory=memory, runtime_env=variables, **options)(_Worker)

    @property
    def room(self) -> int:
        """How many workers find a place now, or when others leave a cluster that is full; at least one."""
        there, free = ray.cluster_resources(), ray.available_resources()
        counts = [(free.get(name) or there.get(name, 0)) / count for name, count in self._needs.items() if count]
        return max(int(min(counts)), 1)

    def start(self) -> int:
        number, self._heard = next(self._numbers), time.monotonic()
        self._actors[number] = actor = self._actor.remote()
        self._running[actor.place.remote()] = number, "place"
        self._running[actor.open.remote(self._job)] = number, "open"
        return number

    def submit(self, worker: int, item: Item) -> None:
        self._running[self._actors[worker].label.remote(item)] = worker, "label"

    def kill(self, worker: int) -> None:
        self._running = {ref: doing for ref, doing in self._running.items() if doing[0] != worker}
        if actor := self._actors.pop(worker, None):
            ray.kill(actor)

    def wait(self, timeout: float) -> list[Event]:
        self._ask()
        self._explain()
        if not self._running:
            time.sleep(min(timeout, _POLL))
            return []
        refs = list(self._running)
        ready, _ = ray.wait(refs, timeout=min(timeout, _POLL))
        if ready:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [event for ref in ready if (event := self._event(ref))]

    def close(self) -> None:
        """Let workers end the frame they are at, and leave the cluster."""
        labels = [ref for ref, (_, doing) in self._running.items() if doing == "label"]
        with contextlib.suppress(RayError):
            for actor in self._actors.values():
                actor.stop.options(**_BESIDE).remote()
            if labels:
                ray.wait(labels, num_returns=len(labels), timeout=_LEAVE)
        for worker in list(self._actors):
            self.kill(worker)
        ray.shutdown()
        with contextlib.suppress(FileNotFoundError):
            self._token.rmdir()

    def _ask(self) -> None:
        """Ask every busy worker how far it is, each half second and if it has answered."""
        now = time.monotonic()
        if now < self._asked + _POLL:
            return
        self._asked = now
        waiting = {worker for worker, doing in self._running.values() if doing == "progress"}
        for worker, doing in list(self._running.values()):
            if doing == "label" and worker not in waiting:
                self._running[self._actors[worker].progress.options(**_BESIDE).remote()] = worker, "progress"

    def _explain(self) -> None:
        """Say, after a while without a new worker, what the cluster lacks for those that have no place."""
        waiting = [worker for worker, doing in self._running.values() if doing == "place"]
        if not waiting or time.monotonic() < self._heard + _PATIENCE:
            return
        self._heard = math.inf  # said once, until another worker gets a place
        there, free = ray.cluster_resources(), ray.available_resources()
        wanted = [name for name, count in self._needs.items() if count]
        needs = ", ".join(_amount(name, self._needs[name]) for name in wanted)
        has = ", ".join(
            f"{_amount(name, there.get(name, 0))} ({_amount(name, free.get(name, 0))} free)" for name in wanted
        )
        self._tell(
            f"no place on the cluster for {len(waiting)} of the workers: each needs {needs} on one node, and all nodes "
            f"have {has}; it starts as soon as there is room, and the others go on"
        )

    def _event(self, ref: Any) -> Event | None:
        worker, doing = self._running.pop(ref, (-1, ""))
        if not doing:  # of a worker that was found dead a moment ago
            return None
        try:
            answer = ray.get(ref)
        except RayError as error:
            if doing in ("place", "progress"):  # what else the worker does will say it
                return None
            cause = error.cause if isinstance(error, RayTaskError) else None
            if doing == "label" and isinstance(cause, (Sam2EdgeError, OSError)) and not isinstance(cause, BackendError):
                return Refused(worker, str(cause))
            self.kill(worker)
            return Died(worker, f"{self._places.pop(worker, None) or _node(error)}: {_reason(error)}")
        if doing == "place":
            self._places[worker], self._heard = answer, time.monotonic()
            return None
        if doing == "open":
            return Started(worker, self._places[worker])
        return Finished(worker, answer) if doing == "label" else Progress(worker, *answer)


def _connect(address: str | None) -> None:
    """Connect to a cluster, or start a Ray of this machine alone; InputError or BackendError if that fails."""
    if address and address.startswith("ray://"):
        raise InputError(
            f"{address}: is for programs outside the cluster; run this on one of its nodes, with HOST:PORT or auto, or "
            "send it there: ray job submit -- sam2edge label … --ray"
        )
    _check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {} if address else {"include_dashboard": False, "object_store_memory": _STORE}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # Ray raises ever other ones, bare ones among them
        ray.shutdown()
        raise BackendError(f"{address or 'Ray on this machine'}: {_refusal(error)}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the program without the end of this run


def _check_answers(address: str | None) -> None:
    """Raise a BackendError if nothing listens at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise BackendError(
            f"{address}: no Ray answers there ({error}); `ray status` on a node says its address"
        ) from error


def _check_fits(needs: dict[str, float]) -> None:
    """Raise an InputError if this machine is too small for a worker, which would wait for ever."""
    there = ray.cluster_resources()
    for name, option in (("CPU", "cpus"), ("GPU", "gpus")):
        if needs[name] > there.get(name, 0):
            raise InputError(f"--{option}-per-worker {needs[name]:g}: this machine has {there.get(name, 0):g}")


def _refusal(error: Exception) -> str:
    """Return in our words why `ray.init` failed."""
    message = f"{error} {error.__cause__}"
    if "uthentication" in message:
        return (
            "the cluster wants a token, which this process lacks or has wrong; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN, or copy ~/.ray/auth_token from the cluster's head"
        )
    versions = re.findall(r"(Ray|Python): (\S+)", message)
    if "ersion mismatch" in message and len(versions) == 4:
        cluster, here = (", ".join(map(" ".join, pair)) for pair in (versions[:2], versions[2:]))
        return f"the cluster runs {cluster}, this process {here}: both must be the same, to the last number"
    return str(error).partition("\n")[0]


def _amount(name: str, count: float) -> str:
    """Return an amount of one of Ray's resources."""
    return f"{count / 2**30:.1f} GiB" if name == "memory" else f"{count:g} {name}"


def _node(error: RayError) -> str:
    """Return where a worker was that never said so."""
    address = re.search(r"\bip[=:] *([\w.:]+)", str(error))
    return f"node {address[1]}" if address else "a node"


def _reason(error: RayError) -> str:
    """Return in our words why a worker is gone."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return str(cause) if isinstance(cause, Sam2EdgeError) else f"{type(cause).__name__}: {cause}"
    message = str(error)
    return next((text for sign, text in _DEATHS if re.search(sign, message)), message.partition("\n")[0])
