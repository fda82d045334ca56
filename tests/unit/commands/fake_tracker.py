"""A tracker for tests of the command; tracking itself is tested elsewhere."""

import time

import numpy as np

from sam2edge.runtime.model.result import FrameResult

HEIGHT, WIDTH = 48, 64


class FakeTracker:
    """Gives each object a mask of all pixels, and keeps what it was called with.

    A frame's number is told by its grey: 20·i + 40.
    """

    def __init__(self, bundle, backend="auto", *, max_objects=16, **knobs):
        self.arguments, self.knobs = (bundle, backend, max_objects), knobs
        self.calls, self.ids, self.frames, self.closed = [], (), 0, False
        type(self).made = self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True

    @property
    def frame_index(self):
        return self.frames - 1

    def looks_at(self, frame_index):
        return True

    def encode(self, frame):
        return frame

    def track(self, frame):
        self.frames += 1
        self.calls.append(("track", round((frame.mean() - 40) / 20)))
        return self.result()

    def prompt(self, object_id, **given):
        self.calls.append(("prompt", object_id, given))
        if object_id not in self.ids:
            self.ids += (object_id,)
        return self.result()

    def remove(self, object_id):
        self.ids = tuple(other for other in self.ids if other != object_id)

    def result(self):
        count = len(self.ids)
        logits, ones = np.ones((count, HEIGHT, WIDTH), np.float32), np.ones(count, np.float32)
        return FrameResult(self.frames - 1, self.ids, logits, ones, ones, (HEIGHT, WIDTH))


class SlowTracker(FakeTracker):
    """Takes 20 ms for a frame, and prints when it is at the fifth and when it is closed."""

    def track(self, frame):
        if self.frames == 4:
            print("five", flush=True)
        time.sleep(0.02)
        return super().track(frame)

    def __exit__(self, *error):
        print("closed", flush=True)
