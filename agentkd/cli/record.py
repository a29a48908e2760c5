"""`agentkd record`: what a planner says, written down to be distilled later."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agentkd.cli.planner_choice import access, reference
from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError
from agentkd.interrupt import held


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a planner's labels to a folder that `agentkd distill --data` takes.

    Example: agentkd record LunarLander-v3 --planner policies/lunarlander --labels 50000
    """

    env: tyro.conf.Positional[str]
    """A Gymnasium id, "module:Id-v0", or "module:attribute" that makes one."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    planner: tuple[str, ...]
    """An SB3 save or its folder, an .akd file, or module:attribute; several are an ensemble."""
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
    environments: int = 16
    """How many environments are stepped together."""
    episodes: int = 20
    """Episodes to measure planner and random actions over, so that a distillation without them
    knows what to keep; 0 for none."""
    eval_seed: int = 1000
    """The first of the seeds to measure on."""
    out: Path | None = None
    """Where the labels and the report go; by default runs/labels-ENV."""
    overwrite: bool = False
    """Replace what an earlier run left in the folder."""
    vecnormalize: str | None = None
    """Statistics of the planner's normaliser, if not beside it; "off" for none."""
    algorithm: str | None = None
    """The SB3 algorithm, if the save does not tell."""
    unpickle: Annotated[bool, tyro.conf.arg(name="unpickle")] = False
    """Read a save by running the code in it. Only for files whose maker you trust."""


def run(options: Options) -> int:
    """Measure planner and random actions, then record."""
    import torch

    from agentkd.cli.first_look import out_folder
    from agentkd.deploy.bundle import read_bundle
    from agentkd.distillation.dataset import About
    from agentkd.distillation.recording import DatasetWriter, check_recording, clear_dataset, record
    from agentkd.distillation.sources import CollectionOptions
    from agentkd.distillation.task import open_task
    from agentkd.executors.native import compile_native
    from agentkd.report.write import prepare_out

    torch.set_num_threads(1)
    if options.episodes < 0:
        raise ConfigError(f"episodes is {options.episodes}; 0 for none, else above.")
    out = out_folder("record", options.env, options.out)
    task = open_task(options.env, reference(options), **access(options))
    known, executor = task.planner, None
    if options.executor:
        driver = read_bundle(options.executor).executor
        executor = task.executor(driver, name=str(options.executor))
    labels = options.labels
    if labels is None and options.seconds is None:
        labels = 100_000
    check_recording(labels, options.seconds, options.random)
    collection = CollectionOptions(
        environments=options.environments, least_share=options.planner_share, schedule="constant"
    )
    prepare_out(out, overwrite=options.overwrite)
    clear_dataset(out)
    console = Console()
    planner: tuple[float, ...] = ()
    random: tuple[float, ...] = ()
    if count := options.episodes:
        console.print(f"Measuring the planner over {count} episodes …", style="dim")
        planner = task.measure(known.policy, count, options.eval_seed).returns
        random = task.measure(None, count, options.eval_seed).returns
    about = About(
        env=options.env,
        spec=task.spec,
        planner=known.name,
        refs=options.planner,
        digest=known.digest,
        parameters=known.parameters,
        seed=options.seed,
        planner_returns=planner,
        random_returns=random,
        eval_seed=options.eval_seed,
        more={
            "environments": options.environments,
            "random": options.random,
            "executor": str(options.executor or ""),
            "planner_share": options.planner_share if executor else 1.0,
        },
    )
    live = console.is_interactive
    with console.status("recording …") if live else nullcontext() as status:

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
    from agentkd.measure.intervals import mean_interval
    from agentkd.report.console import publish
    from agentkd.report.model import Report, Section

    returns = mean_interval(about.planner_returns)
    size = sum(each.stat().st_size for each in out.glob("part-*"))
    text = (
        f"{result.labels:,} labels of {result.episodes:,} episodes in "
        f"{result.seconds:.1f} s, {size / 1e6:.1f} MB"
    )
    notes = []
    if result.refused:
        notes.append(f"{result.refused:,} held NaN or infinity: left out.")
    if result.fault:
        notes.append(result.fault)
    if result.interrupted:
        notes.append("Ended early: this is what was recorded.")
    data = {
        "command": "record",
        "env": options.env,
        "planner": list(options.planner),
        "planner_name": about.planner,
        "planner_digest": about.digest,
        "planner_parameters": about.parameters,
        "planner_return": returns.mean,
        "planner_return_interval": [returns.low, returns.high],
        "random_return": mean_interval(about.random_returns).mean,
        "seed": options.seed,
        "eval_seed": options.eval_seed,
        "episodes": options.episodes,
        "labels": result.labels,
        "labels_refused": result.refused,
        "recorded_episodes": result.episodes,
        "bytes": size,
        "seconds": result.seconds,
        "interrupted": result.interrupted,
        "fault": result.fault,
    }
    files = {"labels": str(out), "next:": f"agentkd distill --data {out}"}
    section = Section("What was recorded", text, notes=tuple(notes))
    publish(console, Report(data, [section], files), out)
    if result.fault:
        return 1
    return 130 if result.interrupted else 0
