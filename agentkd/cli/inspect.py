"""`agentkd inspect`: what an executor file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import Bundle, read_bundle
from agentkd.deploy.contract import RESET, Contract
from agentkd.executors.architecture import view_of
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Layer, kind, sizes
from agentkd.printable import printable
from agentkd.signing.proof import proof_path
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, ObsSpec

_MOST = 6
_NAMED = 24
_HEADS = {
    "categorical": "categorical: the choice with the greatest score",
    "multicategorical": "multicategorical: for each choice the greatest score",
    "bernoulli": "bernoulli: yes where the score is above 0",
    "squashed": "squashed: tanh, scaled to the bounds",
    "clipped": "clipped: cut off at the bounds",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Describe an executor file, and check that it is whole."""

    file: tyro.conf.Positional[Path]
    """The executor file (.akd)."""

    trust: Path | None = None
    """The root.json of the repository that must have signed it; without it, the file counts as
    unsigned."""


def run(options: Options) -> int:
    """Read the file, which checks every byte of it, and print a card."""
    bundle = read_bundle(options.file, trust=options.trust)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    manifest, facts = bundle.manifest, describe(bundle)
    # What a maker wrote never stands in for what the file is.
    for name, value in origin(manifest.get("provenance", {})).items():
        facts.setdefault(name, value)
    facts |= takes(manifest.get("footprint", {}))
    rows, starts = len(bundle.golden["obs"]), int(bundle.golden["starts"].sum())
    episodes = f", {starts} episodes" if starts < rows else ""
    facts |= {
        "proof": f"{rows:,} golden vectors{episodes}",
        "file": f"{options.file.stat().st_size:,} bytes, format "
        f"{manifest['format']} {manifest['schema']}",
        "SHA-256": bundle.digest,
        "signature": signature(bundle, options.file),
    }
    for name, value in facts.items():
        grid.add_row(printable(name), printable(value))
    console = Console()
    console.print(Panel(grid, title=Text(str(options.file)), title_align="left"))
    console.print(
        Text.assemble(
            ("whole", "green"),
            ": every entry has the SHA-256 that was written, and its golden vectors "
            "give here what they gave where it was made",
        )
    )
    return 0


def signature(bundle: Bundle, file: Path, option: str = "--trust") -> str:
    """Return what is known of a file's signature; what was not checked counts as unsigned.

    `option` is the one with which it is checked.
    """
    if bundle.signed is not None:
        return str(bundle.signed)
    proof = proof_path(file)
    return f"unsigned: {proof.name} was not checked ({option})" if proof.exists() else "unsigned"


def describe(bundle: Bundle) -> dict[str, str]:
    """Return what an executor is and what its numbers mean, in words, by name."""
    told, executor = bundle.contract, bundle.executor
    widths = [executor.spec.obs.size, *(sizes(layer)[1] for layer in executor.layers)]
    shape = " - ".join(map(str, widths))
    kinds = ", ".join(dict.fromkeys(map(_kind, executor.layers)))
    facts = {
        "executor": f"{executor.architecture}, version {executor.version}",
        "network": f"{shape}, {kinds}, {executor.parameters:,} parameters",
        "observations": _observations(executor.spec.obs),
        "sees": ",".join(view_of(executor)),
        "actions": _actions(executor.spec.action),
        "head": _HEADS[executor.head],
        "normaliser": _normaliser(executor),
        "terms": _terms(told),
        "observed": _listed(told.obs_names, told.obs_units),
        "acted": _listed(told.action_names, told.action_units),
        "targets": _targets(told),
    }
    if told.period is not None:
        facts["clock"] = f"every {told.period:g} s, {1 / told.period:g} Hz"
    if executor.memory:
        facts["memory"] = f"{executor.memory} numbers; reset: {RESET}"
    return {name: text for name, text in facts.items() if text}


def _kind(layer: Layer) -> str:
    """Return a layer's kind, and its activation where it has one."""
    activation = getattr(layer, "activation", "none")
    return kind(layer) if activation == "none" else f"{kind(layer)} with {activation}"


def _observations(obs: ObsSpec) -> str:
    parts = [
        f"{part.name + ': ' if part.name else ''}{part.kind} "
        f"{'x'.join(map(str, part.shape)) or 'one'} {part.dtype}"
        for part in obs.parts
    ]
    action = f", and {obs.taken} of the action executed before" if obs.taken else ""
    return f"{obs.size} numbers; {', '.join(parts)}{action}"


