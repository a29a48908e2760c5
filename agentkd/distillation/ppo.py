"""Proximal policy optimisation in many copies of a world that is a model.

Schulman et al. 2017, "Proximal policy optimization algorithms", with advantages of Schulman et al.
2016, "High-dimensional continuous control using generalized advantage estimation". Each tick of all
copies is one call of the world (`Steps`). An episode that ends because it was long enough goes on
in the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from agentkd.errors import PlannerError, check_range
from agentkd.executors.executor import Executor
from agentkd.executors.layers import tensors, with_tensors
from agentkd.executors.network import Network
from agentkd.planners.search.worlds import Doubles, Steps
from agentkd.types import Floats

_LEAST_RATE = 0.05
"""What is left of the learning rate in the end."""
_NORM = 0.5
"""The largest norm of a gradient."""
_LEAST_STD = 1e-2
"""Added to the deviation of an observation, so that one that hardly moves is not blown up."""
_CRITIC_FIRST = 8
"""Updates in which only the value learns, where a trained executor goes on."""


@dataclass(frozen=True, slots=True)
class PpoOptions:
    """How an executor learns by proximal policy optimisation.

    Attributes:
        environments: Copies of the world.
        ticks: Of each between two updates.
        discount: What a reward is worth a tick later.
        trace: λ of the advantages.
        learning_rate: Of the executor at first; it falls to a twentieth along a line.
        value_rate: Of the value.
        epochs: Rounds over what was collected, in an update.
        batch: Observations in one gradient step.
        clip: How far the probability of an action may move in an update.
        spread: The standard deviation of what is tried at first, in halves of the box.
        entropy: What spread is paid.
    """

    environments: int = 64
    ticks: int = 64
    discount: float = 0.95
    trace: float = 0.95
    learning_rate: float = 7e-4
    value_rate: float = 1e-3
    epochs: int = 4
    batch: int = 512
    clip: float = 0.2
    spread: float = 0.25
    entropy: float = 0.0

    def __post_init__(self) -> None:
        for name in ("environments", "ticks", "epochs", "batch"):
            check_range(name, getattr(self, name), least=1, whole=True)
        for name in ("discount", "trace"):
            check_range(name, getattr(self, name), above=0, most=1)
        for name in ("learning_rate", "value_rate", "clip", "spread"):
            check_range(name, getattr(self, name), above=0, below=math.inf)
        check_range("entropy", self.entropy, least=0, below=math.inf)


@final
class Running:
    """Mean and deviation of rows that come in batches (Chan et al. 1983)."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)

    def add(self, rows: Doubles) -> None:
        """Take rows, (n, size)."""
        count = self.count + len(rows)
        apart = rows.mean(axis=0) - self.mean
        self._squares += rows.var(axis=0) * len(rows)
        self._squares += np.square(apart) * self.count * len(rows) / count
        self.mean = self.mean + apart * len(rows) / count
        self.count = count

    @property
    def std(self) -> Doubles:
        """The deviation, (size,)."""
        return np.sqrt(self._squares / max(1, self.count))


@dataclass(frozen=True, slots=True, eq=False)
class _Rounds:
    """What was lived through in a round, tick by tick: (ticks, environments, …)."""

    obs: Floats
    after: Floats
    tried: Doubles
    rewards: Doubles
    over: Any
    ended: Any


