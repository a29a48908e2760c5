"""What axe-core finds in a page that is open in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.deploy_browser import Page

AXE = Path(__file__).parent / "web" / "node_modules" / "axe-core" / "axe.min.js"


def violations(page: Page) -> list[str]:
    """One line for each element at which a rule is violated; skipped where axe-core is missing."""
    if not AXE.exists():
        pytest.skip("needs axe-core: npm ci --prefix tests/web")
    page.ask(AXE.read_text(encoding="utf-8") + ";0")
    found = page.ask("axe.run().then((found) => JSON.stringify(found.violations))")
    return [
        f"{each['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for each in json.loads(found)
        for node in each["nodes"]
    ]
