"""Policies as ONNX graphs, run by onnxruntime: the conventions of those who export them.

Normalisation is inside the graph; the scale of the actions and the default pose are not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, LoadError, PlannerError, SpecError
from agentkd.extras import needing
from agentkd.files import loading, regular
from agentkd.planners.actions import from_actions
from agentkd.planners.files.choices import output_of
from agentkd.planners.files.contents import LIMIT
from agentkd.planners.files.network import free_box, own_spec
from agentkd.planners.files.options import FLAG, Assumptions
from agentkd.planners.planner import Planner
from agentkd.protobuf import external_files
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, Spec
from agentkd.testing import example_observations
from agentkd.types import ActionDist, Floats, Gaussian, Point, State

_OBSERVATION = re.compile(r"obs(_\d+)?|observations?|input(_\d+)?|policy|state|x")
_MASKS = "action_masks"
_MEMORIES = ((r"(\w+)_in", "{}_out"), (r"(\w+)_ins", "{}_outs"), (r"(\w+)", "{}_out"))
_ABOUT = {
    "version_number",
    "memory_size",
    "action_output_shape",
    "continuous_action_output_shape",
    "discrete_action_output_shape",
    "is_continuous_control",
}
"""Outputs of ML-Agents that tell of the model; they are no answer."""
_ANSWERS = (
    "deterministic_continuous_actions",
    "deterministic_discrete_actions",
    "continuous_actions",
    "discrete_actions",
    "actions",
    "action",
    "output",
    "output_0",
    "mean",
    "mu",
    "logits",
)
"""The outputs that are an answer, the better first."""
_DRAWN = ("continuous_actions", "discrete_actions")
"""Those that are drawn at random."""
_MOST = 1 << 20
_LEAST = 1e-8
"""What a probability of 0 counts as."""
_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A session with what its inputs and outputs are for.

    Attributes:
        session: Of onnxruntime.
        parts: The inputs that are the observation, in order: name, shape of a row, dtype.
        memory: Inputs and outputs of the memory: names, shape for one row, and dtype.
        masks: The input that masks actions and how many there are, or None.
        answer: The output that is the answer.
        single: Whether the graph takes one row at a time.
    """

    session: Any
    parts: tuple[tuple[str, tuple[int, ...], Any], ...]
    memory: tuple[tuple[str, str, tuple[int, ...], Any], ...]
    masks: tuple[str, int] | None
    answer: str
    single: bool

    @property
    def inputs(self) -> int:
        """How many numbers the observation has."""
        return sum(int(np.prod(shape)) for _, shape, _ in self.parts)

    def run(self, obs: Floats, state: Sequence[Floats] = ()) -> list[Any]:
        """Answer for observations (batch, size): the answer, then the memory after."""
        feed: dict[str, Any] = {}
        at = 0
        for name, shape, dtype in self.parts:
            until = at + int(np.prod(shape))
            feed[name] = obs[:, at:until].reshape(len(obs), *shape).astype(dtype, copy=False)
            at = until
        if self.masks is not None:
            feed[self.masks[0]] = np.ones((len(obs), self.masks[1]), np.float32)
        for (name, _, _, dtype), each in zip(self.memory, state, strict=True):
            feed[name] = each.astype(dtype, copy=False)
        wanted = [self.answer, *(after for _, after, *_ in self.memory)]
        try:
            return list(self.session.run(wanted, feed))
        except Exception as error:  # onnxruntime has errors of its own
            raise PlannerError(
                f"onnxruntime failed: {' '.join(str(error).split())[:300]}"
            ) from error

    def rows(self, obs: Floats) -> Any:
        """Answer for a batch without a memory, row by row if the graph takes one."""
        if not self.single:
            return self.run(obs)[0]
        return np.concatenate([self.run(obs[i : i + 1])[0].reshape(1, -1) for i in range(len(obs))])


