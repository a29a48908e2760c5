"""What an environment looks like from outside: flat observations, typed actions.

Inside agentkd every observation is a flat float32 vector, (batch, size). `ObsSpec` knows its parts,
so that an image or a dictionary comes back in its own shape for a policy that wants it. Spaces are
read by the names of their classes, so that neither Gymnasium nor the old gym needs to be
importable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import SpecError
from agentkd.sizes import MOST, check_bounds, check_choices, check_start, is_whole, shape_size
from agentkd.types import Floats

PartKind = Literal["box", "discrete", "multidiscrete", "multibinary"]
Layout = Literal["single", "dict", "tuple"]
_MOST_PARTS = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of an observation.

    Attributes:
        name: Its key in a dictionary or its index in a tuple; "" when it stands alone.
        kind: How it is written: numbers as they are, or choices as one-hot vectors.
        shape: Its own shape.
        dtype: Its own dtype's name.
        sizes: For choices, how many each has.
        start: For one choice, the number of the first.
        seen: Which of its numbers the flat observation holds, in order; None for all.
    """

    name: str
    kind: PartKind
    shape: tuple[int, ...]
    dtype: str
    sizes: tuple[int, ...] = ()
    start: int = 0
    seen: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        where = f"The observation's part {self.name!r}"
        if self.kind not in get_args(PartKind):
            raise SpecError(f"{where}: no kind {self.kind!r}.")
        numbers = shape_size(self.shape, where)
        choices = {"discrete": 1, "multidiscrete": numbers}.get(self.kind, 0)
        if choices:
            check_choices(self.sizes, where)
        if len(self.sizes) != choices or (self.kind == "discrete" and self.shape):
            raise SpecError(
                f"{where}: a {self.kind} of shape {self.shape} cannot have "
                f"{len(self.sizes)} choices."
            )
        check_start(self.start, max(self.sizes, default=1), where)
        try:
            kind = np.dtype(self.dtype).kind
        except Exception as error:  # NumPy raises nearly anything for a bad name
            raise SpecError(f"{where}: no dtype {self.dtype!r}.") from error
        if kind not in "biuf":
            raise SpecError(f"{where}: {self.dtype} are not numbers.")
        if self.seen is not None and not _ascending(self.seen, self.whole):
            raise SpecError(
                f"{where}: of its {self.whole} numbers, {self.seen!r:.80} cannot be seen; give "
                "ascending places."
            )

    @property
    def whole(self) -> int:
        """How many numbers it has."""
        return sum(self.sizes) if self.sizes else math.prod(self.shape)

    @property
    def size(self) -> int:
        """How many numbers it takes in the flat observation."""
        return self.whole if self.seen is None else len(self.seen)


def _ascending(places: Any, below: int) -> bool:
    whole = isinstance(places, tuple) and all(is_whole(each, 0, below - 1) for each in places)
    return whole and all(here < there for here, there in pairwise(places))


@dataclass(frozen=True, slots=True)
class ObsSpec:
    """The parts of an observation, in the order in which they are laid out.

    A policy that sees less than the environment shows has the same parts, with what it sees marked
    in them; see `agentkd.views`.

    Attributes:
        parts: What the environment shows.
        layout: How the environment shows them.
        taken: For an executor that sees past actions: how many numbers of the action that was
            executed at the tick before, as `agentkd.dists.coded` writes it, follow the parts.
    """

    parts: tuple[Part, ...]
    layout: Layout = "single"
    taken: int = 0

    def __post_init__(self) -> None:
        count = len(self.parts)
        if self.layout not in get_args(Layout):
            raise SpecError(f"No layout {self.layout!r} of an observation.")
        if not 1 <= count <= _MOST_PARTS or (self.layout == "single" and count > 1):
            raise SpecError(f"An observation ({self.layout}) of {count} parts.")
        if len({part.name for part in self.parts}) < count:
            raise SpecError("Two parts of an observation have the same name.")
        if not is_whole(self.taken, 0, MOST):
            raise SpecError(f"An observation with {self.taken!r:.40} numbers of an action.")
        if sum(part.whole for part in self.parts) + self.taken > MOST:
            raise SpecError(f"An observation of {self.size} numbers; {MOST} at most.")
        if self.size == self.taken:
            raise SpecError("Nothing is seen of the observation.")

    @property
    def size(self) -> int:
        """The length of the flat observation, with the action that was executed before."""
        return sum(part.size for part in self.parts) + self.taken


@dataclass(frozen=True, slots=True)
class DiscreteSpec:
    """One choice out of n, the first of which is numbered `start`."""

    n: int
    start: int = 0

    def __post_init__(self) -> None:
        check_choices((self.n,), "A choice")
        check_start(self.start, self.n, "A choice")


