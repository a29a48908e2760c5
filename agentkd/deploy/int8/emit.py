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
from agentkd.deploy.ctext import aligned, array, comment
from agentkd.deploy.int8.reference import (
    Int8s,
    IntConv,
    IntGru,
    IntLayer,
    Quantised,
    dense_parts,
)
from agentkd.deploy.int8.selftest import self_test
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
    int32_t out[])`, which gives the integers. With a memory, both take it after `obs`,
    `int16_t memory[]`, the caller's. Both return 0, or 1 where the observation holds
    NaN or infinity and nothing is written.

    Args:
        quantised: The executor.
        name: Begins every name in the file.
        provenance: Where it came from; written into the comment at the head.
        golden: Observations, (rows, obs), to check itself with; by default 16 drawn
            as the normaliser describes them. With a memory they are a sequence.

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
            kernels(quantised),
            *_constants(quantised, name),
            _functions(quantised, name),
            self_test(quantised, name, ctype(quantised), obs),
            f"#endif /* {name.upper()}_DECLARATIONS */\n",
        ]
    )


def probes(quantised: Quantised, count: int) -> Floats:
    """Observations near those of the normaliser, and some far out: (count, obs)."""
    random = np.random.default_rng(1)
    mean, gain = (quantised.per_number(e) for e in (quantised.mean, quantised.gain))
    drawn = random.standard_normal((count, len(mean)))
    drawn[1::4] *= 8.0
    spread = 0.1 * (quantised.limit << 8) / np.where(gain == 0, 1.0, gain)
    return (mean + drawn * spread).astype(np.float32)


_HEADER = "akd_int8.h"
_KERNEL = re.compile(
    r"(?:^/\*[^*]*(?:\*(?!/)[^*]*)*\*/\n)?"
    r"(?:^struct akd_i8_unit \{.*?^\};\n\n)?"
    r"^static inline \w+ akd_i8_(\w+)\(.*?^\}\n\n",
    re.MULTILINE | re.DOTALL,
)


def kernels(quantised: Quantised) -> str:
    """The text of the integer kernels, of those that an executor uses."""
    # By way of the package: the header may lie in a wheel's folder of its own.
    folder = Path(str(agentkd.executors.__file__)).parent
    text = (folder / "c" / _HEADER).read_text(encoding="utf-8")
    wanted = {"input", "lookup", "dense"}
    if not _plain(quantised):
        wanted.add("input_image")
    for layer in quantised.layers:
        if isinstance(layer, IntConv):
            wanted.add("conv")
        if isinstance(layer, IntGru):
            wanted |= {"within", "gru"}
    if _chain(quantised):
        wanted.add("network")
    kept = _KERNEL.sub(lambda each: each[0] if each[1] in wanted else "", text)
    return aligned(kept.replace("static inline", "static"))


def _plain(quantised: Quantised) -> bool:
    """Whether each number of an observation has a mean and a gain of its own."""
    return len(quantised.mean) == quantised.spec.obs.size


def _chain(quantised: Quantised) -> bool:
    """Whether all layers are dense."""
    return all(isinstance(each, IntLayer) for each in quantised.layers)


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
    widths = [_up(quantised.spec.obs.size, 2), 2]
    for layer in quantised.layers[:-1]:
        # The last patch's outputs are written in whole blocks.
        more = layer.dims[2] if isinstance(layer, IntConv) else layer.out
        widths.append(layer.out - more + _up(more, BLOCK))
    return max(widths)


def work(quantised: Quantised) -> tuple[int, int]:
    """How many int16 the largest patch takes, and int32 the largest unit's gates."""
    patches, gates = [0], [0]
    for layer in quantised.layers:
        if isinstance(layer, IntConv):
            patches.append(_up(layer.dense.weight.shape[1], 2))
        if isinstance(layer, IntGru):
            gates.append(2 * _up(3 * layer.out, BLOCK))
    return max(patches), max(gates)


def memory(quantised: Quantised) -> int:
    """How many int16 the caller keeps: a unit's own are read in pairs."""
    units = [each for each in quantised.layers if isinstance(each, IntGru)]
    return sum(_up(each.out, 2) for each in units)


def constants(quantised: Quantised) -> int:
    """Bytes of all constants: weights, biases, multipliers, tables, normaliser."""
    total = 8 * len(quantised.mean)
    for part in dense_parts(quantised.layers):
        total += len(packed(part)) + 8 * _up(part.out, BLOCK)
        total += 0 if part.table is None else 2 * len(part.table)
    for layer in quantised.layers:
        if isinstance(layer, IntConv):
            total += 4 * len(layer.dims)
        if isinstance(layer, IntGru):
            total += 2 * (len(layer.sigmoid) + len(layer.tanh))
    return total


def ctype(quantised: Quantised) -> str:
    """The type of an action's numbers in C."""
    return "float" if isinstance(quantised.spec.action, BoxSpec) else "int32_t"


def _actions(quantised: Quantised) -> int:
    match quantised.spec.action:
        case DiscreteSpec():
            return 1
        case MultiDiscreteSpec(sizes):
            return len(sizes)
        case _:
            return quantised.last.out


def _head(quantised: Quantised, name: str, provenance: Mapping[str, Any]) -> str:
    sizes = [quantised.spec.obs.size, *(each.out for each in quantised.layers)]
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
    if quantised.memory:
        facts["memory"] = f"{2 * memory(quantised)} bytes, the caller's"
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
    given, define, said = "", "", ""
    if quantised.memory:
        given = f", int16_t memory[{upper}_MEMORY]"
        define = (
            f"\n#define {upper}_MEMORY {memory(quantised)}"
            f"\n#define {upper}_STATE int16_t"
        )
        said = (
            "\n * `memory` is what the executor remembers: fill it with zeros where an "
            "episode\n * begins. Both functions bring it up to date: call one of them, "
            "once a tick."
        )
    return f"""#ifndef {upper}_H
#define {upper}_H

{endless}#include <stdint.h>

#define {upper}_OBS {quantised.spec.obs.size}
#define {upper}_OUT {quantised.last.out}
#define {upper}_ACTION {_actions(quantised)}{define}

/* Both return 0, or 1 where `obs` holds NaN or infinity and nothing is written.
 * Observations are as the environment gives them: the normaliser is inside.{said} */
int {name}_act(const float obs[{upper}_OBS]{given},
{" " * (len(name) + 9)}{ctype(quantised)} action[{upper}_ACTION]);
/* The last layer's integers; one unit is {quantised.step:g}. */
int {name}_outputs(const float obs[{upper}_OBS]{given}, int32_t out[{upper}_OUT]);

#endif /* {upper}_H */

#ifndef {upper}_DECLARATIONS
"""


def _constants(quantised: Quantised, name: str) -> Iterator[str]:
    yield array("float", f"{name}_mean", quantised.mean)
    yield array("float", f"{name}_gain", quantised.gain)
    rows = []
    for index, layer in enumerate(dense_parts(quantised.layers)):
        out, inputs = layer.weight.shape
        more = _up(out, BLOCK) - out
        yield f"/* Weights {index}: {inputs} to {out}, {layer.activation}. */"
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
    part = 0
    for index, each in enumerate(quantised.layers):
        if isinstance(each, IntConv):
            yield array("int32_t", f"{name}_dims{index}", each.dims)
        if isinstance(each, IntGru):
            yield array("int16_t", f"{name}_sigmoid{index}", each.sigmoid)
            yield array("int16_t", f"{name}_tanh{index}", each.tanh)
            yield (
                f"static const struct akd_i8_unit {name}_unit{index} = {{\n"
                f"    {name}_layers + {part}, {name}_sigmoid{index}, "
                f"{name}_tanh{index}, {each.out}}};\n"
            )
        part += len(dense_parts((each,)))
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
    out = quantised.last.out
    wide = width(quantised)
    squash = ""
    if quantised.squash is not None:
        squash = f"""
    for (int i = 0; i < {upper}_OUT; i++) {{
        const int64_t product = (int64_t){n}_last[i] * {n}_half[i];
        {n}_last[i] = {n}_centre[i] + (int32_t)((product + 16384) >> 15);
    }}"""
    given = f", int16_t memory[{upper}_MEMORY]" if quantised.memory else ""
    handed = ", memory" if quantised.memory else ""
    patch, gates = work(quantised)
    room = f"static int16_t {n}_patch[{patch}];\n" if patch else ""
    room += f"static int32_t {n}_gates[{gates}];\n" if gates else ""
    size = f"{quantised.limit}, {upper}_OBS"
    read = f"akd_i8_input(obs, {n}_mean, {n}_gain, {size}, {n}_x)"
    if not _plain(quantised):
        size += f", {len(quantised.mean)}, {quantised.apart}"
        read = f"akd_i8_input_image(obs, {n}_mean, {n}_gain, {size}, {n}_x)"
    return f"""static int16_t {n}_x[{wide}], {n}_y[{wide}];
static int32_t {n}_last[{_up(out, BLOCK)}];
{room}
static int {n}_forward(const float *obs{", int16_t *memory" if handed else ""})
{{
    if ({read})
        return 1;
{_calls(quantised, n)}{squash}
    return 0;
}}

int {n}_outputs(const float obs[{upper}_OBS]{given}, int32_t out[{upper}_OUT])
{{
    if ({n}_forward(obs{handed}))
        return 1;
    for (int i = 0; i < {upper}_OUT; i++)
        out[i] = {n}_last[i];
    return 0;
}}

int {n}_act(const float obs[{upper}_OBS]{given},
{" " * (len(n) + 9)}{ctype(quantised)} action[{upper}_ACTION])
{{
    if ({n}_forward(obs{handed}))
        return 1;
{_act(quantised, n)}
    return 0;
}}
"""


def _calls(quantised: Quantised, n: str) -> str:
    if _chain(quantised):
        count = len(quantised.layers)
        return f"    akd_i8_network({n}_layers, {count}, {n}_x, {n}_y, {n}_last);"
    lines, part, at = [], 0, 0
    here, there = f"{n}_x", f"{n}_y"
    for index, layer in enumerate(quantised.layers):
        which = f"{n}_layers + {part}"
        match layer:
            case IntConv():
                given = f"{which}, {n}_dims{index}, {here}, {there}, {n}_patch"
                lines.append(f"    akd_i8_conv({given});")
            case IntGru():
                own = f"memory + {at}" if at else "memory"
                given = f"&{n}_unit{index}, {here}, {there}, {n}_gates, {own}"
                lines.append(f"    akd_i8_gru({given});")
                at += _up(layer.out, 2)
            case IntLayer() if layer is quantised.last:
                lines.append(f"    akd_i8_dense({which}, {here}, NULL, {n}_last);")
            case IntLayer():
                lines.append(f"    akd_i8_dense({which}, {here}, {there}, NULL);")
        here, there = there, here
        part += len(dense_parts((layer,)))
    return "\n".join(lines)


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
