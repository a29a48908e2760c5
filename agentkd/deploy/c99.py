"""An executor as one C99 file: no allocation, no I/O, buffers of a known size.

The arithmetic is `executors/c/akd_kernels.h`, of which only what this executor uses is
written into the file. It takes one observation at a time, and carries golden vectors
behind `#ifdef NAME_TEST`, with which it checks itself on the machine it was built for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentkd.deploy.ctext import (
    aligned,
    array,
    comment,
    facts,
    kernels,
    literal,
    wrapped,
)
from agentkd.deploy.layout import BLOCK, actions, ctype
from agentkd.deploy.selftest import self_test
from agentkd.dists import bounds
from agentkd.errors import ConfigError, NumbersError
from agentkd.executors.frozen import Frozen
from agentkd.executors.layers import Activation, Conv, Dense, Layer, kind
from agentkd.executors.plan import Step, normaliser, rooms, steps, up
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}")
_KEYWORDS = frozenset(
    [
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "main",
        "register",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
        "volatile",
        "while",
    ]
)


def emit_c(
    frozen: Frozen,
    name: str = "executor",
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Write an executor as the text of a C file.

    It defines `int NAME_act(const float obs[], TYPE action[])`, where TYPE is int32_t
    for choices and float for numbers, and `int NAME_outputs(const float obs[],
    float out[])`, which gives the last layer's numbers. With a memory, both take it
    after `obs`, the caller's. Both return 0, or 1 where the observation holds NaN or
    infinity and nothing is written.

    Args:
        frozen: The executor.
        name: Begins every name in the file.
        provenance: Where it came from; written into the comment at the head.

    Raises:
        ConfigError: If `name` is no name in C.
        NumbersError: If a weight is NaN or infinite.
    """
    if not _NAME.fullmatch(name) or name in _KEYWORDS:
        raise ConfigError(
            f"{name!r} cannot begin names in C; take up to 31 letters, digits and _, "
            "such as executor."
        )
    if not np.isfinite(frozen.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights is not written.")
    pieces = [
        _head_comment(frozen, name, provenance or {}),
        _declarations(frozen, name),
        *_kernels(frozen, name),
        *_constants(frozen, name),
        _outputs(frozen, name),
        _act(frozen, name),
        self_test(frozen, name),
        f"#endif /* {name.upper()}_DECLARATIONS */\n",
    ]
    return "\n".join(pieces)


def _head_comment(frozen: Frozen, name: str, provenance: Mapping[str, Any]) -> str:
    upper = name.upper()
    laid, room = steps(frozen, BLOCK), rooms(frozen, BLOCK)
    norm = normaliser(frozen)
    floats = sum(each.size for step in laid for each in step.arrays)
    floats += 2 * len(norm.mean)
    lines = [
        "An executor of agentkd: a decision for one observation. Generated; edit not.",
        "",
    ]
    lines += [f"{key + ':':<14}{value}" for key, value in facts(frozen, provenance)]
    lines += [
        f"{'constants:':<14}{4 * floats} bytes",
        f"{'buffers:':<14}{4 * (2 * room.width + room.work)} bytes, static",
        "",
        "It promises: C99 and nothing else; no malloc, no stdio, no recursion; needs",
        "<math.h> and <stdint.h> alone; every loop has a fixed bound. Its buffers are",
        "static: one caller at a time.",
        "",
        f"Check it where it runs:  cc -std=c99 -D{upper}_TEST {name}.c -lm && ./a.out",
        f"Call it from elsewhere:  #define {upper}_DECLARATIONS and include this.",
    ]
    if frozen.memory:
        lines.insert(2, f"{'memory:':<14}{4 * frozen.memory} bytes, the caller's")
    body = "\n".join(f" * {comment(line)}".rstrip() for line in lines)
    return f"/*\n{body}\n */"


def _declarations(frozen: Frozen, name: str) -> str:
    upper = name.upper()
    count = actions(frozen)
    match frozen.spec.action:
        case DiscreteSpec(n, start):
            said = f"`action` is one choice from {start} to {start + n - 1}."
        case MultiDiscreteSpec():
            said = f"`action` is {count} choices, each from 0 on."
        case BoxSpec():
            said = f"`action` is {count} numbers in the environment's units."
        case _:
            said = f"`action` is {count} times 0 or 1."
    memory = f", float memory[{upper}_MEMORY]" if frozen.memory else ""
    if frozen.memory:
        said += (
            "\n * `memory` is what the executor remembers: fill it with zeros where an "
            "episode\n * begins. Both functions bring it up to date: call one of them, "
            "once a tick."
        )
    define = f"\n#define {upper}_MEMORY {frozen.memory}" if frozen.memory else ""
    return f"""#ifndef {upper}_H
#define {upper}_H

#include <math.h>
#include <stdint.h>

#define {upper}_OBS {frozen.spec.obs.size}
#define {upper}_OUT {frozen.out}
#define {upper}_ACTION {count}{define}

/* Both return 0, or 1 where `obs` holds NaN or infinity and nothing is written.
 * Observations are as the environment gives them: the normaliser is inside.
 * {said} */
int {name}_act(const float obs[{upper}_OBS]{memory},
{" " * (len(name) + 9)}{ctype(frozen)} action[{upper}_ACTION]);
/* The last layer's numbers. */
int {name}_outputs(const float obs[{upper}_OBS]{memory}, float out[{upper}_OUT]);

#endif /* {upper}_H */

#ifndef {upper}_DECLARATIONS
"""


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


def _plain(frozen: Frozen) -> bool:
    """Whether each number of an observation has a mean and a scale of its own."""
    return len(normaliser(frozen).mean) == frozen.spec.obs.size


def _kernels(frozen: Frozen, name: str) -> Iterator[str]:
    wanted = {"normalise" if _plain(frozen) else "normalise_image"}
    for layer in frozen.layers:
        wanted |= {kind(layer), _activation(layer), *_NEEDS.get(kind(layer), ())}
    match frozen.head:
        case "categorical" | "multicategorical":
            wanted.add("best")
        case "squashed":
            wanted |= {"squash", "bound"}
        case "clipped":
            wanted.add("bound")
    # "up" first: the others are written after what they call.
    texts = kernels()
    for kernel in sorted(texts, key=lambda each: each not in ("up", "sigmoid")):
        if kernel in wanted:
            named = texts[kernel].replace("akd_", f"{name}_")
            named = named.replace("AKD_BLOCK", str(BLOCK))
            yield aligned(named.replace("static inline", "static"))


def _constants(frozen: Frozen, name: str) -> Iterator[str]:
    norm, room = normaliser(frozen), rooms(frozen, BLOCK)
    yield "/* The normaliser. */\n" + array("float", f"{name}_mean", norm.mean)
    yield array("float", f"{name}_scale", norm.scale)
    for index, step in enumerate(steps(frozen, BLOCK)):
        yield from _arrays(frozen.layers[index], step, index, name)
    action = frozen.spec.action
    if isinstance(action, MultiDiscreteSpec):
        yield array("int32_t", f"{name}_sizes", action.sizes)
    if isinstance(action, BoxSpec):
        low, high = bounds(action)
        yield array("float", f"{name}_low", low)
        yield array("float", f"{name}_high", high)
    work = f"static float {name}_work[{room.work}];\n" if room.work else ""
    yield (
        f"static float {name}_x[{room.width}];\n"
        f"static float {name}_y[{room.width}];\n{work}"
    )


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
    yield (
        f"static const float *const {name}_arrays{index}[{len(names)}] = {{\n"
        f"{wrapped(names)}\n}};\n"
    )


@dataclass(frozen=True, slots=True)
class _Call:
    """A layer's call, and the buffer that holds what it gave."""

    text: str
    buffer: str


def _calls(frozen: Frozen, n: str) -> list[_Call]:
    calls, here, there, memory = [], "x", "y", 0
    for index, (layer, step) in enumerate(
        zip(frozen.layers, steps(frozen, BLOCK), strict=True)
    ):
        given = f"{n}_dims{index}, {n}_arrays{index}, {n}_{here}"
        given += "" if step.kind == "attention" else f", {n}_{there}"
        if isinstance(layer, Dense):
            given = (
                f"{n}_weight{index}, {n}_bias{index}, {step.inputs}, "
                f"{up(step.out, BLOCK)}, {n}_{here}, {n}_{there}"
            )
        if step.work:
            given += f", {n}_work"
        if step.memory:
            given += f", memory + {memory}" if memory else ", memory"
            memory += step.memory
        text = f"        {n}_{step.kind}({given});"
        if step.kind != "attention":
            here, there = there, here
        if _activation(layer) != "none":
            text += f"\n        {n}_{_activation(layer)}({n}_{here}, {step.out});"
        calls.append(_Call(text, here))
    return calls


def _outputs(frozen: Frozen, name: str) -> str:
    n = name
    calls = _calls(frozen, n)
    body = "\n".join(call.text for call in calls)
    last = f"{n}_{calls[-1].buffer}"
    clip, size = literal(frozen.clip), frozen.spec.obs.size
    norm = normaliser(frozen)
    image = "" if _plain(frozen) else f"{len(norm.mean)}, {norm.apart}, "
    function = f"{n}_normalise" if _plain(frozen) else f"{n}_normalise_image"
    remembers = bool(frozen.memory)
    memory = f", float memory[{n.upper()}_MEMORY]" if remembers else ""
    return f"""/* Leaves the last layer's numbers in {last}. */
static int32_t {n}_forward(const float *obs{", float *memory" if remembers else ""})
{{
    const int32_t whole =
        {function}(obs, {n}_mean, {n}_scale, {clip}, {size}, {image}{n}_x);
    if (whole != 0) {{
{body}
    }}
    return whole;
}}

int {n}_outputs(const float obs[{n.upper()}_OBS]{memory}, float out[{n.upper()}_OUT])
{{
    int failed = 1;
    if ({n}_forward(obs{", memory" if remembers else ""}) != 0) {{
        for (int32_t i = 0; i < {n.upper()}_OUT; i++) {{
            out[i] = {last}[i];
        }}
        failed = 0;
    }}
    return failed;
}}
"""


def _act(frozen: Frozen, name: str) -> str:
    n, upper = name, name.upper()
    last = f"{n}_{_calls(frozen, n)[-1].buffer}"
    loop = f"for (int32_t i = 0; i < {upper}_ACTION; i++) {{\n            "
    match frozen.head:
        case "categorical":
            assert isinstance(frozen.spec.action, DiscreteSpec)
            start = frozen.spec.action.start
            tail = f" + {start}" if start > 0 else f" - {-start}" if start else ""
            body = f"action[0] = {n}_best({last}, {upper}_OUT){tail};"
        case "multicategorical":
            body = (
                f"const float *scores = {last};\n        {loop}"
                f"action[i] = {n}_best(scores, {n}_sizes[i]);\n"
                f"            scores += {n}_sizes[i];\n        }}"
            )
        case "bernoulli":
            body = f"{loop}action[i] = {last}[i] > 0.0f ? 1 : 0;\n        }}"
        case "squashed":
            body = (
                f"{loop}const float low = {n}_low[i], high = {n}_high[i];\n"
                f"            const float v = {n}_squash({last}[i], low, high);\n"
                f"            action[i] = {n}_bound(v, low, high);\n"
                "        }"
            )
        case "clipped":
            body = (
                f"{loop}action[i] = {n}_bound({last}[i], {n}_low[i], {n}_high[i]);\n"
                "        }"
            )
    remembers = bool(frozen.memory)
    memory = f", float memory[{upper}_MEMORY]" if remembers else ""
    return f"""int {n}_act(const float obs[{upper}_OBS]{memory},
{" " * (len(n) + 9)}{ctype(frozen)} action[{upper}_ACTION])
{{
    int failed = 1;
    if ({n}_forward(obs{", memory" if remembers else ""}) != 0) {{
        {body}
        failed = 0;
    }}
    return failed;
}}
"""
