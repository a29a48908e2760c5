"""An executor as an ONNX graph with everything inside, from normaliser to action.

Game engines and robot stacks expect certain names; each such convention is a flavour.
Written with onnx.helper: no torch, no tracing, and the same bytes each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, cast, final, get_args

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from agentkd.deploy.ctext import facts
from agentkd.deploy.programs import Answer
from agentkd.dists import bounds
from agentkd.errors import ConfigError, NumbersError, did_you_mean
from agentkd.executors.frozen import Activation, Frozen
from agentkd.spec import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec
from agentkd.types import Floats

Flavour = Literal["plain", "ml-agents", "godot-rl", "rsl-rl"]
"""Whose names the graph's inputs and outputs have; docs/export.md lists them."""
_OPSET = 17
_IR = 8
_UNITY = 3.0
"""The version of ML-Agents' model format; 3 since ML-Agents 2.0."""
_MASKED = 1e8


def to_onnx(
    frozen: Frozen,
    flavour: Flavour = "plain",
    provenance: Mapping[str, Any] | None = None,
) -> bytes:
    """Write an executor as an ONNX model, with a batch of any size.

    The plain flavour takes "obs", float32 (batch, obs), and gives "action" in the
    environment's units, (batch, …), and "outputs", the last layer's numbers.

    Args:
        frozen: The executor.
        flavour: Whose names and shapes to use.
        provenance: Where it came from; written into the model's metadata.

    Raises:
        ConfigError: If the flavour has no place for such actions.
        NumbersError: If a weight is NaN or infinite.
    """
    if not np.isfinite(frozen.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights is not written.")
    graph = _Graph()
    match flavour:
        case "plain":
            outputs = _network(graph, frozen, "obs", "outputs")
            _action(graph, frozen, outputs)
            graph.output("outputs", TensorProto.FLOAT, ["batch", _out(frozen)])
        case "ml-agents":
            _ml_agents(graph, frozen)
        case "godot-rl":
            _godot_rl(graph, frozen)
        case "rsl-rl":
            _rsl_rl(graph, frozen)
    return graph.model({"flavour": flavour, **dict(facts(frozen, provenance or {}))})


def as_flavour(name: str) -> Flavour:
    """Find a flavour by name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in get_args(Flavour):
        hint = did_you_mean(name, get_args(Flavour))
        raise ConfigError(f"No flavour {name!r} of ONNX.{hint}")
    return cast(Flavour, name)


def run_onnx(frozen: Frozen, obs: Floats) -> Answer:
    """Ask ONNX Runtime, on one thread, about observations (batch, obs)."""
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        to_onnx(frozen), options, providers=["CPUExecutionProvider"]
    )
    actions, outputs = session.run(["action", "outputs"], {"obs": obs})
    return Answer(outputs, np.asarray(actions).reshape(len(obs), -1))


@final
class _Graph:
    """Nodes, constants, inputs and outputs, in the order in which they come."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, shape: list[Any]) -> str:
        self._inputs.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        )
        return name

    def output(self, name: str, kind: int, shape: list[Any]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, value: Any, name: str = "") -> str:
        name = name or f"constant.{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **options: Any) -> str:
        name = output or f"{kind.lower()}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **options))
        return name

    def split(self, x: str, sizes: tuple[int, ...]) -> list[str]:
        names = [f"{x}.{index}" for index in range(len(sizes))]
        lengths = self.constant(np.array(sizes, np.int64))
        self._nodes.append(helper.make_node("Split", [x, lengths], names, axis=1))
        return names

    def fixed(self, name: str, value: Any) -> None:
        """Give a constant as an output of the graph."""
        array = np.asarray(value, np.float32)
        self.node("Identity", self.constant(array), output=name)
        self.output(name, TensorProto.FLOAT, list(array.shape))

    def model(self, metadata: Mapping[str, str]) -> bytes:
        graph = helper.make_graph(
            self._nodes, "executor", self._inputs, self._outputs, self._constants
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=_IR, producer_name="agentkd"
        )
        helper.set_model_props(model, dict(metadata))
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


def _out(frozen: Frozen) -> int:
    return len(frozen.layers[-1].bias)


def _network(graph: _Graph, frozen: Frozen, obs: str, output: str = "") -> str:
    """From the input `obs` to the last layer's numbers."""
    x = graph.input(obs, ["batch", frozen.spec.obs.size])
    x = graph.node("Sub", x, graph.constant(frozen.mean, "mean"))
    x = graph.node("Mul", x, graph.constant(frozen.scale, "scale"))
    clip = np.float32(frozen.clip)
    x = graph.node("Clip", x, graph.constant(-clip), graph.constant(clip))
    for index, layer in enumerate(frozen.layers):
        weight = graph.constant(layer.weight, f"layer.{index}.weight")
        bias = graph.constant(layer.bias, f"layer.{index}.bias")
        x = graph.node("Gemm", x, weight, bias, transB=1)
        x = _activation(graph, layer.activation, x)
    return graph.node("Identity", x, output=output) if output else x


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


