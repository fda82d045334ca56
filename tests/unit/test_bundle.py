"""Bundles: what is opened, what is refused with which message, and that writing one never harms another."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam2edge.bundle import GRAPHS, Bundle, Model, contract, memory_pools, replacing
from sam2edge.errors import BundleError, CorruptFileError, ForeignFileError, MissingFileError, SchemaError
from sam2edge.files import sha256
from tests.conftest import NANO
from tests.helpers import CLIP

CONTRACT = {
    "image_encoder": (
        "image uint8[B,256,256,3]",
        "high_res_0 float32[B,32,64,64]; high_res_1 float32[B,64,32,32]; features float32[B,256,16,16]",
    ),
    "memory_attention": (
        "features float32[1,256,16,16]; memory float32[N,T,256,64]; memory_age int32[N,T]; "
        "pointers float32[N,K,256]; pointer_age int32[N,K]",
        "conditioned float32[N,256,16,16]",
    ),
    "mask_decoder": (
        "conditioned float32[N,256,16,16]; add_no_memory bool[N]; high_res_0 float32[1,32,64,64]; "
        "high_res_1 float32[1,64,32,32]; points float32[N,P,2]; labels int32[N,P]; "
        "mask_input float32[N,1,64,64]; has_mask_input bool[N]; multimask bool[N]",
        "mask float32[N,1,64,64]; iou float32[N,1]; masks float32[N,3,64,64]; ious float32[N,3]; "
        "pointer float32[N,256]; object_score float32[N,1]",
    ),
    "memory_encoder": (
        "features float32[1,256,16,16]; mask float32[N,1,64,64]; object_score float32[N,1]; binarize bool[N]",
        "memory float32[N,256,64]",
    ),
}
"""Inputs and outputs at image size 256, where h·h is 256 too."""


MODEL = Model(256, 256, 64, 6, 16, 0, 1, True, ((0.0,) * 4,) * 4, 0.0, (0.0,) * 256)


def tables(model: Model) -> dict[str, tuple[str, ...]]:
    return {name: tuple("; ".join(map(str, side)) for side in sides) for name, sides in contract(model).items()}


def test_contract() -> None:
    assert (MODEL.grid, MODEL.mask_size, MODEL.memory_tokens) == (16, 64, 256)
    assert tables(MODEL) == CONTRACT


def test_contract_with_pooled_memory() -> None:
    model = dataclasses.replace(MODEL, memory_pool=4)
    assert (model.grid, model.memory_tokens) == (16, 16)
    changed = {name: sides for name, sides in tables(model).items() if sides != CONTRACT[name]}
    assert changed == {
        "memory_attention": (
            CONTRACT["memory_attention"][0].replace("memory float32[N,T,256,64]", "memory float32[N,T,16,64]"),
            CONTRACT["memory_attention"][1],
        ),
        "memory_encoder": (CONTRACT["memory_encoder"][0], "memory float32[N,16,64]"),
    }


@pytest.mark.parametrize(("image_size", "pools"), [(128, (1, 2, 4)), (288, (1, 2)), (1024, (1, 2, 4))])
def test_memory_pools_tile_the_grid(image_size: int, pools: tuple[int, ...]) -> None:
    assert memory_pools(image_size) == pools


@pytest.fixture
def copy(nano: Bundle, tmp_path: Path) -> Path:
    """A bundle to damage, of hard links: change its files with `rewrite` only."""
    return shutil.copytree(nano.path, tmp_path / "bundle", copy_function=os.link)


def rewrite(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def read(directory: Path) -> dict[str, bytes | None]:
    """Return the content of all files in a directory by name; None for a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


def test_open(copy: Path, nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / ".DS_Store").touch()
    monkeypatch.setenv("HOME", str(copy.parent))
    bundle = Bundle.open("~/bundle")
    assert (bundle.path, bundle.manifest) == (copy, nano.manifest)
    assert bundle.model.image_size == 128
    assert len(bundle.model.mask_prompt_kernel) == len(bundle.model.mask_prompt_kernel[0]) == 4
    for name in GRAPHS:
        file = bundle.graph_path(name)
        assert file == copy / f"{name}.onnx"
        assert sha256(file) == bundle.manifest.graphs[name].sha256


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (NANO, rf"^{NANO} is a checkpoint: export it first with `sam2edge export {NANO} OUT`, then give OUT"),
        (CLIP, rf"^{CLIP} is a video, not a bundle: give the directory that `sam2edge export` wrote"),
    ],
)
def test_open_something_else(path: Path, message: str) -> None:
    with pytest.raises(ForeignFileError, match=message):
        Bundle.open(path)


def test_open_a_bundle_that_does_not_know_of_pooled_memory(copy: Path, nano: Bundle) -> None:
    field("model", "memory_pool")(copy)
    assert Bundle.open(copy).manifest == nano.manifest


def truncate(bundle: Path) -> None:
    file = bundle / "mask_decoder.onnx"
    rewrite(file, file.read_bytes()[:-1])


def edit(bundle: Path) -> None:
    file = bundle / "memory_encoder.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(file, bytes(content))


