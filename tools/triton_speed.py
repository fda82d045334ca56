"""Measure what Triton adds to a frame: `python -m tools.triton_speed BUNDLE [FRAMES]`.

A real server, as in tests/serving, gets the bundled clip at 720p as a stream with three objects, and answers with their
run lengths. A frame is there as OpenCV gives it, BGR, and goes to the server, in turn, as pixels in shared memory, as
pixels by gRPC, or as a JPEG by gRPC. After each of them a VideoTracker does the same work in a process with the
server's numpy, OpenCV and ONNX Runtime. What is printed is the median of the differences on the same frame: so it is of
use on a busy machine, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

BOXES = ((404, 141, 704, 366), (880, 54, 1220, 309), (820, 414, 1188, 678))
PROMPTS = json.dumps([{"object": number, "box": box} for number, box in enumerate(BOXES, 1)])
SIZE = (1280, 720)
WANTED = ("IDS", "IOUS", "RLE")
WAYS = ("shared memory", "pixels", "JPEG")
WARM = 6
"""Frames at the start that do not count."""

Step = Callable[[int], float]
"""Has a frame looked at and returns the milliseconds from having it to having its masks."""


def main(bundle: str, count: int = 120) -> None:
    # not at the top, since `in_process` runs where only numpy, OpenCV and ONNX Runtime are
    from sam2edge import Bundle
    from sam2edge.serving.repository import Settings, write_repository
    from tests.helpers import clip_frames
    from tests.serving.server import PACKAGES, Server, missing

    if reason := missing():
        raise SystemExit(reason)
    sys.path.append(str(PACKAGES))
    frames = np.stack([cv2.resize(frame[..., ::-1], SIZE) for frame in clip_frames(count)])
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        np.save(folder / "frames.npy", frames)
        write_repository(Bundle.open(bundle), folder / "repository", Settings())
        server = Server(folder / "repository", folder, "--disable-auto-complete-config")
        stack.callback(server.stop)
        server.wait()
        served = stack.enter_context(_served(server.grpc, frames))
        in_process = stack.enter_context(_in_process(bundle, folder / "frames.npy"))
        times = [(served(number), in_process(number)) for number in range(len(frames))]
    for start, way in enumerate(WAYS):
        of_way = [times[number] for number in range(start, len(times), len(WAYS)) if number >= WARM]
        alone = statistics.median(alone for _, alone in of_way)
        added = statistics.median(with_triton - alone for with_triton, alone in of_way)
        print(f"{way}: {alone:.1f} ms a frame in process, {added:+.1f} ms")


@contextlib.contextmanager
def _served(address: str, frames: Any) -> Iterator[Step]:
    import tritonclient.utils.shared_memory as shm

    from tests.serving.client import Stream, inputs, triton

    size, name = frames[0].nbytes, f"speed-{os.getpid()}"
    with Stream(address, name, WANTED) as stream, triton.InferenceServerClient(address) as control:
        region = shm.create_shared_memory_region(name, f"/{name}", size)
        control.register_system_shared_memory(name, f"/{name}", size)

        def step(number: int) -> float:
            way, frame, started = WAYS[number % len(WAYS)], frames[number], time.perf_counter()
            if way == "pixels":
                carrier = inputs(FRAME=cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            elif way == "JPEG":
                carrier = inputs(ENCODED=cv2.imencode(".jpg", frame)[1].tobytes())
            else:
                place = shm.get_contents_as_numpy(region, np.uint8, frame.shape)
                cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=place)
                carrier = [triton.InferInput("FRAME", frame.shape, "UINT8").set_shared_memory(name, size)]
            stream.send(carrier, start=not number)
            stream.receive()
            seconds = time.perf_counter() - started
            if not number:
                stream.ask(PROMPTS=PROMPTS)
            return 1e3 * seconds

        yield step
        stream.ask(end=True)
        control.unregister_system_shared_memory(name)
        shm.destroy_shared_memory_region(region)


@contextlib.contextmanager
def _in_process(bundle: str, frames: Path) -> Iterator[Step]:
    from tests.conftest import REPO
    from tests.serving.server import ENVIRONMENT, environment

    command = [str(ENVIRONMENT / "bin" / "python"), __file__, "in_process", bundle, str(frames)]
    path = {**environment(), "PYTHONPATH": str(REPO / "src")}
    with subprocess.Popen(command, env=path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        sender, receiver = process.stdin, process.stdout
        assert sender is not None
        assert receiver is not None

        def step(number: int) -> float:
            print(number, file=sender, flush=True)
            return float(receiver.readline())

        yield step
        sender.close()


def in_process(bundle: str, frames: str) -> None:
    """Look at the frames whose numbers come in, and print the milliseconds of each."""
    from sam2edge import VideoTracker
    from sam2edge.runtime.media.prompt_files import parse_prompts, schedule
    from sam2edge.serving.tensors import Found

    pixels = np.load(frames)
    with VideoTracker(bundle) as tracker:
        for number in map(int, sys.stdin):
            frame, started = pixels[number], time.perf_counter()
            Found.on_frame(tracker.track(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))).outputs(WANTED)
            print(1e3 * (time.perf_counter() - started), flush=True)
            for line in schedule(parse_prompts(PROMPTS, "prompts")) if not number else ():
                tracker.prompt(line.object_id, **line.prompt.arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["in_process"]:
        in_process(*sys.argv[2:])
    else:
        main(sys.argv[1], *map(int, sys.argv[2:]))
