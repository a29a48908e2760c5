"""`agentkd bench mechanisms`: with and without, all else being equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from agentkd.bench.suite import Case, find_cases, with_env_args
from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError
from agentkd.report.model import Plot, Report, Section, Series, Table
from agentkd.report.rows import Rows
from agentkd.report.write import prepare_out, write_report

if TYPE_CHECKING:
    from agentkd.bench.mechanisms import Difference, Mechanism, Setting

_COLUMNS = (
    "planner",
    "mechanism",
    "labels",
    "without",
    "with",
    "change",
    "95 % interval",
    "what differs",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Distil with and without each mechanism: same labels, same seeds, same episodes.

    Example: agentkd bench mechanisms --planners planners --mechanisms soft auto
    """

    planners: Path
    """A folder of folders named ALGORITHM-ENVIRONMENT, such as sac-Swimmer-v5."""
    only: tuple[str, ...] = ()
    """Names of some of these folders; all of them, if none is given."""
    env_args: tuple[str, ...] = ()
    """Arguments of every environment: KEY=VALUE, such as gravity=-5, or JSON."""
    mechanisms: tuple[str, ...] = ()
    """Some of those that docs/distillation.md lists; all that fit, if none is given."""
    compare: tuple[str, ...] = ()
    """Two or more sums of terms instead: the first without, each other one with."""
    labels: tuple[int, ...] = (1000,)
    """How many times the planner is asked; several budgets are gone through."""
    executor: str = "mlp:32,32"
    """The executor's architecture."""
    seeds: int = 3
    """How many distillations of each arm; seeds FIRST_SEED, FIRST_SEED + 1, …."""
    first_seed: int = 0
    """The first of them: choose settings on some seeds, measure on others."""
    reuse: float = 1.0
    """With --compare: gradient steps for each label, in units of the default."""
    episodes: int = 20
    """Episodes to measure each executor over, on the same seeds."""
    eval_seed: int = 1000
    """The first of the seeds to measure on."""
    attack: Literal["noise", "fgsm", "pgd"] = "pgd"
    """What observations are attacked with, where a mechanism is for that."""
    epsilon: float = 0.1
    """How far, in units of the observations' spread."""
    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""
    resume: bool = False
    """Go on from what an earlier run with the same options left in --out."""


def run(options: Options) -> int:
    """Go through planners, budgets and mechanisms."""
    from agentkd.bench.mechanisms import Bench, find_mechanisms

    find_mechanisms(options.mechanisms)
    import torch

    torch.set_num_threads(1)
    cases, mechanisms, setting = _asked(options)
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite, resume=options.resume)
    rows = Rows(options.out, resume=options.resume)
    console = Console()
    found: list[Difference] = []
    chosen = [case for case in cases if not options.only or case.name in options.only]
    interrupted = False
    try:
        with console.status("") as status:
            for case in chosen:

                def show(text: str, name: str = case.name) -> None:
                    status.update(f"{name}: {text}")

                show("measuring the planner")
                others = [each.planner for each in cases if each.env == case.env and each != case]
                bench = Bench(case, others, setting, rows)
                for labels in options.labels:
                    for mechanism in filter(bench.fits, mechanisms):
                        for one in bench.compare(mechanism, labels, show):
                            found.append(one)
                            _say(console, one)
    except KeyboardInterrupt:
        interrupted = True
    _show(console, found)
    if options.out is not None:
        _write(options, options.out, found, interrupted=interrupted)
        console.print(Text(f"report    {options.out / 'report.html'}"))
    return 130 if interrupted else 0


def _asked(options: Options) -> tuple[tuple[Case, ...], tuple[Mechanism, ...], Setting]:
    """Look at every option before anything is measured.

    Raises:
        ConfigError: If one is invalid.
    """
    from agentkd.bench.mechanisms import Setting, find_mechanisms
    from agentkd.measure.attack import Attack

    if options.seeds < 1 or options.episodes < 1 or min(options.labels, default=0) < 1:
        raise ConfigError(
            f"--seeds {options.seeds} --episodes {options.episodes} --labels "
            f"{' '.join(map(str, options.labels))}: each at least 1."
        )
    if options.first_seed < 0 or not options.reuse > 0:
        raise ConfigError(
            f"--first-seed {options.first_seed} --reuse {options.reuse}: at least 0, and above 0."
        )
    if options.reuse != 1.0 and not options.compare:
        raise ConfigError("--reuse goes with --compare; there is a mechanism 'reuse'.")
    cases = with_env_args(find_cases(options.planners), options.env_args)
    unknown = set(options.only) - {case.name for case in cases}
    if unknown:
        raise ConfigError(
            f"No {sorted(unknown)} in {options.planners}; there are "
            f"{[case.name for case in cases]}."
        )
    setting = Setting(
        executor=options.executor,
        seeds=tuple(range(options.first_seed, options.first_seed + options.seeds)),
        episodes=options.episodes,
        eval_seed=options.eval_seed,
        attack=Attack(options.attack, options.epsilon),
    )
    if options.compare:
        return cases, _compared(options), setting
    return cases, find_mechanisms(options.mechanisms), setting


