"""The word detector: what words name, or what resembles a box in a picture, is found in frames."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.bundle import Bundle
from sam2edge.bundle.words import DETECTOR, TEXT_ENCODER, WordsModel
from sam2edge.closeable import Closeable
from sam2edge.errors import BackendError, InputError, PromptError
from sam2edge.runtime.backends.base import Array, Backend, GraphRunner, open_backend
from sam2edge.runtime.backends.onnx import OnnxBackend
from sam2edge.runtime.model.boxes import nms, overlaps
from sam2edge.runtime.model.prompts import check_prompt
from sam2edge.runtime.model.resize import check_frame
from sam2edge.runtime.words.detections import Detections
from sam2edge.runtime.words.pixels import square_image, square_size
from sam2edge.runtime.words.tokenizer import Tokenizer
from sam2edge.runtime.words.words import Words, check_distinct
from sam2edge.types import Floats, Frame

_MOST = 256
"""Words at a time."""
_TEXTS_PER_RUN = 16
_SIMILAR = 0.8
"""Of the boxes around an object, those count whose IoU with it is at least this much of the best one's."""


class WordDetector(Closeable):
    """Finds what words name, with the detector that `sam2edge export` put into BUNDLE/words.

    It has no part in tracking: give what it finds to a predictor or tracker as boxes, or let a Follower do that. Calls
    from several threads wait for each other; a tracker in another thread runs on.

    Args:
        bundle: A Bundle or the path of one.
        backend: A name of sam2edge.runtime.BACKENDS or a Backend. Texts are encoded on the CPU with any.

    Raises:
        Sam2EdgeError: The bundle has no word detector or cannot be used, or the backend is not available.
    """

    def __init__(self, bundle: Bundle | str | os.PathLike[str], backend: str | Backend = "auto") -> None:
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self._bundle = opened.word_detector()
        backend = open_backend(backend)
        # texts are encoded on the CPU, with the threads that were asked for
        self._cpu = backend if isinstance(backend, OnnxBackend) else OnnxBackend()
        # on a stream of its own, beside the tracker's
        self._graph: GraphRunner | None = backend.new_stream().open(opened.graph_path(DETECTOR))
        self._turn = threading.Lock()

    @property
    def model(self) -> WordsModel:
        """The numbers of the detector."""
        return self._bundle.model

    def words(self, texts: Sequence[str], others: Sequence[str] = ()) -> Words:
        """Turn words into queries, with the text encoder on the CPU: once for a set of words.

        The text is encoded as it is written, as transformers' pipeline does. Detectors also were trained on sentences
        as "a photo of a cup", which may work better; capitals and spaces make no difference.

        Args:
            texts: What to find: at most 256 with `others`, each at most 14 tokens long (about ten English words).
            others: What to reject. A box that looks more like one of these is not reported, nor is a worse box that it
                overlaps.

        Raises:
            InputError: There are no texts, too many, one twice, or one that cannot be encoded.
        """
        for name, value in (("texts", texts), ("others", others)):
            if not isinstance(value, (list, tuple)):
                raise InputError(f'{name} must be a list, as ["red cup", "person"], but got {value!r}')
        names = (*texts, *others)
        if not texts:
            raise InputError("there are no texts; name what to find")
        self._check_count(len(names))
        table = Tokenizer(self._bundle.tokenizer_path, self.model).table(names)
        same: dict[bytes, str] = {}
        for name, tokens in zip(names, table, strict=True):
            if (twin := same.setdefault(tokens.tobytes(), name)) != name:
                raise InputError(f"the words {twin!r} and {name!r} are the same for the detector; leave one out")
        check_distinct(names)
        encoder = self._cpu.open(self._bundle.graph_path(TEXT_ENCODER))
        runs = (table[start : start + _TEXTS_PER_RUN] for start in range(0, len(table), _TEXTS_PER_RUN))
        return self._words(
            tuple(texts), tuple(others), np.concatenate([encoder.run({"ids": ids})["queries"] for ids in runs])
        )

    def words_like(self, picture: Frame, box: npt.ArrayLike, name: str) -> Words:
        """Turn what a box in a reference picture shows into a query: "more like this".

        Of the detector's own boxes around that one, it takes the one that is most of an object (OWLv2) or least like
        the picture as a whole (OWL-ViT), as transformers does for whole pictures. Scores are far higher than for words:
        begin with a threshold of 0.9, and join both kinds of query only with care.

        Args:
            picture: RGB uint8 [H,W,3].
            box: x0, y0, x1, y1 in pixels of the picture.
            name: What to call it.

        Raises:
            InputError: An argument is invalid, or no box of the detector is at this place.
        """
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"a name must be a text but got {name!r}")
        size = check_frame(picture, what="a picture").shape[:2]
        corners, _ = check_prompt(None, None, box, size)
        nothing = np.zeros((1, self.model.dim), np.float32)
        wanted = ("boxes", "embeddings", *(("objectness",) if self.model.objectness else ()))
        found = self._run(picture, nothing, wanted)
        embeddings = found["embeddings"]
        place = corners.astype(np.float32).ravel()
        ious = overlaps(place, found["boxes"] * square_size(size, self.model))
        if not ious.any():
            raise PromptError(f"the detector has no box at {place.tolist()}; give one around an object")
        near = np.flatnonzero(ious >= _SIMILAR * ious.max())
        merit = found["objectness"] if self.model.objectness else -embeddings @ embeddings.mean(axis=0)
        return self._words((name,), (), embeddings[[near[merit[near].argmax()]]])

    def detect(self, frame: Frame, words: Words, threshold: float = 0.1, overlap: float = 0.5) -> Detections:
        """Find words in a frame: the boxes of transformers' `post_process_object_detection`, each object once.

        Each of the detector's boxes has the word with the highest score. Of boxes that overlap, of whatever words, the
        best is kept; boxes in the padding around the frame are not. The objectness of OWLv2 has no part in the score,
        as in transformers.

        Args:
            frame: RGB uint8 [H,W,3].
            words: From this detector's `words` or `words_like`, or loaded.
            threshold: The score that a box must exceed, from 0 to 1.
            overlap: The IoU above which of two boxes the better one is kept; 1 keeps all.

        Raises:
            InputError: An argument is invalid, or the words are another detector's.
            BackendError: The engine failed, or its scores are not finite.
        """
        size = check_frame(frame).shape[:2]
        threshold, overlap = checks.number("threshold", threshold, 0, 1), checks.number("overlap", overlap, 0, 1)
        if not isinstance(words, Words):
            raise InputError(f"words must be what words() returns but got {words!r}")
        source = self._bundle.manifest.source
        words.check_for(source.title, source.sha256)
        self._check_count(len(words.names))
        found = self._run(frame, words.queries, ("boxes", "logits"))
        best = found["logits"].argmax(axis=1)
        scores = _sigmoid(np.take_along_axis(found["logits"], best[:, None], axis=1)[:, 0])
        boxes = found["boxes"] * square_size(size, self.model)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        kept = np.flatnonzero((scores > threshold) & (centres < size[::-1]).all(axis=1))
        names = tuple(words.names[n] for n in best[kept])
        inside = Detections(boxes[kept], scores[kept], names).within(size)
        rows = nms(inside.boxes, inside.scores, overlap)
        rows = rows[[inside.words[row] in words.texts for row in rows]]
        return Detections(inside.boxes[rows], inside.scores[rows], tuple(inside.words[row] for row in rows))

    def close(self) -> None:
        """Free the graph; the detector cannot be used after that."""
        with self._turn:
            self._graph = None

    def _check_count(self, count: int) -> None:
        most = self._open_graph().max_size("queries") or _MOST
        if count > most:
            raise InputError(f"there are {count} words, but at most {most} can be looked for at a time")

    def _run(self, picture: Frame, queries: Floats, wanted: Collection[str]) -> dict[str, Array]:
        """Run the detector on one picture; its outputs without their first axis."""
        image = square_image(picture, self.model)[None]
        with self._turn:
            outputs = self._open_graph().run_outputs({"image": image, "queries": queries}, wanted)
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise BackendError(f"the detector's {name} are not finite; build it in BF16 or FP32")
        return {name: values[0] for name, values in outputs.items()}

    def _open_graph(self) -> GraphRunner:
        if self._graph is None:
            raise BackendError("the word detector is closed; make a new one")
        return self._graph

    def _words(self, texts: tuple[str, ...], others: tuple[str, ...], queries: Floats) -> Words:
        source = self._bundle.manifest.source
        return Words(texts, others, queries, source.title, source.sha256)


def _sigmoid(values: Floats) -> Floats:
    with np.errstate(over="ignore"):  # to infinity, of which 1/… is 0
        scores = 1 / (1 + np.exp(-values))
    return scores.astype(np.float32, copy=False)
