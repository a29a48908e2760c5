"""An executor in integers as one C99 file: no allocation, no I/O, the same everywhere.

The arithmetic is `executors/c/akd_int8.h`, which is copied into the file. Behind
`#ifdef NAME_TEST` lie golden vectors, with which it checks itself bit by bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import agentkd.executors
from agentkd import dists
from agentkd.deploy.ctext import array, comment
from agentkd.deploy.int8.reference import Int8s, IntLayer, Quantised
from agentkd.dists import bounds
from agentkd.errors import ConfigError
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import Floats

BLOCK = 4
"""Outputs that the kernel sums side by side."""
_GOLDEN = 16
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}")


def emit_c_int8(
    quantised: Quantised,
    name: str = "executor",
    provenance: Mapping[str, Any] | None = None,
    *,
    golden: Floats | None = None,
) -> str:
    """Write an executor in integers as the text of a C file.

    It defines `int NAME_act(const float obs[], TYPE action[])`, where TYPE is int32_t
    for choices and float for numbers, and `int NAME_outputs(const float obs[],
    int32_t out[])`, which gives the integers. Both return 0, or 1 where the observation
    holds NaN or infinity and nothing is written.

    Args:
        quantised: The executor.
        name: Begins every name in the file.
        provenance: Where it came from; written into the comment at the head.
        golden: Observations, (rows, obs), to check itself with; by default 16 drawn
            as the normaliser describes them.

    Raises:
        ConfigError: If `name` is no name in C.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot begin names in C; take up to 31 letters, digits and _, "
            "such as executor."
        )
    obs = probes(quantised, _GOLDEN) if golden is None else golden
    return "\n".join(
        [
            _head(quantised, name, provenance or {}),
            _declarations(quantised, name),
            kernel(),
            *_constants(quantised, name),
            _functions(quantised, name),
            _self_test(quantised, name, obs),
            f"#endif /* {name.upper()}_DECLARATIONS */\n",
        ]
    )


def probes(quantised: Quantised, count: int) -> Floats:
    """Observations near those of the normaliser, and some far out: (count, obs)."""
    random = np.random.default_rng(1)
    drawn = random.standard_normal((count, len(quantised.mean)))
    drawn[1::4] *= 8.0
    gain = np.where(quantised.gain == 0, 1.0, quantised.gain)
    spread = 0.1 * (quantised.limit << 8) / gain
    return (quantised.mean + drawn * spread).astype(np.float32)


def kernel() -> str:
    """The text of the integer kernels."""
    # By way of the package: the header may lie in a wheel's folder of its own.
    folder = Path(str(agentkd.executors.__file__)).parent
    return (folder / "c" / "akd_int8.h").read_text(encoding="utf-8")


def packed(layer: IntLayer) -> Int8s:
    """Weights as the kernel reads them: 0a 1a 0b 1b 2a 3a 2b 3b by block and pair."""
    out, inputs = layer.weight.shape
    blocks, pairs = -(-out // BLOCK), -(-inputs // 2)
    wide = np.zeros((blocks * BLOCK, pairs * 2), np.int8)
    wide[:out, :inputs] = layer.weight
    # (block, half, output in half, pair, input) to (block, pair, half, input, output)
    split = wide.reshape(blocks, 2, 2, pairs, 2)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 4, 2)).ravel()


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


def width(quantised: Quantised) -> int:
    """How many int16 each of the two buffers holds."""
    widths = [layer.weight.shape[0] for layer in quantised.layers[:-1]]
    return max(_up(len(quantised.mean), 2), *(_up(each, BLOCK) for each in widths), 2)


def constants(quantised: Quantised) -> int:
    """Bytes of all constants: weights, biases, multipliers, tables, normaliser."""
    total = 8 * len(quantised.mean)
    for layer in quantised.layers:
        total += len(packed(layer)) + 8 * _up(len(layer.bias), BLOCK)
        total += 0 if layer.table is None else 2 * len(layer.table)
    return total


def _kind(quantised: Quantised) -> str:
    return "float" if isinstance(quantised.spec.action, BoxSpec) else "int32_t"


def _actions(quantised: Quantised) -> int:
    match quantised.spec.action:
        case DiscreteSpec():
            return 1
        case MultiDiscreteSpec(sizes):
            return len(sizes)
        case _:
            return len(quantised.layers[-1].bias)


