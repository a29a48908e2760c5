"""Distillation while a planner is still learning: a callback for Stable-Baselines3."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from agentkd import dists
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.errors import ConfigError, check_range
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.planners import Planner
from agentkd.planners.adapt import from_object
from agentkd.spec import Spec, env_spec, flatten
from agentkd.types import Floats, RecurrentPolicy


class DistilCallback(BaseCallback):
    """Distils the model that is being trained into an executor, as it goes.

    Every `every` environment steps the model, as it is then, labels the observations that were just
    visited, and the executor learns from them. The model changes, so labels age: only the newest
    `capacity` are kept.

    Attributes:
        agreement: The executor's with the planner on states it had not learnt from, 0 to 1, one
            value for each round; logged as "distill/agreement".

    Args:
        architecture: Of the executor, such as "mlp:64,64".
        every: Environment steps between two rounds of learning.
        steps_per_round: Gradient steps in a round.
        capacity: The most labels that are kept.
        seed: For weights and draws.

    Raises:
        ConfigError: If `every` or `steps_per_round` is below 1.
    """

    def __init__(
        self,
        architecture: str = "mlp:64,64",
        *,
        every: int = 1024,
        steps_per_round: int = 200,
        capacity: int = 20_000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range("every", every, least=1, whole=True)
        check_range("steps_per_round", steps_per_round, least=1, whole=True)
        self._architecture = architecture
        self._every = every
        self._steps = steps_per_round
        self._options = DistillerOptions(capacity=capacity, seed=seed)
        self._distiller: Distiller | None = None
        self._visited: list[Floats] = []
        self._links: list[NDArray[np.int32]] = []
        self._stepped = False
        self.agreement: deque[float] = deque(maxlen=1000)

    @property
    def executor(self) -> Executor:
        """The executor as it is now.

        Raises:
            ConfigError: If training has not begun.
        """
        if self._distiller is None:
            raise ConfigError("There is no executor before the model learns.")
        return self._distiller.freeze()

    def _init_callback(self) -> None:
        if self._distiller is None:
            self._spec: Spec = env_spec(self.training_env)

    def _on_step(self) -> bool:
        visited: Any = self.locals["new_obs"]
        if (wrapper := self.model.get_vec_normalize_env()) is not None:
            # The executor sees what the environment gives; its own normaliser follows.
            visited = wrapper.get_original_obs()
        flat = flatten(self._spec.obs, visited)
        begins = self.locals["dones"] if self._stepped else np.ones(len(flat), bool)
        self._visited.append(flat)
        self._links.append(np.where(begins, 0, len(flat)).astype(np.int32))
        self._stepped = True
        if sum(map(len, self._visited)) >= self._every:
            self._round()
        return True

    def _on_training_end(self) -> None:
        if self._visited:
            self._round()

    def _round(self) -> None:
        obs, link = np.concatenate(self._visited), np.concatenate(self._links)
        self._visited, self._links = [], []
        policy: Any = self._planner().policy
        dist = policy(obs)
        action = self._spec.action
        if self._distiller is None:
            squashed = dists.kind_of(dist) != "gaussian"
            seed = self._options.seed
            executor = initial(self._architecture, self._spec, seed=seed, squashed=squashed)
            self._distiller = Distiller(executor, self._options)
        executor = self._distiller.freeze()
        if executor.memory:
            # A label alone says nothing of a memory.
            self._distiller.add(obs, dist, link)
            agreed = self._distiller.agreement(len(obs))
        else:
            said, mine = dists.mode(dist, action), dists.mode(executor(obs), action)
            agreed = float(dists.agreement(mine, said, action).mean())
            self._distiller.add(obs, dist, link)
        self.agreement.append(agreed)
        for _ in range(self._steps):
            metrics = self._distiller.step()
        self.logger.record("distill/agreement", agreed)
        if metrics:
            self.logger.record("distill/divergence", metrics["divergence"])

    def _planner(self) -> Planner:
        """Make a planner of the model as it is now."""
        now = from_object(self.model, type(self.model).__name__, self._spec)
        if isinstance(now.policy, RecurrentPolicy) and hasattr(now.policy, "initial_state"):
            raise ConfigError(
                "A model with a memory cannot be distilled while it learns. Distil its "
                "save with agentkd.distillation."
            )
        return now
