"""What is fuzzed: for every kind of input a valid one, how it is spoiled, and what reads it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np

from sam2edge import Bundle, ImagePredictor, VideoPredictor, VideoTracker, find_images, open_source, read_image
from sam2edge.bundle.engines import (
    ENGINES,
    MANIFEST,
    TENSORRT,
    Engine,
    EngineManifest,
    Engines,
    Limits,
    Target,
    Tensor,
    write_manifest,
)
from sam2edge.bundle.words import WordsBundle
from sam2edge.calibration.int8.recipe import Recipe
from sam2edge.calibration.measure.clip import Clip, TrueMasks
from sam2edge.cli import main
from sam2edge.closeable import Closeable
from sam2edge.errors import MediaError, Sam2EdgeError
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.mask_files import encode_labels, read_masks
from sam2edge.runtime.media.prompt_files import parse_prompts, schedule
from sam2edge.runtime.words.words import Words
from sam2edge.ui.player import Player
from sam2edge.ui.server import Server
from sam2edge.ui.session import Session
from tests.conftest import NANO, WORD_DETECTOR
from tests.fuzz import mutations
from tests.helpers import write_palette
from tests.unit.test_words_bundle import write_words

SIZE = (48, 64)
TARGET = Target(TENSORRT, "10.3.0", "Orin", 8, "", ("8.7",))


class Shared(Closeable):
    """What the readers need beside the input, made once: a bundle, a tracker, predictors and the web page."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
        self._made = contextlib.ExitStack()

    def close(self) -> None:
        """Close all of it."""
        self._made.close()

    @cached_property
    def tracker(self) -> VideoTracker:
        tracker = self._made.enter_context(VideoTracker(self.bundle, max_objects=2))
        tracker.track(self.frame)
        tracker.prompt(1, box=[5, 5, 40, 40])
        return tracker

    @cached_property
    def predictor(self) -> ImagePredictor:
        predictor = self._made.enter_context(ImagePredictor(self.bundle))
        predictor.set_image(self.frame)
        return predictor

    @cached_property
    def video_predictor(self) -> VideoPredictor:
        return self._made.enter_context(VideoPredictor(self.bundle))

    @cached_property
    def page(self) -> Server:
        """The server of the page, with a folder of two frames open; both are played by a thread of their own."""
        folder = Path(self._made.enter_context(tempfile.TemporaryDirectory(prefix="sam2edge-")))
        frames = _frames(self, folder, 2)
        tracker = self._made.enter_context(VideoTracker(self.bundle))
        session = self._made.enter_context(Session(tracker, folder / "masks"))
        session.open(str(frames))
        player, stop = Player(session), threading.Event()
        thread = threading.Thread(target=player.run, args=(stop,), daemon=True)
        thread.start()
        self._made.callback(thread.join)
        self._made.callback(stop.set)
        return self._made.enter_context(Server(player, 0))


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        valid: Makes a valid input, in an empty folder if it is a file; some kinds have several.
        spoil: Changes it, by random numbers.
        read: Reads it; raises a Sam2EdgeError if it does not like it, and checks the result if it does.
    """

    valid: Callable[[Shared, Path, Random], Any]
    spoil: Callable[[Random, Any], Any]
    read: Callable[[Shared, Any], object]


def attempt(name: str, seed: int | None, shared: Shared) -> str:
    """Read one spoiled input, or without a seed a valid one.

    Returns "error" for an error of ours and "result" for a result; everything else is raised.
    """
    random = Random(f"{name} {seed}")
    kind = KINDS[name]
    with tempfile.TemporaryDirectory(prefix="sam2edge-") as folder, _quietly():
        given = kind.valid(shared, Path(folder), random)
        if seed is not None:
            given = kind.spoil(random, given)
        try:
            kind.read(shared, given)
        except Sam2EdgeError:
            return "error"
        return "result"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Swallow what is printed, and what warnings say of inputs that are at fault."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


# ------------------------------------------------------------------------------------------- bundles and engines


def _bundle(shared: Shared, folder: Path, random: Random) -> Path:
    copy = shutil.copytree(shared.bundle.path, folder / "bundle", copy_function=os.link)
    manifest = copy / "manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()  # the link, not the original
    manifest.write_bytes(content)
    return manifest


def _open_bundle(shared: Shared, manifest: Path) -> None:
    opened = Bundle.open(manifest.parent)
    with VideoTracker(opened, max_objects=1) as tracker:
        tracker.track(shared.frame)
        _check_masks(tracker.prompt(1, points=[[20, 20]]).logits)


def _words_bundle(shared: Shared, folder: Path, random: Random) -> Path:
    write_words(folder / "words")
    return folder / "words" / "manifest.json"


def _engines(shared: Shared, folder: Path, random: Random) -> Path:
    profile = ((1, 2), (1, 2), (4, 2))
    engines = {}
    for name in ENGINES:
        (folder / f"{name}.engine").write_bytes(name.encode())
        graph = shared.bundle.manifest.graphs.get(name)
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        tensors = {"x": Tensor("float32", profile)}, {"y": Tensor("float16")}
        origin = graph.sha256 if graph else ""
        engines[name] = Engine(f"{name}.engine", sha256, len(name), "fp16", "", origin, *tensors, {"fp16": 3}, {}, 9, 1)
    write_manifest(folder, EngineManifest("fp16", TARGET, Limits(), 1 << 20, engines))
    return folder / MANIFEST


def _open_engines(shared: Shared, manifest: Path) -> None:
    opened = Engines.open(manifest.parent, shared.bundle, TARGET)
    for name in ENGINES:
        opened.read(name)


def _recipe(shared: Shared, folder: Path, random: Random) -> Path:
    Recipe().write(folder / "recipe.json")
    return folder / "recipe.json"


# --------------------------------------------------------------------------------------------------- checkpoints


def _directory(shared: Shared, folder: Path, random: Random) -> Path:
    for file in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copy(NANO / file, folder)
    return folder / "config.json"


def _word_detector(shared: Shared, folder: Path, random: Random) -> Path:
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(WORD_DETECTOR / file, folder)
    return folder / random.choice(("config.json", "tokenizer.json"))


def _load_words(shared: Shared, file: Path) -> None:
    from sam2edge.export.words.source import load_words_source

    load_words_source(file.parent)


def _safetensors(shared: Shared, folder: Path, random: Random) -> Path:
    return _directory(shared, folder, random).with_name("model.safetensors")


def _pickle(shared: Shared, folder: Path, random: Random) -> Path:
    import torch

    weights = {"image_encoder.trunk.blocks.0.norm1.bias": torch.ones(3), "no_obj_ptr": torch.ones(1, 256)}
    torch.save({"model": weights, "epoch": 3, "lr": np.float64(0.1), "args": Random(0)}, folder / "model.pt")
    return folder / "model.pt"


def _spoil_content(random: Random, path: Path) -> Path:
    """Save other values than tensors in a checkpoint, or spoil its bytes."""
    import torch

    if random.random() < 0.6:
        return mutations.file(random, path)
    tensors: list[Any] = [
        torch.ones(3, dtype=torch.int8),
        torch.ones(3).to(torch.float8_e5m2),
        torch.ones(3, device="meta"),
        torch.ones(3).to_sparse(),
        torch.ones(1).expand(10**6, 10**6),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        np.ones(3),
        torch.nn.Parameter(torch.tensor([torch.nan])),
    ]
    names = ["image_encoder.trunk.blocks.0.norm1.bias", *(f"image_encoder.trunk.blocks.{i}.x" for i in (11, 15, 10**9))]
    names += random.sample(["image_encoder.neck.convs.0.conv_1x1.weight"], random.randint(0, 1))  # an EfficientTAM
    content = {place: {name: random.choice(tensors) for name in names} for place in ("model", "state_dict")}
    torch.save(mutations.value(random, content), path)
    return path


def _load(shared: Shared, file: Path) -> None:
    from sam2edge.export.source import load_source

    load_source(file.parent if file.name in ("config.json", "model.safetensors") else file)


# ------------------------------------------------------------------------------------------------------- prompts


def _check_masks(logits: Any) -> None:
    assert np.isfinite(logits).all(), "a result with numbers that are not finite"


def _prompt(shared: Shared, folder: Path, random: Random) -> dict[str, Any]:
    mask = np.zeros(SIZE, int)
    mask[10:30, 20:40] = 1
    parts = {"points": [[20, 20], [30.5, 25]], "labels": [1, 0], "box": [5, 6, 40, 41.5], "mask": mask.tolist()}
    names = [("points", "labels"), ("box",), ("points", "labels", "box"), ("mask",)]
    return {name: parts[name] for name in random.choice(names)} | {"object_id": 1}


def _give_prompt(shared: Shared, given: dict[str, Any]) -> None:
    tracker = shared.tracker
    before = tracker.object_ids
    try:
        result = tracker.prompt(given.pop("object_id", 1), **_known(given, "points", "labels", "box", "mask"))
    except Sam2EdgeError:
        assert tracker.object_ids == before
        raise
    _check_masks(result.logits)
    if len(tracker.object_ids) > 1:
        tracker.remove(tracker.object_ids[-1])


def _known(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}


def _image_prompt(shared: Shared, folder: Path, random: Random) -> dict[str, Any]:
    return {"point_coords": [[20, 20]], "point_labels": [1], "box": [5, 6, 40, 41], "multimask_output": True}


def _predict(shared: Shared, given: dict[str, Any]) -> None:
    names = ("point_coords", "point_labels", "box", "mask_input", "multimask_output", "return_logits")
    masks, ious, _ = shared.predictor.predict(**_known(given, *names))
    assert masks.shape[-2:] == SIZE
    _check_masks(ious)


def _words(shared: Shared, folder: Path, random: Random) -> list[str]:
    mask = folder / "mask.png"
    cv2.imwrite(str(mask), np.full(SIZE, 255, np.uint8))
    prompts = ["--box", "5,6,40,41", "--point", "2:20,20", "--point", "2:30,30,0", "--mask", f"3:{mask}"]
    if random.random() < 0.5:
        image = _frames(shared, folder, 1) / "0.png"
        return ["segment", str(shared.bundle.path), str(image), *prompts, "-o", str(folder / "out")]
    frames = str(_frames(shared, folder, 2))
    later = ["--box", "1:8,6,40,41@1"]
    return ["track", str(shared.bundle.path), frames, *prompts, *later, "--json", str(folder / "out.jsonl")]


def _frames(shared: Shared, folder: Path, count: int) -> Path:
    """Return a new folder of images."""
    frames = folder / "frames"
    frames.mkdir()
    for number in range(count):
        cv2.imwrite(str(frames / f"{number}.png"), shared.frame)
    return frames


def _spoil_words(random: Random, words: list[str]) -> list[str]:
    """Spoil the words of the prompts, or give other numbers; the places of the files stay."""
    prompts = words[3:-2]
    for _ in range(random.choice([1, 1, 2])):
        at = random.randrange(1, len(prompts), 2) if random.random() < 0.9 else random.randrange(len(prompts))
        text = mutations.bytes_of(random, prompts[at].encode()).decode("utf-8", "replace")
        odd = [
            "",
            ",",
            "nan,nan",
            "1e400,1",
            "99999999999:1,1",
            "-1:1,1",
            "0:5,5",
            "1,1,2",
            "5,5@3",
            "²:1,1",
            "1:" * 99,
        ]
        numbers = ",".join(f"{random.uniform(-3, 60):.1f}" for _ in range(prompts[at].count(",") + 1))
        extreme = str(random.choice(mutations.EXTREMES))
        prompts[at] = random.choice([text, numbers, f"7:{numbers}", random.choice(odd), extreme]).replace("\0", "?")
    return [*words[:3], *prompts, *words[-2:]]


def _prompt_file(shared: Shared, folder: Path, random: Random) -> Path:
    _frames(shared, folder, 2)
    cv2.imwrite(str(folder / "mask.png"), np.full(SIZE, 255, np.uint8))
    lines: list[dict[str, Any]] = [
        {"frame": 0, "object": 1, "points": [[20, 20], [30.5, 25]], "labels": [1, 0], "box": [5, 6, 40, 41]},
        {"frame": 0, "object": 2, "mask": "mask.png"},
        {"frame": 1, "object": 1, "points": [[20, 20]]},
        {"frame": 1, "object": 2, "remove": True},
        {"frame": 1, "source": "frames", "object": 2, "mask": _run_lengths()},
    ]
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def _run_lengths() -> dict[str, Any]:
    return dict(rle.encode(np.indices(SIZE).sum(axis=0) % 40 < 20))


def _prompts_text(shared: Shared, folder: Path, random: Random) -> list[dict[str, Any]]:
    return [
        {"object": 2, "points": [[20, 20], [30.5, 25]], "labels": [1, 0], "box": [5, 6, 40, 41]},
        {"object": 1, "remove": True},
        {"mask": _run_lengths()},
    ]


def _spoil_text(random: Random, lines: list[dict[str, Any]]) -> str:
    """Spoil prompts for a network, as an array or lines, and now and then the text."""
    spoilt = mutations.value(random, lines)
    text = json.dumps(spoilt)
    if random.random() < 0.5 and isinstance(spoilt, list):
        text = "\n".join(map(json.dumps, spoilt))
    return text if random.random() < 0.8 else mutations.bytes_of(random, text.encode()).decode("utf-8", "replace")


def _parse_prompts(shared: Shared, given: str | list[dict[str, Any]]) -> None:
    """Read prompts as a server does, which checks all of them before it gives any."""
    text = given if isinstance(given, str) else json.dumps(given)
    lines = schedule(parse_prompts(text, "PROMPTS"), shared.tracker.object_ids)
    for line in lines:
        line.check(SIZE)
    for line in lines:
        assert line.remove or _known(line.prompt.arguments, "points", "box", "mask")
        assert parse_prompts(str(line), "again") == [line]


def _track_prompts(shared: Shared, file: Path) -> None:
    frames, out = str(file.parent / "frames"), file.parent / "out.jsonl"
    _command(shared, ["track", str(shared.bundle.path), frames, "--prompts", str(file), "--json", str(out)])
    assert [json.loads(line)["frame_index"] for line in out.read_text().splitlines()] == [0, 1]


def _command(shared: Shared, words: list[str]) -> None:
    """Run a command line; an error of ours has a line of its own and exit code 1 or 2."""
    try:
        code = main(words)
    except SystemExit as exited:  # argparse's, for wrong usage
        code = int(exited.code or 0)
    if code:
        assert code in (1, 2), f"exit code {code}"
        raise Sam2EdgeError(f"exit code {code}")


def _call(shared: Shared, folder: Path, random: Random) -> dict[str, Any]:
    calls: list[dict[str, Any]] = [
        {"call": "click", "body": {"object": 1, "x": 20, "y": 20.5, "label": 1, "frame": 1}},
        {"call": "remove", "body": {"object": 1}},
        {"call": "save", "body": {"on": False}},
        {"call": "undo", "body": {}},
        {"call": "step", "body": {}},
        {"call": "restart", "body": {}},
    ]
    return random.choice(calls)


def _spoil_body(random: Random, given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "body": mutations.value(random, given["body"]) if given["body"] else random.choice([{}, [], None])}


def _post(shared: Shared, given: dict[str, Any]) -> None:
    """Send a call to the page's server, which refuses what is wrong with a status of 4xx."""
    request = urllib.request.Request(f"{shared.page.url}{given['call']}", json.dumps(given["body"]).encode())
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
    except urllib.error.HTTPError as refused:
        text = json.loads(refused.read())["error"]
        raise (Sam2EdgeError if refused.code < 500 else RuntimeError)(text) from refused


