"""A worker's labels are what `track` and `segment` write; what goes wrong in an item stays there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet
import pytest

from sam2edge import Bundle, WordDetector, cli
from sam2edge.errors import BackendError, BundleError, MediaError, PromptError
from sam2edge.labelling import outputs
from sam2edge.labelling.items import Item, Record, Settings, StoppedError
from sam2edge.labelling.labeller import Labeller
from sam2edge.labelling.outputs import read_frames
from sam2edge.labelling.parts import merge, split
from sam2edge.labelling.plan import plan
from sam2edge.labelling.store import Store, write_record
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.grabber import Grabber
from sam2edge.runtime.media.mask_files import read_labels
from sam2edge.runtime.media.prompt_files import parse_prompts
from tests.helpers import BALL, BLOCK, STAR, clip_frames, iou, result_of, true_masks

FRAMES = 8
PROMPTS = f"""{{"object": 1, "box": {list(BALL)}}}
{{"object": 2, "frame": 2, "box": {list(BLOCK)}}}
{{"object": 5, "frame": 2, "box": {list(STAR)}}}
{{"object": 2, "frame": 4, "points": [[262, 60]], "labels": [1]}}
{{"object": 1, "frame": 6, "remove": true}}
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    frames = clip_frames(FRAMES)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, and a file between them that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for name, frame in zip(("0.png", "2.png"), clip_frames(2), strict=True):
        cv2.imwrite(str(folder / name), frame[..., ::-1])
    (folder / "1.png").write_text("no image")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "out") as opened:
        opened.open_run({})
        yield opened


def item_of(source: Path, settings: Settings, prompts: str = "") -> Item:
    [draft] = plan([str(source)], parse_prompts(prompts, "prompts"), settings)
    return draft.item()


def labelled(
    bundle: Bundle, store: Store, source: Path, settings: Settings, prompts: str = ""
) -> tuple[Record, list[dict[str, Any]]]:
    """Label one item, and return its record and its frames."""
    with Labeller(bundle.path, settings, threads=1, gpu=None) as labeller:
        record = labeller.label(item_of(source, settings, prompts), store, lambda *far: None, lambda: False)
    assert store.record(record.key) == record
    return record, list(read_frames(store, record))


def test_labels_of_a_video_are_those_of_track(nano: Bundle, store: Store, video: Path, tmp_path: Path) -> None:
    settings = Settings(layouts=("davis",), min_confidence=0.5)
    record, _ = labelled(nano, store, video, settings, PROMPTS)
    (tmp_path / "p.jsonl").write_text(PROMPTS)
    masks, lines = tmp_path / "masks", tmp_path / "track.jsonl"
    words = ["track", nano.path, video, "--prompts", tmp_path / "p.jsonl", "--min-confidence", "0.5", "--threads", "1"]
    assert cli.main([*map(str, words), "--json", str(lines), "--masks", str(masks)]) == 0
    assert (store.out / "labels" / f"{record.key}.jsonl").read_bytes() == lines.read_bytes()
    assert (record.frames, record.objects, record.problems) == (FRAMES, 3, ())
    written = sorted((store.out / "masks" / record.key).iterdir())
    assert [path.name for path in written] == [f"{number:05d}.png" for number in range(FRAMES)]
    for path in written:
        np.testing.assert_array_equal(read_labels(path), read_labels(masks / path.name))


def test_one_tracker_for_all_items(nano: Bundle, store: Store, video: Path, tmp_path: Path) -> None:
    """The order of the items makes no difference, nor do an item that fails and one with more objects."""
    settings = Settings()
    items = [
        dataclasses.replace(item_of(video, settings, text), key=key)
        for key, text in {
            "one": PROMPTS.splitlines()[0],
            "outside": '{"box": [0, 0, 999, 9]}',
            "late": f'{{"box": {list(BALL)}}}\n{{"object": 1, "frame": 99, "points": [[138, 84]]}}',
            "all": PROMPTS,
            "again": PROMPTS.splitlines()[0],
        }.items()
    ]
    told: list[tuple[int, int | None]] = []
    with Labeller(nano.path, settings, threads=1, gpu=None) as labeller, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sam2edge.labelling.labeller._PAUSE", 0.0)

        def label(item: Item) -> None:
            labeller.label(item, store, lambda *far: told.append(far), lambda: False)

        label(items[0])
        assert told == [(number, FRAMES) for number in range(1, FRAMES + 1)]
        with pytest.raises(PromptError, match="outside the 320×240 frame"):
            label(items[1])
        with pytest.raises(PromptError, match="frame 99 never came, the video ends with frame 7"):
            label(items[2])
        label(items[3])
        label(items[4])
    assert store.done() == {"one", "all", "again"}
    assert [path.name for path in (store.out / ".tmp").iterdir()] == []
    one, again = ((store.out / "labels" / f"{key}.jsonl").read_bytes() for key in ("one", "again"))
    assert one == again


