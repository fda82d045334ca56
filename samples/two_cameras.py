"""Two or more cameras on one GPU: a tracker and a thread for each, and the bundle opened once.

    python samples/two_cameras.py BUNDLE OUT_DIR SOURCE=X0,Y0,X1,Y1 SOURCE=X0,Y0,X1,Y1 [--backend onnx-cuda]
SOURCE is 0, /dev/video0, csi:0, rtsp://…, or a file; the box is on its first frame. Writes OUT_DIR/0.jsonl, 1.jsonl, …
Ctrl-C quits. Graphs run without holding Python's lock, so the threads do not wait for each other.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sam2edge import Bundle, Grabber, JsonSink, VideoTracker, open_source


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
    args = parser.parse_args()

    bundle = Bundle.open(args.bundle)  # reads and checks its files once
    # On exit the cameras end first, then the threads, then the trackers and files that the threads use.
    with ExitStack() as used, ThreadPoolExecutor(len(args.cameras)) as threads, ExitStack() as cameras:
        running = {}
        for number, (word, _, box) in enumerate(camera.rpartition("=") for camera in args.cameras):
            tracker = used.enter_context(VideoTracker(bundle, args.backend, max_objects=1))
            sink = used.enter_context(JsonSink(args.out / f"{number}.jsonl"))
            grabber = cameras.enter_context(Grabber(partial(open_source, word), report=print))
            corners = [float(corner) for corner in box.split(",")]
            running[threads.submit(follow, tracker, grabber, corners, sink)] = word
        wait(running)
        for done, word in running.items():
            print(f"{word}: {done.result():.1f} frames a second")


if __name__ == "__main__":
    main()
