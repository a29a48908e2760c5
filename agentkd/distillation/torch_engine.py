"""Gradient steps in torch: every executor, every term."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.engine import Beside, DistillerOptions, Step
from agentkd.distillation.history import Histories
from agentkd.distillation.restoring import all_like, restore_adam
from agentkd.distillation.terms import to_text
from agentkd.distillation.terms.answers import Match
from agentkd.distillation.terms.term import Batch, Divergence, Ground, Objective
from agentkd.executors.executor import Executor
from agentkd.executors.network import Network
from agentkd.fields import Fields
from agentkd.files import loading
from agentkd.types import Floats, Kind, Policy, RecurrentPolicy

_SHARE = 8
"""With a memory, one sequence is drawn for so many labels of a batch."""


@final
class TorchEngine:
    """An executor's weights as torch tensors, moved by Adam. It is an `Engine`.

    Args:
        executor: The executor to start from.
        options: How to learn.
        planner: What the labels are from, for terms that ask it themselves.
        beside: Further labels, learnt in every step.
    """

    name = "torch"

    def __init__(
        self,
        executor: Executor,
        options: DistillerOptions,
        planner: Policy | RecurrentPolicy | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.options = options
        self.network = Network(executor)
        self.objective: Objective | None = None
        self.adam = self._optimiser()
        self.average = self._copies()
        self._executor, self._planner, self._beside = executor, planner, beside
        self.restored: Mapping[str, Any] = {}
        self._kept: Divergence | None = None
        if beside is not None and beside.labels.kind is not None:
            ground = Ground.of(executor, beside.labels.kind, Network(executor))
            self._kept = Match().build(ground)
        self._good = self._weights()

    def _optimiser(self) -> torch.optim.Adam:
        rate = self.options.learning_rate
        return torch.optim.Adam(self.network.parameters(), lr=rate, fused=True)

    def _copies(self) -> list[Tensor]:
        return [each.detach().clone() for each in self.network.parameters()]

    def expect(self, kind: Kind) -> None:
        """Make the losses for labels of a kind, once.

        Raises:
            ConfigError: If a term does not go with such labels or the executor.
        """
        if self.objective is not None:
            return
        options = self.options
        ground = Ground.of(
            self._executor, kind, self.network, seed=options.seed, planner=self._planner
        )
        self.objective = Objective(options.sum(), ground)
        self._restore_terms()
        self._good["objective"] = deepcopy(self.objective.state_dict())

    def _restore_terms(self) -> None:
        if self.objective is not None and self.restored:
            with loading("The saved state of the terms"):
                self.objective.load_state_dict(self.restored)
            self.restored = {}

    def step(
        self, labels: LabelBuffer | Histories, random: np.random.Generator, how: Step
    ) -> Mapping[str, float]:
        """Take one gradient step on drawn labels."""
        assert self.objective is not None
        for group in self.adam.param_groups:
            group["lr"] = how.rate
        loss = self.objective(self._draw(labels, random, how.progress)).mean()
        if self._kept is not None:
            loss = loss + self._beside_loss(self._kept)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_gradient)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.network.parameters()), how.share)
        return {"loss": loss.item(), **self.objective.numbers()}

    def _draw(
        self, labels: LabelBuffer | Histories, random: np.random.Generator, progress: float
    ) -> Batch:
        """Draw labels, and let the executor answer; with a memory, along sequences."""
        options, network = self.options, self.network
        if not network.memory:
            drawn = labels.draw(options.batch, random)
            obs, planner = map(torch.from_numpy, drawn)
            return Batch(obs, network(obs), planner, network.forward, progress)
        assert isinstance(labels, LabelBuffer)
        count = max(1, options.batch // _SHARE)
        found = labels.draw_sequences(count, options.ticks, random, burn_in=options.burn_in)
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
            progress,
        )

    def _beside_loss(self, divergence: Divergence) -> Tensor:
        beside = self._beside
        assert beside is not None
        count, weight = beside.amount()
        obs, planner = map(torch.from_numpy, beside.labels.draw(count, beside.random))
        divergence.observe(planner)
        return weight * divergence.rows(self.network(obs), planner).mean()

    def renormalise(self, mean: Floats, scale: Floats, *, compensate: bool) -> None:
        """Change the normaliser, and if `compensate` the first layer against it."""
        network = self.network
        if not compensate:
            network.mean.copy_(torch.from_numpy(mean))
            network.scale.copy_(torch.from_numpy(scale))
            return
        parameters: list[Tensor] = list(network.parameters())
        live, old = self._copies(), (network.mean.clone(), network.scale.clone())
        with torch.no_grad():
            torch._foreach_copy_(parameters, self.average)
            network.renormalise(mean, scale)
            self.average = self._copies()
            torch._foreach_copy_(parameters, live)
            network.mean.copy_(old[0])
            network.scale.copy_(old[1])
        network.renormalise(mean, scale)

    def freeze(self, version: int) -> Executor:
        """Return the averaged executor."""
        return self.network.freeze(version, self.average)

    def warm_start(self, executor: Executor, *, afresh: bool = True) -> None:
        """Go on from an executor's weights, with a fresh average; `afresh`, a fresh optimiser."""
        self.network.load_state_dict(Network(executor).state_dict())
        self.average = self._copies()
        if afresh:
            self.adam = self._optimiser()
            if self.objective is not None:
                self.objective.restart()

    def _weights(self) -> dict[str, Any]:
        terms = self.restored if self.objective is None else self.objective.state_dict()
        return {
            "network": {k: v.clone() for k, v in self.network.state_dict().items()},
            "average": [tensor.clone() for tensor in self.average],
            "terms": to_text(self.options.sum()),
            "objective": deepcopy(dict(terms)),
        }

    def keep(self) -> None:
        """Remember the state to recover, if all of it is finite."""
        if all(bool(each.isfinite().all()) for each in self.average):
            self._good = self._weights()

    @torch.no_grad()
    def recover(self) -> None:
        """Go back to what `keep` remembered, with a fresh optimiser."""
        self.network.load_state_dict(self._good["network"])
        self.average = [tensor.clone() for tensor in self._good["average"]]
        if self.objective is not None:
            self.objective.load_state_dict(self._good["objective"])
            self.objective.restart()
        self.adam = self._optimiser()

    def state(self) -> dict[str, Any]:
        """Return weights, averages and what terms learnt, as torch tensors."""
        return {**self._weights(), "adam": self.adam.state_dict()}

    def restore(self, state: Fields) -> None:
        """Go on from what `state` gave.

        Raises:
            LoadError: If it is of another executor.
        """
        network, terms = self.network.state_dict(), state.text("terms", "")
        parameters = {str(i): each for i, each in enumerate(self.network.parameters())}
        average = dict(zip(map(str, parameters), state.items("average"), strict=True))
        kept = all_like(state.get("network"), network, "The network's")
        self.average = list(all_like(average, parameters, "Average").values())
        self.network.load_state_dict(kept)
        restore_adam(self.adam, state.get("adam"), "The saved state")
        # What other terms learnt means nothing to these.
        if terms == to_text(self.options.sum()):
            self.restored = dict(state.get("objective"))
            self._restore_terms()
