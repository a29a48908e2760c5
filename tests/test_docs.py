"""The tutorial runs as it stands, and the pages hold together."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import pytest

from agentkd.cli.main import AGENTKD, parse
from agentkd.distillation.gate import Reason
from agentkd.runtime import routers
from tests.waiting import ENOUGH

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]+)")
# What the tutorial does for a minute is done for seconds here.
SMALLER = {"30_000": "2_048", "seconds=20": "seconds=3"}


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """The language and text of each block to run, with the output shown below it."""
    found = FENCE.findall(page)
    for (language, text), (after, shown) in zip(found, [*found[1:], ("", "")], strict=True):
        if language != "text":
            yield language, text, shown if after == "text" else ""


def shape(output: str) -> str:
    """Output without its numbers, and without what it counts by name: who was in time differs."""
    return re.sub(r"\{.*\}|\d[\d.]*(?:e-?\d+)?", "#", output.strip())


def run(language: str, text: str, names: dict[str, Any]) -> str:
    """Run a block and give what it printed."""
    if language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(text, "docs/tutorial.md", "exec"), names)
        return printed.getvalue()
    done = subprocess.run(
        ["sh", "-ec", text], capture_output=True, text=True, timeout=ENOUGH, check=True
    )
    return done.stdout


@pytest.mark.needs("cc")
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks run in order, in one namespace, and print what the page shows, but for numbers."""
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    todo = list(blocks(page))
    assert len(todo) > 7
    for language, text, shown in todo:
        smaller = reduce(lambda so_far, pair: so_far.replace(*pair), SMALLER.items(), text)
        assert shape(run(language, smaller, names)) == shape(shown)


def test_pages_lie_where_they_are_said_to() -> None:
    """Each page is in the navigation, and each page of the navigation is there or made."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/]+\.md", text))
    made = set(runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))["MADE"])
    written = {each.relative_to(DOCS).as_posix() for each in DOCS.rglob("*.md")}
    assert listed == written | made
    assert not written & made


def test_links_lead_somewhere() -> None:
    """Each relative link of README and pages names a file that is there."""
    made = set(runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))["MADE"])
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            known = path.exists() or path.relative_to(DOCS).as_posix() in made
            assert known, f"{page.relative_to(ROOT)}: {target}"


def test_the_page_on_commands_has_each_command() -> None:
    """It is made of the commands' own help, whose overview tells which there are."""
    hooks = runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))
    names = hooks["commands"](hooks["help_of"]())
    assert {"distill", "run", "eval", "export", "verify"} <= set(names)
    assert "--seconds" in hooks["help_of"]("distill")


def shown() -> Iterator[tuple[str, list[str]]]:
    """Each command that README and guides show: where, and its words."""
    line = re.compile(r"^ *(?:\w+=\S+ +)*agentkd (.*)", re.MULTILINE)
    for page in (ROOT / "README.md", *sorted((DOCS / "guides").glob("*.md"))):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        code = re.findall(r"^    .*", text, re.MULTILINE)
        code += [block for language, block in FENCE.findall(text) if language == "bash"]
        for found in line.findall("\n".join(code)):
            yield page.name, shlex.split(found, comments=True)


def test_commands_in_pages_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a command, with options that it has."""
    names = {words[0] for _, words in shown()}
    assert {"distill", "run", "practise", "pull", "keys", "device"} <= names
    for page, words in shown():
        assert words[0] in AGENTKD.commands, f"{page}: agentkd {words[0]}"
        try:
            parse(words[0], words[1:])
        except SystemExit:
            pytest.fail(f"{page}: agentkd {shlex.join(words)}\n{capsys.readouterr().err}")


def test_the_glossary_has_each_reason() -> None:
    """Each word that a router of ours or the gate gives as a reason has a row."""
    text = (DOCS / "reference" / "glossary.md").read_text(encoding="utf-8")
    vetoes = [
        each
        for each in ast.walk(ast.parse(inspect.getsource(routers)))
        if isinstance(each, ast.FunctionDef) and each.name == "veto"
    ]
    returned = [each for veto in vetoes for each in ast.walk(veto) if isinstance(each, ast.Return)]
    given = [
        part
        for each in returned
        for part in (
            [each.value.body, each.value.orelse]
            if isinstance(each.value, ast.IfExp)
            else [each.value]
        )
    ]
    words = {
        each.value
        for each in given
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value
    }
    assert {"guard", "stale"} <= words
    for word in words | set(get_args(Reason)):
        assert f"| `{word}` |" in text, word


def test_code_in_pages_is_python() -> None:
    """Each Python block of a page can be parsed."""
    for page in DOCS.rglob("*.md"):
        for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                ast.parse(text, str(page))


def test_the_page_on_conformance_names_tests_that_there_are() -> None:
    """Each of the 53 tests of the suite once, with tests of ours or why it does not apply."""
    page = (DOCS / "conformance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) == len(dict(rows)) == 53
    written = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    for case, here in rows:
        named = re.findall(r"`(test_\w+)`", here)
        assert set(named) <= written, case
        assert named or here.startswith("does not apply: "), case
