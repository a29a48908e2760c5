"""`agentkd distill`: from a planner, or from its labels, to an executor file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from agentkd.cli.distill_options import Options, check, collection, learning
from agentkd.cli.options import access, reference
from agentkd.deploy.bundle import write_bundle
from agentkd.distillation.offline import open_dataset
from agentkd.distillation.task import Returns, Task, open_task
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
    task, options, missing = _open(options)
    out = options.place
    if options.executor != "auto":
        return _run(task, options, missing, out)
    from agentkd.cli.distill_auto import run_auto

    if options.resume:
        raise ConfigError("A search does not go on from an earlier one: no --resume.")
    if missing:
        raise ConfigError(f"A search has to measure: {missing}")
    return run_auto(options, task, out, _told(task, options).planner)


def _open(options: Options) -> tuple[Task, Options, str]:
    """Open what is distilled.

    Returns:
        The task, which has references if its planner can be measured; the options, with the
        environment (or else the dataset's folder) and the planner that a dataset names; and why
        nothing can be measured, "" where it can.
    """
    if options.data is None:
        sees = options.executor_sees
        task = open_task(
            options.env, reference(options), executor_sees=sees, **access(options.saves)
        )
        return task, options, ""
    env, spec, missing = options.env, None, ""
    try:
        env = env or named_by_file(open_dataset(options.data).about.env)
        if not env:
            raise ConfigError("The dataset names no environment.")
        spec = look_at(env)[0]
    except AgentkdError as error:
        missing = str(error)
    data = open_dataset(options.data, options.env, spec)
    if spec is None:
        task = open_task(data=data, executor_sees=options.executor_sees)
    else:
        named = reference(options) if options.planner else None
        sees = options.executor_sees
        task = open_task(env, named, data=data, executor_sees=sees, **access(options.saves))
    # A Minari dataset's reference is the dataset: no planner goes by that name.
    refs = () if "minari" in data.about.more else data.about.refs
    env = env or Path(options.data).name
    return task, replace(options, env=env, planner=options.planner or refs), missing


def _told(task: Task, options: Options) -> Returns:
    """Return returns of planner and random actions as the dataset tells them.

    () where it does not, or the planner is measured; for random actions also where the dataset has
    other seeds.
    """
    seed, count = options.eval_seed, options.episodes
    if task.data is None or task.refs:
        return Returns((), (), seed)
    about = task.data.about
    if about.eval_seed == seed and len(about.random_returns) >= count:
        return Returns(about.planner_returns[:count], about.random_returns[:count], seed)
    return Returns(about.planner_returns, (), seed)


def _run(task: Task, options: Options, missing: str, out: Path) -> int:
    from agentkd.cli import distilled
    from agentkd.distillation.loop import make_distiller, run_distillation

    # Every option is looked at before an earlier run is overwritten.
    way = collection(options)
    distiller = make_distiller(task, options.executor, learning(options), options.seed)
    sketch = distiller.freeze()
    contract = distilled.contract(options, sketch.spec)
    prepare_out(out, overwrite=options.overwrite, resume=options.resume)
    view = distilled.distill_view(options.env, task.planner, sketch)
    if task.data is not None:
        labels, episodes = task.data.labels, task.data.episodes
        view.say(f"{labels:,} labels of {episodes:,} episodes in {options.data}")
    if missing:
        view.say(f"Nothing can be measured: {missing}")
    returns, count = _told(task, options), options.episodes
    if task.refs:
        view.say(f"Measuring the planner over {count} episodes …")
        returns = task.references(count, returns.seed)
    elif not returns.random and not missing:
        if returns.planner:
            view.say("The planner's return is that of its recorded episodes.")
        returns = replace(returns, random=task.measure(None, count, returns.seed).returns)
    goals = Goals(mean_interval(returns.planner).mean, mean_interval(returns.random).mean)
    with ctrl_c(patience=2):
        with distilled.live(view, goals, _tensorboard(out / "tensorboard")) as watch:
            result = run_distillation(
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
    ending = distilled.Ending(options, task, out, view, returns, facts, contract)
    return ending.finish(result, measure=not missing)


def _tensorboard(folder: Path) -> Any:
    """Open TensorBoard's log; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
