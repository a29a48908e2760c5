r"""Build a page with an executor in it, one file that needs no network.

    npm ci --prefix examples/browser
    python examples/browser/build.py [EXECUTOR] [-o lander.html]

The executor is any for LunarLander-v3; it lands the lander in the page. With `--time` the page
tells how long a decision takes, and takes any executor. clang and wasm-ld compile (Debian: apt
install clang lld); the physics are planck.js, from npm.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from string import Template

from agentkd import Executor, read_bundle
from agentkd.deploy.wasm.emit import emit_wasm, loader_of
from agentkd.errors import AgentkdError, ConfigError, SpecError
from agentkd.spec import BoxSpec, DiscreteSpec

HERE = Path(__file__).parent
LANDER = HERE.parents[1] / "policies" / "lunarlander" / "executor.akd"
PLANCK = HERE / "node_modules" / "planck" / "dist" / "planck.min.js"
OBS = 8
CHOICES, NUMBERS = 4, 2
"""What LunarLander-v3 takes: a choice of four or, if continuous, two numbers."""


def main() -> None:
    """Build what the command line asks for."""
    parser = ArgumentParser(description="Build a page with an executor in it.")
    parser.add_argument("executor", type=Path, nargs="?", default=LANDER, metavar="EXECUTOR")
    parser.add_argument("--time", action="store_true", help="a page that times any executor")
    parser.add_argument("-o", "--out", type=Path, help="default: runs/lander.html, runs/time.html")
    asked = parser.parse_args()
    out = asked.out or Path("runs") / ("time.html" if asked.time else "lander.html")
    try:
        bundle = read_bundle(asked.executor)
        modules = ["time.js"]
        script = ""
        if not asked.time:
            check(bundle.executor, asked.executor)
            modules = ["lander.js", "page.js"]
            script = physics()
        texts = [(HERE / name).read_text(encoding="utf-8") for name in modules]
        for each in (loader_of("executor.wasm", "executor.js"), *texts):
            script += re.sub(r"^import .*\n|^export ", "", each, flags=re.MULTILINE)
        wasm = emit_wasm(bundle.executor, bundle.provenance)
        text = page("time.html" if asked.time else "page.html", wasm, script)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except (AgentkdError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{out}: {len(text.encode()):,} bytes")


def check(executor: Executor, file: Path) -> None:
    """Refuse an executor that is not for LunarLander-v3."""
    size, action = executor.spec.obs.size, executor.spec.action
    choice = isinstance(action, DiscreteSpec) and (action.n, action.start) == (CHOICES, 0)
    numbers = isinstance(action, BoxSpec) and action.shape == (NUMBERS,)
    if size != OBS or not (choice or numbers):
        raise SpecError(
            f"{file} maps {size} numbers to {executor.out}. LunarLander-v3 shows {OBS} numbers and "
            f"takes a choice of {CHOICES}, or {NUMBERS} numbers: give an executor of it, or --time."
        )


def physics() -> str:
    """Read planck.js."""
    if not PLANCK.exists():
        raise ConfigError(f"{PLANCK} is missing: npm ci --prefix {HERE}")
    return PLANCK.read_text(encoding="utf-8") + "\n"


def page(template: str, wasm: bytes, script: str) -> str:
    """Fill a page whose Content-Security-Policy lets only its own script and style in."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    words = {
        "executor": b64encode(wasm).decode(),
        "script": script,
        "script_hash": hashed(script),
        "style": style,
        "style_hash": hashed(style),
    }
    return Template((HERE / template).read_text(encoding="utf-8")).substitute(words)


def hashed(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline script or style."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


if __name__ == "__main__":
    main()
