"""`sam2edge triton`: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from sam2edge import Bundle, cli
from sam2edge.bundle import GRAPHS
from sam2edge.bundle.engines import SCHEMA, default_directory
from sam2edge.errors import InputError
from sam2edge.serving.repository import Settings, write_repository
from sam2edge.serving.tensors import INPUTS, OUTPUTS, VIDEO_OUTPUTS
from tests.conftest import REPO


def triton(*words: object) -> int:
    return cli.main(["triton", *map(str, words)])


def config(repository: Path, model: str) -> str:
    return (repository / model / "config.pbtxt").read_text()


def test_each_model_has_all_that_it_needs(nano: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "repository"
    assert triton(nano.path, out, "--streams", "3", "--idle", "5", "--max-objects", "4", "--threads", "2") == 0
    command = f"tritonserver --model-repository {out} --disable-auto-complete-config"
    assert capsys.readouterr().out == f"wrote {out}; serve it with: {command}\n"
    assert sorted(path.name for path in out.iterdir()) == ["sam2_image", "sam2_video"]
    for model, of_class in (("sam2_image", "ImageModel"), ("sam2_video", "VideoModel")):
        version = out / model / "1"
        assert (version / "model.py").read_text() == (
            f"from sam2edge.serving.triton import {of_class} as TritonPythonModel\n"
        )
        assert Bundle.open(version / "bundle").manifest == nano.manifest
        for name, value in (("backend", "onnx"), ("streams", "3"), ("idle", "5.0"), ("max_objects", "4")):
            assert f'key: "{name}", value {{ string_value: "{value}" }}' in config(out, model)
        assert "kind: KIND_CPU, count: 1 " in config(out, model)
    assert re.findall(r'put \{ name: "(\w+)"', config(out, "sam2_image")) == [*INPUTS, *OUTPUTS]
    assert re.findall(r'put \{ name: "(\w+)"', config(out, "sam2_video")) == [*INPUTS, *OUTPUTS, *VIDEO_OUTPUTS]
    assert "max_sequence_idle_microseconds: 5000000\n" in config(out, "sam2_video")
    assert "sequence_batching" not in config(out, "sam2_image")


def test_both_models_share_one_copy_where_links_are_possible(
    nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    write_repository(nano, tmp_path / "linked", Settings())
    monkeypatch.setattr(os, "link", refuse)
    write_repository(nano, tmp_path / "copied", Settings())
    for name, linked in (("linked", True), ("copied", False)):
        one, other = (tmp_path / name / model / "1" / "bundle" for model in ("sam2_image", "sam2_video"))
        for graph in GRAPHS:
            assert (one / f"{graph}.onnx").samefile(other / f"{graph}.onnx") == linked
            assert not (one / f"{graph}.onnx").samefile(nano.graph_path(graph))


def test_the_page_lists_the_tensors() -> None:
    page = (REPO / "docs" / "how-to" / "serve.md").read_text()
    documented = re.findall(r"^\| ([→←]) `(\w+)` \| (\w+) (\[.*\]) \| (.*) \|$", page, re.MULTILINE)
    tensors = [("→", INPUTS), ("←", OUTPUTS), ("←", VIDEO_OUTPUTS)]
    assert documented == [
        (arrow, name, tensor.dtype, str(list(tensor.shape)), tensor.text)
        for arrow, side in tensors
        for name, tensor in side.items()
    ]


def test_settings_come_back_from_the_configuration(nano: Bundle, tmp_path: Path) -> None:
    settings = Settings("onnx", streams=3, idle=0.5, max_objects=4, threads=2)
    write_repository(nano, tmp_path / "out", settings)
    pairs = re.findall(r'key: "(\w+)", value \{ string_value: "(.*)" \}', config(tmp_path / "out", "sam2_video"))
    assert Settings.from_config({"parameters": {key: {"string_value": value} for key, value in pairs}}) == settings


def test_a_word_detector_stays_behind(nano: Bundle, tmp_path: Path) -> None:
    bundle = Bundle(shutil.copytree(nano.path, tmp_path / "bundle"), nano.manifest)
    (bundle.path / "words").mkdir()
    write_repository(bundle, tmp_path / "out", Settings())
    assert not (tmp_path / "out" / "sam2_video" / "1" / "bundle" / "words").exists()


def write_engines(bundle: Path, product: str, precision: str) -> None:
    """Write a manifest of engines as far as it is read without a GPU, and one file."""
    tensor = {"dtype": "float32", "profile": []}
    engine = {
        **{"file": "x.engine", "sha256": "", "bytes": 1, "precision": precision, "attention": "", "graph_sha256": ""},
        **{"inputs": {"x": tensor}, "outputs": {"x": tensor}, "layers": {}, "small_weights": {}},
        **{"activation_bytes": 0, "seconds": 0.0},
    }
    manifest = {
        **{"format": "sam2edge-engines", "schema": SCHEMA, "precision": precision, "workspace": 0, "limits": {}},
        "target": {
            **{"product": product, "version": "10", "gpu": "", "multiprocessors": 0, "board": ""},
            "compute_capabilities": ["8.9"],
        },
        "engines": dict.fromkeys((*GRAPHS, "resize"), engine),
    }
    folder = default_directory(bundle, precision, product)
    folder.mkdir(parents=True)
    (folder / "engines.json").write_text(json.dumps(manifest))
    (folder / "x.engine").write_text("x")


@pytest.mark.parametrize(("product", "place"), [("tensorrt", "fp16"), ("tensorrt-rtx", "rtx/fp16")])
def test_engines_go_with_the_bundle(nano: Bundle, tmp_path: Path, product: str, place: str) -> None:
    bundle = shutil.copytree(nano.path, tmp_path / "bundle")
    for precision in ("fp32", "fp16"):
        write_engines(bundle, product, precision)
    assert triton(bundle, tmp_path / "out", "--backend", product, "--gpus", "0,2", "--instances", "2") == 0
    for model in ("sam2_image", "sam2_video"):
        engines = tmp_path / "out" / model / "1" / "bundle.engines"
        assert [str(file.relative_to(engines)) for file in sorted(engines.rglob("*.*"))] == [
            f"{place}/engines.json",
            f"{place}/x.engine",
        ]
        assert "kind: KIND_GPU, count: 2, gpus: [0, 2] " in config(tmp_path / "out", model)


def test_missing_engines_are_named(nano: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert triton(nano.path, tmp_path / "out", "--backend", "tensorrt-rtx") == 2
    assert "has no engines for the backend tensorrt-rtx; build them" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_repository_is_replaced_as_a_whole(nano: Bundle, tmp_path: Path) -> None:
    write_repository(nano, tmp_path / "out", Settings(streams=3))
    (tmp_path / "out" / "sam2_video" / "1" / "left over").touch()
    write_repository(nano, tmp_path / "out", Settings(streams=4))
    assert not (tmp_path / "out" / "sam2_video" / "1" / "left over").exists()
    assert 'string_value: "4"' in config(tmp_path / "out", "sam2_video")


@pytest.mark.parametrize("foreign", ["my_model/config.pbtxt", "sam2_video/config.pbtxt", "notes.txt", ""])
def test_what_is_not_ours_is_not_replaced(
    nano: Bundle, tmp_path: Path, foreign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    file = out / foreign if foreign else out  # a file in its place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('name: "mine"\n')
    assert triton(nano.path, out) == 2
    name = foreign.partition("/")[0] or "out"
    assert f"{out}: exists but is not a repository that `sam2edge triton` wrote (unexpected {name})" in (
        capsys.readouterr().err
    )
    assert file.read_text() == 'name: "mine"\n'


def test_a_repository_in_the_bundle_is_refused(nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert triton(nano.path, nano.path / "repository") == 2
    assert "lies in the bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--streams", "0"], "--streams must be an integer of at least 1 but got 0"),
        (["--idle", "nan"], "--idle must be a finite number of at least 0.1 but got nan"),
        (["--max-objects", "0"], "--max-objects must be an integer of at least 1 but got 0"),
        (["--instances", "-1"], "--instances must be an integer of at least 1 but got -1"),
        (["--gpus", "0"], "--gpus must be left out for the backend onnx, which runs on the CPU"),
        (["--backend", "onnx-cuda", "--gpus", "1,1"], "--gpus must name each GPU once but got 1,1; for more on each"),
        (["--backend", "onnx-cuda", "--gpus=-1"], "--gpus must be an integer of at least 0 but got -1"),
        (
            ["--backend", "onnx-cuda", "--threads", "2"],
            "--threads must be left out for the backend onnx-cuda: they",
        ),
        (["--threads", "0"], "--threads must be an integer of at least 1 but got 0"),
    ],
)
def test_wrong_options_are_named(
    nano: Bundle, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert triton(nano.path, tmp_path / "out", *options) == 2
    assert f"sam2edge: error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_gpus_are_numbers(nano: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        triton(nano.path, tmp_path / "out", "--gpus", "all")
    assert "expected numbers of GPUs with commas between but got 'all'" in capsys.readouterr().err


def test_settings_are_checked_in_python_too() -> None:
    with pytest.raises(InputError, match=r"^streams must be"):
        Settings(streams=True)
