"""Fine-tuning for integers: training with weights that are rounded.

Training goes on from the weights of the integer form, counted in steps. In the forward pass each is
the nearest whole number, and gradients pass through the rounding as if it were not there (Bengio et
al. 2013, arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877, section 3); each output's step is
trained as well (after Esser et al. 2020, arXiv:1902.08153). The result is an executor in floats
whose weights lie on such steps, so that its integer form has them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from agentkd.deploy.int8.quantise import quantise, rounded
from agentkd.deploy.int8.reference import Quantised
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.terms import parse_terms
from agentkd.distillation.terms.term import Ground, Objective
from agentkd.dists import bounds
from agentkd.errors import ConfigError, SpecError, check_range
from agentkd.executors.executor import Executor
from agentkd.executors.network import Network
from agentkd.spec import BoxSpec
from agentkd.types import ActionDist, Floats, Kind

MOST = 127.0
"""The largest weight in integers."""
_LOOKED_AT = 8192
_CALIBRATED = 2048
_LOOKS = 10
_WHOLE = 0.3, 0.8
"""When, from 0 to 1, the whole numbers are trained too."""
_INSIDE = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How weights are fitted to their integers, with Adam.

    Attributes:
        batch: Labels in each gradient step.
        learning_rate: At the start; it falls along a cosine to nothing.
        seed: For which labels are drawn.
        terms: What is minimised, as `agentkd.distillation.terms` reads it; divergences only.
    """

    steps: int = 2000
    batch: int = 512
    learning_rate: float = 1e-3
    seed: int = 0
    terms: str = "match"

    def __post_init__(self) -> None:
        check_range("steps", self.steps, least=1, whole=True)
        check_range("batch", self.batch, least=1, whole=True)
        check_range("seed", self.seed, least=0, whole=True)
        check_range("learning_rate", self.learning_rate, above=0)


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result.

    Attributes:
        executor: The executor whose integer form is nearest to the planner.
        obs: What that form was calibrated with, (n, obs): `quantise(executor, obs)`.
        before: The divergence of the integer form that there was, over labels.
        after: That of `executor`'s; never larger.
    """

    executor: Executor
    obs: Floats
    before: float
    after: float


Divergence = Callable[[Tensor, Tensor], Tensor]


def divergence_of(executor: Executor, kind: Kind, terms: str = "match") -> Divergence:
    """How far last numbers (n, out) are from labels (n, width) of a kind, a number a row.

    Raises:
        ConfigError: If the terms do not go with the executor or the labels.
    """
    ground = Ground.of(executor, kind, Network(executor))
    base = Objective(parse_terms(terms), ground).base

    def divergence(outputs: Tensor, planner: Tensor) -> Tensor:
        base.observe(planner)
        return base.rows(outputs, planner)

    return divergence


def fit_int8(
    executor: Executor,
    labels: LabelBuffer | tuple[Floats, ActionDist],
    options: FineTuning | None = None,
) -> Fitted:
    """Fine-tune an executor so that its integer form stays near the planner.

    Args:
        executor: The executor, distilled already.
        labels: Those it was distilled from, or observations (n, obs) with the planner's answers.
        options: How.

    Raises:
        SpecError: If it has a memory, or a layer that has no integer form.
        ConfigError: If there are no labels, or they do not go with its actions.
    """
    if executor.memory:
        raise SpecError(
            f"{executor.architecture} has a memory, and labels are single observations: "
            "quantise it as it is."
        )
    if isinstance(labels, LabelBuffer):
        buffer = labels
    else:
        buffer = LabelBuffer()
        buffer.add(*labels)
    if not len(buffer) or buffer.kind is None:
        raise ConfigError("There are no labels to fit the integers to.")
    how = options or FineTuning()
    divergence = divergence_of(executor, buffer.kind, how.terms)
    obs, planner = buffer.all()
    shown = _spread(obs, _CALIBRATED)
    judged = _spread(obs, _LOOKED_AT), torch.from_numpy(_spread(planner, _LOOKED_AT))

    def far(each: Executor) -> float:
        numbers = torch.from_numpy(_numbers(quantise(each, shown), judged[0]))
        return float(divergence(numbers, judged[1]).mean())

    before = far(executor)
    best, least = executor, before
    for candidate in _trained(executor, shown, buffer, divergence, how):
        if np.isfinite(candidate.vector()).all() and (now := far(candidate)) < least:
            best, least = candidate, now
    return Fitted(best, shown, before, least)


@final
class _Steps(nn.Module):
    """A network whose weights are whole numbers of `steps`, (out,) a layer; both are trained.

    The executor's weights are that already.
    """

    def __init__(self, executor: Executor, steps: list[Floats]) -> None:
        super().__init__()
        self.network = Network(executor)
        self._executor = executor
        self.whole, self.biases = nn.ParameterList(), nn.ParameterList()
        self.growth = nn.ParameterList()
        self._steps: list[Tensor] = []
        held = list(self.network.parameters())
        for weight, bias, step in zip(held[::2], held[1::2], steps, strict=True):
            wide = torch.from_numpy(step).reshape(-1, *[1] * (weight.dim() - 1))
            self._steps.append(wide)
            self.whole.append((weight.detach() / wide).round())
            self.growth.append(torch.zeros_like(wide))
            self.biases.append(bias.detach().clone())

    def trained(self) -> list[nn.Parameter]:
        """What is trained: whole numbers, logarithms of steps, biases."""
        return [*self.whole, *self.growth, *self.biases]

    def held(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The network's own parameters for values of `trained`."""
        count = len(self._steps)
        out: list[Tensor] = []
        for index, step in enumerate(self._steps):
            whole, growth, bias = values[index::count]
            out += [nearest(whole) * (step * growth.exp()), bias]
        return out

    def forward(self, obs: Tensor) -> Tensor:
        """The last layer's numbers, (batch, out)."""
        names = (name for name, _ in self.network.named_parameters())
        held = dict(zip(names, self.held(self.trained()), strict=True))
        outputs: Tensor = functional_call(self.network, held, (obs,))
        return outputs

    def freeze(self, values: Sequence[Tensor]) -> Executor:
        """The executor for values of `trained`."""
        return self.network.freeze(self._executor.version, self.held(values))


