"""The built wheel, installed beside nothing but what it says it needs, is the whole package."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sam2edge import Bundle
from tests.conftest import REPO

FOLDERS = ("calibration", "engines", "export", "runtime")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    tree, out = tmp_path_factory.mktemp("tree") / "sam2edge", tmp_path_factory.mktemp("dist")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPO / "src", tree / "src", symlinks=True, ignore=ignored)
    for folder in (*FOLDERS, "deploy", "docs", "samples", "tests", "tools"):
        shutil.copytree(REPO / folder, tree / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / file, tree)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree, cwd=out)
    return out


def run(*command: object, cwd: Path) -> str:
    """Return what a command prints, run in `cwd` without this process's Python settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources() -> set[str]:
    """Return the package's files, with the paths of an installed package."""
    package = REPO / "src" / "sam2edge"
    own = [*package.rglob("*.py"), *package.glob("ui/page/*")]  # rglob does not follow links
    top = {f"sam2edge/{file.relative_to(package)}" for file in own}
    inner = {f"sam2edge/{file.relative_to(REPO)}" for folder in FOLDERS for file in (REPO / folder).rglob("*.py")}
    return {"sam2edge/py.typed", *top, *inner}


def test_wheel_holds_every_file_as_a_file(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = {info.filename: info for info in archive.infolist() if ".dist-info/" not in info.filename}
        assert set(members) == sources()
        for name, info in members.items():
            assert not stat.S_ISLNK(info.external_attr >> 16), name
        here = (REPO / "runtime" / "video" / "tracker.py").read_bytes()
        assert archive.read("sam2edge/runtime/video/tracker.py") == here


def test_sdist_holds_every_file_as_a_file(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive}
    assert {f"src/{name}" for name in sources()} | {"LICENSE", "README.md", "pyproject.toml"} <= set(members)
    assert [name for name, member in members.items() if not (member.isfile() or member.isdir())] == []
    # Above all no weights and no clip: the bundled model is of the repository, not of the package.
    packaged = ("src/sam2edge/", "src/sam2edge.egg-info/", "tests/test_")
    strange = {name for name in members if not members[name].isdir() and not name.startswith(packaged)}
    assert strange == {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}


def required(requirements: list[str] | None) -> set[str]:
    """Return the distributions that these requirements name, without extras."""
    parsed = map(Requirement, requirements or [])
    return {one.name for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})}


def with_their_own(names: set[str]) -> set[str]:
    """Return distributions and what they require in turn."""
    return names.union(*(with_their_own(required(metadata.requires(name))) for name in names))


def site_packages(home: Path) -> Path:
    [site] = home.glob("lib/python*/site-packages")
    return site


def installed_metadata(home: Path) -> metadata.Distribution:
    [own] = metadata.distributions(name="sam2edge", path=[str(site_packages(home))])
    return own


@pytest.fixture(scope="module")
def home(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and, linked from the environment of the tests, what the wheel requires."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    [wheel] = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python")
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=home)
    for name in with_their_own(required(installed_metadata(home).requires)):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            (site_packages(home) / top).symlink_to(distribution.locate_file(top))
    return home


def test_requirements(home: Path) -> None:
    """The bare install is the runtime; PyTorch and TensorRT are asked for by name."""
    own = installed_metadata(home)
    assert required(own.requires) == {"numpy", "onnxruntime", "opencv-python-headless"}
    assert {"cuda", "export", "rtx", "tensorrt"} <= set(own.metadata.get_all("Provides-Extra") or [])


def test_command(home: Path, tmp_path: Path) -> None:
    printed = run(home / "bin" / "sam2edge", "--help", cwd=tmp_path)
    assert all(verb in printed for verb in ("export", "track", "inspect", "doctor"))


TRACK = """
import importlib.util, sys
import numpy as np
import sam2edge

assert importlib.util.find_spec("torch") is None
assert importlib.util.find_spec("onnx") is None
frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
with sam2edge.VideoTracker(sys.argv[1]) as tracker:
    tracker.track(frame)
    tracker.prompt(1, box=(20, 20, 80, 80))
    print(tracker.track(frame).masks.shape, sam2edge.__file__)
"""


def test_tracking(home: Path, nano: Bundle, tmp_path: Path) -> None:
    printed = run(home / "bin" / "python", "-c", TRACK, nano.path, cwd=tmp_path)
    shape, _, file = printed.strip().rpartition(" ")
    assert shape == "(1, 96, 128)"
    assert Path(file).is_relative_to(site_packages(home))
