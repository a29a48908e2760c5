"""Labels a second from one environment to thousands that are stepped at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from agentkd import environments
from agentkd.errors import ConfigError
from agentkd.planners.device import Device, on_device
from agentkd.report.model import Section
from agentkd.types import Floats
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table

_WIDTHS = {"small": (64, 64), "10M": (2236, 2236, 2236)}


class Pendulums(VectorEnv[Any, Any, Any]):
    """Gymnasium's Pendulum-v1 in NumPy, many at once; episodes of 200 ticks begin apart."""

    _angle: Any
    _speed: Any
    _age: Any

    def __init__(self, num_envs: int = 1) -> None:
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": AutoresetMode.SAME_STEP}
        bound = np.array([1.0, 1.0, 8.0], np.float32)
        self.single_observation_space = gym.spaces.Box(-bound, bound)
        self.single_action_space = gym.spaces.Box(-2.0, 2.0, (1,))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _seen(self) -> Floats:
        columns = [np.cos(self._angle), np.sin(self._angle), self._speed]
        return np.stack(columns, axis=1).astype(np.float32)

    def _place(self, which: Any) -> None:
        count = self.num_envs
        self._angle = np.where(which, self._random.uniform(-np.pi, np.pi, count), self._angle)
        self._speed = np.where(which, self._random.uniform(-1, 1, count), self._speed)
        self._age = np.where(which, 0, self._age)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Begin all episodes."""
        del options
        self._random = np.random.default_rng(seed)
        self._angle, self._speed = np.zeros(self.num_envs), np.zeros(self.num_envs)
        self._age = np.zeros(self.num_envs, int)
        self._place(np.ones(self.num_envs, bool))
        self._age = self._random.integers(200, size=self.num_envs)
        return self._seen(), {}

    def step(self, actions: Any) -> Any:
        """Do a step, and begin anew what is 200 ticks old."""
        torque = np.clip(actions[:, 0], -2.0, 2.0)
        angle = (self._angle + np.pi) % (2 * np.pi) - np.pi
        reward = -(angle**2 + 0.1 * self._speed**2 + 0.001 * torque**2)
        self._speed = self._speed + (15.0 * np.sin(self._angle) + 3.0 * torque) * 0.05
        self._speed = np.clip(self._speed, -8.0, 8.0)
        self._angle = self._angle + self._speed * 0.05
        self._age += 1
        over = self._age >= 200
        info: dict[str, Any] = {}
        if over.any():
            info["final_obs"] = self._seen()
            self._place(over)
        return self._seen(), reward, np.zeros(self.num_envs, bool), over, info


def cheetahs(num_envs: int = 1) -> Any:
    """Make Gymnasium's own vector of HalfCheetahs, which steps one after another."""
    # MuJoCo warns once for each, unless ours was made before.
    environments.make("HalfCheetah-v5").close()
    return SyncVectorEnv([lambda: gym.make("HalfCheetah-v5")] * num_envs)


