"""The server's answers over HTTP, without a browser."""

import http.client
import json
import socket
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from sam2edge import WordDetector
from sam2edge.errors import InputError
from sam2edge.ui import server as module
from sam2edge.ui.server import Server
from sam2edge.ui.session import Session
from tests.helpers import CLIP
from tests.simulated import failing
from tests.unit.ui.conftest import playing
from tests.webdriver import until


@pytest.fixture
def server(session):
    """Run a server with nothing open."""
    with playing(session) as player, Server(player) as server:
        yield server


@pytest.fixture
def ask(server):
    """Return a function that sends a request below the token and returns (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    prefix = urlsplit(server.url).path

    def ask(method, path, body=None, headers=None, whole_path=None):
        connection.request(method, whole_path or prefix + path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()

    yield ask
    connection.close()


@pytest.fixture
def call(ask):
    """Return a function that makes a call and returns the status and the error's text."""

    def call(name, body=None, **rest):
        status, _, content = ask("POST", name, json.dumps(body or {}) if not isinstance(body, bytes) else body, **rest)
        return status, json.loads(content).get("error")

    return call


def view(ask, after=-1, have=-1):
    """Return the state and the picture (RGB, or None if it was left out)."""
    status, _, content = ask("GET", f"view?after={after}&have={have}")
    assert status == 200
    line, _, jpeg = content.partition(b"\n")
    return json.loads(line), cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB) if jpeg else None


def test_words(tracker, shapes, tmp_path):
    with (
        WordDetector(shapes) as detector,
        Session(tracker, tmp_path, detector=detector) as session,
    ):
        session.open(str(CLIP))
        with playing(session) as player, Server(player) as server:
            url = urlsplit(server.url)
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)

            def look_for(words):
                connection.request("POST", f"{url.path}words", json.dumps({"words": words}))
                response = connection.getresponse()
                return response.status, json.loads(response.read()).get("error")

            assert look_for(" red ball, ") == (200, None)
            assert [thing["word"] for thing in player.wait(-1, 1).state["objects"]] == ["red ball"]
            assert look_for("cup, cup")[0] == 400
            assert look_for(3) == (400, "words must be a string but got 3")
            assert look_for("") == (200, None)
            state = player.wait(-1, 1).state
            assert (state["words"], state["objects"]) == ("", [])
            connection.close()


# which requests are answered


def test_every_address_has_its_own_token(session):
    with playing(session) as player, Server(player) as first, Server(player) as second:
        parts = [urlsplit(server.url) for server in (first, second)]
    assert {part.hostname for part in parts} == {"127.0.0.1"}
    assert len({part.path for part in parts}) == 2
    assert min(len(part.path) for part in parts) > 20


def test_without_the_token_or_its_final_slash(server, ask):
    """Without the slash, the page would load but not its files, which it looks for beside itself."""
    unfinished = urlsplit(server.url).path.removesuffix("/")
    for path in ("/", "/view", "/guess/", "/guess/view?after=-1&have=-1", "/%C3%A9/", "x", "//[/", unfinished):
        status, _, content = ask("GET", "", whole_path=path)
        assert status == 404, path
        assert json.loads(content)["error"].startswith("use the address that sam2edge ui printed, with its token")


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:99", 200), ("LOCALHOST:1", 200), ("evil.example", 403), ("", 403), ("[", 403)],
)
def test_names_of_this_machine(ask, host, status):
    assert ask("GET", "", headers={"Host": host})[0] == status


def test_no_other_address_is_listened_on(server):
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", server.port)) != 0


def test_ports_that_are_taken_or_impossible(server, session):
    for port in (server.port, -1, 65536):
        with playing(session) as player, pytest.raises(InputError, match=f"port {port} is not available"):
            Server(player, port)


# the page


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("", "text/html; charset=utf-8", b"<title>sam2edge</title>"),
        ("page.css", "text/css; charset=utf-8", b"--ink"),
        ("page.js", "text/javascript; charset=utf-8", b'from "./server.js"'),
        ("icon.svg", "image/svg+xml", b"<circle"),
    ],
)
def test_files(ask, name, kind, part):
    status, headers, content = ask("GET", name)
    assert (status, headers["Content-Type"]) == (200, kind)
    assert part in content
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")