def _trained(
    executor: Executor, shown: Floats, buffer: LabelBuffer, divergence: Divergence, how: FineTuning
) -> Iterator[Executor]:
    """Train, and give the executor at the end of each tenth.

    First the steps and biases alone, then the whole numbers too, and at last again the steps and
    biases, now of other whole numbers.
    """
    network = _Steps(*rounded(executor, shown))
    random = np.random.default_rng(how.seed)
    trained = network.trained()
    count = len(network.whole)
    adam = torch.optim.Adam([{"params": trained[:count]}, {"params": trained[count:]}])
    for step in range(how.steps):
        passed = step / how.steps
        rate = how.learning_rate * 0.5 * (1 + np.cos(np.pi * passed))
        first, last = _WHOLE
        adam.param_groups[0]["lr"] = rate if first <= passed < last else 0.0
        adam.param_groups[1]["lr"] = rate
        obs, planner = buffer.draw(how.batch, random)
        outputs = network(torch.from_numpy(obs))
        loss = divergence(outputs, torch.from_numpy(planner)).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.step()
        if (step + 1) * _LOOKS // how.steps > step * _LOOKS // how.steps:
            yield network.freeze(list(trained))


def nearest(whole: Tensor) -> Tensor:
    """The nearest number that int8 has; gradients pass where there is one."""
    inside = whole.clamp(-MOST, MOST)
    return inside + (inside.detach().round() - inside.detach())


def _spread(rows: Floats, most: int) -> Floats:
    """At most so many rows, evenly taken."""
    chosen = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
    return np.asarray(rows[chosen], np.float32)


def _numbers(quantised: Quantised, obs: Floats) -> Floats:
    """The last layer's numbers as a divergence takes them: before tanh."""
    outputs = quantised.outputs(obs)
    action = quantised.spec.action
    if quantised.head != "squashed" or not isinstance(action, BoxSpec):
        return outputs
    low, high = bounds(action)
    half = np.where(high > low, (high - low) / 2, np.float32(1.0))
    inside = np.clip((outputs - (high + low) / 2) / half, -_INSIDE, _INSIDE)
    return np.asarray(np.arctanh(inside), np.float32)
