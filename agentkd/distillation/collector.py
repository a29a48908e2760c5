"""Collects labels: both policies drive environments, and the planner labels."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.distillation.sequences import CUT
from agentkd.distillation.stretch import Collected, Rows, Stretch
from agentkd.environment_checks import Checked, checked
from agentkd.errors import AgentkdError, EpisodeError, PlannerError
from agentkd.executors.acting import default_action
from agentkd.executors.native import Native
from agentkd.planners.planner import one_row
from agentkd.spec import DiscreteSpec, Spec, flatten_one
from agentkd.types import ActionDist, Floats, Policy, RecurrentPolicy, State
from agentkd.vector_checks import Together, together

GOES_ON, TERMINATED, TRUNCATED = 0, 1, 2

_MOST_ROWS = 1024
"""Labels of several ticks at a time, at most."""
_LONG = 0.5
"""Seconds: a planner that would take longer to answer is asked a tick at a time. That is told by
its quickest answer; the numbers of a slow one may differ in the last bit with how many it is asked.
"""
_DARK = 2000
"""Ticks in a row without a usable observation after which an environment is given up."""


@final
class Collector:
    """Steps environments together; the planner labels each state they visit.

    Who drives is drawn for stretches of ticks, in each environment on its own: with probability
    `share` the planner, which acts by a draw from its distribution, else the executor, which acts
    as it would when deployed. Some environments are the executor's alone, from reset to end, so
    that its return is seen.

    Args:
        make: Makes one environment, or a `gymnasium.vector.VectorEnv` of all.
        planner: Labels and drives.
        spec: The environments'.
        count: How many environments; a `VectorEnv` has its own number.
        seed: For resets and drivers.
        stretch: The mean length of a stretch, in ticks.

    Attributes:
        labels: How many labels were made.
        recent: Returns of the last episodes that the executor drove from start to end.
        blind: In how many episodes an environment gave NaN or infinity. It began anew, or, one of a
            `VectorEnv`, made no labels until it did by itself.
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
        self.random = np.random.default_rng(seed)
        self.labels = self.blind = 0
        self.recent: deque[float] = deque(maxlen=20)
        made = make()
        self._many: Together | None = together(made)
        self._envs: list[Checked] = []
        if self._many is None:
            self._envs = [checked(made), *(checked(make()) for _ in range(count - 1))]
        else:
            count = self._many.count
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
        self._all: Rows = np.arange(count)
        self._by_planner = np.ones(count, bool)
        self._pure = np.zeros(count, bool)
        self._returns = np.zeros(count)
        self._share = 1.0
        self._pace = math.inf
        """Seconds that the planner took for a row, at best."""
        self._begins = np.ones(count, bool)
        self._resetting = np.zeros(count, bool)
        """Where the next step is a reset."""
        self._lost = np.zeros(count, bool)
        """Which gave no usable observation in their episode."""
        self._dark = np.zeros(count, np.intp)
        """For how many ticks in a row."""
        self._idle = np.asarray(default_action(spec.action))
        """What is done where nobody decides."""
        self._last = np.full(count, -1)
        """Which label each environment's last one was; -1 where its last state made none."""
        self._taken: Floats = np.zeros((count, 0), np.float32)
        self._noted = 0
        self._mind: State | None = None
        self._minded = False
        seeds = [int(self.random.integers(2**31)) for _ in self._envs or (None,)]
        if self._many is not None:
            self._obs = self._many.reset(seeds[0])
            return
        self._obs = np.empty((count, spec.obs.size), np.float32)
        for index, (env, each) in enumerate(zip(self._envs, seeds, strict=True)):
            obs, _ = env.reset(seed=each)
            self._obs[index] = self._flat(obs)

    def _flat(self, obs: Any) -> Any:
        if self._plain:
            return obs if obs.ndim == 1 else obs.ravel()
        return flatten_one(self._spec.obs, obs)

    def step(self, executor: Policy | RecurrentPolicy, share: float, ticks: int = 1) -> Collected:
        """Label where the environments stand and move each by some ticks.

        With more than one tick the planner is asked at once about all states that the executor
        drove through, and a compiled executor drives one environment after another.

        Args:
            executor: Drives where the planner does not. One with a memory sees every state, whoever
                drives.
            share: The planner's share of the driving, 0 to 1.
            ticks: How many; at most a mean stretch's.
        """
        *_, found = self.steps(executor, share, ticks)
        assert found is not None
        return found

    def steps(
        self, executor: Policy | RecurrentPolicy, share: float, ticks: int = 1
    ) -> Iterator[Collected | None]:
        """Do what `step` does with pauses: give None each time, and the labels at last."""
        count = len(self._all)
        ticks = max(1, min(ticks, int(self._stretch), _MOST_ROWS // count))
        while True:
            self._draw_drivers(share, ticks)
            width = getattr(executor, "taken", 0) or self._noted
            if self._taken.shape[1] != width:
                self._taken = np.zeros((count, width), np.float32)
            run = Stretch.of(ticks, self._obs, self._begins, self._taken)
            self._minded = isinstance(executor, RecurrentPolicy)
            alone = self._many is None
            if alone and not (ticks == 1 or self._minded or self._state is not None):
                yield from self._take_turns(executor, run)
            else:
                for _ in range(ticks):
                    if self._many is not None:
                        self._tick_together(self._many, executor, run)
                    else:
                        self._tick(self._all, executor, run, whole=True)
                    yield None
            self._obs, self._begins = run.obs[ticks].copy(), run.begins[ticks].copy()
            self._taken = run.taken[ticks].copy()
            # Where all episodes ended at once, nothing but a reset was done.
            if run.valid.any():
                break
        yield from self._label_the_rest(run)
        yield self._collected(run)

    def note_actions(self) -> None:
        """Let each label say which action was executed before it, whoever drives."""
        self._noted = dists.action_size(self._spec.action)

    def executed(self, actions: Any) -> None:
        """Say what was executed at the last tick, where that is not what was decided."""
        done = np.reshape(actions, (len(self._all), *self._idle.shape))
        self._taken = dists.coded(done, self._spec.action)

    def _take_turns(self, executor: Any, run: Stretch) -> Iterator[None]:
        """Let the planner's environments move together, and each of a compiled executor's alone.

        An environment that is moved some ticks in a row finds its memory in the processor's cache.
        """
        compiled = isinstance(executor, Native) and len(executor.obs) == self._obs.shape[1]
        while (behind := run.at < run.ticks).any():
            rows = np.flatnonzero(behind & self._by_planner)
            if rows.size:
                self._tick(rows, executor, run)
                yield None
                continue
            rows = np.flatnonzero(behind)
            if compiled:
                for row in rows.tolist():
                    self._run(row, executor, run)
            else:
                self._tick(rows, executor, run)

    def _label_the_rest(self, run: Stretch) -> Iterator[None]:
        """Ask the planner about the states that are left; a slow one about some at a time."""
        count, size = self._obs.shape
        obs = run.obs[: run.ticks].reshape(-1, size)
        left = np.flatnonzero(run.valid & ~run.answered)
        slow = _LONG < self._pace * left.size < math.inf
        for piece in np.split(left, range(count, len(left), count)) if slow else [left]:
            if piece.size:
                run.answer(*np.divmod(piece, count), self._ask(obs[piece]))
                yield None

    def _collected(self, run: Stretch) -> Collected:
        """Link the labels."""
        (count, size), width = self._obs.shape, run.taken.shape[2]
        obs = run.obs[: run.ticks].reshape(-1, size)
        assert run.kind is not None
        valid, begins = run.valid, run.begins[: run.ticks]
        place = self.labels - 1 + np.cumsum(valid).reshape(valid.shape)
        self.labels = int(place[-1, -1]) + 1
        place[~valid] = -1
        before = np.concatenate([self._last[None], place[:-1]])
        link = np.where(begins, 0, np.where(before < 0, CUT, place - before))
        self._last = place[-1]
        env = np.tile(np.arange(count, dtype=np.int32), run.ticks)
        chosen: Any = slice(None) if valid.all() else valid.ravel()
        return Collected(
            obs=obs[chosen],
            dist=dists.unpack(run.kind, run.rows[chosen], self._spec.action),
            link=link.ravel()[chosen].astype(np.int32),
            reward=run.reward.ravel()[chosen],
            begins=begins.ravel()[chosen],
            ended=run.ended.ravel()[chosen],
            env=env[chosen],
            taken=np.where(begins[..., None], 0, run.taken[:-1]).reshape(len(env), width)[chosen],
        )

    def _draw_drivers(self, share: float, ticks: int) -> None:
        """Draw who drives from now on, where a stretch ends or there is an executor at last."""
        count = len(self._all)
        over = self.random.random(count) < ticks / self._stretch
        if share < self._share and self._share == 1.0:
            over[:] = True
        self._share = share
        drawn = self.random.random(count) < share
        self._by_planner = np.where(over & ~self._pure, drawn, self._by_planner)

    def _tick(self, rows: Rows, executor: Any, run: Stretch, *, whole: bool = False) -> None:
        """Move some environments by one tick; with `whole` the planner sees all of them."""
        for row in rows[~np.isfinite(run.obs[run.at[rows], rows]).all(axis=1)].tolist():
            self._restart(row, run)
        actions = self._decided(rows, executor, run, whole=whole)
        for row, action in zip(rows.tolist(), actions, strict=True):
            self._move(row, action, run)

    def _tick_together(self, many: Together, executor: Any, run: Stretch) -> None:
        """Move all environments of a `VectorEnv` by one tick."""
        at = int(run.at[0])
        obs = run.obs[at]
        blind = ~np.isfinite(obs).all(axis=1)
        self._note_the_blind(many, blind)
        obs[blind] = 0.0
        acts = run.valid[at] = ~(blind | self._resetting)
        rows = self._all if self._minded or self._state is not None else np.flatnonzero(acts)
        actions = np.full((many.count, *many.shape), self._idle, many.dtype)
        if rows.size:
            whole = run.ticks == 1 or self._state is not None
            actions[rows] = self._decided(rows, executor, run, whole=whole)
        seen, reward, terminated, truncated = many.step(actions)
        run.at[:] = at + 1
        run.obs[at + 1], run.reward[at] = seen, reward
        ended = (terminated | truncated) & ~self._resetting
        run.ended[at] = np.where(terminated, TERMINATED, TRUNCATED) * ended
        self._returns[acts] += reward[acts]
        self.recent.extend(self._returns[ended & self._pure].tolist())
        if many.next_step:
            # The state that an episode ends in stays for a tick, in which nothing is done.
            begun, self._resetting = self._resetting, ended
        else:
            begun = ended
        self._begin(np.flatnonzero(begun), run)

    def _note_the_blind(self, many: Together, blind: NDArray[np.bool_]) -> None:
        """Count episodes in which an environment went blind; give up on one that stays so."""
        if blind.all():
            raise EpisodeError(f"{many.name} gives NaN or infinity in all its environments.")
        self._dark = np.where(blind, self._dark + 1, 0)
        if self._dark.max() >= _DARK:
            raise EpisodeError(
                f"{many.name} gave NaN or infinity in environment {self._dark.argmax()} of "
                f"{many.count} for {_DARK} ticks in a row. End its episode (terminated) where that "
                "happens."
            )
        lost = blind & ~self._lost
        self._lost |= lost
        self.blind += int(lost.sum())

    def _decided(self, rows: Rows, executor: Any, run: Stretch, *, whole: bool) -> Any:
        """Return what environments do; with `whole` the planner sees all of them."""
        at = run.at[rows]
        obs = run.obs[at, rows]
        mine = ~self._by_planner[rows]
        actions: Any = None
        if whole or not mine.all():
            dist = self._ask(obs)
            # Copied: a point that is drawn may be the planner's own array.
            actions = np.array(dists.sample(dist, self._spec.action, self.random))
            answered = np.isfinite(run.answer(at, rows, dist))
            if not answered.all():
                # An answer that is not a number drives nowhere; the buffer counts its label.
                mine |= ~answered.all(axis=1)
        taken: Any = None
        if self._minded:
            taken = self._remembered(executor, obs, mine, run.begins[at, rows])
        elif mine.any():
            taken = dists.mode(executor(obs[mine]), self._spec.action)
        if actions is None:
            actions = taken
        elif taken is not None:
            actions[mine] = taken
        if run.taken.shape[2]:
            run.taken[at + 1, rows] = dists.coded(actions, self._spec.action)
        if getattr(executor, "taken", 0):
            self._mind = executor.executed(self._mind, actions)
        return actions

    def _remembered(
        self,
        executor: RecurrentPolicy,
        obs: Floats,
        mine: NDArray[np.bool_],
        begins: NDArray[np.bool_],
    ) -> Any:
        """Show all to an executor with a memory; return its actions where it drives."""
        fresh = executor.initial_state(1)
        # Another executor took over, whose memory is of another kind.
        if self._mind is None or _shapes(self._mind) != _shapes(fresh):
            self._mind = executor.initial_state(len(obs))
        state = tuple(np.array(each) for each in self._mind)
        for memory, start in zip(state, fresh, strict=True):
            memory[begins] = start[0]
        dist, self._mind = executor(obs, state)
        return dists.mode(dists.rows(dist, mine), self._spec.action) if mine.any() else None

    def _restart(self, row: int, run: Stretch) -> None:
        self.blind += 1
        obs, _ = self._envs[row].reset()
        at = run.at[row]
        run.obs[at, row] = self._flat(obs)
        if not np.isfinite(run.obs[at, row]).all():
            raise EpisodeError("The environment gives NaN or infinity right after its reset.")
        self._begin(row, run)

    def _ask(self, obs: Floats) -> ActionDist:
        began = time.monotonic()
        dist: ActionDist
        try:
            if self._state is None:
                dist = self._planner(obs)
            else:
                dist, self._state = self._planner(obs, self._state)
        except AgentkdError:
            raise
        except Exception as error:
            raise PlannerError(
                f"The planner raised {type(error).__name__} after {self.labels} labels: {error}"
            ) from error
        self._pace = min(self._pace, (time.monotonic() - began) / len(obs))
        return dist

    def _run(self, row: int, executor: Native, run: Stretch) -> None:
        """Let a compiled executor drive an environment to the stretch's or an episode's end."""
        at = int(run.at[row])
        reward = run.reward[at:, row]
        done, ending = self._envs[row].drive(executor, run.obs[at:, row], reward, self._flat)
        self._returns[row] += reward[:done].sum(dtype=np.float64)
        run.at[row] = at + done
        if ending is not None:
            run.at[row] -= 1
            self._arrive(row, *ending, run)
        elif at + done < run.ticks:
            self._stumble(row, executor, run)

    def _stumble(self, row: int, executor: Native, run: Stretch) -> None:
        """Go on where a compiled executor has no action."""
        obs = run.obs[run.at[row], row]
        if np.isfinite(obs).all():
            self._move(row, dists.mode(executor(obs[None]), self._spec.action)[0], run)
        else:
            self._restart(row, run)

    def _move(self, row: int, action: Any, run: Stretch) -> None:
        taken = int(action) if self._whole else action
        obs, reward, terminated, truncated, _ = self._envs[row].step(taken)
        self._returns[row] += reward
        run.reward[run.at[row], row] = reward
        self._arrive(row, obs, terminated, truncated, run)

    def _arrive(self, row: int, obs: Any, terminated: bool, truncated: bool, run: Stretch) -> None:
        """Go on to the next tick, which is an episode's first where another one ended."""
        at = run.at[row]
        run.at[row] = at + 1
        if terminated or truncated:
            run.ended[at, row] = TERMINATED if terminated else TRUNCATED
            obs, _ = self._envs[row].reset()
            if self._pure[row]:
                self.recent.append(float(self._returns[row]))
            self._begin(row, run)
        run.obs[at + 1, row] = self._flat(obs)

    def _begin(self, rows: Any, run: Stretch) -> None:
        """Begin episodes: no return, no memory, a driver drawn."""
        rows = np.atleast_1d(rows)
        if not rows.size:
            return
        self._returns[rows] = 0.0
        run.begins[run.at[rows], rows] = True
        if self._state is not None:
            fresh = self._planner.initial_state(1)
            # Copied: a policy may hand out arrays that cannot be written.
            self._state = tuple(np.array(each) for each in self._state)
            for memory, start in zip(self._state, fresh, strict=True):
                memory[rows] = start[0]
        self._pure[rows] = self.random.random(len(rows)) > max(self._share, 0.5)
        drawn = self.random.random(len(rows)) < self._share
        self._by_planner[rows] = drawn & ~self._pure[rows]
        self._lost[rows] = False

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()
        if self._many is not None:
            self._many.close()


def _shapes(state: State) -> list[tuple[int, ...]]:
    return [memory.shape[1:] for memory in state]
