"""A bundle that travels in pieces."""

from __future__ import annotations

import filecmp
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sam2edge import Bundle
from sam2edge.errors import BackendError
from sam2edge.labelling import parcel
from sam2edge.labelling.parcel import pack, unpack


class Carrier:
    """Takes pieces and gives them back, as Ray's object store does."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.got = 0

    def put(self, piece: bytes) -> int:
        self.pieces.append(piece)
        return len(self.pieces) - 1

    def get(self, number: int) -> bytes:
        self.got += 1
        return self.pieces[number]


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Carrier:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parcel, "PIECE", 100_000)
    return Carrier()


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_arrives_whole_and_once(nano: Bundle, carrier: Carrier) -> None:
    sent = pack(nano.path, "onnx", False, carrier.put)
    assert max(map(len, carrier.pieces)) == 100_000
    with ThreadPoolExecutor(4) as workers:
        (arrived,) = {*workers.map(lambda _: unpack(sent, carrier.get), range(4))}
    assert carrier.got == len(carrier.pieces) > 10
    assert Bundle.open(arrived).manifest == nano.manifest
    assert filecmp.cmpfiles(arrived, nano.path, names(nano.path), shallow=False)[1:] == ([], [])
    again = pack(nano.path, "onnx", False, carrier.put)
    assert unpack(again, carrier.get) == arrived
    assert carrier.got < len(carrier.pieces)  # the second time nothing was needed


def test_word_detector_travels_if_it_is_needed(nano: Bundle, carrier: Carrier, tmp_path: Path) -> None:
    bundle = shutil.copytree(nano.path, tmp_path / "with-words")
    (bundle / "words").mkdir()
    (bundle / "words" / "detector.onnx").write_bytes(b"a large detector")
    (bundle / ".words.abc").mkdir()  # what a killed export left
    (bundle / ".words.abc" / "detector.onnx").touch()
    with_words = unpack(pack(bundle, "onnx", True, carrier.put), carrier.get)
    without = unpack(pack(bundle, "onnx", False, carrier.put), carrier.get)
    assert names(with_words) == {*names(nano.path), "words/detector.onnx"}
    assert names(without) == names(nano.path)


def test_what_breaks_off_leaves_nothing(nano: Bundle, carrier: Carrier) -> None:
    sent = pack(nano.path, "onnx", False, carrier.put)
    lost = carrier.pieces[5]
    carrier.pieces[5] = None  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        unpack(sent, carrier.get)
    assert not sent.directory.exists()
    carrier.pieces[5] = lost
    Bundle.open(unpack(sent, carrier.get))


def test_engines_travel_beside_their_bundle(nano: Bundle, carrier: Carrier, tmp_path: Path) -> None:
    bundle = shutil.copytree(nano.path, tmp_path / "tiny")
    with pytest.raises(BackendError, match=r"tiny: has no engines; build them with `sam2edge build .*/tiny`$"):
        pack(bundle, "tensorrt", False, carrier.put)
    for precision in ("fp16", "fp32"):
        engines = tmp_path / "tiny.engines" / precision
        engines.mkdir(parents=True)
        for name in ("engines.json", "image_encoder.engine", "image_encoder.cache"):
            (engines / name).write_text(name)
    sent = pack(bundle, "tensorrt", False, carrier.put)
    arrived = unpack(sent, carrier.get)
    assert names(arrived) == names(bundle)
    # of the precision that would be used, and without kernels that this machine's GPU compiled
    assert names(sent.directory / "tiny.engines") == {"fp16/engines.json", "fp16/image_encoder.engine"}