def _action(graph: _Graph, frozen: Frozen, x: str) -> None:
    """From the last layer's numbers to the output "action"."""
    name, action = "action", frozen.spec.action
    match action:
        case DiscreteSpec(_, start):
            best = graph.node("ArgMax", x, axis=1, keepdims=0)
            graph.node("Add", best, graph.constant(np.int64(start)), output=name)
            graph.output(name, TensorProto.INT64, ["batch"])
        case MultiDiscreteSpec(sizes):
            _choices(graph, x, sizes, name)
            graph.output(name, TensorProto.INT64, ["batch", len(sizes)])
        case MultiBinarySpec(n):
            yes = graph.node("Greater", x, graph.constant(np.float32(0)))
            graph.node("Cast", yes, to=TensorProto.INT8, output=name)
            graph.output(name, TensorProto.INT8, ["batch", n])
        case BoxSpec():
            shape = graph.constant(np.array([-1, *action.shape], np.int64))
            x = _numbers(graph, frozen, action, x)
            graph.node("Reshape", x, shape, output=name)
            graph.output(name, TensorProto.FLOAT, ["batch", *action.shape])


def _numbers(graph: _Graph, frozen: Frozen, box: BoxSpec, x: str) -> str:
    """Squash or clip into the bounds; (batch, numbers)."""
    low, high = bounds(box)
    if frozen.head == "squashed":
        half = graph.constant(np.float32(0.5) * (high - low))
        middle = graph.constant(np.float32(0.5) * (high + low))
        x = graph.node("Add", graph.node("Mul", graph.node("Tanh", x), half), middle)
    x = graph.node("Max", x, graph.constant(low))
    return graph.node("Min", x, graph.constant(high))


def _choices(graph: _Graph, x: str, sizes: tuple[int, ...], output: str) -> None:
    best = [graph.node("ArgMax", each, axis=1) for each in graph.split(x, sizes)]
    graph.node("Concat", *best, axis=1, output=output)


def _ml_agents(graph: _Graph, frozen: Frozen) -> None:
    """Unity ML-Agents: obs_0 and action_masks in, an action per branch out.

    Names as models that ML-Agents 2 and later exported have them.
    """
    x = _network(graph, frozen, "obs_0")
    action = frozen.spec.action
    graph.fixed("version_number", [_UNITY])
    graph.fixed("memory_size", [0.0])
    if isinstance(action, BoxSpec):
        numbers = _numbers(graph, frozen, action, x)
        graph.fixed("continuous_action_output_shape", [len(action.low)])
        for name in ("continuous_actions", "deterministic_continuous_actions"):
            graph.node("Identity", numbers, output=name)
            graph.output(name, TensorProto.FLOAT, ["batch", len(action.low)])
        return
    match action:
        case DiscreteSpec(n):
            branches: tuple[int, ...] = (n,)
        case MultiDiscreteSpec(sizes):
            branches = sizes
        case _:
            raise ConfigError(
                f"ML-Agents has no {action}; make each yes/no a branch of two choices."
            )
    # Unity counts choices from 0, and masks with 0 those that are not to be had.
    masks = graph.input("action_masks", ["batch", sum(branches)])
    off = graph.node("Sub", masks, graph.constant(np.float32(1)))
    x = graph.node(
        "Add", x, graph.node("Mul", off, graph.constant(np.float32(_MASKED)))
    )
    _choices(graph, x, branches, "discrete_actions")
    graph.node("Identity", "discrete_actions", output="deterministic_discrete_actions")
    graph.fixed("discrete_action_output_shape", [branches])
    for name in ("discrete_actions", "deterministic_discrete_actions"):
        graph.output(name, TensorProto.INT64, ["batch", len(branches)])


def _godot_rl(graph: _Graph, frozen: Frozen) -> None:
    """Godot RL Agents: numbers as they act, scores of choices, the state unchanged."""
    x = _network(graph, frozen, "obs")
    graph.input("state_ins", ["states"])
    if isinstance(frozen.spec.action, BoxSpec):
        x = _numbers(graph, frozen, frozen.spec.action, x)
    graph.node("Identity", x, output="output")
    graph.node("Identity", "state_ins", output="state_outs")
    graph.output("output", TensorProto.FLOAT, ["batch", _out(frozen)])
    graph.output("state_outs", TensorProto.FLOAT, ["states"])


def _rsl_rl(graph: _Graph, frozen: Frozen) -> None:
    """rsl_rl and Isaac Lab: obs in, actions out, numbers only."""
    action = frozen.spec.action
    if not isinstance(action, BoxSpec):
        raise ConfigError(
            f"rsl_rl's actions are numbers, and this executor chooses ({action}); "
            "take the flavour plain."
        )
    x = _network(graph, frozen, "obs")
    graph.node("Identity", _numbers(graph, frozen, action, x), output="actions")
    graph.output("actions", TensorProto.FLOAT, ["batch", len(action.low)])
