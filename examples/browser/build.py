r"""Build pages with an executor in them, each one file: `python examples/browser/build.py`.

pendulum.html is the demonstration; `--time` makes a page that times any executor in a browser.
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


def build(executor: Path, out: Path, page: str, scripts: tuple[str, ...]) -> None:
    """Write a page with an executor file in it."""
    bundle = read_bundle(executor)
    size = bundle.executor.spec.obs.size
    if "world.js" in scripts and size != WIDTH:
        raise SystemExit(f"{executor} sees {size} numbers; this world shows {WIDTH}.")
    wasm = emit_wasm(bundle.executor, bundle.provenance)
    modules = [loader_of("executor.wasm", "executor.js")]
    modules += [(HERE / name).read_text(encoding="utf-8") for name in scripts]
    script = re.sub(r"^import \{.*\n|^export ", "", "\n".join(modules), flags=re.MULTILINE)
    style = (HERE / "page.css").read_text(encoding="utf-8")
    words = {
        "executor": b64encode(wasm).decode(),
        "script": script,
        "script_hash": hashed(script),
        "style": style,
        "style_hash": hashed(style),
    }
    text = Template((HERE / page).read_text(encoding="utf-8")).substitute(words)
    out.write_text(text, encoding="utf-8")
    print(f"{out}: {len(text.encode()):,} bytes")


if __name__ == "__main__":
    parser = ArgumentParser(description="Build a page with an executor in it.")
    parser.add_argument("--executor", type=Path, default=HERE / "executor.akd")
    parser.add_argument("--time", action="store_true", help="a page that times the executor")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    name = "time" if asked.time else "page"
    scripts = (f"{name}.js",) if asked.time else ("world.js", "page.js")
    out = asked.out or (Path("time.html") if asked.time else HERE / "pendulum.html")
    try:
        build(asked.executor, out, f"{name}.html", scripts)
    except (AgentkdError, OSError) as error:
        sys.exit(f"error: {error}")