# -------------------------------------------------------------------------------------- images, masks and videos


def _images(shared: Shared, folder: Path, random: Random) -> Path:
    suffix = random.choice([".png", ".jpg", ".tiff", ".webp", ".bmp"])
    deep = suffix in (".png", ".tiff") and random.random() < 0.3
    file = folder / f"image{suffix}"
    cv2.imwrite(str(file), shared.frame.astype(np.uint16) << 8 if deep else shared.frame)
    return file


def _read_image(shared: Shared, file: Path) -> None:
    find_images([file.parent])
    for value_range in ((-1, 1000.5), None):
        pixels = read_image(file, value_range)
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)


def _labels(shared: Shared, folder: Path, random: Random) -> Path:
    labels = np.zeros(SIZE, np.uint8)
    labels[10:20, 10:20], labels[30:40, 30:40] = 1, 2
    if random.random() < 0.5:
        (folder / "0.png").write_bytes(encode_labels(labels))
    else:
        write_palette(folder / "0.png", labels)
    return folder / "0.png"


def _read_labels(shared: Shared, file: Path) -> None:
    truth = TrueMasks(file.parent)
    truth.masks(0, truth.object_ids, truth[0].shape)
    assert all(mask.any() and mask.shape == truth[0].shape for mask in read_masks(file).values())


