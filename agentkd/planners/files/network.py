"""What a checkpoint computes: normaliser, layers, maybe a memory, layers, and an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agentkd import dists
from agentkd.errors import ConfigError, LoadError, SpecError
from agentkd.executors.network import Trace
from agentkd.planners.files.options import ACTIVATIONS, FLAG, Assumptions
from agentkd.planners.files.weights import REMEDY, Pair
from agentkd.planners.sb3.tensors import plain_kind
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import ActionDist, Floats, Kind, Policy, RecurrentPolicy, State

if TYPE_CHECKING:
    from agentkd.planners.torch_view import Opened

Spread = Literal["none", "fixed", "scalar", "log", "tanh", "beta"]
"""Where a deviation comes from: nowhere, a constant, or the second half of the last numbers.

That is the deviation (scalar), its logarithm (log), a squashed one (tanh), or Beta's second number.
"""
_STD = (1e-6, 1e6)
_FURTHEST = math.log(1e10)
"""The logarithm of a fixed deviation is within this."""
_LOG_STD_OF_SAC = (-5.0, 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class Normaliser:
    """clip((x - mean) / deviation), within [-clip, clip]; mean and deviation are (obs,)."""

    mean: Tensor
    deviation: Tensor
    clip: float = math.inf

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise observations (batch, obs)."""
        x = (x - self.mean) / self.deviation
        return x if math.isinf(self.clip) else x.clamp(-self.clip, self.clip)