def _head(quantised: Quantised, name: str, provenance: Mapping[str, Any]) -> str:
    sizes = [len(quantised.mean), *(len(each.bias) for each in quantised.layers)]
    command = provenance.get("command")
    if isinstance(command, (list, tuple)):
        command = " ".join(map(str, command))
    facts = {
        "made by": f"agentkd {version('agentkd')}",
        "distilled by": command,
        "environment": provenance.get("env"),
        "planner": provenance.get("planner_digest"),
        "executor": f"{quantised.architecture}, version {quantised.version}",
        "network": f"{' - '.join(map(str, sizes))}, {quantised.head}",
        "arithmetic": "int8 weights, int16 activations, int32 sums: docs/int8.md",
        "constants": f"{constants(quantised)} bytes",
    }
    upper = name.upper()
    lines = ["An executor of agentkd in integers. Generated; do not edit.", ""]
    lines += [f"{key + ':':<14}{value}" for key, value in facts.items() if value]
    lines += [
        "",
        "It promises: C99; no malloc, no stdio, no recursion; <stdint.h>, <stddef.h>",
        "and <string.h> alone (<arm_acle.h> where the core has SIMD); every loop has",
        "a fixed bound; the same bits on every target. Its buffers are static: one",
        "caller at a time.",
        "",
        f"Check it where it runs:  cc -std=c99 -D{upper}_TEST {name}.c && ./a.out",
        f"Call it from elsewhere:  #define {upper}_DECLARATIONS, then include it.",
    ]
    return "/*\n" + "\n".join(f" * {comment(e)}".rstrip() for e in lines) + "\n */"


def _declarations(quantised: Quantised, name: str) -> str:
    upper = name.upper()
    action = quantised.spec.action
    # For INFINITY alone.
    needed = isinstance(action, BoxSpec) and not action.bounded
    endless = "#include <math.h>\n" if needed else ""
    return f"""#ifndef {upper}_H
#define {upper}_H

{endless}#include <stdint.h>

#define {upper}_OBS {len(quantised.mean)}
#define {upper}_OUT {len(quantised.layers[-1].bias)}
#define {upper}_ACTION {_actions(quantised)}

/* Both return 0, or 1 where `obs` holds NaN or infinity and nothing is written.
 * Observations are as the environment gives them: the normaliser is inside. */
int {name}_act(const float obs[{upper}_OBS], {_kind(quantised)} action[{upper}_ACTION]);
/* The last layer's integers; one unit is {quantised.step:g}. */
int {name}_outputs(const float obs[{upper}_OBS], int32_t out[{upper}_OUT]);

#endif /* {upper}_H */

#ifndef {upper}_DECLARATIONS
"""


def _constants(quantised: Quantised, name: str) -> Iterator[str]:
    yield array("float", f"{name}_mean", quantised.mean)
    yield array("float", f"{name}_gain", quantised.gain)
    rows = []
    for index, layer in enumerate(quantised.layers):
        out, inputs = layer.weight.shape
        more = _up(out, BLOCK) - out
        yield f"/* Layer {index}: {inputs} to {out}, {layer.activation}. */"
        yield array("int8_t", f"{name}_weight{index}", packed(layer))
        yield array("int32_t", f"{name}_bias{index}", np.pad(layer.bias, (0, more)))
        padded = np.pad(layer.multiplier, (0, more))
        yield array("int32_t", f"{name}_multiplier{index}", padded)
        table = "NULL"
        if layer.table is not None:
            table = f"{name}_table{index}"
            yield array("int16_t", table, layer.table)
        rows.append(
            f"    {{{name}_weight{index}, {name}_bias{index}, "
            f"{name}_multiplier{index}, {table},\n     {layer.low}, {layer.high}, "
            f"{_up(inputs, 2) // 2}, {_up(out, BLOCK) // BLOCK}, {layer.shift}}}"
        )
    yield (
        f"static const struct akd_i8_layer {name}_layers[{len(rows)}] = {{\n"
        + ",\n".join(rows)
        + "\n};\n"
    )
    action = quantised.spec.action
    if isinstance(action, MultiDiscreteSpec):
        yield array("int32_t", f"{name}_sizes", action.sizes)
    if isinstance(action, BoxSpec):
        low, high = bounds(action)
        yield array("float", f"{name}_low", low)
        yield array("float", f"{name}_high", high)
    if quantised.squash is not None:
        yield array("int32_t", f"{name}_centre", quantised.squash.centre)
        yield array("int32_t", f"{name}_half", quantised.squash.half)


