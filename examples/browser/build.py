r"""Build pendulum.html, one file with an executor in it: `python examples/browser/build.py`.

It needs clang and wasm-ld (Debian: apt install clang lld). The executor was made by

    agentkd distill 'envs.changing:agentkd/ChangingPendulum-v0{"drawn": true}' \
        --planner policies/pendulum --executor mlp:32,32 --seconds 60 --seed 0 --kept-bytes 0
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from string import Template

from agentkd import read_bundle
from agentkd.deploy.wasm.emit import emit_wasm, loader_of
from agentkd.errors import AgentkdError

HERE = Path(__file__).parent
WIDTH = 6
"""Numbers that the world in world.js shows an executor."""


def hashed(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline script or style."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def build(executor: Path, out: Path) -> None:
    """Write the page with an executor file in it."""
    bundle = read_bundle(executor)
    size = bundle.executor.spec.obs.size
    if size != WIDTH:
        raise SystemExit(f"{executor} sees {size} numbers; this world shows {WIDTH}.")
    wasm = emit_wasm(bundle.executor, bundle.provenance)
    modules = [loader_of("executor.wasm", "executor.js")]
    modules += [(HERE / name).read_text(encoding="utf-8") for name in ("world.js", "page.js")]
    script = re.sub(r"^import \{.*\n|^export ", "", "\n".join(modules), flags=re.MULTILINE)
    style = (HERE / "page.css").read_text(encoding="utf-8")
    words = {
        "executor": b64encode(wasm).decode(),
        "script": script,
        "script_hash": hashed(script),
        "style": style,
        "style_hash": hashed(style),
    }
    page = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(words)
    out.write_text(page, encoding="utf-8")
    print(f"{out}: {len(page.encode()):,} bytes")


if __name__ == "__main__":
    parser = ArgumentParser(description="Build the page with the pendulum.")
    parser.add_argument("--executor", type=Path, default=HERE / "executor.akd")
    parser.add_argument("--out", type=Path, default=HERE / "pendulum.html")
    asked = parser.parse_args()
    try:
        build(asked.executor, asked.out)
    except (AgentkdError, OSError) as error:
        sys.exit(f"error: {error}")
