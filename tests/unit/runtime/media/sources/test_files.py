"""Video files and folders of images: what is read from good ones, and a clear error for each kind of bad one."""

import os

import cv2
import numpy as np
import pytest

from sam2edge.errors import InputError, MediaError
from sam2edge.runtime.media.image_files import write_image
from sam2edge.runtime.media.sources import ImageFolderSource, VideoSource, open_source
from sam2edge.runtime.media.sources.container import promised_seconds
from sam2edge.runtime.video.frames import open_frames
from tests.simulated import grey
from tests.videos import damage, damage_avi, decoded_by_ffmpeg, ffmpeg, lost, moving, write_avi

WIDTH, HEIGHT, FPS = 64, 48, 12.5
# Frame i is of one colour, RGB; a codec keeps flat colours to within a few grey levels.
COLOURS = np.array([(250, 10, 20), (10, 240, 20), (30, 20, 230), (200, 200, 10), (128, 128, 128)])


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "colours.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for colour in COLOURS:
        writer.write(np.full((HEIGHT, WIDTH, 3), colour[::-1], np.uint8))
    writer.release()
    return path


def test_video(video):
    """Its frames are RGB, in order, and each its own array."""
    with VideoSource(str(video)) as source:
        assert (source.path, source.width, source.height) == (video, WIDTH, HEIGHT)
        assert source.fps == pytest.approx(FPS)
        assert source.frame_count == len(COLOURS)
        frames = list(source)
    assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * len(COLOURS)
    assert all(frame.dtype == np.uint8 and frame.flags.c_contiguous for frame in frames)
    means = np.array([frame.mean(axis=(0, 1)) for frame in frames])
    assert np.abs(means - COLOURS).max() < 8
    assert not any(np.shares_memory(frames[0], frame) for frame in frames[1:])


@pytest.mark.parametrize("fps", [float("nan"), 0.0, 90000.0])
def test_unknown_numbers_of_a_video_are_none(video, monkeypatch, fps):
    real = cv2.VideoCapture

    class Silent:
        """A capture that knows neither rate nor length, as of a stream."""

        def __init__(self, path):
            capture = real(path)
            for name in ("grab", "retrieve", "isOpened", "release"):
                setattr(self, name, getattr(capture, name))

        def get(self, what):
            return {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: -1.0}.get(what, 0.0)

    monkeypatch.setattr(cv2, "VideoCapture", Silent)
    source = VideoSource(video)
    assert (source.fps, source.frame_count) == (None, None)
    assert lost(source) == ([], [None] * 5)
    assert source.frame_count == len(COLOURS)


def test_video_is_read_once_in_parts_and_until_it_is_closed(video):
    source = VideoSource(video)
    first = next(iter(source))
    rest = list(source)
    assert first[0, 0, 0] > 240
    assert len(rest) == len(COLOURS) - 1
    assert list(source) == []
    with VideoSource(video) as closed:
        next(iter(closed))
    closed.close()
    assert list(closed) == []


def test_video_whose_name_looks_like_an_address(video, monkeypatch):
    """As recorders name their files; FFmpeg would look for a protocol "2026-11-21T12"."""
    monkeypatch.chdir(video.parent)
    video.rename("2026-11-21T12:30.mp4")
    with VideoSource("2026-11-21T12:30.mp4") as source:
        assert (source.name, len(list(source))) == ("2026-11-21T12:30.mp4", source.frame_count)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.mp4", "no such video file"),
        ("x" * 300 + ".mp4", "cannot be read: File name too long"),
        ("directory", "is a directory, expected a video file"),
        ("empty.mp4", r"the file is empty \(0 bytes\)"),
        ("notes.mp4", "not a video that OpenCV can open"),
        ("notes.txt", "not a video that OpenCV can open"),
    ],
)
def test_what_is_not_a_video(tmp_path, name, message):
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty.mp4").touch()
    for notes in ("notes.mp4", "notes.txt"):
        (tmp_path / notes).write_text("no moving picture in here\n" * 100)
    with pytest.raises(MediaError, match=f"{name}: {message}"):
        VideoSource(tmp_path / name)