@dataclass(frozen=True, slots=True, eq=False)
class Meaning:
    """What a graph's numbers mean, for an action space and what the user told.

    Attributes:
        action: The environment's actions.
        kind: Of choices.
        probabilities: Whether the numbers are those of the choices.
        log_std: Of a Gaussian, (d,), or None.
        scale: Multiplies a box's action, (d,), or None; so `offset`, added then.
    """

    action: ActionSpec
    kind: Any
    log_std: Floats | None = None
    scale: Floats | None = None
    offset: Floats | None = None
    probabilities: bool = False

    def __call__(self, found: Any, batch: int) -> ActionDist:
        """Make an action distribution of what was answered, (batch, …)."""
        if found.dtype.kind in "iu":
            return from_actions(found.reshape(batch, -1), batch, self.action)
        if found.size % batch:
            raise SpecError(f"{batch} observations were answered by numbers of {found.shape}.")
        rows = np.asarray(found.reshape(batch, -1), np.float32)
        if rows.shape[1] != dists.action_size(self.action):
            raise SpecError(
                f"The policy gives {rows.shape[1]} numbers; {self.action} needs "
                f"{dists.action_size(self.action)}."
            )
        if not isinstance(self.action, BoxSpec):
            if self.probabilities:
                if (rows < 0).any():
                    raise PlannerError(
                        f"The policy answered with probabilities below 0, {rows.min():g}. If they "
                        f"are none, say so: {FLAG} output=logits."
                    )
                rows = np.log(np.maximum(rows, _LEAST))
            return dists.unpack(self.kind, rows, self.action)
        if self.scale is not None:
            rows = rows * self.scale
        if self.offset is not None:
            rows = rows + self.offset
        if self.log_std is None:
            return Point(rows)
        return Gaussian(rows, np.broadcast_to(self.log_std, rows.shape))


def meaning(action: ActionSpec, about: Assumptions, name: str = "") -> Meaning:
    """Read what the user told of a policy whose file holds no more than its answer, and its name.

    Raises:
        ConfigError: If what the user told is not for such actions.
    """
    if not isinstance(action, BoxSpec):
        kind, probabilities = output_of(name, action, about)
        return Meaning(action, kind, probabilities=probabilities)
    size = dists.action_size(action)
    sigma, scale, offset = (
        about.array(name, size) for name in ("sigma", "action_scale", "action_offset")
    )
    if sigma is None and scale is None and offset is None:
        about.note(
            "the answer is an action without a deviation (sigma), which the environment scales as "
            "in training (action_scale, action_offset)"
        )
    log_std = None if sigma is None else np.log(sigma)
    if log_std is not None and scale is not None:
        log_std = log_std + np.log(np.abs(scale))
    return Meaning(action, None, log_std, scale, offset)


@dataclass(frozen=True, slots=True, eq=False)
class OnnxPolicy:
    """A graph without a memory. It is a `Policy`."""

    graph: Graph
    meaning: Meaning

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        return self.meaning(self.graph.rows(obs), len(obs))


@dataclass(frozen=True, slots=True, eq=False)
class OnnxRecurrentPolicy:
    """A graph whose memory goes in and comes out. It is a `RecurrentPolicy`.

    Each array of its memory is (batch, …), with the graph's own shape for one row.
    """

    graph: Graph
    meaning: Meaning

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with: zeros."""
        shapes = [shape for _, _, shape, _ in self.graph.memory]
        return tuple(np.zeros((batch, *shape), np.float32) for shape in shapes)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Give the action distribution for (batch, size) and the next memory."""
        shapes = [shape for _, _, shape, _ in self.graph.memory]
        answers, after = [], [np.empty((len(obs), *shape), np.float32) for shape in shapes]
        for row in range(len(obs)):
            answer, *held = self.graph.run(obs[row : row + 1], [each[row] for each in state])
            answers.append(answer.reshape(1, -1))
            for kept, each, shape in zip(after, held, shapes, strict=True):
                if each.size != kept[row].size:
                    raise PlannerError(f"A memory of {shape} came back with shape {each.shape}.")
                kept[row] = each.reshape(shape)
        return self.meaning(np.concatenate(answers), len(obs)), tuple(after)


