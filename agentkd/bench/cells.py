"""Cells: what a suite measures, one by one, each known by a hash of its inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from agentkd.bench.suite import FILE, Group, Suite
from agentkd.environments import split
from agentkd.errors import ConfigError
from agentkd.files import digest_of, loading, regular
from agentkd.refs import is_reference, working_directory_on_path

CellArm = Literal["random", "planner", "executor", "int8", "runtime"]
"""Who acts; "random" is random actions."""

_LARGEST = 1 << 32
_MOST = 100_000
_RECIPE = ("env", "planner", "executor", "method", "reference", "options", "labels", "seed")
"""Fields of a cell that decide what its executor is, besides the views."""
_SEES = ("planner_sees", "executor_sees")
_SHOWN = ("env", "planner", "arm", "executor", "method", "latency", "episodes")
"""Fields of a cell by which tables tell it from others, besides the seed."""
_METHOD = ("reference", "options", "labels")
_HIDDEN = (*_METHOD, "hz", "guard", "holds", "roll_forward", *_SEES)
"""Fields that tables do not show: cells that differ in one of them alone would be mixed."""
_REFERENCES = ("planner", "reference", "executor", "guard", "holds", "roll_forward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One thing to measure: who acts where, for how many episodes. All fields are JSON values.

    Attributes:
        arm: Who acts.
        executor: The executor's architecture or file; "" where none acts.
        method: What made it, as tables call it.
        reference: The same as "module:attribute"; "" for a file.
        options: Further arguments of the method.
        labels: The most labels that the method may ask for.
        latency: By how many ticks the planner is late.
        seed: Of the training run.
        episodes: How many episodes; the first is reset with `first_seed`.
    """

    env: str
    planner: str = ""
    arm: CellArm
    executor: str = ""
    method: str = ""
    reference: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: int = 0
    latency: int = 0
    seed: int = 0
    episodes: int = 10
    first_seed: int = 1000
    hz: float = 50.0
    guard: str = ""
    holds: str = ""
    roll_forward: str = ""
    planner_sees: str = ""
    executor_sees: str = ""

    @property
    def name(self) -> str:
        """What a terminal calls it."""
        words = [self.env, self.planner, self.arm, self.executor, self.method]
        if self.arm == "runtime" or (self.arm == "planner" and self.latency):
            words.append(f"{self.latency} late")
        return "  ".join([*filter(None, words), f"seed {self.seed}"])

    @property
    def acts(self) -> bool:
        """Whether an executor acts."""
        return bool(self.executor)

    def key(self, digests: Mapping[str, str]) -> str:
        """Return the hash of everything that its result depends on, 24 hexadecimal digits.

        `digests` are those of what its references lead to.
        """
        own = {name: digests[ref] for name in _REFERENCES if (ref := getattr(self, name))}
        own["env"] = digests[self.env]
        return _hash({"cell": asdict(self), "digests": {**own, **self._seeing(digests)}})

    def recipe(self, digests: Mapping[str, str]) -> str:
        """Return the hash of everything that its executor depends on; "" where it is a file."""
        if not self.reference:
            return ""
        told = {name: getattr(self, name) for name in (*_RECIPE, *_SEES)}
        own = {name: digests[getattr(self, name)] for name in ("env", "planner", "reference")}
        return _hash({"recipe": told, "digests": {**own, **self._seeing(digests)}})

    def _seeing(self, digests: Mapping[str, str]) -> dict[str, str]:
        """Return the digests of the modules that views come from."""
        views = {name: getattr(self, name) for name in _SEES}
        return {name: digests[view] for name, view in views.items() if _module_of_view(view)}


CELL_FIELDS = tuple(each.name for each in fields(Cell))


def cells_of(suite: Suite) -> list[Cell]:
    """List the cells of a suite, each once: what is compared with first, then who is compared.

    Random actions and the planner that is never late are always among them.

    Raises:
        ConfigError: If there are more than 100,000, or two groups have cells that tables would mix.
    """
    found: dict[str, Cell] = {}
    alike: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
    for number, group in enumerate(suite.groups, 1):
        for cell in _of_group(group):
            found.setdefault(json.dumps(asdict(cell), sort_keys=True), cell)
            if len(found) > _MOST:
                raise ConfigError(f"{suite.name} has more than {_MOST:,} cells. Split it.")
            if cell.arm == "random":
                continue
            hidden = {name: getattr(cell, name) for name in _HIDDEN}
            hidden["eval_seed"] = group.eval_seed
            shown = tuple(getattr(cell, name) for name in _SHOWN)
            first, other = alike.setdefault(shown, (number, hidden))
            if hidden != other:
                _refuse(suite, cell, {first: other, number: hidden})
    return list(found.values())


