"""A real tritonserver, from the wheel in the environment that the Makefile makes, on ports of its own."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from tests.conftest import REPO

ENVIRONMENT = Path(os.environ.get("SAM2EDGE_TRITON", Path(sys.prefix) / "triton"))
"""A virtual environment with tests/serving/requirements.txt. $SAM2EDGE_TRITON: another one."""
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = ENVIRONMENT / "lib" / f"python{_VERSION}" / "site-packages"
_SERVER = PACKAGES / "pytriton" / "tritonserver"
_START = 60
"""Seconds in which the models must be ready."""


def missing() -> str:
    """Return why there is no server here, "" if there is one."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.version_info >= (3, 13):
        return "the wheel with tritonserver is for Linux on x86-64 and Python before 3.13"
    if not _SERVER.is_dir():
        return f"{ENVIRONMENT} has no tritonserver: make .venv/triton/.installed"
    if not (Path(sysconfig.get_config_var("LIBDIR")) / sysconfig.get_config_var("INSTSONAME")).exists():
        return "this Python has no shared library, which Triton's Python backend loads"
    return ""


def environment() -> dict[str, str]:
    """Return the environment of processes that use the server's numpy, OpenCV and ONNX Runtime."""
    libraries = f"{PACKAGES / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    path = f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}"  # the backend looks here for a Python, and so for packages
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": path}


class Server:
    """A server of a model repository.

    Args:
        repository: What `sam2edge triton` wrote.
        folder: An empty folder for its log and for the Python backend.
        options: Words of its command line.
        changes: Changes of its environment.
    """

    def __init__(self, repository: Path, folder: Path, *options: str, **changes: str) -> None:
        backend = folder / "backends" / "python"
        shutil.copytree(_SERVER / "backends" / "python", backend)
        stub = shutil.copy(_SERVER / "python_backend_stubs" / _VERSION / "triton_python_backend_stub", backend)
        os.chmod(stub, 0o755)
        (backend / "sam2edge").symlink_to(REPO / "src" / "sam2edge")  # models can import what lies here
        http, grpc = _free_port(), _free_port()
        self.http, self.grpc, self.log = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", folder / "log"
        command = [
            *(str(_SERVER / "bin" / "tritonserver"), "--model-repository", str(repository)),
            *("--backend-directory", str(folder / "backends"), "--allow-metrics=false", "--exit-timeout-secs=2"),
            *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
            *options,
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env={**environment(), **changes}, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until the models are ready; an error with the log if they never are."""
        until = time.monotonic() + _START
        while self.process.poll() is None and time.monotonic() < until:
            log = self.log.read_text()
            if "Started GRPCInferenceService" in log and "Started HTTPService" in log:
                return
            time.sleep(0.05)
        raise RuntimeError(self.log.read_text())

    def stop(self) -> None:
        """Stop it as Kubernetes does; live streams make it wait no longer than --exit-timeout-secs."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