def load(raw: bytes, path: Path, spec: Spec | None, about: Assumptions) -> Planner:
    """Make a planner of an ONNX file.

    Raises:
        ConfigError: If onnxruntime is missing.
        LoadError: If the graph has no observation or answer that is known.
        PlannerError: If it fails, or draws random numbers.
        SpecError: If it is for another environment.
    """
    digest = hashlib.sha256(raw)
    files = _beside(raw, path)
    for each in files:
        with regular(each, LIMIT) as stream, loading(each):
            while piece := stream.read(1 << 20):
                digest.update(piece)
    with needing(f"The planner {about.where}"):
        onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    source = str(path) if files else raw
    with loading(about.where):
        session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    graph = _graph(session, about)
    if spec is None:
        spec = own_spec(graph.inputs, _own_action(session, graph, about))
    if spec.obs.size != graph.inputs:
        raise SpecError(
            f"{about.where} observes {graph.inputs} numbers; the environment gives "
            f"{spec.obs.size}. It was trained in another environment, or with other observations."
        )
    told = session.get_modelmeta().custom_metadata_map
    if isinstance(spec.action, BoxSpec) and "action_scale" in told:
        about.note(
            f"the environment applies the action_scale of its metadata, {told['action_scale']:.60}"
        )
    graph = _tried(graph, example_observations(spec.obs, 3), about)
    known = meaning(spec.action, about, graph.answer)
    policy = (OnnxRecurrentPolicy if graph.memory else OnnxPolicy)(graph, known)
    return Planner(policy, spec, f"ONNX policy {path.name}", 0, digest.hexdigest())


def _beside(raw: bytes, path: Path) -> list[Path]:
    """Find the files beside an ONNX file in which it keeps weights."""
    with loading(path):
        names = sorted(external_files(raw))
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise LoadError(
                f"{path} keeps weights in {name!r}, which is no file beside it. Export it anew, "
                "with weights inside (external_data=False)."
            )
        if not (path.parent / name).is_file():
            raise LoadError(
                f"{path} keeps its weights in {name!r}, which is not beside it. Copy it there, or "
                "export the policy with weights inside (external_data=False)."
            )
    return [path.parent / name for name in names]


def _graph(session: Any, about: Assumptions) -> Graph:
    """Say what a session's inputs and outputs are for."""
    inputs = {each.name: each for each in session.get_inputs()}
    outputs = {each.name: each for each in session.get_outputs()}
    pairs = [(name, _after(name, outputs)) for name in inputs]
    memory = tuple(
        (name, after, _shape(inputs[name], about), _TYPES[inputs[name].type])
        for name, after in pairs
        if after is not None
    )
    masks = None
    if _MASKS in inputs:
        masks = _MASKS, int(np.prod(_shape(inputs[_MASKS], about)[1:]))
        about.note(f"its {_MASKS} allow every choice: observations do not tell which are forbidden")
    held = {name for name, *_ in memory} | {_MASKS}
    floats = [each for name, each in inputs.items() if name not in held]
    named = [each for each in floats if _OBSERVATION.fullmatch(each.name)]
    numbered = [each for each in named if re.fullmatch(r"obs_\d+", each.name)]
    if len(numbered) > 1:
        named = sorted(numbered, key=lambda each: int(each.name[4:]))
    if len(floats) == 1:
        named = floats
    if not named or len(named) != len(floats) or any(e.type not in _TYPES for e in named):
        shown = ", ".join(f"{e.name}: {e.type}" for e in inputs.values())
        raise LoadError(
            f"{about.where} has the inputs {shown:.300}. One observation of numbers is needed "
            "(obs, obs_0, input, observation), and pairs X_in, X_out for a memory."
        )
    if len(named) > 1 and not numbered:
        raise LoadError(f"{about.where} observes {[e.name for e in named]}; one input is read.")
    parts = tuple((each.name, _shape(each, about)[1:], _TYPES[each.type]) for each in named)
    dynamic = all(not isinstance(each.shape[0], int) or each.shape[0] < 1 for each in named)
    after = {each for _, each, *_ in memory}
    return Graph(
        session, parts, memory, masks, _answer(outputs, after, about), bool(memory) or not dynamic
    )


