"""HTTP for one browser on this machine: the page, views as they change, and calls.

Only requests to this machine's own names and with the random token in the address are answered, so that no other page
in the browser can look or act.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import re
import secrets
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

from sam2edge.closeable import Closeable
from sam2edge.errors import InputError, MediaError, Sam2EdgeError
from sam2edge.ui.player import Player
from sam2edge.ui.view import Click

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_LONGEST_WAIT = 10.0
"""Seconds after which a request for a new view is answered with none; the page then asks again."""
_LONGEST_CALL = 1 << 16
"""Bytes of JSON."""
_CHUNK = 1 << 20
_FAR = 1e9
"""Pixels; no frame is as large."""
_POLICY = "default-src 'self'; frame-ancestors 'none'"

T = TypeVar("T")


class Server(Closeable):
    """Serves a player on 127.0.0.1, from its own threads, until it is closed.

    port is the one that it listens on, a free one for 0; url is the address for the browser; uploads is the folder of
    uploaded files. Raises InputError for a port that is not available.
    """

    def __init__(self, player: Player, port: int = 0) -> None:
        token = secrets.token_urlsafe(16)
        with contextlib.ExitStack() as stack:
            self.uploads = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sam2edge-")))
            try:
                http = stack.enter_context(_HttpServer(player, token, self.uploads, port))
            except (OSError, OverflowError) as error:
                raise InputError(f"port {port} is not available ({error}); --port 0 takes a free one") from error
            thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
            thread.start()
            stack.callback(http.shutdown)
            self._open = stack.pop_all()
        self.port = http.server_address[1]
        self.url = f"http://{HOST}:{self.port}/{token}/"

    def close(self) -> None:
        """Stop and delete the uploaded files; further calls do nothing."""
        self._open.close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a request for a view may still wait for seconds

    def __init__(self, player: Player, token: str, uploads: Path, port: int) -> None:
        self.player, self.token, self.uploads = player, token, uploads
        self.opening = threading.Lock()  # guards `uploaded`, the folder of the upload opened last
        self.uploaded: Path | None = None
        page = importlib.resources.files("sam2edge.ui") / "page"
        self.files = {file.name: file.read_bytes() for file in page.iterdir() if Path(file.name).suffix in _TYPES}
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that disconnects is not an error.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _RefusalError(Exception):
    """A response other than 200, with the reason as its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True
    server: _HttpServer

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing about single requests."""

    def _answer(self, handle: Callable[[str, dict[str, str]], None]) -> None:
        try:
            handle(*self._address())
        except _RefusalError as refused:
            self._refuse(refused.status, str(refused))
        except Sam2EdgeError as error:
            self._refuse(400, str(error))
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # a mistake in the program: reported here and to the page
            traceback.print_exc()
            self._refuse(500, f"{type(error).__name__}: {error}")

    def _address(self) -> tuple[str, dict[str, str]]:
        """Return the path below the token and the query, if the request may be answered."""
        # A foreign name that resolves to this machine would let a foreign page read from here.
        host = self.headers.get("Host", "")
        if re.sub(r":\d*$", "", host).lower() not in _NAMES:
            raise _RefusalError(403, f"requests must go to {' or '.join(_NAMES)}, not to {host!r}")
        path, _, query = self.path.partition("?")
        token, slash, name = path.removeprefix("/").partition("/")
        # Without the final slash the page would look for its files in the wrong place.
        if not (slash and secrets.compare_digest(token.encode(), self.server.token.encode())):
            raise _RefusalError(404, "use the address that sam2edge ui printed, with its token and final slash")
        return name, {key: values[-1] for key, values in parse_qs(query).items()}

    def _get(self, path: str, query: dict[str, str]) -> None:
        if path == "view":
            return self._send_view(_number(query, "after"), _number(query, "have"))
        name = path or "index.html"
        content = self.server.files.get(name)
        if content is None:
            raise _RefusalError(404, f"there is no {name}")
        return self._send(200, content, _TYPES[Path(name).suffix])

    def _send_view(self, after: int, have: int) -> None:
        """Send JSON, a line feed and the JPEG, which is left out if the page already has the frame `have`."""
        view = self.server.player.wait(after, _LONGEST_WAIT)
        if view is None:
            return self._send(204)
        picture = b"" if view.serial == have else view.jpeg
        return self._send(200, json.dumps(view.state).encode() + b"\n" + picture, "application/octet-stream")

    def _post(self, path: str, query: dict[str, str]) -> None:
        if path == "upload":
            self._upload(query.get("name", ""))
        elif path in _CALLS:
            _CALLS[path](self.server.player, self._body())
        else:
            raise _RefusalError(404, f"there is no call {path!r}; the calls are upload, {', '.join(_CALLS)}")
        self._send(200, b"{}", "application/json")

    def _body(self) -> dict[str, Any]:
        length = self._length()
        if length > _LONGEST_CALL:
            raise _RefusalError(413, f"a call has at most {_LONGEST_CALL} bytes, but this one has {length}")
        try:
            body = json.loads(self._read(length))
        except (ValueError, RecursionError) as error:
            raise InputError(f"a call's body must be JSON: {error}") from error
        if not isinstance(body, dict):
            raise InputError(f"a call's body must be a JSON object but is {body!r}")
        return body

    def _upload(self, name: str) -> None:
        """Write the body to a file, open it, and delete the previous upload."""
        name = re.sub(r"[^\w.-]", "_", name.replace("\\", "/").rpartition("/")[2])[-60:]
        if not name.strip("."):
            raise InputError("an upload needs the file's name: upload?name=clip.mp4")
        length, free = self._length(), shutil.disk_usage(self.server.uploads).free
        if length > free:
            raise _RefusalError(413, f"{name}: {length >> 20} MB, but only {free >> 20} MB are free for uploads")
        folder = Path(tempfile.mkdtemp(dir=self.server.uploads))
        unused: Path | None = folder
        try:
            self._receive(folder / name, length)
            with self.server.opening:  # another tab may be uploading as well
                self.server.player.open(str(folder / name), name)
                unused, self.server.uploaded = self.server.uploaded, folder
        finally:
            if unused is not None:
                shutil.rmtree(unused)

    def _receive(self, file: Path, length: int) -> None:
        try:
            with file.open("wb") as stream:
                while length:
                    chunk = self._read(min(length, _CHUNK))
                    stream.write(chunk)
                    length -= len(chunk)
        except (ConnectionError, TimeoutError):  # from the browser, not the file
            raise
        except OSError as error:
            raise MediaError(f"{file.name}: cannot be written: {error.strerror}") from error

    def _length(self) -> int:
        text = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise _RefusalError(411, "the body's length is missing: send Content-Length")
        return int(text)

    def _read(self, length: int) -> bytes:
        content = self.rfile.read(length)
        if len(content) < length:
            raise ConnectionAbortedError("the browser disconnected")
        return content

    def _refuse(self, status: int, text: str) -> None:
        self.close_connection = True  # the request's body may not have been read
        self._send(status, json.dumps({"error": text}).encode(), "application/json")

    def _send(self, status: int, content: bytes = b"", kind: str = "") -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind + ("; charset=utf-8" if kind.startswith("text/") else ""))
            self.send_header("Content-Length", str(len(content)))
        for name, value in (
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", _POLICY),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _number(query: dict[str, str], name: str) -> int:
    text = query.get(name, "")
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise InputError(f"view needs {name}=N, a whole number, but got {text!r}")
    return int(text)


def _field(body: dict[str, Any], name: str, kind: type[T]) -> T:
    value = body.get(name)
    if type(value) is not kind:  # to isinstance, True is an int
        raise InputError(f"{name} must be {_KINDS[kind]} but got {value!r}")
    return value


_KINDS: dict[type, str] = {str: "a string", int: "a whole number", bool: "true or false"}


def _coordinate(body: dict[str, Any], name: str) -> float:
    value: Any = body.get(name)
    if type(value) not in (int, float) or not abs(value) < _FAR:
        raise InputError(f"{name} must be a number of pixels in the frame but got {value!r}")
    return float(value)


def _open(player: Player, body: dict[str, Any]) -> None:
    word = _field(body, "source", str).strip()
    if not word:
        raise InputError("give the path of a video, the number of a camera, or an address")
    player.open(word)


def _click(player: Player, body: dict[str, Any]) -> None:
    x, y = (_coordinate(body, name) for name in "xy")
    object_id, label, seen = (_field(body, name, int) for name in ("object", "label", "frame"))
    player.click(Click(object_id, x, y, label), seen)


def _look_for(player: Player, body: dict[str, Any]) -> None:
    words = _field(body, "words", str)
    player.look_for([word.strip() for word in words.split(",") if word.strip()])


_CALLS: dict[str, Callable[[Player, dict[str, Any]], None]] = {
    "open": _open,
    "restart": lambda player, body: player.restart(),
    "play": lambda player, body: player.play(),
    "pause": lambda player, body: player.pause(),
    "step": lambda player, body: player.step(),
    "click": _click,
    "undo": lambda player, body: player.undo(),
    "remove": lambda player, body: player.remove(_field(body, "object", int)),
    "words": _look_for,
    "save": lambda player, body: player.save(_field(body, "on", bool)),
}
