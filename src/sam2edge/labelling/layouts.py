"""What other programs read: COCO's file, and the folders of DAVIS and YouTube-VOS, made of all items that are done.

They follow from what the items wrote, and a later run makes them again: nothing in them has to be restored. One frame
is in memory at a time, however many there are.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sam2edge.errors import InputError, MediaError
from sam2edge.files import IMAGE_SUFFIXES, link, replacing_directory, replacing_file, write_text
from sam2edge.labelling import LABEL_IMAGE_LAYOUTS
from sam2edge.labelling.items import Record, Settings
from sam2edge.labelling.outputs import MASKS, read_frames
from sam2edge.labelling.store import Store
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.image_files import find_images, stands_for_images

_OBJECT = "object"
"""The category of what no word found."""


def check_layouts(settings: Settings) -> None:
    """Raise an InputError for a layout that a run of such settings has nothing for."""
    if settings.mode == "auto" and (
        layout := next((name for name in settings.layouts if name in LABEL_IMAGE_LAYOUTS), None)
    ):
        raise InputError(f"the layout {layout} is for videos, which are not searched for everything; use coco")


def write_layouts(store: Store, settings: Settings, keys: Sequence[str]) -> list[Path]:
    """Write the layouts of a run into its folder, each as a whole, and return where they are.

    Args:
        store: Of the run.
        settings: They name the layouts.
        keys: The items that belong to the run; those that are not done are left out.

    Raises:
        MediaError: One cannot be written.
    """
    try:
        done = store.done()
        keys = [key for key in keys if key in done]
        return [_WRITERS[name](store, settings, keys) for name in settings.layouts]
    except OSError as error:
        raise MediaError(f"{store.out}: a layout cannot be written: {error.strerror or error}") from error


def _write_coco(store: Store, settings: Settings, keys: Sequence[str]) -> Path:
    """Write coco.json: an image for each image or frame, and an annotation for each object that is seen there.

    Beyond COCO, annotations have a score, and those of a video the attribute track_id, of which CVAT makes tracks.
    """
    target, folder = store.out / "coco.json", _common_folder(store, keys)
    # those of the words come first, so that they do not depend on what is found
    categories = {word: number for number, word in enumerate(settings.words, 1)}
    image_ids, annotation_ids = itertools.count(1), itertools.count(1)
    # Annotations come after all images, so that they wait in a file of their own.
    with replacing_file(target) as new, new.open("w") as file, tempfile.TemporaryFile("w+", dir=store.out) as waiting:
        file.write('{"images": [')
        add_image, add_annotation = _adder(file), _adder(waiting)
        for record in map(store.record, keys):
            name = _namer(record, folder)
            for frame in read_frames(store, record):
                image_id = next(image_ids)
                height, width = frame["size"]
                add_image({"id": image_id, "file_name": name(frame), "height": height, "width": width})
                for found in _seen(frame):
                    category = categories.setdefault(_category(found), len(categories) + 1)
                    ids = {"id": next(annotation_ids), "image_id": image_id, "category_id": category}
                    track = {} if "image" in frame else {"attributes": {"track_id": found["id"]}}
                    add_annotation({**ids, **_annotation(found), **track})
        file.write('],\n"annotations": [')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file)
        listed = [{"id": number, "name": name} for name, number in categories.items()]
        file.write(f'],\n"categories": {json.dumps(listed)}}}\n')
    return target


def _write_davis(store: Store, settings: Settings, keys: Sequence[str]) -> Path:
    """Write davis/: a folder of label images for each video, and a list of the videos."""
    with replacing_directory(store.out / "davis") as new:
        keys = [record.key for record in _link_masks(store, keys, new / "Annotations" / "Full-Resolution")]
        write_text(new / "ImageSets" / "2017" / "val.txt", "".join(f"{key}\n" for key in keys))
    return store.out / "davis"


def _write_youtube_vos(store: Store, settings: Settings, keys: Sequence[str]) -> Path:
    """Write youtube-vos/: a folder of label images for each video, and meta.json with the frames of each object."""
    with replacing_directory(store.out / "youtube-vos") as new, (new / "meta.json").open("w") as meta:
        meta.write('{"videos": {')
        for number, record in enumerate(_link_masks(store, keys, new / "Annotations")):
            objects: dict[str, dict[str, Any]] = {}
            for frame in read_frames(store, record):
                for found in _seen(frame):
                    entry = objects.setdefault(str(found["id"]), {"category": _category(found), "frames": []})
                    entry["frames"].append(f"{frame['frame_index']:05d}")
            comma = "," if number else ""
            meta.write(f"{comma}\n{json.dumps(record.key)}: {json.dumps({'objects': objects})}")
        meta.write("\n}}\n")
    return store.out / "youtube-vos"


_WRITERS: Mapping[str, Callable[[Store, Settings, Sequence[str]], Path]] = {
    "coco": _write_coco,
    "davis": _write_davis,
    "youtube-vos": _write_youtube_vos,
}


def _link_masks(store: Store, keys: Sequence[str], to: Path) -> Iterator[Record]:
    """Put the label images of each video into a folder of its own, and yield its record."""
    to.mkdir(parents=True)
    for record in map(store.record, keys):
        masks = store.out / MASKS / record.key
        if masks.is_dir():
            shutil.copytree(masks, to / record.key, copy_function=link)
            yield record


def _seen(frame: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects that have pixels."""
    yield from (found for found in frame["objects"] if any(found["bbox"][2:]))


def _category(found: Mapping[str, Any]) -> str:
    return str(found.get("word") or _OBJECT)


def _annotation(found: Mapping[str, Any]) -> dict[str, Any]:
    mask = found["segmentation"]
    score = found.get("score", found.get("predicted_iou", found.get("iou")))
    return {"segmentation": mask, "area": rle.area(mask), "bbox": found["bbox"], "iscrowd": 0, "score": score}


def _namer(record: Record, folder: str) -> Callable[[Mapping[str, Any]], str]:
    """Return a function that names the frames of an item.

    Images have their names below `folder`. The frames of a video file are named KEY/00000.jpg, as if they were written
    there as images.
    """
    images = _images(record.sources[0])

    def name(frame: Mapping[str, Any]) -> str:
        if "image" in frame:
            return os.path.relpath(frame["image"], folder)
        index: int = frame["frame_index"]
        return os.path.relpath(images[index], folder) if index < len(images) else f"{record.key}/{index:05d}.jpg"

    return name


def _images(source: str) -> list[Path]:
    """Return the images that a source is or stands for; none for a video file."""
    if Path(source).suffix.lower() in IMAGE_SUFFIXES:
        return [Path(source)]
    return find_images([source])[0] if stands_for_images(source) else []


def _common_folder(store: Store, keys: Sequence[str]) -> str:
    """Return the deepest folder in which all images of a run are."""
    folder = ""
    for source in (source for key in keys for source in store.record(key).sources):
        for parent in {os.path.dirname(image) for image in _images(source)}:
            folder = os.path.commonpath([folder, parent]) if folder else parent
    return folder


def _adder(file: IO[str]) -> Callable[[object], None]:
    """Return a function that adds an entry to the list of JSON that a file is in the middle of."""
    first = True

    def add(entry: object) -> None:
        nonlocal first
        file.write(f"{'' if first else ','}\n{json.dumps(entry)}")
        first = False

    return add
