"""`agentkd reinforce`: planner and reward together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar, Literal

from agentkd.cli.options import Learning, open_planned
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.deploy.contract import Contract
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Task
from agentkd.errors import AgentkdError, ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.interrupt import ctrl_c, held
from agentkd.planners import Planner
from agentkd.report.model import Plot, Section, Series
from agentkd.report.returns import levels
from agentkd.report.write import prepare_out

_TICKS = 256
"""Ticks of the planner's driving from which a new executor takes its normaliser."""


@dataclass(frozen=True, kw_only=True)
class Options(Learning):
    """Train an executor by PPO with a planner beside it, and measure what it reached."""

    folder: ClassVar[str] = "reinforce"
    executor: str = "mlp:64,64"
    """An architecture, or an .akd file to go on from: distil first, then reinforce."""
    method: Literal["ppd", "kickstart"] = "ppd"
    """Proximal policy distillation, or kickstarting."""
    weight: str = "1.0"
    """Of the divergence beside the reward; "gap" lets it fall with the distance between the
    executor's return and the planner's, from 1 ("gap:2": from 2)."""
    steps: int = 200_000
    """Environment steps."""
    rollout: int = 128
    """Steps of each between two updates."""
    learning_rate: float = 3e-4
    """Of Adam."""
    epochs: int = 4
    """Rounds over what was collected, in each update."""
    batch: int = 512
    """Observations in one gradient step."""
    gamma: float = 0.99
    """The discount."""
    entropy: float = 0.0
    """What an executor that is undecided is paid."""
    std: float = 0.3
    """Of the first exploration, as a share of half the box."""
    critic_first: int = 0
    """Steps for which only the critic learns, where an executor goes on."""
    seed: int = 0
    """For weights, environments and every draw."""


def run(options: Options) -> int:
    """Measure planner and random actions, train, measure the executor, report."""
    from stable_baselines3.common.logger import Logger

    from agentkd.cli import distilled
    from agentkd.distillation.loop import Distilled
    from agentkd.distillation.prune import dense_layers
    from agentkd.distillation.sb3.from_sb3 import from_sb3

    _check(options)
    out = options.place
    task = open_planned(options)
    if options.executor.endswith(".akd"):
        bundle = read_bundle(options.executor)
        executor = task.executor(bundle.executor, name=options.executor)
        told = bundle.contract
    else:
        executor = _normalised(options, task)
        told = Contract(period=distilled.period_of(options.env))
    # Checked before an earlier run is overwritten.
    dense_layers(executor)
    prepare_out(out, overwrite=options.overwrite)
    view = distilled.distill_view(options.env, task.planner, executor)
    view.say(f"Measuring the planner over {options.episodes} episodes …")
    returns = task.references(options.episodes, options.eval_seed)
    goals = {name: fmean(getattr(returns, name)) for name in ("planner", "random")}
    model = _model(options, task.planner, executor, goals)
    # Without a logger Stable-Baselines3 makes a folder in the temporary folder.
    model.set_logger(Logger(None, []))
    begin = time.monotonic()
    looks: list[tuple[int, float, float]] = []
    fault = ""
    with ctrl_c(patience=2) as asked:
        try:
            callbacks = _callbacks(options, view.say, looks, asked)
            model.learn(options.steps, callback=callbacks)
        except AgentkdError as error:
            if not model._n_updates:
                raise
            fault = f"{type(error).__name__}: {error}"
        finally:
            model.env.close()
        interrupted = asked() or bool(fault)
    if interrupted and not model._n_updates:
        raise KeyboardInterrupt
    result = Distilled(
        executor=replace(from_sb3(model), version=1),
        planner=task.planner,
        labels=model.num_timesteps,
        steps=model._n_updates,
        seconds=time.monotonic() - begin,
        interrupted=interrupted,
        fault=fault,
    )
    how = {"method": options.method, "steps": model.num_timesteps}
    facts = distilled.provenance(options, task, **how)
    # Written before it is measured: whatever happens now, what was learnt is safe.
    with held():
        write_bundle(out / "executor.akd", result.executor, facts, contract=told)
    ending = distilled.Ending(options, task, out, view, returns, facts, told)
    more = {
        "command": "reinforce",
        "method": options.method,
        "weight": options.weight,
        "environment_steps": result.labels,
    }
    return ending.finish(result, more=more, sections=[_section(looks, goals)])


