"""Workers as Ray's actors, on a real cluster: a head with the driver, and nodes with a core each."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2edge import Bundle, cli
from sam2edge.errors import BackendError, InputError
from sam2edge.labelling.scheduler import Died, Scheduler, Tally
from sam2edge.labelling.store import LABELS, Store
from tests.conftest import REPO
from tests.helpers import BALL, BLOCK, clip_frames, write_frames
from tests.unit.labelling.double import FRAMES, draft, open_with_bundle

ray = pytest.importorskip("ray", reason="ray is not installed: pip install ray")
pool_of = importlib.import_module("sam2edge.labelling.ray")

LONG = bool(os.environ.get("SAM2EDGE_FLEET"))
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_log_monitor": False}
HEAD = {**NODE, "include_dashboard": False, "no_monitor": True}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), *filter(None, sys.path)]))  # for workers
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # which none of ours could use
        made = Cluster(initialize_head=True, head_node_args=HEAD)
        made.add_node(**NODE)
        yield made
        made.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "out") as store:
        store.open_run({})
        yield store


def labels(store: Store) -> dict[str, str]:
    return {file.stem: file.read_text() for file in (store.out / LABELS).iterdir()}


def wait_for(pool: Any, kind: type, count: int = 1) -> list[Any]:
    """Return the events until there were so many of a kind."""
    events: list[Any] = []
    deadline = time.monotonic() + 60
    while sum(isinstance(event, kind) for event in events) < count:
        assert time.monotonic() < deadline, events
        events += pool.wait(1)
    return events


def test_worker_says_why_it_cannot_start(nano: Bundle, cluster: Any, store: Store, tmp_path: Path) -> None:
    (tmp_path / "start").write_text("no GPU 7")
    with pool_of.RayPool(
        functools.partial(open_with_bundle, tmp_path), nano.path, store.out, address=cluster.address
    ) as pool:
        assert pool.room == 2
        pool.start()
        [died] = wait_for(pool, Died)
        assert died.reason.startswith(f"{socket.gethostname()} (")
        assert died.reason.endswith(": no GPU 7")
        (tmp_path / "start").unlink()
        job = ray.get(pool._job)
        with pytest.raises(
            InputError, match=rf"^does not see {store.out}, which must be a folder that all nodes share"
        ):
            pool_of._Worker().open(dataclasses.replace(job, token=tmp_path / "token"))
        with pytest.raises(InputError, match=r"^has sam2edge \S+, not 0\.0\.0: install the same version on all nodes$"):
            pool_of._Worker().open(dataclasses.replace(job, version="0.0.0"))
        graph = job.bundle.directory / nano.path.name / "mask_decoder.onnx"
        graph.write_bytes(b"damaged")
        pool_of._Worker().open(job)
        assert graph.read_bytes() == nano.graph_path("mask_decoder").read_bytes()


def test_more_workers_than_fit(nano: Bundle, cluster: Any, store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(pool_of, "_PATIENCE", 0.5)
    said: list[str] = []
    with pool_of.RayPool(
        functools.partial(open_with_bundle, tmp_path), nano.path, store.out, address=cluster.address, gpus=0.5,
        memory=2**30, tell=said.append,
    ) as pool:  # fmt: skip
        pool.start()
        while not said:
            assert pool.wait(0.1) == []
        memory = f"{ray.cluster_resources()['memory'] / 2**30:.1f} GiB"
        assert said == [
            "no place on the cluster for 1 of the workers: each needs 1 CPU, 0.5 GPU, 1.0 GiB on one node, and all "
            f"nodes have 2 CPU (2 CPU free), 0 GPU (0 GPU free), {memory} ({memory} free); it starts as soon as there "
            "is room, and the others go on"
        ]
        pool.wait(0.1)
        assert len(said) == 1


def test_addresses(store: Store, nano: Bundle) -> None:
    def connect(address: str) -> None:
        pool_of.RayPool(open_with_bundle, nano.path, store.out, address=address)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(BackendError, match=rf"^127.0.0.1:{port}: no Ray answers there \(.*refused\); `ray status`"):
            connect(f"127.0.0.1:{port}")
    with pytest.raises(InputError, match=r"^ray://head:10001: .* run this on one of its nodes"):
        connect("ray://head:10001")
    with pytest.raises(BackendError, match=r"^nonsense: Invalid address format: nonsense$"):
        connect("nonsense")


def test_labels_are_those_of_track(nano: Bundle, cluster: Any, tmp_path: Path) -> None:
    """Two workers at a time, each on a node of its own, with what the verb gives them."""
    prompts = tmp_path / "prompts.jsonl"
    for name, frames in zip("ab", np.split(clip_frames(10), 2), strict=True):
        write_frames(tmp_path / name, frames)
        with prompts.open("a") as file:
            print(json.dumps({"source": name, "object": 2, "box": BLOCK}), file=file)
            print(json.dumps({"source": name, "frame": 3, "object": 1, "box": BALL}), file=file)
    given = ["--prompts", str(prompts)]
    on_ray = ["--ray", cluster.address, "--workers", "2"]
    assert cli.main(["label", str(nano.path), *given, "-o", str(tmp_path / "out"), *on_ray]) == 0
    for name in "ab":
        alone = tmp_path / f"{name}.jsonl"
        source = str(tmp_path / name)
        assert cli.main(["track", str(nano.path), source, *given, "--json", str(alone), "--threads", "1"]) == 0
        [labels] = (tmp_path / "out" / LABELS).glob(f"{name}-*.jsonl")
        assert labels.read_bytes() == alone.read_bytes()


NAMES = ["plain-0", "waits", "refuses", "kills-once", "plain-1", "plain-2"]
DRIVER = """
import functools, sys
from pathlib import Path
from sam2edge.labelling.ray import RayPool
from sam2edge.labelling.scheduler import Scheduler
from sam2edge.labelling.store import Store
from tests.unit.labelling.double import draft, open_with_bundle

