"""`agentkd distill`: from a planner, or from its labels, to an executor file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentkd.cli.distill_options import Options, check, collection, learning, opened_as
from agentkd.cli.options import out_folder, reference
from agentkd.deploy.bundle import write_bundle
from agentkd.distillation.offline import open_dataset
from agentkd.distillation.task import Returns, open_task
from agentkd.environments import look_at, named_by_file
from agentkd.errors import AgentkdError, ConfigError
from agentkd.interrupt import ctrl_c
from agentkd.measure.intervals import mean_interval
from agentkd.report.returns import Goals
from agentkd.report.write import prepare_out

__all__ = ["Options", "run"]
_HOW: Any = ("seconds", "labels", "steps", "steps_per_label", "seed", "resume", "kept_bytes")
"""Options that the distillation takes as they are."""


def run(options: Options) -> int:
    """Distil, measure, write the executor and the report."""
    import torch

    torch.set_num_threads(1)
    check(options)
    opened = _open(options)
    options = opened.options
    out = out_folder("distill", opened.name, options.out)
    if options.executor != "auto":
        return _run(opened, out)
    from agentkd.cli.distill_auto import run_auto

    if options.resume:
        raise ConfigError("A search does not go on from an earlier one: no --resume.")
    if opened.missing:
        raise ConfigError(f"A search has to measure: {opened.missing}")
    return run_auto(options, opened.task, out, opened.told()[0])


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is distilled.

    Attributes:
        options: With the environment and the planner that a dataset names.
        name: What the run is called: the environment, or the dataset's folder.
        missing: Why nothing can be measured; "" where it can.
        measured: Whether the planner is at hand to be measured.
    """

    task: Any
    options: Options
    name: str
    missing: str
    measured: bool

    def told(self) -> tuple[Sequence[float], Sequence[float]]:
        """Return returns of planner and random actions as the dataset tells them.

        () where it does not, or the planner is measured; for random actions also where the dataset
        has other seeds.
        """
        options, data = self.options, self.task.data
        if data is None or self.measured:
            return (), ()
        about, count = data.about, options.episodes
        if about.eval_seed == options.eval_seed and len(about.random_returns) >= count:
            return about.planner_returns[:count], about.random_returns[:count]
        return about.planner_returns, ()


def _open(options: Options) -> _Opened:
    if options.data is None:
        task = open_task(options.env, reference(options), **opened_as(options))
        return _Opened(task, options, options.env, "", measured=True)
    env, spec, missing = options.env, None, ""
    try:
        env = env or named_by_file(open_dataset(options.data).about.env)
        if not env:
            raise ConfigError("The dataset names no environment.")
        spec = look_at(env)[0]
    except AgentkdError as error:
        missing = str(error)
    data = open_dataset(options.data, options.env, spec)
    about = data.about
    named = reference(options) if options.planner else None
    if spec is None:
        task = open_task(data=data)
    else:
        task = open_task(env, named, data=data, **opened_as(options))
    name = env or Path(options.data).name
    # A Minari dataset's reference is the dataset: no planner goes by that name.
    refs = () if "minari" in about.more else about.refs
    told = replace(options, env=name, planner=options.planner or refs)
    return _Opened(task, told, name, missing, named is not None and not missing)


def _run(opened: _Opened, out: Path) -> int:
    from agentkd.cli import distilled
    from agentkd.distillation.loop import distill, make_distiller

    task, options = opened.task, opened.options
    # Every option is looked at before an earlier run is overwritten.
    contract = distilled.contract(options, task.spec)
    way = collection(options)
    distiller = make_distiller(task, options.executor, learning(options), options.seed)
    sketch = distiller.freeze()
    prepare_out(out, overwrite=options.overwrite, resume=options.resume)
    view = distilled.DistillView(opened.name, task.planner, sketch)
    if task.data is not None:
        labels, episodes = task.data.labels, task.data.episodes
        view.say(f"{labels:,} labels of {episodes:,} episodes in {options.data}")
    if opened.missing:
        view.say(f"Nothing can be measured: {opened.missing}")
    best, floor = opened.told()
    count, seed = options.episodes, options.eval_seed
    if opened.measured:
        view.say(f"Measuring the planner over {count} episodes …")
        best = task.measure(task.planner.policy, count, seed).returns
    if not floor and not opened.missing:
        if best and not opened.measured:
            view.say("The planner's return is that of its recorded episodes.")
        floor = task.measure(None, count, seed).returns
    goals = Goals(mean_interval(best).mean, mean_interval(floor).mean)
    with ctrl_c(patience=2):
        with view.live(goals, _tensorboard(out / "tensorboard")) as watch:
            result = distill(
                task,
                executor=distiller,
                collection=way,
                episodes=0,
                watch=watch,
                checkpoint=out / "checkpoint",
                **{name: getattr(options, name) for name in _HOW},
            )
        if result.interrupted and not result.steps:
            # An executor that learnt nothing does not replace an earlier one.
            raise KeyboardInterrupt
        facts = distilled.provenance(options, task, labels=result.labels)
        if task.data is not None:
            facts["data"] = options.data
        # Written before it is measured: whatever happens now, what was learnt is safe.
        write_bundle(
            out / "executor.akd", result.executor, facts, contract=contract, labels=result.kept
        )
    returns = Returns(tuple(best), tuple(floor), seed)
    ending = distilled.Ending(options, task, out, view, returns, facts, contract)
    return ending.finish(result, measure=not opened.missing)


def _tensorboard(folder: Path) -> Any:
    """Open TensorBoard's log; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