def test_video_without_permission(video, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.R_OK)  # for root, too
    with pytest.raises(MediaError, match=r"\.mp4: cannot be read: Permission denied"):
        VideoSource(video)


def test_video_cut_short(video):
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(MediaError, match="or one cut short"):
        VideoSource(video)


def test_video_without_a_picture_that_can_be_decoded(video):
    content = video.read_bytes()
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    video.write_bytes(content[:start] + b"\xaa" * (end - start) + content[end:])
    with pytest.raises(MediaError, match="no picture in it can be decoded"):
        VideoSource(video)


@pytest.mark.parametrize("numbers", [(3,), (0, 1), (4, 5, 6), (2, 8)])
def test_damaged_frames_keep_their_numbers_and_times(tmp_path, numbers):
    path = write_avi(tmp_path / "a.avi", range(0, 250, 25))
    damage_avi(path, *numbers)
    with VideoSource(path) as source:
        items = [(item if isinstance(item, MediaError) else int(item.mean()), source.time) for item in source]
        assert source.frame_count == 10
    for number, (item, time) in enumerate(items):
        assert time == pytest.approx(number / 10)
        if number in numbers:
            assert str(item) == f"{path}: damaged; the frame cannot be decoded"
        else:
            assert item == pytest.approx(25 * number, abs=3)


@pytest.mark.parametrize(
    ("damaged", "gone"),
    [
        ((7,), [5]),  # stored as 0, 4, 2, 1, 3, 8, 6, 5
        ((0,), list(range(12))),  # nothing can be decoded before the next picture that stands alone
        ((20, 21, 22, 23), [19, 21, 22, 23]),
    ],
)
def test_damaged_frames_among_some_that_depend_on_each_other(tmp_path, damaged, gone):
    path = ffmpeg(tmp_path / "a.mp4", *moving(24), "-c:v", "libx264", "-g", "12", "-x264opts", "b-adapt=0:scenecut=0")
    damage(path, *damaged)
    with VideoSource(path) as source:
        numbers, times = lost(source)
    assert len(gone) == len(numbers)
    assert times == pytest.approx(np.arange(24) / 25)
    assert numbers == gone


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
def test_changing_rate(tmp_path, extension):
    """Times are the file's; nothing is missing, although its claims differ."""
    uneven = ("-vf", "select='not(mod(n,7))+not(mod(n,3))'", "-vsync", "vfr", "-c:v", "mpeg4", "-q:v", "9")
    path = ffmpeg(tmp_path / f"a{extension}", *moving(20), *uneven)
    shown = [n / 25 for n in range(46) if not n % 7 or not n % 3][:20]
    with VideoSource(path) as source:
        assert lost(source) == ([], pytest.approx(shown, abs=1e-3))
        assert source.frame_count == 20


