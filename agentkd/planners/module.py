"""Any torch module as a planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from agentkd.dists import pack
from agentkd.errors import AgentkdError, PlannerError
from agentkd.planners.sb3.tensors import distribution
from agentkd.spec import BoxSpec, ObsSpec, Spec, unflatten
from agentkd.testing import example_observations
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

    It gets the observation as the environment gives it, batched: a tensor, or a dictionary or tuple
    of tensors; numbers as float32, choices as int64. It answers
    with an `ActionDist`, a torch distribution, logits for choices, an action in the
    environment's units for boxes, or a pair (mean, log_std) for boxes.
    """

    module: Any
    spec: Spec

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        import torch

        self.module.eval()
        with torch.no_grad():
            answer = self.module(_tensors(self.spec.obs, obs))
        if isinstance(self.spec.action, BoxSpec) and _with_memory(self.module, answer):
            raise PlannerError(
                "The module has recurrent layers and answers with a pair, which may be "
                "(mean, log_std) or (output, memory). Return torch's Normal for the "
                f"former. {_REMEDY}"
            )
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
    """Make a policy of a torch module, in evaluation mode.

    Raises:
        PlannerError: If it fails for a single observation, or its answers to the same observation
            differ: it draws random numbers, or has a memory of its own.
        SpecError: If its answers do not fit the actions.
    """
    policy = ModulePolicy(module, spec)
    kept = {name: value.clone() for name, value in module.named_buffers()}
    try:
        _check_answers(policy)
    finally:
        _restore(module, kept)
    return policy


_ORDER = (0, 0, 1, 0, 1, 1, 0, 2, 2, 0, 1, 0)
"""Which observation is asked about in turn: a memory of a few steps shows in it."""
_MEMORIES = ("GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell")
_REMEDY = (
    "For a memory, write a function planner(spec) that returns an object with "
    "initial_state(batch) and a call (obs, state) that returns (distribution, state), "
    "and give module:planner."
)


def _check_answers(policy: ModulePolicy) -> None:
    rows = example_observations(policy.spec.obs, 1 + max(_ORDER))
    try:
        policy(rows[:1])
    except AgentkdError:
        raise
    except Exception:  # An index, say, that the module does not know.
        rows = np.zeros_like(rows)
    first: dict[int, Floats] = {}
    for index in _ORDER:
        try:
            answer = np.array(pack(policy(rows[index : index + 1])))
        except AgentkdError:
            raise
        except Exception as error:  # a stranger's module may raise anything
            raise PlannerError(
                f"The module fails for one observation alone: {error!r}. It has to "
                f"take any number of them, (batch, …), without a memory. {_REMEDY}"
            ) from error
        known = first.setdefault(index, answer)
        if not np.allclose(answer, known, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise PlannerError(
                "The module answers the same observation differently when it is asked "
                "again: it is random, or it has a memory of its own, which would go on "
                f"from one episode to the next. Take the randomness out. {_REMEDY}"
            )


def _restore(module: Any, kept: dict[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for name, value in module.named_buffers():
            if name in kept and value.shape == kept[name].shape:
                value.copy_(kept[name])


def _with_memory(module: Any, answer: Any) -> bool:
    """Whether (output, memory) may be meant where (mean, log_std) would be read."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return False
    names = (getattr(m, "original_name", type(m).__name__) for m in module.modules())
    return any(name in _MEMORIES for name in names)
