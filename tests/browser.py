"""A headless Chromium that tests open pages in, driven over its debugging protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, final

import pytest
from websockets.sync.client import connect

from tests.waiting import ENOUGH, wait_for

AXE = Path(__file__).parents[1] / ".node" / "node_modules" / "axe-core" / "axe.min.js"
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0"),
)


@final
class Page:
    """A page that is open in a browser."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._number = connection, 0
        self.said: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its answer; note what the page complains about."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        self._connection.send(json.dumps(order))
        while True:
            told = json.loads(self._connection.recv(ENOUGH))
            self._note(told)
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]

    def _note(self, told: Any) -> None:
        match told:
            case {"method": "Log.entryAdded", "params": {"entry": entry}}:
                self.said.append(f"{entry['text']} {entry.get('url', '')}".strip())
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": error}}:
                self.said.append(str(error))

    def size(self, width: int, *, dark: bool = False, height: int = 900) -> Self:
        """Make the window so wide, in one colour scheme."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def open(self, address: str) -> Self:
        """Open an address and wait until it is there."""
        self.ask("Page.navigate", url=address)
        wait_for(lambda: self.run("document.readyState") == "complete")
        return self

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def shot(self, path: Path) -> None:
        """Save a picture of the whole page."""
        made = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))

    def violations(self) -> list[str]:
        """Return what axe-core finds, one line for each element; skip where it is missing."""
        if not AXE.exists():
            pytest.skip("needs axe-core: npm install --prefix .node axe-core")
        self.run(AXE.read_text(encoding="utf-8") + ";0")
        found = self.run("axe.run().then((found) => JSON.stringify(found.violations))")
        return [
            f"{each['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for each in json.loads(found)
            for node in each["nodes"]
        ]


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start Chromium with a folder for what it keeps, and give its first page."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium")
    words = [program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port = folder / "DevToolsActivePort"
            wait_for(lambda: port.exists() and len(port.read_text().split()) == 2)
            at, path = port.read_text().split()
            with connect(f"ws://127.0.0.1:{at}{path}", max_size=None, open_timeout=ENOUGH) as whole:
                whole.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                found = json.loads(whole.recv(ENOUGH))["result"]["targetInfos"]
                (target,) = [each["targetId"] for each in found if each["type"] == "page"]
            address = f"ws://127.0.0.1:{at}/devtools/page/{target}"
            with connect(address, max_size=None, open_timeout=ENOUGH) as connection:
                yield Page(connection)
        finally:
            process.kill()