def test_edit_list(tmp_path):
    """A clip cut out of a video without encoding it again claims the pictures before the cut, too."""
    whole = ffmpeg(tmp_path / "whole.mp4", *moving(50), "-c:v", "mpeg4", "-g", "25", "-q:v", "9")
    path = ffmpeg(tmp_path / "a.mp4", "-ss", "0.4", "-i", str(whole), "-c", "copy")
    with VideoSource(path) as source:
        assert source.frame_count == 50
        assert lost(source) == ([], pytest.approx(np.arange(40) / 25))
        assert source.frame_count == 40


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv"])
def test_video_cut_short_keeps_its_claim(tmp_path, name):
    if name == "a.avi":
        path = write_avi(tmp_path / name, range(50))
    else:
        path = ffmpeg(tmp_path / name, *moving(50), "-c:v", "mpeg4", "-q:v", "9", "-movflags", "+faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoSource(path) as source:
        assert source.frame_count == 50
        assert 10 < len(list(source)) < 40
        assert source.frame_count == 50


INTERLACED = {
    "a.mp4": ("-c:v", "libx264", "-x264opts", "interlaced=1", "-flags", "+ildct+ilme"),
    "a.ts": ("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-top", "1"),
}


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_video_is_decoded_or_refused(tmp_path, name):
    fields = ("-vf", "tinterlace=interleave_top,setfield=tff")
    path = ffmpeg(tmp_path / name, *moving(4, 50), *fields, *INTERLACED[name])
    expected = decoded_by_ffmpeg(path, 128, 96).astype(int)
    capture = cv2.VideoCapture(str(path))
    opencv = np.stack([capture.read()[1][..., ::-1] for _ in expected])
    if np.abs(opencv - expected).mean() < 2:
        with VideoSource(path) as source:
            np.testing.assert_array_equal(np.stack(list(source)), opencv)
    else:
        with pytest.raises(MediaError, match=f"{name}: interlaced, which OpenCV .* does not decode; deinterlace it"):
            VideoSource(path)
        with pytest.raises(MediaError, match=f"{name}: interlaced"):
            open_frames(path)


def test_video_that_is_interlaced_from_some_point_on(tmp_path):
    """What comes before is read; nothing moves at its start."""
    path, part = tmp_path / "a.ts", tmp_path / "part.ts"
    mpeg2 = ("-c:v", "mpeg2video", "-q:v", "4")
    still = ("-f", "lavfi", "-i", "color=gray:size=128x96:rate=25", "-frames:v", "3", "-pix_fmt", "yuv420p")
    fields = ("-vf", "tinterlace=interleave_top,setfield=tff", "-flags", "+ildct+ilme", "-top", "1")
    content = [
        ffmpeg(part, *arguments, *mpeg2, "-output_ts_offset", str(start / 25), "-y").read_bytes()
        for start, arguments in ((0, still), (3, moving(30)), (33, (*moving(10, 50), *fields)))
    ]
    path.write_bytes(b"".join(content[:2]))
    with VideoSource(path) as source:
        assert len(list(source)) == 33
    path.write_bytes(b"".join(content))
    expected = decoded_by_ffmpeg(path, 128, 96)
    capture = cv2.VideoCapture(str(path))
    opencv = [capture.read()[1][..., ::-1] for _ in expected]
    frames = []
    with VideoSource(path) as source:
        if np.abs(opencv[-1] - expected[-1].astype(int)).mean() < 2:
            frames.extend(source)
        else:
            with pytest.raises(MediaError, match=r"a\.ts: interlaced, which OpenCV"):
                frames.extend(source)
    assert len(frames) >= 33
    np.testing.assert_array_equal(frames[:33], opencv[:33])


def test_picture_that_stands_still_is_not_taken_for_an_interlaced_one(tmp_path):
    with VideoSource(write_avi(tmp_path / "a.avi", [80] * 4)) as source:
        assert lost(source)[0] == []


def box(name, *content):
    """Return a box of an MP4 file."""
    data = b"".join(content)
    return (8 + len(data)).to_bytes(4, "big") + name + data


def numbers(*pairs):
    return b"".join(value.to_bytes(size, "big") for value, size in pairs)


HEAD = box(b"ftyp", b"isom")
EBML = b"\x1aE\xdf\xa3\x82ab"


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        (HEAD + box(b"moov", box(b"mvhd", numbers((0, 12), (1000, 4), (2500, 4)))), 2.5),
        (HEAD + box(b"moov", box(b"free"), box(b"mvhd", numbers((1, 1), (0, 19), (600, 4), (900, 8)))), 1.5),
        (HEAD + numbers((1, 4)) + b"mdat" + numbers((24, 8)) + b"12345678" + box(b"moov"), 7),
        (HEAD + box(b"moov", box(b"mvhd", numbers((0, 12), (1000, 4), (2**32 - 1, 4)))), 7),  # unknown
        (HEAD + box(b"moov", box(b"mvhd")), 7),  # cut short
        (HEAD + numbers((3, 4)) + b"moov", 7),  # impossible size
        (EBML + b"\x18S\x80g\x10\0\0\x08" + b"12345678", 0),
        (EBML + b"\x18S\x80g\x10\0\0\x08" + b"1234567", np.inf),
        (EBML + b"\x18S\x80g\x01" + b"\xff" * 7, 0),  # of unknown size, as if written live
        (EBML[:4], 0),
        (b"RIFF....AVI ", 7),
        (b"", 0),
    ],
)
def test_seconds_that_a_container_promises(tmp_path, content, seconds):
    (tmp_path / "a").write_bytes(content)
    assert promised_seconds(tmp_path / "a", 7) == seconds


