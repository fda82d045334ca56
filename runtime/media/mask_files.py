"""Masks and label images in files: what a pixel's value means, and label images that say so themselves."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam2edge.errors import MediaError, ObjectIdError, PromptError
from sam2edge.files import replacing_file, user_path
from sam2edge.types import Bools

Labels = npt.NDArray[np.integer]
LabelImage = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""Object ids [H,W], 0 for none."""

VOID = 255
"""DAVIS 2017's label for pixels that belong to no object for certain."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_IHDR_END = 33
_HEAD = 256
"""Bytes in which the mark is looked for."""
_MARK = b"sam2edge\0object ids"
"""A PNG's text, after its keyword, that says that the grey values are object ids."""
_FEW = 64
"""Different values up to which they may be ids; a soft mask or a picture has more."""
_ADVICE = "give a black and white image, or a label image that has a palette or was written by sam2edge"


def read_masks(path: str | os.PathLike[str], wanted: int | None = None) -> dict[int | None, Bools]:
    """Read a mask, or all masks of a label image, bool [H,W] by object id; None is the id of a mask alone.

    The first of these rules that applies decides:

    1. An alpha channel that varies: the object is where it is at least half opaque.
    2. A label image that sam2edge wrote, or a PNG with a palette of colours: the values, or the palette's indices, are
       ids. 0 is the background and, as in DAVIS, 255 in a palette beside other ids is nobody's.
    3. One colour, or black and one other: what is not black is the object, however dark it is.
    4. More than 64 levels of grey, or white beside another light grey, or no PNG: a soft mask. Its object is where it
       is at least half as light as white.
    5. A PNG of greys that are all darker than that: a label image, as in rule 2.

    Args:
        path: The file.
        wanted: The id of which to return the mask alone, if the file is a label image of several objects.

    Raises:
        MediaError: The file cannot be read.
        PromptError: No rule applies, no pixel belongs to an object, or to the one that is wanted.
    """
    path = user_path(path)
    data = _read(path)
    found = _mask_or_labels(path, data)
    if found.dtype == bool:
        masks: dict[int | None, Bools] = {None: found.astype(bool)} if found.any() else {}
    else:
        is_ours = _MARK in data[:_HEAD]
        ids = [int(value) for value in np.unique(found) if value]
        if len(ids) > 1 and not is_ours:
            ids = [value for value in ids if value != VOID or found.dtype != np.uint8]
            if len(ids) > _FEW:
                raise PromptError(f"{path}: its palette has {len(ids)} colours, which are hardly objects; {_ADVICE}")
        if wanted is not None and len(ids) > 1:
            if wanted not in ids:
                raise PromptError(f"{path}: has the objects {', '.join(map(str, ids[:9]))}, but not {wanted}")
            ids = [wanted]
        masks = {value: found == value for value in ids}
    if not masks:
        raise PromptError(f"{path}: the mask is empty: no pixel is white or opaque, or the id of an object in a PNG")
    return masks


def read_labels(path: Path) -> Labels:
    """Read ids uint8 or uint16 [H,W] from a PNG: its grey values, or the indices into its palette."""
    return _labels(path, _read(path))


def encode_labels(labels: LabelImage, *, indexed: bool = False) -> bytes:
    """Return object ids [H,W] as a PNG that says that its values are ids, so that `read_masks` need not guess.

    The PNG is grey, or `indexed`: with DAVIS's palette, in which programs show each object in a colour of its own and
    read the same values. ObjectIdError: it has no colour for an id above 255.
    """
    if indexed and labels.dtype != np.uint8:
        raise ObjectIdError(f"object id {labels.max()} is no index into a palette: use ids from 1 to 255")
    png = cv2.imencode(".png", labels)[1].tobytes()
    head, rest = png[:_IHDR_END], png[_IHDR_END:]
    if indexed:  # both kinds store pixels alike (PNG specification, 11.2)
        content = head[16:-4]
        head = _SIGNATURE + _chunk(b"IHDR", content[:9] + bytes([_PALETTE]) + content[10:])
        rest = _chunk(b"PLTE", _davis_palette()) + rest
    return head + _chunk(b"tEXt", _MARK) + rest


def write_labels(path: Path, labels: LabelImage) -> None:
    """Write a label image as `encode_labels` makes it, and its folder; MediaError if that fails."""
    try:
        with replacing_file(path) as new:
            new.write_bytes(encode_labels(labels))
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error


