"""Two or more cameras: a tracker and a thread for each, and the bundle and its graphs opened once.

    python samples/two_cameras.py BUNDLE OUT_DIR SOURCE=X0,Y0,X1,Y1 SOURCE=X0,Y0,X1,Y1 [--threads 1]
SOURCE is 0, /dev/video0, csi:0, rtsp://…, or a file; the box is on its first frame. Writes OUT_DIR/0.jsonl, 1.jsonl, …
Ctrl-C quits. Graphs run without holding Python's lock, so that cameras with one thread each share the cores well
(--threads 1). On a GPU (--backend onnx-cuda or tensorrt, --gpu 1) the trackers take turns.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sam2edge import Bundle, Grabber, JsonSink, VideoTracker, open_source
from sam2edge.runtime.backends.base import open_backend


def follow(tracker, grabber, box, sink):
    """Track one camera until its grabber ends; return frames per second."""
    begin, count = time.monotonic(), 0
    for grabbed in grabber:
        result = tracker.track(grabbed.pixels)
        if result.frame_index == 0:
            result = tracker.prompt(1, box=box)
        sink.write(grabbed.pixels, result)
        count += 1
    return count / (time.monotonic() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("out", type=Path)
    parser.add_argument("cameras", nargs="+", metavar="SOURCE=X0,Y0,X1,Y1")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU for each camera, with onnx")
    parser.add_argument("--gpu", type=int, metavar="N", help="the number of the GPU, with other backends")
    args = parser.parse_args()

    bundle = Bundle.open(args.bundle)  # reads and checks its files once
    backend = open_backend(args.backend, threads=args.threads, gpu=args.gpu)  # has each graph in memory once
    # On exit the cameras end first, then the threads, then the trackers and files that the threads use.
    with ExitStack() as used, ThreadPoolExecutor(len(args.cameras)) as threads, ExitStack() as cameras:
        running = {}
        for number, (word, _, box) in enumerate(camera.rpartition("=") for camera in args.cameras):
            tracker = used.enter_context(VideoTracker(bundle, backend, max_objects=1))
            sink = used.enter_context(JsonSink(args.out / f"{number}.jsonl"))
            grabber = cameras.enter_context(Grabber(partial(open_source, word), report=print))
            corners = [float(corner) for corner in box.split(",")]
            running[threads.submit(follow, tracker, grabber, corners, sink)] = word
        wait(running)
        for done, word in running.items():
            print(f"{word}: {done.result():.1f} frames a second")


if __name__ == "__main__":
    main()
