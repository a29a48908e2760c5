"""An executor as one C99 file: no allocation, no I/O, buffers of a known size.

The arithmetic is `executors/c/akd_kernels.h`, of which only what this executor uses is written into
the file; its functions are those of `interface.py`. It takes one observation at a time, and carries
golden vectors behind `#ifdef NAME_TEST`, with which it checks itself on the machine it was built
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from agentkd.deploy.ctext import (
    aligned,
    array,
    bounds_of,
    facts,
    kernels,
    literal,
    preamble,
    taken_note,
    wrapped,
)
from agentkd.deploy.interface import Buffer, Interface, check_name
from agentkd.deploy.vectors import golden
from agentkd.dists import action_width
from agentkd.errors import NumbersError
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Activation, Conv, Dense, Layer, kind
from agentkd.executors.plan import BLOCK, Step, ctype, normaliser, rooms, steps, up
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec


def emit_c(
    executor: Executor, name: str = "executor", provenance: Mapping[str, Any] | None = None
) -> str:
    """Write an executor as the text of a C file, in which every name begins with `name`.

    It defines `int NAME_step(struct NAME_state *, const float obs[], TYPE action[], float out[])`,
    which is re-entrant, and `NAME_act` and `NAME_outputs`, which use a static buffer; `header_of`
    takes the header out. TYPE is int32_t for choices and float for numbers. All return 0, or 1
    where the observation or the last layer's numbers hold NaN or infinity and nothing is written.

    Where the executor came from is written into the comment at the head.

    Raises:
        ConfigError: If `name` cannot begin names in C.
        NumbersError: If a weight is NaN or infinite.
    """
    check_name(name)
    executor.check_finite()
    face = _interface(executor, name)
    pieces = [
        _head_comment(executor, name, provenance or {}),
        "#include <math.h>\n#include <string.h>\n",
        face.fill("interface.h"),
        *_kernels(executor, name),
        *_constants(executor, name),
        _forward(executor, face),
        _decide(executor, face),
        face.fill("interface.c"),
        _self_test(executor, face),
    ]
    return "\n".join(pieces)


_PROMISES = """\
It promises: C99 and nothing else, also valid C++; no malloc, no stdio, no
recursion; needs <math.h>, <stdint.h> and <string.h> alone; every loop has a
fixed bound. NaN and infinity are refused under -ffast-math too."""


def _head_comment(executor: Executor, name: str, provenance: Mapping[str, Any]) -> str:
    laid, room = steps(executor, BLOCK), rooms(executor, BLOCK)
    floats = sum(each.size for step in laid for each in step.arrays)
    floats += 2 * len(normaliser(executor).mean)
    told = [
        *facts(executor, provenance),
        ("constants", f"{4 * floats} bytes"),
        ("buffers", f"{4 * (2 * room.width + room.work)} bytes"),
    ]
    if executor.memory:
        told.insert(0, ("memory", f"{4 * executor.memory} bytes, the caller's"))
    title = "An executor of agentkd: a decision for one observation"
    check = f"cc -std=c99 -D{name.upper()}_TEST {name}.c -lm"
    return preamble(title, told, _PROMISES, check)


def _interface(executor: Executor, name: str) -> Interface:
    count, room = action_width(executor.spec.action), rooms(executor, BLOCK)
    match executor.spec.action:
        case DiscreteSpec(n, start):
            said = f"one choice from {start} to {start + n - 1}"
        case MultiDiscreteSpec():
            said = f"{count} choices, each from 0 on"
        case BoxSpec():
            said = f"{count} numbers in the environment's units"
        case _:
            said = f"{count} times 0 or 1"
    scratch = {"x": room.width, "y": room.width, "work": room.work}
    return Interface(
        name,
        obs=executor.spec.obs.size,
        out=executor.out,
        actions=count,
        number="float",
        action=ctype(executor.spec),
        scratch=tuple(Buffer("float", *each) for each in scratch.items() if each[1]),
        memory=Buffer("float", "memory", executor.memory) if executor.memory else None,
        action_note=f"`action` is {said}.",
        out_note="`out` is the last layer's numbers.",
        obs_note=taken_note(executor.spec),
    )


_NEEDS = {
    "conv": ("up", "dense"),
    "tokens": ("up", "dense"),
    "attention": ("up", "dense", "norm", "head", "relu"),
    "pool": ("norm",),
    "gru": ("up", "dense", "sigmoid"),
    "lstm": ("up", "dense", "sigmoid"),
}
"""The kernels that each kind of layer calls."""


def _activation(layer: Layer) -> Activation:
    return layer.activation if isinstance(layer, Dense | Conv) else "none"


def _plain(executor: Executor) -> bool:
    """Whether each number of an observation has a mean and a scale of its own."""
    return len(normaliser(executor).mean) == executor.spec.obs.size


def _kernels(executor: Executor, name: str) -> Iterator[str]:
    wanted = {"largest", "finite", "bound"}
    wanted.add("normalise" if _plain(executor) else "normalise_image")
    for layer in executor.layers:
        wanted |= {kind(layer), _activation(layer), *_NEEDS.get(kind(layer), ())}
    if executor.head in ("categorical", "multicategorical"):
        wanted.add("best")
    if executor.head == "squashed":
        wanted.add("squash")
    # "up" first: the others are written after what they call.
    texts = kernels()
    for kernel in sorted(texts, key=lambda each: each not in ("up", "sigmoid")):
        if kernel in wanted:
            named = texts[kernel].replace("akd_", f"{name}_")
            named = named.replace("AKD_BLOCK", str(BLOCK))
            yield aligned(named.replace("static inline", "static"))


def _constants(executor: Executor, name: str) -> Iterator[str]:
    norm = normaliser(executor)
    yield "/* The normaliser. */\n" + array("float", f"{name}_mean", norm.mean)
    yield array("float", f"{name}_scale", norm.scale)
    for index, step in enumerate(steps(executor, BLOCK)):
        yield from _arrays(executor.layers[index], step, index, name)
    yield from bounds_of(executor.spec.action, name)


def _arrays(layer: Layer, step: Step, index: int, name: str) -> Iterator[str]:
    said = f"Layer {index}, {step.kind}: {step.inputs} to {step.out}"
    if isinstance(layer, Dense):
        weight, bias = step.arrays
        yield (
            f"/* {said}, {layer.activation}. "
            f"Weights lie by input, {weight.shape[1]} in a row. */\n"
            + array("float", f"{name}_weight{index}", weight)
        )
        yield array("float", f"{name}_bias{index}", bias)
        return
    yield f"/* {said}. {name}_{step.kind} says what these are. */"
    names = [f"{name}_array{index}_{place}" for place in range(len(step.arrays))]
    for each, values in zip(names, step.arrays, strict=True):
        yield array("float", each, values)
    yield array("int32_t", f"{name}_dims{index}", step.dims)
    if not names:
        return
    yield (
        f"static const float *const {name}_arrays{index}[{len(names)}] = {{\n"
        f"{wrapped(names)}\n}};\n"
    )


def _calls(executor: Executor, n: str) -> tuple[str, str]:
    """The calls of all layers, and the buffer that holds what the last one gave."""
    calls, here, there, memory = [], "x", "y", 0
    laid = zip(executor.layers, steps(executor, BLOCK), strict=True)
    for index, (layer, step) in enumerate(laid):
        arrays = f"{n}_arrays{index}" if step.arrays else "NULL"
        given = f"{n}_dims{index}, {arrays}, s->{here}"
        given += "" if step.kind == "attention" else f", s->{there}"
        if isinstance(layer, Dense):
            given = (
                f"{n}_weight{index}, {n}_bias{index}, {step.inputs}, "
                f"{up(step.out, BLOCK)}, s->{here}, s->{there}"
            )
        if step.work:
            given += ", s->work"
        if step.memory:
            given += f", memory + {memory}" if memory else ", memory"
            memory += step.memory
        calls.append(f"    {n}_{step.kind}({given});")
        if step.kind != "attention":
            here, there = there, here
        if _activation(layer) != "none":
            calls.append(f"    {n}_{_activation(layer)}(s->{here}, {step.out});")
    return "\n".join(calls), f"s->{here}"


def _forward(executor: Executor, face: Interface) -> str:
    norm, (calls, last) = normaliser(executor), _calls(executor, face.name)
    image, channels = "", ""
    if not _plain(executor):
        image, channels = "_image", f"{len(norm.mean)}, {norm.apart}, "
    memory = f",\n{' ' * (len(face.name) + 29)}float *memory" if executor.memory else ""
    clip = literal(executor.clip)
    words = {"calls": calls, "channels": channels, "clip": clip, "image": image, "last": last}
    return face.fill("forward.c", memory=memory, **words)


def _decide(executor: Executor, face: Interface) -> str:
    action = executor.spec.action
    start = action.start if isinstance(action, DiscreteSpec) else 0
    text = f" {'+' if start > 0 else '-'} {abs(start)}" if start else ""
    return face.fill("decide.c", executor.head, start=text)


def _self_test(executor: Executor, face: Interface) -> str:
    """Write a `main` behind `#ifdef NAME_TEST` that checks golden vectors.

    It also checks that NaN and infinity are refused, in case the compiler was told that there are
    none. With a memory the vectors are one sequence.
    """
    n = face.name
    obs, outputs, taken = golden(executor)
    if not np.isfinite(outputs).all():
        raise NumbersError(
            "The executor's numbers overflow for usual observations, so that it would "
            "decide nothing; check its weights."
        )
    wanted = f"{n}_golden_action[row * {n.upper()}_ACTION + i]"
    # Squashed actions are rounded in units of their bounds' distance.
    span = f"{n}_high[i] - {n}_low[i]" if executor.head == "squashed" else "0.0f"
    apart = f"action[i] == {wanted} ? 0.0f : 1.0f"
    if face.action == "float":
        apart = f"{n}_apart(action[i], {wanted}, {span})"
    arrays = [
        array("float", f"{n}_golden_obs", obs),
        array("float", f"{n}_golden_out", outputs),
        array(face.action, f"{n}_golden_action", taken),
    ]
    refusals = face.fill("refuses.c")
    words = {"arrays": "\n".join(arrays), "apart": apart, "rows": len(obs), "refusals": refusals}
    return face.fill("selftest.c", **words)
