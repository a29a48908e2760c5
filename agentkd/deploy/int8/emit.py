"""An executor in integers as one C99 file: no allocation, no I/O, the same everywhere.

The arithmetic is `executors/c/akd_int8.h`, which is copied into the file; its functions are those
of `agentkd.deploy.interface`. Behind `#ifdef NAME_TEST` lie golden vectors, with which it checks
itself bit by bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from agentkd.deploy.ctext import aligned, array, bounds_of, literal, origin, preamble, taken_note
from agentkd.deploy.int8.reference import (
    Int8s,
    IntConv,
    IntGru,
    IntLayer,
    IntStack,
    Quantised,
    dense_parts,
    remembered,
)
from agentkd.deploy.interface import Buffer, Interface, check_name
from agentkd.dists import action_width
from agentkd.errors import SpecError
from agentkd.executors.layers import Past
from agentkd.executors.native import KERNELS
from agentkd.executors.plan import BLOCK, ctype, up
from agentkd.spec import BoxSpec, DiscreteSpec
from agentkd.types import Floats

_GOLDEN = 16
_MOST = 65535
"""Pairs of inputs, or blocks of outputs, that a layer's 16 bits count."""


def emit_c_int8(
    quantised: Quantised,
    name: str = "executor",
    provenance: Mapping[str, Any] | None = None,
    *,
    golden: Floats | None = None,
) -> str:
    """Write an executor in integers as the text of a C file, whose names begin with `name`.

    It defines the functions that `agentkd.deploy.c99.emit_c` does, except that outputs are int32_t
    and a memory is int16_t. Where it came from is written into the comment at the head. It checks
    itself with `golden` observations, (rows, obs), by default 16 drawn as the normaliser describes
    them; with a memory they are a sequence.

    Raises:
        ConfigError: If `name` cannot begin names in C.
        SpecError: If a layer is wider than the kernels count.
    """
    check_name(name)
    for index, part in enumerate(dense_parts(quantised.layers)):
        if max(part.weight.shape[1] // 2, part.out // BLOCK) >= _MOST:
            raise SpecError(
                f"Weights {index} go from {part.weight.shape[1]:,} to {part.out:,} "
                f"numbers; c-int8 takes fewer than {2 * _MOST:,} inputs and "
                f"{BLOCK * _MOST:,} outputs. Export to c instead."
            )
    face = _interface(quantised, name)
    obs = probes(quantised, _GOLDEN) if golden is None else golden
    return "\n".join(
        [
            _head(quantised, name, provenance or {}),
            face.fill("interface.h"),
            kernels(quantised, name),
            *_constants(quantised, name),
            _forward(quantised, face),
            _decide(quantised, face),
            face.fill("interface.c"),
            _self_test(quantised, face, obs),
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


_KERNEL = re.compile(
    r"(?:^/\*[^*]*(?:\*(?!/)[^*]*)*\*/\n)?"
    r"(?:^struct akd_i8_unit \{.*?^\};\n\n)?"
    r"^static inline \w+ akd_i8_(\w+)\(.*?^\}\n\n",
    re.MULTILINE | re.DOTALL,
)


def kernels(quantised: Quantised, name: str) -> str:
    """The integer kernels that an executor uses, under names that begin with `name`."""
    text = KERNELS.with_name("akd_int8.h").read_text(encoding="utf-8")
    wanted = {"finite", "number", "lookup", "dense"}
    wanted.add("input" if _plain(quantised) else "input_image")
    for layer in quantised.layers:
        if isinstance(layer, IntConv):
            wanted.add("conv")
        if isinstance(layer, IntGru):
            wanted |= {"within", "gru"}
        if isinstance(layer, IntStack):
            wanted.add("stack")
        if isinstance(layer, Past):
            wanted.add("past")
    if _chain(quantised):
        wanted.add("network")
    kept = _KERNEL.sub(lambda each: each[0] if each[1] in wanted else "", text)
    named = kept.replace("akd_", f"{name}_").replace("AKD_I8_", f"{name.upper()}_I8_")
    named = named.replace("AKD_INT8_H", f"{name.upper()}_INT8_H")
    return aligned(named.replace("static inline", "static"))


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


def memory(quantised: Quantised) -> int:
    """How many int16 the caller keeps: a unit's own are read in pairs."""
    return sum(up(remembered(each), 2) for each in quantised.layers)


def constants(quantised: Quantised) -> int:
    """Bytes of all constants: weights, biases, multipliers, tables, normaliser."""
    total = 8 * len(quantised.mean)
    for part in dense_parts(quantised.layers):
        total += len(packed(part)) + 8 * up(part.out, BLOCK)
        total += 0 if part.table is None else 2 * len(part.table)
    for layer in quantised.layers:
        if isinstance(layer, IntConv):
            total += 4 * len(layer.dims)
        if isinstance(layer, IntGru):
            total += 2 * (len(layer.sigmoid) + len(layer.tanh))
    return total


_PROMISES = """\
It promises: C99, also valid C++; no malloc, no stdio, no recursion; needs
<stdint.h>, <stddef.h> and <string.h> alone (<arm_acle.h> where the core has
SIMD); every loop has a fixed bound; the same bits on every target. NaN and
infinity are refused under -ffast-math too."""


def _head(quantised: Quantised, name: str, provenance: Mapping[str, Any]) -> str:
    sizes = [quantised.spec.obs.size, *(each.out for each in quantised.layers)]
    facts = dict(origin(provenance))
    if provenance.get("planner_digest"):
        facts["planner"] = provenance["planner_digest"]
    facts |= {
        "executor": f"{quantised.architecture}, version {quantised.version}",
        "network": f"{' - '.join(map(str, sizes))}, {quantised.head}",
        "arithmetic": "int8 weights, int16 activations, int32 sums: docs/reference/int8.md",
        "constants": f"{constants(quantised)} bytes",
    }
    if quantised.memory:
        facts["memory"] = f"{2 * memory(quantised)} bytes, the caller's"
    title, check = "An executor of agentkd in integers", f"-D{name.upper()}_TEST {name}.c"
    return preamble(title, facts.items(), _PROMISES, f"cc -std=c99 {check}")


def _interface(quantised: Quantised, name: str) -> Interface:
    count = action_width(quantised.spec.action)
    numbers = isinstance(quantised.spec.action, BoxSpec)
    kept = memory(quantised)
    return Interface(
        name,
        obs=quantised.spec.obs.size,
        out=quantised.last.out,
        actions=count,
        number="int32_t",
        action=ctype(quantised.spec),
        scratch=tuple(_scratch(quantised)),
        memory=Buffer("int16_t", "memory", kept) if kept else None,
        action_note=f"`action` is {count} {'numbers' if numbers else 'choices'}.",
        out_note=f"`out` is the last layer's integers; one unit is {quantised.step:g}.",
        obs_note=taken_note(quantised.spec),
    )


def _scratch(quantised: Quantised) -> Iterator[Buffer]:
    """The buffers that a decision writes: two that layers use in turn, and what some need."""
    widths, patches, gates = [up(quantised.spec.obs.size, 2), 2], [0], [0]
    for layer in quantised.layers[:-1]:
        # The last patch's outputs are written in whole blocks.
        more = layer.dims[2] if isinstance(layer, IntConv) else layer.out
        widths.append(layer.out - more + up(more, BLOCK))
        if isinstance(layer, IntConv):
            patches.append(up(layer.dense.weight.shape[1], 2))
        if isinstance(layer, IntGru):
            gates.append(2 * up(3 * layer.out, BLOCK))
    yield Buffer("int32_t", "last", up(quantised.last.out, BLOCK))
    if len(gates) > 1:
        yield Buffer("int32_t", "gates", max(gates))
    yield Buffer("int16_t", "x", max(widths))
    yield Buffer("int16_t", "y", max(widths))
    if len(patches) > 1:
        yield Buffer("int16_t", "patch", max(patches))


def _constants(quantised: Quantised, name: str) -> Iterator[str]:
    yield array("float", f"{name}_mean", quantised.mean)
    yield array("float", f"{name}_gain", quantised.gain)
    rows = []
    for index, layer in enumerate(dense_parts(quantised.layers)):
        out, inputs = layer.weight.shape
        more = up(out, BLOCK) - out
        yield f"/* Weights {index}: {inputs} to {out}, {layer.activation}. */"
        yield array("int8_t", f"{name}_weight{index}", packed(layer))
        yield array("int32_t", f"{name}_bias{index}", np.pad(layer.bias, (0, more)))
        yield array("int32_t", f"{name}_multiplier{index}", np.pad(layer.multiplier, (0, more)))
        table = "NULL"
        if layer.table is not None:
            table = f"{name}_table{index}"
            yield array("int16_t", table, layer.table)
        rows.append(
            f"    {{{name}_weight{index}, {name}_bias{index}, "
            f"{name}_multiplier{index}, {table},\n     {layer.low}, {layer.high}, "
            f"{up(inputs, 2) // 2}, {up(out, BLOCK) // BLOCK}, {layer.shift}}}"
        )
    yield (
        f"static const struct {name}_i8_layer {name}_layers[{len(rows)}] = {{\n"
        + ",\n".join(rows)
        + "\n};\n"
    )
    part = 0
    for index, each in enumerate(quantised.layers):
        if isinstance(each, IntConv):
            yield array("int32_t", f"{name}_dims{index}", each.dims)
        if isinstance(each, IntGru):
            tables = f"{name}_sigmoid{index}", f"{name}_tanh{index}"
            yield array("int16_t", tables[0], each.sigmoid)
            yield array("int16_t", tables[1], each.tanh)
            yield (
                f"static const struct {name}_i8_unit {name}_unit{index} = {{\n"
                f"    {name}_layers + {part}, {', '.join(tables)}, {each.out}}};\n"
            )
        part += len(dense_parts((each,)))
    yield from bounds_of(quantised.spec.action, name)
    if quantised.squash is not None:
        yield array("int32_t", f"{name}_centre", quantised.squash.centre)
        yield array("int32_t", f"{name}_half", quantised.squash.half)


def _forward(quantised: Quantised, face: Interface) -> str:
    image, channels = "", ""
    if not _plain(quantised):
        image, channels = "_image", f", {len(quantised.mean)}, {quantised.apart}"
    memory = f",\n{' ' * (len(face.name) + 31)}int16_t *memory" if quantised.memory else ""
    words = {"calls": _calls(quantised, face.name), "channels": channels, "image": image}
    return face.fill(
        "forward_int8.c", quantised.head, limit=quantised.limit, memory=memory, **words
    )


def _decide(quantised: Quantised, face: Interface) -> str:
    action = quantised.spec.action
    start = action.start if isinstance(action, DiscreteSpec) else 0
    # The step is a power of two: the product is exact and cannot be fused.
    return face.fill("decide_int8.c", quantised.head, start=start, step=literal(quantised.step))


def _calls(quantised: Quantised, n: str) -> str:
    if _chain(quantised):
        count = len(quantised.layers)
        return f"    {n}_i8_network({n}_layers, {count}, s->x, s->y, s->last);"
    lines, part, at = [], 0, 0
    here, there = "s->x", "s->y"
    for index, layer in enumerate(quantised.layers):
        which = f"{n}_layers + {part}"
        match layer:
            case IntConv():
                given = f"{which}, {n}_dims{index}, {here}, {there}, s->patch"
                lines.append(f"    {n}_i8_conv({given});")
            case IntGru():
                own = f"memory + {at}" if at else "memory"
                given = f"&{n}_unit{index}, {here}, {there}, s->gates, {own}"
                lines.append(f"    {n}_i8_gru({given});")
                at += up(layer.out, 2)
            case IntStack():
                own = f"memory + {at}" if at else "memory"
                given = f"{layer.size}, {layer.count}, {here}, {there}, {own}"
                lines.append(f"    {n}_i8_stack({given});")
                at += up(remembered(layer), 2)
            case Past(size, count, lag, width, actions):
                given = f"{size}, {count}, {lag}, {width}, {actions}, {here}, {there}"
                lines.append(f"    {n}_i8_past({given}, memory);")
                at += up(remembered(layer), 2)
            case IntLayer() if layer is quantised.last:
                lines.append(f"    {n}_i8_dense({which}, {here}, NULL, s->last);")
            case IntLayer():
                lines.append(f"    {n}_i8_dense({which}, {here}, {there}, NULL);")
        here, there = there, here
        part += len(dense_parts((layer,)))
    return "\n".join(lines)


def _self_test(quantised: Quantised, face: Interface, obs: Floats) -> str:
    """Write a `main` behind `#ifdef NAME_TEST` that checks (rows, obs) bit by bit."""
    arrays = [
        array("float", f"{face.name}_golden_obs", obs),
        array("int32_t", f"{face.name}_golden_out", quantised.integers(obs)),
        array(face.action, f"{face.name}_golden_action", quantised.actions(obs)),
    ]
    refusals = face.fill("refuses.c")
    words = {"arrays": "".join(arrays), "rows": len(obs), "refusals": refusals}
    return face.fill("selftest_int8.c", **words)
