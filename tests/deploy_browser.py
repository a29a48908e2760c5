"""Headless Chromium for tests: pages are opened and asked through its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.waiting import ENOUGH, wait_for

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"),
)


class Page:
    """One page of a running Chromium. `errors` are exceptions and refusals that it logged."""

    def __init__(self, line: ClientConnection) -> None:
        self._line, self._numbers = line, count(1)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol; its result."""
        number = next(self._numbers)
        self._line.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            told = json.loads(self._line.recv(timeout=ENOUGH))
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]
            self._note(told)

    def _note(self, told: Any) -> None:
        params = told.get("params", {})
        if told["method"] == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:2000])
        if told["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def open(self, address: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        ready = f"document.readyState === 'complete' && location.href === {json.dumps(address)}"
        wait_for(lambda: self.ask(ready))

    def ask(self, expression: str) -> Any:
        """The value of JavaScript, awaited if it is a promise."""
        how = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def size(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        """Show it in a window of a size, in a light or dark scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """A screenshot, PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """Run Chromium with an empty profile; needs("chromium")."""
    with contextlib.ExitStack() as stack:
        profile = Path(tempfile.mkdtemp(prefix="chromium-"))
        # It may still write while it ends.
        stack.callback(shutil.rmtree, profile, ignore_errors=True)
        command = ["chromium", f"--user-data-dir={profile}", *FLAGS]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(browser.wait)
        stack.callback(browser.kill)
        told = profile / "DevToolsActivePort"
        wait_for(lambda: told.exists() and "\n" in told.read_text())
        port = told.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=ENOUGH) as answer:
            pages = [each for each in json.load(answer) if each["type"] == "page"]
        line = connect(pages[0]["webSocketDebuggerUrl"], max_size=None, proxy=None)
        yield Page(stack.enter_context(line))


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        """Send the policy that a strict page would send."""
        scripts = "script-src 'self' 'wasm-unsafe-eval'"
        policy = f"default-src 'none'; {scripts}; connect-src 'self'; img-src data:"
        self.send_header("Content-Security-Policy", policy)
        super().end_headers()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine, under a strict policy; its address."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Silent, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
