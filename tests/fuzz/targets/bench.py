"""What `agentkd bench` reads: the rows of an earlier run, and suites."""

from __future__ import annotations

import math
from pathlib import Path

from agentkd.bench.cells import cells_of
from agentkd.bench.rows import COLUMNS, Row, _check, _line, read_rows
from agentkd.bench.suite import Suite, read_suite
from agentkd.bench.tables import report_of
from agentkd.report.write import markdown
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_SEED = {
    "key": "0123456789abcdef01234567",
    "env": "CartPole-v1",
    "planner": "plan",
    "arm": "executor",
    "executor": "mlp:4",
    "method": "distill",
    "latency": "0",
    "seed": "0",
    "episodes": "2",
    "first_seed": "1000",
    "labels": "100",
    "parameters": "30",
    "return": "1.5",
    "returns": "[1.0, 2.0]",
    "making_seconds": "0.5",
    "seconds": "1.0",
    "error": "",
}
_ARMS = ("random", "planner", "executor", "int8", "runtime")
_SUITE = """about = "A."
seeds = [0, 1]
episodes = 5
labels = 12_000
executors = ["mlp:8", "gru:4"]
methods = ["distill", {name = "mine", method = "distill", labels = 10, terms = "hard"}]
arms = ["planner", "executor", "runtime"]
latencies = [0, 4]

[[tasks]]
env = "CartPole-v1"
planner = ["a", "b"]
hz = 20
guard = "policies.freeway:safe"
planner_sees = "0:2"
"""


def _rows(draw: Draw) -> Files:
    """Make rows, some fields of which are hostile; their checks are right."""
    lines = [_line(COLUMNS)]
    for number in range(1 + draw.below(8)):
        fields = {**_SEED, "key": f"{number:024}", "arm": draw.choice(_ARMS), "seed": f"{number}"}
        for _ in range(draw.below(3)):
            name = draw.choice(tuple(fields))
            fields[name] = mutate.text(draw, fields[name])
        texts = [each.encode("utf-8", "replace").decode() for each in fields.values()]
        lines.append(_line([*texts, _check(texts)]))
    whole = "".join(lines).encode()
    return {"cells.csv": mutate.octets(draw, whole) if draw.chance(4) else whole}


def _read_rows(folder: Path) -> list[Row]:
    return read_rows(folder / "cells.csv")[0]


def _tell(rows: list[Row]) -> None:
    """Make tables of them: their returns are numbers."""
    for each in rows:
        assert all(math.isfinite(value) for value in each.returns)
    markdown(report_of("suite", "About.", rows, len(rows)))


def _suite(draw: Draw) -> Files:
    """Make a suite, some lines of which are hostile."""
    if draw.chance(4):
        return {"mine.toml": mutate.octets(draw, _SUITE.encode())}
    lines = _SUITE.splitlines(keepends=True)
    for _ in range(1 + draw.below(3)):
        at = draw.below(len(lines))
        lines[at] = mutate.text(draw, lines[at])
    return {"mine.toml": "".join(lines).encode("utf-8", "surrogatepass")}


def _read_suite(folder: Path) -> Suite:
    found = read_suite(folder / "mine.toml")
    cells_of(found)
    return found


def _list(suite: Suite) -> None:
    """Name its cells, each once."""
    cells = cells_of(suite)
    assert len({each.name for each in cells}) <= len(cells)


ROWS = Target("bench-rows", _rows, _read_rows, _tell)
SUITE = Target("bench-suite", _suite, _read_suite, _list)
