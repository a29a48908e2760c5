"""Views: what a policy sees of an environment's observation.

A planner may see the simulator's state where its executor has sensors alone. A view names the parts
that a policy sees; what it leaves out never reaches the policy's flat observation. An executor's
view lies in its spec (`Part.seen`), and so in its file and its exports. An executor may also see
the last few observations, or old ones and what was done since (`agentkd.executors.layers.Stack`,
`Past`).

    joints,imu        keys of a dictionary, or places in a tuple
    joints[0:12]      some numbers of one
    0:2,4:5  0,-1     some numbers of an observation that is one array, laid out flat
    stack:4           the last four observations, zeros before an episode's first (executors)
    delay:2           what was observed two ticks ago, and the last two actions (executors)
    actions:3         the last three actions that were executed (executors)
    module:attribute  a text or a list of these words; for a planner also a function of observations
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError, SpecError, did_you_mean
from agentkd.refs import is_reference, resolve
from agentkd.spec import ObsSpec, Part, Spec
from agentkd.types import Floats

MOST_STACK = 256
MOST_DELAY = 256
_PLACES = re.compile(r"(-?\d{1,8})?(:(-?\d{1,8})?)?", re.ASCII)
_PART = re.compile(r"(.+)\[([^\[\]]*)\]")
_PAST = ("stack", "delay", "actions")
_COUNT = re.compile(r"(stack|delay|actions):(\d{1,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees of an observation.

    Attributes:
        words: Parts or places, as text; () for everything.
        stack: How many observations, one of each tick.
        delay: How many ticks old the newest of them is.
        actions: How many actions, up to that of the tick before.
        function: Instead of words, what makes rows of numbers, (batch, n), of the environment's
            observations, batched.
    """

    words: tuple[str, ...] = ()
    stack: int = 1
    delay: int = 0
    actions: int = 0
    function: Callable[[Any], Any] | None = None

    @property
    def remembers(self) -> bool:
        """Whether it is of more than the present observation."""
        return (self.stack, self.delay, self.actions) != (1, 0, 0)


EVERYTHING = View()
Seeing = str | Sequence[Any] | View | None
"""A view, or what `parse_view` makes one of."""


def parse_view(text: Seeing, obs: ObsSpec | None = None) -> View:
    """Read a view: text such as "joints,imu,stack:4", a list of words or places, or a view.

    A word that is a part's name in `obs` means that part, whatever else it could mean.

    Raises:
        ConfigError: If it cannot be read.
        RefError: If it names something that is not there.
    """
    if isinstance(text, View):
        return text
    if text is None:
        return EVERYTHING
    if not isinstance(text, str | list | tuple):
        raise ConfigError(
            f"A view is text such as joints,imu or a list of words, not {type(text).__name__}."
        )
    words = text.split(",") if isinstance(text, str) else list(text)
    words = [str(word).strip() for word in words]
    names = {part.name for part in obs.parts} if obs is not None else set()
    counts, kept = {}, []
    for word in words:
        before, _, after = word.partition(":")
        if word not in names and (found := _COUNT.fullmatch(word)):
            if before in counts:
                raise ConfigError(f"{before} stands twice in the view {text!r}. Write it once.")
            counts[before] = int(found[2])
        elif word not in names and before in _PAST:
            raise ConfigError(
                f"{word!r} in the view {text!r}: {after!r} is no number of ticks. Give a number, "
                f"such as {before}:2."
            )
        elif word:
            kept.append(word)
    past = _past(text, counts)
    if any(is_reference(word) and word not in names for word in kept):
        return _referred(text, kept, past, counts)
    if not (kept or past.remembers):
        raise ConfigError(f"The view {text!r} is empty. Write joints,imu or 0:2,4:5 or stack:4.")
    return replace(past, words=tuple(kept))


def _past(text: Any, counts: Mapping[str, int]) -> View:
    """Check how much of the past a view is of; a delay brings the actions since."""
    stack, delay = counts.get("stack", 1), counts.get("delay", 0)
    if not 1 <= stack <= MOST_STACK:
        raise ConfigError(f"stack:{stack} in {text!r}: from 1 to {MOST_STACK} observations.")
    for word in ("delay", "actions"):
        if not 1 <= counts.get(word, 1) <= MOST_DELAY:
            raise ConfigError(f"{word}:{counts[word]} in {text!r}: from 1 to {MOST_DELAY} ticks.")
    return View((), stack, delay, counts.get("actions", delay))


def _referred(text: Any, words: list[str], past: View, counts: Mapping[str, int]) -> View:
    if len(words) > 1:
        raise ConfigError(
            f"The view {text!r}: module:attribute stands alone, or with stack:K, delay:D and "
            "actions:N."
        )
    found = resolve(words[0])
    if callable(found) and not isinstance(found, View):
        return replace(past, function=found)
    if not isinstance(found, View | str | list | tuple):
        raise ConfigError(
            f"The view {words[0]!r} is a {type(found).__name__}. It has to name a text or list of "
            "words, or for a planner a function of observations."
        )
    view = parse_view(found)
    said = {*counts, "actions"} if "delay" in counts else counts
    return replace(view, **{word: getattr(past, word) for word in said})


def see(spec: Spec, seeing: Seeing) -> Spec:
    """Mark in an environment's spec what a view sees.

    Raises:
        ConfigError: If the view names what is not there, or is a function.
    """
    view = parse_view(seeing, spec.obs)
    if view.function is not None:
        raise ConfigError(
            "A function sees for planners only: an executor's view is part of its file. Name "
            "parts or places, such as joints,imu or 0:2,4:5."
        )
    if not view.words:
        return spec
    obs = whole(spec.obs)
    places: dict[str, set[int]] = {part.name: set() for part in obs.parts}
    for word in view.words:
        part, within = _part_of(word, obs)
        places[part.name] |= _places(word, within, part.whole)
    parts = tuple(_seen(part, places[part.name]) for part in obs.parts)
    return replace(spec, obs=replace(obs, parts=parts))