def _mask_or_labels(path: Path, data: bytes) -> Bools | Labels:
    """Return a mask, or the ids of a label image, by the rules of `read_masks`."""
    is_png = data.startswith(_SIGNATURE)
    pixels = _decode(path, data, is_png)
    white = np.iinfo(pixels.dtype).max
    if pixels.shape[2:] == (4,):
        alpha = pixels[..., 3]
        if (alpha != alpha.flat[0]).any():
            return alpha > white // 2
        pixels = pixels[..., :3]
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    levels = np.unique(pixels) if pixels.ndim == 2 else _colours(pixels)
    if is_png and (_MARK in data[:_HEAD] or (data[25] == _PALETTE and pixels.ndim == 3)):
        return _labels(path, data)
    if np.count_nonzero(levels) <= 1:
        nonzero: Bools = pixels != 0
        return nonzero if pixels.ndim == 2 else np.any(nonzero, axis=2)
    if pixels.ndim == 3:
        raise PromptError(f"{path}: is a colour image without an alpha channel that varies, not a mask; {_ADVICE}")
    light = levels > white // 2
    if len(levels) > _FEW or not is_png or (levels[-1] == white and light.sum() > 1):
        return pixels > white // 2
    if light.any():
        raise PromptError(
            f"{path}: it is not clear whether its values {', '.join(map(str, levels[:6]))} are grey levels or object "
            f"ids; {_ADVICE}"
        )
    return _labels(path, data)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such mask file") from error
    except (OSError, ValueError) as error:  # ValueError: characters that no file's name can have
        raise MediaError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error


def _decode(path: Path, data: bytes, is_png: bool) -> npt.NDArray[Any]:
    """Return the pixels [H,W] or [H,W,3 or 4]; without an alpha channel, other files than PNGs as their EXIF says."""
    encoded = np.frombuffer(data, np.uint8)
    pixels = None
    try:
        if data:
            pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if pixels is not None and not is_png and pixels.shape[2:] != (4,):
            pixels = cv2.imdecode(encoded, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:  # more pixels than OpenCV takes
        raise MediaError(f"{path}: no image that OpenCV can read: {error.err or 'damaged'}") from error
    if pixels is None:
        raise MediaError(f"{path}: no image that OpenCV can read: another kind of file, or one cut short")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise PromptError(f"{path}: its pixels are {pixels.dtype}, which do not say where the object is; {_ADVICE}")
    decoded: npt.NDArray[Any] = pixels
    return decoded


def _colours(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return the different colours of an image [H,W,3] as one number each; black is 0."""
    blue, green, red = (pixels[..., channel].astype(np.uint64) for channel in range(3))
    return np.unique(blue | green << 16 | red << 32)


def _labels(path: Path, data: bytes) -> Labels:
    try:
        depth, kind, data = _without_palette(data)
        labels: Labels | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if labels is None:
            raise ValueError("it cannot be decoded")
    except (ValueError, IndexError, struct.error, cv2.error) as error:
        raise MediaError(f"{path}: not a PNG, or a damaged one ({error})") from error
    if kind not in (_GREY, _PALETTE):
        raise MediaError(
            f"{path}: is a colour image, but the values of a label image are object ids: it must be grey or have a "
            "palette"
        )
    if depth < 8:
        labels = labels // (255 // (2**depth - 1))  # OpenCV stretches 1, 2 and 4 bits to 8
    return labels


def _without_palette(data: bytes) -> tuple[int, int, bytes]:
    """Return a PNG's bit depth, colour type and bytes, turning one with a palette into a grey image of its indices.

    OpenCV returns the palette's colours only. Both kinds store pixels alike (PNG specification, 11.2).
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("another kind of file")
    depth, kind = data[24], data[25]
    if kind != _PALETTE:
        return depth, kind, data
    chunks, at = [_SIGNATURE], len(_SIGNATURE)
    while at < len(data):
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        at += 12 + length
        if name == b"IHDR":
            content = content[:9] + bytes([_GREY]) + content[10:]
        if name in (b"IHDR", b"IDAT", b"IEND"):
            chunks.append(_chunk(name, content))
    return depth, kind, b"".join(chunks)


def _davis_palette() -> bytes:
    """Return the colours of DAVIS and PASCAL VOC, 256×RGB: the bits of an id, lowest first, fill a colour's from above.

    Source: VOCdevkit, VOClabelcolormap.m.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((ids >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours.tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
