"""An executor with its weights fixed: everything that it does, in NumPy alone.

The normaliser, the clipping, the squashing and the scaling are inside. This is the reference that
native C, ONNX and firmware are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, final

import numpy as np

from agentkd import dists
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.layers import (
    MOST_WORK,
    Gru,
    Layer,
    Lstm,
    advance,
    apply,
    memory,
    sizes,
    tensors,
    with_tensors,
    work,
)
from agentkd.sizes import is_whole
from agentkd.spec import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, Spec
from agentkd.types import (
    ActionDist,
    Actions,
    Bernoulli,
    Categorical,
    Floats,
    MultiCategorical,
    Point,
    Policy,
    RecurrentPolicy,
    State,
)

NOT_FINITE = "The observation holds NaN or infinity, or the executor's numbers overflow for it."
"""Why an executor decides nothing."""
MOST_LAYERS = 64
"""Layers that an executor may have."""
MOST_PARAMETERS = 1 << 26
"""Trained numbers that an executor may have: 256 MiB."""

Head = Literal["categorical", "multicategorical", "bernoulli", "squashed", "clipped"]


def head_for(spec: Spec, *, squashed: bool = True) -> Head:
    """Choose the head that fits the actions.

    Args:
        spec: The environment.
        squashed: For bounded boxes, end in tanh rather than in a clip.
    """
    match spec.action:
        case DiscreteSpec():
            return "categorical"
        case MultiDiscreteSpec():
            return "multicategorical"
        case MultiBinarySpec():
            return "bernoulli"
        case BoxSpec() as box:
            return "squashed" if squashed and box.bounded else "clipped"


@dataclass(frozen=True, slots=True, eq=False)
class Executor:
    """An executor whose weights are fixed. Without a memory it is a `Policy`.

    With one, `policy` is a `RecurrentPolicy`; an episode begins with zeros.

    Attributes:
        architecture: What it was made from, such as "mlp:64,64".
        spec: The environment it is for.
        mean: Subtracted from each observation, shape (obs,).
        scale: Multiplies the difference, shape (obs,).
        clip: The normalised observation stays within [-clip, clip].
        layers: The network, first to last.
        head: How the last layer's numbers become an action.
        version: Counts the swaps that led to it.
    """

    architecture: str
    spec: Spec
    mean: Floats
    scale: Floats
    clip: float
    layers: tuple[Layer, ...]
    head: Head
    version: int = 0

    def __post_init__(self) -> None:
        """Validate the fields; shapes have to follow one another."""
        self._check_numbers()
        size = self.spec.obs.size
        for index, layer in enumerate(self.layers):
            inputs, out = sizes(layer)
            if inputs != size:
                raise SpecError(f"Layer {index} takes {inputs} numbers and gets {size}.")
            size = out
        if self.work > MOST_WORK or self.parameters > MOST_PARAMETERS:
            raise SpecError(
                f"An executor of {self.parameters:,} parameters and {self.work:,} "
                f"multiplications; at most {MOST_PARAMETERS:,} and {MOST_WORK:,}."
            )
        if size != dists.action_size(self.spec.action):
            raise SpecError(
                f"The last layer gives {size} numbers; {self.spec.action} needs "
                f"{dists.action_size(self.spec.action)}."
            )

    def _check_numbers(self) -> None:
        size = self.spec.obs.size
        for name, each in (("mean", self.mean), ("scale", self.scale)):
            if each.shape != (size,) or each.dtype != np.float32:
                raise SpecError(
                    f"The normaliser's {name} is {each.dtype} of shape {each.shape}; "
                    f"observations have {size} numbers, float32."
                )
        if not 0 < self.clip <= float(np.finfo(np.float32).max):
            raise SpecError(f"clip is {self.clip}; a finite float32 above 0 is needed.")
        if not is_whole(self.version, 0, 2**63 - 1):
            raise SpecError(f"version is {self.version!r:.40}, not a whole number.")
        if not 1 <= len(self.layers) <= MOST_LAYERS:
            raise SpecError(f"An executor of {len(self.layers)} layers; not 1 to {MOST_LAYERS}.")
        if self.head not in (head_for(self.spec), head_for(self.spec, squashed=False)):
            raise SpecError(
                f"The head {self.head!r} does not fit {type(self.spec.action).__name__}"
                " with these bounds."
            )

    @property
    def work(self) -> int:
        """How many multiplications one observation takes."""
        return sum(map(work, self.layers))

    @property
    def executor(self) -> Executor:
        """Itself: it is the reference form of what it is."""
        return self

    @property
    def parameters(self) -> int:
        """How many trained numbers act: weights and biases, not the normaliser."""
        return sum(each.size for layer in self.layers for each in _arrays(layer))

    @property
    def out(self) -> int:
        """How many numbers the last layer gives."""
        return dists.action_size(self.spec.action)

    @property
    def memory(self) -> int:
        """How many numbers it remembers from tick to tick; 0 for most."""
        return sum(memory(layer) for layer in self.layers)

    @property
    def policy(self) -> Policy | RecurrentPolicy:
        """What answers batches: itself, or with a memory a `RecurrentPolicy`."""
        return RecurrentExecutor(self) if self.memory else self

    def outputs(self, obs: Floats) -> Floats:
        """The last layer's numbers for observations (batch, obs): (batch, out).

        Raises:
            SpecError: If it has a memory, which `advance` wants to be given.
        """
        if self.memory:
            raise SpecError(
                f"{self.architecture} has a memory of {self.memory} numbers: use "
                "`policy`, or `advance` with the memory."
            )
        return self.advance(obs, np.empty((len(obs), 0), np.float32))[0]

    def advance(self, obs: Floats, state: Floats) -> tuple[Floats, Floats]:
        """The last layer's numbers for observations (batch, obs), and the memory after.

        Args:
            obs: (batch, obs).
            state: The memory before, (batch, memory); zeros where an episode begins.
        """
        after, at = [], 0
        # Callers look at what comes of an overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            x: Floats = np.clip((obs - self.mean) * self.scale, -self.clip, self.clip)
            for layer in self.layers:
                if isinstance(layer, Gru | Lstm):
                    until = at + memory(layer)
                    x, kept = advance(layer, x, state[:, at:until])
                    after.append(kept)
                    at = until
                else:
                    x = apply(layer, x)
        return x, np.concatenate(after, axis=1) if after else state

    def follow(self, obs: Floats) -> Floats:
        """The last layer's numbers for a sequence, (ticks, obs), from no memory on."""
        state = np.zeros((1, self.memory), np.float32)
        out = np.empty((len(obs), self.out), np.float32)
        for tick, row in enumerate(obs):
            out[tick : tick + 1], state = self.advance(row[None], state)
        return out

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for observations (batch, obs).

        Raises:
            SpecError: If it has a memory; `policy` then takes one.
        """
        return distribution(self.head, self.outputs(obs), self.spec)

    def act(self, obs: Any) -> Any:
        """Decide for one flat observation (obs,): an int, or an array of its own shape.

        Raises:
            SpecError: If it has a memory; `policy` then takes one.
            NumbersError: If the observation, or the last layer's numbers, hold NaN or infinity.
        """
        flat = np.asarray(obs, np.float32)
        if not np.isfinite(flat).all():
            raise NumbersError(NOT_FINITE)
        outputs = self.outputs(flat[None])
        if not np.isfinite(outputs).all():
            raise NumbersError(NOT_FINITE)
        dist = distribution(self.head, outputs, self.spec)
        return one_action(dists.mode(dist, self.spec.action), self.spec)

    def vector(self) -> Floats:
        """All numbers in one vector: mean, scale, then each layer's `tensors`."""
        pieces = [self.mean, self.scale]
        for layer in self.layers:
            pieces += [each.ravel() for each in _arrays(layer)]
        return np.concatenate(pieces).astype(np.float32)

    def with_vector(self, vector: Floats, version: int) -> Executor:
        """The same executor with the numbers of `vector` and another version.

        Raises:
            SpecError: If the vector has another length.
            NumbersError: If it holds NaN or infinity.
        """
        if vector.shape != self.vector().shape:
            raise SpecError(f"{vector.shape} numbers for an executor of {self.vector().shape}.")
        if not np.isfinite(vector).all():
            raise NumbersError("The weights hold NaN or infinity.")
        taken = 0

        def take(like: Floats) -> Floats:
            nonlocal taken
            piece = vector[taken : taken + like.size].reshape(like.shape)
            taken += like.size
            return np.array(piece, np.float32)

        mean, scale = take(self.mean), take(self.scale)
        layers = tuple(with_tensors(layer, map(take, _arrays(layer))) for layer in self.layers)
        return replace(self, mean=mean, scale=scale, layers=layers, version=version)