def _queries(shared: Shared, folder: Path, random: Random) -> Path:
    Words(("cup", "dog"), ("cat",), np.eye(3, 8, dtype=np.float32), "OWLv2 base", "0" * 64).save(folder / "words.npz")
    return folder / "words.npz"


def _npz(shared: Shared, folder: Path, random: Random) -> Path:
    np.savez_compressed(folder / "masks.npz", labels=np.eye(8, dtype=np.uint8)[None])
    return folder / "masks.npz"


def _read_npz(shared: Shared, file: Path) -> None:
    truth = TrueMasks(file)
    truth.masks(0, truth.object_ids, truth[0].shape)


def _mask_words(shared: Shared, folder: Path, random: Random) -> Path:
    cv2.imwrite(str(folder / "image.png"), shared.frame)
    mask = np.zeros((*SIZE, random.choice([1, 3, 4])), np.uint8)
    mask[10:30, 20:40] = 255
    file = folder / f"mask{random.choice(['.png', '.bmp', '.jpg'])}"
    cv2.imwrite(str(file), mask if file.suffix != ".jpg" else mask[..., :3])
    return file


def _segment_mask(shared: Shared, file: Path) -> None:
    folder = file.parent
    image, out = str(folder / "image.png"), str(folder / "out")
    _command(shared, ["segment", str(shared.bundle.path), image, "--mask", str(file), "-o", out])


