"""What executors keep of their return in integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from agentkd.deploy.bundle import from_bytes, to_bytes
from agentkd.deploy.int8.calibrate import held, integer_form
from agentkd.deploy.vectors import STEPS
from agentkd.distillation.run import Budget
from agentkd.errors import ConfigError
from agentkd.executors.native import compile_native
from agentkd.measure.evaluate import record
from agentkd.measure.intervals import Interval, mean_interval
from agentkd.report.model import Section
from benchmarks.planners import CHOOSING, Case, Planners, distilled, returns_of
from benchmarks.runner import Benchmark, Column, Findings, Result, Work, table

_GOLDEN_SEED = 1000
"""Where the episodes begin that an executor's file is proved by, as in `distill`."""


@dataclass(frozen=True, kw_only=True)
class Options(Planners):
    """Distil planners; compare each executor in floats and in integers.

    Example: python -m benchmarks int8 --planners planners --episodes 40 LunarLander=100
    """

    executor: str = "mlp:64,64"
    """The executor's architecture."""
    seconds: float | None = None
    """How long each distillation takes; 60 if --labels is not given either."""
    labels: int | None = None
    """How many labels each distillation collects."""
    seed: int = 0
    """Of the distillations."""
    episodes: tuple[str, ...] = ("40",)
    """Episodes of each measurement, and other numbers for environments whose names hold a word: 40
    LunarLander=100."""
    eval_seed: int = 50_000
    """The first of the seeds to measure on."""


def works(options: Options) -> Iterator[Work]:
    """List the planners."""
    for case in options.chosen():
        episodes = episodes_of(options.episodes, case.env)
        measure = partial(compare, case, options, episodes)
        yield Work(case.name, case.key(), measure)


def episodes_of(words: Sequence[str], env: str) -> int:
    """How many episodes an environment gets.

    Raises:
        ConfigError: If a word is neither N nor NAME=N.
    """
    found = 40
    for word in words:
        name, equals, number = word.rpartition("=")
        if not number.isdigit() or not int(number) or bool(name) != bool(equals):
            raise ConfigError(
                f"--episodes {word}: N, or NAME=N for environments with NAME in theirs."
            )
        if name in env:
            found = int(number)
    return found


def compare(case: Case, options: Options, episodes: int) -> dict[str, Any]:
    """Distil a planner, and measure the executor in floats and in integers.

    The integers are calibrated as `agentkd export` does: by what the executor's file holds.
    """
    seconds = options.seconds
    if seconds is None and options.labels is None:
        seconds = 60.0
    budget = Budget(seconds, options.labels)
    result = distilled(case, options.executor, budget, seed=options.seed)
    executor, place = result.executor, {"steps": STEPS, "seed": _GOLDEN_SEED}
    own = record(case.env, executor.policy, spec=executor.spec, **place)
    bundle = from_bytes(to_bytes(executor, {}, golden=own))
    seen = held(bundle)
    assert seen is not None
    floats = (compile_native(executor) or executor).policy
    how = {"episodes": episodes, "seed": options.eval_seed}
    return {
        "labels": result.labels,
        "calibration": seen.said,
        "float": returns_of(case.env, floats, **how)["returns"],
        "int8": returns_of(case.env, integer_form(bundle).policy, **how)["returns"],
    }


def kept(floats: Sequence[float], integers: Sequence[float]) -> Interval:
    """1 + the mean paired difference in units of the float return's size.

    Where returns are positive that is int8 over float.
    """
    real, whole = np.asarray(floats), np.asarray(integers)
    apart = mean_interval((whole - real).tolist())
    size = abs(float(real.mean()))
    if not size:
        nothing = float("nan")
        return Interval(nothing, nothing, nothing, "The float return is 0.")
    low, high = 1 + apart.low / size, 1 + apart.high / size
    return Interval(1 + apart.mean / size, low, high, apart.reason)


COLUMNS = [
    Column("planner", "planner"),
    Column("episodes", lambda r: len(r["int8"]), ","),
    Column("float", lambda r: float(np.mean(r["float"])), ",.2f"),
    Column("int8", lambda r: float(np.mean(r["int8"])), ",.2f"),
    Column("kept", lambda r: r["kept"].mean, ".4f"),
    Column("95 %", lambda r: f"{r['kept'].low:.4f} to {r['kept'].high:.4f}"),
]


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show what each executor keeps."""
    rows = [{**r, "kept": kept(r["float"], r["int8"])} for r in results]
    title = f"{options.executor} in integers"
    return Findings([Section(title, "", table(COLUMNS, rows))])


def brief(result: Result) -> str:
    """Give what was kept."""
    found = kept(result["float"], result["int8"])
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


BENCHMARK = Benchmark("int8", works, findings, brief, CHOOSING)
run = BENCHMARK.run
