"""A headless Chromium through chromedriver's own protocol (W3C WebDriver), which is JSON over HTTP."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import subprocess
import time

from tests.simulated import PATIENCE

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,800")
KEYS = {"space": " ", "right": "\ue014", "shift": "\ue008"}


class Browser:
    """A window with one page, given the paths of chromium and chromedriver and an empty folder for the profile."""

    def __init__(self, chromium, driver, profile):
        self._process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            started = next(line for line in self._process.stdout if "started successfully on port" in line)
            self._port = int(started.split()[-1].rstrip("."))
            options = {"binary": chromium, "args": [*_OPTIONS, f"--user-data-dir={profile}"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            self._base = ""
            session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._base = f"/session/{session['sessionId']}"
        except BaseException:
            self._end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            self._ask("DELETE", "")
        finally:
            self._end()

    def open(self, url):
        self._ask("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """Return what a JavaScript returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait(self, condition, *arguments):
        """Wait until a JavaScript expression is true, and return its value."""
        for _ in until(f"{condition} {arguments}"):
            if value := self.run(f"return {condition}", *arguments):
                return value

    def find(self, selector):
        """Return an element of the page."""
        return self._ask("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def click(self, selector, at=(0, 0), button=0, shift=False):
        """Click on an element, `at` an offset in CSS pixels from its centre."""
        x, y = (round(number) for number in at)
        move = {"type": "pointerMove", "x": x, "y": y, "origin": {_ELEMENT: self.find(selector)}}
        down, up = ({"type": kind, "button": button} for kind in ("pointerDown", "pointerUp"))
        pointer = {"type": "pointer", "id": "mouse", "actions": [move, down, up]}
        pause = {"type": "pause"}
        hold = [{"type": kind, "value": KEYS["shift"]} for kind in ("keyDown", "keyUp")] if shift else []
        key = {"type": "key", "id": "keyboard", "actions": [*hold[:1], pause, pause, *hold[1:]]}
        pointer["actions"][:0] = [pause] if shift else []
        self._ask("POST", "/actions", {"actions": [pointer, key]})

    def press(self, key):
        """Press a key on the focused element."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def type(self, selector, text):
        """Type into an element, or give a file input the path of a file."""
        self._ask("POST", f"/element/{self.find(selector)}/value", {"text": str(text)})

    def screenshot(self, selector=None):
        """Return the window, or an element of it, as PNG."""
        path = f"/element/{self.find(selector)}/screenshot" if selector else "/screenshot"
        return base64.b64decode(self._ask("GET", path))

    def errors(self):
        """Return the messages on the page's console."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def _ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            content = None if method != "POST" else json.dumps(body or {})
            connection.request(method, self._base + path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            value = json.loads(response.read())["value"]
        finally:
            connection.close()
        assert response.status == 200, value
        return value

    def _end(self):
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


def until(what):
    """Repeat a loop every 20 ms, until it is left or patience ends."""
    deadline = time.monotonic() + PATIENCE
    for _ in itertools.count():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        yield
        time.sleep(0.02)
