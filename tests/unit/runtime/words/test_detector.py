"""The word detector against transformers' whole one, and the rules by which boxes are kept."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from transformers import CLIPTokenizer, Owlv2ForObjectDetection, OwlViTForObjectDetection
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from sam2edge import Bundle, WordDetector, Words
from sam2edge.errors import BackendError, BundleError, FrameError, InputError, PromptError
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend
from sam2edge.runtime.model.boxes import overlaps
from tests.conftest import WORD_DETECTOR
from tests.helpers import BALL, BLOCK, Counting, Frames, clip_frames
from tests.unit.runtime.words.test_pixels import owlv2, owlvit

MODELS: dict[str, Any] = {
    "owlv2": (Owlv2ForObjectDetection, Owlv2ImageProcessorPil, owlv2),
    "owlvit": (OwlViTForObjectDetection, OwlViTImageProcessorPil, owlvit),
}
TEXTS, OTHERS = ["red ball", "a blue block", "yellow star"], ["cat", "yellow"]


@pytest.fixture(scope="module")
def frames() -> Frames:
    return clip_frames(3)


@pytest.fixture(scope="module")
def detector(shapes: Bundle) -> Any:
    with WordDetector(shapes) as opened:
        yield opened


class Reference:
    """A word detector of transformers, from pictures and texts to boxes."""

    def __init__(self, kind: str, checkpoint: Path) -> None:
        model, processor, self._square = MODELS[kind]
        self.model = model.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self._processor = processor()
        self._tokenizer = CLIPTokenizer.from_pretrained(checkpoint, pad_token="!")

    def pixels(self, frame: Frames) -> torch.Tensor:
        square = torch.from_numpy(np.asarray(self._square(frame, self.model.config.vision_config.image_size)))
        mean, std = (torch.tensor(each) for each in (self._processor.image_mean, self._processor.image_std))
        return ((square.float() / 255 - mean) / std).permute(2, 0, 1)[None]

    @torch.inference_mode()
    def detect(self, frame: Frames, texts: list[str], threshold: float) -> dict[str, Array]:
        tokens = self._tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
        outputs = self.model(**tokens, pixel_values=self.pixels(frame))
        post_process = self._processor.post_process_object_detection
        [found] = post_process(outputs, threshold, target_sizes=[frame.shape[:2]])
        return {name: values.numpy() for name, values in found.items()}


@pytest.mark.parametrize(
    ("kind", "size"), [("owlv2", (60, 96)), ("owlv2", (96, 72)), ("owlvit", (240, 320)), ("owlvit", (320, 100))]
)
def test_random_detectors_as_in_transformers(
    kind: str, size: tuple[int, int], with_words: Callable[[str], Bundle], owl_model: Callable[[str], Path]
) -> None:
    """OWLv2 at sizes at which the picture is not resized, and so not rounded, to which random weights are sensitive."""
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    reference = Reference(kind, owl_model(kind))
    scores = reference.detect(frame, TEXTS, 0.0)["scores"]
    with WordDetector(with_words(kind)) as detector:
        for quantile in (0.1, 0.5, 0.8):
            check_as_in_transformers(detector, reference, frame, float(np.quantile(scores, quantile)), least=4)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3])
def test_bundled_detector_as_in_transformers(detector: WordDetector, frames: Frames, threshold: float) -> None:
    reference = Reference("owlv2", WORD_DETECTOR)
    for frame in (frames[2], np.ascontiguousarray(frames[2][:, :180])):
        check_as_in_transformers(detector, reference, frame, threshold, least=7)


def check_as_in_transformers(
    detector: WordDetector, reference: Reference, frame: Frames, threshold: float, least: int
) -> None:
    """Check that boxes, their scores and words are the same, at least so many, but for scores near the threshold."""
    margin = 2e-3
    expected = in_frame(reference.detect(frame, TEXTS, threshold - margin), frame.shape[:2])
    found = detector.detect(frame, detector.words(TEXTS), threshold, overlap=1.0)
    places = 0.5 * max(frame.shape) / 320
    same = (np.abs(found.boxes[:, None] - expected["boxes"]) < places).all(axis=2)
    same &= np.abs(found.scores[:, None] - expected["scores"]) < margin
    same &= np.array(found.words)[:, None] == np.array(TEXTS)[expected["labels"]]
    assert same.any(axis=1).all()
    assert same.any(axis=0)[expected["scores"] > threshold + margin].all()
    assert least <= len(found.words) <= len(expected["scores"])


def in_frame(found: dict[str, Array], size: tuple[int, int]) -> dict[str, Array]:
    boxes, edge = found["boxes"], np.tile(size[::-1], 2)
    clipped = np.clip(boxes, 0, edge)
    kept = ((boxes[:, :2] + boxes[:, 2:]) / 2 < edge[:2]).all(axis=1)
    kept &= (clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)
    return {"boxes": clipped[kept], "scores": found["scores"][kept], "labels": found["labels"][kept]}


def test_finds_the_clips_objects(detector: WordDetector, frames: Frames) -> None:
    found = detector.detect(frames[0], detector.words(["red ball", "blue block"], ["a dog"]), 0.3)
    truth = {"red ball": BALL, "blue block": BLOCK}
    assert sorted(found.words) == sorted(truth)
    for box, word in zip(found.boxes, found.words, strict=True):
        assert overlaps(box, np.array([truth[word]], np.float32))[0] > 0.75


class Scripted(Backend):
    """Runs the detector's graph, and gives boxes and logits of the test's in place of the first of its own."""

    def __init__(self, boxes: Any, logits: Any) -> None:
        self._boxes, self._logits = np.array(boxes, np.float32), np.array(logits, np.float32)

    def open(self, graph: Path) -> GraphRunner:
        runner = open_backend("onnx").open(graph)
        run = runner.run

        def scripted(inputs: Mapping[str, Any]) -> dict[str, Array]:
            outputs = run(inputs)
            outputs["logits"][:] = -20
            outputs["boxes"][0, : len(self._boxes)] = self._boxes / 96
            outputs["logits"][0, : len(self._logits)] = self._logits
            return outputs

        runner.run = scripted  # type: ignore[method-assign]
        return runner


def found_of(bundle: Bundle, boxes: Any, logits: Any, others: list[str], **options: float) -> list[tuple[Any, ...]]:
    """Return word, score and box of what is found in a frame of 48×96 with these boxes in its pixels."""
    with WordDetector(bundle, Scripted(boxes, logits)) as scripted:
        words = scripted.words(["red", "cup"], others)
        found = scripted.detect(np.zeros((48, 96, 3), np.uint8), words, **options)
    scores, boxes = (each.astype(float).round(3).tolist() for each in (found.scores, found.boxes))
    return list(zip(found.words, scores, boxes, strict=True))


def test_of_boxes_that_overlap_the_best_is_kept_whatever_its_word(nano_words: Bundle) -> None:
    boxes = [[0, 0, 40, 40], [2, 0, 42, 40], [60, 0, 90, 40], [0, 0, 40, 12]]
    logits = [[1, 0, -9], [-9, 2, 0], [0, -9, -9], [-1, -9, -9]]
    cup, red, thin = ("cup", 0.881, boxes[1]), ("red", 0.5, boxes[2]), ("red", 0.269, boxes[3])
    assert found_of(nano_words, boxes, logits, ["plate"]) == [cup, red, thin]
    assert found_of(nano_words, boxes, logits, ["plate"], overlap=0.2) == [cup, red]
    assert found_of(nano_words, boxes, logits, ["plate"], threshold=0.4) == [cup, red]
    assert len(found_of(nano_words, boxes, logits, ["plate"], overlap=1)) == 4
    assert found_of(nano_words, boxes, logits, ["plate"], threshold=1) == []


def test_others_take_their_boxes_with_them(nano_words: Bundle) -> None:
    """Also a worse box of a word that overlaps theirs."""
    boxes = [[0, 0, 40, 40], [2, 0, 42, 40], [60, 0, 90, 40]]
    logits = [[1, 0, -9], [-9, 0, 2], [-9, 0, -9]]
    assert found_of(nano_words, boxes, logits, ["plate"]) == [("cup", 0.5, boxes[2])]


def test_boxes_are_clipped_and_those_in_the_padding_left_out(nano_words: Bundle) -> None:
    boxes = [[-10, 20, 30, 60], [0, 40, 30, 60], [0, 47.5, 96, 48.4], [70, -3, 120, 9]]
    logits = [[3, 0], [4, 0], [5, 0], [-9, 2]]
    clipped = [("red", 0.953, [0, 20, 30, 48]), ("cup", 0.881, [70, 0, 96, 9])]
    assert found_of(nano_words, boxes, logits, []) == clipped


def test_scores_that_are_not_finite(nano_words: Bundle) -> None:
    with pytest.raises(BackendError, match="the detector's logits are not finite; build it in BF16 or FP32"):
        found_of(nano_words, [[0, 0, 9, 9]], [[np.nan, 0]], [])


def test_text_runs_once_and_on_the_cpu(nano_words: Bundle, frames: Frames) -> None:
    backend = Counting()
    with WordDetector(nano_words, backend) as detector:
        words = detector.words([f"cup {number}" for number in range(40)], ["plate"])
        assert backend.runs == {}
        for frame in frames:
            detector.detect(frame, words)
        assert backend.runs == {"detector": 3}
        one = detector.words(["cup 17"]).queries
    assert words.queries.shape == (41, 32)
    np.testing.assert_allclose(words.queries[17], one[0], atol=1e-6)


def test_text_is_encoded_with_the_threads_that_were_asked_for(
    nano_words: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = onnxruntime.InferenceSession, []

    def session(graph: str, options: Any, **more: Any) -> Any:
        taken.append((Path(graph).stem, options.intra_op_num_threads))
        return real(graph, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with WordDetector(nano_words, open_backend("onnx", threads=1)) as detector:
        detector.words(["red cup"])
    assert taken == [("detector", 1), ("text_encoder", 1)]


def test_saved_words(detector: WordDetector, frames: Frames, tmp_path: Path) -> None:
    words = detector.words(TEXTS, OTHERS)
    words.save(tmp_path / "new" / "words.npz")
    loaded = Words.load(tmp_path / "new" / "words.npz")
    assert (loaded.texts, loaded.others) == (tuple(TEXTS), tuple(OTHERS))
    first, second = (detector.detect(frames[0], each, 0.001, overlap=1) for each in (words, loaded))
    assert len(first.words) > 10
    assert (first.words, first.scores.tolist()) == (second.words, second.scores.tolist())


def test_more_like_this(detector: WordDetector, frames: Frames) -> None:
    """A reference picture of the block finds the block, in another frame of another size."""
    like = detector.words_like(frames[0], BLOCK, "that thing")
    assert (like.texts, like.others, like.queries.shape) == (("that thing",), (), (1, 96))
    later = np.pad(frames[2], ((0, 100), (0, 20), (0, 0)))
    found = detector.detect(later, like, 0.0)
    assert overlaps(found.boxes[0], np.array([BLOCK], np.float32))[0] > 0.7


@pytest.mark.parametrize(("kind", "size"), [("owlv2", 320), ("owlvit", 96)])
def test_more_like_a_whole_picture_is_as_in_transformers(
    kind: str, size: int, with_words: Callable[[str], Bundle], owl_model: Callable[[str], Path]
) -> None:
    """OWLv2's there is that of all boxes with the best objectness, and here of those around a box: so give that one."""
    frame = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    reference = Reference(kind, owl_model(kind))
    with torch.inference_mode():
        pixels = reference.pixels(frame)
        outputs = reference.model.image_guided_detection(pixels, pixels)
        grid = reference.model.image_embedder(pixels)[0]
        chosen = reference.model.embed_image_query(grid.reshape(1, -1, grid.shape[-1]), grid)[1]
    centre, reach = outputs.query_pred_boxes[0, int(chosen)].numpy().reshape(2, 2) * ([[1], [0.5]])
    box = np.concatenate([centre - reach, centre + reach]) if kind == "owlv2" else np.array([0, 0, 1, 1])
    with WordDetector(with_words(kind)) as detector:
        found = detector.detect(frame, detector.words_like(frame, box.clip(0, 1) * size, "it"), 0.0, 1.0)
    assert abs(found.scores[0] - torch.sigmoid(outputs.logits.max()).item()) < 2e-3