def test_parts_make_the_same_labels(nano: Bundle, store: Store, video: Path) -> None:
    settings = Settings()
    item = item_of(video, settings, PROMPTS)
    parts = split(dataclasses.replace(item, key="split"), 3)
    with Labeller(nano.path, settings, threads=1, gpu=None) as labeller:
        whole = labeller.label(item, store, lambda *far: None, lambda: False)
        for part in parts:
            labeller.label(part, store, lambda *far: None, lambda: False)
    merged = merge(store, dataclasses.replace(item, key="split"), parts)
    for of_parts, of_whole in zip(read_frames(store, merged), read_frames(store, whole), strict=True):
        scores = [[each.pop("object_score") for each in frame["objects"]] for frame in (of_parts, of_whole)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)  # more objects at a time are rounded differently
        assert of_parts == of_whole
    assert (merged.frames, merged.objects) == (whole.frames, whole.objects)


def test_stopping_leaves_nothing(nano: Bundle, store: Store, video: Path) -> None:
    answers = iter([False, False, True])
    with Labeller(nano.path, Settings(), threads=1, gpu=None) as labeller, pytest.raises(StoppedError):
        labeller.label(item_of(video, Settings(), PROMPTS), store, lambda *far: None, lambda: next(answers))
    assert store.done() == set()
    assert list((store.out / "labels").iterdir()) == []