@pytest.mark.parametrize("name", ["missing.js", "../server.py", "..%2fserver.py", "__init__.py"])
def test_no_other_files(ask, name):
    assert ask("GET", name)[0] == 404


# views


def test_view_of_nothing(ask):
    state, picture = view(ask)
    assert (state["source"], state["width"], state["objects"], picture) == (None, 0, [], None)


def test_view(ask, call, session):
    assert call("open", {"source": str(CLIP)}) == (200, None)
    state, picture = view(ask)
    assert (state["source"], state["number"], state["count"]) == (str(CLIP), 0, 120)
    assert np.abs(picture.astype(int) - session.view().pixels).mean() < 3
    click = {"object": 2, "x": 262, "y": 60.5, "label": 1, "frame": state["serial"]}
    assert call("click", click) == (200, None)
    later, none = view(ask, state["version"], have=state["serial"])
    assert none is None  # the page has this frame already
    [clicked] = later["objects"]
    assert (clicked["id"], clicked["state"], clicked["color"]) == (2, "visible", later["clicks"][0]["color"])
    assert len(clicked["outlines"][0]) > 20
    assert later["clicks"] == [{"object": 2, "x": 262, "y": 60.5, "label": 1, "color": clicked["color"]}]


def test_nothing_new(ask, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.01)
    state, _ = view(ask)
    status, _, content = ask("GET", f"view?after={state['version']}&have=-1")
    assert (status, content) == (204, b"")


@pytest.mark.parametrize("query", ["", "?after=1", "?after=x&have=1", "?after=1&have=1.5", f"?after={10**30}&have=1"])
def test_a_wrong_query_for_a_view(ask, query):
    status, _, content = ask("GET", f"view{query}")
    assert status == 400
    assert "a whole number, but got" in json.loads(content)["error"]


# calls


def test_a_whole_session(ask, call, tmp_path):
    for name, body in (
        ("open", {"source": str(CLIP)}),
        ("click", {"object": 1, "x": 138, "y": 84, "label": 1, "frame": 1}),
        ("click", {"object": 1, "x": 120, "y": 84, "label": 1, "frame": 1}),
        ("undo", {}),
        ("save", {"on": True}),
        ("step", {}),
        ("save", {"on": False}),
        ("play", {}),
        ("pause", {}),
        ("remove", {"object": 1}),
        ("restart", {}),
    ):
        assert call(name, body) == (200, None), name
    assert view(ask)[0]["number"] == 0
    assert len(list((tmp_path / "saved" / "001" / "masks").iterdir())) == 2


CLICK = {"object": 1, "x": 1, "y": 1, "label": 1, "frame": 1}


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("open", {}, "source must be a string but got None"),
        ("open", {"source": " "}, "give the path of a video"),
        ("open", {"source": "missing.mp4"}, "missing.mp4: no such video file"),
        ("open", {"source": "ftp://localhost/"}, "ftp://localhost/: not one of rtsp://, "),
        ("open", {"source": "a\0b"}, "cannot be the path of a file"),
        ("click", {**CLICK, "object": "1"}, "object must be a whole number but got '1'"),
        ("click", {**CLICK, "object": True}, "object must be a whole number but got True"),
        ("click", {**CLICK, "x": None}, "x must be a number of pixels in the frame but got None"),
        ("click", {**CLICK, "y": float("inf")}, "y must be a number of pixels in the frame but got inf"),
        ("click", {**CLICK, "y": 10**400}, "y must be a number of pixels in the frame but got 1000"),
        ("click", {**CLICK, "label": 1.0}, "label must be a whole number but got 1.0"),
        ("click", {**CLICK, "frame": None}, "frame must be a whole number but got None"),
        ("click", {**CLICK, "frame": 0}, "open a video or a camera first"),
        ("play", {}, "there are no frames to play"),
        ("step", {}, "nothing is open"),
        ("restart", {}, "there is no video to start again"),
        ("undo", {}, "there is no click on this frame"),
        ("remove", {"object": 1}, "object 1 is not tracked"),
        ("save", {"on": 1}, "on must be true or false but got 1"),
        ("save", {"on": True}, "there are no masks to save"),
        ("play", b"", "a call's body must be JSON"),
        ("play", b"\xff", "a call's body must be JSON"),
        ("play", b"[" * 60_000, "a call's body must be JSON"),
        ("play", b"[1]", "a call's body must be a JSON object but is [1]"),
    ],
)
def test_wrong_calls(call, name, body, error):
    status, text = call(name, body)
    assert status == 400
    assert error in text


