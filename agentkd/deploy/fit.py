"""Whether one executor may take the place of another: spec, memory, meaning and numbers."""

from __future__ import annotations

import math

import numpy as np

from agentkd.deploy.contract import Contract
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Layer, Past, Stack, kind, memory
from agentkd.spec import Part

_SAME_PERIOD = 0.01
"""How far two periods may be apart, as a share: measured ones differ a little."""


def check_fit(present: Executor, executor: Executor) -> None:
    """Raise SpecError if spec or memory of an executor differ from those of the present one."""
    difference = _difference(present, executor)
    if difference:
        raise SpecError(
            f"The executor does not fit: {difference}. The present one acts on. Swap "
            "in one that was made for the same environment, or make a new Agent."
        )


def check_contract(present: Contract, contract: Contract) -> None:
    """Raise SpecError if two executors differ in meaning, or in the time between decisions."""
    # An agent whose file is never replaced compares nothing, and starts faster.
    from agentkd.deploy.contracts.compare import compare, words_apart
    from agentkd.deploy.contracts.told import Told

    ours, theirs = present.period, contract.period
    alike = ours and theirs and math.isclose(ours, theirs, rel_tol=_SAME_PERIOD)
    sides = Told(present, None, None), Told(contract, None, None)
    for each in (*words_apart(present, contract), *compare(*sides)):
        if each.status == "differs" and not (alike and each.name == "control rate"):
            raise SpecError(
                f"The executor does not fit: its {each.name} is {each.there}, the present one's "
                f"{each.here}. The present one acts on."
            )


def _difference(present: Executor, other: Executor) -> str:
    """Say how spec or memory of two executors differ; "" if they do not."""
    here, there = present.spec.obs, other.spec.obs
    if here.size != there.size:
        return f"it observes {there.size} numbers, the present one {here.size}"
    if here.layout != there.layout or len(here.parts) != len(there.parts):
        theirs, ours = (
            f"a {obs.layout} of {[part.name for part in obs.parts]}" for obs in (there, here)
        )
        return f"it observes {theirs}, the present one {ours}"
    for mine, its in zip(here.parts, there.parts, strict=True):
        if _meaning(mine) != _meaning(its):
            return f"it observes {its}, the present one {mine}"
    if present.spec.action != other.spec.action:
        return f"it acts in {other.spec.action}, the present one in {present.spec.action}"
    if _memories(present) != _memories(other):
        return (
            f"{other.architecture} remembers {other.memory} numbers, "
            f"{present.architecture} {present.memory}"
        )
    return ""


def _memories(executor: Executor) -> list[tuple[object, ...]]:
    """Return the kinds, sizes and layouts of what an executor remembers."""
    return [
        (kind(layer), memory(layer), *_layout(layer)) for layer in executor.layers if memory(layer)
    ]


def _layout(layer: Layer) -> tuple[int, ...]:
    """Return where observations end and actions begin in what a layer remembers of the past."""
    if isinstance(layer, Past):
        return layer.held, layer.size, layer.count, layer.actions, layer.width
    return (layer.size,) if isinstance(layer, Stack) else ()


def _meaning(part: Part) -> tuple[object, ...]:
    """Return everything but the float type: observations are laid out in float32."""
    dtype = "float" if np.issubdtype(np.dtype(part.dtype), np.floating) else part.dtype
    return part.name, part.kind, part.shape, dtype, part.sizes, part.start, part.seen


def check_numbers(executor: Executor) -> None:
    """Raise NumbersError if an executor answers ordinary observations with NaN."""
    # Without NumPy's generators, which take a device 3 MB.
    drawn = 2.0 * np.sin(np.arange(8.0 * len(executor.mean)) ** 2).reshape(8, -1)
    spread = 1.0 / np.maximum(np.abs(executor.scale), 1e-8)
    obs = (executor.mean + drawn * spread).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = executor.follow(obs) if executor.memory else executor.outputs(obs)
    if not np.isfinite(outputs).all():
        raise NumbersError("The executor answers with NaN or infinity.")