def test_joined_words(detector: WordDetector, frames: Frames) -> None:
    first, second = detector.words(["red ball"], ["cat"]), detector.words(["blue block", "dog"], ["mouse"])
    joined, together = first + second, detector.words(["red ball", "blue block", "dog"], ["cat", "mouse"])
    assert joined.names == together.names
    np.testing.assert_allclose(joined.queries, together.queries, atol=1e-6)
    with pytest.raises(InputError, match="the word 'cat' is there twice"):
        first + detector.words(["cat"])
    with pytest.raises(InputError, match=r"the words are for .*: make them with this detector's words\(\)"):
        first + dataclasses.replace(second, sha256="0" * 64)


def test_words_of_another_detector(detector: WordDetector, nano_words: Bundle, frames: Frames) -> None:
    with WordDetector(nano_words) as other:
        words = other.words(["cup"])
    with pytest.raises(InputError, match=r"the words are for OWLv2 custom \(sha256 \w{8}…\), but this is OWLv2 "):
        detector.detect(frames[0], words)


@pytest.mark.parametrize(
    ("texts", "others", "message"),
    [
        ([], ["cup"], "there are no texts; name what to find"),
        ("cup", [], r'texts must be a list, as \["red cup", "person"\], but got \'cup\''),
        (["cup"], None, "others must be a list"),
        (["cup", "cup"], [], "the word 'cup' is there twice"),
        (["cup"], ["  CUP"], "the words 'cup' and '  CUP' are the same for the detector"),
        (["cup", 3], [], "a text must be a string but got int"),
        (["cup "] + ["x" * n for n in range(1, 260)], [], "there are 260 words, but at most 256 can be looked for"),
    ],
)
def test_wrong_words(detector: WordDetector, texts: Any, others: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detector.words(texts, others)


def test_wrong_calls(detector: WordDetector, frames: Frames) -> None:
    words, frame = detector.words(["cup"]), frames[0]
    calls: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (FrameError, "a frame must be uint8", lambda: detector.detect(frame.astype(float), words)),  # type: ignore[arg-type]
        (InputError, r"words must be what words\(\) returns", lambda: detector.detect(frame, "cup")),  # type: ignore[arg-type]
        (InputError, "threshold must be a finite number from 0 to 1", lambda: detector.detect(frame, words, 2)),
        (InputError, "overlap must be a finite number from 0 to 1", lambda: detector.detect(frame, words, 0.1, -1)),
        (InputError, "a name must be a text but got ' '", lambda: detector.words_like(frame, BALL, " ")),
        (PromptError, "reaches outside the 320×240 frame", lambda: detector.words_like(frame, (0, 0, 999, 9), "x")),
        (FrameError, "a picture must be", lambda: detector.words_like(None, BALL, "x")),  # type: ignore[arg-type]
    ]
    for kind, message, call in calls:
        with pytest.raises(kind, match=message):
            call()


