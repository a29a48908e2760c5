"""`agentkd record`: what a planner says, written down to be distilled later."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from agentkd.cli.options import Learning, open_planned
from agentkd.cli.terminal import Console
from agentkd.distillation.dataset import About
from agentkd.distillation.recording import DatasetWriter, check_recording, clear_dataset, record
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Returns
from agentkd.errors import check_range
from agentkd.executors.native import compile_native
from agentkd.interrupt import held
from agentkd.measure.intervals import mean_interval
from agentkd.report.console import publish
from agentkd.report.model import Report, Section
from agentkd.report.write import prepare_out


@dataclass(frozen=True, kw_only=True)
class Options(Learning):
    """Write a planner's labels to a folder that `agentkd distill --data` takes."""

    folder: ClassVar[str] = "labels"
    labels: int | None = None
    """How many labels; 100,000 if --seconds is not given either."""
    seconds: float | None = None
    """How long to record, in seconds."""
    seed: int = 0
    """For the environments and every draw."""
    random: float = 0.05
    """The share of ticks at which something random is done, 0 to 1: the planner then says what it
    would do where it would not have come."""
    executor: Path | None = None
    """An .akd file that drives beside the planner; the labels are the planner's."""
    planner_share: float = 0.5
    """With --executor: the planner's share of the driving."""
    episodes: int = 20
    """Episodes to measure planner and random actions over, so that a distillation without them
    knows what to keep; 0 for none."""


def run(options: Options) -> int:
    """Measure planner and random actions, then record."""
    check_range("episodes", options.episodes, least=0)
    out = options.place
    task = open_planned(options)
    known, executor = task.planner, None
    if options.executor:
        executor = task.executor(options.executor, name=str(options.executor))
    labels = options.labels
    if labels is None and options.seconds is None:
        labels = 100_000
    check_recording(labels, options.seconds, options.random)
    count, share = options.environments, options.planner_share
    collection = CollectionOptions(count, halving=1, least_share=share)
    prepare_out(out, overwrite=options.overwrite)
    clear_dataset(out)
    console, returns = Console(), Returns((), (), options.eval_seed)
    if options.episodes:
        console.print(f"Measuring the planner over {options.episodes} episodes …", style="dim")
        returns = task.references(options.episodes, options.eval_seed)
    about = About(
        env=options.env,
        spec=task.spec,
        planner=known.name,
        refs=options.planner,
        digest=known.digest,
        parameters=known.parameters,
        seed=options.seed,
        planner_returns=returns.planner,
        random_returns=returns.random,
        eval_seed=options.eval_seed,
        more={
            "environments": options.environments,
            "random": options.random,
            "executor": str(options.executor or ""),
            "planner_share": share if executor else 1.0,
        },
    )
    with console.status("recording …") if console.is_interactive else nullcontext() as status:

        def show(so_far: int, rate: float) -> None:
            if status is not None:
                status.update(f"{so_far:,} labels, {rate:,.0f}/s")

        # The last labels are written, too, before another Ctrl-C ends the command.
        with held(), DatasetWriter(out, about) as writer:
            result = record(
                task,
                writer,
                labels=labels,
                seconds=options.seconds,
                seed=options.seed,
                chance=options.random,
                executor=(compile_native(executor) or executor).policy if executor else None,
                collection=collection,
                watch=show,
            )
    return _report(options, out, about, result, console)


def _report(options: Options, out: Path, about: Any, result: Any, console: Console) -> int:
    returns = mean_interval(about.planner_returns)
    size = sum(each.stat().st_size for each in out.glob("part-*"))
    text = (
        f"{result.labels:,} labels of {result.episodes:,} episodes in "
        f"{result.seconds:.1f} s, {size / 1e6:.1f} MB"
    )
    notes = {
        f"{result.refused:,} held NaN or infinity: left out.": result.refused,
        result.fault: result.fault,
        "Ended early: this is what was recorded.": result.interrupted,
    }
    data = {
        "command": "record",
        **{name: getattr(options, name) for name in ("env", "seed", "eval_seed", "episodes")},
        "planner": list(options.planner),
        "planner_name": about.planner,
        "planner_digest": about.digest,
        "planner_parameters": about.parameters,
        "planner_return": returns.mean,
        "planner_return_interval": [returns.low, returns.high],
        "random_return": mean_interval(about.random_returns).mean,
        **{name: getattr(result, name) for name in ("labels", "seconds", "interrupted", "fault")},
        "labels_refused": result.refused,
        "recorded_episodes": result.episodes,
        "bytes": size,
    }
    files = {"labels": str(out), "next:": f"agentkd distill --data {out}"}
    told = tuple(note for note, holds in notes.items() if holds)
    publish(console, Report(data, [Section("What was recorded", text, notes=told)], files), out)
    return 1 if result.fault else 130 if result.interrupted else 0