@dataclass(frozen=True, slots=True)
class MultiDiscreteSpec:
    """Several choices, the i-th out of sizes[i]."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        check_choices(self.sizes, "Several choices")


@dataclass(frozen=True, slots=True)
class MultiBinarySpec:
    """n yes/no choices."""

    n: int

    def __post_init__(self) -> None:
        check_choices((self.n,), "Yes/no choices")


@dataclass(frozen=True, slots=True)
class BoxSpec:
    """Numbers between bounds, flattened; a bound may be infinite."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        size = shape_size(self.shape, "A box")
        if not len(self.low) == len(self.high) == size:
            raise SpecError(
                f"A box of shape {self.shape} with {len(self.low)} lower and "
                f"{len(self.high)} upper bounds; it needs {size} of each."
            )
        check_bounds(self.low, self.high)

    @property
    def bounded(self) -> bool:
        """Whether every number has two bounds whose distance float32 can hold."""
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.array(self.high, np.float32) - np.array(self.low, np.float32)
        return bool(np.isfinite(distance).all())


ActionSpec = DiscreteSpec | MultiDiscreteSpec | MultiBinarySpec | BoxSpec


@dataclass(frozen=True, slots=True)
class Spec:
    """An environment's observation and action, as the library sees them."""

    obs: ObsSpec
    action: ActionSpec

    def __post_init__(self) -> None:
        for each, kind in ((self.obs, ObsSpec), (self.action, ActionSpec)):
            if not isinstance(each, kind):
                raise SpecError(f"A spec of a {type(each).__name__}.")


def _part(space: Any, name: str = "") -> Part:
    kind = type(space).__name__
    if kind == "Box":
        shape = tuple(int(n) for n in space.shape)
        return Part(name, "box", shape, np.dtype(space.dtype).name)
    if kind == "Discrete":
        start = int(getattr(space, "start", 0))
        return Part(name, "discrete", (), "int64", (int(space.n),), start)
    if kind == "MultiDiscrete":
        _from_zero(space)
        sizes = tuple(int(n) for n in np.ravel(space.nvec))
        shape = tuple(map(int, np.shape(space.nvec)))
        return Part(name, "multidiscrete", shape, "int64", sizes)
    if kind == "MultiBinary":
        return Part(name, "multibinary", tuple(map(int, space.shape)), "int8")
    where = f" in {name!r}" if name else ""
    raise SpecError(
        f"An observation of kind {kind}{where} is not supported. Use Box, Discrete, "
        "MultiDiscrete, MultiBinary, or a Dict or Tuple of these; or wrap the "
        "environment with gymnasium.wrappers.FlattenObservation."
    )


def _from_zero(space: Any) -> None:
    start = np.ravel(getattr(space, "start", 0))
    if start.any():
        raise SpecError(
            f"MultiDiscrete choices that begin at {start.tolist()} are not supported. "
            "Let them begin at 0 and add the start in the environment."
        )


def obs_spec(space: Any) -> ObsSpec:
    """Describe a Gymnasium (or old gym) observation space.

    Raises:
        SpecError: If it holds a kind of space that has no fixed flat form.
    """
    kind = type(space).__name__
    if kind == "Dict":
        parts = tuple(_part(each, str(key)) for key, each in space.spaces.items())
        return ObsSpec(parts, "dict")
    if kind == "Tuple":
        parts = tuple(_part(each, str(i)) for i, each in enumerate(space.spaces))
        return ObsSpec(parts, "tuple")
    return ObsSpec((_part(space),))


def action_spec(space: Any) -> ActionSpec:
    """Describe a Gymnasium (or old gym) action space.

    Raises:
        SpecError: If it is none of Discrete, MultiDiscrete, MultiBinary and Box.
    """
    kind = type(space).__name__
    if kind == "Discrete":
        return DiscreteSpec(int(space.n), int(getattr(space, "start", 0)))
    if kind in ("MultiDiscrete", "MultiBinary"):
        # Spaces read from old saves know their choices, and not always their shape.
        shape = np.shape(getattr(space, "nvec", 0)) or getattr(space, "shape", (1,))
        if len(shape) != 1:
            raise SpecError(
                f"{kind} actions of shape {shape} are not supported. Flatten them in "
                "the environment, to one dimension."
            )
    if kind == "MultiDiscrete":
        _from_zero(space)
        return MultiDiscreteSpec(tuple(int(n) for n in np.ravel(space.nvec)))
    if kind == "MultiBinary":
        return MultiBinarySpec(int(np.prod(space.shape)))
    if kind == "Box":
        if np.dtype(getattr(space, "dtype", None) or np.float32).kind != "f":
            raise SpecError(
                f"Actions in a Box of {space.dtype} are not supported: executors give "
                "fractions. Use MultiDiscrete, or round in the environment."
            )
        return BoxSpec(
            tuple(float(x) for x in np.ravel(space.low)),
            tuple(float(x) for x in np.ravel(space.high)),
            tuple(int(n) for n in space.shape),
        )
    raise SpecError(
        f"Actions of kind {kind} are not supported. "
        "Use Discrete, MultiDiscrete, MultiBinary or Box."
    )