def test_no_box_at_the_place(nano_words: Bundle) -> None:
    with (
        WordDetector(nano_words, Scripted([[50, 50, 60, 60]] * 36, [[0]])) as scripted,
        pytest.raises(PromptError, match=r"the detector has no box at \[1.0, 1.0, 9.0, 9.0\]; give one around"),
    ):
        scripted.words_like(np.zeros((96, 96, 3), np.uint8), (1, 1, 9, 9), "it")


def test_bundle_without_words(nano: Bundle) -> None:
    with pytest.raises(BundleError, match="has no word detector; add one with `sam2edge export google/owlv2-base"):
        WordDetector(nano)


def test_closed(nano_words: Bundle, frames: Frames) -> None:
    detector = WordDetector(nano_words)
    words = detector.words(["cup"])
    detector.close()
    detector.close()
    for call in (lambda: detector.detect(frames[0], words), lambda: detector.words(["cup"])):
        with pytest.raises(BackendError, match="the word detector is closed; make a new one"):
            call()


def test_threads_take_turns(nano_words: Bundle, frames: Frames) -> None:
    with WordDetector(nano_words) as detector:
        words = detector.words(["cup", "cat"])
        alone = [detector.detect(frame, words, 0.0).scores.tolist() for frame in frames]
        found: dict[int, list[float]] = {}

        def detect(number: int) -> None:
            found[number] = detector.detect(frames[number % 3], words, 0.0).scores.tolist()

        threads = [threading.Thread(target=detect, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[number] for number in range(12)] == alone * 4


def spoiled(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("about"), "not words that were saved, or damaged"),
        (spoiled(about=np.array("{}")), "not words that were saved, or damaged"),
        (spoiled(about=np.array([None])), "not words that were saved, or damaged"),
        (spoiled(queries=np.zeros((2, 96), np.float32)), "not words that this sam2edge reads"),
        (spoiled(queries=np.zeros((1, 96))), "not words that this sam2edge reads"),
        (spoiled(queries=np.full((1, 96), np.nan, np.float32)), "its queries are not finite"),
    ],
)
def test_files_that_hold_no_words(
    detector: WordDetector, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    file = tmp_path / "words.npz"
    detector.words(["cup"]).save(file)
    with np.load(file) as data:
        arrays: dict[str, npt.NDArray[Any]] = dict(data)
    change(arrays)
    np.savez(file, **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"words.npz: {message}.*make them again"):
        Words.load(file)


def test_files_that_cannot_be_read_or_written(detector: WordDetector, tmp_path: Path) -> None:
    words = detector.words(["cup"])
    words.save(file := tmp_path / "words.npz")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"words.npz: not words that were saved, or damaged"):
        Words.load(file)
    np.save(file.with_suffix(".npy"), words.queries)
    with pytest.raises(InputError, match=r"words.npy: not words that were saved"):
        Words.load(file.with_suffix(".npy"))
    with pytest.raises(InputError, match=r"missing.npz: cannot be read: No such file"):
        Words.load(tmp_path / "missing.npz")
    with pytest.raises(InputError, match="is a directory, expected the name of a file to write"):
        words.save(tmp_path)
