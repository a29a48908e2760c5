"""Distillation while a planner is still learning: a callback for Stable-Baselines3."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from agentkd import dists
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate
from agentkd.planners import Planner
from agentkd.planners.adapt import from_object
from agentkd.spec import Spec, env_spec, flatten
from agentkd.types import Floats, RecurrentPolicy


class DistilCallback(BaseCallback):
    """Distils the model that is being trained into an executor, as it goes.

    Every `every` environment steps the planner labels the observations that were just visited, and
    the executor learns from them. The planner is the model as it is then; or, with `evaluate`, the
    model as it was when it did best (Rusu et al. 2015, "Policy distillation", section 5.4), so that
    the executor does not follow the model where it gets worse.

    The planner changes, so labels age: only the newest `capacity` are kept, and with `versions`
    only those of so many of its versions.

    Attributes:
        agreement: The executor's with the planner on states it had not learnt from, 0 to 1, one
            value for each round; logged as "distill/agreement".
        version: How often the planner has changed, as far as its labels tell.
        best_return: The best mean return that was evaluated; NaN before the first.

    Args:
        architecture: Of the executor, such as "mlp:64,64".
        every: Environment steps between two rounds of learning.
        steps_per_round: Gradient steps in a round.
        capacity: The most labels that are kept.
        versions: Labels of how many versions of the planner are kept; None for all.
        evaluate: An environment's name, or a function that makes one, in which the model is
            evaluated; None to follow the model always.
        evaluate_every: Environment steps between two evaluations.
        evaluate_episodes: Episodes of each, on the same seeds every time.
        seed: For weights and draws.
    """

    def __init__(
        self,
        architecture: str = "mlp:64,64",
        *,
        every: int = 1024,
        steps_per_round: int = 200,
        capacity: int = 20_000,
        versions: int | None = None,
        evaluate: str | Callable[[], Any] | None = None,
        evaluate_every: int = 10_000,
        evaluate_episodes: int = 5,
        seed: int = 0,
    ) -> None:
        """Remember the options; the model is known only when it learns."""
        super().__init__()
        for name, value in (
            ("every", every),
            ("steps_per_round", steps_per_round),
            ("versions", 1 if versions is None else versions),
            ("evaluate_every", evaluate_every),
            ("evaluate_episodes", evaluate_episodes),
        ):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it has to be at least 1.")
        self._architecture = architecture
        self._every = every
        self._steps = steps_per_round
        self._versions = versions
        self._evaluate = evaluate
        self._evaluate_every = evaluate_every
        self._episodes = evaluate_episodes
        self._options = DistillerOptions(capacity=capacity, seed=seed)
        self._distiller: Distiller | None = None
        self._visited: list[Floats] = []
        self._links: list[NDArray[np.int32]] = []
        self._stepped = False
        self._evaluated = 0
        self._updates = -1
        self._best: Planner | None = None
        self._added: deque[tuple[int, int]] = deque()
        self.agreement: deque[float] = deque(maxlen=1000)
        self.version = 0
        self.best_return = math.nan

    @property
    def executor(self) -> Executor:
        """The executor as it is now.

        Raises:
            ConfigError: If training has not begun.
        """
        if self._distiller is None:
            raise ConfigError("There is no executor before the model learns.")
        return self._distiller.freeze()

    @property
    def planner(self) -> Planner:
        """The planner that labels now: the best so far, which stays as it is.

        Raises:
            ConfigError: If nothing is evaluated, or nothing was yet.
        """
        if self._best is None:
            raise ConfigError("No model was evaluated yet; give `evaluate`.")
        return self._best

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
        planner = self._labelling()
        dist: Any = planner.policy(obs)  # type: ignore[call-arg]
        action = self._spec.action
        if self._distiller is None:
            squashed = dists.kind_of(dist) != "gaussian"
            seed = self._options.seed
            executor = initial(self._architecture, self._spec, seed=seed, squashed=squashed)
            self._distiller = Distiller(executor, self._options)
        executor = self._distiller.freeze()
        if executor.memory:
            # A label alone says nothing of a memory.
            self._add(obs, dist, link)
            agreed = self._distiller.agreement(len(obs))
        else:
            said, mine = dists.mode(dist, action), dists.mode(executor(obs), action)
            agreed = float(dists.agreement(mine, said, action).mean())
            self._add(obs, dist, link)
        self.agreement.append(agreed)
        for _ in range(self._steps):
            metrics = self._distiller.step()
        self.logger.record("distill/agreement", agreed)
        self.logger.record("distill/version", self.version)
        if metrics:
            self.logger.record("distill/divergence", metrics["divergence"])

    def _labelling(self) -> Planner:
        """Give the planner that labels, and count its versions."""
        now = from_object(self.model, type(self.model).__name__, self._spec)
        if isinstance(now.policy, RecurrentPolicy) and hasattr(now.policy, "initial_state"):
            raise ConfigError(
                "A model with a memory cannot be distilled while it learns. Distil its "
                "save with agentkd.distillation."
            )
        updates = int(getattr(self.model, "_n_updates", 0))
        if self._evaluate is None:
            if updates != self._updates:
                self._updates = updates
                self.version += 1
            return now
        due = self.num_timesteps - self._evaluated >= self._evaluate_every
        if self._best is None or due:
            self._evaluated = self.num_timesteps
            self._judge(now)
        assert self._best is not None
        return self._best

    def _judge(self, now: Planner) -> None:
        """Evaluate the model, and freeze it if it never did better."""
        assert self._evaluate is not None
        got = evaluate(self._evaluate, now.policy, episodes=self._episodes, seed=0, spec=now.spec)
        found = float(np.mean(got.returns))
        self.logger.record("distill/planner_return", found)
        if self._best is None or found > self.best_return:
            self.best_return = found
            # Copied: the model shares its memory with what learns on.
            self._best = replace(now, policy=copy.deepcopy(now.policy))
            self.version += 1
        self.logger.record("distill/best_return", self.best_return)

    def _add(self, obs: Floats, dist: Any, link: NDArray[np.int32]) -> None:
        """Keep labels, and forget those of versions that are too old."""
        assert self._distiller is not None
        buffer = self._distiller.buffer
        before = buffer.seen
        self._distiller.add(obs, dist, link)
        self._added.append((self.version, buffer.seen - before))
        if self._versions is None:
            return
        while self._added and self._added[0][0] <= self.version - self._versions:
            self._added.popleft()
        buffer.forget(len(buffer) - sum(count for _, count in self._added))
