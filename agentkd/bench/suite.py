"""A suite: a small TOML file that says what is compared with what, and where."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from agentkd.environments import check_name
from agentkd.errors import AgentkdError, ConfigError, did_you_mean
from agentkd.files import read_file
from agentkd.refs import is_reference

Arm = Literal["planner", "executor", "int8", "runtime"]
"""Who acts: the planner alone, the executor alone in floats or in integers, or the runtime with
both."""
ARMS: tuple[Arm, ...] = get_args(Arm)
BUILT_IN: Mapping[str, str] = {
    "distill": "agentkd.bench.methods:distilled",
    "clone": "agentkd.bench.methods:cloned",
}
"""The methods that come with agentkd, by name."""
FILE = "file"
"""The method of an executor that is a file: it is taken as it is."""

_LARGEST = 1 << 20
_MOST = 10_000
"""The most seeds or entries of a list."""
_EPISODES = 5_000
"""The most episodes of a cell: their returns fit a field that readers of CSV take."""
_SHIPPED = Path("benchmarks/suites")


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """A method as a suite names it.

    Attributes:
        name: What tables call it.
        reference: "module:attribute" of the function.
        options: Further keyword arguments of the function, as JSON values.
        labels: How many labels it may ask for; None for as many as the others.
    """

    name: str
    reference: str
    options: Mapping[str, Any]
    labels: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One [[tasks]] table: every planner in every environment, in every combination of the rest.

    Attributes:
        env: Environments by name.
        planner: Planners by reference.
        executors: Architectures, and executor files (.akd), which are taken as they are.
        methods: What makes executors.
        latencies: By how many ticks the planner is late, where it takes part.
        arms: Who acts.
        seeds: Of training runs; each also has evaluation episodes of its own.
        episodes: How many episodes each cell is measured over.
        eval_seed: Seed s is measured on the episodes from eval_seed + s * episodes on.
        labels: How many labels a method may ask the planner for.
        hz: Ticks per second, where the planner is late.
        guard: Refuses actions that are not safe, "module:attribute"; "" for none.
        holds: Refuses strategies that no longer lead where they should, likewise.
        roll_forward: Predicts where the planner's answer will arrive, likewise, or the name of a
            MuJoCo environment.
        planner_sees: What the planner sees of the observation; "" for all.
        executor_sees: What new executors see.
    """

    env: tuple[str, ...]
    planner: tuple[str, ...]
    executors: tuple[str, ...] = ("mlp:64,64",)
    methods: tuple[MethodEntry, ...] = (MethodEntry("distill", BUILT_IN["distill"], {}),)
    latencies: tuple[int, ...] = (0,)
    arms: tuple[Arm, ...] = ("executor",)
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 10
    eval_seed: int = 1000
    labels: int = 10_000
    hz: float = 50.0
    guard: str = ""
    holds: str = ""
    roll_forward: str = ""
    planner_sees: str = ""
    executor_sees: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite: its name, what it is for, and its groups of tasks."""

    name: str
    about: str
    groups: tuple[Group, ...]


def find_suite(name: str) -> Path:
    """Return the file of a suite: a path, or the name of one in benchmarks/suites.

    Raises:
        ConfigError: If there is none.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise ConfigError(f"No suite {name}: there is no such file in {Path.cwd()}.")
        return path
    shipped = _SHIPPED / f"{name}.toml"
    if not shipped.is_file():
        known = [each.stem for each in _SHIPPED.glob("*.toml")]
        hint = did_you_mean(name, known)
        if not known:
            hint = f" {_SHIPPED}/ is not here: run from agentkd's repository, or name a file."
        raise ConfigError(f"No suite {name!r}.{hint} A suite of your own is a file: mine.toml.")
    return shipped


def read_suite(path: Path) -> Suite:
    """Read a suite's file.

    Raises:
        LoadError: If the file cannot be read, or is larger than 1 MiB.
        ConfigError: If it is not TOML, or a key or value is wrong: with file, key, value, remedy.
    """
    raw = read_file(path, _LARGEST)
    try:
        told = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    except ValueError as error:
        # Python reads no integer of more than 4,300 digits.
        raise ConfigError(
            f"{path} has a number of too many digits. Write a smaller one."
        ) from error
    about = told.pop("about", "")
    if not isinstance(about, str):
        raise ConfigError(f"{path}: about is {about!r}; write a sentence in quotation marks.")
    tasks = told.pop("tasks", None)
    # Before the tasks: where they are missing, their name may be misspelt.
    common = _read(told, f"{path}", _COMMON, ("about", "tasks"))
    if not isinstance(tasks, list) or not tasks or not all(isinstance(t, dict) for t in tasks):
        what = " has no tasks" if tasks is None else f": tasks is {_shown(tasks)}"
        raise ConfigError(
            f"{path}{what}; write a table [[tasks]] with env and planner for each group of tasks."
        )
    groups = []
    for number, each in enumerate(tasks, 1):
        where = f"{path}: tasks[{number}]"
        own = _read(each, where, _READERS)
        for needed in ("env", "planner"):
            if needed not in own:
                raise ConfigError(f"{where} has no {needed}. Write {needed} = {_HINTS[needed]}.")
        groups.append(Group(**{**common, **own}))
    return Suite(path.stem, about, tuple(groups))


def with_methods(suite: Suite, references: tuple[str, ...]) -> Suite:
    """Add methods by reference, or by the name of one of ours, to each group of a suite.

    Raises:
        ConfigError: If one is neither.
    """
    more = tuple(_method(each, "--method") for each in references)
    groups = []
    for group in suite.groups:
        known = {each.name for each in group.methods}
        fresh = tuple(each for each in more if each.name not in known)
        groups.append(replace(group, methods=(*group.methods, *fresh)))
    return replace(suite, groups=tuple(groups))


