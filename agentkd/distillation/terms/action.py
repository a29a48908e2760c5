"""The planner's action in a box, as an error of the executor's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from agentkd.distillation.terms.term import Divergence, DivergenceTerm, Ground
from agentkd.errors import ConfigError
from agentkd.spec import BoxSpec

_LEAST_STD = 0.05
"""Below this share of the box a planner's spread says nothing more about importance."""
_FLAT = 3.0
"""Beyond it tanh is flat: what the planner says there is not for matching."""


@dataclass(frozen=True, slots=True)
class Action(DivergenceTerm):
    """Squared error of the mean action, for boxes, in halves of the box.

    Attributes:
        compare: The "action" itself; the number before tanh, "pre-tanh"; or the action in units of
            the planner's own spread, "precision": the part of the Gaussians' KL that the means
            have.
        huber: The error from which on it grows linearly; left out, it never does.
    """

    compare: Literal["action", "pre-tanh", "precision"] = "action"
    huber: float | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.huber is not None and not self.huber > 0:
            raise ConfigError(f"huber is {self.huber}; it is an error above 0.")

    def build(self, ground: Ground) -> Divergence:
        """Make the divergence."""
        if not isinstance(ground.action, BoxSpec):
            raise ConfigError(
                f"The term 'action' is for boxes; this planner gives {ground.kind} "
                "distributions. Use 'soft' or 'hard', or 'match', which fits either."
            )
        if self.compare == "pre-tanh" and not (
            ground.kind == "squashed" and ground.head == "squashed"
        ):
            raise ConfigError(
                "compare=pre-tanh needs a planner with squashed Gaussians and an "
                f"executor that ends in tanh; they give {ground.kind} and "
                f"{ground.head}. Use compare=action."
            )
        if self.compare == "precision" and ground.kind != "gaussian":
            raise ConfigError(
                "compare=precision needs a planner with Gaussians in the environment's "
                f"units; this one gives {ground.kind}. Use compare=action."
            )
        return BoxError(self, ground, ground.action)


@final
class BoxError(Divergence):
    """`Action` at work."""

    def __init__(self, term: Action, ground: Ground, box: BoxSpec) -> None:
        """Measure the box."""
        super().__init__()
        self.term = term
        self._units = BoxUnits(ground, box)

    def rows(self, outputs: Tensor, planner: Tensor) -> Tensor:
        """Give the error of each row, (batch,), summed over the dimensions."""
        units = self._units
        mean = planner[:, : units.size]
        if self.term.compare == "pre-tanh":
            apart = outputs - mean.clamp(-_FLAT, _FLAT)
        else:
            apart = units.apart(outputs, planner)
        if self.term.compare == "precision":
            spread = planner[:, units.size :].exp() / units.half
            apart = apart / spread.clamp_min(_LEAST_STD)
        return self._grown(apart).sum(1)

    def _grown(self, apart: Tensor) -> Tensor:
        knee = self.term.huber
        if knee is None:
            return apart.square()
        far = apart.abs()
        return torch.where(far < knee, apart.square(), knee * (2 * far - knee))


@final
class BoxUnits:
    """A box of actions in which each half of a dimension counts 1.

    A dimension without room or without bounds is measured in its own unit.

    Attributes:
        size: How many dimensions.
        half: Half of each, in the environment's units.
    """

    def __init__(self, ground: Ground, box: BoxSpec) -> None:
        """Measure the box."""
        self.size = len(box.low)
        self._low, self._high = torch.tensor(box.low), torch.tensor(box.high)
        room = self._high - self._low
        bounded = room.isfinite()
        one = torch.ones_like(room)
        self.half = torch.where(bounded & (room > 0), room / 2, one)
        self._middle = torch.where(bounded, (self._high + self._low) / 2, 0.0)
        self._kind = ground.kind
        self._squashed = ground.head == "squashed"

    def planner(self, packed: Tensor) -> Tensor:
        """The planner's mean actions, (batch, size), within [-1, 1] if bounded."""
        mean = packed[:, : self.size]
        if self._kind == "squashed":
            return torch.tanh(mean)
        return (mean.clamp(self._low, self._high) - self._middle) / self.half

    def free(self, packed: Tensor) -> Tensor:
        """Where the box does not clip the planner's mean actions, (batch, size)."""
        mean = packed[:, : self.size]
        if self._kind == "squashed":
            return torch.ones_like(mean, dtype=torch.bool)
        return (mean > self._low) & (mean < self._high)

    def executor(self, outputs: Tensor) -> Tensor:
        """The executor's actions, (batch, size), not clipped where it clips."""
        if self._squashed:
            return torch.tanh(outputs)
        return (outputs - self._middle) / self.half

    def apart(self, outputs: Tensor, packed: Tensor) -> Tensor:
        """The executor's actions minus the planner's, (batch, size).

        Nothing, where both want more than the box allows: the clip makes them equal.
        """
        target = self.planner(packed)
        apart = self.executor(outputs) - target
        if self._squashed:
            return apart
        low = (self._low - self._middle) / self.half
        high = (self._high - self._middle) / self.half
        agree = ((target >= high) & (apart > 0)) | ((target <= low) & (apart < 0))
        return torch.where(agree, torch.zeros_like(apart), apart)
