"""Run code in a fresh process in which some modules cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOT_FOR_THE_RUNTIME = ("torch", "transformers", "tokenizers", "onnx", "sam2edge.export", "sam2edge.calibration")
"""What importing sam2edge and tracking must do without."""

_BLOCK = """\
import sys

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in {blocked!r}):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocker)
"""


def run_blocked(code: str, *arguments: object, cwd: Path) -> str:
    """What `code` prints; `arguments` are its sys.argv[1:]. A failure shows its traceback."""
    command = [sys.executable, "-W", "error", "-c", _BLOCK.format(blocked=NOT_FOR_THE_RUNTIME) + code]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
