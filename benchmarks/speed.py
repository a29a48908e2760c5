"""How fast gradient steps and labels are, beside plain loops and beside another commit."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.errors import AgentkdError, ConfigError
from agentkd.report.model import Section
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table

_ROOT = Path(__file__).parents[1]
_FIGURES = _ROOT / "benchmarks/speed_figures.py"
_WHAT = {
    "step-64": "gradient steps/s, 17-64-64-6, batch 512; beside plain NumPy",
    "step-256": "gradient steps/s, 17-256-256-6, batch 512; beside plain NumPy",
    "labels": "labels/s of one process; beside bare steps with random actions",
    "labels-same": "labels/s of one process; beside bare steps with the same actions",
}


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Measure gradient steps and labels, beside plain loops in the same run.

    With --against the same figures are measured in another commit, in turns.

    Example: python -m benchmarks speed --planner DIR/tqc-HalfCheetah-v5 --env HalfCheetah-v5
    """

    planner: str = "policies/lunarlander"
    """The planner that labels."""
    env: str = "LunarLander-v3"
    """Its environment."""
    against: str | None = None
    """A commit to compare with."""
    figures: tuple[str, ...] = tuple(_WHAT)
    """Which figures: step-64, step-256, labels, labels-same."""
    rounds: int = 3
    """How often each is measured."""


def _measure(tree: str | None, figure: str, options: Options) -> Mapping[str, Any]:
    """Measure a figure in this tree, or in that of a commit."""
    path = Path(options.planner)
    planner = str(path.resolve()) if path.exists() else options.planner
    with _checkout(tree) as root:
        done = subprocess.run(
            [sys.executable, str(_FIGURES), figure, planner, options.env],
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise AgentkdError(f"{figure} in {tree or 'this tree'}: {done.stderr.strip()[-2000:]}")
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def _checkout(commit: str | None) -> Iterator[Path]:
    """Lay out a commit's files in a temporary folder; this tree's are where they are."""
    if commit is None:
        yield _ROOT
        return
    with tempfile.TemporaryDirectory(prefix="agentkd-") as name:
        git = shutil.which("git")
        if git is None:
            raise ConfigError("--against needs git.")
        archive = subprocess.run(
            [git, "archive", "--", commit], cwd=_ROOT, capture_output=True, check=False
        )
        if archive.returncode:
            raise ConfigError(f"--against {commit}: {archive.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(name, filter="data")
        yield Path(name)


def works(options: Options) -> Iterator[Work]:
    """List the measurements: rounds of all figures, both trees in turns."""
    for figure in options.figures:
        if figure not in _WHAT:
            raise ConfigError(f"No figure {figure!r}; there are {', '.join(_WHAT)}.")
    trees = [None] if options.against is None else [None, options.against]
    for turn in range(options.rounds):
        for figure in options.figures:
            for tree in trees:
                key = {"figure": figure, "tree": tree or "", "turn": turn}
                name = f"{figure} {tree or 'here'} {turn}"
                yield Work(name, key, partial(_measure, tree, figure, options))


def findings(_: Options, results: Sequence[Result]) -> Findings:
    """Show each figure, its share of the baseline, and the ratio of the two commits."""
    rows = []
    for (figure,), own in grouped(results, "figure").items():
        trees = grouped(own, "tree")
        here = trees.get(("",), [])
        for (tree,), each in trees.items():
            ratios = [one["value"] / two["value"] for one, two in zip(here, each, strict=False)]
            rows.append(
                {
                    "figure": _WHAT[figure],
                    "tree": tree or "here",
                    **{k: float(np.median([r[k] for r in each])) for k in ("value", "ratio")},
                    "least": min(r["ratio"] for r in each),
                    "most": max(r["ratio"] for r in each),
                    "faster": float(np.median(ratios)) if tree and ratios else None,
                }
            )
    columns = [
        Column("figure", "figure"),
        Column("tree", "tree"),
        Column("a second", "value", ",.0f"),
        Column("of the baseline", "ratio", ".2f"),
        Column("least", "least", ".2f"),
        Column("most", "most", ".2f"),
        Column("here ÷ there", "faster", ".2f"),
    ]
    caption = "Medians of rounds. Baselines run in turns with what is measured, in one process."
    return Findings([Section("Speed", "", table(columns, rows, caption))])


def brief(result: Result) -> str:
    """Give the figure and its share of the baseline."""
    return f"{result['value']:,.0f} a second, {result['ratio']:.2f} of the baseline"


BENCHMARK = Benchmark("speed", works, findings, brief, ("figures", "rounds"))
run = BENCHMARK.run