def delete(name: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).unlink()


def manifest_of(content: bytes) -> Callable[[Path], None]:
    return lambda bundle: rewrite(bundle / "manifest.json", content)


def field(*keys: str | int, value: object = None) -> Callable[[Path], None]:
    """Return a function that sets a field of the manifest, or removes it."""

    def damage(bundle: Path) -> None:
        manifest = part = json.loads((bundle / "manifest.json").read_text())
        for key in keys[:-1]:
            part = part[key]
        if value is None:
            del part[keys[-1]]
        else:
            part[keys[-1]] = value
        rewrite(bundle / "manifest.json", json.dumps(manifest).encode())

    return damage


CALIBRATION = {"file": "recipe.json", "sha256": "", "bytes": 0, "frames": 4, "clips": {}, "source": {}}
DECODER = ("graphs", "mask_decoder")
FIELDS: dict[str, tuple[tuple[str | int, ...], object, str]] = {
    "newer schema": (("schema",), 2, "schema 2.*update sam2edge"),
    "missing field": (("model", "memory_dim"), None, "memory_dim"),
    "missing entry": (DECODER, None, "mask_decoder"),
    "unknown field": (("model", "heads"), 8, "heads"),
    "text for a number": (("model", "image_size"), "128", "image_size must be int but is '128'"),
    "number for a name": ((*DECODER, "file"), 5, "file must be str but is 5"),
    "list for a table": ((*DECODER, "parity"), [], "misstated"),
    "no memory": (("model", "memory_frames"), 0, "memory_frames and max_pointers must be 1 or more"),
    "text for an error": ((*DECODER, "parity", "mask", "max_error"), "small", "max_error must be float but is 'small'"),
    "list for a table of numbers": (
        ("calibration",),
        {**CALIBRATION, "iou": ["clip.mp4"]},
        r"iou must be dict\[str, float\] but is \['clip.mp4'\]",
    ),
    "kernel of another size": (("model", "mask_prompt_kernel"), [[1.0]], r"mask_prompt_kernel must be \[4,4\]"),
    "embedding of another size": (("model", "no_memory_embedding"), [1.0], "no_memory_embedding must have hidden_dim"),
    "number beyond floats": (("model", "no_memory_embedding"), [10**400] * 256, "too large to convert to float"),
    "pool that does not tile": (("model", "memory_pool"), 3, r"memory_pool must be one of \(1, 2, 4\) but is 3"),
    "pool of other graphs": (
        ("model", "memory_pool"),
        2,
        r"inputs of memory_attention are .*memory float32\[N,T,64,64\].* but.*\[N,T,16,64\]",
    ),
    "negative latents": (("model", "memory_latents"), -1, "memory_latents must not be negative"),
    "latents of other graphs": (("model", "memory_latents"), 9, r"inputs of memory_attention are .*but.*\[N,T,9,64\]"),
    "no high-resolution maps in the contract": (
        ("model", "high_res"),
        False,
        r"outputs of image_encoder are high_res_0 .*but the contract says features",
    ),
    "changed shape": (
        ("graphs", "memory_encoder", "outputs", 0, "shape", 2),
        32,
        r"outputs of memory_encoder are memory float32\[N,64,32\] but.*\[N,64,64\]",
    ),
    "changed dtype": ((*DECODER, "inputs", 0, "dtype"), "float16", "inputs of mask_decoder are conditioned float16"),
}
"""Fields of the manifest, the value they get (None: the field is removed), and how that is refused."""
DAMAGES: dict[str, tuple[Callable[[Path], Any], type[BundleError], str, str]] = {
    "truncated graph": (truncate, CorruptFileError, "mask_decoder.onnx", "bytes"),
    "edited byte": (edit, CorruptFileError, "memory_encoder.onnx", "sha256"),
    "missing graph": (delete("image_encoder.onnx"), MissingFileError, "image_encoder.onnx", "missing"),
    "missing manifest": (delete("manifest.json"), MissingFileError, "manifest.json", "missing"),
    "no directory": (shutil.rmtree, MissingFileError, "", "no such bundle directory"),
    "half a manifest": (manifest_of(b'{"format": "sam2edge-'), CorruptFileError, "manifest.json", "not JSON"),
    "deep manifest": (manifest_of(b"[" * 100_000), CorruptFileError, "manifest.json", "not JSON"),
    "binary manifest": (manifest_of(b"\xff\xfe\x00"), CorruptFileError, "manifest.json", "not JSON"),
    "another tool's": (
        manifest_of(b'{"name": "app"}'),
        ForeignFileError,
        "manifest.json",
        "not a manifest of sam2edge",
    ),
    "a list": (manifest_of(b"[]"), ForeignFileError, "manifest.json", "not a manifest of sam2edge"),
    "unlisted file": (lambda bundle: (bundle / "x.engine").touch(), ForeignFileError, "x.engine", "not listed"),
    **{
        f"file is {file}": (
            field(*DECODER, "file", value=file),
            ForeignFileError,
            "manifest.json",
            f"'{re.escape(file)}', which lies outside",
        )
        for file in ("../x.onnx", "/x.onnx")
    },
    **{
        name: (field(*keys, value=value), SchemaError, "manifest.json", words)
        for name, (keys, value, words) in FIELDS.items()
    },
}
"""What happens to the bundle; the error, the file that it names, and its words."""


