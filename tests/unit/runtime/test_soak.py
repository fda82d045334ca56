"""Memory stays flat while streaming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam2edge import Bundle
from tests.blocked import run_blocked

STREAM = """
import json, os
import numpy as np
from sam2edge import VideoTracker

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

random = np.random.default_rng(0)
background = random.integers(0, 256, (96, 128, 3), np.uint8)
mask = np.zeros((96, 128), bool)
mask[20:60, 30:70] = True
sizes = []
with VideoTracker(sys.argv[1], max_objects=2) as tracker:
    for t in range(2000):
        frame = background.copy()
        frame[30:60, t % 90 : t % 90 + 30] = (200, 40, 40)
        result = tracker.track(frame)
        if t % 40 == 0:
            for object_id in result.object_ids[:1]:
                tracker.remove(object_id)
        if len(result.object_ids) < 2 or t % 40 == 0:
            tracker.prompt(t, box=(10, 20, 60, 80)) if t % 80 else tracker.prompt(t, mask=mask)
        elif t % 15 == 0:
            result = tracker.prompt(result.object_ids[0], points=[(64, 48), (2, 2)], labels=[1, 0])
        result.masks
        sizes.append(resident())
assert len(result.object_ids) == 2
print(json.dumps(sizes))
"""

BOUND = 6 << 20
"""The smallest array of a frame is the logits of one object, 32·32·4 bytes: keeping one a frame would be 7.6 MiB."""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_is_flat_after_50_frames(nano: Bundle, tmp_path: Path) -> None:
    sizes = json.loads(run_blocked(STREAM, nano.path, cwd=tmp_path))
    assert len(sizes) == 2000
    assert max(sizes[50:]) - sizes[49] < BOUND
