"""A real tritonserver with the models of `sam2edge triton`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from sam2edge import Bundle
from tests.conftest import REPO
from tests.helpers import BALL, BLOCK, STAR, Frames, clip_frames
from tests.serving.conftest import SETTINGS
from tests.serving.server import ENVIRONMENT, PACKAGES, Server, environment, missing
from tools import triton_speed

if reason := missing():
    pytest.skip(reason, allow_module_level=True)
sys.path.append(str(PACKAGES))  # for tritonclient alone: what is in .venv too comes from there
from tests.serving import client

COUNT = 9
"""Frames of a stream: the memory bank of 7 is full, and has forgotten."""
LONG = bool(os.environ.get("SAM2EDGE_FLEET"))
BOXES = json.dumps([{"object": 1, "box": BALL}, {"object": 2, "box": BLOCK}])


@pytest.fixture(scope="module")
def frames() -> Frames:
    return clip_frames(COUNT)


@pytest.fixture(scope="module", autouse=True)
def silent(server: Server, frames: Frames) -> Iterator[Any]:
    """A stream that says nothing after its first frame, which the other tests do not wait for."""
    with client.Stream(server.grpc, "silent") as stream:
        stream.ask(start=True, FRAME=frames[0])
        yield stream, time.monotonic()


@pytest.fixture
def stream(server: Server, frames: Frames, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A live stream of one frame with two objects."""
    with client.Stream(server.grpc, request.node.name) as stream:
        stream.ask(start=True, FRAME=frames[0], PROMPTS=BOXES)
        yield stream
        stream.ask(end=True)


def png(frame: Frames) -> bytes:
    return cv2.imencode(".png", frame[..., ::-1])[1].tobytes()