folder, bundle, address, *names = sys.argv[1:]
store = Store(Path(folder) / "out")
store.open_run({})
pool = RayPool(functools.partial(open_with_bundle, Path(folder)), Path(bundle), store.out, address=address)
Scheduler(list(map(draft, names)), pool, store, workers=1, report=print).run(lambda tally: None, lambda: False)
"""


def test_driver_worker_and_node_are_lost(nano: Bundle, cluster: Any, store: Store, tmp_path: Path) -> None:
    """Each in the middle of an item; at the end there is what one process writes, and nothing was done twice."""
    store.close()  # the first driver takes it
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, tmp_path, nano.path, cluster.address, *NAMES], cwd=REPO)
    [node] = cluster.worker_nodes
    deadline = time.monotonic() + 60
    while not store.done():
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    assert store.done() == {"plain-0"}
    first = (store.out / "items" / "plain-0.json").stat().st_ino
    store.open_run({})
    copy = shutil.copytree(nano.path, tmp_path / "bundle")
    said: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    opener = functools.partial(open_with_bundle, tmp_path)
    with pool_of.RayPool(opener, copy, store.out, address=cluster.address) as pool:
        assert signal.getsignal(signal.SIGTERM) is before
        shutil.rmtree(copy)  # what the workers need is on its way
        scheduler = Scheduler(list(map(draft, NAMES)), pool, store, workers=2, attempts=2, report=said.append)

        def show(tally: Tally) -> None:
            if tally.done == len(NAMES) - 2 and cluster.worker_nodes:  # the others wait, or have failed
                cluster.remove_node(node, allow_graceful=False)
                (tmp_path / "go-on").touch()
                if LONG:
                    cluster.add_node(**NODE)

        assert scheduler.run(show, lambda: False)
    done = [name for name in NAMES if name != "refuses"]
    assert labels(store) == {name: "".join(f"/videos/{name} {frame}\n" for frame in range(FRAMES)) for name in done}
    assert (store.out / "items" / "plain-0.json").stat().st_ino == first
    [failure] = store.failures()
    assert failure["reason"] == "/videos/refuses: cannot be read"
    assert any("its process was killed" in line and "attempt 2 of 2 follows" in line for line in said), said
    assert {store.record(name).where for name in done} == {"threads 1, OMP 1, gpu None"}


def test_versions_and_tokens_in_our_words() -> None:
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "2.50.1", "python_version": "3.11.2"}, "node 1")
    here = f"Ray {ray.__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}"
    assert pool_of._refusal(raised.value) == (
        f"the cluster runs Ray 2.50.1, Python 3.11.2, this process {here}: both must be the same, to the last number"
    )
    refused = ConnectionError("Failed to connect to Ray cluster at head:6379")
    refused.__cause__ = ray.exceptions.AuthenticationError(
        "RPC error: InvalidAuthToken: Authentication token is missing"
    )
    assert pool_of._refusal(refused).startswith(
        "the cluster wants a token, which this process lacks or has wrong; set "
    )


def test_machine_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    pool_of._check_fits({"CPU": 4.0, "GPU": 0.0})
    with pytest.raises(InputError, match=r"^--cpus-per-worker 8: this machine has 4$"):
        pool_of._check_fits({"CPU": 8.0, "GPU": 0.0})
    with pytest.raises(InputError, match=r"^--gpus-per-worker 0.5: this machine has 0$"):
        pool_of._check_fits({"CPU": 1.0, "GPU": 0.5})


@pytest.mark.skipif(not LONG, reason="make fleet: it starts six processes and a Ray of its own")
def test_benchmark_runs(nano: Bundle) -> None:
    words = ["--videos", "2", "--frames", "8", "--rounds", "1", "--ray"]
    command = [sys.executable, "-m", "tools.label_speed", str(nano.path), *words]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[-3:]] == ["plain pool", "processes", "Ray"]