@pytest.fixture
def folder(tmp_path):
    """frame1.png has the value 1, and so on; in alphabetical order 10 would come before 2."""
    for i in (1, 2, 10, 11):
        write_image(tmp_path / f"frame{i}.png", grey(i, (20, 30)))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def values(source):
    return [str(item) if isinstance(item, MediaError) else int(item[0, 0, 0]) for item in source]


def test_images_are_ordered_by_the_numbers_in_their_names(folder):
    with ImageFolderSource(folder, fps=4) as source:
        assert (source.width, source.height, source.frame_count, source.fps) == (30, 20, 4, 4)
        assert (source.live, source.name) == (False, str(folder))
        assert values(source) == [1, 2, 10, 11]
        assert values(source) == []
    assert values(ImageFolderSource(f"{folder}/frame1*.png")) == [1, 10, 11]
    closed = ImageFolderSource(folder)
    closed.close()
    assert values(closed) == []


def test_the_order_of_images_must_be_clear(folder):
    (folder / "._frame1.png").write_bytes(b"macOS")
    assert values(ImageFolderSource(folder)) == [1, 2, 10, 11]
    write_image(folder / "frame02.jpg", grey(2, (20, 30)))
    with pytest.raises(MediaError, match=r"frame2\.png: is the same frame as frame02\.jpg, going by their names;"):
        ImageFolderSource(folder)
    assert values(ImageFolderSource(f"{folder}/*.png")) == [1, 2, 10, 11]
    (folder / "frame02.jpg").rename(folder / "cover.jpg")
    with pytest.raises(MediaError, match=r"cover\.jpg: has no number, so that its place among the other frames is"):
        ImageFolderSource(folder)


def test_images_of_more_than_8_bits_have_one_scale(tmp_path):
    """A scale of each frame's own would make an object brighter or darker from one to the next."""
    for number in range(3):
        write_image(tmp_path / f"{number}.png", np.full((4, 6), 1000 * number, np.uint16))
    assert values(ImageFolderSource(tmp_path, value_range=(0, 4000))) == [0, 64, 128]
    with open_source(tmp_path, value_range=(1000, 2000)) as source:
        assert values(source) == [0, 0, 255]
    with pytest.raises(MediaError, match=r"none of its 3 images can be read; .*0\.png: its pixels are 16-bit"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="a range is only for folders and patterns of images"):
        open_source(tmp_path / "0.png", value_range=(0, 1))


def test_images_are_rgb(tmp_path):
    pixels = np.full((4, 6, 3), (250, 100, 3), np.uint8)
    write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(next(iter(ImageFolderSource(tmp_path))), pixels)


@pytest.mark.parametrize("broken", [1, 2, 11])
def test_broken_image_is_not_the_end(folder, broken):
    path = folder / f"frame{broken}.png"
    path.write_bytes(path.read_bytes()[:20])
    source = ImageFolderSource(folder)
    assert (source.width, source.height, source.frame_count) == (30, 20, 4)
    message = f"{path}: no image that OpenCV can read: another kind of file, or one cut short"
    assert values(source) == [message if i == broken else i for i in (1, 2, 10, 11)]


def test_folder_without_an_image_that_can_be_read(folder):
    for path in folder.glob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(MediaError, match=r"none of its 4 images can be read; the first: .*frame1\.png: no image"):
        ImageFolderSource(folder)
    (folder / "empty").mkdir()
    with pytest.raises(MediaError, match="no images in this folder"):
        ImageFolderSource(folder / "empty")