@pytest.mark.parametrize(("damage", "error", "file", "words"), DAMAGES.values(), ids=DAMAGES)
def test_open_refuses(
    copy: Path, damage: Callable[[Path], Any], error: type[BundleError], file: str, words: str
) -> None:
    (copy.parent / "x.onnx").write_bytes((copy / "mask_decoder.onnx").read_bytes())
    damage(copy)
    with pytest.raises(error, match=words) as caught:
        Bundle.open(copy)
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{copy / file}: ")


def write_new(out: Path) -> None:
    with replacing(out) as new:
        (new / "manifest.json").write_text("new")


@pytest.mark.parametrize("out", ["deep/new", "empty", "bundle"])
def test_replacing(copy: Path, nano: Bundle, out: str) -> None:
    """Of a place that does not exist, of an empty directory, and of another bundle, which opens until the end."""
    place = copy.parent / out
    (copy.parent / "empty").mkdir()
    before = read(place)
    with replacing(place) as new:
        (new / "manifest.json").write_text("new")
        assert read(place) == before
        assert Bundle.open(copy).manifest == nano.manifest
    assert read(place) == {"manifest.json": b"new"}
    assert place.stat().st_mode & 0o777 == 0o755
    assert {path.name for path in copy.parent.iterdir()} == {"bundle", "empty", out.partition("/")[0]}


@pytest.mark.parametrize(
    ("error", "raised"), [(RuntimeError, RuntimeError), (KeyboardInterrupt, KeyboardInterrupt), (OSError, BundleError)]
)
def test_replacing_keeps_the_old_one_on_an_error(
    copy: Path, error: type[BaseException], raised: type[BaseException]
) -> None:
    before = read(copy.parent)

    def write_half() -> None:
        with replacing(copy) as new:
            (new / "mask_decoder.onnx").write_bytes(b"half")
            raise error

    with pytest.raises(raised):
        write_half()
    assert read(copy.parent) == before


@pytest.mark.parametrize(
    "files",
    [
        {"thesis": "years of work"},
        {"thesis/chapter.txt": "years of work"},
        {"thesis/chapter.txt": "years of work", "thesis/manifest.json": '{"format": "sam2edge-bundle"}'},
        {"thesis/.git/HEAD": "years of work"},
        {"thesis/manifest.json": '{"name": "web app"}'},
    ],
    ids=", ".join,
)
def test_replacing_refuses_what_is_no_bundle(tmp_path: Path, files: dict[str, str]) -> None:
    out = tmp_path / "thesis"
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    before = read(tmp_path)
    with pytest.raises(BundleError, match=r"is not a bundle|not a manifest of sam2edge") as caught, replacing(out):
        pytest.fail("the block must not run")
    assert str(caught.value).startswith(str(out))
    assert read(tmp_path) == before


def test_replacing_refuses_a_place_in_a_bundle(copy: Path) -> None:
    before = read(copy)
    for out in (copy / "int8", copy / "deeper" / "int8"):
        with pytest.raises(BundleError, match=r"lies in the bundle .*/bundle, which may"), replacing(out):
            pytest.fail("the block must not run")
    assert read(copy) == before
    rewrite(copy / "manifest.json", b'{"name": "web app"}')
    with replacing(copy / "model"):
        pass
    assert (copy / "model").is_dir()


def test_replacing_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "bundle"
    with pytest.raises(BundleError, match=r"file/bundle: cannot be written: .*file is a file"), replacing(out):
        pytest.fail("the block must not run")


def test_replacing_follows_a_link(copy: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(copy)
    write_new(link)
    assert link.is_symlink()
    assert read(copy) == {"manifest.json": b"new"}
    assert sorted(tmp_path.iterdir()) == [copy, link]


@pytest.mark.parametrize("out", [".", "../bundle"])
def test_replacing_by_a_path_through_itself(copy: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(copy)
    write_new(Path(out))
    assert read(copy.parent) == {"bundle": None, "bundle/manifest.json": b"new"}


KILLED = """
import sys, time
from pathlib import Path
from sam2edge.bundle import replacing
with replacing(Path(sys.argv[1])) as new:
    (new / "mask_decoder.onnx").write_bytes(b"half")
    print(new, flush=True)
    time.sleep(60)
"""


def test_replacing_killed(copy: Path, nano: Bundle) -> None:
    before = read(copy)
    with subprocess.Popen([sys.executable, "-c", KILLED, copy], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        left = Path(writer.stdout.readline().strip())
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert (left / "mask_decoder.onnx").read_bytes() == b"half"
    assert read(copy) == before
    assert Bundle.open(copy).manifest == nano.manifest
    write_new(copy)
    assert read(copy) == {"manifest.json": b"new"}