class Form(Protocol):
    """An executor with a memory, in NumPy or compiled."""

    @property
    def executor(self) -> Executor:
        """What it is."""
        ...

    def advance(self, obs: Floats, state: Floats) -> tuple[Floats, Floats]:
        """The last layer's numbers, and the memory after; see `Executor.advance`."""
        ...


@final
class RecurrentExecutor:
    """An executor with a memory, as a `RecurrentPolicy`.

    Args:
        form: The executor.
    """

    def __init__(self, form: Form) -> None:
        """Take the executor."""
        self._form = form

    def initial_state(self, batch: int) -> State:
        """The memory that an episode starts with: zeros, (batch, memory)."""
        return (np.zeros((batch, self._form.executor.memory), np.float32),)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Answer for observations (batch, obs) and give the memory that follows."""
        executor = self._form.executor
        outputs, after = self._form.advance(obs, state[0])
        return distribution(executor.head, outputs, executor.spec), (after,)


def _arrays(layer: Layer) -> list[Floats]:
    return list(tensors(layer).values())


def distribution(head: Head, outputs: Floats, spec: Spec) -> ActionDist:
    """Turn the last layer's numbers, (batch, out), into an action distribution."""
    match head:
        case "categorical":
            return Categorical(outputs)
        case "multicategorical":
            assert isinstance(spec.action, MultiDiscreteSpec)
            return MultiCategorical(outputs, spec.action.sizes)
        case "bernoulli":
            return Bernoulli(outputs)
        case "squashed":
            return Point(dists.unsquash(np.tanh(outputs), spec.action))
        case "clipped":
            return Point(outputs)


def one_action(actions: Actions, spec: Spec) -> Any:
    """Take the only row of `actions`: an int for one choice, else an array."""
    return int(actions[0]) if isinstance(spec.action, DiscreteSpec) else actions[0]
