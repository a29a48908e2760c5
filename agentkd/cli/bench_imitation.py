"""`agentkd bench imitation`: time to a target, against DAgger, BC and PPD's methods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import tyro
from rich.table import Table as Grid

from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.bench.versus import Outcome, Snapshot

Method = Literal[
    "agentkd", "imitation DAgger", "imitation BC", "student-driven", "teacher-driven", "ppd"
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time how long ways to distil take until they keep a target.

    `imitation` needs gymnasium 0.29 and SB3 2.2, so it has an environment of its own:

    python -m venv OTHER && OTHER/bin/pip install "imitation==1.0.1" "numpy<2" torch

    Example: agentkd bench imitation CartPole-v1 --planner DIR --python OTHER/bin/python
    """

    env: tyro.conf.Positional[str]
    """A Gymnasium id."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    planner: str
    """An SB3 save or its folder: a multilayer perceptron, which others can be given."""
    python: str | None = None
    """The Python that has imitation; without it, its methods are left out."""
    methods: tuple[Method, ...] = get_args(Method)
    """Which to time."""
    executor: str = "mlp:64,64"
    """Our executor's architecture; the others' policies have the same widths."""
    target: float = 0.95
    """The retention at which a method is done."""
    seconds: float = 120.0
    """The most training that a method gets."""
    seed: int = 0
    """Of every method."""
    episodes: int = 20
    """Episodes to measure a snapshot over, on the same seeds."""
    eval_seed: int = 1000
    """The first of these seeds."""
    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""


def run(options: Options) -> int:
    """Time one method after another."""
    import torch

    from agentkd.bench.versus import Contest, look
    from agentkd.environments import look_at
    from agentkd.measure.evaluate import evaluate, evaluate_random
    from agentkd.report.write import prepare_out

    torch.set_num_threads(1)
    if not options.seconds > 0 or options.episodes < 1:
        raise ConfigError(
            f"--seconds {options.seconds:g} --episodes {options.episodes}: above 0, at least 1."
        )
    spec, _ = look_at(options.env)
    planner = look(options.planner, spec)
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite)
    console = Console()
    measure: dict[str, Any] = {"episodes": options.episodes, "seed": options.eval_seed}
    best = evaluate(options.env, planner.policy, spec=spec, **measure).returns
    floor = evaluate_random(options.env, **measure).returns
    contest = Contest(
        env=options.env,
        spec=spec,
        planner=planner,
        ref=options.planner,
        executor=options.executor,
        target=options.target,
        seconds=options.seconds,
        planner_return=sum(best) / len(best),
        random_return=sum(floor) / len(floor),
        episodes=options.episodes,
        eval_seed=options.eval_seed,
        seed=options.seed,
        watch=lambda method, at: _tell(console, method, at),
    )
    outcomes: list[Outcome] = []
    interrupted = False
    for method in options.methods:
        try:
            outcomes.append(contest.run(method, options.python))
        except KeyboardInterrupt:
            interrupted = True
            break
    _show(console, outcomes)
    if options.out is not None:
        _write(options, options.out, outcomes, interrupted=interrupted)
        console.print(f"report    {options.out / 'report.html'}")
    return 130 if interrupted else 0


def _tell(console: Console, method: str, at: Snapshot) -> None:
    console.print(
        f"{method:<18}{at.seconds:8.1f} s  {at.labels:>10,} labels  {at.kept:7.3f}", highlight=False
    )


_COLUMNS = ("method", "seconds to target", "labels", "best kept", "slower than ours")


def _cells(outcomes: list[Outcome]) -> list[list[str]]:
    mine = next((o.reached for o in outcomes if o.method == "agentkd"), None)
    rows = []
    for outcome in outcomes:
        at = outcome.reached
        best = max((s.kept for s in outcome.snapshots), default=float("nan"))
        last = outcome.snapshots[-1].seconds if outcome.snapshots else 0.0
        ratio = ""
        if mine is not None:
            ratio = f"{at.seconds / mine.seconds:.1f}x" if at else ""
            if at is None and outcome.snapshots:
                ratio = f"> {last / mine.seconds:.1f}x"
        reached = f"{at.seconds:.1f}" if at else f"not in {last:.0f}"
        rows.append(
            [
                outcome.method,
                outcome.fault or reached,
                f"{at.labels:,}" if at else "",
                f"{best:.3f}",
                ratio,
            ]
        )
    return rows


def _show(console: Console, outcomes: list[Outcome]) -> None:
    grid = Grid(show_edge=False, pad_edge=False)
    for index, name in enumerate(_COLUMNS):
        grid.add_column(name, justify="right" if index else "left")
    for cells in _cells(outcomes):
        grid.add_row(*cells)
    console.print(grid)


def _write(options: Options, out: Path, outcomes: list[Outcome], *, interrupted: bool) -> None:
    from agentkd.bench.versus import OLDER
    from agentkd.environments import split
    from agentkd.report.model import Plot, Report, Section, Series, Table
    from agentkd.report.write import write_report

    data = {
        "command": "bench imitation",
        "env": options.env,
        "planner": [options.planner],
        "architecture": options.executor,
        "target": options.target,
        "seconds": options.seconds,
        "seed": options.seed,
        "eval_seed": options.eval_seed,
        "episodes": options.episodes,
        "interrupted": interrupted,
        "entries": [
            {
                "method": each.method,
                "fault": each.fault,
                "seconds_to_target": each.reached.seconds if each.reached else None,
                "snapshots": [[s.seconds, s.labels, s.kept] for s in each.snapshots],
            }
            for each in outcomes
        ],
    }
    plot = Plot(
        "Retention while it learns",
        "seconds of training",
        "retention",
        tuple(
            Series(
                each.method, [s.seconds for s in each.snapshots], [s.kept for s in each.snapshots]
            )
            for each in outcomes
        ),
        "Ours are whole distillations of that time.",
    )
    older = OLDER.get(split(options.env)[0])
    text = (
        f"Until {options.target:g} is kept, or {options.seconds:g} s. Executors of "
        f"{options.executor}, one core each but ours, which uses two."
    )
    if older:
        text += f" imitation trains in {older}, for it needs gymnasium 0.29."
    table = Table(_COLUMNS, _cells(outcomes))
    write_report(out, Report(data, [Section("Time to a target", text, table, (plot,))]))