def _part_of(word: str, obs: ObsSpec) -> tuple[Part, str]:
    """Return the part that a word is about, and the places in it."""
    if obs.layout == "single":
        if not _PLACES.fullmatch(word):
            raise ConfigError(
                f"The view's {word!r}: the observation is one array of {obs.size} numbers, so "
                "name places, such as 0:2,4:5."
            )
        return obs.parts[0], word
    names = {part.name: part for part in obs.parts}
    if word in names:
        return names[word], ":"
    found = _PART.fullmatch(word)
    if found is None or found[1] not in names:
        raise ConfigError(
            f"The view's {word!r} is not in the observation, which has "
            f"{', '.join(names)}.{did_you_mean(word, names)}"
        )
    return names[found[1]], found[2]


def _places(word: str, within: str, size: int) -> set[int]:
    """Read one place, or a slice of places, among `size` numbers."""
    found = _PLACES.fullmatch(within)
    if found is None or not within:
        raise ConfigError(f"The view's {word!r}: write places as 3, -1, 0:2 or :.")
    if found[2] is None:
        place = int(found[1])
        chosen = range(size)[place : place + 1 or None] if -size <= place < size else range(0)
    else:
        chosen = range(size)[slice(*(int(each) if each else None for each in found.group(1, 3)))]
    if not chosen:
        raise ConfigError(f"The view's {word!r} holds nothing: there are {size} numbers.")
    return set(chosen)


def _seen(part: Part, places: set[int]) -> Part:
    everything = len(places) == part.whole
    return part if everything else replace(part, seen=tuple(sorted(places)))


def whole(obs: ObsSpec) -> ObsSpec:
    """Return the observation that the environment shows, whatever is seen of it."""
    if all(part.seen is None for part in obs.parts) and not obs.taken:
        return obs
    parts = tuple(replace(part, seen=None) for part in obs.parts)
    return replace(obs, parts=parts, taken=0)


def environment(spec: Spec) -> Spec:
    """Return the environment's spec, whatever the policy with `spec` sees of it."""
    obs = whole(spec.obs)
    return spec if obs is spec.obs else replace(spec, obs=obs)


def alone(obs: ObsSpec) -> ObsSpec:
    """Return what is seen as an observation of its own, for a policy that knows of no other.

    A part that is left over alone is no longer in a dictionary; one of which some numbers are seen
    becomes a row of numbers.
    """
    parts = [
        part if part.seen is None else Part(part.name, "box", (part.size,), "float32")
        for part in obs.parts
        if part.size
    ]
    if len(parts) == 1:
        return ObsSpec((replace(parts[0], name=""),))
    return ObsSpec(tuple(parts), obs.layout)


def columns(obs: ObsSpec) -> NDArray[np.intp] | None:
    """Return the places, in the environment's flat observation, of what is seen; None for all.

    The action that was executed before lies beyond them.
    """
    found, at = [], 0
    for part in obs.parts:
        found += [at + i for i in (range(part.whole) if part.seen is None else part.seen)]
        at += part.whole
    return None if len(found) == at else np.array(found, np.intp)


def pick(obs: ObsSpec, rows: Floats) -> Floats:
    """Return what is seen of flat observations (…, whole size): (…, size).

    Rows that hold no more than what is seen are returned as they are. For an executor that sees
    past actions each row ends in the one that was executed at the tick before.

    Raises:
        SpecError: If the rows have another size.
    """
    if rows.shape[-1] == obs.size:
        return rows
    among = columns(obs)
    size = sum(part.whole for part in obs.parts) + obs.taken
    if among is None or rows.shape[-1] != size:
        wanted = f"{size} or {obs.size}" if among is not None else f"{size}"
        action = f", the last {obs.taken} the action executed before," if obs.taken else ""
        raise SpecError(
            f"Observations have shape {rows.shape}; (…, {wanted}){action} was expected."
        )
    if obs.taken:
        among = np.concatenate([among, np.arange(size - obs.taken, size)])
    return np.ascontiguousarray(rows[..., among])


def words_of(obs: ObsSpec, past: View = EVERYTHING) -> list[str]:
    """Say what is seen, in words that `parse_view` reads; [] for everything.

    `past` says of how much of the past.
    """
    usual = {"stack": 1, "delay": 0, "actions": past.delay}
    words = [f"{word}:{n}" for word, at in usual.items() if (n := getattr(past, word)) != at]
    if columns(obs) is None:
        return words
    for part in obs.parts:
        if part.seen is None:
            words.append(part.name)
        elif part.seen:
            runs = _runs(part.seen)
            words += runs if obs.layout == "single" else [f"{part.name}[{run}]" for run in runs]
    return words


def _runs(places: tuple[int, ...]) -> list[str]:
    """Write ascending places as slices."""
    cuts = [i for i in range(1, len(places)) if places[i] != places[i - 1] + 1]
    ends = zip([0, *cuts], [*cuts, len(places)], strict=True)
    return [f"{places[first]}:{places[last - 1] + 1}" for first, last in ends]


def groups(found: Mapping[str, Sequence[str]]) -> dict[str, View]:
    """Read rsl_rl's `obs_groups`: for each policy ("student", "teacher") the keys that it sees."""
    return {name: parse_view([str(key) for key in keys]) for name, keys in found.items()}
