"""Where numbers come from: the command, the moment, the machine, the packages."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "agentkd",
    "numpy",
    "torch",
    "gymnasium",
    "stable-baselines3",
    "sb3-contrib",
    "mujoco",
    "box2d",
    "onnxruntime",
)


def origin() -> dict[str, Any]:
    """Say by which command, when, where and with which packages this process works."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "argv": ["agentkd", *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": (
            f"{platform.system()} {platform.machine()}, {_processor()}{os.cpu_count()} cores"
        ),
        "versions": versions,
    }


def _processor() -> str:
    """The processor's name and a comma, "" where nobody tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith("model name"))
    name = next(lines, ":").partition(":")[2].strip()
    return f"{name}, " if name else ""