def _actions(action: ActionSpec) -> str:
    match action:
        case DiscreteSpec(n, start):
            return f"one choice of {n}, from {start} on"
        case MultiBinarySpec(n):
            return f"{n} yes/no choices"
        case BoxSpec(low, high, _):
            return f"{len(low)} numbers, from {_few(low)} to {_few(high)}"
        case _:
            return f"{len(action.sizes)} choices, of {_few(action.sizes)}"


def _few(values: tuple[float, ...]) -> str:
    """Return a number if all are the same, else the first of them."""
    if len(set(values)) == 1:
        return f"{values[0]:g}"
    more = ", …" if len(values) > _MOST else ""
    return f"({', '.join(f'{value:g}' for value in values[:_MOST])}{more})"


def _normaliser(executor: Executor) -> str:
    if not executor.mean.any() and (executor.scale == 1.0).all():
        return f"none; clipped at ±{executor.clip:g}"
    with np.errstate(divide="ignore"):
        deviation = 1.0 / executor.scale
    means, deviations = (
        f"{each.min():.3g} to {each.max():.3g}" for each in (executor.mean, deviation)
    )
    return f"means {means}, deviations {deviations}; clipped at ±{executor.clip:g} deviations"


def _listed(names: Sequence[str], units: Sequence[str]) -> str:
    """Return number, name and unit of each, in the order in which they lie."""
    count = max(len(names), len(units))
    words = []
    for index in range(min(count, _NAMED)):
        name = names[index] if names else ""
        unit = f"({units[index]})" if units and units[index] else ""
        words.append(" ".join(each for each in (str(index), name, unit) if each))
    more = f", and {count - _NAMED} more" if count > _NAMED else ""
    return ", ".join(words) + more


def _terms(told: Contract) -> str:
    """Return what the observation is made of."""
    words = []
    for each in told.terms[:_NAMED]:
        size = "" if each.size is None else f" {each.size}"
        past = f" × {len(each.history)} ticks" if len(each.history) > 1 else ""
        words.append(f"{each.name}{size}{past}")
    more = f", and {len(told.terms) - _NAMED} more" if len(told.terms) > _NAMED else ""
    return ", ".join(words) + more


def _targets(told: Contract) -> str:
    """Return what the caller makes of an action."""
    scale = f"{_few(told.action_scale)} · action" if told.action_scale else ""
    return " + ".join(filter(None, (scale, _few(told.action_offset) if told.action_offset else "")))


def takes(footprint: Mapping[str, Any]) -> dict[str, str]:
    """Return what an executor takes, as far as it was measured."""
    out = {}
    if "weights_bytes" in footprint:
        out["weights"] = f"{footprint['weights_bytes']:,} bytes in float32"
    for each in footprint.get("cores", ()):
        count = each.get("instructions")
        said = "" if count is None else f"{count:,} instructions; "
        out[f"{each['label']}, {each['form']}"] = (
            f"{said}flash {each['flash']:,}, RAM {each['ram']:,}, stack {each['stack']:,}"
        )
    return out


def origin(data: Mapping[str, Any]) -> dict[str, str]:
    """Return what the maker wrote, the most important first."""
    first = ("env", "planner", "planner_digest", "labels", "retention", "returns")
    titles = {"env": "environment", "command": "made by", "versions": "with"}
    order = dict.fromkeys((*first, *(name for name in data if name not in titles), *titles))
    known = {name: _value(name, data[name]) for name in order if name in data}
    return {titles.get(name, name.replace("_", " ")): text for name, text in known.items() if text}


def _value(name: str, value: Any) -> str:
    """Return a fact in words; what does not look as expected is shown as it is."""
    match name, value:
        case _, None:
            return ""
        case "planner", Mapping():
            found = value.get("refs", ())
            named = isinstance(found, (list, tuple))
            refs = " + ".join(map(str, found)) if named else str(found)
            return f"{value.get('name', '')}, {refs}"
        case "labels", int():
            return f"{value:,}"
        case "retention", {"mean": float(mean), "low": float(low), "high": float(high)}:
            return (
                f"{mean:.3f} ({low:.3f} … {high:.3f}), {value.get('episodes', '?')} "
                f"episodes from seed {value.get('seed', '?')}"
            )
        case "returns", Mapping():
            known = [(k, v) for k, v in value.items() if isinstance(v, float)]
            return ", ".join(f"{who} {each:,.1f}" for who, each in known)
        case "versions", Mapping():
            return ", ".join(f"{package} {each}" for package, each in value.items())
        case "command", list() | tuple():
            return " ".join(map(str, value))
        case _:
            return str(value)
