"""`sam2edge segment`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sam2edge.commands import ERROR, options
from sam2edge.commands.console import StatusLine
from sam2edge.commands.options import file_path
from sam2edge.commands.prompts import add_prompts, prompts_by_id
from sam2edge.commands.words import Search, add_words, check_words, found_line, open_search
from sam2edge.errors import BackendError, InputError, MediaError, PromptError, Sam2EdgeError
from sam2edge.runtime.image import GRID

if TYPE_CHECKING:
    from sam2edge.runtime.image.predictor import ImagePredictor
    from sam2edge.runtime.image.segments import Segment
    from sam2edge.runtime.media.mask_files import LabelImage
    from sam2edge.runtime.model.prompts import Prompt
    from sam2edge.types import Frame


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Segment images: the objects that points, boxes and masks mark, the same in every image, what words name, or "
        "everything. A prompt without an ID is a new object; prompts with the same ID belong to one object. "
        "Coordinates are pixels."
    )
    options.add_bundle(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="a file, a folder of images or a 'pattern'")
    options.add_range(parser)
    add_prompts(parser)
    add_words(parser)
    options.add_auto(parser)
    parser.add_argument(
        "-o", "--output", type=file_path, metavar="DIR", required=True, help="write the images with the masks drawn"
    )
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write COCO masks and scores, a line per image")
    parser.add_argument(
        "--labels", action="store_true", help="write PNGs whose pixels are object ids, too: DIR/NAME.labels.png"
    )
    options.add_backend(parser)
    parser.set_defaults(verb=_segment)


def _segment(args: argparse.Namespace) -> int:
    prompts = prompts_by_id(args.prompts)
    _check(args, prompts)
    from sam2edge.runtime.image.mask_generator import AutomaticMaskGenerator
    from sam2edge.runtime.image.predictor import ImagePredictor
    from sam2edge.runtime.image.segments import find_everything
    from sam2edge.runtime.media.image_files import find_images

    images, failures = find_images(args.images)
    targets = _targets(images, args)
    place = ""
    done = 0
    words: list[str] = []
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(StatusLine())
        search = stack.enter_context(open_search(args))
        bundle = search.bundle if search else args.bundle
        predictor = stack.enter_context(ImagePredictor(bundle, options.backend(args)))
        find: Callable[[Frame], list[Segment]]
        if args.auto:
            grid = {name: getattr(args, name) for name in GRID if getattr(args, name) is not None}
            generator = AutomaticMaskGenerator(
                predictor, progress=lambda message, fraction: status.show(f"{place}, {message}"), **grid
            )
            find = functools.partial(find_everything, generator)
        else:
            find = functools.partial(_marked, predictor, prompts, search)
        lines = None
        if args.json and images:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            lines = stack.enter_context(args.json.open("w", encoding="utf-8"))
        for number, (path, target) in enumerate(zip(images, targets, strict=True), 1):
            place = f"{number}/{len(images)} images, {path.name}"
            status.show(place)
            try:
                words += _segment_one(path, target, find, args, lines)
                done += 1
            except BackendError:
                raise
            except Sam2EdgeError as error:
                failures.append(str(error) if str(error).startswith(str(path)) else f"{path}: {error}")
    print(f"{done} of {len(images)} images, {len(words)} masks: {args.output}")
    if search:
        print(found_line(search.words.texts, words))
    if args.auto and done and not words:
        print("no mask passed the filters; lower --pred-iou-thresh or --stability-score-thresh")
    for failure in failures:
        print(f"sam2edge: error: {failure}", file=sys.stderr)
    return ERROR if failures else 0


def _check(args: argparse.Namespace, prompts: Mapping[int, Prompt]) -> None:
    check_words(args)
    if not prompts and not args.auto and args.words is None:
        raise PromptError(
            "nothing to segment: give --point x,y or --box x0,y0,x1,y1 or --mask file.png, or --words 'red cup', or "
            "--auto"
        )
    if args.auto and (prompts or args.words is not None):
        raise PromptError(
            "--auto finds everything and takes no --point, --box, --mask or --words; give one or the other"
        )
    if not args.auto:
        options.refuse_ignored(args, *GRID, without="--auto")
    options.check_bundle_first(args, "sam2edge segment BUNDLE IMAGE")
    options.check_outputs(files=(args.json,), directories=(args.output,))


def _targets(images: Sequence[Path], args: argparse.Namespace) -> list[Path]:
    """Return where the overlays go: the images' names in the output folder, JPEGs as JPEGs, all others as PNGs.

    Later ones of the same name get a number; with --labels, so do those whose label images would have the same name
    (a.jpg and a.png). Raises an InputError rather than overwrite an image that is read.
    """
    targets: list[Path] = []
    taken: set[Path] = set()
    for path in images:
        suffix = path.suffix if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        target, number = args.output / (path.stem + suffix), 1
        while taken & (written := {target, _labels(target)} if args.labels else {target}):
            number += 1
            target = args.output / f"{path.stem}-{number}{suffix}"
        targets.append(target)
        taken |= written
    sources = {path.resolve() for path in images}
    for file in sorted(taken | ({args.json} if args.json else set())):
        if file.resolve() in sources:
            raise InputError(f"{file}: is an image that is read; write to another place")
    return targets


def _labels(target: Path) -> Path:
    """Return the path of the label image beside an overlay."""
    return target.with_suffix(".labels.png")


def _segment_one(
    path: Path, target: Path, find: Callable[[Frame], list[Segment]], args: argparse.Namespace, lines: TextIO | None
) -> list[str]:
    """Segment an image, write the outputs that were asked for, and return the word of each mask."""
    from sam2edge.runtime.media import overlay
    from sam2edge.runtime.media.image_files import read_image, write_image
    from sam2edge.runtime.media.mask_files import write_labels

    image = read_image(path, args.range)
    segments = find(image)
    ids, masks = [segment.object_id for segment in segments], [segment.mask for segment in segments]
    words = [segment.word for segment in segments]
    if args.auto:
        picture = overlay.draw_everything(image, masks)
    else:
        picture = overlay.draw_masks(image, ids, (mask.unpack() for mask in masks), words)
    write_image(target, picture)
    if args.labels:
        write_labels(_labels(target), _label_image(image.shape[:2], segments))
    if lines is not None:
        line = {
            "image": str(path),
            "size": list(image.shape[:2]),
            "overlay": str(target),
            "objects": [segment.record() for segment in segments],
        }
        try:
            print(json.dumps(line), file=lines, flush=True)
        except OSError as error:
            raise MediaError(f"{args.json}: cannot be written: {error.strerror}") from error
    return words


def _label_image(size: tuple[int, ...], segments: Sequence[Segment]) -> LabelImage:
    """Return object ids [H,W]: where prompted masks overlap the highest logit wins, of `--auto` the smallest mask."""
    from sam2edge.runtime.media import overlay
    from sam2edge.runtime.media.sinks import label_image, paint_labels

    ids = [segment.object_id for segment in segments]
    parts = [(row, *each.mask.bounds[:2], each.logits) for row, each in enumerate(segments) if each.logits is not None]
    if parts:
        return label_image(size, ids, parts)
    order = overlay.small_on_top([segment.mask for segment in segments])
    return paint_labels(size, [ids[i] for i in order], [segments[i].mask for i in order])


def _marked(
    predictor: ImagePredictor, prompts: Mapping[int, Prompt], search: Search | None, image: Frame
) -> list[Segment]:
    """Segment what prompts mark and what words find, whose ids follow those of the prompts."""
    from sam2edge.runtime.image.segments import segment_prompt, segment_words

    predictor.set_image(image)
    segments = [segment_prompt(predictor, object_id, prompt, image) for object_id, prompt in prompts.items()]
    if search:
        first_id = max(prompts, default=0) + 1
        segments += segment_words(predictor, search.detector, search.words, search.score, image, first_id)
    return segments