def test_everything_in_images(
    nano: Bundle, store: Store, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(mode="auto", points_per_side=8, pred_iou_thresh=0.5, stability_score_thresh=0.5)
    record, images = labelled(nano, store, photos, settings)
    grid = ["--points-per-side", "8", "--pred-iou-thresh", "0.5", "--stability-score-thresh", "0.5"]
    words = ["segment", nano.path, photos, "--auto", *grid, "-o", tmp_path / "o", "--json", tmp_path / "s.jsonl"]
    assert cli.main([*map(str, words)]) == 2
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert images == [{name: value for name, value in line.items() if name != "overlay"} for line in lines]
    assert record.frames == 2
    assert record.objects == sum(len(image["objects"]) for image in images) > 4
    [problem] = record.problems
    assert problem.startswith(f"{photos / '1.png'}: ")
    with pytest.raises(MediaError, match=r"1\.png: no image that OpenCV can read"):  # nothing is left to be done
        labelled(nano, store, photos / "1.png", settings)
    assert store.done() == {record.key}


def test_words_in_images_and_videos(shapes: Bundle, store: Store, photos: Path, video: Path, tmp_path: Path) -> None:
    settings = Settings(mode="words", words=("red ball", "blue block"))
    record, images = labelled(shapes, store, photos, settings)
    for image, number in zip(images, (0, 1), strict=True):
        found = {each["word"]: rle.decode(each["segmentation"]) for each in image["objects"]}
        for word, toy in (("red ball", 1), ("blue block", 2)):
            assert iou(found[word], true_masks(toy)[number]) > 0.8
    with WordDetector(shapes) as detector:
        detector.words(settings.words).save(tmp_path / "words.npz")
    store.forget(record.key)
    saved = Settings(mode="words", words_file=str(tmp_path / "words.npz"))
    assert labelled(shapes, store, photos, saved)[1] == images
    record, frames = labelled(shapes, store, video, settings)
    assert (record.frames, record.objects) == (FRAMES, 2)
    assert {each["word"] for each in frames[-1]["objects"]} == {"red ball", "blue block"}


def test_parquet_has_the_values_of_the_lines(nano: Bundle, store: Store, video: Path, tmp_path: Path) -> None:
    of_lines, lines = labelled(nano, store, video, Settings(), PROMPTS)
    with Store(tmp_path / "parquet") as other, pytest.MonkeyPatch.context() as patch:
        other.open_run({})
        patch.setattr(outputs, "_ROWS", 3)  # several row groups
        record, frames = labelled(nano, other, video, Settings(format="parquet"), PROMPTS)
    assert frames == lines
    assert (record.frames, record.objects, record.doubtful) == (of_lines.frames, of_lines.objects, of_lines.doubtful)
    with pyarrow.parquet.ParquetFile(other.out / "labels" / f"{record.key}.parquet") as file:
        assert file.num_row_groups > 1
        table = file.read()
    assert table.column("source").unique().to_pylist() == [str(video)]
    first = lines[3]["objects"][1]
    row = table.filter((pyarrow.compute.field("frame_index") == 3) & (pyarrow.compute.field("id") == 2)).to_pylist()[0]
    assert [row[side] for side in "xywh"] == first["bbox"]
    assert (row["counts"], row["iou"], row["state"]) == (first["segmentation"]["counts"], first["iou"], "visible")


def test_parquet_of_images_without_objects(nano: Bundle, store: Store, photos: Path) -> None:
    settings = Settings(mode="auto", format="parquet", points_per_side=4, pred_iou_thresh=1.0)
    record, images = labelled(nano, store, photos, settings)
    assert [image["objects"] for image in images] == [[], []]
    assert [image["image"] for image in images] == [str(photos / "0.png"), str(photos / "2.png")]
    assert record.objects == 0


def test_parquet_keeps_scores_that_are_none_and_is_written_in_parts_of_some_size(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((48, 64), bool)
    mask[::2] = True  # long run lengths
    result = dataclasses.replace(result_of({1: mask}), ious=np.array([np.nan], np.float32))
    monkeypatch.setattr(outputs, "_CHARACTERS", 1000)
    frames = {}
    for form in ("jsonl", "parquet"):
        item = Item(form, "video", ("clip.mp4",))
        with store.staged(form) as folder:
            with contextlib.closing(outputs.Outputs(folder, item, Settings(format=form))) as written:
                for number in range(6):
                    written.add_frame(dataclasses.replace(result, frame_index=number))
            record = Record(form, item.sources, written.frames, written.objects, 0.1)
            write_record(folder, record)
        frames[form] = list(read_frames(store, record))
    assert frames["parquet"] == frames["jsonl"]
    assert frames["parquet"][0]["objects"][0]["iou"] is None
    with pyarrow.parquet.ParquetFile(store.out / "labels" / "parquet.parquet") as file:
        assert file.num_row_groups > 2


def test_a_damaged_video_is_remarked_on(
    nano: Bundle, store: Store, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames that are there are labelled, as `track` does it."""
    statistics = Grabber.statistics
    monkeypatch.setattr(
        Grabber, "statistics", property(lambda grabber: dataclasses.replace(statistics.fget(grabber), broken=3))
    )
    record, frames = labelled(nano, store, video, Settings(), PROMPTS)
    assert (record.remarks, record.problems) == ((f"{video}: 3 damaged frames were left out",), ())
    assert len(frames) == FRAMES


def test_what_a_worker_cannot_start_with(nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(bundle: Path, **settings: Any) -> None:
        Labeller(bundle, Settings(**settings), threads=1, gpu=None).close()

    with pytest.raises(BundleError, match="no such"):
        start(tmp_path / "gone")
    with pytest.raises(BundleError, match="word detector"):
        start(nano.path, mode="words", words=("a cup",))
    with pytest.raises(BackendError):
        start(nano.path, backend="tensorrt")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BackendError, match=r"--format parquet needs pyarrow: pip install 'sam2edge\[parquet\]'"):
        start(nano.path, format="parquet")


def test_labels_that_are_gone(nano: Bundle, store: Store, video: Path) -> None:
    record, _ = labelled(nano, store, video, Settings(), PROMPTS)
    (store.out / "labels" / f"{record.key}.jsonl").unlink()
    with pytest.raises(MediaError, match="labels of an item that is done are missing"):
        list(read_frames(store, record))


def test_doubtful_frames() -> None:
    """Of frames near each other the worst is kept for each object, a loss always, and of all the worst 20."""
    doubts = outputs._Doubts("clip.mp4")
    mask = np.zeros((48, 64), bool)
    mask[10:30, 10:40] = True
    sure = dataclasses.replace(result_of({1: mask}), ious=np.array([0.9], np.float32))
    for number in range(30):  # of as many losses the first ones are kept
        doubts.add(dataclasses.replace(sure, frame_index=number, lost=(1,)))
        doubts.add(dataclasses.replace(sure, frame_index=number))
    assert [one.frame for one in doubts.worst()] == list(range(20))
    doubts = outputs._Doubts("clip.mp4")
    for number in range(1000):
        score = 0.1 + 0.0005 * number if number % 10 == 0 else 0.9
        doubts.add(dataclasses.replace(sure, frame_index=number, ious=np.array([score], np.float32)))
    doubts.add(dataclasses.replace(sure, frame_index=1000, lost=(1,)))
    doubts.add(dataclasses.replace(sure, frame_index=1001, lost=(1,)))
    doubts.add(dataclasses.replace(sure, frame_index=1002, ious=np.array([np.nan], np.float32)))
    worst = doubts.worst()
    assert [(one.frame, one.score) for one in worst[:2]] == [(1000, 0.0), (1002, 0.0)]
    assert worst[0].reason == "lost: it needs a prompt"
    assert [one.frame for one in worst[2:5]] == [0, 30, 50]  # the worst of 0…24, 25…49, 50…74
    assert len(worst) == 20
