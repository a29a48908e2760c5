"""Sampling-based model-predictive control: MPPI and CEM, warm-started, at any time.

A plan is a few knots between which actions are interpolated linearly. Plans are drawn around a
nominal one, lived through in the model, and the nominal one is moved towards the better ones, again
and again.

* MPPI: every plan counts with exp((R − max R) / (λ std R)), R its return and std R the standard
  deviation of all returns, so that λ has no unit (Williams et al. 2017, "Information theoretic MPC
  for model-based reinforcement learning", algorithm 2).
* CEM: the best tenth count alike, the others not, and the next plans are drawn with the spread of
  those (Rubinstein and Kroese 2004; Pinneri et al. 2020, iCEM, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, final, get_args

import numpy as np

from agentkd.errors import AgentkdError, ConfigError, PlannerError, check_choice, check_range
from agentkd.planners.search.guide import Guide
from agentkd.planners.search.worlds import Doubles, Rollouts
from agentkd.types import Floats, Gaussian

Method = Literal["mppi", "cem"]
_LEAST_SPREAD = 0.02
"""The smallest spread, in halves of the box, that plans are drawn and answered with."""


@dataclass(frozen=True, slots=True)
class MpcOptions:
    """How sampling-based control thinks.

    Attributes:
        method: "mppi" or "cem".
        ticks: How far a plan looks ahead.
        knots: How many it has, at most as many as ticks.
        horizon: How many ticks it answers for, from the observed one on.
        samples: Plans in an iteration.
        iterations: How often the nominal plan is moved; each time it could answer.
        spread: The standard deviation of what is drawn, in halves of the box.
        temperature: λ of MPPI.
        elites: The share of plans that count, of CEM.
        discount: What a reward is worth a tick later; with a guide's value, the value's is used.
        remembered: How many plans are kept to start from; 0 to start from rest.
        answer: "best": the best plan that was lived through; "mean": the mean of those that count,
            where it is better than what the iteration began with. The mean depends less on what
            happened to be drawn, so that more of it can be learnt.
        seed: For what is drawn.
    """

    method: Method = "mppi"
    ticks: int = 25
    knots: int = 8
    horizon: int = 1
    samples: int = 64
    iterations: int = 3
    spread: float = 0.5
    temperature: float = 0.1
    elites: float = 0.1
    discount: float = 1.0
    remembered: int = 64
    answer: Literal["best", "mean"] = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(Method))
        check_choice("answer", self.answer, ("best", "mean"))
        for name in ("ticks", "iterations"):
            check_range(name, getattr(self, name), least=1, whole=True)
        check_range("samples", self.samples, least=2, whole=True)
        for name in ("remembered", "seed"):
            check_range(name, getattr(self, name), least=0, whole=True)
        for name in ("knots", "horizon"):
            check_range(name, getattr(self, name), least=1, whole=True)
            if getattr(self, name) > self.ticks:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; a plan has {self.ticks} ticks."
                )
        for name in ("spread", "temperature"):
            check_range(name, getattr(self, name), above=0, below=math.inf)
        for name in ("elites", "discount"):
            check_range(name, getattr(self, name), above=0, most=1)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A plan that was lived through in the model: knots (knots, d), and their return.

    The plans that count lie `spread` apart, (knots, d); `states` is what the model says it leads
    through, (ticks, state).
    """

    knots: Doubles
    value: float
    spread: Doubles
    states: Doubles


def weigh(returns: Doubles, temperature: float) -> Doubles:
    """How much each plan counts in MPPI, (n,), adding up to 1; −∞ counts nothing."""
    finite = np.isfinite(returns)
    unit = returns[finite].std() if finite.any() else 0.0
    above = np.where(finite, returns, -np.inf) - returns[finite].max(initial=-np.inf)
    weights = np.exp(above / max(temperature * unit, 1e-12))
    return np.asarray(weights / weights.sum())


def choose(returns: Doubles, elites: float) -> Doubles:
    """How much each plan counts in CEM, (n,): the best share alike, the others not."""
    count = max(2, round(elites * len(returns)))
    best = np.argsort(-returns, kind="stable")[:count]
    weights = np.zeros(len(returns))
    weights[best] = np.isfinite(returns[best])
    return np.asarray(weights / weights.sum())


