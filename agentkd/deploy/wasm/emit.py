"""An executor as WebAssembly: its C99 file, compiled by clang without a C library.

Two custom sections of the file hold what its loader needs: facts in JSON, and golden vectors. They
take no memory where the executor runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from agentkd.deploy.c99 import emit_c
from agentkd.deploy.vectors import golden
from agentkd.dists import action_width, bounds
from agentkd.errors import ConfigError
from agentkd.executors.executor import NOT_FINITE, Executor
from agentkd.executors.plan import ctype
from agentkd.spec import BoxSpec, DiscreteSpec

LOADER_MARK = "// Loads an executor exported to WebAssembly by agentkd"
"""How each loader begins, so that no other file is overwritten by one."""
HERE = Path(__file__).parent
_NEEDS = {"clang": "clang", "wasm-ld": "lld"}
"""Programs, and Debian's packages that bring them."""
_FLAGS = (
    *("--target=wasm32", "-std=c99", "-O3", "-ffreestanding", "-nostdlib", "-nostdlibinc"),
    # Every browser since 2021 has both; NaN in a conversion would end the program without.
    *("-mbulk-memory", "-mnontrapping-fptoint", "-fno-math-errno", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=8192"),
)
_SECONDS = 120
_GOLDEN, _NUMBERS = 16, 1 << 16
"""Golden vectors, fewer where observations are large."""


def missing() -> str:
    """Say which programs this machine lacks to write WebAssembly; "" if none."""
    absent = [name for name in _NEEDS if shutil.which(name) is None]
    if not absent:
        return ""
    packages = " ".join(_NEEDS[name] for name in absent)
    return f"no {' and no '.join(absent)} (Debian: apt install {packages})"


def emit_wasm(executor: Executor, provenance: Mapping[str, Any] | None = None) -> bytes:
    """Compile an executor to WebAssembly, as the bytes of a file.

    Raises:
        ConfigError: If clang or wasm-ld is missing, or fails; the message names the packages.
        NumbersError: If a weight is NaN or infinite.
    """
    clang = shutil.which("clang")
    if (absent := missing()) or clang is None:
        raise ConfigError(f"WebAssembly is compiled by clang and wasm-ld: {absent}.")
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        (Path(folder) / "executor.c").write_text(emit_c(executor))
        shutil.copy(HERE / "face.c", folder)
        kind = f"-DACTION={ctype(executor.spec)}"
        try:
            done = subprocess.run(
                [clang, *_FLAGS, "-isystem", str(HERE / "include"), kind, "face.c", "-o", "out"],
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"clang did not compile it: {error}") from error
        if done.returncode:
            raise ConfigError(f"clang did not compile it: {done.stderr.strip()[:2000]}")
        code = (Path(folder) / "out").read_bytes()
    facts, vectors = _facts(executor, provenance or {})
    text = json.dumps(facts, separators=(",", ":")).encode()
    return code + _section("agentkd.facts", text) + _section("agentkd.golden", vectors)


def loader_of(wasm: str, loader: str) -> str:
    """Write the ES module that loads an executor; both are the names of files in one folder."""
    words = {
        "mark": f"{LOADER_MARK} {version('agentkd')}. Generated; do not edit.",
        "loader": loader if loader.isprintable() else "loader.js",
        "wasm": json.dumps(f"./{quote(wasm)}"),
        "not_finite": NOT_FINITE,
    }
    text = (HERE / "loader.js").read_text(encoding="utf-8")
    for name, value in words.items():
        text = text.replace(f"@{name}@", value)
    return text


def _facts(executor: Executor, provenance: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return what the loader needs to know, and the golden vectors: float32, choices int32."""
    size, action = executor.spec.obs.size, executor.spec.action
    count = max(2, min(_GOLDEN, _NUMBERS // size))
    obs, outputs, taken = golden(executor, count)
    spans = [0.0] * action_width(action)
    if isinstance(action, BoxSpec) and executor.head == "squashed":
        low, high = bounds(action)
        spans = [float(each) for each in np.subtract(high, low, dtype=np.float64).ravel()]
    kind = "choice" if isinstance(action, DiscreteSpec) else "choices"
    facts = {
        "agentkd": version("agentkd"),
        "architecture": executor.architecture,
        "version": executor.version,
        "env": str(provenance.get("env") or ""),
        "obs": size,
        "out": executor.out,
        "actions": len(spans),
        "action": "numbers" if isinstance(action, BoxSpec) else kind,
        "memory": executor.memory,
        "rows": len(obs),
        "spans": spans,
    }
    word = "<f4" if isinstance(action, BoxSpec) else "<i4"
    pieces = (obs.astype("<f4"), outputs.astype("<f4"), np.asarray(taken).astype(word))
    return facts, b"".join(each.tobytes() for each in pieces)


def _section(name: str, data: bytes) -> bytes:
    """Return a custom section of WebAssembly."""
    body = _leb(len(name)) + name.encode() + data
    return b"\0" + _leb(len(body)) + body


def _leb(number: int) -> bytes:
    """Write an unsigned integer in LEB128."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
