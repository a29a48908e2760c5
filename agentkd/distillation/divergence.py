"""How far one choice is from another: functions on tensors, by their formulas.

Each takes the executor's last numbers and the planner's scores, both (batch, n), and gives one
non-negative number a row, (batch,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from agentkd.spec import ActionSpec, MultiDiscreteSpec
from agentkd.types import Kind

_TINY = 1e-6
_HALVINGS = 30


def soft_labels(executor: Tensor, planner: Tensor, temperature: float | Tensor) -> Tensor:
    """τ² KL(softmax(planner/τ) || softmax(executor/τ)): both sides are tempered.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", 2. The factor keeps
    the gradient's size alike over temperatures (2.1).
    """
    return sharpened(executor / temperature, planner, temperature) * temperature**2


def sharpened(executor: Tensor, planner: Tensor, temperature: float | Tensor) -> Tensor:
    """KL(softmax(planner/τ) || softmax(executor)): only the planner is tempered.

    Source: Rusu et al. 2015, "Policy distillation", eq. 3.
    """
    target = functional.log_softmax(planner / temperature, dim=1)
    answer = functional.log_softmax(executor, dim=1)
    return (target.exp() * (target - answer)).sum(1)


def hard_labels(executor: Tensor, planner: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the planner's best choice.

    Args:
        executor: Logits.
        planner: Scores; the best of them is the label.
        smoothing: The share of probability that the label leaves to all alike.
    """
    return functional.cross_entropy(
        executor, planner.argmax(1), reduction="none", label_smoothing=smoothing
    )


def blocks(kind: Kind, action: ActionSpec, scores: Tensor) -> Sequence[Tensor]:
    """Split scores, (batch, width), into one choice after another, (batch, n) each.

    A yes or no is a choice of two, whose logits are 0 and the log-odds of yes.
    """
    if kind == "multicategorical":
        assert isinstance(action, MultiDiscreteSpec)
        return torch.split(scores, list(action.sizes), 1)
    if kind == "bernoulli":
        pairs = torch.stack([torch.zeros_like(scores), scores], 2)
        return pairs.unbind(1)
    return (scores,)


def gap(choices: Sequence[Tensor]) -> Tensor:
    """The median distance between the best two of scores (batch, n): ()."""
    found = []
    for scores in choices:
        best = scores.topk(min(2, scores.shape[1]), dim=1).values
        found.append(best[:, 0] - best[:, -1])
    return torch.cat(found).median().clamp_min(_TINY)


def entropy_share(choices: Sequence[Tensor], temperature: Tensor) -> Tensor:
    """How uncertain softmax(scores/τ) is: the mean entropy over that of chance, ()."""
    entropies, most = [], 0.0
    for scores in choices:
        log = functional.log_softmax(scores / temperature, dim=1)
        entropies.append(-(log.exp() * log).sum(1).mean())
        most += math.log(max(2, scores.shape[1]))
    return torch.stack(entropies).sum() / most


def temperature_for(choices: Sequence[Tensor], share: float) -> Tensor:
    """The temperature at which labels keep so much of chance's entropy: ().

    The entropy rises with the temperature, so that halving an interval finds it, from a thousandth
    of the median gap between the best two to a thousand gaps. Where labels stay more certain or
    less than that, the end of the interval is given.

    Args:
        choices: Scores, (batch, n) each.
        share: Of the entropy, between 0 and 1.
    """
    unit = gap(choices)
    low, high = math.log(1e-3), math.log(1e3)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if entropy_share(choices, unit * math.exp(middle)) < share:
            low = middle
        else:
            high = middle
    return unit * math.exp((low + high) / 2)