def env_spec(env: Any) -> Spec:
    """Describe an environment by its `observation_space` and `action_space`.

    For a vector environment its `single_…` spaces are read.
    """
    obs = getattr(env, "single_observation_space", env.observation_space)
    action = getattr(env, "single_action_space", env.action_space)
    return Spec(obs_spec(obs), action_spec(action))


def pieces(spec: ObsSpec, obs: Any) -> list[Any]:
    """Return an observation's parts in their order, single or batched.

    Raises:
        SpecError: If it is not a dictionary where one is expected, or lacks a part.
    """
    if spec.layout == "single":
        return [obs]
    if spec.layout == "tuple":
        return list(obs)
    if not isinstance(obs, Mapping):
        raise SpecError(
            f"A dictionary with {[p.name for p in spec.parts]} was expected as "
            f"observation, not {type(obs).__name__}."
        )
    missing = [part.name for part in spec.parts if part.size and part.name not in obs]
    if missing:
        raise SpecError(f"The observation lacks {missing}; it has {sorted(obs)}.")
    return [obs[part.name] if part.size else None for part in spec.parts]


def _one_hot(values: NDArray[Any], part: Part) -> Floats:
    columns = np.reshape(values, (len(values), -1)).astype(np.int64) - part.start
    out = np.zeros((len(values), part.whole), np.float32)
    offset = 0
    for index, size in enumerate(part.sizes):
        column = columns[:, index]
        if ((column < 0) | (column >= size)).any():
            raise SpecError(
                f"Observation {part.name!r} holds {int(column.max())}, but only "
                f"{size} values from {part.start} on are known."
            )
        out[np.arange(len(values)), offset + column] = 1.0
        offset += size
    return out


def flatten(spec: ObsSpec, obs: Any) -> Floats:
    """Lay a batched array, or a dictionary or tuple of such, out flat: float32, (batch, size).

    The action that was executed before is not among them: the environment does not show it.

    Raises:
        SpecError: If a part is missing or has another shape.
    """
    return _laid_out(spec, [np.asarray(piece) for piece in pieces(spec, obs)])


def flatten_one(spec: ObsSpec, obs: Any) -> Floats:
    """Lay one observation out flat: float32, shape (size,)."""
    row: Floats = _laid_out(spec, [np.asarray(piece)[None] for piece in pieces(spec, obs)])[0]
    return row


def _laid_out(spec: ObsSpec, arrays: list[NDArray[Any]]) -> Floats:
    flat: list[Floats] = []
    for part, array in zip(spec.parts, arrays, strict=True):
        if not part.size:
            continue
        if array.ndim == 0 or array.shape[1:] != part.shape:
            raise SpecError(
                f"Observation {part.name!r} has shape {array.shape}; "
                f"(batch, {', '.join(map(str, part.shape))}) was expected."
            )
        if part.sizes:
            rows = _one_hot(array, part)
            flat.append(rows if part.seen is None else rows[:, part.seen])
        else:
            numbers = array.reshape(len(array), -1)
            numbers = numbers if part.seen is None else numbers[:, part.seen]
            flat.append(numbers.astype(np.float32))
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)


def unflatten(spec: ObsSpec, flat: Floats) -> Any:
    """Give flat observations, (batch, size), the shape and dtype back that `flatten` took.

    Raises:
        SpecError: If `flat` has another shape.
    """
    if flat.ndim != 2 or flat.shape[1] != spec.size:
        raise SpecError(
            f"Flat observations have shape {flat.shape}; (batch, {spec.size}) was expected."
        )
    out: list[NDArray[Any]] = []
    offset = 0
    for part in spec.parts:
        piece = flat[:, offset : offset + part.size]
        offset += part.size
        if part.seen is not None:
            raise SpecError("An observation of which a part is seen has no shape to give back.")
        if part.sizes:
            cuts = np.cumsum(part.sizes)[:-1]
            choices = [each.argmax(1) for each in np.split(piece, cuts, axis=1)]
            array: NDArray[Any] = np.stack(choices, 1) + part.start
            out.append(array.reshape(len(flat), *part.shape).astype(part.dtype))
        else:
            out.append(piece.reshape(len(flat), *part.shape).astype(part.dtype))
    if spec.layout == "single":
        return out[0]
    if spec.layout == "tuple":
        return tuple(out)
    return {part.name: array for part, array in zip(spec.parts, out, strict=True)}
