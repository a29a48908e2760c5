"""An executor with its weights fixed: everything that it does, in NumPy alone.

The normaliser, the clipping, the squashing and the scaling are inside. This is the reference that
native C, ONNX and firmware are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from agentkd import dists
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.arithmetic import advance, apply
from agentkd.executors.layers import (
    MOST_WORK,
    Layer,
    Past,
    Remembering,
    describe,
    memory,
    sizes,
    tensors,
    with_tensors,
    work,
)
from agentkd.executors.recurrent import RecurrentExecutor
from agentkd.sizes import is_whole
from agentkd.spec import (
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    Spec,
    flatten_one,
)
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
)
from agentkd.views import pick

NOT_FINITE = "The observation holds NaN or infinity, or the executor's numbers overflow for it."
"""Why an executor decides nothing."""
MOST_LAYERS = 64
"""Layers that an executor may have."""
MOST_PARAMETERS = 1 << 26
"""Trained numbers that an executor may have: 256 MiB."""

Head = Literal["categorical", "multicategorical", "bernoulli", "squashed", "clipped"]


def head_for(spec: Spec, *, squashed: bool = True) -> Head:
    """Choose the head that fits the actions; a bounded box ends in tanh, or in a clip."""
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
class About:
    """What belongs to an executor besides its numbers; `Executor.save` writes it."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the executor came from, as JSON values."""
    contract: Any = None
    """What its numbers mean (`agentkd.deploy.contract.Contract`), or None."""
    labels: Any = None
    """A sample of the labels that it was made from, or None."""
    bundle: Any = None
    """The file that it came of (`agentkd.deploy.bundle.Bundle`), or None."""