def _check(options: Options) -> None:
    for name in ("steps", "environments", "rollout", "epochs", "batch", "episodes"):
        check_range(name, getattr(options, name), least=1)
    check_range("learning_rate", options.learning_rate, above=0)
    check_range("gamma", options.gamma, above=0, most=1)
    # Refused now, and not after the planner was measured.
    _guide(options, planner=1.0, random=0.0)


def _guide(options: Options, *, planner: float, random: float) -> Any:
    from agentkd.distillation.sb3.guide import Gap, Guide

    name, _, start = options.weight.partition(":")
    try:
        if name == "gap":
            begin = float(start) if start else 1.0
            return Guide(options.method, Gap(planner, random, begin))
        return Guide(options.method, float(options.weight))
    except ValueError:
        raise ConfigError(f"weight is {options.weight!r}; a number, gap, or gap:2.") from None


def _normalised(options: Options, task: Task) -> Executor:
    """Return a new executor with the normaliser of the planner's own states."""
    from agentkd.distillation.distiller import Distiller, DistillerOptions

    executor = task.executor(options.executor, options.seed)
    way = CollectionOptions(environments=options.environments)
    collector = task.collector(way, options.seed)
    distiller = Distiller(executor, DistillerOptions(least=1, seed=options.seed))
    try:
        for _ in range(_TICKS):
            step = collector.step(executor, 1.0)
            distiller.add(step.obs, step.dist)
    finally:
        collector.close()
    distiller.step()
    seen = distiller.freeze()
    return replace(executor, mean=seen.mean, scale=seen.scale)


def _model(options: Options, known: Planner, executor: Executor, goals: Mapping[str, float]) -> Any:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from agentkd import environments
    from agentkd.distillation.sb3.guided_ppo import GuidedPPO
    from agentkd.distillation.sb3.to_sb3 import to_sb3

    def make() -> Any:
        return Monitor(environments.make(options.env, finite=True))

    envs = DummyVecEnv([make] * options.environments)
    envs.seed(options.seed)
    # Rewards of all sizes come to the critic in one; observations are the executor's.
    scaled = VecNormalize(envs, norm_obs=False, gamma=options.gamma)
    return to_sb3(
        executor,
        GuidedPPO,
        scaled,
        planner=known,
        guide=_guide(options, **goals),
        n_steps=options.rollout,
        batch_size=options.batch,
        n_epochs=options.epochs,
        ent_coef=options.entropy,
        **{name: getattr(options, name) for name in ("learning_rate", "gamma", "seed", "std")},
    )


def _callbacks(
    options: Options,
    say: Callable[[str], None],
    looks: list[tuple[int, float, float]],
    asked: Callable[[], bool],
) -> list[Any]:
    from stable_baselines3.common.callbacks import BaseCallback

    from agentkd.distillation.sb3.guide import mean_return
    from agentkd.distillation.sb3.to_sb3 import CriticFirst

    class Watch(BaseCallback):
        """Notes returns after each rollout; ends the training after Ctrl-C."""

        def _on_step(self) -> bool:
            return not asked()

        def _on_rollout_end(self) -> None:
            model: Any = self.model
            now = mean_return(model.ep_info_buffer)
            looks.append((self.num_timesteps, now, model.weight))
            if len(looks) % 10 == 0:
                say(f"{self.num_timesteps:>9,} steps   return {now:,.1f}")

    first = [CriticFirst(options.critic_first)] if options.critic_first else []
    return [Watch(), *first]


def _section(looks: Sequence[tuple[int, float, float]], goals: Mapping[str, float]) -> Section:
    steps = [look[0] for look in looks]
    curve = Plot(
        "Return while it learns",
        "environment steps",
        "return",
        (Series("executor", steps, [look[1] for look in looks]), *levels(steps, goals)),
        "Mean of the last 100 episodes, with its exploration.",
    )
    weights = Plot(
        "Weight of the divergence",
        "environment steps",
        "weight",
        (Series("weight", steps, [look[2] for look in looks]),),
    )
    return Section("How it learnt", "", None, (curve, weights))
