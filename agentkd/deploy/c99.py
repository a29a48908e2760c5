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

from agentkd.deploy.ctext import aligned, array, comment, facts, kernels, literal
from agentkd.deploy.layout import actions, ctype, padded, scratch, stride
from agentkd.deploy.selftest import self_test
from agentkd.dists import bounds
from agentkd.errors import ConfigError, NumbersError
from agentkd.executors.frozen import Frozen
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
    float out[])`, which gives the last layer's numbers. Both return 0, or 1 where the
    observation holds NaN or infinity and nothing is written.

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
    floats = sum(
        stride(len(e.bias)) * (e.weight.shape[1] + 1) for e in frozen.layers
    ) + 2 * len(frozen.mean)
    lines = [
        "An executor of agentkd: a decision for one observation. Generated; edit not.",
        "",
    ]
    lines += [f"{key + ':':<14}{value}" for key, value in facts(frozen, provenance)]
    lines += [
        f"{'constants:':<14}{4 * floats} bytes",
        f"{'buffers:':<14}{4 * 2 * scratch(frozen)} bytes, static",
        "",
        "It promises: C99 and nothing else; no malloc, no stdio, no recursion; needs",
        "<math.h> and <stdint.h> alone; every loop has a fixed bound. Its buffers are",
        "static: one caller at a time.",
        "",
        f"Check it where it runs:  cc -std=c99 -D{upper}_TEST {name}.c -lm && ./a.out",
        f"Call it from elsewhere:  #define {upper}_DECLARATIONS and include this.",
    ]
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
    return f"""#ifndef {upper}_H
#define {upper}_H

#include <math.h>
#include <stdint.h>

#define {upper}_OBS {frozen.spec.obs.size}
#define {upper}_OUT {len(frozen.layers[-1].bias)}
#define {upper}_ACTION {count}

/* Both return 0, or 1 where `obs` holds NaN or infinity and nothing is written.
 * Observations are as the environment gives them: the normaliser is inside.
 * {said} */
int {name}_act(const float obs[{upper}_OBS], {ctype(frozen)} action[{upper}_ACTION]);
/* The last layer's numbers. */
int {name}_outputs(const float obs[{upper}_OBS], float out[{upper}_OUT]);

#endif /* {upper}_H */

#ifndef {upper}_DECLARATIONS
"""


def _kernels(frozen: Frozen, name: str) -> Iterator[str]:
    wanted = {"normalise", "dense"}
    wanted |= {e.activation for e in frozen.layers if e.activation != "none"}
    match frozen.head:
        case "categorical" | "multicategorical":
            wanted.add("best")
        case "squashed":
            wanted |= {"squash", "bound"}
        case "clipped":
            wanted.add("bound")
    for kernel, text in kernels().items():
        if kernel in wanted:
            named = text.replace("akd_", f"{name}_")
            yield aligned(named.replace("static inline", "static"))


def _constants(frozen: Frozen, name: str) -> Iterator[str]:
    yield "/* The normaliser. */\n" + array("float", f"{name}_mean", frozen.mean)
    yield array("float", f"{name}_scale", frozen.scale)
    for index, layer in enumerate(frozen.layers):
        weight, bias = padded(layer.weight, layer.bias)
        rows, columns = weight.shape
        yield (
            f"/* Layer {index}: {rows} to {len(layer.bias)}, {layer.activation}. "
            f"Weights lie by input, {columns} in a row. */\n"
            + array("float", f"{name}_weight{index}", weight)
        )
        yield array("float", f"{name}_bias{index}", bias)
    action = frozen.spec.action
    if isinstance(action, MultiDiscreteSpec):
        yield array("int32_t", f"{name}_sizes", action.sizes)
    if isinstance(action, BoxSpec):
        low, high = bounds(action)
        yield array("float", f"{name}_low", low)
        yield array("float", f"{name}_high", high)
    yield (
        f"static float {name}_x[{scratch(frozen)}];\n"
        f"static float {name}_y[{scratch(frozen)}];\n"
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """Which buffer a layer reads and which it fills."""

    source: str
    target: str


def _steps(frozen: Frozen) -> list[_Step]:
    pair = ("x", "y")
    return [_Step(pair[i % 2], pair[(i + 1) % 2]) for i in range(len(frozen.layers))]


def _outputs(frozen: Frozen, name: str) -> str:
    n = name
    lines = []
    steps = _steps(frozen)
    for index, (layer, step) in enumerate(zip(frozen.layers, steps, strict=True)):
        out, inputs = layer.weight.shape
        lines.append(
            f"        {n}_dense({n}_weight{index}, {n}_bias{index}, {inputs}, "
            f"{stride(out)}, {n}_{step.source}, {n}_{step.target});"
        )
        if layer.activation != "none":
            lines.append(f"        {n}_{layer.activation}({n}_{step.target}, {out});")
    body = "\n".join(lines)
    clip, size = literal(frozen.clip), frozen.spec.obs.size
    return f"""/* Leaves the last layer's numbers in {n}_{steps[-1].target}. */
static int32_t {n}_forward(const float *obs)
{{
    const int32_t whole =
        {n}_normalise(obs, {n}_mean, {n}_scale, {clip}, {size}, {n}_x);
    if (whole != 0) {{
{body}
    }}
    return whole;
}}

int {n}_outputs(const float obs[{n.upper()}_OBS], float out[{n.upper()}_OUT])
{{
    int failed = 1;
    if ({n}_forward(obs) != 0) {{
        for (int32_t i = 0; i < {n.upper()}_OUT; i++) {{
            out[i] = {n}_{steps[-1].target}[i];
        }}
        failed = 0;
    }}
    return failed;
}}
"""


def _act(frozen: Frozen, name: str) -> str:
    n, upper = name, name.upper()
    last = f"{n}_{_steps(frozen)[-1].target}"
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
    kind = ctype(frozen)
    return f"""int {n}_act(const float obs[{upper}_OBS], {kind} action[{upper}_ACTION])
{{
    int failed = 1;
    if ({n}_forward(obs) != 0) {{
        {body}
        failed = 0;
    }}
    return failed;
}}
"""