def expected(bundle: Bundle, folder: Path, frames: Frames, *prompts: str) -> list[list[Any]]:
    """Return for each stream what is found on its frames."""
    np.save(folder / "frames.npy", frames)
    command = [ENVIRONMENT / "bin" / "python", Path(__file__).with_name("reference.py"), bundle.path]
    given = (folder / "frames.npy", SETTINGS.threads, *prompts)
    path = {"PYTHONPATH": str(REPO / "src")}
    done = subprocess.run(
        [*map(str, (*command, *given))],
        env={**environment(), **path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_two_streams_at_once_equal_trackers(server: Server, nano: Bundle, frames: Frames, tmp_path: Path) -> None:
    """One sends pixels, ahead of the answers; one sends files, and waits for each answer."""
    star = json.dumps({"object": 7, "box": STAR})

    def run_ahead() -> list[dict[str, Any]]:
        with client.Stream(server.grpc, 1) as stream:
            for number, frame in enumerate(frames):
                first = {"start": True, "PROMPTS": BOXES} if not number else {}
                stream.send(FRAME=frame, end=number == COUNT - 1, **first)
            return [stream.receive() for _ in frames]

    def run_in_step() -> list[dict[str, Any]]:
        with client.Stream(server.grpc, "two") as stream:
            answers = [stream.ask(start=True, ENCODED=png(frames[0]), PROMPTS=star)]
            answers += [stream.ask(ENCODED=png(frame)) for frame in frames[1:]]
            stream.ask(end=True)
            return answers

    with ThreadPoolExecutor() as threads:
        running = [threads.submit(run) for run in (run_ahead, run_in_step)]
        streams = [future.result() for future in running]
    for answers, found in zip(streams, expected(nano, tmp_path, frames, BOXES, star), strict=True):
        assert [int(answer["FRAME_INDEX"][0]) for answer in answers] == list(range(COUNT))
        got = [
            [answer["RLE"], answer["IOUS"].tolist(), answer["OBJECT_SCORES"].tolist(), answer["STATES"]]
            for answer in answers
        ]
        assert got == found


BAD = {
    "wrong dtype": ({"FRAME": np.zeros((240, 320, 3), np.float32)}, "'FRAME' data-type is 'FP32', but .* 'UINT8'"),
    "wrong shape": ({"FRAME": np.zeros((3, 240, 320), np.uint8)}, r"unexpected shape .* Expected \[-1,-1,3\]"),
    "two texts": ({"PROMPTS": np.array(["{}", "{}"], np.object_)}, r"unexpected shape .* 'PROMPTS'"),
    "both": ({"FRAME": np.zeros((240, 320, 3), np.uint8), "ENCODED": b"x"}, "got both FRAME and ENCODED"),
    "neither": ({}, "got neither FRAME nor ENCODED"),
    "broken JPEG": ({"ENCODED": b"\xff\xd8\xff\xe0"}, "ENCODED: no image that OpenCV can read"),
    "another size": ({"FRAME": np.zeros((90, 100, 3), np.uint8)}, "frame size changed from 320×240 to 100×90"),
    "bad prompts": ({"PROMPTS": '{"object": 1, "box": [0, 0, 900, 900]}'}, "PROMPTS, line 1: box .* reaches outside"),
    "unknown object": ({"PROMPTS": '{"object": 9, "remove": true}'}, "PROMPTS, line 1: object 9 is not tracked"),
    "too many objects": ({"PROMPTS": json.dumps([{"box": BALL}, {"box": STAR}])}, "3 objects are tracked already"),
}


def test_errors_reach_the_client_and_change_nothing(stream: Any, frames: Frames) -> None:
    for inputs, message in BAD.values():
        with pytest.raises(client.InferenceServerException, match=message):
            stream.ask(**inputs)
    answer = stream.ask(FRAME=frames[1])
    assert answer["FRAME_INDEX"] == 1
    assert answer["IDS"].tolist() == [1, 2]


def test_a_stream_without_start(server: Server, frames: Frames) -> None:
    refused = pytest.raises(client.InferenceServerException, match="must specify the START flag on the first request")
    with client.Stream(server.grpc, "unknown") as stream, refused:
        stream.ask(FRAME=frames[0])


def begins(stream: Any, frame: Frames) -> bool:
    """Tell whether a stream is not refused for being one too many."""
    try:
        stream.ask(start=True, FRAME=frame, PROMPTS=BOXES)
    except client.InferenceServerException as error:
        if not error.message().startswith("3 streams are live, as many as this instance takes: end one"):
            raise
        return False
    return True


def test_streams_beyond_the_limit_are_refused_at_once(server: Server, frames: Frames) -> None:
    """Without waiting in Triton, as they would beyond its own limit."""
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(client.Stream(server.grpc, f"limit {n}")) for n in range(SETTINGS.streams + 1)]
        live = [stream for stream in streams if begins(stream, frames[0])]
        assert SETTINGS.streams - 1 <= len(live) <= SETTINGS.streams  # the silent one may be live, too
        for stream in live:
            stream.ask(end=True)
        assert begins(streams[-1], frames[0])
        streams[-1].ask(end=True)


def test_requests_without_a_stream(server: Server, frames: Frames) -> None:
    """Each by itself, by gRPC and HTTP, with the status codes that clients and proxies go by."""
    grpc = client.triton.InferenceServerClient(server.grpc)
    answer = client.values(grpc.infer("sam2_image", client.inputs(ENCODED=png(frames[0]), PROMPTS=BOXES)))
    assert sorted(answer) == ["BITS", "BOXES", "IDS", "IOUS", "RLE", "SIZE"]  # all, since none was named
    assert answer["IDS"].tolist() == [1, 2]
    with pytest.raises(client.InferenceServerException, match="got no PROMPTS") as caught:
        grpc.infer("sam2_image", client.inputs(FRAME=frames[0]))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    parameters = {"everything": True, "points_per_side": 2, "stability_score_thresh": 0.5}
    everything = client.values(grpc.infer("sam2_image", client.inputs(FRAME=frames[0]), parameters=parameters))
    assert everything["BITS"].shape[0] == len(everything["IDS"])
    grpc.close()
    body = {"inputs": [{"name": "FRAME", "shape": [1, 1, 3], "datatype": "UINT8", "data": [0, 0, 0]}]}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{server.http}/v2/models/sam2_image/infer", json.dumps(body).encode())
    assert refused.value.code == 400
    assert "got no PROMPTS" in json.load(refused.value)["error"]


@pytest.mark.parametrize("shared", [(), ("shared",)], ids=["jpeg", "shared memory"])
def test_sample(server: Server, frames: Frames, tmp_path: Path, shared: tuple[str, ...]) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 240))
    for frame in frames[:6]:
        writer.write(frame[..., ::-1])
    writer.release()
    command = [
        sys.executable,
        REPO / "samples" / "triton_client.py",
        tmp_path / "clip.mp4",
        BOXES,
        server.grpc,
        *shared,
    ]
    path = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run(list(map(str, command)), env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^\[(\d+)\] \[1, 2\] \[b'visible', b'visible'\] ", done.stdout, re.MULTILINE) == list("012345")
    assert not list(Path("/dev/shm").glob("sam2-*"))


@pytest.mark.skipif(not LONG, reason="a server of its own: make fleet")
def test_what_is_measured(nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    triton_speed.main(str(nano.path), 9)
    rows = [rf"{way}: [\d.]+ ms a frame in process, [+-][\d.]+ ms" for way in triton_speed.WAYS]
    assert re.fullmatch("\n".join(rows) + "\n", capsys.readouterr().out)


def stubs(server: Server, model: str) -> set[int]:
    """Return the ids of a model's processes."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, status = (folder / "cmdline").read_bytes(), (folder / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        is_model = b"python_backend_stub" in command and model.encode() in command
        if is_model and f"PPid:\t{server.process.pid}\n" in status:
            found.add(int(folder.name))
    return found


def memory(process: int) -> float:
    """Return the MiB that a process holds."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024


def test_memory_is_flat_over_streams_in_turn(server: Server, frames: Frames) -> None:
    """Those that end, and some that do not, and are given up."""
    count = 240 if LONG else 36
    [process] = stubs(server, "sam2_video")
    held = []
    with client.Stream(server.grpc, "", wanted=("IDS",)) as stream:
        for number in range(count):
            stream.sequence = f"turn {number}"
            while not begins(stream, frames[0]):  # forgotten ones are in the way until they are given up
                pass
            stream.ask(FRAME=frames[1], end=number % 18 > 0)
            held.append(memory(process))
    assert max(held[count // 2 :]) - held[count // 3] < 4, held


UNKNOWN = "must specify the START flag on the first request|is not live"
"""What Triton says about a stream that is unknown to it, and the model, if Triton is late."""


def test_a_silent_stream_is_given_up(silent: Any, frames: Frames) -> None:
    stream, began = silent
    time.sleep(max(0.0, began + SETTINGS.idle + 1 - time.monotonic()))  # what the other tests have not used of it
    with pytest.raises(client.InferenceServerException, match=UNKNOWN):
        stream.ask(FRAME=frames[1])
    answer = stream.ask(start=True, end=True, FRAME=frames[0])
    assert answer["FRAME_INDEX"] == 0


def test_a_reloaded_model_knows_no_stream(server: Server, frames: Frames) -> None:
    control = client.triton.InferenceServerClient(server.grpc)
    with client.Stream(server.grpc, "reload") as stream:
        stream.ask(start=True, FRAME=frames[0])
        before = stubs(server, "sam2_video")
        control.unload_model("sam2_video")
        control.load_model("sam2_video")
        assert stubs(server, "sam2_video") - before
        with pytest.raises(client.InferenceServerException, match=UNKNOWN):
            stream.ask(FRAME=frames[1])
        stream.ask(start=True, end=True, FRAME=frames[0])
    control.close()


def probe(server: Server) -> subprocess.CompletedProcess[str]:
    """Run the probe of the Kubernetes manifest, with the server's Python and this server's address."""
    manifest = next(part for part in yaml.safe_load_all((REPO / "deploy" / "triton.yaml").read_text()) if part)
    command = manifest["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["exec"]["command"]
    assert command[0] == "python3"
    path = {**environment(), "PYTHONPATH": str(REPO / "src")}
    return subprocess.run([*command, server.http], env=path, capture_output=True, text=True, timeout=60, check=False)


def test_the_probe_notices_a_model_whose_process_has_died(server: Server) -> None:
    """Which Triton goes on to call ready. The last test: such a model stays dead."""
    done = probe(server)
    assert (done.returncode, done.stderr) == (0, "")
    for process in stubs(server, "sam2_video"):
        os.kill(process, signal.SIGKILL)
    done = probe(server)
    assert done.returncode == 1
    assert re.match(r"sam2_video at 127\.0\.0\.1:\d+: ", done.stderr)
    control = client.triton.InferenceServerClient(server.grpc)
    assert control.is_model_ready("sam2_video")
    control.close()
