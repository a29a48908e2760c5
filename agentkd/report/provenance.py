"""Where numbers come from: the command, the moment, the machine, the packages."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("agentkd", "numpy", "torch", "gymnasium", "stable-baselines3", "sb3-contrib"),
    *("mujoco", "box2d", "onnxruntime"),
)


def origin() -> dict[str, Any]:
    """Return the command, date, machine and package versions of this process."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "argv": ["agentkd", *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": (
            f"{platform.system()} {platform.machine()}, {_processor()}{os.cpu_count()} cores"
        ),
        "versions": versions,
    }


def made_from(env: str, refs: Sequence[str], name: str, digest: str, **more: Any) -> dict[str, Any]:
    """Return what an executor file says about where it comes from: its environment and planner.

    `digest` is the SHA-256 of the planner's files.
    """
    found = origin()
    return {
        "env": env,
        "planner": {"refs": list(refs), "name": name},
        "planner_digest": digest,
        **more,
        "command": found["argv"],
        "versions": found["versions"],
    }


def _processor() -> str:
    """Return the processor's name and a comma, "" if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith("model name"))
    name = next(lines, ":").partition(":")[2].strip()
    return f"{name}, " if name else ""