Step = tuple[Tensor, Tensor | None, nn.Module]
"""A linear layer and the activation after it: weight (out, in), bias (out,) or None."""


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """Linear layers, each with its activation."""

    steps: tuple[Step, ...] = ()

    def __call__(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        """Map (batch, in) to (batch, out); note in `trace` what each layer gives."""
        for weight, bias, activation in self.steps:
            x = activation(functional.linear(x, weight, bias))
            if trace is not None:
                trace.layers.append(x)
        return x


def layers(pairs: Sequence[Pair], activation: str, *, ends: bool = False) -> Layers:
    """Join linear layers by an activation, by its name in `ACTIVATIONS`; one follows if `ends`."""
    between: nn.Module = getattr(nn, ACTIVATIONS[activation])()
    after = [between] * (len(pairs) - 1) + [between if ends else nn.Identity()]
    return Layers(tuple((*pair, module) for pair, module in zip(pairs, after, strict=False)))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """From the last layer's numbers to the packed rows of an action distribution.

    Attributes:
        kind: Of the answer.
        size: How many numbers an action has; how many choices there are.
        spread: Where the deviation of a Gaussian comes from.
        log_std: Of a fixed deviation, (size,).
        squash: Whether tanh follows, before scale and offset.
        scale: Multiplies the action, (size,), and the deviation; None for 1.
        offset: Is added to the action, (size,); None for 0.
    """

    kind: Kind
    size: int
    spread: Spread = "none"
    log_std: Tensor | None = None
    squash: bool = False
    scale: Tensor | None = None
    offset: Tensor | None = None

    @property
    def width(self) -> int:
        """How many numbers it takes of the last layer."""
        return self.size * (1 if self.spread in ("none", "fixed") else 2)

    def __call__(self, out: Tensor) -> Tensor:
        """Map (batch, width) to what `agentkd.dists.pack` makes of the answer."""
        mean, log_std = out, None
        if self.width > self.size:
            mean, log_std = self._halves(out[:, : self.size], out[:, self.size :])
        elif self.log_std is not None:
            log_std = self.log_std.expand_as(out)
        if self.squash and self.kind != "squashed":
            mean = torch.tanh(mean)
        if self.scale is not None:
            mean = mean * self.scale
            log_std = None if log_std is None else log_std + self.scale.abs().log()
        if self.offset is not None:
            mean = mean + self.offset
        return mean if self.kind == "point" or log_std is None else torch.cat([mean, log_std], 1)

    def _halves(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the logarithm of the deviation, of both halves of the last numbers."""
        if self.spread == "scalar":
            return first, second.clamp(*_STD).log()
        if self.spread == "log":
            return first, second.clamp(math.log(_STD[0]), math.log(_STD[1]))
        if self.spread == "tanh":
            low, high = _LOG_STD_OF_SAC
            return first, low + 0.5 * (high - low) * (torch.tanh(second) + 1.0)
        # The moments of a Beta distribution between 0 and 1.
        alpha, beta = functional.softplus(first) + 1.0, functional.softplus(second) + 1.0
        total = alpha + beta
        variance = alpha * beta / (total.square() * (total + 1.0))
        return alpha / total, 0.5 * variance.log()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Network:
    """All that a checkpoint computes.

    Attributes:
        inputs: How many numbers it observes.
        normaliser: Of the observations, or None.
        first: Layers before the memory.
        memory: An LSTM or a GRU, or None.
        begin: The memory's outputs where an episode begins, (layers, width); None for zeros.
        last: The layers after it.
        answer: What comes of the last layer's numbers.
        name: What it is, such as "rsl_rl actor".
        parameters: How many trained numbers act.
    """

    inputs: int
    normaliser: Normaliser | None = None
    first: Layers = Layers()
    memory: nn.LSTM | nn.GRU | None = None
    begin: Tensor | None = None
    last: Layers
    answer: Answer
    name: str
    parameters: int

    def check(self, where: str) -> None:
        """Make sure that each layer takes what the one before gives.

        Raises:
            LoadError: If one does not.
        """
        steps = [(each.shape[1], len(each)) for each, *_ in self.first.steps]
        if self.memory is not None:
            steps.append((self.memory.input_size, self.memory.hidden_size))
        steps += [(each.shape[1], len(each)) for each, *_ in self.last.steps]
        size = self.inputs
        for takes, gives in steps:
            if takes != size:
                raise LoadError(f"{where}: a layer takes {takes} numbers and gets {size}. {REMEDY}")
            size = gives
        if size != self.answer.width:
            raise LoadError(
                f"{where}: the last layer gives {size} numbers; {self.answer.width} make an answer."
            )

    def before(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        """Normalise observations (batch, obs) and apply the layers before the memory."""
        if self.normaliser is not None:
            x = self.normaliser(x)
        return self.first(x, trace)


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32, order="C"))


@dataclass(frozen=True, slots=True, eq=False)
class FilePolicy:
    """A feed-forward network of a checkpoint. It is a `Policy`."""

    network: Network
    action: ActionSpec

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        with torch.inference_mode():
            rows = self._rows(_tensor(obs))
        return dists.unpack(self.network.answer.kind, rows.numpy(), self.action)

    def _rows(self, obs: Tensor, trace: Trace | None = None) -> Tensor:
        network = self.network
        return network.answer(network.last(network.before(obs, trace), trace))

    def opened(self) -> Opened:
        """Show what it computes, with gradients; see `agentkd.planners.torch_view`."""
        from agentkd.planners.torch_view import Opened

        return Opened(self.network.answer.kind, self._rows)


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentFilePolicy:
    """A network with a memory of a checkpoint. It is a `RecurrentPolicy`.

    Its memory is the outputs, and an LSTM's cells, each (batch, layers, width).
    """

    network: Network
    action: ActionSpec

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with."""
        memory = self.network.memory
        assert memory is not None
        begin = np.zeros((memory.num_layers, memory.hidden_size), np.float32)
        zeros = np.repeat(begin[None], batch, axis=0)
        outputs = zeros
        if self.network.begin is not None:
            outputs = np.repeat(self.network.begin.numpy()[None], batch, axis=0)
        return (outputs, zeros) if isinstance(memory, nn.LSTM) else (outputs,)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Give the action distribution for (batch, size) and the next memory."""
        network = self.network
        assert network.memory is not None
        with torch.inference_mode():
            held = tuple(_tensor(each.swapaxes(0, 1)) for each in state)
            x = network.before(_tensor(obs))[:, None]
            if isinstance(network.memory, nn.LSTM):
                x, after = network.memory(x, (held[0], held[1]))
            else:
                x, outputs = network.memory(x, held[0])
                after = (outputs,)
            rows = network.answer(network.last(x[:, 0]))
        # Rows first, and memory of their own: the caller keeps some and drops others.
        kept = tuple(np.ascontiguousarray(each.numpy().swapaxes(0, 1)) for each in after)
        return dists.unpack(network.answer.kind, rows.numpy(), self.action), kept


def policy_of(network: Network, action: ActionSpec) -> Policy | RecurrentPolicy:
    """Make a policy of a network."""
    return (FilePolicy if network.memory is None else RecurrentFilePolicy)(network, action)


def free_box(size: int) -> BoxSpec:
    """A box without bounds: what a file knows of its actions."""
    return BoxSpec((-math.inf,) * size, (math.inf,) * size, (size,))


def own_spec(inputs: int, action: ActionSpec) -> Spec:
    """What a file knows of its environment: how many numbers there are."""
    return Spec(ObsSpec((Part("", "box", (inputs,), "float32"),)), action)


def fit(network: Network, spec: Spec | None, about: Assumptions) -> tuple[Network, Spec]:
    """Fit a network to its environment, or to one of its own.

    Args:
        network: Its answer has the kind "point" or "categorical" and the deviation of the file.
        spec: The environment, or None.
        about: The user's options: sigma, action_scale, action_offset, output.

    Raises:
        LoadError: If its layers do not fit each other.
        SpecError: If observation or action are of another size or kind.
    """
    network.check(about.where)
    answer = network.answer
    if spec is None:
        choices = answer.kind in ("categorical", "qvalues")
        action: ActionSpec = DiscreteSpec(answer.size) if choices else free_box(answer.size)
        spec = own_spec(network.inputs, action)
    check_sizes(network.inputs, answer.size, spec, about.where)
    if isinstance(spec.action, BoxSpec):
        answer = _continuous(answer, about)
    elif answer.spread != "none" or answer.squash:
        raise SpecError(f"{about.where} acts with numbers; the environment takes {spec.action}.")
    elif answer.kind != "qvalues":
        answer = replace(answer, kind=choice_kind(spec.action, about))
    return replace(network, answer=answer), spec


def choice_kind(action: ActionSpec, about: Assumptions) -> Kind:
    """What the last numbers are for choices, by --planner-args output; logits by default."""
    output = about.given("output")
    if output not in (None, "logits", "q-values"):
        raise ConfigError(f"{about.where}: {FLAG} output={output} is not for its choices.")
    if output == "q-values":
        if not isinstance(action, DiscreteSpec):
            raise ConfigError(f"{about.where}: {FLAG} output=q-values is for one choice.")
        return "qvalues"
    return plain_kind(action)


def check_sizes(inputs: int, outputs: int, spec: Spec, where: str) -> None:
    """Make sure that a policy is for an environment.

    Raises:
        SpecError: If it observes, or gives, another number of numbers.
    """
    if spec.obs.size != inputs:
        raise SpecError(
            f"{where} observes {inputs} numbers; the environment gives {spec.obs.size}. It was "
            "trained in another environment, or with other observations."
        )
    wanted = dists.action_size(spec.action)
    if outputs != wanted:
        raise SpecError(f"{where} gives {outputs} numbers; {spec.action} needs {wanted}.")


def _continuous(answer: Answer, about: Assumptions) -> Answer:
    """Give a box's answer its deviation, scale and offset."""
    if answer.kind in ("categorical", "qvalues"):
        raise SpecError(f"{about.where} makes choices; the environment takes a box of numbers.")
    size = answer.size
    sigma = about.array("sigma", size)
    scale, offset = about.array("action_scale", size), about.array("action_offset", size)
    if sigma is not None:
        if answer.width > size:
            raise ConfigError(f"{about.where} tells its deviation itself: leave sigma out.")
        answer = replace(answer, spread="fixed", log_std=torch.from_numpy(np.log(sigma)))
    elif answer.log_std is not None and not bool((answer.log_std.abs() <= _FURTHEST).all()):
        raise LoadError(
            f"{about.where}: its actions' deviations are {answer.log_std.exp().tolist()!r:.60}"
            "; a deviation has to be between 1e-10 and 1e10. Use an earlier checkpoint, or tell "
            f"them: {FLAG} sigma=0.3."
        )
    if answer.kind == "squashed" and (scale is not None or offset is not None):
        raise ConfigError(
            f"{about.where} knows its action_scale and action_offset: leave both out."
        )
    if scale is not None:
        if not scale.all():
            raise ConfigError(f"{FLAG} action_scale=0 would leave nothing of the action.")
        old = 1.0 if answer.scale is None else answer.scale
        answer = replace(answer, scale=torch.from_numpy(scale) * old)
        if answer.offset is not None:
            answer = replace(answer, offset=answer.offset * torch.from_numpy(scale))
    if offset is not None:
        old = 0.0 if answer.offset is None else answer.offset
        answer = replace(answer, offset=torch.from_numpy(offset) + old)
    if answer.spread != "none" and answer.kind == "point":
        answer = replace(answer, kind="gaussian")
    return answer
