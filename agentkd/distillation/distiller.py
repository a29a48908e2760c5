"""The distiller: labels in, executor weights out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentkd import dists
from agentkd.deploy.kept import capacity
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.moments import by_channel, moments
from agentkd.distillation.restoring import all_like, restore_adam
from agentkd.distillation.terms import Terms, parse_terms, to_text
from agentkd.distillation.terms.term import Batch, Ground, Objective
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor, distribution
from agentkd.executors.layers import Conv
from agentkd.executors.network import Network
from agentkd.fields import Fields
from agentkd.files import loading
from agentkd.types import AnyDist, Floats, Kind, Labels, Policy, RecurrentPolicy

_AVERAGE = 16.0
_LEAST_STD = 1e-2
_SETTLED = 4096
"""Labels from which on a change of the normaliser is compensated."""
_CHECK = 64
_SHARE = 8
"""With a memory, one sequence is drawn for so many labels of a batch."""


@dataclass(frozen=True, slots=True)
class DistillerOptions:
    """How the distiller learns.

    Attributes:
        batch: Labels in one gradient step.
        learning_rate: Of Adam, at the start.
        floor: The share of it that is left at the end of the schedule.
        warmup: Gradient steps over which it rises.
        clip_gradient: The largest norm of a gradient.
        capacity: The most labels held in memory.
        least: Labels before the first step.
        seed: For which labels are drawn.
        ticks: With a memory: how long the sequences are that it learns from, so far does the
            gradient reach.
        burn_in: With a memory: ticks of a sequence that begins amid an episode in which the memory
            is made and nothing is learnt.
        terms: What is minimised, as `agentkd.distillation.terms` reads it: "match" alone, or
            "soft:tau=2 + 0.3 hard"; or the terms themselves.
        normalise: Whether the normaliser follows the labels.
    """

    batch: int = 512
    learning_rate: float = 3e-3
    floor: float = 0.01
    warmup: int = 50
    clip_gradient: float = 1.0
    capacity: int = 1_000_000
    least: int = 64
    seed: int = 0
    ticks: int = 32
    burn_in: int = 8
    terms: str | Terms = "match"
    normalise: bool = True

    def __post_init__(self) -> None:
        """Validate the fields."""
        self.sum()
        if self.batch < 1 or self.least < 1:
            raise ConfigError("batch and least have to be at least 1.")
        if self.capacity < self.least:
            raise ConfigError(
                f"capacity is {self.capacity}; learning begins at {self.least} labels, "
                "so that nothing would be learnt."
            )
        if not 0 <= self.burn_in < self.ticks:
            raise ConfigError(
                f"burn_in is {self.burn_in}, ticks {self.ticks}: a sequence has to be "
                "longer than its burn-in."
            )
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it has to be above 0.")

    def sum(self) -> Terms:
        """The terms, read if they are text.

        Raises:
            ConfigError: If they cannot be read.
        """
        return parse_terms(self.terms) if isinstance(self.terms, str) else self.terms


@final
class Distiller:
    """Trains an executor on labels. It satisfies `agentkd.types.DistillerLike`.

    Weights are averaged with a window that grows with the run (polynomial decay, Shamir and Zhang
    2013), and the average is what `snapshot` gives. The normaliser is set from the labels at hand
    whenever their number has doubled. Once there are enough labels the first layer is changed
    against it, so that nothing is unlearnt; before, the network is left as it is, since weights
    that carried the units of the first few observations would stay badly scaled for good.

    Args:
        executor: The executor to start from.
        options: How to learn.
        planner: What the labels are from, for terms that ask it themselves.
        beside: A loss of the network that is added to that of each batch.
    """

    def __init__(
        self,
        executor: Executor,
        options: DistillerOptions | None = None,
        planner: Policy | RecurrentPolicy | None = None,
        beside: Callable[[Network], Tensor] | None = None,
    ) -> None:
        """Begin with the weights of `executor` and no labels."""
        self.options = options or DistillerOptions()
        self.buffer = LabelBuffer(self.options.capacity, linked=executor.memory > 0)
        self.network = Network(executor)
        self.steps = 0
        self.rejected = 0
        self._random = np.random.default_rng(self.options.seed)
        self._adam = self._optimiser()
        self._average = [p.detach().clone() for p in self.network.parameters()]
        self._objective: Objective | None = None
        self._restored: Mapping[str, Any] = {}
        self._planner, self._beside = planner, beside
        self._executor = executor
        # A normaliser that was set by labels is not given up for a few new ones.
        untouched = not executor.mean.any() and bool((executor.scale == 1).all())
        self._normalised_at = 0 if untouched else _SETTLED // 2
        self._progress, self._rising = 0.0, 0
        self._good = self._state()

    def add(self, obs: Floats, dist: AnyDist, link: NDArray[np.int32] | None = None) -> None:
        """Take labels: observations (batch, obs) and the planner's answer to them.

        An executor with a memory learns from sequences: `link` is as in `Labels`.
        """
        if link is None and self._executor.memory:
            raise ConfigError(
                f"{self._executor.architecture} has a memory and learns from sequences: "
                "give each label its link (agentkd.types.Labels). In a live run an "
                "executor without a memory learns, such as mlp:64,64."
            )
        self.buffer.add(obs, dist, link)
        self.expect(self.buffer.kind)

    def load_labels(self, path: Path) -> None:
        """Take the labels that `LabelBuffer.save` left in a file.

        Raises:
            LoadError: If the file is damaged.
        """
        self.buffer.load(path, self._executor.spec)
        self.expect(self.buffer.kind)

    def expect(self, kind: Kind | None) -> None:
        """Make the losses for labels of a kind; the first ones do it otherwise.

        Raises:
            ConfigError: If a term does not go with such labels or the executor.
        """
        if self._objective is not None or kind is None:
            return
        self._objective = Objective(
            self.options.sum(),
            Ground.of(
                self._executor, kind, self.network, seed=self.options.seed, planner=self._planner
            ),
        )
        self._restore_terms()
        self._good["objective"] = deepcopy(self._objective.state_dict())

    def _restore_terms(self) -> None:
        if self._objective is not None and self._restored:
            with loading("The saved state of the terms"):
                self._objective.load_state_dict(self._restored)
            self._restored = {}

    def schedule(self, progress: float) -> None:
        """Set the learning rate: `progress` runs from 0 to 1 over the whole run."""
        self._progress = min(max(progress, 0.0), 1.0)

    def step(self) -> Mapping[str, float]:
        """Take one gradient step.

        Returns:
            "divergence" and "learning_rate", and what the terms tell as "term.number"; {} while
            there are too few labels.
        """
        if self._objective is None or len(self.buffer) < self.options.least:
            return {}
        self._renormalise()
        rate = self._rate()
        for group in self._adam.param_groups:
            group["lr"] = rate
        loss = self._objective(self._draw()).mean()
        if self._beside is not None:
            loss = loss + self._beside(self.network)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_gradient)
        self._adam.step()
        self.steps += 1
        self._follow()
        value = loss.item()
        if not np.isfinite(value):
            self._recover()
        elif self.steps % _CHECK == 0:
            self._keep()
        return {"learning_rate": rate, **self._objective.numbers()}

    def _draw(self) -> Batch:
        """Draw labels, and let the executor answer; with a memory, along sequences."""
        options, network = self.options, self.network
        if not network.memory:
            drawn = self.buffer.draw(options.batch, self._random)
            obs, planner = map(torch.from_numpy, drawn)
            return Batch(obs, network(obs), planner, network.forward, self._progress)
        count = max(1, options.batch // _SHARE)
        found = self.buffer.draw_sequences(
            count, options.ticks, self._random, burn_in=options.burn_in
        )
        whole = torch.from_numpy(np.ascontiguousarray(found.obs))
        learnt = torch.from_numpy(found.learnt)

        def forward(obs: Tensor) -> Tensor:
            placed = whole.clone()
            placed[learnt] = obs
            return network.follow(placed)[0][learnt]

        return Batch(
            whole[learnt],
            network.follow(whole)[0][learnt],
            torch.from_numpy(np.ascontiguousarray(found.planner))[learnt],
            forward,
            self._progress,
        )

    def sample(self, size: int) -> Labels | None:
        """Return labels of the newer half that take at most `size` bytes; None of none.

        Executors with a memory give none: single labels say nothing of it.
        """
        kind, spec = self.buffer.kind, self._executor.spec
        most = capacity(spec, kind, size) if kind and not self._executor.memory else 0
        random = np.random.default_rng(self.options.seed)
        obs, packed = self.buffer.sample(most, random)
        if not len(obs) or kind is None:
            return None
        return Labels(obs, dists.unpack(kind, packed, spec.action))

    def agreement(self, newest: int) -> float:
        """How far the executor agrees with the planner on sequences, 0 to 1.

        They end among the `newest` labels, some of which may have been learnt from.
        """
        options = self.options
        if not len(self.buffer) or self.buffer.kind is None:
            return float("nan")
        random = np.random.default_rng([options.seed, self.steps])
        found = self.buffer.draw_sequences(
            64, options.ticks, random, burn_in=options.burn_in, newest=max(1, newest)
        )
        executor = self.freeze()
        state = np.zeros((64, executor.memory), np.float32)
        mine = []
        for row in found.obs:
            outputs, state = executor.advance(row, state)
            mine.append(outputs)
        learnt, action = found.learnt, executor.spec.action
        answer = distribution(executor.head, np.stack(mine)[learnt], executor.spec)
        wanted = dists.unpack(self.buffer.kind, found.planner[learnt], action)
        agreed = dists.agreement(dists.mode(answer, action), dists.mode(wanted, action), action)
        return float(agreed.mean()) if len(agreed) else float("nan")

    def _rate(self) -> float:
        options = self.options
        risen = self.steps - self._rising + 1
        warm = min(1.0, risen / max(1, options.warmup))
        cosine = 0.5 * (1 + np.cos(np.pi * self._progress))
        share = options.floor + (1 - options.floor) * cosine
        return float(options.learning_rate * warm * share)

    @torch.no_grad()
    def _follow(self) -> None:
        weight = (_AVERAGE + 1) / (self.steps - self._rising + _AVERAGE)
        torch._foreach_lerp_(self._average, list(self.network.parameters()), weight)

    def _renormalise(self) -> None:
        held, before = len(self.buffer), self._normalised_at
        if not self.options.normalise or held < 2 * before or held == before:
            return
        self._normalised_at = held
        mean, std = moments(self.buffer.all()[0])
        first = self._executor.layers[0]
        if isinstance(first, Conv):
            mean, std = by_channel(first, mean, std)
        # A number that never moved yet keeps its own unit instead of a huge one.
        scale = np.where(std < _LEAST_STD, 1.0, 1.0 / np.maximum(std, _LEAST_STD))
        if len(self.buffer) < _SETTLED:
            self.network.mean.copy_(torch.from_numpy(mean))
            self.network.scale.copy_(torch.from_numpy(scale.astype(np.float32)))
            self._keep()
            return
        parameters: list[torch.Tensor] = list(self.network.parameters())
        live = [p.detach().clone() for p in parameters]
        old = self.network.mean.numpy().copy(), self.network.scale.numpy().copy()
        with torch.no_grad():
            torch._foreach_copy_(parameters, self._average)
            self.network.renormalise(mean, scale.astype(np.float32))
            self._average = [p.detach().clone() for p in parameters]
            torch._foreach_copy_(parameters, live)
            self.network.mean.copy_(torch.from_numpy(old[0]))
            self.network.scale.copy_(torch.from_numpy(old[1]))
        self.network.renormalise(mean, scale.astype(np.float32))
        self._keep()

    def _state(self) -> dict[str, Any]:
        return {
            "network": {k: v.clone() for k, v in self.network.state_dict().items()},
            "average": [tensor.clone() for tensor in self._average],
            "terms": to_text(self.options.sum()),
            "objective": deepcopy(self._objective.state_dict())
            if self._objective is not None
            else dict(self._restored),
        }

    def _keep(self) -> None:
        if all(bool(t.isfinite().all()) for t in self._average):
            self._good = self._state()

    @torch.no_grad()
    def _recover(self) -> None:
        """Go back to the last weights that were numbers, with a fresh optimiser."""
        self.rejected += 1
        self.network.load_state_dict(self._good["network"])
        self._average = [tensor.clone() for tensor in self._good["average"]]
        if self._objective is not None:
            self._objective.load_state_dict(self._good["objective"])
            self._objective.restart()
        self._adam = self._optimiser()

    def _optimiser(self) -> torch.optim.Adam:
        return torch.optim.Adam(
            self.network.parameters(), lr=self.options.learning_rate, fused=True
        )

    def freeze(self, version: int = 0) -> Executor:
        """Give the averaged executor with its weights fixed."""
        return self.network.freeze(version, self._average)

    def snapshot(self) -> Floats:
        """Give the averaged executor's numbers as `Executor.vector` lays them out."""
        return self.freeze().vector()

    def warm_start(self, vector: Floats) -> None:
        """Go on from an executor's numbers, as `Executor.vector` lays them out.

        The optimiser and the average of the weights begin anew, and the learning rate rises once
        more.

        Raises:
            SpecError: If they are of another executor.
            NumbersError: If they hold NaN or infinity.
        """
        fresh = Network(self._executor.with_vector(vector, 0))
        self.network.load_state_dict(fresh.state_dict())
        self._average = [p.detach().clone() for p in self.network.parameters()]
        self._adam, self._rising = self._optimiser(), self.steps
        if self._objective is not None:
            self._objective.restart()
        self._keep()

    def state(self) -> dict[str, Any]:
        """Everything but the labels that is needed to go on later, as tensors."""
        return {
            **self._state(),
            "adam": self._adam.state_dict(),
            "steps": self.steps,
            "normalised_at": self._normalised_at,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            LoadError: If it is of another executor.
        """
        with loading("The saved state"):
            fields = Fields(state, "The saved state")
            network, terms = self.network.state_dict(), fields.text("terms", "")
            parameters = {str(i): p for i, p in enumerate(self.network.parameters())}
            average = dict(zip(map(str, parameters), fields.items("average"), strict=True))
            kept = all_like(fields.get("network"), network, "The network's")
            self._average = list(all_like(average, parameters, "Average").values())
            self.network.load_state_dict(kept)
            restore_adam(self._adam, fields.get("adam"), "The saved state")
            self.steps = fields.whole("steps")
            self._normalised_at = fields.whole("normalised_at")
            self._random = np.random.default_rng([self.options.seed, self.steps])
            # What other terms learnt means nothing to these.
            if terms == to_text(self.options.sum()):
                self._restored = dict(fields.get("objective"))
                self._restore_terms()
        self._keep()