_MAKERS: dict[str, Callable[[int], Any]] = {"pendulums": Pendulums, "cheetahs": cheetahs}


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Measure labels a second over the number of environments, beside the planner's own passes.

    Example: python -m benchmarks crowds --environment pendulums
    """

    environment: str = "pendulums"
    """Pendulums in NumPy, or cheetahs, a SyncVectorEnv of HalfCheetah-v5."""
    counts: tuple[int, ...] = (1, 16, 256, 1024, 4096)
    """How many environments."""
    networks: tuple[str, ...] = tuple(_WIDTHS)
    """Torch modules: small (64, 64) or 10M (three layers of 2,236)."""
    seconds: float = 0.5
    """Of processor time that each of the three is measured for, in turns."""
    rounds: int = 3
    """How often each is measured."""
    device: Device = "cpu"
    """Where the planner answers: cpu, cuda or auto. With cuda real time is measured instead of
    processor time."""


def _rate(work: Callable[[], int], seconds: float, now: Callable[[], float]) -> float:
    done, began = 0, now()
    while now() - began < seconds:
        done += work()
    return done / (now() - began)


def _measure(options: Options, planner: str, count: int) -> Mapping[str, Any]:
    """Measure labels, the planner's passes and steps, each alone, in one thread."""
    import torch
    from torch import nn

    from agentkd.distillation import CollectionOptions, open_task
    from agentkd.distillation.buffer import LabelBuffer
    from agentkd.distillation.sources import LocalSource, longest
    from agentkd.spec import env_spec

    torch.set_num_threads(1)
    make = _MAKERS[options.environment]
    probe = make(count)
    spec = env_spec(probe)
    layers: list[nn.Module] = []
    width, out = spec.obs.size, probe.single_action_space.shape[0]
    torch.manual_seed(0)
    for each in _WIDTHS[planner]:
        layers += [nn.Linear(width, each), nn.ReLU()]
        width = each
    module = nn.Sequential(*layers, nn.Linear(width, out), nn.Tanh())
    task = open_task(make, module)
    ticks = longest(count)
    way = CollectionOptions(environments=count, device=options.device)
    executor = task.executor("mlp:64,64", 0)
    source = LocalSource(task.collector(way, 0), executor, ticks=ticks)
    source.update(executor, 0.1)
    buffer = LabelBuffer()
    obs, _ = probe.reset(seed=0)
    asked = np.tile(obs.astype(np.float32), (ticks, 1))
    actions = probe.action_space.sample()

    def ours() -> int:
        found = source.take()
        for each in found:
            buffer.add(*each)
        return sum(len(each.obs) for each in found)

    policy: Any = on_device(task.planner.policy, options.device, count, spec)

    def passes() -> int:
        policy(asked)
        return len(asked)

    def steps() -> int:
        for _ in range(ticks):
            probe.step(actions)
        return count * ticks

    works = (ours, passes, steps)
    for work in works:
        work()
    now = time.process_time if options.device == "cpu" else time.perf_counter
    rounds = [[_rate(work, options.seconds, now) for work in works] for _ in range(options.rounds)]
    labels, passed, stepped = np.median(rounds, axis=0)
    above = [a / p - 1 for p, a in ((1 / r[1], 1 / r[0]) for r in rounds)]
    both = [(1 / r[0]) / (1 / r[1] + 1 / r[2]) - 1 for r in rounds]
    return {
        "labels": float(labels),
        "passes": float(passed),
        "steps": float(stepped),
        "above": float(np.median(above)),
        "both": float(np.median(both)),
    }


def works(options: Options) -> Iterator[Work]:
    """List the measurements."""
    if options.environment not in _MAKERS:
        raise ConfigError(f"No {options.environment!r}; there are {', '.join(_MAKERS)}.")
    for planner in options.networks:
        if planner not in _WIDTHS:
            raise ConfigError(f"No planner {planner!r}; there are {', '.join(_WIDTHS)}.")
        for count in options.counts:
            key = {"planner": planner, "count": count}
            yield Work(f"{planner} {count}", key, partial(_measure, options, planner, count))


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show rates, and what collecting costs above passes, and above passes and steps."""
    sections = []
    columns = [
        Column("environments", "count", ",.0f"),
        Column("labels a second", "labels", ",.0f"),
        Column("planner alone", "passes", ",.0f"),
        Column("steps alone", "steps", ",.0f"),
        Column("above planner", "above", ".2f"),
        Column("above both", "both", ".2f"),
    ]
    caption = (
        f"Of {'processor' if options.device == 'cpu' else 'real'} time, one thread, planner on "
        f"{options.device}; medians. Above: the share of time on top, 0.2 is 20 %."
    )
    for (planner,), own in grouped(results, "planner").items():
        rows = [dict(each) for each in own]
        title = f"{options.environment}, planner {planner}"
        sections.append(Section(title, "", table(columns, rows, caption)))
    return Findings(sections)


def brief(result: Result) -> str:
    """Give the rate and what collecting costs."""
    return f"{result['labels']:,.0f} labels a second, {result['above']:.2f} above the planner"


BENCHMARK = Benchmark("crowds", works, findings, brief, ("environment", "counts", "networks"))
run = BENCHMARK.run