@final
class Ppo:
    """An executor and a value that learn in a world.

    Args:
        world: The model.
        executor: What to begin with. A fresh one learns its normaliser, too.
        value: A fresh executor with one unbounded number.
        starts: States in which episodes begin, (n, state).
        length: Ticks of an episode.
        options: How to learn.
        seed: For every draw.

    Attributes:
        ticks: Ticks lived through in the model.
        reward: Mean of the rewards in the last round, with what was tried.
    """

    def __init__(
        self,
        world: Steps,
        executor: Executor,
        value: Executor,
        starts: Doubles,
        length: int,
        options: PpoOptions,
        seed: int,
    ) -> None:
        self.ticks, self.reward = 0, math.nan
        self._options, self._world = options, world
        self._starts, self._length = starts, length
        self._random = np.random.default_rng(seed)
        self._network, self._critic = Network(executor), Network(value)
        self._squashed = executor.head == "squashed"
        self._middle = (world.high + world.low) / 2
        self._half = (world.high - world.low) / 2
        first = torch.full((len(self._half),), math.log(options.spread))
        self._log_std = torch.nn.Parameter(first)
        # A trained executor keeps the scale that its weights are for.
        self._fresh = not executor.mean.any() and bool((executor.scale == 1.0).all())
        self._updates = 0
        self._seen, self._units = Running(len(executor.mean)), Running(1)
        count = options.environments
        self._returns = np.zeros(count)
        self._states = self._begin(count)
        self._ages = self._random.integers(0, length, count)
        numbers = [*self._network.parameters(), self._log_std]
        self._steps = torch.optim.Adam(numbers, lr=options.learning_rate, eps=1e-5)
        own = self._critic.parameters()
        self._value_steps = torch.optim.Adam(own, lr=options.value_rate, eps=1e-5)

    def executor(self) -> Executor:
        """Copy the executor as it is now."""
        return self._network.freeze(0)

    def value(self) -> Executor:
        """Copy the value as it is now, in units of the reward."""
        return _scaled(self._critic.freeze(0), self._unit)

    @property
    def _unit(self) -> float:
        return max(1e-8, float(self._units.std[0]))

    def learn(self, done: float) -> None:
        """Live through a round and learn from it; `done` is the share of the budget, 0 to 1.

        Raises:
            PlannerError: If the model's rewards or observations are not finite.
        """
        lived = self._live()
        flat = lived.obs.reshape(-1, lived.obs.shape[-1])
        if self._fresh:
            # Weights were made for what was seen so far; a later batch hardly moves it.
            self._seen.add(flat.astype(float))
            mean, scale = self._seen.mean, 1 / (self._seen.std + _LEAST_STD)
            self._normalise(mean, scale)
        elif self._updates == 0:
            self._seen.add(flat.astype(float))
            self._normalise(None, None)
        advantages, targets = self._judge(lived)
        self._update(flat, lived.tried.reshape(len(flat), -1), advantages, targets, done)
        self._updates += 1

    def _normalise(self, mean: Any, scale: Any) -> None:
        """Let executor and value see observations in their units."""
        own, critic = self._network, self._critic
        if mean is None:
            critic.mean.copy_(own.mean)
            critic.scale.copy_(own.scale)
            return
        for each in (own, critic):
            each.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
            each.scale.copy_(torch.from_numpy(scale.astype(np.float32)))

    def _begin(self, count: int) -> Doubles:
        """Draw states in which episodes begin."""
        found: Doubles = self._starts[self._random.integers(0, len(self._starts), count)]
        return found

    def _live(self) -> _Rounds:
        """Let all copies live for a round with what the executor does and tries."""
        options, world, executor = self._options, self._world, self.executor()
        std = np.exp(self._log_std.detach().numpy().astype(float))
        found: dict[str, list[Any]] = {name: [] for name in _Rounds.__slots__}
        obs = world.observe(self._states)
        for _ in range(options.ticks):
            mean = self._mean(executor.outputs(obs))
            tried = mean + std * self._random.standard_normal(mean.shape)
            action = self._middle + self._half * np.clip(tried, -1, 1)
            rewards, after, over = world.step(self._states, action)
            seen = world.observe(after)
            self._ages += 1
            ended = over | (self._ages >= self._length)
            for name, value in zip(found, (obs, seen, tried, rewards, over, ended), strict=True):
                found[name].append(value)
            if ended.any():
                after = after.copy()
                after[ended] = self._begin(int(ended.sum()))
                self._ages[ended] = 0
                seen = world.observe(after)
            self._states, obs = after, seen
        lived = _Rounds(**{name: np.stack(each) for name, each in found.items()})
        if not (np.isfinite(lived.rewards).all() and np.isfinite(lived.after).all()):
            raise PlannerError(
                "The model gave NaN or infinity. An executor cannot practise in it: end episodes "
                "before that happens (over=…)."
            )
        self.ticks += lived.rewards.size
        self.reward = float(lived.rewards.mean())
        return lived

    def _mean(self, outputs: Any) -> Any:
        """The executor's action in halves of the box, of its last layer's numbers."""
        if isinstance(outputs, Tensor):
            if self._squashed:
                return torch.tanh(outputs)
            return (outputs - torch.from_numpy(self._middle)) / torch.from_numpy(self._half)
        return np.tanh(outputs) if self._squashed else (outputs - self._middle) / self._half

    def _judge(self, lived: _Rounds) -> tuple[Doubles, Doubles]:
        """Give the advantage of each action, and what each state was worth, (n,) each."""
        options = self._options
        for rewards, ended in zip(lived.rewards, lived.ended, strict=True):
            self._returns = rewards + options.discount * self._returns
            self._units.add(self._returns[:, None])
            self._returns = np.where(ended, 0.0, self._returns)
        rewards = lived.rewards / self._unit
        ticks, count = rewards.shape
        critic = self._critic.freeze(0)
        both = np.concatenate([lived.obs, lived.after]).reshape(2 * ticks * count, -1)
        now, after = critic.outputs(both).reshape(2, ticks, count).astype(float)
        surprise = rewards + options.discount * np.where(lived.over, 0.0, after) - now
        advantages, carried = np.empty_like(rewards), np.zeros(count)
        for tick in range(ticks - 1, -1, -1):
            carried = np.where(lived.ended[tick], 0.0, carried)
            carried = surprise[tick] + options.discount * options.trace * carried
            advantages[tick] = carried
        return advantages.reshape(-1), (advantages + now).reshape(-1)

    def _update(
        self, obs: Floats, tried: Doubles, advantages: Doubles, targets: Doubles, done: float
    ) -> None:
        """Take gradient steps on what was lived through."""
        options = self._options
        with torch.no_grad():
            x = self._network.normalise(torch.from_numpy(obs))
            actions = torch.from_numpy(tried.astype(np.float32))
            before = self._log_probability(x, actions)
        gains = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        gain = torch.from_numpy(gains.astype(np.float32))
        target = torch.from_numpy(targets.astype(np.float32))
        for group in self._steps.param_groups:
            group["lr"] = options.learning_rate * max(_LEAST_RATE, 1 - done)
        acts = self._fresh or self._updates >= _CRITIC_FIRST
        for _ in range(options.epochs):
            order = torch.from_numpy(self._random.permutation(len(obs)))
            for first in range(0, len(obs), options.batch):
                some = order[first : first + options.batch]
                worth = self._critic.from_normalised(x[some])[:, 0]
                _descend(self._value_steps, (worth - target[some]).square().mean())
                if acts:
                    now = self._log_probability(x[some], actions[some])
                    loss = self._loss(now - before[some], gain[some])
                    _descend(self._steps, loss)

    def _log_probability(self, x: Tensor, actions: Tensor) -> Tensor:
        """The logarithm of the density of what was tried, (n,), but for a constant."""
        mean: Tensor = self._mean(self._network.from_normalised(x))
        apart = (actions - mean) / self._log_std.exp()
        return (-0.5 * apart.square() - self._log_std).sum(-1)

    def _loss(self, change: Tensor, gain: Tensor) -> Tensor:
        ratio, clip = change.exp(), self._options.clip
        clipped = ratio.clamp(1 - clip, 1 + clip)
        paid = torch.minimum(ratio * gain, clipped * gain).mean()
        return -paid - self._options.entropy * self._log_std.sum()


