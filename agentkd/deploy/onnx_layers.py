"""The layers of an executor as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from agentkd.executors.layers import (
    EPSILON,
    Activation,
    Attention,
    Conv,
    Dense,
    Gru,
    Layer,
    Lstm,
    Norm,
    Past,
    Pool,
    Remembering,
    Stack,
    Tokens,
    sizes,
    width,
)


@final
class Graph:
    """Nodes, constants, inputs and outputs in their order, for operators of an opset from 9 on."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, shape: list[Any]) -> str:
        """Declare a float input."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> None:
        """Declare an output of a node as one of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def give(self, x: str, name: str, shape: list[Any]) -> None:
        """Give numbers out under another name."""
        self.node("Identity", x, output=name)
        self.output(name, shape)

    def constant(self, value: Any, name: str = "") -> str:
        """Hold an array."""
        name = name or f"constant.{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **options: Any) -> str:
        """Add a node with one output, and give that."""
        name = output or f"{kind.lower()}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **options))
        return name

    def split(self, x: str, lengths: tuple[int, ...]) -> list[str]:
        """Cut (batch, sum(lengths)) into pieces."""
        names = [f"{x}.{index}" for index in range(len(lengths))]
        if self._opset < 13:
            made = helper.make_node("Split", [x], names, axis=1, split=lengths)
        else:
            held = self.constant(np.array(lengths, np.int64))
            made = helper.make_node("Split", [x, held], names, axis=1)
        self._nodes.append(made)
        return names

    def slice(self, x: str, start: int, end: int) -> str:
        """Take the numbers from `start` to `end` of (batch, n)."""
        if self._opset < 10:
            return self.node("Slice", x, axes=[1], starts=[start], ends=[end])
        bounds = (self.constant(np.array([each], np.int64)) for each in (start, end, 1))
        return self.node("Slice", x, *bounds)

    def clip(self, x: str, most: float) -> str:
        """Keep numbers within [-most, most]."""
        if self._opset < 11:
            return self.node("Clip", x, min=-most, max=most)
        bound = np.float32(most)
        return self.node("Clip", x, self.constant(-bound), self.constant(bound))

    def mean(self, x: str, axis: int, *, keep: bool) -> str:
        """Average along an axis, and keep it with a length of 1 or not."""
        if self._opset < 18:
            return self.node("ReduceMean", x, axes=[axis], keepdims=int(keep))
        axes = self.constant(np.array([axis], np.int64))
        return self.node("ReduceMean", x, axes, keepdims=int(keep))

    def norm(self, norm: Norm, x: str, name: str) -> str:
        """Normalise (batch, tokens, width) along the last axis."""
        gain = self.constant(norm.gain, f"{name}.gain")
        bias = self.constant(norm.bias, f"{name}.bias")
        if self._opset >= 17:
            node = "LayerNormalization"
            return self.node(node, x, gain, bias, axis=-1, epsilon=EPSILON)
        apart = self.node("Sub", x, self.mean(x, 2, keep=True))
        square = self.mean(self.node("Mul", apart, apart), 2, keep=True)
        wide = self.node("Add", square, self.constant(np.float32(EPSILON)))
        even = self.node("Div", apart, self.node("Sqrt", wide))
        return self.node("Add", self.node("Mul", even, gain), bias)

    def reshape(self, x: str, *shape: int, output: str = "") -> str:
        """Give an array another shape."""
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)), output=output)

    def fixed(self, name: str, value: Any) -> None:
        """Give a constant as an output of the graph."""
        array = np.asarray(value, np.float32)
        self.give(self.constant(array), name, list(array.shape))

    def model(self, metadata: Mapping[str, str]) -> bytes:
        """Write it all, checked."""
        graph = helper.make_graph(
            self._nodes, "executor", self._inputs, self._outputs, self._constants
        )
        opset = [helper.make_opsetid("", self._opset)]
        # The oldest format that goes with the opset: older readers take it.
        version = helper.find_min_ir_version_for(opset)
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=version, producer_name="agentkd"
        )
        helper.set_model_props(model, dict(metadata))
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


def add_layer(graph: Graph, layer: Layer, x: str, name: str) -> str:
    """Add a layer without a memory, from (batch, in) to (batch, out)."""
    match layer:
        case Dense():
            weight = graph.constant(layer.weight, f"{name}.weight")
            bias = graph.constant(layer.bias, f"{name}.bias")
            made = graph.node("Gemm", x, weight, bias, transB=1)
            return activation(graph, layer.activation, made)
        case Conv():
            return _conv(graph, layer, x, name)
        case Tokens():
            tokens, wide, piece = layer.weight.shape
            pieces = graph.reshape(x, -1, tokens, 1, piece)
            weight = graph.constant(layer.weight.transpose(0, 2, 1), f"{name}.weight")
            made = graph.reshape(graph.node("MatMul", pieces, weight), -1, tokens * wide)
            bias = graph.constant(layer.bias.reshape(-1), f"{name}.bias")
            return graph.node("Add", made, bias)
        case Attention():
            return _attention(graph, layer, x, name)
        case Pool():
            rows = graph.reshape(x, -1, layer.tokens, width(layer))
            return graph.mean(graph.norm(layer.norm, rows, f"{name}.norm"), 1, keep=False)
        case Gru() | Lstm() | Stack() | Past():
            raise AssertionError("add_recurrent adds these")


