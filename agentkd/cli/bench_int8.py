"""`agentkd bench int8`: what executors keep of their return in integers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.bench.integers import Pair


@dataclass(frozen=True, kw_only=True)
class Options:
    """Distil planners; compare each executor in floats and in integers.

    Example: agentkd bench int8 --planners planners --episodes 40 LunarLander=100
    """

    planners: Path
    """A folder of folders named ALGORITHM-ENVIRONMENT, such as sac-Swimmer-v5."""
    only: tuple[str, ...] = ()
    """Names of some of these folders; all of them, if none is given."""
    env_args: tuple[str, ...] = ()
    """Arguments of every environment: KEY=VALUE, such as gravity=-5, or JSON."""
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
    out: Path | None = None
    """A JSON file for all returns; nothing is written without it."""


def run(options: Options) -> int:
    """Compare one planner's executor after another, and print a table."""
    import torch

    from agentkd.bench.integers import compare
    from agentkd.bench.suite import find_cases, with_env_args
    from agentkd.cli.terminal import Console
    from agentkd.distillation.loop import Budget
    from agentkd.report.write import write_whole

    torch.set_num_threads(1)
    cases = with_env_args(find_cases(options.planners), options.env_args)
    unknown = set(options.only) - {case.name for case in cases}
    if unknown:
        raise ConfigError(
            f"No {sorted(unknown)} in {options.planners}; there are "
            f"{[case.name for case in cases]}."
        )
    seconds = options.seconds
    if seconds is None and options.labels is None:
        seconds = 60.0
    budget = Budget(seconds, options.labels)
    chosen = [case for case in cases if not options.only or case.name in options.only]
    counts = {case.name: episodes_of(options.episodes, case.env) for case in chosen}
    console = Console()
    pairs: list[Pair] = []
    for case in chosen:
        with console.status("") as status:

            def show(text: str, name: str = case.name) -> None:
                status.update(f"{name}: {text}")

            pair = compare(
                case,
                options.executor,
                budget=budget,
                seed=options.seed,
                episodes=counts[case.name],
                eval_seed=options.eval_seed,
                watch=show,
            )
        pairs.append(pair)
        kept = pair.kept
        console.print(
            f"{case.name}  {kept.mean:.4f} [{kept.low:.4f}, {kept.high:.4f}]", highlight=False
        )
        if options.out is not None:
            # Whatever happens to the next ones, these are measured.
            data = _data(options, pairs)
            write_whole(options.out, json.dumps(data, indent=1) + "\n")
    console.print("\n".join(_table(pairs)), highlight=False)
    return 0


def episodes_of(words: tuple[str, ...], env: str) -> int:
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


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def _table(pairs: list[Pair]) -> list[str]:
    """A table in Markdown, as docs/int8.md has it."""
    lines = [
        "| planner | episodes | float | int8 | kept | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        kept = pair.kept
        lines.append(
            f"| {pair.case.name} | {len(pair.int8.returns)} "
            f"| {_mean(pair.float32.returns):,.2f} | {_mean(pair.int8.returns):,.2f} "
            f"| {kept.mean:.4f} | {kept.low:.4f} to {kept.high:.4f} |"
        )
    return lines


def _data(options: Options, pairs: list[Pair]) -> dict[str, Any]:
    return {
        "command": "bench int8",
        "architecture": options.executor,
        "seconds": options.seconds,
        "labels": options.labels,
        "seed": options.seed,
        "eval_seed": options.eval_seed,
        "entries": [
            {
                "planner": pair.case.name,
                "env": pair.case.env,
                "labels": pair.labels,
                "calibration": pair.calibration,
                "float": list(pair.float32.returns),
                "int8": list(pair.int8.returns),
                "kept": [pair.kept.mean, pair.kept.low, pair.kept.high],
            }
            for pair in pairs
        ],
    }
