"""Hooks of `mkdocs build`: pages made from the code, and links to files outside docs/."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FRONT = "agentkd"
NAMES = re.compile(r"^::: ([\w.]+)\.(__all__|\*)$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
COMMANDS = """# Commands

For users of the command line. This page is what `agentkd COMMAND --help` prints; the options are
written down nowhere else.

"""


def help_of(*words: str) -> str:
    """Return what `agentkd … --help` prints, 100 columns wide."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "agentkd", *words, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip("\n")


def commands(overview: str) -> list[str]:
    """Return the commands that the overview of `agentkd --help` lists."""
    return re.findall(r"^  ([a-z][a-z0-9 ]*?) {2,}\S", overview, re.MULTILINE)


def cli_page() -> str:
    """Return the page on the commands, from their own help."""
    overview = help_of()
    names = commands(overview)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(lambda name: help_of(*name.split()), names))
    sections = [f"```text\n{overview}\n```\n"]
    sections += [
        f"## agentkd {name}\n\n```text\n{text}\n```\n"
        for name, text in zip(names, texts, strict=True)
    ]
    return COMMANDS + "\n".join(sections)


def project_page(name: str) -> str:
    """Return a page of the repository's root, with its links as seen from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\((?!\w+:|#)", "](../", text)


MADE: dict[str, Callable[[], str]] = {
    "reference/cli.md": cli_page,
    "changelog.md": lambda: project_page("CHANGELOG.md"),
    "contributing.md": lambda: project_page("CONTRIBUTING.md"),
}
"""The pages that are made."""


def public_names(package: str) -> list[str]:
    """Return the names in a package's `__all__`."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text("utf-8"))
    for each in tree.body:
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__":
            return list(ast.literal_eval(each.value))
    raise LookupError(f"{package} has no __all__.")


def homes(package: str) -> dict[str, str | None]:
    """Return the module from which a package's `__init__` imports each name."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text("utf-8"))
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    return {name.name: each.module for each in imports for name in each.names}


def modules(package: str) -> list[str]:
    """Return the names of a package's modules."""
    files = (ROOT / package.replace(".", "/")).glob("*.py")
    return sorted(each.stem for each in files if not each.stem.startswith("_"))


def documented(entry: re.Match[str]) -> str:
    """Return entries for all public names, or all modules, of a package.

    A name that is on the page of `agentkd` too is described there.
    """
    package, which = entry.groups()
    names = modules(package) if which == "*" else public_names(package)
    elsewhere: set[str] = set()
    if package != FRONT and which == "__all__":
        front, own = homes(FRONT), homes(package)
        shared = {*names} & {*public_names(FRONT)}
        elsewhere = {name for name in shared if front[name] in (package, own[name])}
    lines = [f"::: {package}.{name}\n" for name in names if name not in elsewhere]
    if elsewhere:
        links = [f"[{name}][{FRONT}.{name}]" for name in sorted(elsewhere)]
        lines.insert(0, f"Described on the first page: {', '.join(links)}.\n")
    return "\n".join(lines)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for path, make in MADE.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """List public names; keep only the text of a link that leads out of docs/."""
    markdown = NAMES.sub(documented, markdown)
    docs = ROOT / "docs"
    folder = (docs / page.file.src_uri).parent
    roots = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}

    def within(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        if re.match(r"\w+:", target):
            return link[0]
        found = Path(os.path.normpath(folder / target))
        if found.parent == ROOT and found.name in roots:
            found = docs / roots[found.name]
        if not found.is_relative_to(docs):
            return text
        return f"[{text}]({os.path.relpath(found, folder)}{anchor or ''})"

    return LINK.sub(within, markdown)