@final
class SamplingControl:
    """Answers with the best plan that it found and how sure it is. It is a `Policy`.

    The mean is the plan's action, the deviation that of the plans that count: where it does not
    matter what is done, they lie far apart.

    It remembers its last plans and the states they lead through. The remembered state that is
    nearest to what is observed says which plan to go on with, and from where in it. That may be any
    number of ticks later, and a plan that was not followed is not near. If doing nothing is better,
    it starts from that. So the same question may be answered better the second time; with
    `remembered=0` it is answered the same.

    A `guide` proposes a plan too: what an executor does in the model. It is taken where it is
    better than the old one. And the guide says what the end of a plan is worth, so that it may be
    short. The world then has to be `Steps`.

    Attributes:
        rollouts: The world, in which an executor can practise.
    """

    def __init__(
        self, rollouts: Rollouts, options: MpcOptions | None = None, guide: Guide | None = None
    ) -> None:
        self.options = chosen = options or MpcOptions()
        self.rollouts = rollouts
        self._guide = guide
        self._middle = (rollouts.high + rollouts.low) / 2
        self._half = (rollouts.high - rollouts.low) / 2
        self._between = _interpolation(chosen.ticks, chosen.knots)
        self._fit = np.linalg.pinv(self._between)
        valued = guide is not None and guide.value is not None
        discount = guide.discount if guide is not None and valued else chosen.discount
        self._discounts = discount ** np.arange(chosen.ticks)
        self._random = np.random.default_rng(chosen.seed)
        self._plans: list[tuple[Doubles, Doubles]] = []

    @property
    def horizon(self) -> int:
        """How many rows it answers an observation with."""
        return self.options.horizon

    def at(self, horizon: int) -> SamplingControl:
        """The same control with plans of its own, for another number of ticks."""
        return SamplingControl(self.rollouts, replace(self.options, horizon=horizon), self._guide)

    def __call__(self, obs: Floats, /) -> Gaussian:
        """Give `horizon` rows for each of the observations (batch, obs)."""
        answers = [self._answer(list(self.plans(each[None]))[-1]) for each in obs]
        return Gaussian(
            np.concatenate([answer.mean for answer in answers]),
            np.concatenate([answer.log_std for answer in answers]),
        )

    def improve(self, obs: Floats, /) -> Iterator[Gaussian]:
        """Give `horizon` rows after each iteration, for one observation (1, obs).

        By the model, each answer is at least as good as the last.
        """
        return map(self._answer, self.plans(obs))

    def plans(self, obs: Floats, /) -> Iterator[Plan]:
        """Give the best plan after each iteration, for one observation (1, obs).

        Raises:
            PlannerError: If the world's answers are not finite numbers of the right shape.
        """
        options, best = self.options, None
        if not options.remembered:
            self._random = np.random.default_rng(options.seed)
        try:
            state = self.rollouts.restore(obs[0])
            best = self._begin(state)
            spread = np.full_like(best.knots, options.spread)
            for _ in range(options.iterations):
                best, spread = self._improved(state, best, spread)
                yield best
        except AgentkdError:
            raise
        except Exception as error:
            raise PlannerError(
                f"The model failed for an observation of {obs[0].shape}: "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            if best is not None:
                self._remember(state, best)

    def _begin(self, state: Doubles) -> Plan:
        """The plan to start from: rest, what is left of the nearest old plan, or the guide's."""
        size = self.options.knots, len(self._middle)
        starts = [np.clip(-self._middle / self._half, -1, 1) * np.ones(size)]
        old = self._nearest(state)
        if old is not None:
            starts.append(old)
        if self._guide is not None:
            world: Any = self.rollouts
            proposed = self._guide.propose(world, state, self.options.ticks)
            starts.append(self._fit @ ((proposed - self._middle) / self._half))
        return self._lived(state, np.stack(starts))

    def _lived(self, state: Doubles, knots: Doubles) -> Plan:
        """Live through plans (n, knots, d) and give the best."""
        returns, states = self._live(state, knots)
        index = int(np.argmax(returns))
        spread = np.full(knots.shape[1:], self.options.spread)
        return Plan(knots[index], float(returns[index]), spread, states[index])

    def _live(self, state: Doubles, knots: Doubles) -> tuple[Doubles, Doubles]:
        actions = self._middle + self._half * np.clip(self._between @ knots, -1, 1)
        world: Any = self.rollouts
        if self._guide is None:
            rewards, states = world.roll(state, actions)
        else:
            rewards, states = self._guide.live(world, state, actions)
        returns = rewards @ self._discounts
        finite = np.isfinite(returns) & np.isfinite(states).all(axis=(1, 2))
        return np.where(finite, returns, -np.inf), states

    def _improved(self, state: Doubles, best: Plan, spread: Doubles) -> tuple[Plan, Doubles]:
        options = self.options
        noise = self._random.standard_normal((options.samples, *best.knots.shape))
        knots = np.clip(best.knots + spread * noise, -1, 1)
        returns, states = self._live(state, knots)
        knots = np.concatenate([knots, best.knots[None]])
        values = np.append(returns, best.value)
        if not np.isfinite(values).any():
            raise PlannerError("Every future that was tried ends in NaN or infinity.")
        if options.method == "mppi":
            weights = weigh(values, options.temperature)
        else:
            weights = choose(values, options.elites)
        mean = np.tensordot(weights, knots, 1)
        apart = np.sqrt(np.tensordot(weights, np.square(knots - mean), 1))
        apart = np.maximum(apart, _LEAST_SPREAD)
        # The mean of good plans need not be one: it is lived through as well.
        moved = self._lived(state, mean[None])
        index = int(np.argmax(returns))
        found = Plan(knots[index], float(returns[index]), apart, states[index])
        plans = [replace(best, spread=apart), replace(moved, spread=apart)]
        if options.answer == "best":
            plans.insert(1, found)
        best = max(plans, key=lambda plan: plan.value)
        return best, (apart if options.method == "cem" else spread)

    def _answer(self, plan: Plan) -> Gaussian:
        rows = self._between[: self.options.horizon]
        mean = self._middle + self._half * np.clip(rows @ plan.knots, -1, 1)
        # Knots are drawn each for itself, so variances add.
        std = self._half * np.sqrt(np.square(rows) @ np.square(plan.spread))
        return Gaussian(mean.astype(np.float32), np.log(std).astype(np.float32))

    def _remember(self, state: Doubles, plan: Plan) -> None:
        if not self.options.remembered or not math.isfinite(plan.value):
            return
        through = np.concatenate([state[None], plan.states[:-1]])
        actions = np.clip(self._between @ plan.knots, -1, 1)
        self._plans.append((self.rollouts.features(through), actions))
        del self._plans[: -self.options.remembered]

    def _nearest(self, state: Doubles) -> Doubles | None:
        """What is left of the old plan that leads nearest by a state, (knots, d)."""
        if not self._plans:
            return None
        places = np.stack([through for through, _ in self._plans])
        unit = places.std(axis=(0, 1)) + 1e-6
        apart = np.square((places - self.rollouts.features(state)) / unit).sum(axis=2)
        # Of equally near ones the newest.
        index, tick = np.unravel_index(np.argmin(apart[::-1]), apart.shape)
        actions = self._plans[len(self._plans) - 1 - int(index)][1]
        left = actions[int(tick) :]
        padded = np.concatenate([left, np.repeat(left[-1:], len(actions), 0)])
        knots: Doubles = self._fit @ padded[: len(actions)]
        return np.clip(knots, -1, 1)


def _interpolation(ticks: int, knots: int) -> Doubles:
    """How much each knot counts at each tick, (ticks, knots); rows add up to 1."""
    if knots == 1:
        return np.ones((ticks, 1))
    places = np.linspace(0, knots - 1, ticks)
    lower = np.minimum(places.astype(int), knots - 2)
    share = places - lower
    between = np.zeros((ticks, knots))
    between[np.arange(ticks), lower] = 1 - share
    between[np.arange(ticks), lower + 1] = share
    return between
