"""Draw a box around something that a camera sees, and follow it, even if the camera disconnects and comes back.

    python samples/camera.py BUNDLE [--source 0] [--box X0,Y0,X1,Y1] [--json FILE]
With --box no screen is needed. Otherwise a window asks for the box, and again whenever the object is lost; q quits.
Windows need opencv-python in place of opencv-python-headless.
"""

import argparse

import cv2

from sam2edge import Grabber, JsonSink, Reconnect, VideoTracker, WindowSink, open_source


def draw_box(frame):
    """Let the user draw a box on a frame; return x0, y0, x1, y1, or None if nothing was drawn."""
    title = "draw a box, then press Enter"
    x, y, width, height = cv2.selectROI(title, frame[..., ::-1].copy())
    cv2.destroyWindow(title)
    return (x, y, x + width, y + height) if width and height else None


def follow(grabber, tracker, choose_box, sinks):
    """Track the object in the box that choose_box(frame) returns, until the source ends or a window is closed."""
    for grabbed in grabber:
        result = tracker.track(grabbed.pixels)
        if (not result.object_ids or result.lost) and (box := choose_box(grabbed.pixels)) is not None:
            for object_id in result.lost:
                tracker.remove(object_id)  # a new prompt beats a correction, see docs/how-to/knobs.md
            result = tracker.prompt(1, box=box)
        for sink in sinks:
            sink.write(grabbed.pixels, result)
        if any(sink.closed_by_user for sink in sinks):
            return


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--source", default="0", help="0, /dev/video0, csi:0, rtsp://…, http://…, 'gst:…' or a file")
    parser.add_argument("--box", help="X0,Y0,X1,Y1 on the first frame")
    parser.add_argument("--json", default="tracks.jsonl")
    args = parser.parse_args()
    boxes = iter([[float(number) for number in args.box.split(",")]] if args.box else ())
    choose = (lambda frame: next(boxes, None)) if args.box else draw_box
    with (
        VideoTracker(args.bundle, max_objects=1, min_confidence=0.5) as tracker,
        Grabber(lambda: open_source(args.source), reconnect=Reconnect(longest=5), report=print) as grabber,
        JsonSink(args.json) as log,
    ):
        follow(grabber, tracker, choose, [log] if args.box else [log, WindowSink()])
    print(grabber.statistics)


if __name__ == "__main__":
    main()