def test_a_call_that_is_too_long(call):
    assert call("play", b" " * 70_000)[0] == 413


def test_unknown_call(call):
    status, text = call("fly")
    assert status == 404
    assert text.startswith("there is no call 'fly'; the calls are upload, open, ")


def test_a_get_request_makes_no_call(ask, call):
    assert ask("GET", "play")[0] == 404


def test_a_body_without_length(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", f"{urlsplit(server.url).path}play")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def test_a_mistake_in_the_program(call, session, monkeypatch, capsys):
    monkeypatch.setattr(session, "undo", failing(ZeroDivisionError("by zero")))
    assert call("undo") == (500, "ZeroDivisionError: by zero")
    assert call("pause") == (200, None)
    assert "ZeroDivisionError: by zero" in capsys.readouterr().err


# uploads


def uploaded(server):
    """Return the names of the files that are kept."""
    return sorted(file.name for file in server.uploads.glob("*/*"))


def test_upload(server, ask, call):
    for name, shown in (("clip.mp4", "clip.mp4"), ("C:%5Cmy%20clips%5C..%2Fa%20b.mp4", "a_b.mp4")):
        assert call(f"upload?name={name}", CLIP.read_bytes()) == (200, None)
        state, picture = view(ask)
        assert (state["source"], state["count"], picture.shape) == (shown, 120, (240, 320, 3))
        assert uploaded(server) == [shown]
    assert call("restart") == (200, None)
    server.close()
    assert not server.uploads.exists()


def test_upload_of_a_file_that_is_not_a_video(server, ask, call):
    assert call("upload?name=clip.mp4", CLIP.read_bytes()) == (200, None)
    status, text = call("upload?name=notes.txt", b"not a video")
    assert status == 400
    assert "notes.txt: not a video that OpenCV can open" in text
    assert (view(ask)[0]["source"], uploaded(server)) == ("clip.mp4", ["clip.mp4"])


@pytest.mark.parametrize("name", ["", "..", "a/", "%2F"])
def test_upload_without_a_name(call, name):
    assert call(f"upload?name={name}", b"x") == (400, "an upload needs the file's name: upload?name=clip.mp4")


def test_two_uploads_at_a_time(server, ask, call):
    """One is opened while the other is still arriving, and both succeed."""
    path, content = urlsplit(server.url).path, CLIP.read_bytes()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        head = f"POST {path}upload?name=slow.mp4 HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        slow.sendall(head.encode() + content[:1000])
        for _ in until("the file of the slow upload"):
            if uploaded(server):
                break
        assert call("upload?name=quick.mp4", content) == (200, None)
        assert (view(ask)[0]["source"], uploaded(server)) == ("quick.mp4", ["quick.mp4", "slow.mp4"])
        slow.sendall(content[1000:])
        assert slow.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    assert (view(ask)[0]["source"], uploaded(server)) == ("slow.mp4", ["slow.mp4"])


def test_upload_that_is_larger_than_the_disk(ask):
    status, _, content = ask("POST", "upload?name=a.mp4", headers={"Content-Length": str(10**17)})
    assert status == 413
    assert "MB are free for uploads" in json.loads(content)["error"]


def test_upload_that_breaks_off(server):
    """The browser disconnects halfway: nothing is kept or opened, and the server goes on."""
    with socket.create_connection(("127.0.0.1", server.port)) as broken:
        path = urlsplit(server.url).path
        head = f"POST {path}upload?name=a.mp4 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        broken.sendall(head.encode() + b"x" * 10)
        broken.shutdown(socket.SHUT_WR)
        assert broken.recv(100) == b""
    assert uploaded(server) == []
