"""How long the page of a hundred cells takes to open: python -m tests.report_opens [PAGE.html].

Headless Chromium opens it some times, at 1280 px. Wall times are the page's own, from the start of
its navigation; processor time is what the renderer took. Needs a quiet machine for the first two.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.deploy_browser import chromium
from tests.report_sample import cells_page

TIMES = 7
FRAME = """new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(done))).then(() => 0)"""
TOLD = """JSON.stringify([performance.getEntriesByType("paint").at(-1).startTime,
  performance.getEntriesByType("navigation")[0].loadEventEnd])"""


def opened(page: Path) -> tuple[float, float, float]:
    """Milliseconds until something is seen and until all is loaded, and of processor time."""
    with chromium() as browser:
        browser.size(1280)
        browser.call("Performance.enable")
        before = busy(browser.call("Performance.getMetrics"))
        browser.open(page.as_uri())
        browser.ask(FRAME)
        seen, loaded = json.loads(browser.ask(TOLD))
        return seen, loaded, busy(browser.call("Performance.getMetrics")) - before


def busy(told: Any) -> float:
    """The renderer's processor time so far, in milliseconds."""
    found = {each["name"]: float(each["value"]) for each in told["metrics"]}
    return 1000 * found["ProcessTime"]


def main() -> None:
    """Print the median of each, from least to most."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "cells.html"
        page.write_text(cells_page(100), encoding="utf-8")
        found = [opened(Path(sys.argv[1]) if sys.argv[1:] else page) for _ in range(TIMES)]
    names = ("first seen", "loaded", "processor time")
    for name, values in zip(names, map(sorted, zip(*found, strict=True)), strict=True):
        middle = values[TIMES // 2]
        line = f"{name:15} {middle:6.0f} ms   {values[0]:.0f} … {values[-1]:.0f}\n"
        sys.stdout.write(line)


if __name__ == "__main__":
    main()
