"""Executors exported to C and built, for the tests of what is exported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from agentkd.deploy.c99 import emit_c
from agentkd.deploy.int8.emit import emit_c_int8
from agentkd.deploy.int8.quantise import quantise
from agentkd.deploy.interface import header_of
from agentkd.executors.executor import Executor
from agentkd.spec import BoxSpec
from tests.deploy_executors import CASES, lively

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
COMPILERS = [
    pytest.param(cc, marks=pytest.mark.needs(cc, f"{cplusplus}"), id=cc)
    for cc, cplusplus in (("gcc", "g++"), ("clang", "clang++"))
]
CPLUSPLUS = {"gcc": "g++", "clang": "clang++"}
FLAGS = [
    ("-O0",),
    ("-O2",),
    ("-O2", "-ffinite-math-only"),
    ("-O3", "-ffast-math"),
    ("-Ofast", "-funroll-loops"),
]
FORMS = ["c", "c-int8"]
CHOICES, NUMBERS, UNIT, IMAGE = (lively(*CASES[i]) for i in (2, 5, 9, 12))
EDGES = lively("mlp:9,elu", BoxSpec((-np.inf, -1e-45, -2.0), (0.5, np.inf, 3e38), (3,)))


def text_of(executor: Executor, form: str, name: str = "net") -> str:
    if form == "c":
        return emit_c(executor, name)
    return emit_c_int8(quantise(executor), name)


def write(folder: Path, executor: Executor, form: str, name: str = "net") -> None:
    """Write the C file and its header."""
    text = text_of(executor, form, name)
    (folder / f"{name}.c").write_text(text)
    (folder / f"{name}.h").write_text(header_of(text, name))


def run(*words: object, folder: Path) -> str:
    """Run a command that has to succeed; its output."""
    done = subprocess.run(
        [str(each) for each in words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
