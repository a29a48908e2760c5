"""Distillation while a planner is still learning: a callback for Stable-Baselines3."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from agentkd import dists
from agentkd.distill.distiller import Distiller, DistillerOptions
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.frozen import Frozen
from agentkd.planners.objects import from_object
from agentkd.spec import Spec, env_spec, flatten
from agentkd.types import Floats


class DistilCallback(BaseCallback):
    """Distils the model that is being trained into an executor, as it goes.

    Every `every` environment steps the model, as it is then, labels the observations
    it just visited, and the executor learns from them. The planner changes, so labels
    age: only the newest `capacity` are kept.

    Attributes:
        agreement: The executor's with the model on states it had not learnt from, 0 to
            1, one value for each round; logged as "distill/agreement".

    Args:
        architecture: Of the executor, such as "mlp:64,64".
        every: Environment steps between two rounds of learning.
        steps_per_round: Gradient steps in a round.
        capacity: The most labels that are kept.
        seed: For weights and draws.
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
        """Remember what was asked for; the model is known only when it learns."""
        super().__init__()
        if every < 1 or steps_per_round < 1:
            raise ConfigError("every and steps_per_round have to be at least 1.")
        self._architecture = architecture
        self._every = every
        self._steps = steps_per_round
        self._options = DistillerOptions(capacity=capacity, seed=seed)
        self._distiller: Distiller | None = None
        self._visited: list[Floats] = []
        self._count = 0
        self.agreement: deque[float] = deque(maxlen=1000)

    @property
    def executor(self) -> Frozen:
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
        if self.model.get_vec_normalize_env() is not None:
            # The executor sees what the environment gives; its own normaliser follows.
            visited = self.model.get_vec_normalize_env().get_original_obs()  # type: ignore[union-attr]
        flat = flatten(self._spec.obs, visited)
        self._visited.append(flat)
        self._count += len(flat)
        if self._count >= self._every:
            self._round()
        return True

    def _on_training_end(self) -> None:
        if self._visited:
            self._round()

    def _round(self) -> None:
        obs = np.concatenate(self._visited)
        self._visited, self._count = [], 0
        planner = from_object(self.model, type(self.model).__name__, self._spec)
        dist: Any = planner.policy(obs)  # type: ignore[call-arg]
        action = self._spec.action
        if self._distiller is None:
            squashed = dists.kind_of(dist) != "gaussian"
            frozen = initial(
                self._architecture,
                self._spec,
                seed=self._options.seed,
                squashed=squashed,
            )
            self._distiller = Distiller(frozen, self._options)
        said = dists.mode(dist, action)
        mine = dists.mode(self._distiller.freeze()(obs), action)
        agreed = float(dists.agreement(mine, said, action).mean())
        self.agreement.append(agreed)
        self._distiller.add(obs, dist)
        for _ in range(self._steps):
            metrics = self._distiller.step()
        self.logger.record("distill/agreement", agreed)
        if metrics:
            self.logger.record("distill/divergence", metrics["divergence"])
