"""An executor as an ONNX graph with everything inside, from normaliser to action.

Game engines and robot stacks expect certain names; each such convention is a flavour. Written with
onnx.helper: no torch, no tracing, and the same bytes each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
from onnx import TensorProto

from agentkd.deploy.ctext import facts
from agentkd.deploy.onnx_layers import Graph, add_layer, add_recurrent
from agentkd.deploy.programs import Answer
from agentkd.dists import bounds
from agentkd.errors import ConfigError, check_choice
from agentkd.executors.architecture import view_of
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Gru, Lstm, Remembering, Stack
from agentkd.executors.layers import memory as remembers
from agentkd.spec import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec
from agentkd.types import Floats

Flavour = Literal["plain", "ml-agents", "godot-rl", "rsl-rl"]
"""Whose names the graph's inputs and outputs have; docs/reference/export.md lists them."""


class Opsets(NamedTuple):
    """Which versions of ONNX's operators the reader of a flavour takes, and which one is usual."""

    reader: str
    least: int
    most: int
    usual: int


OPSETS: Mapping[Flavour, Opsets] = {
    "plain": Opsets("ONNX Runtime", 9, 22, 17),
    # Unity documents 7 to 15; ML-Agents writes 9, all that its older Barracuda takes.
    "ml-agents": Opsets("Unity's Inference Engine (Sentis)", 9, 15, 9),
    # The plugin brings ONNX Runtime 1.15, and Godot RL writes 17.
    "godot-rl": Opsets("ONNX Runtime 1.15 in the Godot RL plugin", 9, 19, 17),
    "rsl-rl": Opsets("ONNX Runtime", 9, 22, 17),
}
"""By flavour; docs/reference/export.md names the sources."""
_UNITY = 3.0
"""The version of ML-Agents' model format; 3 since ML-Agents 2.0."""
_MASKED = 1e8


