"""`sam2edge ui` as a process."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from sam2edge import cli
from tests.blocked import run_blocked
from tests.conftest import REPO
from tests.documents import COMMANDS
from tests.simulated import PATIENCE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_start_to_signal(nano, tmp_path, number):
    """Start it as the documentation does; a signal ends it and completes saved files, although a browser is waiting."""
    (tmp_path / "samples").symlink_to(REPO / "samples")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "nano").symlink_to(nano.path)
    [documented] = [each.words[1:] for each in COMMANDS if each.real and each.words[:2] == ("sam2edge", "ui")]
    command = [sys.executable, "-m", "sam2edge", *documented, "--port", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as stack:
        stack.callback(process.wait)
        stack.callback(process.kill)
        url = process.stdout.readline().strip()
        assert "Ctrl-C ends" in process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", url)
        assert state(url)["source"] == "samples/clip.mp4"
        urllib.request.urlopen(f"{url}save", json.dumps({"on": True}).encode(), PATIENCE).close()
        urllib.request.urlopen(f"{url}step", b"{}", PATIENCE).close()
        parts = urlsplit(url)
        waiting = stack.enter_context(socket.create_connection((parts.hostname, parts.port), PATIENCE))
        look = f"GET {parts.path}view?after={state(url)['version']}&have=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        waiting.sendall(look.encode())
        time.sleep(0.2)
        process.send_signal(number)
        _, err = process.communicate(timeout=5)
    assert (process.returncode, err) == (0, "")
    assert len((tmp_path / "masks" / "001" / "masks.jsonl").read_text().splitlines()) == 2
    with pytest.raises(urllib.error.URLError):
        state(url)


def test_without_pytorch(tmp_path):
    assert run_blocked("import sam2edge.ui.server; print('ok')", cwd=tmp_path) == "ok\n"


def state(url):
    with urllib.request.urlopen(f"{url}view?after=-1&have=-1", timeout=PATIENCE) as answer:
        return json.loads(answer.read().partition(b"\n")[0])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(["missing.mp4"], "missing.mp4: no such video file"), (["--port", "70000"], "port 70000 is not available")],
)
def test_wrong_arguments(nano, capsys, arguments, error):
    assert cli.main(["ui", str(nano.path), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"sam2edge: error: {error}")
