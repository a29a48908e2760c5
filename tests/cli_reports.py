"""What commands leave, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "report.md"


def report(out: Path) -> dict[str, Any]:
    """Read what a command left."""
    data: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return data


def undocumented(*mappings: dict[str, Any]) -> list[str]:
    """The keys that docs/reference/report.md does not name."""
    text = DOCUMENT.read_text(encoding="utf-8")
    keys = {key for mapping in mappings for key in mapping}
    return sorted(key for key in keys if f"`{key}`" not in text)
