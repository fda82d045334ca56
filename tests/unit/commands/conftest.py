"""Running a command line, and a bundle that no backend opens."""

import subprocess
import sys

import pytest

from sam2edge import cli
from sam2edge.bundle import Bundle, Graph, Manifest, Model, Parity, Source, contract, write_manifest
from sam2edge.files import sha256

MODEL = Model(128, 32, 16, 6, 16, 0, 1, True, ((0.25,) * 4,) * 4, 0.5, (0.0,) * 32)


def python(script, cwd=None):
    return subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=cwd)


def without(module, *words, cwd=None):
    """Run a command line in a process in which a module cannot be imported."""
    arguments = [str(word) for word in words]
    return python(
        f"import sys\nsys.modules[{module!r}] = None\nfrom sam2edge.cli import main\nsys.exit(main({arguments}))", cwd
    )


@pytest.fixture
def run(capsys):
    """Return a function that runs a command line and returns (exit code, stdout, stderr)."""

    def run(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exited:  # argparse's, for wrong usage and for help
            code = exited.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def error_of(run):
    """Return a function that runs a command line and returns the only line of its error."""

    def error_of(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        [line] = err.splitlines()
        assert line.startswith("sam2edge: error: ")
        return line.removeprefix("sam2edge: error: ")

    return error_of


@pytest.fixture
def write_bundle(tmp_path):
    """Return a function that writes a bundle whose graphs are a few bytes."""

    def write(model=MODEL):
        directory = tmp_path / "bundle"
        directory.mkdir()
        graphs = {}
        for i, (name, (inputs, outputs)) in enumerate(contract(model).items()):
            file = directory / f"{name}.onnx"
            file.write_bytes(bytes([i]) * (i + 1) * 2**19)
            parity = {outputs[0].name: Parity(0.00012345 * (i + 1), 1e-6)}
            graphs[name] = Graph(file.name, sha256(file), file.stat().st_size, "fp32", inputs, outputs, parity)
        source = Source("some/model", "ab" * 32, "2.1", "tiny")
        write_manifest(directory, Manifest(source, model, graphs, "clip.mp4"))
        return Bundle.open(directory)

    return write