def _compared(options: Options) -> tuple[Mechanism, ...]:
    from agentkd.bench.mechanisms import Arm, Mechanism
    from agentkd.distillation.terms import parse_terms

    if options.mechanisms or len(options.compare) < 2:
        raise ConfigError(
            "--compare takes two sums of terms or more, and the place of --mechanisms."
        )
    for terms in options.compare:
        parse_terms(terms)
    first, *rest = options.compare
    return tuple(
        Mechanism(
            terms,
            f"{terms}, not {first}",
            Arm(first, reuse=options.reuse),
            Arm(terms, reuse=options.reuse),
        )
        for terms in rest
    )


def _cells(one: Difference) -> list[str]:
    change = one.change
    first, second = one.counts[0][0], one.counts[1][0]
    labels = f"{first:,}"
    # A tick of all environments may go beyond the budget by a few.
    if not 0.9 < second / first < 1.1:
        labels += f" / {second:,}"
    return [
        one.case.name,
        one.mechanism.name + (f" under {one.under}" if one.under else ""),
        labels,
        f"{np.mean(one.without):.3f}",
        f"{np.mean(one.within):.3f}",
        f"{change.mean:+.3f}",
        "" if np.isnan(change.low) else f"{change.low:+.3f} … {change.high:+.3f}",
        one.mechanism.about,
    ]


def _say(console: Console, one: Difference) -> None:
    name, mechanism, labels, without, within, change, interval, _ = _cells(one)
    text = f"{name}  {mechanism}, {labels} labels: {without} to {within}, {change} ({interval})"
    console.print(Text(text), soft_wrap=True)


def _show(console: Console, found: Sequence[Difference]) -> None:
    if not found:
        console.print("No mechanism fits these planners.")
        return
    for name in dict.fromkeys(one.case.name for one in found):
        console.print(Text(f"\n{name}", "bold"))
        grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for index, column in enumerate(_COLUMNS[1:-1]):
            grid.add_column(column, justify="right" if index else "left", no_wrap=index > 0)
        for one in found:
            if one.case.name == name:
                grid.add_row(*(Text(cell) for cell in _cells(one)[1:-1]))
        console.print(grid)
    console.print(Text("Retention: 0 is random actions, 1 the planner. Paired by seeds.", "dim"))


def _write(options: Options, out: Path, found: Sequence[Difference], *, interrupted: bool) -> None:
    entries: list[dict[str, Any]] = [
        {
            "planner": one.case.name,
            "env": one.case.env,
            "mechanism": one.mechanism.name,
            "about": one.mechanism.about,
            "arms": [asdict(one.mechanism.without), asdict(one.mechanism.within)],
            "labels": [count[0] for count in one.counts],
            "steps": [count[1] for count in one.counts],
            "under": one.under,
            "without": list(one.without),
            "with": list(one.within),
            "change": one.change.mean,
            "change_interval": [one.change.low, one.change.high],
        }
        for one in found
    ]
    data = {
        "command": "bench mechanisms",
        "architecture": options.executor,
        "seeds": options.seeds,
        "first_seed": options.first_seed,
        "reuse": options.reuse,
        "episodes": options.episodes,
        "eval_seed": options.eval_seed,
        "attack": options.attack,
        "epsilon": options.epsilon,
        "entries": entries,
        "interrupted": interrupted,
    }
    plot = Plot(
        "Change of retention",
        "retention with, minus without",
        "",
        tuple(
            Series(
                " ".join(_cells(one)[:2]) + f" {one.labels:,}",
                [b - a for a, b in zip(one.without, one.within, strict=True)],
                [one.change.mean],
                [one.change.low],
                [one.change.high],
            )
            for one in found
        ),
        "A dot is a seed; the diamond is the mean, the bar its 95 % interval.",
        kind="rows",
    )
    text = (
        f"{options.executor}, {options.seeds} seeds, {options.episodes} episodes each, "
        f"attacked by {options.attack} of {options.epsilon:g}."
    )
    table = Table(_COLUMNS, [_cells(one) for one in found])
    plots = (plot,) if found else ()
    write_report(out, Report(data, [Section("With and without", text, table, plots)]))
