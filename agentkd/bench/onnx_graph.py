"""An executor as an ONNX graph that ends in actions, for comparing latencies."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from agentkd.executors.frozen import Activation, Frozen
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec

_OPSET = 17
_IR = 8


def to_onnx(frozen: Frozen) -> bytes:
    """Write an executor as an ONNX model.

    It takes "obs", float32 (batch, obs), and gives "action" in the environment's units,
    (batch, …), with the normaliser, the squashing and the scaling inside.
    """
    graph = _Graph()
    x = graph.node("Sub", "obs", graph.constant(frozen.mean))
    x = graph.node("Mul", x, graph.constant(frozen.scale))
    clip = np.float32(frozen.clip)
    x = graph.node("Clip", x, graph.constant(-clip), graph.constant(clip))
    for layer in frozen.layers:
        weight, bias = graph.constant(layer.weight), graph.constant(layer.bias)
        x = graph.node("Gemm", x, weight, bias, transB=1)
        x = _activation(graph, layer.activation, x)
    kind, shape = _head(graph, frozen, x)
    return graph.model(frozen.spec.obs.size, kind, shape)


@final
class _Graph:
    """Nodes and constants, named as they come."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **options: Any) -> str:
        name = output or f"x{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **options))
        return name

    def split(self, x: str, sizes: tuple[int, ...]) -> list[str]:
        names = [f"s{index}" for index in range(len(sizes))]
        lengths = self.constant(np.array(sizes, np.int64))
        self._nodes.append(helper.make_node("Split", [x, lengths], names, axis=1))
        return names

    def model(self, obs: int, kind: int, shape: tuple[int, ...]) -> bytes:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "executor",
            [value("obs", TensorProto.FLOAT, ["batch", obs])],
            [value("action", kind, ["batch", *shape])],
            self._constants,
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR)
        return bytes(model.SerializeToString())


def _activation(graph: _Graph, name: Activation, x: str) -> str:
    match name:
        case "relu":
            return graph.node("Relu", x)
        case "tanh":
            return graph.node("Tanh", x)
        case "elu":
            return graph.node("Elu", x)
        case "silu":
            return graph.node("Mul", x, graph.node("Sigmoid", x))
        case "none":
            return x


def _head(graph: _Graph, frozen: Frozen, x: str) -> tuple[int, tuple[int, ...]]:
    action = frozen.spec.action
    match frozen.head:
        case "categorical":
            assert isinstance(action, DiscreteSpec)
            best = graph.node("ArgMax", x, axis=1, keepdims=0)
            graph.node(
                "Add", best, graph.constant(np.int64(action.start)), output="action"
            )
            return TensorProto.INT64, ()
        case "multicategorical":
            assert isinstance(action, MultiDiscreteSpec)
            pieces = graph.split(x, action.sizes)
            best_of = [graph.node("ArgMax", each, axis=1) for each in pieces]
            graph.node("Concat", *best_of, axis=1, output="action")
            return TensorProto.INT64, (len(action.sizes),)
        case "bernoulli":
            yes = graph.node("Greater", x, graph.constant(np.float32(0)))
            graph.node("Cast", yes, to=TensorProto.INT8, output="action")
            return TensorProto.INT8, (len(frozen.layers[-1].bias),)
        case "squashed" | "clipped":
            assert isinstance(action, BoxSpec)
            low, high = (np.asarray(e, np.float32) for e in (action.low, action.high))
            if frozen.head == "squashed":
                half = graph.constant(np.float32(0.5) * (high - low))
                x = graph.node("Mul", graph.node("Tanh", x), half)
                x = graph.node("Add", x, graph.constant(np.float32(0.5) * (high + low)))
            x = graph.node("Max", x, graph.constant(low))
            x = graph.node("Min", x, graph.constant(high))
            shape = graph.constant(np.array([-1, *action.shape], np.int64))
            graph.node("Reshape", x, shape, output="action")
            return TensorProto.FLOAT, action.shape
