"""The runtime stands alone: no PyTorch, no exporter, a quick import."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import sam2edge
from sam2edge import Bundle
from tests.blocked import NOT_FOR_THE_RUNTIME, run_blocked

TRACK = """
import numpy as np
import sam2edge
frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
with sam2edge.VideoTracker(sys.argv[1]) as tracker:
    tracker.track(frame)
    tracker.prompt(1, box=(20, 20, 80, 80))
    result = tracker.track(frame)
with sam2edge.VideoPredictor(sys.argv[1]) as predictor:
    state = predictor.init_state([frame, frame])
    predictor.add_new_points_or_box(state, 0, 1, box=(20, 20, 80, 80))
    assert len(list(predictor.propagate_in_video(state))) == 2
with sam2edge.ImagePredictor(sys.argv[1]) as predictor:
    predictor.set_image(frame)
    predictor.predict(box=(20, 20, 80, 80))
    sam2edge.AutomaticMaskGenerator(predictor, points_per_side=2, min_mask_region_area=9).generate(frame)
print(result.frame_index, result.masks.shape, *(name for name in sys.modules if name.startswith("sam2edge.")))
"""

WORDS = """
import numpy as np
import sam2edge
frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
with sam2edge.WordDetector(sys.argv[1]) as detector:
    words = detector.words(["red cup"], others=["plate"]) + detector.words_like(frame, (20, 20, 80, 80), "this")
    words.save("words.npz")
    print(len(detector.detect(frame, sam2edge.Words.load("words.npz"), 0.0).words) > 0)
"""

THREADS = """
import os
import numpy
before = len(os.listdir("/proc/self/task"))
import sam2edge
import onnxruntime
print(len(os.listdir("/proc/self/task")) - before)
"""

IMPORT = """
import time
start = time.process_time()
import sam2edge
print(time.process_time() - start, end=" ")
for name in sam2edge.__all__:
    getattr(sam2edge, name)
print(time.process_time() - start)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory of processes that may do what ONNX Runtime does by itself."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_tracking_without_pytorch(nano: Bundle, home: Path, tmp_path: Path) -> None:
    """ONNX Runtime does not call home, which begins with a device id and a database in the user's cache folder."""
    printed = run_blocked(TRACK, nano.path, cwd=tmp_path)
    assert printed.startswith("1 (1, 96, 128) ")
    assert "sam2edge.runtime.video.tracker" in printed
    assert "sam2edge.export" not in printed
    assert "sam2edge.calibration" not in printed
    assert not list(home.rglob("*onnxruntime*"))


def test_words_without_pytorch_and_tokenizers(nano_words: Bundle, tmp_path: Path) -> None:
    assert run_blocked(WORDS, nano_words.path, cwd=tmp_path) == "True\n"


def test_doctor_does_not_call_home(home: Path, tmp_path: Path) -> None:
    run_blocked("from sam2edge import cli; cli.main(['doctor'])", cwd=tmp_path)
    assert not list(home.rglob("*onnxruntime*"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="only Linux lists a process's threads")
def test_onnx_runtime_has_no_thread_to_call_home_with(home: Path, tmp_path: Path) -> None:
    assert run_blocked(THREADS, cwd=tmp_path).strip() == "0"


def test_gpu_backends_without_pytorch_and_onnx(tmp_path: Path) -> None:
    run_blocked("import sam2edge.runtime.backends.tensorrt, sam2edge.runtime.backends.onnx_cuda", cwd=tmp_path)


@pytest.mark.parametrize("name", NOT_FOR_THE_RUNTIME)
def test_what_is_blocked_cannot_be_imported(tmp_path: Path, name: str) -> None:
    printed = run_blocked(f"try:\n    import {name}\nexcept ImportError as error:\n    print(error)", cwd=tmp_path)
    assert printed.strip() == f"{name} is blocked"


def test_import_time(tmp_path: Path) -> None:
    """Processor time in seconds, so that other programs do not count: of the import, and of all public names too."""
    times = [map(float, run_blocked(IMPORT, cwd=tmp_path).split()) for _ in range(3)]
    bare, all_names = map(min, zip(*times, strict=True))
    assert bare < 0.3
    assert all_names < 0.7


def test_public_names(tmp_path: Path) -> None:
    """They are sorted, lead somewhere, are those that type checkers see, and load nothing before they are used."""
    assert sam2edge.__all__ == sorted(sam2edge.__all__)
    assert [getattr(sam2edge, name).__name__ for name in sam2edge.__all__] == sam2edge.__all__
    tree = ast.parse(Path(sam2edge.__file__).read_text())
    imported = {name.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
    assert set(sam2edge.__all__) <= set(dir(sam2edge)) & imported
    with pytest.raises(AttributeError, match="no attribute 'Tracker'"):
        sam2edge.Tracker  # noqa: B018
    loaded = run_blocked("import sam2edge; print(*{'numpy', 'cv2', 'onnxruntime'} & set(sys.modules))", cwd=tmp_path)
    assert loaded == "\n"
