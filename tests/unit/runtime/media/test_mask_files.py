"""What mask files mean: cut-outs, soft masks, label images of ours and of data sets, and those that are not clear."""

import cv2
import numpy as np
import pytest
from PIL import Image

from sam2edge.errors import MediaError, ObjectIdError, PromptError
from sam2edge.runtime.media.mask_files import encode_labels, read_labels, read_masks
from tests.helpers import box_mask, write_palette

LABELS = np.array([[0, 1, 1, 0, 2], [0, 1, 3, 3, 2], [0, 0, 3, 0, 2]], np.uint8)
SIZE = (48, 64)
MASK = box_mask(10, 5, 50, 40)
SOFT = cv2.GaussianBlur(MASK * np.uint8(255), (0, 0), 2)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def masks_of(path, pixels, wanted=None):
    cv2.imwrite(str(path), pixels)
    return read_masks(path, wanted)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_indices_of_a_palette(tmp_path, bits):
    write_palette(tmp_path / "a.png", LABELS, bits)
    assert (tmp_path / "a.png").read_bytes()[24:26] == bytes([bits, 3])
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), LABELS)
    masks = read_masks(tmp_path / "a.png")
    assert list(masks) == [1, 2, 3]
    for object_id, mask in masks.items():
        np.testing.assert_array_equal(mask, object_id == LABELS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_values(tmp_path, dtype):
    labels = LABELS.astype(dtype) * (1 if dtype == np.uint8 else 1000)
    cv2.imwrite(str(tmp_path / "a.png"), labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("a.png", MASK * np.uint8(1)),
        ("a.png", MASK[..., None] * np.array([0, 0, 128], np.uint8)),
        ("a.png", np.dstack([MASK * np.uint8(9)] * 3 + [np.full(SIZE, 255, np.uint8)])),
        ("a.png", MASK * np.uint16(3)),
        ("a.png", SOFT),
        ("a.png", SOFT.astype(np.uint16) * 257),
        ("a.jpg", MASK * np.uint8(255)),
        ("a.webp", np.dstack([SOFT] * 3)),
        ("a.png", np.dstack([PHOTO, MASK * np.uint8(255)])),
        ("a.png", np.dstack([PHOTO, SOFT])),
    ],
    ids=["grey", "one colour", "opaque", "16 bits", "soft", "soft 16 bits", "jpeg", "webp", "cut-out", "soft cut-out"],
)
def test_a_mask_alone(tmp_path, name, pixels):
    masks = masks_of(tmp_path / name, pixels)
    assert list(masks) == [None]
    assert masks[None].dtype == np.bool_
    assert np.count_nonzero(masks[None] ^ MASK) <= 20  # at the corners of soft ones


def test_a_mask_everywhere(tmp_path):
    assert masks_of(tmp_path / "a.png", np.full(SIZE, 255, np.uint8))[None].all()


def test_a_palette_of_greys_is_a_picture(tmp_path):
    """As image editors save black and white; here index 0 is white."""
    image = Image.fromarray((~MASK).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_masks(tmp_path / "a.png")[None], MASK)


def test_transparent_colours_of_a_palette(tmp_path):
    image = Image.fromarray(PHOTO).quantize(8)
    image.putdata(np.where(MASK, 1, 0).ravel().tolist())
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_masks(tmp_path / "a.png")[None], MASK)


@pytest.mark.parametrize("ids", [(1, 2, 3), (7, 255, 128), (300, 2, 65535)])
def test_what_we_write_is_what_we_read(tmp_path, ids):
    labels = np.array([0, *ids])[LABELS].astype(np.uint8 if max(ids) < 256 else np.uint16)
    (tmp_path / "a.png").write_bytes(encode_labels(labels))
    masks = read_masks(tmp_path / "a.png")
    assert sorted(masks) == sorted(ids)
    for object_id, mask in masks.items():
        np.testing.assert_array_equal(mask, labels == object_id)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), labels)
    assert list(read_masks(tmp_path / "a.png", wanted=ids[1])) == [ids[1]]


def test_indexed_images_have_the_colours_of_davis(tmp_path):
    labels = np.zeros((6, 300), np.uint8)
    labels[2:4] = np.arange(300) % 256
    (tmp_path / "a.png").write_bytes(encode_labels(labels, indexed=True))
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "P"
    np.testing.assert_array_equal(image, labels)
    colours = np.reshape(image.getpalette(), (256, 3))
    assert colours[[0, 1, 2, 3, 8, 22, 255]].tolist() == [
        *([0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [64, 0, 0], [0, 192, 128], [224, 224, 192])
    ]
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)
    assert read_masks(tmp_path / "a.png").keys() == set(range(1, 256))
    with pytest.raises(ObjectIdError, match="300 is no index into a palette"):
        encode_labels(np.full((4, 4), 300, np.uint16), indexed=True)


def test_label_images_of_others(tmp_path):
    """Dark greys are ids; 255 is nobody's where the palette has other colours."""
    assert sorted(masks_of(tmp_path / "grey.png", LABELS * np.uint8(20))) == [20, 40, 60]
    assert sorted(masks_of(tmp_path / "deep.png", LABELS.astype(np.uint16) * 255)) == [255, 510, 765]
    write_palette(tmp_path / "void.png", np.where(LABELS == 3, 255, LABELS).astype(np.uint8))
    assert sorted(read_masks(tmp_path / "void.png")) == [1, 2]


@pytest.mark.parametrize(
    ("name", "pixels", "error", "message"),
    [
        ("a.png", np.zeros(SIZE, np.uint8), PromptError, "the mask is empty"),
        ("a.png", np.arange(127, dtype=np.uint8)[None], PromptError, "the mask is empty"),
        ("a.jpg", LABELS.repeat(9, 0).repeat(9, 1), PromptError, "the mask is empty: .* the id of an object in a PNG"),
        ("a.png", PHOTO, PromptError, "is a colour image without an alpha channel that varies, not a mask"),
        (
            "a.png",
            np.array([[0, 1, 2, 255]], np.uint8),
            PromptError,
            "not clear whether its values 0, 1, 2, 255 are grey",
        ),
        ("a.tiff", MASK.astype(np.float32), PromptError, "its pixels are float32, which do not say"),
        ("a.png", b"", MediaError, "no image that OpenCV can read"),
        ("a.png", b"\x89PNG\r\n\x1a\n", MediaError, "no image that OpenCV can read"),
    ],
)
def test_files_that_are_no_masks(tmp_path, name, pixels, error, message):
    if isinstance(pixels, bytes):
        (tmp_path / name).write_bytes(pixels)
    else:
        cv2.imwrite(str(tmp_path / name), pixels)
    with pytest.raises(error, match=f"{name}: .*{message}"):
        read_masks(tmp_path / name)


def test_a_picture_with_a_palette(tmp_path):
    Image.fromarray(PHOTO).quantize(200).save(tmp_path / "a.png")
    with pytest.raises(PromptError, match=r"a.png: its palette has \d+ colours, which are hardly objects"):
        read_masks(tmp_path / "a.png")


def test_places_without_a_file(tmp_path):
    with pytest.raises(MediaError, match=r"gone.png: no such mask file"):
        read_masks(tmp_path / "gone.png")
    with pytest.raises(MediaError, match="cannot be read: Is a directory"):
        read_masks(tmp_path)