@dataclass(frozen=True, slots=True, eq=False)
class Executor:
    """A tiny policy with fixed weights, in NumPy or compiled.

        executor = agentkd.load("executor.akd")
        action = executor.act(obs)

    `act` decides for one observation and follows an episode's memory; it is for one caller at a
    time, so give each thread an executor of its own (`copy.copy`). Calling the executor answers a
    batch with an action distribution; one with a memory has `policy` for that. Both may be shared.

    Attributes:
        architecture: What it was made from, such as "mlp:64,64".
        spec: The environment it is for.
        mean: Subtracted from each observation, shape (obs,).
        scale: Multiplies the difference, shape (obs,).
        clip: The normalised observation stays within [-clip, clip].
        layers: The network, first to last.
        head: How the last layer's numbers become an action.
        version: Counts the swaps that led to it.
        about: Where it came from, and what its file keeps.
    """

    architecture: str
    spec: Spec
    mean: Floats
    scale: Floats
    clip: float
    layers: tuple[Layer, ...]
    head: Head
    version: int = 0
    about: About = field(default_factory=About, repr=False)
    _acting: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
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
        self._check_past()
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

    def _check_past(self) -> None:
        first, taken = self.layers[0], self.spec.obs.taken
        width = first.width if isinstance(first, Past) else 0
        late = any(isinstance(each, Past) for each in self.layers[1:])
        if taken != width or late or (width and width != self.out):
            raise SpecError(
                f"An executor that is given {taken} numbers of the last action, of {self.out}, "
                f"begins with a layer that takes {width}."
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
        return RecurrentExecutor(self.spec, self.memory, self.answer) if self.memory else self

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

        They may be whole, where the executor sees a part of them. For one that sees past actions
        each ends in the action that was executed at the tick before (`agentkd.dists.coded`).
        `state` is the memory before, (batch, memory); zeros where an episode begins.

        Raises:
            SpecError: If the observations have another size.
        """
        after, at = [], 0
        obs = pick(self.spec.obs, obs)
        # Callers look at what comes of an overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            x: Floats = np.clip((obs - self.mean) * self.scale, -self.clip, self.clip)
            for layer in self.layers:
                if isinstance(layer, Remembering):
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

    def answer(self, obs: Floats, state: Floats) -> tuple[ActionDist, Floats]:
        """The action distribution, and the memory after; as `advance`."""
        outputs, after = self.advance(obs, state)
        return distribution(self.head, outputs, self.spec), after

    def __getstate__(self) -> list[Any]:
        return [None if f.name == "_acting" else getattr(self, f.name) for f in fields(self)]

    def __setstate__(self, state: list[Any]) -> None:
        for each, value in zip(fields(self), state, strict=True):
            object.__setattr__(self, each.name, value)

    def compile(self) -> Self:
        """Let `act` run in C; it runs in NumPy without a compiler. Returns the executor."""
        before = self._acting
        acting = self._become(native=True)
        if before is not None:
            acting.memory[:] = before.memory
            self._taken(acting)[:] = self._taken(before)
        return self

    def _become(self, *, native: bool) -> Any:
        # The one thing about an executor that changes: what it acts with, and its memory.
        acting = _above("agentkd.executors.acting:form")(self, native=native)
        object.__setattr__(self, "_acting", acting)
        return acting

    def _taken(self, acting: Any) -> Floats:
        """Return where the action of the tick before stands in a form's observation."""
        place: Floats = acting.obs[len(acting.obs) - self.spec.obs.taken :]
        return place

    def act(self, obs: Any) -> Any:
        """Return the most probable action for one observation.

        With a memory, the observation is the next one of the episode; `reset` begins another.

        Args:
            obs: As the environment gives it, or flat, (obs,).

        Returns:
            In the environment's units: an int for one choice, else an array.

        Raises:
            SpecError: If the observation has another shape.
            NumbersError: If the observation, or the last layer's numbers, hold NaN or infinity.
        """
        acting = self._acting or self._become(native=False)
        taken = self.spec.obs.taken
        seen = acting.obs[:-taken] if taken else acting.obs
        flat = isinstance(obs, np.ndarray) and obs.shape == seen.shape
        # A number too large for float32 becomes infinite, which is refused.
        with np.errstate(over="ignore"):
            seen[:] = obs if flat else flatten_one(self.spec.obs, obs)
        if acting.run():
            raise NumbersError(NOT_FINITE)
        action = acting.take()
        if taken:
            self.executed(action)
        return action

    def executed(self, action: Any) -> None:
        """Say what was executed, where that is not what `act` returned.

        It counts for an executor that sees past actions (`delay:D`, `actions:N`).
        """
        if self.spec.obs.taken:
            acting = self._acting or self._become(native=False)
            self._taken(acting)[:] = dists.coded(np.asarray(action)[None], self.spec.action)[0]

    def reset(self) -> None:
        """Begin an episode: clear the memory of `act`."""
        if self._acting is not None:
            self._acting.memory[:] = 0.0
            self._taken(self._acting)[:] = 0.0

    def crowd(self, count: int, *, native: bool = True) -> Any:
        """Return an `agentkd.executors.crowd.Crowd`: many agents that decide in one call."""
        return _above("agentkd.executors.crowd:Crowd")(self, count, native=native)

    def as_sb3(self) -> Any:
        """Return an object with Stable-Baselines3's `predict`, such as `evaluate_policy` takes."""
        return _above("agentkd.executors.predict:Predictor")(self)

    def save(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write an executor file (.akd), replacing one that is there, and read it back.

        `provenance` adds JSON values to what is known about where it came from.

        Raises:
            BundleError: If the file could not be written; one that was there stays.
        """
        _above("agentkd.deploy.bundle:save")(self, path, provenance)

    def export(self, path: str | Path, **options: Any) -> None:
        """Write the executor for another runtime; the suffix decides which.

        `.c` (C99, with its header), `.int8.c`, `.onnx`, `.akx`. The options are those of
        `agentkd.deploy.export.Request`: `flavour`, `name`, `opset`.

        Raises:
            ConfigError: If the suffix names no target, or an option does not fit it.
        """
        _above("agentkd.deploy.export:export_file")(self, path, **options)

    def check_finite(self) -> None:
        """Make sure that its numbers may be written.

        Raises:
            NumbersError: If one is NaN or infinite.
        """
        if not np.isfinite(self.vector()).all():
            raise NumbersError("An executor with NaN or infinite weights is not written.")

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
        likes = [self.mean, self.scale, *(e for layer in self.layers for e in _arrays(layer))]
        cuts = np.cumsum([each.size for each in likes])[:-1]
        arrays = (
            np.array(piece.reshape(like.shape), np.float32)
            for piece, like in zip(np.split(vector, cuts), likes, strict=True)
        )
        mean, scale = next(arrays), next(arrays)
        return replace(
            self,
            mean=mean,
            scale=scale,
            layers=tuple(with_tensors(layer, arrays) for layer in self.layers),
            version=version,
            about=About(contract=self.about.contract),
        )


def interchangeable(first: Executor, second: Executor) -> bool:
    """Return whether the numbers of one executor make sense in the other."""

    def form(executor: Executor) -> Any:
        layers = [
            (describe(layer), {name: each.shape for name, each in tensors(layer).items()})
            for layer in executor.layers
        ]
        return executor.spec, executor.head, executor.clip, layers

    return bool(form(first) == form(second))


def _above(reference: str) -> Any:
    """Return what a room above this one offers, "module:attribute"."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


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