class _WrongError(ValueError):
    """A value that a key does not take; the message is the remedy."""


def _read(
    told: Mapping[str, Any], where: str, known: Mapping[str, Any], more_known: Sequence[str] = ()
) -> dict[str, Any]:
    """Read the keys of a table; an unknown one is told with the nearest, of `more_known` too."""
    found = {}
    for key, value in told.items():
        if key not in known:
            more = ""
            if key in _READERS:
                more = f" {key} belongs into a [[tasks]] table."
            raise ConfigError(
                f"{where} has an unknown key {key!r}."
                f"{did_you_mean(key, [*known, *more_known])}{more}"
            )
        try:
            found[key] = known[key](value)
        except _WrongError as error:
            raise ConfigError(f"{where}: {key} is {_shown(value)}; {error}") from error
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _WrongError("write a name in quotation marks.")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    """Read a name, or a list of different names."""
    values = [value] if isinstance(value, str) else value
    return _different(values, _text, "a list of names in quotation marks")


def _different(values: Any, read: Callable[[Any], Any], what: str) -> tuple[Any, ...]:
    if not isinstance(values, list) or not 0 < len(values) <= _MOST:
        raise _WrongError(f"write {what}.")
    found = tuple(read(each) for each in values)
    if len(set(found)) < len(found):
        raise _WrongError("name each once.")
    return found


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _WrongError(f"write a whole number from {least} to {most}.")
        return value

    return read


def _seeds(value: Any) -> tuple[int, ...]:
    """Read how many seeds there are, or a list of them."""
    seed = _whole(0, _LAST_SEED)
    if isinstance(value, list):
        return _different(value, seed, "a number of seeds, or a list of them")
    return tuple(range(_whole(1, _MOST)(value)))


_LAST_SEED = 100_000
_LABELS = _whole(1, 1_000_000_000)


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise _WrongError("write ticks per second, above 0 and at most 1e6.")
    return float(value)


def _environments(value: Any) -> tuple[str, ...]:
    found = _texts(value)
    for each in found:
        try:
            check_name(each)
        except AgentkdError as error:
            raise _WrongError(f"{error}") from error
    return found


def _architectures(value: Any) -> tuple[str, ...]:
    from agentkd.executors.architecture import parse

    found = _texts(value)
    for each in found:
        if not each.endswith(".akd"):
            try:
                parse(each)
            except AgentkdError as error:
                raise _WrongError(f"{error}") from error
        elif not Path(each).is_file():
            raise _WrongError(f"no file {each}: paths are as seen from {Path.cwd()}.")
    return found


def _arms(value: Any) -> tuple[str, ...]:
    def one(arm: Any) -> str:
        if arm not in ARMS:
            raise _WrongError(f"the arms are {', '.join(ARMS)}.")
        return str(arm)

    return _different(value, one, f"a list of some of {', '.join(ARMS)}")


def _references(value: Any) -> str:
    text = _text(value)
    if not is_reference(text):
        raise _WrongError("write module:attribute, such as policies.freeway:safe.")
    return text


def _methods(value: Any) -> tuple[MethodEntry, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= _MOST:
        raise _WrongError(f"write a list of names ({', '.join(BUILT_IN)}), references, or tables.")
    found = tuple(_method(each, "") for each in value)
    if len({each.name for each in found}) < len(found):
        raise _WrongError("give each its own name: {name = …, method = …}.")
    return found


def _method(value: Any, flag: str) -> MethodEntry:
    """Read a method: a name of ours, module:attribute, or a table with method and options."""
    table = dict(value) if isinstance(value, dict) else {"method": value}
    called = table.pop("method", None)
    name = table.pop("name", called)
    labels = table.pop("labels", None)
    if labels is not None:
        try:
            labels = _LABELS(labels)
        except _WrongError as error:
            raise _WrongError(f"labels is {_shown(labels)}; {error}") from error
    reference = BUILT_IN.get(called, called) if isinstance(called, str) else None
    if not isinstance(name, str) or not name or reference is None or not is_reference(reference):
        remedy = (
            f"a method is {' or '.join(BUILT_IN)}, module:attribute, or a table such as "
            '{name = "hard", method = "distill", terms = "hard"}.'
        )
        if flag:
            raise ConfigError(f"{flag} {_shown(value)}: {remedy}")
        raise _WrongError(remedy)
    if name == FILE:
        raise _WrongError(f"{FILE!r} is what executor files are called; take another name.")
    for key, each in table.items():
        if not _plain(each):
            raise _WrongError(f"{key} is {_shown(each)}; options are texts, numbers and lists.")
    return MethodEntry(name, reference, table, labels)


def _plain(value: Any) -> bool:
    """Whether a value is the same as JSON."""
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool | int)


_COMMON: dict[str, Callable[[Any], Any]] = {
    "executors": _architectures,
    "methods": _methods,
    "latencies": lambda v: _different(v, _whole(0, 100_000), "a list of numbers of ticks"),
    "arms": _arms,
    "seeds": _seeds,
    "episodes": _whole(1, _EPISODES),
    "eval_seed": _whole(0, 1_000_000_000),
    "labels": _LABELS,
    "hz": _rate,
}
_READERS: dict[str, Callable[[Any], Any]] = {
    **_COMMON,
    "env": _environments,
    "planner": _texts,
    "guard": _references,
    "holds": _references,
    "roll_forward": _text,
    "planner_sees": _text,
    "executor_sees": _text,
}
_HINTS = {"env": '"LunarLander-v3"', "planner": '"policies/lunarlander"'}
