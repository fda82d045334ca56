"""Layouts for other programs, of a run that was written by hand: their readers find in them what was put in."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sam2edge.calibration.measure.clip import TrueMasks
from sam2edge.errors import InputError, MediaError
from sam2edge.labelling import layouts
from sam2edge.labelling.items import Record, Settings
from sam2edge.labelling.layouts import check_layouts, write_layouts
from sam2edge.labelling.store import Store, write_record
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.mask_files import encode_labels
from tests.helpers import box_mask

SIZE = 24, 40
BALL, CUP = box_mask(2, 3, 12, 9, SIZE), box_mask(20, 10, 39, 23, SIZE)
NOTHING = np.zeros(SIZE, bool)


def on_frame(frame: int, **masks: np.ndarray) -> dict[str, Any]:
    """Return the line of a frame, as JsonSink writes it, with the objects 1, 2, …; words are the names."""
    objects = [
        {
            "id": number,
            "segmentation": rle.encode(mask),
            "bbox": list(cv2.boundingRect(mask.view(np.uint8))),
            "iou": 0.5 + number / 10,
            "word": word.strip("_"),
        }
        for number, (word, mask) in enumerate(masks.items(), 1)
    ]
    return {"frame_index": frame, "time": None, "size": list(SIZE), "objects": objects}


def of_image(path: Path, mask: np.ndarray, word: str) -> dict[str, Any]:
    """Return the line of an image, as `segment --json` has it."""
    [found] = on_frame(0, **{word: mask})["objects"]
    found["predicted_iou"] = found.pop("iou")
    return {"image": str(path), "size": list(SIZE), "objects": [{**found, "area": int(mask.sum()), "score": 0.75}]}


def commit(
    store: Store, key: str, sources: list[Path], lines: list[dict[str, Any]], *, with_masks: bool = True
) -> None:
    """Do an item: with its labels, and for a video with label images."""
    with store.staged(key) as folder:
        (folder / "labels").mkdir()
        (folder / "labels" / f"{key}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        for line in lines if with_masks and "frame_index" in lines[0] else ():
            labels = np.zeros(SIZE, np.uint8)
            for found in line["objects"]:
                labels[rle.decode(found["segmentation"])] = found["id"]
            path = folder / "masks" / key / f"{line['frame_index']:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_labels(labels, indexed=True))
        write_record(folder, Record(key, tuple(map(str, sources)), len(lines), 1, 1.0))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(tmp_path / "out") as opened:
        opened.open_run({"test": 1})
        yield opened


def video_lines() -> list[dict[str, Any]]:
    return [on_frame(0, ball=BALL), on_frame(1, ball=BALL, cup=CUP), on_frame(2, ball=NOTHING, cup=CUP)]


def write_all(store: Store, settings: Settings) -> list[Path]:
    return write_layouts(store, settings, sorted(store.done()))


def coco(store: Store, **settings: Any) -> COCO:
    [path] = write_all(store, Settings(layouts=("coco",), **settings))
    return COCO(str(path))


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2
def test_coco_of_a_video(store: Store) -> None:
    commit(store, "clip-1", [Path("/videos/clip.mp4")], video_lines())
    found = coco(store)
    assert [image["file_name"] for image in found.loadImgs(found.getImgIds())] == [
        f"clip-1/{number:05d}.jpg" for number in range(3)
    ]
    assert {(each["id"], each["name"]) for each in found.dataset["categories"]} == {(1, "ball"), (2, "cup")}
    second = found.loadAnns(found.getAnnIds(imgIds=[2]))
    for annotation, mask, number in zip(second, (BALL, CUP), (1, 2), strict=True):
        np.testing.assert_array_equal(found.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["attributes"] == {"track_id": number}
        assert (annotation["category_id"], annotation["score"]) == (number, 0.5 + number / 10)
    [third] = found.loadAnns(found.getAnnIds(imgIds=[3]))  # an empty mask is no annotation
    assert third["attributes"] == {"track_id": 2}
    assert len(set(found.getAnnIds())) == 4


def test_coco_of_images_in_several_folders(store: Store, tmp_path: Path) -> None:
    paths = [tmp_path / "in" / name for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg")]
    commit(store, "a-1", paths[:2], [of_image(path, BALL, "a dog") for path in paths[:2]])
    commit(store, "b-1", paths[2:], [of_image(paths[2], CUP, "")])
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = coco(store, mode="words", words=("a cup", "a dog"))
    assert [image["file_name"] for image in found.loadImgs(found.getImgIds())] == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    names = {each["id"]: each["name"] for each in found.dataset["categories"]}
    assert names == {1: "a cup", 2: "a dog", 3: "object"}
    annotations = found.loadAnns(found.getAnnIds())
    assert [names[each["category_id"]] for each in annotations] == ["a dog", "a dog", "object"]
    assert {each["score"] for each in annotations} == {0.75}
    assert not any("attributes" in each for each in annotations)


def test_frames_of_a_folder_have_their_own_names(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (8, 9, 10):
        (folder / f"frame{number}.png").touch()
    commit(store, "frames-1", [folder], video_lines())
    found = coco(store)
    names = [image["file_name"] for image in found.loadImgs(found.getImgIds())]
    assert names == ["frame8.png", "frame9.png", "frame10.png"]


def test_davis(store: Store) -> None:
    commit(store, "clip-1", [Path("/videos/clip.mp4")], video_lines())
    commit(store, "photo-1", [Path("/photos/1.jpg")], [of_image(Path("/photos/1.jpg"), BALL, "")])
    [root] = write_all(store, Settings(layouts=("davis",)))
    assert (root / "ImageSets" / "2017" / "val.txt").read_text() == "clip-1\n"
    truth = TrueMasks(root, root / "JPEGImages" / "Full-Resolution" / "clip-1")
    assert len(truth) == 3
    np.testing.assert_array_equal(truth.masks(1, (1, 2), SIZE), [BALL, CUP])
    with Image.open(root / "Annotations" / "Full-Resolution" / "clip-1" / "00001.png") as image:
        assert image.mode == "P"


def test_youtube_vos(store: Store) -> None:
    commit(store, "clip-1", [Path("/videos/clip.mp4")], video_lines())
    commit(store, "clip-2", [Path("/videos/other.mp4")], [on_frame(5, _=CUP)])
    [root] = write_all(store, Settings(layouts=("youtube-vos",)))
    assert json.loads((root / "meta.json").read_text()) == {
        "videos": {
            "clip-1": {
                "objects": {
                    "1": {"category": "ball", "frames": ["00000", "00001"]},
                    "2": {"category": "cup", "frames": ["00001", "00002"]},
                }
            },
            "clip-2": {"objects": {"1": {"category": "object", "frames": ["00005"]}}},
        }
    }
    assert sorted(path.name for path in (root / "Annotations" / "clip-1").iterdir()) == [
        f"{number:05d}.png" for number in range(3)
    ]
    with Image.open(root / "Annotations" / "clip-2" / "00005.png") as image:
        np.testing.assert_array_equal(image, CUP)


def test_a_later_run_replaces_layouts_with_the_same_bytes_and_what_is_new(store: Store) -> None:
    settings = Settings(layouts=("coco", "davis", "youtube-vos"))
    write_all(store, settings)  # of nothing
    assert COCO(str(store.out / "coco.json")).getImgIds() == []
    commit(store, "clip-1", [Path("/videos/clip.mp4")], video_lines())
    written = []
    for _ in range(2):
        write_all(store, settings)
        files = [path for path in sorted(store.out.rglob("*")) if path.is_file() and ".tmp" not in path.parts]
        written.append({path: path.read_bytes() for path in files if "items" not in path.parts})
    assert written[0] == written[1]
    assert len(written[0]) > 9


def test_copies_where_there_are_no_hard_links(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(95, "Operation not supported")

    commit(store, "clip-1", [Path("/videos/clip.mp4")], video_lines())
    monkeypatch.setattr(layouts.os, "link", refuse)
    [root] = write_all(store, Settings(layouts=("youtube-vos",)))
    assert (root / "Annotations" / "clip-1" / "00002.png").stat().st_nlink == 1


def test_a_full_disk_leaves_the_old_layout(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, "clip-1", [Path("/videos/clip.mp4")], video_lines())
    settings = Settings(layouts=("coco",))
    [path] = write_all(store, settings)
    before = path.read_bytes()

    def full(*files: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layouts.shutil, "copyfileobj", full)
    with pytest.raises(MediaError, match="a layout cannot be written: No space left on device"):
        write_all(store, settings)
    assert path.read_bytes() == before
    assert [entry.name for entry in store.out.iterdir() if "coco" in entry.name] == ["coco.json"]


def test_memory_does_not_grow_with_the_frames(store: Store) -> None:
    frame, peaks = on_frame(0, ball=BALL, cup=CUP), []
    for count in (250, 750):
        lines = [{**frame, "frame_index": number} for number in range(count)]
        commit(store, "clip-1", [Path("/videos/clip.mp4")], lines, with_masks=False)
        tracemalloc.start()
        write_all(store, Settings(layouts=("coco",)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        store.forget("clip-1")
    assert peaks[1] < peaks[0] + 50_000


def test_layouts_that_a_run_has_nothing_for() -> None:
    check_layouts(Settings(mode="auto", layouts=("coco",)))
    check_layouts(Settings(mode="words", layouts=("coco", "davis")))
    with pytest.raises(InputError, match="the layout davis is for videos"):
        check_layouts(Settings(mode="auto", layouts=("coco", "davis")))