def _refuse(suite: Suite, cell: Cell, groups: Mapping[int, Mapping[str, Any]]) -> None:
    """Tell in what two groups differ that tables do not show."""
    (first, mine), (second, theirs) = groups.items()
    key = next(name for name in mine if mine[name] != theirs[name])
    remedy = "Measure one of them in a suite of its own"
    if key in _METHOD:
        example = f'{{name = "{cell.method} 2", method = "{cell.method}"}}'
        remedy = f"Give the method of one its own name, such as {example}"
    who = " ".join(filter(None, (cell.arm, cell.executor, cell.method)))
    raise ConfigError(
        f"{suite.name}: tasks[{first}] and tasks[{second}] both have {who} on {cell.env} with "
        f"{cell.planner}, and differ in {key}: {mine[key]!r} and {theirs[key]!r}. Tables would mix "
        f"them. {remedy}, or make {key} the same."
    )


def _of_group(group: Group) -> Iterator[Cell]:
    for env in group.env:
        for seed in group.seeds:
            at = Cell(
                env=env,
                arm="random",
                seed=seed,
                episodes=group.episodes,
                first_seed=group.eval_seed + seed * group.episodes,
            )
            yield at
            for planner in group.planner:
                sees: dict[str, Any] = {"planner_sees": group.planner_sees}
                yield from _of_planner(group, replace(at, planner=planner, arm="planner", **sees))


def _of_planner(group: Group, alone: Cell) -> Iterator[Cell]:
    """List who acts for one planner, environment and seed."""
    yield alone
    late: dict[str, Any] = {"hz": group.hz, "roll_forward": group.roll_forward}
    under: dict[str, Any] = {"guard": group.guard, "holds": group.holds}
    if "planner" in group.arms:
        for latency in group.latencies:
            if latency:
                yield replace(alone, latency=latency, hz=group.hz)
    for made in _executors(group, alone):
        if "executor" in group.arms:
            guarded: dict[str, Any] = {"hz": group.hz, "guard": group.guard}
            guarded = guarded if group.guard else {}
            yield replace(made, arm="executor", **guarded)
        if "int8" in group.arms:
            yield replace(made, arm="int8")
        if "runtime" in group.arms:
            for latency in group.latencies:
                yield replace(made, arm="runtime", latency=latency, **late, **under)


def _executors(group: Group, alone: Cell) -> Iterator[Cell]:
    """Give a cell for each executor; who acts in it is open."""
    if group.arms == ("planner",):
        return
    for executor in group.executors:
        if executor.endswith(".akd"):
            yield replace(alone, executor=executor, method=FILE)
            continue
        for method in group.methods:
            yield replace(
                alone,
                executor=executor,
                method=method.name,
                reference=method.reference,
                options=dict(method.options),
                labels=group.labels if method.labels is None else method.labels,
                executor_sees=group.executor_sees,
            )


def digests_of(cells: list[Cell]) -> dict[str, str]:
    """Return the SHA-256 of what each reference of the cells leads to, "" where it is no file.

    Of a path that is its file, or all files of its folder but documents; of "module:attribute" and
    "module:Id-v0" the module's file, also where a view names one. What a module imports is not
    looked into.

    Raises:
        LoadError: If a file cannot be read.
    """
    named = {getattr(each, name) for each in cells for name in ("env", *_REFERENCES)}
    views = {getattr(each, name) for each in cells for name in _SEES}
    found = {each: _digest(each) for each in named - {""}}
    return found | {each: _of_module(module) for each in views if (module := _module_of_view(each))}


def _module_of_view(view: str) -> str:
    """Return the module that a view such as "mine:view,stack:4" comes from; "" if none."""
    words = (word.strip() for word in view.split(","))
    return next((w.partition(":")[0] for w in words if is_reference(w)), "")


def _digest(ref: str) -> str:
    path = Path(ref)
    if path.is_file():
        return _of_files([path])
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        return _of_files([e for e in files if e.suffix not in (".md", ".pyc")])
    base, _ = split(ref) if "{" in ref else (ref, {})
    module, colon, _ = base.partition(":")
    if not colon or not is_reference(f"{module}:x"):
        return ""
    return _of_module(module)


def _of_module(module: str) -> str:
    working_directory_on_path()
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        return ""
    origin = found.origin if found is not None else None
    return _of_files([Path(origin)]) if origin and Path(origin).is_file() else ""


def _of_files(paths: list[Path]) -> str:
    sums = []
    for path in paths:
        with regular(path, _LARGEST) as stream, loading(path):
            sums.append(f"{path.name} {digest_of(stream)}")
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


def _hash(told: Mapping[str, Any]) -> str:
    whole = {"agentkd": version("agentkd"), **told}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:24]