def _video(shared: Shared, folder: Path, random: Random) -> Path:
    suffix, codec = random.choice([(".avi", "MJPG"), (".mp4", "mp4v"), (".avi", "XVID")])
    file = folder / f"video{suffix}"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*codec), 10, SIZE[::-1])
    for shift in range(8):
        writer.write(np.roll(shared.frame, 3 * shift, axis=1))
    writer.release()
    return file


def _play(shared: Shared, file: Path) -> None:
    with open_source(str(file)) as source:
        for frame in islice(source, 50):
            assert isinstance(frame, MediaError) or frame.dtype == np.uint8
    state = shared.video_predictor.init_state(str(file))
    assert state["num_frames"]
    for frame in Clip(file, 3):
        assert frame.ndim == 3


KINDS = {
    "manifest.json": Kind(_bundle, mutations.json_file, _open_bundle),
    "words/manifest.json": Kind(_words_bundle, mutations.json_file, lambda shared, file: WordsBundle.open(file.parent)),
    "engines.json": Kind(_engines, mutations.json_file, _open_engines),
    "recipe.json": Kind(_recipe, mutations.json_file, lambda shared, file: Recipe.read(file)),
    "config.json": Kind(_directory, mutations.json_file, _load),
    "word detector": Kind(_word_detector, mutations.json_file, _load_words),
    "safetensors": Kind(_safetensors, mutations.file, _load),
    "pt": Kind(_pickle, _spoil_content, _load),
    "tracker's prompt": Kind(_prompt, mutations.arguments, _give_prompt),
    "image's prompt": Kind(_image_prompt, mutations.arguments, _predict),
    "words": Kind(_words, _spoil_words, _command),
    "page's call": Kind(_call, _spoil_body, _post),
    "prompts.jsonl": Kind(_prompt_file, mutations.json_file, _track_prompts),
    "PROMPTS": Kind(_prompts_text, _spoil_text, _parse_prompts),
    "image": Kind(_images, mutations.file, _read_image),
    "label image": Kind(_labels, mutations.file, _read_labels),
    "words.npz": Kind(_queries, mutations.file, lambda shared, file: Words.load(file)),
    "npz": Kind(_npz, mutations.file, _read_npz),
    "mask": Kind(_mask_words, mutations.file, _segment_mask),
    "video": Kind(_video, mutations.file, _play),
}
