"""Video files as tests need them: grey frames whose values tell their numbers, damaged ones, and what FFmpeg makes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from sam2edge.errors import MediaError
from sam2edge.runtime.media.sources import Source
from tests.simulated import grey

_CHUNK = b"00dc"  # a picture in an AVI file; its size follows


def write_avi(path: Path, values: Iterable[int], fps: float = 10) -> Path:
    """Write frames of 64×48 pixels, each of one grey value, as motion JPEG."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for value in values:
        writer.write(grey(value))
    writer.release()
    return path


def damage_avi(path: Path, *numbers: int) -> None:
    """Overwrite these pictures of an AVI file."""
    content = bytearray(path.read_bytes())
    position, number = content.index(b"movi"), 0
    while (position := content.find(_CHUNK, position)) >= 0 and content[position + 4 : position + 8] != b"\x10\0\0\0":
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        if number in numbers:
            content[position + 8 : position + 8 + size] = bytes(size)
        position, number = position + 8 + size, number + 1
    path.write_bytes(content)


def ffmpeg(target: Path, *arguments: str) -> Path:
    """Make a file with the program ffmpeg; skip the test where it is missing."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed: apt-get install ffmpeg")
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", *arguments, str(target)], check=True)
    return target


def moving(frames: int, rate: int = 25) -> tuple[str, ...]:
    """Return ffmpeg's arguments for so many frames of a moving pattern of 128×96 pixels."""
    return ("-f", "lavfi", "-i", f"testsrc2=size=128x96:rate={rate}", "-frames:v", str(frames), "-pix_fmt", "yuv420p")


def damage(path: Path, *numbers: int) -> None:
    """Overwrite these pictures, in the order in which they are stored, in a file that ffprobe understands."""
    probe = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "packet=pos,size", "-of", "csv=p=0"]
    lines = subprocess.run([*probe, str(path)], capture_output=True, text=True, check=True).stdout.split()
    content = bytearray(path.read_bytes())
    for size, start in ([int(word) for word in lines[number].split(",")[:2]] for number in numbers):
        content[start : start + size] = bytes(size)
    path.write_bytes(content)


def decoded_by_ffmpeg(path: Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return all pictures of a file as the program ffmpeg decodes them: uint8 [T,H,W,3]."""
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def lost(source: Source) -> tuple[list[int], list[float | None]]:
    """Read a source to its end; return the numbers of the frames that are broken, and the times of all."""
    items = [(isinstance(item, MediaError), source.time) for item in source]
    return [number for number, (broken, _) in enumerate(items) if broken], [time for _, time in items]
