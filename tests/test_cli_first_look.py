"""A typing error is told before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agentkd.cli.main import _COMMANDS
from agentkd.distillation.terms import check_terms, parse_terms, term_names
from agentkd.errors import ConfigError
from tests.waiting import ENOUGH

ROOT = Path(__file__).parents[1]
# Each command in a fork of a process that has imported the command line alone.
SCRIPT = """
import json, os, sys
from agentkd.cli.main import main
told = []
for words in json.load(sys.stdin):
    out, into = os.pipe()
    if not os.fork():
        os.dup2(into, 1)
        os.dup2(into, 2)
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code
        print(status, "torch" in sys.modules, "stable_baselines3" in sys.modules, flush=True)
        os._exit(0)
    os.close(into)
    with open(out) as said:
        told.append(said.read())
    os.wait()
json.dump(told, sys.stdout)
"""
PLANNER = ("--planner", "tests.cli_planners:balance")
DISTIL = ("distill", "CartPole-v1", *PLANNER)
WRONG: list[tuple[tuple[str, ...], str]] = [
    (("distil", "CartPole-v1"), "'distill'"),
    (("distill", "CartPole-v1", "--plannner", "x"), "--plann"),
    (("distill", "CartPoll-v1", *PLANNER), "CartPole"),
    (("run", "nowhere:Env", *PLANNER), "nowhere"),
    (("eval", "tests.cli_planners:Braking", *PLANNER[1:]), "Breaking"),
    (("record", "nowhere.deep:A-v0", *PLANNER), "nowhere"),
    (("distill", "CartPole-v1", "--planner", "runs/no.zip"), "runs/no.zip"),
    (("eval", "CartPole-v1", "nowhere.deep:planner"), "nowhere"),
    (("reinforce", "CartPole-v1", "--planner", "no/folder"), "no/folder"),
    (("practise", "CartPole-v1", "--planner", "no/folder"), "no/folder"),
    (("serve", "no/folder"), "no/folder"),
    ((*DISTIL, "--executor", "mpl:64,64"), "mlp"),
    ((*DISTIL, "--executor", "mlp:64,sixty"), "sixty"),
    (("run", "CartPole-v1", *PLANNER, "--executor", "no.akd"), "no.akd"),
    ((*DISTIL, "--terms", "soft:tua=2"), "'tau'"),
    ((*DISTIL, "--terms", "match + hrd"), "'hard'"),
    (("run", "CartPole-v1", *PLANNER, "--hz", "0"), "--hz is 0"),
    (("run", "CartPole-v1", *PLANNER, "--arms", "runtme"), "runtime"),
    (("eval", "CartPole-v1", PLANNER[1], "--episodes", "0"), "--episodes is 0"),
    ((*DISTIL, "--out", __file__), "is a file"),
    ((*DISTIL, "--out", str(ROOT / "tests")), "agentkd did not write"),
    ((*DISTIL, "--env-args", "suton"), "KEY=VALUE"),
    ((*DISTIL, "--data", "no/folder"), "no/folder"),
    ((*DISTIL, "--vecnormalize", "no.pkl"), "no.pkl"),
    (("latency", "--obs", "3", "--out", __file__), "is a file"),
]


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What each of the commands prints, with its status and what was imported at the end."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([words for words, _ in WRONG]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"},
        timeout=ENOUGH,
    )
    found: list[str] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[" ".join(words) for words, _ in WRONG])
def test_a_typing_error_is_told_without_torch(number: int, said: list[str]) -> None:
    """The status is 2, the value is named, and no heavy package was imported."""
    text = said[number].strip()
    assert text.splitlines()[-1] == "2 False False", text
    assert WRONG[number][1] in text


def test_no_command_s_options_import_torch() -> None:
    """Reading the options of every command needs no heavy package."""
    homes = {home for home, _, _ in _COMMANDS.values()}
    script = f"import sys, {', '.join(sorted(homes))}; print('torch' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=ENOUGH,
    )
    assert ended.stdout.strip() == "False"


def test_terms_are_checked_as_they_are_read() -> None:
    """The quick check knows the terms and options that the slow reader knows."""
    from agentkd.distillation.terms.text import _fields, _known

    for name in term_names():
        known: Any = _known()[name]
        assert _fields(name) == [field.name for field in fields(known)]
    for text in ("match", "0.7 soft:tau=2 + 0.3*hard", "robust:by=pgd,eps=0.1"):
        check_terms(text)
        parse_terms(text)
    for text in ("", "match +", "soft:tua=1", "robust:of=3", "0 hard", "7", "sft"):
        with pytest.raises(ConfigError) as quick:
            check_terms(text)
        with pytest.raises(ConfigError) as slow:
            parse_terms(text)
        assert str(quick.value) == str(slow.value)
