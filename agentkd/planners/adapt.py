"""Any Python object as a planner: models, modules, callables, black boxes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agentkd.dists import check, pack
from agentkd.errors import (
    AgentkdError,
    ConfigError,
    NumbersError,
    PlannerError,
    RefError,
    SpecError,
)
from agentkd.executors.executor import Executor
from agentkd.planners.actions import from_actions
from agentkd.planners.planner import Planner
from agentkd.planners.sb3.policy import is_model
from agentkd.spec import BoxSpec, ObsSpec, Spec, unflatten
from agentkd.testing import example_observations
from agentkd.types import ActionDist, Floats, Guidance
from agentkd.views import environment

if TYPE_CHECKING:
    from agentkd.planners.sb3.vecnormalize import Statistics


def parameters_of(function: Any) -> tuple[str, ...] | None:
    """Name a callable's parameters; None where Python does not know them."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None


_MASKS = re.compile(r"mask|(valid|legal|available)_(actions|moves)")
"""How parameters are named that say which actions are allowed."""
_STATES = re.compile(r"state|hidden|memory")
"""How parameters are named for what is remembered."""


@dataclass(frozen=True, slots=True, eq=False)
class BlackBox:
    """An object with only `predict`, which takes what the environment gives, batched.

    It is a `Policy`. `predict` gives actions, or a pair whose first item is the actions; it is
    called with `deterministic=True` if it has such a parameter. Choices are smoothed.
    """

    predict: Any
    spec: Spec

    def __post_init__(self) -> None:
        """Refuse a `predict` that takes action masks."""
        known = parameters_of(self.predict) or ()
        masks = [name for name in known if _MASKS.search(name)]
        if "state" in known and "mask" in masks:
            masks.remove("mask")  # says where episodes begin, as in SB3 before 1.5
        if masks:
            raise SpecError(
                f"predict takes {masks[0]}, and a planner gets only observations. "
                "Write a function planner(spec) whose object finds the masks from the "
                "observations, and give module:planner."
            )

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        known = parameters_of(self.predict) or ()
        options = {"deterministic": True} if "deterministic" in known else {}
        answer = self.predict(unflatten(self.spec.obs, obs), **options)
        if isinstance(answer, tuple):
            remembers = any(_STATES.search(name) for name in known)
            if remembers and len(answer) > 1 and answer[1] is not None:
                raise PlannerError(
                    "predict answers with a state: it has a memory, which would be "
                    "lost. Write a function planner(spec) that returns an object with "
                    "initial_state(batch) and a call (obs, state) that returns "
                    "(distribution, state), and give module:planner."
                )
            answer = answer[0]
        try:
            return from_actions(answer, len(obs), self.spec.action)
        except SpecError as error:
            raise PlannerError(f"predict answered garbage: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class FunctionPolicy:
    """A callable that takes flat observations (batch, size). It is a `Policy`.

    It answers with an `ActionDist`, or with an array of actions in the environment's units, of
    which choices are smoothed; with a `horizon`, each observation with as many rows.
    """

    function: Callable[[Floats], Any]
    spec: Spec

    @property
    def horizon(self) -> int:
        """How many rows it answers an observation with."""
        return int(getattr(self.function, "horizon", 1))

    @property
    def goals(self) -> Any:
        """What its goals look like (`agentkd.runtime.Goals`), None where it gives none."""
        return getattr(self.function, "goals", None)

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give `horizon` rows for each of the flat observations (batch, size)."""
        answer = self.function(obs)
        if isinstance(answer, Guidance):
            # Rows, goals and expectations are checked where they are used.
            return answer  # type: ignore[return-value]
        rows = len(obs) * self.horizon
        try:
            if not isinstance(answer, ActionDist):
                answer = from_actions(answer, rows, self.spec.action)
            check(answer, self.spec.action, rows)
        except (SpecError, NumbersError, TypeError, ValueError) as error:
            raise PlannerError(f"The callable answered garbage: {error}") from error
        return answer


def is_factory(found: Any) -> bool:
    """Whether a callable makes a planner: its first parameter is named `spec`."""
    return (parameters_of(found) or ())[:1] == ("spec",)


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

        from agentkd.planners.sb3.tensors import distribution

        self.module.eval()
        with torch.no_grad():
            answer = self.module(_tensors(self.spec.obs, obs, self.device))
        if isinstance(self.spec.action, BoxSpec) and _with_memory(self.module, answer):
            raise PlannerError(
                "The module has recurrent layers and answers with a pair, which may be "
                "(mean, log_std) or (output, memory). Return torch's Normal for the "
                f"former. {_REMEDY}"
            )
        if isinstance(answer, ActionDist):
            return answer
        return distribution(answer, self.spec.action)

    @property
    def device(self) -> Any:
        """Where its weights are, and observations go: a torch.device; None without weights."""
        return getattr(next(iter(self.module.parameters()), None), "device", None)

    @property
    def parameters(self) -> int:
        """How many trained numbers it has."""
        return sum(each.numel() for each in self.module.parameters())


def _tensors(spec: ObsSpec, obs: Floats, device: Any) -> Any:
    import torch

    def one(array: Any) -> torch.Tensor:
        whole = np.issubdtype(array.dtype, np.integer) and array.dtype != np.uint8
        kind = torch.int64 if whole else torch.float32
        return torch.as_tensor(np.ascontiguousarray(array)).to(device, kind)

    if spec.layout == "single" and not spec.parts[0].sizes:
        return torch.from_numpy(obs.reshape(len(obs), *spec.parts[0].shape)).to(device)
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


def from_object(
    found: Any, ref: str, spec: Spec | None = None, *, statistics: Statistics | None = None
) -> Planner:
    """Make a planner of an object.

    Args:
        found: A `Planner`, an SB3 model or policy, a torch module, a policy with or without memory,
            a callable, an object with `predict`; or a function or class whose first parameter is
            named `spec`, which is called with it and gives one of these.
        ref: Where it comes from, for messages and the planner's name.
        spec: The environment; only SB3 models and planners do without.
        statistics: VecNormalize statistics, for SB3 models.

    Raises:
        RefError: If it is nothing that can act.
        ConfigError: If there is no `spec` where one is needed, or statistics where none can be
            used.
        SpecError: If the planner is for another environment.
    """
    if isinstance(found, Planner):
        return found
    # A policy that torch.compile wrapped is a policy still.
    model = getattr(found, "_orig_mod", found) if is_module(found) else found
    if is_model(model):
        from agentkd.planners.sb3.live import from_model

        return from_model(model, spec, statistics)
    if statistics is not None:
        raise ConfigError(
            f"{ref} is not an SB3 model: VecNormalize statistics cannot be used with "
            "it. Normalise inside it."
        )
    if isinstance(found, Executor):
        name = f"executor {found.architecture}"
        return Planner(found, environment(found.spec), name, found.parameters, "")
    if spec is None:
        raise ConfigError(f"{ref} does not tell its environment; give a spec.")
    if callable(found) and is_factory(found):
        return from_object(found(spec), ref, spec)
    if is_module(found):
        module = from_module(found, spec)
        return Planner(module, spec, f"module {ref}", module.parameters, "")
    if isinstance(found, type):
        raise RefError(
            f"{ref} is the class {found.__name__}. Name an instance, or let its first "
            "parameter be `spec`, with which it is called."
        )
    if hasattr(found, "initial_state") and callable(found):
        return Planner(found, spec, f"policy {ref}", 0, "")
    if callable(found):
        return Planner(FunctionPolicy(found, spec), spec, f"callable {ref}", 0, "")
    if callable(getattr(found, "predict", None)):
        box = BlackBox(found.predict, spec)
        return Planner(box, spec, f"black box {ref}", 0, "")
    raise RefError(
        f"{ref} is a {type(found).__name__}, which cannot act. Give an SB3 model, a "
        "torch module, a callable, an object with `predict`, or a function whose first "
        "parameter is named `spec` and which gives one of these."
    )
