"""`agentkd inspect`: what an executor file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from agentkd.executors.frozen import Frozen
    from agentkd.executors.layers import Layer
    from agentkd.spec import ActionSpec, ObsSpec
    from agentkd.types import Floats

_MOST = 6


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say what an executor file is, and check that it is whole.

    Example: agentkd inspect runs/demo/executor.akd
    """

    file: tyro.conf.Positional[Path]
    """The executor file (.akd)."""


def run(options: Options) -> int:
    """Read the file, which checks every byte of it, and print a card."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from agentkd.deploy.bundle import read_bundle

    bundle = read_bundle(options.file)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    facts = describe(bundle.frozen)
    for name, value in _provenance(bundle.manifest.get("provenance", {})).items():
        facts.setdefault(name, value)
    facts |= {
        "file": f"{options.file.stat().st_size:,} bytes, format "
        f"{bundle.manifest['format']} {bundle.manifest['schema']}",
        "SHA-256": bundle.digest,
    }
    for name, value in facts.items():
        grid.add_row(name, Text(value))
    console = Console()
    console.print(Panel(grid, title=Text(str(options.file)), title_align="left"))
    console.print(
        "[green]whole[/]: every entry has the SHA-256 that was written, and its golden "
        "vectors give here what they gave where it was made"
    )
    return 0


def describe(frozen: Frozen) -> dict[str, str]:
    """What an executor is, in words, by name."""
    from agentkd.executors.layers import sizes

    widths = [frozen.spec.obs.size, *(sizes(layer)[1] for layer in frozen.layers)]
    shape = " - ".join(map(str, widths))
    kinds = ", ".join(dict.fromkeys(map(_kind, frozen.layers)))
    return {
        "executor": f"{frozen.architecture}, version {frozen.version}",
        "network": f"{shape}, {kinds}, {frozen.parameters:,} parameters",
        "observations": _observations(frozen.spec.obs),
        "actions": _actions(frozen.spec.action),
        "head": _HEADS[frozen.head],
        "normaliser": _normaliser(frozen),
    }


def _kind(layer: Layer) -> str:
    """A layer's kind, and its activation where it has one."""
    from agentkd.executors.layers import kind

    activation = getattr(layer, "activation", "none")
    return kind(layer) if activation == "none" else f"{kind(layer)} with {activation}"


_HEADS = {
    "categorical": "categorical: the choice with the greatest score",
    "multicategorical": "multicategorical: for each choice the greatest score",
    "bernoulli": "bernoulli: yes where the score is above 0",
    "squashed": "squashed: tanh, scaled to the bounds",
    "clipped": "clipped: cut off at the bounds",
}


def _observations(obs: ObsSpec) -> str:
    parts = [
        f"{part.name + ': ' if part.name else ''}{part.kind} {_shape(part.shape)} "
        f"{part.dtype}"
        for part in obs.parts
    ]
    return f"{obs.size} numbers; {', '.join(parts)}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one"


def _actions(action: ActionSpec) -> str:
    from agentkd.spec import BoxSpec, DiscreteSpec, MultiBinarySpec

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
    """A number if all are the same, else the first of them."""
    if len(set(values)) == 1:
        return f"{values[0]:g}"
    more = ", …" if len(values) > _MOST else ""
    return f"({', '.join(f'{value:g}' for value in values[:_MOST])}{more})"


def _normaliser(frozen: Frozen) -> str:
    import numpy as np

    if not frozen.mean.any() and (frozen.scale == 1.0).all():
        return f"none; clipped at ±{frozen.clip:g}"
    with np.errstate(divide="ignore"):
        deviation = 1.0 / frozen.scale
    return (
        f"means {_range(frozen.mean)}, deviations {_range(deviation)}; clipped at "
        f"±{frozen.clip:g} deviations"
    )


def _range(values: Floats) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"


def _provenance(data: Mapping[str, Any]) -> dict[str, str]:
    """What the maker wrote, in the order in which it is asked for."""
    left = dict(data)
    out: dict[str, str] = {}
    planner = left.pop("planner", None)
    if "env" in left:
        out["environment"] = str(left.pop("env"))
    if isinstance(planner, Mapping):
        refs = " + ".join(map(str, planner.get("refs", [])))
        out["planner"] = f"{planner.get('name', '')}, {refs}"
    elif planner is not None:
        out["planner"] = str(planner)
    command = left.pop("command", None)
    for name, value in left.items():
        if value not in (None, ""):
            counted = name == "labels" and isinstance(value, int)
            out[name.replace("_", " ")] = f"{value:,}" if counted else str(value)
    if isinstance(command, (list, tuple)):
        out["made by"] = " ".join(map(str, command))
    return out