def _descend(steps: torch.optim.Optimizer, loss: Tensor) -> None:
    steps.zero_grad()
    loss.backward()
    numbers = [each for group in steps.param_groups for each in group["params"]]
    torch.nn.utils.clip_grad_norm_(numbers, _NORM)
    steps.step()


def _scaled(value: Executor, unit: float) -> Executor:
    """Multiply what an executor of dense layers ends in."""
    last = value.layers[-1]
    grown = (np.asarray(each * unit, np.float32) for each in tensors(last).values())
    return replace(value, layers=(*value.layers[:-1], with_tensors(last, grown)))


def live_from(
    world: Steps, act: Callable[[Floats], Any], starts: Doubles, length: int
) -> tuple[Doubles, Floats]:
    """Let a policy live from each start, (n, state), to the end of an episode.

    Args:
        world: The model.
        act: Gives actions, (n, d), for observations, (n, obs).
        starts: States, (n, state).
        length: Ticks of an episode.

    Returns:
        Rewards, (ticks, n), NaN after an end; observations before each tick, (ticks, n, obs).

    Raises:
        PlannerError: If a reward is not finite.
    """
    states, alive = starts, np.ones(len(starts), bool)
    rewards, seen = [], []
    for _ in range(length):
        obs = world.observe(states)
        got, states, over = world.step(states, np.asarray(act(obs), float))
        if not np.isfinite(got[alive]).all():
            raise PlannerError("The model gave NaN or infinity.")
        rewards.append(np.where(alive, got, np.nan))
        seen.append(obs)
        alive = alive & ~over
        if not alive.any():
            break
    return np.stack(rewards), np.stack(seen)
