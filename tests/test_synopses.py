"""Commands in the documentation that the tests do not run: what they name exists."""

from __future__ import annotations

import re

from tests.conftest import REPO
from tests.documents import COMMANDS, NOT_RUN, PAGES, RUN, VERBS, Command

JETSON = (REPO / "deploy" / "jetson.Dockerfile").read_text()


def test_options_in_synopses_exist() -> None:
    synopses = [command for command in COMMANDS if command.program == "sam2edge" and not command.real]
    assert synopses
    for command in synopses:
        options = set(re.findall(r"--[a-z][a-z-]*", " ".join(command.words[2:])))
        assert options <= set(re.findall(r"--[a-z][a-z-]*", VERBS[command.words[1]].format_help())), command


def test_every_program_is_known() -> None:
    assert {command.program for command in COMMANDS} <= RUN | NOT_RUN


def test_no_command_hides_in_another_block() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```(\w*)", page.read_text(), re.MULTILINE)
        assert set(fences[::2]) <= {"sh", "python"}, page
        indented = re.findall(r"^ {4}(?:sudo )?(\S+) ", page.read_text(), re.MULTILINE)
        assert not set(indented) & (RUN | NOT_RUN), page


def of(*programs: str) -> list[Command]:
    selected = [command for command in COMMANDS if command.program in programs]
    assert selected
    return selected


def test_make_targets() -> None:
    targets = set(re.findall(r"^(\S+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert {target for command in of("make") for target in command.words[1:]} <= targets


def test_python_programs_are_run_elsewhere_or_have_these_options() -> None:
    elsewhere = (REPO / "tests" / "test_samples.py").read_text()
    for command in of("python"):
        module = command.words[1] == "-m"
        program = command.words[2].replace(".", "/") + ".py" if module else command.words[1]
        (file,) = {file for file in (REPO / program, command.page.parent / program) if file.exists()}
        if command.real:
            assert re.search(rf'\b(run|load)\("{file.stem}(\.py)?"', elsewhere), command
        for option in (word for word in command.words[3:] if word.startswith("--")):
            assert f'"{option}"' in file.read_text(), command


def test_python_packages_have_the_names_of_the_projects() -> None:
    """As in pyproject.toml; scikit-image is for training alone."""
    project = (REPO / "pyproject.toml").read_text()
    known = {".", "sam2edge", "scikit-image", *re.findall(r'"([\w-]+)[><=]', project)}
    for command in of("pip"):
        for package in (word for word in command.words[2:] if not word.startswith("-")):
            name, _, extra = package.removesuffix("]").partition("[")
            assert name in known, command
            assert not extra or re.search(rf"^{extra} = \[", project, re.MULTILINE), command


def test_system_packages_are_those_of_the_image() -> None:
    """Except JetPack, which is in the image."""
    (listed,) = re.findall(r"apt-get install -y --no-install-recommends (.*?) +&& rm", JETSON, re.DOTALL)
    installs = [command.words[2:] for command in of("apt-get") if command.words[1] == "install"]
    documented = {package for packages in installs for package in packages}
    assert documented - {"nvidia-jetpack"} == set(listed.replace("\\", " ").split())


def test_services_are_there() -> None:
    """NVIDIA's, and those in deploy/."""
    for command in of("systemctl", "journalctl"):
        (unit,) = (word for word in command.words if "-" in word and not word.startswith("-"))
        assert unit == "nvargus-daemon" or (REPO / "deploy" / f"{unit}.service").exists()


def test_forwarded_port_is_the_pages() -> None:
    port = VERBS["ui"].get_default("port")
    assert [command.words[2] for command in of("ssh")] == [f"{port}:127.0.0.1:{port}"]
