"""Measure what Triton adds to a frame: `python -m tools.triton_speed BUNDLE [FRAMES [ROUNDS]]`.

A real server, as in tests/serving, answers each frame of the bundled clip at 720p with the run lengths of three objects
before the next one is sent: as pixels and as JPEGs by gRPC, and through shared memory. A VideoTracker does the same
work in a process with the server's numpy, OpenCV and ONNX Runtime. The ways take turns; medians over all rounds.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

BOXES = ((404, 141, 704, 366), (880, 54, 1220, 309), (820, 414, 1188, 678))
PROMPTS = json.dumps([{"object": number, "box": box} for number, box in enumerate(BOXES, 1)])
SIZE = (1280, 720)
WANTED = ("IDS", "IOUS", "RLE")
WARM = 5
"""Frames at the start of each round that do not count."""


def main(bundle: str, frames: int = 45, rounds: int = 3) -> None:
    # not at the top, since `in_process` runs where only numpy, OpenCV and ONNX Runtime are
    from sam2edge import Bundle
    from sam2edge.serving.repository import Settings, write_repository
    from tests.helpers import clip_frames
    from tests.serving.server import PACKAGES, Server, missing

    if reason := missing():
        raise SystemExit(reason)
    sys.path.append(str(PACKAGES))
    pixels = np.stack([cv2.resize(frame, SIZE) for frame in clip_frames(frames)])
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "frames.npy", pixels)
        write_repository(Bundle.open(bundle), Path(folder) / "repository", Settings())
        server = Server(Path(folder) / "repository", Path(folder), "--disable-auto-complete-config")
        try:
            server.wait()
            ways = {
                "in process": functools.partial(_in_process, bundle, Path(folder) / "frames.npy"),
                "pixels": functools.partial(_served, server.grpc, pixels, "pixels"),
                "JPEG": functools.partial(_served, server.grpc, pixels, "JPEG"),
                "shared memory": functools.partial(_served, server.grpc, pixels, "shared memory"),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, measure in ways.items():
                    times[name] += measure()[WARM:]
        finally:
            server.stop()
    base = statistics.median(times["in process"])
    for name, each in times.items():
        print(f"{name}: {statistics.median(each):.1f} ms a frame, {statistics.median(each) - base:+.1f} ms")


def _served(address: str, pixels: Any, way: str) -> list[float]:
    """Return the milliseconds from having a frame to having its answer."""
    import tritonclient.utils.shared_memory as shm

    from tests.serving.client import Stream, inputs, triton

    size, name = pixels[0].nbytes, f"speed-{os.getpid()}"
    stream, control = Stream(address, name, WANTED), triton.InferenceServerClient(address)
    region = shm.create_shared_memory_region(name, f"/{name}", size)
    control.register_system_shared_memory(name, f"/{name}", size)
    times = []
    for number, frame in enumerate(pixels):
        started = time.perf_counter()
        if way == "pixels":
            carrier = inputs(FRAME=frame)
        elif way == "JPEG":
            carrier = inputs(ENCODED=cv2.imencode(".jpg", frame)[1].tobytes())
        else:
            shm.set_shared_memory_region(region, [frame])
            carrier = [triton.InferInput("FRAME", frame.shape, "UINT8").set_shared_memory(name, size)]
        stream.send(carrier, start=not number)
        stream.receive()
        times.append(1e3 * (time.perf_counter() - started))
        if not number:
            stream.ask(PROMPTS=PROMPTS)
    stream.ask(end=True)
    stream.close()
    control.unregister_system_shared_memory(name)
    shm.destroy_shared_memory_region(region)
    return times


def _in_process(bundle: str, frames: Path) -> list[float]:
    from tests.conftest import REPO
    from tests.serving.server import ENVIRONMENT, environment

    command = [str(ENVIRONMENT / "bin" / "python"), __file__, "in_process", str(bundle), str(frames)]
    path = {**environment(), "PYTHONPATH": str(REPO / "src")}
    done = subprocess.run(command, env=path, stdout=subprocess.PIPE, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def in_process(bundle: str, frames: str) -> None:
    """Print the milliseconds of each frame."""
    from sam2edge import VideoTracker
    from sam2edge.runtime.media.prompt_files import parse_prompts, schedule
    from sam2edge.serving.tensors import Found

    with VideoTracker(bundle) as tracker:
        for number, frame in enumerate(np.load(frames)):
            started = time.perf_counter()
            Found.on_frame(tracker.track(frame)).outputs(WANTED)
            print(1e3 * (time.perf_counter() - started))
            for line in schedule(parse_prompts(PROMPTS, "prompts")) if not number else ():
                tracker.prompt(line.object_id, **line.prompt.arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["in_process"]:
        in_process(*sys.argv[2:])
    else:
        main(sys.argv[1], *map(int, sys.argv[2:]))