def to_onnx(
    executor: Executor,
    flavour: Flavour = "plain",
    provenance: Mapping[str, Any] | None = None,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Write an executor as an ONNX model, with a batch of any size.

    The plain flavour takes "obs", float32 (batch, obs), and gives "action" in the environment's
    units, (batch, …), and "outputs", the last layer's numbers. With a memory it also takes
    "memory", (batch, memory), zeros where an episode begins, and gives "memory_out".

    The flavour decides names and shapes; where the executor came from is written into the model's
    metadata, and what else `metadata` says. The opset is by default `OPSETS[flavour].usual`.

    Raises:
        ConfigError: If the flavour has no place for such actions, or its reader does not take the
            opset.
        NumbersError: If a weight is NaN or infinite.
    """
    executor.check_finite()
    if executor.spec.obs.taken and flavour != "plain":
        raise ConfigError(
            f"The flavour {flavour} has no input for the action that was executed before, which "
            f"{','.join(view_of(executor))} needs; take the flavour plain."
        )
    graph = Graph(_opset(flavour, opset))
    _WRITERS[flavour](graph, executor)
    told = dict(facts(executor, provenance or {}))
    return graph.model({"flavour": flavour, **told, **(metadata or {})})


def _opset(flavour: Flavour, asked: int | None) -> int:
    known = OPSETS[flavour]
    if asked is None:
        return known.usual
    if not known.least <= asked <= known.most:
        raise ConfigError(
            f"Opset {asked} does not go with the flavour {flavour}: choose "
            f"{known.least} to {known.most}, which {known.reader} reads."
        )
    return asked


def as_flavour(name: str) -> Flavour:
    """Find a flavour by name.

    Raises:
        ConfigError: If there is none of that name.
    """
    check_choice("ONNX flavour", name, get_args(Flavour))
    return cast(Flavour, name)


def session(graph: bytes) -> Any:
    """Make a session of ONNX Runtime, on one thread."""
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run_onnx(executor: Executor, obs: Floats, *, opset: int | None = None) -> Answer:
    """Ask ONNX Runtime, on one thread, about observations (batch, obs).

    With a memory they are a sequence that begins with none. `opset` is as in `to_onnx`.
    """
    asked = session(to_onnx(executor, opset=opset))
    if not executor.memory:
        actions, outputs = asked.run(["action", "outputs"], {"obs": obs})
        return Answer(outputs, np.asarray(actions).reshape(len(obs), -1))
    memory = np.zeros((1, executor.memory), np.float32)
    pairs = []
    for row in obs:
        given = {"obs": row[None], "memory": memory}
        action, out, memory = asked.run(["action", "outputs", "memory_out"], given)
        pairs.append((np.reshape(action, -1), out[0]))
    return Answer(*(np.stack(each) for each in reversed(list(zip(*pairs, strict=True)))))


def _network(graph: Graph, executor: Executor, obs: str, memory: str = "") -> tuple[str, str]:
    """From the input `obs`, and the name of the memory, to the last numbers and the memory after.

    The memory is "" where there is none.
    """
    x = graph.input(obs, ["batch", executor.spec.obs.size])
    x = graph.node("Sub", x, graph.constant(executor.mean, "mean"))
    x = graph.node("Mul", x, graph.constant(executor.scale, "scale"))
    x = graph.clip(x, executor.clip)
    lengths = tuple(filter(None, map(remembers, executor.layers)))
    before = iter(graph.split(memory, lengths) if len(lengths) > 1 else [memory])
    after = []
    for index, layer in enumerate(executor.layers):
        name = f"layer.{index}"
        if isinstance(layer, Remembering):
            x, kept = add_recurrent(graph, layer, x, next(before), name)
            after.append(kept)
        else:
            x = add_layer(graph, layer, x, name)
    return x, graph.node("Concat", *after, axis=1) if len(after) > 1 else "".join(after)


def _plain(graph: Graph, executor: Executor) -> None:
    size = executor.memory
    memory = graph.input("memory", ["batch", size]) if size else ""
    x, after = _network(graph, executor, "obs", memory)
    x = graph.node("Identity", x, output="outputs")
    _action(graph, executor, x)
    graph.output("outputs", ["batch", executor.out])
    if size:
        graph.give(after, "memory_out", ["batch", size])


def _action(graph: Graph, executor: Executor, x: str) -> None:
    """From the last layer's numbers to the output "action"."""
    name, action = "action", executor.spec.action
    match action:
        case DiscreteSpec(_, start):
            best = graph.node("ArgMax", x, axis=1, keepdims=0)
            graph.node("Add", best, graph.constant(np.int64(start)), output=name)
            graph.output(name, ["batch"], TensorProto.INT64)
        case MultiDiscreteSpec(sizes):
            _choices(graph, x, sizes, name)
            graph.output(name, ["batch", len(sizes)], TensorProto.INT64)
        case MultiBinarySpec(n):
            yes = graph.node("Greater", x, graph.constant(np.float32(0)))
            graph.node("Cast", yes, to=TensorProto.INT8, output=name)
            graph.output(name, ["batch", n], TensorProto.INT8)
        case BoxSpec():
            shape = graph.constant(np.array([-1, *action.shape], np.int64))
            x = _numbers(graph, executor, action, x)
            graph.node("Reshape", x, shape, output=name)
            graph.output(name, ["batch", *action.shape])


def _numbers(graph: Graph, executor: Executor, box: BoxSpec, x: str) -> str:
    """Squash or clip into the bounds; (batch, numbers)."""
    low, high = bounds(box)
    if executor.head == "squashed":
        half = graph.constant(np.float32(0.5) * (high - low))
        middle = graph.constant(np.float32(0.5) * (high + low))
        x = graph.node("Add", graph.node("Mul", graph.node("Tanh", x), half), middle)
    x = graph.node("Max", x, graph.constant(low))
    return graph.node("Min", x, graph.constant(high))


def _choices(graph: Graph, x: str, sizes: tuple[int, ...], output: str) -> None:
    best = [graph.node("ArgMax", each, axis=1) for each in graph.split(x, sizes)]
    graph.node("Concat", *best, axis=1, output=output)


def _ml_agents(graph: Graph, executor: Executor) -> None:
    """Unity ML-Agents: obs_0 and action_masks in, an action per branch out.

    Names as models that ML-Agents 2 and later exported have them.
    """
    size, memory, action = executor.memory, "", executor.spec.action
    if size:
        memory = graph.input("recurrent_in", ["batch", 1, size])
        memory = graph.reshape(memory, -1, size)
    x, after = _network(graph, executor, "obs_0", memory)
    graph.fixed("version_number", [_UNITY])
    graph.fixed("memory_size", [float(size)])
    if size:
        graph.reshape(after, -1, 1, size, output="recurrent_out")
        graph.output("recurrent_out", ["batch", 1, size])
    if isinstance(action, BoxSpec):
        numbers = _numbers(graph, executor, action, x)
        graph.fixed("continuous_action_output_shape", [len(action.low)])
        for name in ("continuous_actions", "deterministic_continuous_actions"):
            graph.give(numbers, name, ["batch", len(action.low)])
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
    # Unity counts choices from 0, and masks with 0 those that are unavailable.
    masks = graph.input("action_masks", ["batch", sum(branches)])
    off = graph.node("Sub", masks, graph.constant(np.float32(1)))
    x = graph.node("Add", x, graph.node("Mul", off, graph.constant(np.float32(_MASKED))))
    _choices(graph, x, branches, "discrete_actions")
    graph.node("Identity", "discrete_actions", output="deterministic_discrete_actions")
    graph.fixed("discrete_action_output_shape", [branches])
    for name in ("discrete_actions", "deterministic_discrete_actions"):
        graph.output(name, ["batch", len(branches)], TensorProto.INT64)


def _godot_rl(graph: Graph, executor: Executor) -> None:
    """Godot RL Agents: numbers as they act, scores of choices, and the state.

    Without a memory the state is handed back unchanged.
    """
    shape = ["batch", executor.memory] if executor.memory else ["states"]
    state = graph.input("state_ins", shape)
    x, after = _network(graph, executor, "obs", state if executor.memory else "")
    if isinstance(executor.spec.action, BoxSpec):
        x = _numbers(graph, executor, executor.spec.action, x)
    graph.give(x, "output", ["batch", executor.out])
    graph.give(after or state, "state_outs", shape)


def _rsl_rl(graph: Graph, executor: Executor) -> None:
    """rsl_rl and Isaac Lab: obs in, actions out, numbers only.

    A gru also takes h_in and gives h_out, (1, batch, width); an lstm c_in, c_out too.
    """
    action = executor.spec.action
    if not isinstance(action, BoxSpec):
        raise ConfigError(
            f"rsl_rl's actions are numbers, and this executor chooses ({action}); "
            "take the flavour plain."
        )
    recurrent = [each for each in executor.layers if isinstance(each, Gru | Lstm)]
    if any(isinstance(each, Stack) for each in executor.layers):
        raise ConfigError(
            f"rsl_rl has no stack of observations, as {executor.architecture} has; take the "
            "flavour plain."
        )
    if len(recurrent) > 1:
        raise ConfigError(
            f"rsl_rl has one recurrent layer, and {executor.architecture} has "
            f"{len(recurrent)}; take the flavour plain."
        )
    names = [name for layer in recurrent for name in ("h" if isinstance(layer, Gru) else "hc")]
    wide = executor.memory // max(1, len(names))
    held = [
        graph.reshape(graph.input(f"{name}_in", [1, "batch", wide]), -1, wide) for name in names
    ]
    memory = graph.node("Concat", *held, axis=1) if len(held) > 1 else "".join(held)
    x, after = _network(graph, executor, "obs", memory)
    x = _numbers(graph, executor, action, x)
    graph.give(x, "actions", ["batch", len(action.low)])
    pieces = graph.split(after, (wide,) * len(names)) if len(names) > 1 else [after] * len(names)
    for name, each in zip(names, pieces, strict=True):
        graph.reshape(each, 1, -1, wide, output=f"{name}_out")
        graph.output(f"{name}_out", [1, "batch", wide])


_WRITERS: Mapping[Flavour, Callable[[Graph, Executor], None]] = {
    "plain": _plain,
    "ml-agents": _ml_agents,
    "godot-rl": _godot_rl,
    "rsl-rl": _rsl_rl,
}
