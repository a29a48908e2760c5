"""Collects labels: both policies drive environments, and the planner labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import AgentkdError, EpisodeError, PlannerError
from agentkd.planners.planner import one_row
from agentkd.spec import DiscreteSpec, Spec, flatten_one
from agentkd.types import ActionDist, Actions, Floats, Labels, Policy, RecurrentPolicy, State

GOES_ON, TERMINATED, TRUNCATED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Collected:
    """One step of all environments; every field has one row for each of them.

    Attributes:
        obs: The observations that were visited, (environments, obs).
        dist: The planner's answer to them.
        link: As in `Labels`: environments take turns.
        reward: The reward for what was done there.
        begins: Whether an episode begins there.
        ended: How it went on: `GOES_ON`, `TERMINATED` or `TRUNCATED`.
    """

    obs: Floats
    dist: ActionDist
    link: NDArray[np.int32]
    reward: Floats
    begins: NDArray[np.bool_]
    ended: NDArray[np.uint8]

    @property
    def labels(self) -> Labels:
        """The part that is learnt from."""
        return Labels(self.obs, self.dist, self.link)


@final
class Collector:
    """Steps environments in lockstep; the planner labels each state they visit.

    Who drives is drawn for stretches of ticks: with probability `share` the planner, which acts by
    a draw from its distribution, else the executor, which acts as it would when deployed. Some
    environments are the executor's alone, from reset to end, so that its return is seen.

    Args:
        make: Makes one environment.
        planner: Labels and drives.
        spec: The environments'.
        count: How many environments.
        seed: For resets and drivers.
        stretch: The mean length of a stretch, in ticks.

    Attributes:
        recent: Returns of the last episodes that the executor drove from start to end.
        blind: How often an environment began anew because it gave NaN or infinity.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        planner: Policy | RecurrentPolicy,
        spec: Spec,
        *,
        count: int = 16,
        seed: int = 0,
        stretch: float = 50.0,
    ) -> None:
        """Make and reset the environments."""
        self.random = np.random.default_rng(seed)
        self.labels = self.blind = 0
        self.recent: deque[float] = deque(maxlen=20)
        # A label is what the planner makes of the observed tick alone.
        planner = one_row(planner)
        self._planner: Any = planner
        self._state: State | None = None
        if hasattr(planner, "initial_state"):
            self._state = planner.initial_state(count)
        self._spec = spec
        # What most environments give needs no flattening.
        self._plain = len(spec.obs.parts) == 1 and not spec.obs.parts[0].sizes
        self._whole = isinstance(spec.action, DiscreteSpec)
        self._stretch = stretch
        self._envs = [make() for _ in range(count)]
        self._obs = np.empty((count, spec.obs.size), np.float32)
        self._by_planner = np.ones(count, bool)
        self._pure = np.zeros(count, bool)
        self._returns = np.zeros(count)
        self._share = 1.0
        self._begins = np.ones(count, bool)
        self._mind: State | None = None
        self._reward = np.zeros(count, np.float32)
        self._ended = np.zeros(count, np.uint8)
        for index, env in enumerate(self._envs):
            obs, _ = env.reset(seed=int(self.random.integers(2**31)))
            self._obs[index] = self._flat(obs)

    def _flat(self, obs: Any) -> Floats:
        if self._plain and type(obs) is np.ndarray and obs.ndim == 1:
            return obs
        return flatten_one(self._spec.obs, obs)

    def step(self, executor: Policy | RecurrentPolicy, share: float) -> Collected:
        """Label where the environments stand and move each by one tick.

        Args:
            executor: Drives where the planner does not. One with a memory sees every state, whoever
                drives.
            share: The planner's share of the driving, 0 to 1.
        """
        count = len(self._envs)
        self._restart_the_blind()
        obs = self._obs.copy()
        self._draw_drivers(share)
        dist = self._ask(obs)
        # Copied: a point that is drawn may be the planner's own array.
        actions = np.array(dists.sample(dist, self._spec.action, self.random))
        # An answer that is not a number drives nowhere; the buffer counts its label.
        answered = np.isfinite(dists.pack(dist)).all(axis=1)
        mine = ~(self._by_planner & answered)
        taken = self._taken(executor, obs, mine)
        if taken is not None:
            actions[mine] = taken
        begins, self._begins = self._begins, np.zeros(count, bool)
        for index in range(count):
            self._move(index, actions[index])
        self.labels += count
        return Collected(
            obs=obs,
            dist=dist,
            link=np.where(begins, 0, count).astype(np.int32),
            reward=self._reward.copy(),
            begins=begins,
            ended=self._ended.copy(),
        )

    def _draw_drivers(self, share: float) -> None:
        count = len(self._envs)
        redraw = self.random.random(count) < 1.0 / self._stretch
        if share < self._share and self._share == 1.0:
            redraw[:] = True
        self._share = share
        if redraw.any():
            drawn = self.random.random(count) < share
            self._by_planner = np.where(redraw & ~self._pure, drawn, self._by_planner)

    def _taken(
        self, executor: Policy | RecurrentPolicy, obs: Floats, mine: NDArray[np.bool_]
    ) -> Actions | None:
        """Return the executor's actions where it drives; None where it does nowhere."""
        action = self._spec.action
        if not isinstance(executor, RecurrentPolicy):
            return dists.mode(executor(obs[mine]), action) if mine.any() else None
        fresh = executor.initial_state(1)
        # Another executor took over, whose memory is of another kind.
        if self._mind is None or _shapes(self._mind) != _shapes(fresh):
            self._mind = executor.initial_state(len(obs))
        state = tuple(np.array(each) for each in self._mind)
        for memory, start in zip(state, fresh, strict=True):
            memory[self._begins] = start[0]
        dist, self._mind = executor(obs, state)
        return dists.mode(dists.rows(dist, mine), action) if mine.any() else None

    def _restart_the_blind(self) -> None:
        """Reset environments whose observation holds NaN or infinity."""
        for index in np.flatnonzero(~np.isfinite(self._obs).all(axis=1)):
            self.blind += 1
            obs, _ = self._envs[index].reset()
            self._obs[index] = self._flat(obs)
            self._begin(int(index))
        if not np.isfinite(self._obs).all():
            raise EpisodeError("The environment gives NaN or infinity right after its reset.")

    def _ask(self, obs: Floats) -> ActionDist:
        try:
            if self._state is None:
                return self._planner(obs)  # type: ignore[no-any-return]
            dist, self._state = self._planner(obs, self._state)
        except AgentkdError:
            raise
        except Exception as error:
            raise PlannerError(
                f"The planner raised {type(error).__name__} after {self.labels} labels: {error}"
            ) from error
        return dist  # type: ignore[no-any-return]

    def _move(self, index: int, action: Any) -> None:
        env = self._envs[index]
        taken = int(action) if self._whole else action
        obs, reward, terminated, truncated, _ = env.step(taken)
        self._returns[index] += reward
        self._reward[index] = reward
        self._ended[index] = TERMINATED if terminated else TRUNCATED if truncated else GOES_ON
        if terminated or truncated:
            obs, _ = env.reset()
            if self._pure[index]:
                self.recent.append(float(self._returns[index]))
            self._begin(index)
        self._obs[index] = self._flat(obs)

    def _begin(self, index: int) -> None:
        """Begin an episode: no return, no memory, a driver drawn."""
        self._returns[index] = 0.0
        self._begins[index] = True
        if self._state is not None:
            fresh = self._planner.initial_state(1)
            for memory, start in zip(self._state, fresh, strict=True):
                memory[index] = start[0]
        self._pure[index] = self.random.random() > max(self._share, 0.5)
        self._by_planner[index] = not self._pure[index] and self.random.random() < self._share

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()


def _shapes(state: State) -> list[tuple[int, ...]]:
    return [memory.shape[1:] for memory in state]
