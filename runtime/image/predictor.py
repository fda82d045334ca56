"""Segmentation of images by prompts: the methods of upstream's SAM2ImagePredictor on the exported graphs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence, Sized
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge import checks
from sam2edge.bundle import Bundle, Model
from sam2edge.closeable import Closeable
from sam2edge.errors import FrameError, InputError, MediaError, PromptError, Sam2EdgeError
from sam2edge.runtime.backends.base import AnyArray, Array, Backend
from sam2edge.runtime.image.components import fill_small_components
from sam2edge.runtime.image.pixels import rgb_pixels
from sam2edge.runtime.model.graphs import Embedding, Graphs, in_turn
from sam2edge.runtime.model.logits import LOGIT_LIMIT, upsample
from sam2edge.runtime.model.prompts import EncodedPrompt, check_arrays, check_logits, check_points
from sam2edge.runtime.model.resize import resize
from sam2edge.types import Floats

Prediction = tuple[Floats, Floats, Floats]
_Prompts = tuple[Array, Array, Floats | None]
"""Points [N,P,2] in pixels of the image, labels [N,P] and a mask input [N,1,4h,4h] or None."""

_BYTES_PER_PIXEL = 1500
"""Memory that the encoder takes per pixel of its input. Tiny at 1024 was measured at 0.8 to 1.1 GB an image (onnx,
CPU), and large has 1.5 times as many channels."""
_MAX_BATCH = 16


class ImagePredictor(Closeable):
    """Masks on images from points, boxes and earlier masks. Code written for SAM2ImagePredictor runs with it.

    An image is encoded once, and every prompt reuses that. Wrong arguments raise an InputError and change nothing; the
    image that was set stays. Calls from several threads wait for each other, but the image is the one that any of them
    set last: give each thread that sets images its own predictor.

    Args:
        bundle: A Bundle or the path of one.
        backend: A name of sam2edge.runtime.BACKENDS or a Backend.
        mask_threshold: Logits above this are the object.
        max_hole_area: Fill holes of up to this many low-resolution pixels in the masks (not in the logits); 0: none.
        max_sprinkle_area: Clear islands of up to this many low-resolution pixels in the masks; 0: none.

    Raises:
        Sam2EdgeError: The bundle cannot be used, the backend is not available, or an argument is invalid.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        backend: str | Backend = "auto",
        *,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> None:
        self.mask_threshold = checks.number("mask_threshold", mask_threshold)
        self._max_hole_area = checks.number("max_hole_area", max_hole_area, 0)
        self._max_sprinkle_area = checks.number("max_sprinkle_area", max_sprinkle_area, 0)
        self._graphs = Graphs(bundle, backend, ("image_encoder", "mask_decoder"), "predictor")
        self._images: tuple[Embedding, ...] = ()
        self._is_batch = False
        self._repeated: tuple[Embedding, AnyArray] | None = None

    @property
    def model(self) -> Model:
        """The model's parameters."""
        return self._graphs.model

    @property
    def embedding(self) -> Embedding:
        """The image that is set, the last one of a batch; PromptError if there is none."""
        self._graphs.check_open()
        if not self._images:
            raise PromptError("no image is set; call set_image(image) first, then predict on it")
        return self._images[-1]

    def set_image(self, image: object) -> None:
        """Encode an image for the prompts that follow; raise FrameError for one that is invalid.

        Args:
            image: RGB uint8 [H,W,3], a numpy array or what numpy converts to one; or an image of PIL, taken as
                `read_image` takes its file: converted by its mode, without alpha, and turned as its EXIF says. (Its
                `size` and upstream's class ignore EXIF.)
        """
        self.set_embedding(self.encode(image))

    @in_turn
    def set_embedding(self, embedding: Embedding) -> None:
        """Set an image that `encode` or `encode_many` encoded; FrameError if another model or backend did."""
        self._graphs.check_open()
        self._set((self._graphs.check_embedding(embedding),), batch=False)

    @in_turn
    def set_image_batch(self, image_list: Sequence[object]) -> None:
        """Encode several images of any sizes for `predict_batch`; `predict` then uses the last one, as upstream.

        A FrameError names the first invalid image, if there is one; `encode_many` skips those.
        """
        self._graphs.check_open()
        if not isinstance(image_list, (list, tuple)) or not image_list:
            got = "an empty one" if isinstance(image_list, (list, tuple)) else type(image_list).__name__
            raise FrameError(f"image_list must be a list of images uint8 [H,W,3] (RGB) but got {got}")
        images = []
        for index, embedding in self.encode_many(image_list):
            if isinstance(embedding, Sam2EdgeError):
                raise FrameError(f"image {index} of {len(image_list)}: {embedding}") from embedding
            images.append(embedding)
        self._set(tuple(images), batch=True)

    def encode(self, image: object) -> Embedding:
        """Encode an image, as for `set_image`, without setting it; FrameError if it is invalid."""
        self._graphs.check_open()
        return self._graphs.encode(rgb_pixels(image))

    def encode_many(
        self, images: Iterable[object], batch_size: int | None = None
    ) -> Iterator[tuple[int, Embedding | Sam2EdgeError]]:
        """Encode any number of images of any sizes, in batches.

        At most one image and `batch_size` embeddings are held at a time.

        Args:
            images: As for `set_image`, and may be lazy: `map(load, paths)` reads a file when its turn comes.
            batch_size: The most images per encoder run, and no more than engines were built for. By default as many as
                a quarter of the available main memory holds, at most 16; GPU memory is not considered.

        Yields:
            (index, embedding) in order. An image that is invalid, or whose loading raises a Sam2EdgeError or OSError,
            comes as (index, error), and the others follow.

        Raises:
            InputError: An argument is wrong; raised at once, before iteration.
            BackendError: The encoder failed.
        """
        self._graphs.check_open()
        if isinstance(images, (np.ndarray, str, bytes)) or not isinstance(images, Iterable):
            raise InputError(f"images must be a list or iterator of images but got {type(images).__name__}")
        if batch_size is None:
            batch_size = default_batch_size(self.model)
        batch_size = checks.integer("batch_size", batch_size, 1)
        if isinstance(images, Sized):
            batch_size = max(1, min(batch_size, len(images)))
        return self._encode_many(images, min(batch_size, self._graphs.max_size("image_encoder", "image") or batch_size))

    @in_turn
    def predict(
        self,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> Prediction:
        """Return the masks for a prompt on the image that is set, or for N prompts at once.

        Args:
            point_coords: [P,2] or [N,P,2] x, y in pixels of the image.
            point_labels: [P] or [N,P]: 1 object, 0 background, -1 padding.
            box: [4] or [N,4] x0, y0, x1, y1; may be combined with points.
            mask_input: Logits of an earlier prediction, [1,4h,4h] or [N,1,4h,4h].
            multimask_output: Whether to return three masks, for ambiguous prompts, instead of one.
            return_logits: Whether to return masks as logits.
            normalize_coords: Whether points and boxes are in pixels; if not, from 0 to 1 across the image.

        Returns:
            Masks float32 [C,H,W] of 0 and 1 (upstream's type; or logits), their predicted IoUs float32 [C], and
            low-resolution logits float32 [C,4h,4h], clamped to ±32, one of which can be the next `mask_input`. C is 3
            or 1; all get a leading N when N > 1.

        Raises:
            PromptError: The prompt is invalid, or no image is set.
        """
        prompt = self.check_prompt(point_coords, point_labels, box, mask_input, normalize_coords)
        return self._predict(self.embedding, prompt, multimask_output, return_logits)

    @in_turn
    def predict_batch(
        self,
        point_coords_batch: Sequence[npt.ArrayLike | None] | None = None,
        point_labels_batch: Sequence[npt.ArrayLike | None] | None = None,
        box_batch: Sequence[npt.ArrayLike | None] | None = None,
        mask_input_batch: Sequence[npt.ArrayLike | None] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[Floats], list[Floats], list[Floats]]:
        """Call `predict` for every image of `set_image_batch`: lists with one entry per image give lists of results.

        A PromptError names the image whose prompt is invalid.
        """
        self._graphs.check_open()
        if not self._is_batch:
            raise PromptError("no batch of images is set; call set_image_batch(image_list) first, or predict()")
        count = len(self._images)
        lists = {
            "point_coords_batch": point_coords_batch,
            "point_labels_batch": point_labels_batch,
            "box_batch": box_batch,
            "mask_input_batch": mask_input_batch,
        }
        for name, values in lists.items():
            got = len(values) if isinstance(values, (list, tuple, np.ndarray)) else type(values).__name__
            if values is not None and got != count:
                raise PromptError(f"{name} must be a list with one entry per image ({count}) but got {got}")
        columns = [[None] * count if values is None else values for values in lists.values()]
        predictions = []
        for index, (embedding, *values) in enumerate(zip(self._images, *columns, strict=True)):
            try:
                prompt = self._check(embedding, values, normalize_coords)
                predictions.append(self._predict(embedding, prompt, multimask_output, return_logits))
            except InputError as error:
                raise type(error)(f"image {index} of {count}: {error}") from error
        masks, ious, logits = ([of_image[i] for of_image in predictions] for i in range(3))
        return masks, ious, logits

    @in_turn
    def check_prompt(
        self,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        normalize_coords: bool = True,
    ) -> _Prompts:
        """Check `predict`'s prompt; return it for `decode`: points [N,P,2] in pixels, labels [N,P], logits or None."""
        return self._check(self.embedding, (point_coords, point_labels, box, mask_input), normalize_coords)

    @in_turn
    def decode(
        self,
        points: npt.ArrayLike,
        labels: npt.ArrayLike,
        mask_input: npt.ArrayLike | None = None,
        multimask: bool = True,
        *,
        features: Floats | None = None,
        wanted: Collection[str] = ("masks", "ious", "mask", "iou"),
    ) -> dict[str, Floats]:
        """Run the decoder for N prompts on the image that is set, and return its outputs neither upsampled nor clamped.

        Args:
            points: [N,P,2] in pixels of the image, inside or outside.
            labels: [N,P]: 1 object, 0 background, 2 and 3 the corners of a box, -1 padding.
            mask_input: [N,1,4h,4h] logits, which upstream clamps to ±32 before it feeds them back.
            multimask: Which mask "mask" is; see below.
            features: [N,C,h,h] in place of the image's own.
            wanted: Which outputs to return; fewer are faster where the graphs run on a GPU.

        Returns:
            "masks", float32 [N,3,4h,4h] logits; "ious", [N,3]; "mask", [N,1,4h,4h], the best of the three by predicted
            IoU, or without `multimask` the single one if it is stable; "iou", [N,1].

        Raises:
            PromptError: An argument is invalid, or no image is set.
        """
        embedding = self.embedding
        coordinates, kinds = check_arrays(points, labels)
        n, model = len(coordinates), self.model
        mask = None if mask_input is None else check_logits(mask_input, n, model.mask_size)
        if mask is not None and len(mask) != n:
            raise PromptError(f"mask_input is for {len(mask)} prompts but there are {n}; give one for each prompt")
        checks.flag("multimask", multimask, PromptError)
        expected = (n, model.hidden_dim, model.grid, model.grid)
        if features is not None and np.shape(features) != expected:
            raise PromptError(f"features must be {list(expected)} but got shape {list(np.shape(features))}")
        return self._decode(embedding, (coordinates, kinds, mask), multimask, wanted, features)

    @in_turn
    def get_image_embedding(self) -> Floats:
        """Return the features of the image that is set, float32 [1,C,h,h], or of a batch, [B,C,h,h].

        As upstream's, they include the no-memory embedding, which `Embedding.features` do not.
        """
        images = self._images if self._is_batch else (self.embedding,)
        no_memory = np.array(self.model.no_memory_embedding, np.float32)[:, None, None]
        self._graphs.check_open()
        return np.concatenate([self.features(image) for image in images]) + no_memory

    @in_turn
    def features(self, embedding: Embedding) -> Floats:
        """Return the features of an embedding on the host, float32 [1,C,h,h]."""
        return self._graphs.backend.download(embedding.features)

    @in_turn
    def reset_predictor(self) -> None:
        """Forget the image or batch that is set; the graphs stay loaded."""
        self._set((), batch=False)

    @in_turn
    def close(self) -> None:
        """Free the graphs; the predictor cannot be used after that."""
        self.reset_predictor()
        self._graphs.close()

    def _set(self, images: tuple[Embedding, ...], *, batch: bool) -> None:
        self._images, self._is_batch, self._repeated = images, batch, None

    def _encode_many(
        self, images: Iterable[object], batch_size: int
    ) -> Iterator[tuple[int, Embedding | Sam2EdgeError]]:
        side = self.model.image_size
        staging = np.empty((batch_size, side, side, 3), np.uint8)
        rest = enumerate(_each(images))
        while True:
            sizes: list[tuple[int, int]] = []
            errors: dict[int, Sam2EdgeError | None] = {}
            for index, image in itertools.islice(rest, batch_size):
                errors[index] = None
                try:
                    pixels = rgb_pixels(image)
                    staging[len(sizes)] = resize(pixels, side)
                    sizes.append(pixels.shape[:2])
                except Sam2EdgeError as error:
                    errors[index] = error
            if not errors:
                return
            self._graphs.check_open()
            encoded = iter(self._graphs.encode_batch(staging[: len(sizes)], sizes) if sizes else ())
            for index, failure in errors.items():
                yield index, next(encoded) if failure is None else failure

    def _check(self, embedding: Embedding, prompt: Sequence[npt.ArrayLike | None], normalize_coords: bool) -> _Prompts:
        checks.flag("normalize_coords", normalize_coords, PromptError)
        point_coords, point_labels, box, mask_input = prompt
        points, labels = check_points(
            point_coords, point_labels, box, embedding.size, in_pixels=normalize_coords, several=True
        )
        if mask_input is None:
            if not labels.size:
                raise PromptError("a prompt needs point_coords, a box or a mask_input")
            return points, labels, None
        mask = check_logits(mask_input, len(points), self.model.mask_size)
        if len(points) < len(mask):  # one prompt for several masks, or masks alone
            points, labels = np.repeat(points, len(mask), axis=0), np.repeat(labels, len(mask), axis=0)
        return points, labels, mask

    def _predict(
        self, embedding: Embedding, prompts: _Prompts, multimask_output: bool, return_logits: bool
    ) -> Prediction:
        checks.flag("multimask_output", multimask_output, PromptError)
        checks.flag("return_logits", return_logits, PromptError)
        wanted = ("masks", "ious") if multimask_output else ("mask", "iou")
        decoded = self._decode(embedding, prompts, multimask_output, wanted)
        logits, ious = (decoded[name] for name in wanted)
        shown = logits
        if self._max_hole_area or self._max_sprinkle_area:
            shown = fill_small_components(logits, self.mask_threshold, self._max_hole_area, self._max_sprinkle_area)
        masks = upsample(shown, embedding.size)
        if not return_logits:
            for mask in masks.reshape(-1, *embedding.size):  # in place: nothing else here is as large as the masks
                cv2.threshold(mask, self.mask_threshold, 1.0, cv2.THRESH_BINARY, dst=mask)
        low = np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT)
        return (masks, ious, low) if len(masks) > 1 else (masks[0], ious[0], low[0])

    def _decode(
        self,
        embedding: Embedding,
        prompts: _Prompts,
        multimask: bool,
        wanted: Collection[str],
        features: Floats | None = None,
    ) -> dict[str, Floats]:
        """Return outputs for N prompts, in as few runs as the engines allow."""
        points, labels, mask_input = prompts
        n = len(points)
        each = min(n, self._graphs.max_size("mask_decoder", "points") or n)
        runs = []
        for rows in (slice(start, start + each) for start in range(0, n, each)):
            mask = None if mask_input is None else mask_input[rows]
            prompt = EncodedPrompt.of_points(points[rows], labels[rows], embedding.size, self.model, mask)
            count = len(prompt.points)
            if features is None:
                conditioned = self._features(embedding, each)[:count]
            else:
                conditioned = np.ascontiguousarray(features[rows], np.float32)
            runs.append(self._graphs.decode(embedding, conditioned, prompt, np.ones(count, bool), multimask, wanted))
        return runs[0] if len(runs) == 1 else {name: np.concatenate([run[name] for run in runs]) for name in wanted}

    def _features(self, embedding: Embedding, n: int) -> AnyArray:
        """Return features [N,C,h,h]; kept, since many runs with the same number of prompts on an image are usual."""
        if n == 1:
            return embedding.features
        if self._repeated is None or self._repeated[0] is not embedding or self._repeated[1].shape[0] != n:
            repeated = self._graphs.zeros("mask_decoder", "conditioned", n)
            for row in range(n):
                self._graphs.backend.copy(embedding.features[0], repeated[row])
            self._repeated = embedding, repeated
        return self._repeated[1]


def available_memory() -> int | None:
    """Return how many bytes of main memory programs may still take; None where that is unknown."""
    memory = Path("/proc/meminfo")
    if not memory.is_file():
        return None
    values = dict(line.split(":", 1) for line in memory.read_text().splitlines() if ":" in line)
    return int(values.get("MemAvailable", "0 kB").split()[0]) * 1024


def default_batch_size(model: Model) -> int:
    """Return how many images a quarter of the available main memory holds, 1 to 16; 1 where that is unknown."""
    available = available_memory() or 0
    return int(np.clip(available // 4 // (_BYTES_PER_PIXEL * model.image_size**2), 1, _MAX_BATCH))


def _each(images: Iterable[object]) -> Iterator[object]:
    """Yield the images, and in place of one that cannot be loaded an error."""
    iterator = iter(images)
    while True:
        try:
            image = next(iterator)
        except StopIteration:
            return
        except Sam2EdgeError as error:
            image = error
        except OSError as error:
            image = MediaError(f"an image cannot be read: {error}")
        yield image