def _tried(graph: Graph, obs: Floats, about: Assumptions) -> Graph:
    """Ask for each row twice, then for all together: rows that are not apart are asked one by one.

    Raises:
        PlannerError: If the graph draws random numbers.
    """
    if graph.answer in _DRAWN:
        return graph
    state = [np.zeros(shape, np.float32) for _, _, shape, _ in graph.memory]

    def each() -> Any:
        return np.stack([graph.run(row[None], state)[0].ravel() for row in obs])

    first = each()
    if not _same(first, each()):
        raise PlannerError(
            f"{about.where} answers the same observation differently when it is asked again: it "
            "draws random numbers. Export its deterministic action."
        )
    if graph.single:
        return graph
    try:
        together = graph.run(obs)[0]
    except PlannerError:  # it may say that it takes any number, and take one
        together = None
    if together is None or not _same(together.reshape(len(obs), -1), first):
        return replace(graph, single=True)
    return graph


def _same(here: Any, there: Any) -> bool:
    if here.shape != there.shape or here.dtype.kind not in "biuf":
        return bool(np.array_equal(here, there))
    return bool(np.allclose(here, there, rtol=1e-4, atol=1e-5, equal_nan=True))


def _after(name: str, outputs: Any) -> str | None:
    """The output that gives an input's memory back, None if it is no memory."""
    for pattern, form in _MEMORIES:
        match = re.fullmatch(pattern, name)
        if match and form.format(match[1]) in outputs:
            return form.format(match[1])
    return None


def _shape(found: Any, about: Assumptions) -> tuple[int, ...]:
    """An input's shape for one row: what is not fixed is 1."""
    shape = tuple(n if isinstance(n, int) and n > 0 else 1 for n in found.shape)
    if not shape or np.prod(shape, dtype=float) > _MOST or found.type not in _TYPES:
        raise LoadError(f"{about.where}: its input {found.name!r} has the shape {found.shape}.")
    return shape


def _answer(outputs: Any, after: set[str], about: Assumptions) -> str:
    """Choose the output that is the answer."""
    left = [name for name in outputs if name not in after and name not in _ABOUT]
    both = {"continuous", "discrete"}
    if all(any(kind in name for name in left) for kind in both):
        raise LoadError(
            f"{about.where} answers with numbers and with choices at once, which no space is. "
            "Write a function planner(spec) that gives one of them."
        )
    known = [name for name in _ANSWERS if name in left]
    if len(left) != 1 and not known:
        raise LoadError(
            f"{about.where} has the outputs {left[:6]}; which is the action is unknown."
        )
    chosen = known[0] if known else left[0]
    if chosen in _DRAWN:
        about.note(f"{chosen} are drawn at random: the file has no deterministic ones")
    return chosen


def _own_action(session: Any, graph: Graph, about: Assumptions) -> ActionSpec:
    """What a graph tells of its actions: how many numbers there are."""
    (found,) = (each for each in session.get_outputs() if each.name == graph.answer)
    size = found.shape[-1] if found.shape else None
    if found.type not in _TYPES or not isinstance(size, int):
        raise ConfigError(f"{about.where} does not tell its actions: name the environment.")
    if about.options.output in ("logits", "probabilities", "q-values"):
        return DiscreteSpec(size)
    return free_box(size)
