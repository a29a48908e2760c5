"""Practice: an executor and a value learn in the model that a planner searches with.

The planner is not asked and gives no labels: its model and its reward are used. Several restarts
begin; the better half of them goes on, until one is left. They are judged by their return in the
model from states set aside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from agentkd import dists, environments
from agentkd.deploy.bundle import write_bundle
from agentkd.deploy.contract import Contract
from agentkd.distillation.ppo import Ppo, PpoOptions, live_from
from agentkd.distillation.task import Task
from agentkd.errors import ConfigError, PlannerError, SpecError, check_range
from agentkd.executors.architecture import initial, parse
from agentkd.executors.executor import Executor
from agentkd.interrupt import ctrl_c
from agentkd.planners.search.guide import EXECUTOR, VALUE, VALUE_BOX
from agentkd.planners.search.worlds import Doubles, Steps
from agentkd.printable import logger
from agentkd.spec import BoxSpec, flatten_one
from agentkd.types import Floats
from agentkd.views import environment

log = logger(__name__)

_ENDLESS = 1000
"""Ticks of an episode where the environment has no end of its own."""
_STARTS, _ASIDE = 256, 16
"""States in which episodes begin, and those set aside to judge executors from."""
_FIRST, _LAST = 0.4, 0.4
"""The share of the budget in which all restarts take part, and in which one is left."""
_LOOKS = 8
"""How often the last one is judged."""


@dataclass(frozen=True, slots=True)
class PracticeOptions:
    """How an executor practises.

    Attributes:
        seconds: How long, or None.
        ticks: How many ticks of the model, or None; the same number gives the same executor.
        restarts: How many begin.
        seed: For weights, starts and every draw.
        threads: Threads that simulate.
        ppo: How each of them learns.
    """

    seconds: float | None = None
    ticks: int | None = None
    restarts: int = 4
    seed: int = 0
    threads: int = 1
    ppo: PpoOptions = field(default_factory=PpoOptions)

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.ticks is None):
            raise ConfigError(
                "Practice ends by seconds or by ticks of the model: give one of both."
            )
        check_range("seconds", self.seconds, above=0, below=math.inf)
        check_range("seed", self.seed, least=0, whole=True)
        for name in ("ticks", "restarts", "threads"):
            check_range(name, getattr(self, name), least=1, whole=True)


@dataclass(frozen=True, slots=True)
class Practised:
    """The best that practice has found so far.

    Attributes:
        executor: The executor.
        value: The discounted return that it expects, an executor with one number.
        returned: Its mean return in the model, from states set aside.
        explained: The share of the variance of discounted returns there that the value explains.
        discount: The value's.
        ticks: Ticks of the model used, all restarts and judgements together.
        seconds: How long it took.
        interrupted: Whether it was ended before its budget.
    """

    executor: Executor
    value: Executor
    returned: float
    explained: float
    discount: float
    ticks: int
    seconds: float
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class PracticeLook:
    """A look at a practice that goes on.

    Attributes:
        done: The share of the budget that is used, 0 to 1.
        ticks: Ticks of the model so far.
        seconds: Seconds so far.
        restart: Which of the restarts learns, from 0.
        left: How many of them are left.
        reward: Its mean reward in the last round, with what it tried.
        returned: The best return so far from the states set aside; NaN before the first.
    """

    done: float
    ticks: int
    seconds: float
    restart: int
    left: int
    reward: float
    returned: float


def practise(
    task: Task,
    executor: str | Path | Executor,
    options: PracticeOptions,
    *,
    watch: Callable[[PracticeLook], None] = lambda _: None,
    keep: Callable[[Practised], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Practised:
    """Let an executor practise in its planner's model.

    Args:
        task: The environment and the planner. The planner's policy has `rollouts`, its model,
            which has the methods of `Steps`.
        executor: An architecture without a memory, or an executor or its file to go on from.
        options: How, and how long.
        watch: Called after each round.
        keep: Called with each best so far, such as to write it.
        stop: Asked now and then; True ends it with the best so far.

    Raises:
        ConfigError: If the executor has a memory.
        SpecError: If planner and environment do not fit practice.
        PlannerError: If the model fails.
    """
    world = world_of(task)
    if options.threads > 1 and hasattr(world, "with_threads"):
        world = world.with_threads(options.threads)
    run = _Practice(task, world, options, watch, keep)
    with ctrl_c(patience=2) as asked:
        return run.run(executor, lambda: asked() or stop())


def world_of(task: Task) -> Any:
    """Return the model that a task's planner searches with.

    Raises:
        SpecError: If it has none in which an executor can practise.
    """
    name, policy = task.planner.name, task.planner.policy
    # A callable of the user's is wrapped.
    world = getattr(getattr(policy, "function", policy), "rollouts", None)
    if world is None:
        raise SpecError(
            f"The planner {name} has no model to practise in: its policy needs an attribute "
            "`rollouts`, as sampling-based control has (policies.mpc:planner)."
        )
    missing = [each for each in ("observe", "step") if not callable(getattr(world, each, None))]
    if missing:
        raise SpecError(
            f"The model of {name} has no {' and no '.join(missing)}; practice needs the methods "
            "of agentkd.planners.search.worlds.Steps."
        )
    box = task.spec.action
    if not isinstance(box, BoxSpec) or len(box.low) != len(world.low):
        raise SpecError(f"The model of {name} has {len(world.low)} joints, not {box}.")
    return world


@final
class _Practice:
    """One practice between its first and its last round."""

    def __init__(
        self,
        task: Task,
        world: Steps,
        options: PracticeOptions,
        watch: Callable[[PracticeLook], None],
        keep: Callable[[Practised], None],
    ) -> None:
        self._task, self._world, self._options = task, world, options
        self._watch, self._keep = watch, keep
        made = environments.make(task.env)
        try:
            told = getattr(getattr(made, "spec", None), "max_episode_steps", None)
            self._length = int(told or _ENDLESS)
            starts = self._states(made, _STARTS + _ASIDE)
        finally:
            made.close()
        self._starts, self._aside = starts[:_STARTS], starts[_STARTS:]
        self._began = time.monotonic()
        self._ticks = 0
        self._best: Practised | None = None
        self._stop: Callable[[], bool] = lambda: False

    def _states(self, made: Any, count: int) -> Doubles:
        """Reset an environment and restore what is observed."""
        found = []
        for index in range(count):
            obs, _ = made.reset(seed=self._options.seed * count + index)
            found.append(self._world.restore(flatten_one(self._task.spec.obs, obs)))
        return np.stack(found).astype(float)

    @property
    def _done(self) -> float:
        """The share of the budget that is used."""
        options = self._options
        if options.ticks is not None:
            return min(1.0, self._ticks / options.ticks)
        assert options.seconds is not None
        return min(1.0, (time.monotonic() - self._began) / options.seconds)

    def run(self, executor: str | Path | Executor, stop: Callable[[], bool]) -> Practised:
        """Learn until the budget is used or `stop` says so."""
        self._stop, broken = stop, False
        try:
            self._learn(executor)
        except PlannerError as error:
            if self._best is None:
                raise
            broken = True
            log.warning("Practice ends early, and the best so far is kept: %s", error)
        if self._best is None:
            raise KeyboardInterrupt
        return replace(
            self._best,
            ticks=self._ticks,
            seconds=time.monotonic() - self._began,
            interrupted=broken or (stop() and self._done < 1),
        )

    def _learn(self, executor: str | Path | Executor) -> None:
        """Let restarts learn, and the better half of them go on."""
        restarts = dict(enumerate(self._restarts(executor)))
        rungs = list(_rungs(len(restarts)))
        # The share of the budget that the one which is left will have had.
        whole = sum(share / left for share, left in rungs)
        had = until = 0.0
        for share, left in rungs:
            scores = {}
            for index, restart in restarts.items():
                until += share / left
                first = self._done

                def progress(first: float = first, had: float = had) -> float:
                    return min(1.0, (had + self._done - first) / whole)

                for _ in self._rounds(restart, index, left, until, progress):
                    if self._ended:
                        break
                scores[index] = self._judge(restart)
                if self._ended:
                    break
            if self._ended:
                break
            had += share / left
            order = sorted(scores, key=lambda index: scores[index], reverse=True)
            restarts = {index: restarts[index] for index in order[: max(1, left // 2)]}

    @property
    def _ended(self) -> bool:
        return self._stop() or self._done >= 1

    def _restarts(self, executor: str | Path | Executor) -> Iterator[Ppo]:
        options, task = self._options, self._task
        for index in range(options.restarts):
            seed = options.seed * options.restarts + index
            own = task.executor(executor, seed)
            if own.memory:
                raise ConfigError(
                    f"{own.architecture} has a memory, which practice does not train. Practise "
                    "with mlp:64,64, then distil."
                )
            if environment(own.spec) != own.spec:
                raise ConfigError(
                    "The executor sees a part of the observation, and practice trains executors "
                    "that see all of it. Practise with mlp:64,64, then distil."
                )
            body = own.architecture if parse(own.architecture).kind == "mlp" else "mlp:64,64"
            value = initial(body, replace(task.spec, action=VALUE_BOX), seed=seed + 1)
            yield Ppo(self._world, own, value, self._starts, self._length, options.ppo, seed)

    def _rounds(
        self, restart: Ppo, index: int, left: int, until: float, progress: Callable[[], float]
    ) -> Iterator[None]:
        """Let a restart learn until a share of the budget is used; judge the last one at times."""
        first = self._done
        looks = [first + (until - first) * (1 + each) / _LOOKS for each in range(_LOOKS - 1)]
        while self._done < until:
            before = restart.ticks
            restart.learn(progress())
            self._ticks += restart.ticks - before
            if left == 1 and looks and self._done >= looks[0]:
                looks.pop(0)
                self._judge(restart)
            best = math.nan if self._best is None else self._best.returned
            seconds = time.monotonic() - self._began
            self._watch(
                PracticeLook(self._done, self._ticks, seconds, index, left, restart.reward, best)
            )
            yield

    def _judge(self, restart: Ppo) -> float:
        """Measure an executor from the states set aside; keep it if it is the best so far."""
        executor, value = restart.executor(), restart.value()
        action = self._task.spec.action

        def act(obs: Floats) -> Floats:
            return np.asarray(dists.mode(executor(obs), action))

        discount = self._options.ppo.discount
        rewards, seen = live_from(self._world, act, self._aside, self._length)
        self._ticks += rewards.size
        returned = float(np.nansum(rewards, axis=0).mean())
        if self._best is None or returned > self._best.returned:
            self._best = Practised(
                executor=executor,
                value=value,
                returned=returned,
                explained=explained_by(value, rewards, seen, discount),
                discount=discount,
                ticks=self._ticks,
                seconds=time.monotonic() - self._began,
            )
            self._keep(self._best)
        return returned


def save(
    folder: Path, best: Practised, facts: Mapping[str, Any], contract: Contract | None = None
) -> None:
    """Write executor and value into a folder, each file whole or not at all.

    Args:
        folder: Where; made if it is missing.
        best: What was found.
        facts: Where it comes from, as JSON values.
        contract: What the executor's numbers mean.

    Raises:
        BundleError: If a file could not be written; one that was there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    explained = best.explained if math.isfinite(best.explained) else 0.0
    told = {**facts, "ticks": best.ticks, "return_in_model": best.returned}
    value = {**told, "value": {"discount": best.discount, "explained": explained}}
    write_bundle(folder / VALUE, best.value, value)
    write_bundle(folder / EXECUTOR, best.executor, told, contract=contract)


