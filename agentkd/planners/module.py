"""Any torch module as a planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from agentkd.planners.tensors import distribution
from agentkd.spec import ObsSpec, Spec, unflatten
from agentkd.types import ActionDist, Floats


def is_module(found: Any) -> bool:
    """Whether an object is a torch.nn.Module; torch is not imported for it."""
    return any(
        (base.__module__, base.__qualname__) == ("torch.nn.modules.module", "Module")
        for base in type(found).__mro__
    )


@dataclass(frozen=True, slots=True, eq=False)
class ModulePolicy:
    """A torch module whose answers are read through the action spec. It is a `Policy`.

    It gets the observation as the environment gives it, batched: a tensor, or a
    dictionary or tuple of tensors; numbers as float32, choices as int64. It answers
    with an `ActionDist`, a torch distribution, logits for choices, an action in the
    environment's units for boxes, or a pair (mean, log_std) for boxes.
    """

    module: Any
    spec: Spec

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        import torch

        with torch.inference_mode():
            answer = self.module(_tensors(self.spec.obs, obs))
        if isinstance(answer, get_args(ActionDist)):
            return answer  # type: ignore[no-any-return]
        return distribution(answer, self.spec.action)

    @property
    def parameters(self) -> int:
        """How many trained numbers it has."""
        return sum(each.numel() for each in self.module.parameters())


def _tensors(spec: ObsSpec, obs: Floats) -> Any:
    import torch

    def one(array: Any) -> torch.Tensor:
        whole = np.issubdtype(array.dtype, np.integer) and array.dtype != np.uint8
        kind = torch.int64 if whole else torch.float32
        return torch.as_tensor(np.ascontiguousarray(array)).to(kind)

    if spec.layout == "single" and not spec.parts[0].sizes:
        return torch.from_numpy(obs.reshape(len(obs), *spec.parts[0].shape))
    own = unflatten(spec, obs)
    if isinstance(own, dict):
        return {name: one(array) for name, array in own.items()}
    return tuple(map(one, own)) if isinstance(own, tuple) else one(own)


def from_module(module: Any, spec: Spec) -> ModulePolicy:
    """Make a policy of a torch module, in evaluation mode."""
    module.eval()
    return ModulePolicy(module, spec)