def _functions(quantised: Quantised, name: str) -> str:
    n, upper = name, name.upper()
    out = len(quantised.layers[-1].bias)
    wide = width(quantised)
    squash = ""
    if quantised.squash is not None:
        squash = f"""
    for (int i = 0; i < {upper}_OUT; i++) {{
        const int64_t product = (int64_t){n}_last[i] * {n}_half[i];
        {n}_last[i] = {n}_centre[i] + (int32_t)((product + 16384) >> 15);
    }}"""
    return f"""static int16_t {n}_x[{wide}], {n}_y[{wide}];
static int32_t {n}_last[{_up(out, BLOCK)}];

static int {n}_forward(const float *obs)
{{
    if (akd_i8_input(obs, {n}_mean, {n}_gain, {quantised.limit}, {upper}_OBS, {n}_x))
        return 1;
    akd_i8_network({n}_layers, {len(quantised.layers)}, {n}_x, {n}_y, {n}_last);{squash}
    return 0;
}}

int {n}_outputs(const float obs[{upper}_OBS], int32_t out[{upper}_OUT])
{{
    if ({n}_forward(obs))
        return 1;
    for (int i = 0; i < {upper}_OUT; i++)
        out[i] = {n}_last[i];
    return 0;
}}

int {n}_act(const float obs[{upper}_OBS], {_kind(quantised)} action[{upper}_ACTION])
{{
    if ({n}_forward(obs))
        return 1;
{_act(quantised, n)}
    return 0;
}}
"""


def _act(quantised: Quantised, n: str) -> str:
    upper = n.upper()
    match quantised.head:
        case "categorical":
            assert isinstance(quantised.spec.action, DiscreteSpec)
            return f"""    int32_t best = 0;
    for (int32_t i = 1; i < {upper}_OUT; i++)
        if ({n}_last[i] > {n}_last[best])
            best = i;
    action[0] = best + ({quantised.spec.action.start});"""
        case "multicategorical":
            return f"""    const int32_t *scores = {n}_last;
    for (int k = 0; k < {upper}_ACTION; k++) {{
        int32_t best = 0;
        for (int32_t i = 1; i < {n}_sizes[k]; i++)
            if (scores[i] > scores[best])
                best = i;
        action[k] = best;
        scores += {n}_sizes[k];
    }}"""
        case "bernoulli":
            return f"""    for (int i = 0; i < {upper}_ACTION; i++)
        action[i] = {n}_last[i] > 0;"""
        case _:
            # The step is a power of two: the product is exact and cannot be fused.
            return f"""    for (int i = 0; i < {upper}_ACTION; i++) {{
        float v = (float){n}_last[i] * {quantised.step.hex()}f;
        v = v < {n}_high[i] ? v : {n}_high[i];
        action[i] = v > {n}_low[i] ? v : {n}_low[i];
    }}"""


def _self_test(quantised: Quantised, name: str, obs: Floats) -> str:
    n, upper = name, name.upper()
    taken = np.asarray(dists.mode(quantised(obs), quantised.spec.action))
    arrays = [
        array("float", f"{n}_golden_obs", obs),
        array("int32_t", f"{n}_golden_out", quantised.integers(obs)),
        array(_kind(quantised), f"{n}_golden_action", taken),
    ]
    return f"""#ifdef {upper}_TEST
#include <stdio.h>

/* Observations with the integers and the actions that they must give. */
{"".join(arrays)}
int main(void)
{{
    int wrong = 0;
    for (int row = 0; row < {len(obs)}; row++) {{
        const float *obs = {n}_golden_obs + row * {upper}_OBS;
        int32_t out[{upper}_OUT] = {{0}};
        {_kind(quantised)} action[{upper}_ACTION] = {{0}};
        int failed = {n}_outputs(obs, out);
        failed |= {n}_act(obs, action);
        failed |= memcmp(out, {n}_golden_out + row * {upper}_OUT, sizeof out) != 0;
        for (int i = 0; i < {upper}_ACTION; i++) {{
            const int at = row * {upper}_ACTION + i;
            failed |= !(action[i] >= {n}_golden_action[at] &&
                        action[i] <= {n}_golden_action[at]);
        }}
        wrong += failed != 0;
    }}
    if (wrong == 0)
        printf("{n}: {len(obs)} golden vectors, bit by bit\\n");
    else
        printf("{n}: FAILED, %d of {len(obs)} golden vectors differ\\n", wrong);
    return wrong != 0;
}}
#endif /* {upper}_TEST */
"""