def explained_by(value: Executor, rewards: Doubles, seen: Floats, discount: float) -> float:
    """The share of the variance of discounted returns that a value explains, at most 1.

    A constant error does not count: a value that learnt beside what was tried expects less than the
    executor alone gets, and a search compares values only.

    Args:
        value: Predicts them.
        rewards: (ticks, n), NaN after an end.
        seen: Observations before each tick, (ticks, n, obs).
        discount: What a reward is worth a tick later.
    """
    follows = np.nan_to_num(rewards)
    for tick in range(len(rewards) - 2, -1, -1):
        follows[tick] += discount * follows[tick + 1]
    # The last ticks lack what would have followed.
    whole = max(len(rewards) // 2, len(rewards) - math.ceil(4 / max(1e-9, 1 - discount)), 1)
    alive = np.isfinite(rewards[:whole])
    wanted, found = follows[:whole][alive], value.outputs(seen[:whole][alive])[:, 0]
    apart = wanted.var()
    return float(1 - (wanted - found).var() / apart) if apart > 0 else math.nan


def _rungs(restarts: int) -> Iterator[tuple[float, int]]:
    """Give shares of the budget, and by how many restarts each is shared."""
    counts = [restarts]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    if len(counts) == 1:
        yield 1.0, 1
        return
    between = counts[1:-1]
    middle = (1 - _FIRST - _LAST) if between else 0.0
    yield _FIRST + (0 if between else 1 - _FIRST - _LAST), restarts
    for count in between:
        yield middle / len(between), count
    yield _LAST, 1
