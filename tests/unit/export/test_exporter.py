"""Exporting: what is written, what is refused, and that nothing is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2edge import Bundle
from sam2edge.bundle import GRAPHS, contract
from sam2edge.errors import BundleError, InputError, MediaError, MissingFileError, ParityError, SourceError
from sam2edge.export import export, export_words, exporter
from sam2edge.export.parity import parity_frames
from sam2edge.export.words.detector import Detector
from tests.conftest import NANO, REPO


def test_every_output_was_compared(nano: Bundle) -> None:
    for name, (_, outputs) in contract(nano.model).items():
        parity = nano.manifest.graphs[name].parity
        assert set(parity) == {spec.name for spec in outputs}
        for output, error in parity.items():
            assert 0 < error.relative_error < 1e-4, (name, output)


def test_manifest_of_the_bundled_model(nano: Bundle) -> None:
    source, model = nano.manifest.source, nano.model
    assert (source.name, source.version, source.size) == ("nano", "2.1", "custom")
    assert (model.image_size, model.hidden_dim, model.memory_dim) == (128, 256, 64)
    assert (model.memory_frames, model.max_pointers) == (6, 16)
    assert (model.multimask_min_points, model.multimask_max_points, model.multimask_for_tracking) == (0, 1, True)
    assert np.shape(model.mask_prompt_kernel) == (4, 4)


def test_another_image_size_and_frames_of_a_video(
    tmp_path: Path, nano_words: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a bundle with a word detector, which stays."""
    shutil.copytree(nano_words.path, tmp_path / "b", copy_function=os.link)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "samples").symlink_to(REPO / "samples")
    fractions: list[float] = []
    bundle = export(
        "~/samples/nano",
        "~/b",
        image_size=256,
        frames="~/samples/clip.mp4",
        progress=lambda message, fraction: fractions.append(fraction),
    )
    assert bundle.path == tmp_path / "b"
    assert bundle.model.image_size == 256
    assert bundle.manifest.parity_frames == "clip.mp4"
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert sorted(path.name for path in bundle.path.iterdir()) == sorted(
        ["manifest.json", "words", *(f"{name}.onnx" for name in GRAPHS)]
    )
    assert bundle.words is not None
    assert nano_words.words is not None
    assert bundle.words.manifest == nano_words.words.manifest


def test_a_graph_that_differs_is_refused_and_the_old_bundle_stays(
    tmp_path: Path, owl_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one has memories pooled 4×4 and a word detector."""
    out, fractions = tmp_path / "b", list[float]()
    written = export(
        NANO,
        out,
        memory_pool=4,
        words=owl_model("owlvit"),
        words_size=64,
        progress=lambda message, part: fractions.append(part),
    )
    before = written.manifest
    assert Bundle.open(out).model.memory_pool == 4
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert written.words is not None
    assert written.words.model.image_size == 64
    original = exporter.MemoryEncoder.forward
    monkeypatch.setattr(exporter.MemoryEncoder, "forward", lambda self, *inputs: original(self, *inputs) * 1.002)
    with pytest.raises(ParityError, match=r"memory_encoder\.memory by 2\.0e-03"):
        export(NANO, out, words=owl_model("owlv2"))
    assert Bundle.open(out).manifest == before
    assert Bundle.open(out).words == written.words
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_word_detector_that_differs_is_refused_and_the_old_one_stays(
    tmp_path: Path, nano_words: Bundle, owl_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(nano_words.path, tmp_path / "b", copy_function=os.link)
    real = Detector.forward
    monkeypatch.setattr(Detector, "forward", lambda self, *inputs: tuple(x * 1.0002 for x in real(self, *inputs)))
    with pytest.raises(ParityError, match=r"more than 0\.0001 relative: words/detector\.boxes by 2\.0e-04"):
        export_words(owl_model("owlv2"), copy)
    assert Bundle.open(copy).words == replace(nano_words.words, path=copy / "words")
    assert {path.name for path in copy.iterdir()} == {path.name for path in nano_words.path.iterdir()}


def test_a_word_detector_needs_a_bundle(tmp_path: Path, owl_model: Callable[[str], Path]) -> None:
    with pytest.raises(MissingFileError, match="no such bundle directory"):
        export_words(owl_model("owlv2"), tmp_path / "b")
    with pytest.raises(InputError, match="words_size does nothing without words"):
        export(NANO, tmp_path / "b", words_size=64)
    with pytest.raises(SourceError, match="is a sam2_video, not a word detector"):
        export(NANO, tmp_path / "b", words=NANO)
    assert not list(tmp_path.iterdir())


def test_out_is_checked_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(BundleError, match="exists but is not a bundle"):
        export(tmp_path / "no such checkpoint", tmp_path)
    with pytest.raises(BundleError, match=r"precious\.txt/b: cannot be written"):
        export(tmp_path / "no such checkpoint", tmp_path / "precious.txt" / "b")
    assert (tmp_path / "precious.txt").read_text() == "keep"


def test_frames_must_be_readable_and_two(tmp_path: Path) -> None:
    broken = tmp_path / "x.png"
    broken.write_bytes(b"no image")
    with pytest.raises(MediaError, match=r"x\.png"):
        export(NANO, tmp_path / "b", frames=broken)
    single = tmp_path / "one.avi"
    writer = cv2.VideoWriter(str(single), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 64))
    writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    with pytest.raises(MediaError, match="has 1 frame, but two are compared"):
        export(NANO, tmp_path / "b", frames=single)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((64, 64, 3), 100 * number, np.uint8))
    frames, name = parity_frames(folder, 32)
    assert (frames[:, 0, 0, 0].tolist(), name) == ([0, 100], "folder")
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(MediaError, match=r"1\.png"):
        export(NANO, tmp_path / "b", frames=folder)