def add_recurrent(
    graph: Graph, layer: Remembering, x: str, memory: str, name: str
) -> tuple[str, str]:
    """Add a layer with a memory; gives what it gives, and the memory after."""
    if isinstance(layer, Stack):
        rows = graph.node("Concat", memory, x, axis=1)
        return rows, graph.split(rows, (layer.size, (layer.count - 1) * layer.size))[1]
    if isinstance(layer, Past):
        return _past(graph, layer, x, memory)
    wide = width(layer)
    given = _dense(graph, layer.inputs, x, f"{name}.inputs")
    if isinstance(layer, Gru):
        kept = _dense(graph, layer.hidden, memory, f"{name}.hidden")
        gates, back = graph.split(given, (wide,) * 3), graph.split(kept, (wide,) * 3)
        reset, update = (
            graph.node("Sigmoid", graph.node("Add", gates[i], back[i])) for i in range(2)
        )
        seen = graph.node("Mul", reset, back[2])
        new = graph.node("Tanh", graph.node("Add", gates[2], seen))
        apart = graph.node("Mul", update, graph.node("Sub", memory, new))
        after = graph.node("Add", new, apart)
        return after, after
    hidden, cell = graph.split(memory, (wide, wide))
    kept = _dense(graph, layer.hidden, hidden, f"{name}.hidden")
    gates = graph.split(graph.node("Add", given, kept), (wide,) * 4)
    into, forget, leave = (graph.node("Sigmoid", gates[i]) for i in (0, 1, 3))
    fresh = graph.node("Mul", into, graph.node("Tanh", gates[2]))
    cell = graph.node("Add", graph.node("Mul", forget, cell), fresh)
    after = graph.node("Mul", leave, graph.node("Tanh", cell))
    return after, graph.node("Concat", after, cell, axis=1)


def _past(graph: Graph, layer: Past, x: str, memory: str) -> tuple[str, str]:
    """Hold observations back, and actions beside them."""
    seen, taken = graph.split(x, (layer.size, layer.width))
    held, acts = "", memory
    if layer.held:
        held, acts = graph.split(memory, (layer.held, layer.actions * layer.width))
        seen = graph.node("Concat", held, seen, axis=1)
        held = graph.slice(seen, layer.size, layer.size + layer.held)
        seen = graph.slice(seen, 0, layer.count * layer.size)
    acts = graph.node("Concat", acts, taken, axis=1)
    acts = graph.slice(acts, layer.width, (layer.actions + 1) * layer.width)
    given = graph.node("Concat", seen, acts, axis=1)
    return given, graph.node("Concat", held, acts, axis=1) if held else acts


def activation(graph: Graph, name: Activation, x: str) -> str:
    """Add an activation."""
    if name == "silu":
        return graph.node("Mul", x, graph.node("Sigmoid", x))
    return x if name == "none" else graph.node(name.capitalize(), x)


def _dense(graph: Graph, dense: Dense, x: str, name: str) -> str:
    """A dense layer along the last axis."""
    weight = graph.constant(dense.weight.T.copy(), f"{name}.weight")
    made = graph.node("MatMul", x, weight)
    made = graph.node("Add", made, graph.constant(dense.bias, f"{name}.bias"))
    return activation(graph, dense.activation, made)


def _conv(graph: Graph, layer: Conv, x: str, name: str) -> str:
    height, width, channels = layer.shape
    if layer.channels_first:
        image = graph.reshape(x, -1, channels, height, width)
    else:
        image = graph.reshape(x, -1, height, width, channels)
        image = graph.node("Transpose", image, perm=[0, 3, 1, 2])
    weight = np.ascontiguousarray(layer.weight.transpose(0, 3, 1, 2))
    held = graph.constant(weight, f"{name}.weight"), graph.constant(layer.bias, f"{name}.bias")
    made = graph.node("Conv", image, *held, strides=[layer.stride, layer.stride])
    made = activation(graph, layer.activation, made)
    made = graph.node("Transpose", made, perm=[0, 2, 3, 1])
    return graph.reshape(made, -1, sizes(layer)[1])


def _attention(graph: Graph, layer: Attention, x: str, name: str) -> str:
    tokens, heads, wide = layer.tokens, layer.heads, width(layer)
    each = wide // heads
    before = graph.reshape(x, -1, tokens, wide)
    mixed = graph.norm(layer.norm, before, f"{name}.norm")
    mixed = _dense(graph, layer.qkv, mixed, f"{name}.qkv")
    mixed = graph.reshape(mixed, -1, tokens, 3, heads, each)
    mixed = graph.node("Transpose", mixed, perm=[2, 0, 3, 1, 4])
    query, key, value = (
        graph.node("Gather", mixed, graph.constant(np.int64(place)), axis=0) for place in range(3)
    )
    key = graph.node("Transpose", key, perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", query, key)
    scale = graph.constant(np.float32(each**-0.5))
    weights = graph.node("Softmax", graph.node("Mul", scores, scale), axis=3)
    found = graph.node("MatMul", weights, value)
    found = graph.node("Transpose", found, perm=[0, 2, 1, 3])
    found = graph.reshape(found, -1, tokens, wide)
    found = _dense(graph, layer.out, found, f"{name}.out")
    after = graph.node("Add", before, found)
    inner = graph.norm(layer.norm_after, after, f"{name}.norm_after")
    inner = _dense(graph, layer.up, inner, f"{name}.up")
    after = graph.node("Add", after, _dense(graph, layer.down, inner, f"{name}.down"))
    return graph.reshape(after, -1, tokens * wide)
