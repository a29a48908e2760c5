"""Asking the planner about the state in which its answer will arrive.

By the time a slow planner answers, the world has moved on. With a model of the world the
observation can be rolled forward over what is done meanwhile: the actions that are committed
already, then those of the executor (as VLASH does, arXiv 2512.01031). How far is measured in ticks
consumed, never in seconds.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd.errors import AgentkdError, ConfigError, PlannerError, check_range
from agentkd.executors.acting import default_action
from agentkd.executors.acting import form as acting_form
from agentkd.executors.executor import Executor
from agentkd.refs import is_reference, resolve
from agentkd.runtime.codec import Seen, flat_actions, shaped_action
from agentkd.runtime.goals import GoalMemory, unconditioned, write_goal
from agentkd.spec import Spec
from agentkd.types import Floats
from agentkd.views import pick

Model = Callable[[Floats, Sequence[Any]], Floats]
"""The observation, (obs,), after some actions in the environment's units, in turn."""
Check = Callable[[Floats, Any], bool]
"""Whether an action may be taken, given the observation (obs,)."""

_QUANTILE = 0.95
_TWIN = "agentkd.planners.search.twin:twin"
"""Makes a model of an environment's name. Named, for what acts in time imports no environments."""
_ENVIRONMENT = re.compile(r"[\w./:-]+-v\d+(\{.*\})?", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class RollForward:
    """How observations are rolled forward before the planner is asked.

    Attributes:
        model: Gives the observation after some actions; a function, or the reference
            "module:attribute" of one, which a planner in another process needs. Or the name of a
            MuJoCo environment, such as "HalfCheetah-v5": its own simulation, which is tried when it
            is made (`agentkd.planners.search.twin`).
        check: Asked of each action that is not committed, as a guard asks: where it says no, the
            action before is held, or else the default taken. A function or a reference.
        lead: By how many ticks; None to measure it.
        most: The most ticks.
        window: Over how many answers it is measured.
    """

    model: Model | str
    check: Check | str | None = None
    lead: int | None = None
    most: int = 32
    window: int = 32

    def __post_init__(self) -> None:
        for name in ("model", "check"):
            value = getattr(self, name)
            named = name == "model" and _ENVIRONMENT.fullmatch(str(value)) is not None
            if isinstance(value, str) and not (named or is_reference(value)):
                more = ", or an environment's name such as HalfCheetah-v5" * (name == "model")
                raise ConfigError(
                    f"The roll-forward's {name} is {value!r}; give a function, a "
                    f"reference as module:attribute{more}."
                )
        check_range("most", self.most, least=1, whole=True)
        check_range("window", self.window, least=1, whole=True)
        check_range("lead", self.lead, least=0, most=self.most, whole=True)

    def as_references(self) -> dict[str, str | None]:
        """Return what another process needs; raise ConfigError for functions."""
        for name in ("model", "check"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(
                    f"The planner is another process, which cannot be sent a function. "
                    f"Give the roll-forward's {name} as module:attribute."
                )
        return {"model": str(self.model), "check": self.check and str(self.check)}


@final
class Lead:
    """How many ticks an answer takes: the 95th percentile of the newest answers.

    The first answer of a planner that was just started counts only until there is a second one: it
    is slower than all that follow.
    """

    def __init__(self, roll: RollForward) -> None:
        self._fixed, self._most = roll.lead, roll.most
        self._ticks: deque[int] = deque(maxlen=roll.window)
        self.value = roll.lead or 0

    def note(self, ticks: int, request: int) -> None:
        """Take how many ticks were consumed until the answer to a request came."""
        if self._fixed is not None:
            return
        if request <= 1:
            if not self._ticks:
                self.value = min(max(0, ticks), self._most)
            return
        self._ticks.append(max(0, ticks))
        ordered = sorted(self._ticks)
        nearest = ordered[math.ceil(_QUANTILE * len(ordered)) - 1]
        self.value = min(nearest, self._most)


def _made(text: str) -> Any:
    """Return the model that a reference names, or that is made of an environment's name."""
    return resolve(text) if is_reference(text) else resolve(_TWIN)(text)


@final
class Foresight:
    """Rolls observations forward, with a copy of the executor that acts.

    Without an executor the last action is held where nothing is committed.
    """

    def __init__(
        self,
        roll: RollForward,
        executor: Executor | None,
        spec: Spec,
        memory: GoalMemory | None = None,
    ) -> None:
        model, check = roll.model, roll.check
        self._model: Any = _made(model) if isinstance(model, str) else model
        self._check: Any = resolve(check) if isinstance(check, str) else check
        self._spec, self._memory = spec, memory
        self._form = acting_form(executor) if executor is not None else None
        self._default = default_action(spec.action)

    def follow(self, executor: Executor) -> None:
        """Let another executor act, if one does."""
        if self._form is not None:
            self._form = acting_form(executor)

    def __call__(self, seen: Seen) -> tuple[Floats, Floats]:
        """Return the observation `seen.lead` ticks later, (obs,), and the actions until then.

        These are flat, (lead, width); one more where the executor acts: what it does there. If the
        model raises or gives no observation, raise PlannerError.
        """
        try:
            return self._rolled(seen)
        except AgentkdError:
            raise
        except Exception as error:
            said = f"The roll-forward raised {type(error).__name__}: {error}"
            raise PlannerError(said) from error

    def _rolled(self, seen: Seen) -> tuple[Floats, Floats]:
        action_spec = self._spec.action
        flat = () if seen.committed is None else seen.committed[: seen.lead]
        known = [shaped_action(each, action_spec) for each in flat]
        # What is decided is done; rows that follow may still meet a guard.
        sure = known if self._check is None else known[:1]
        obs = self._after(seen.obs, sure) if sure else seen.obs
        last = sure[-1] if sure else None
        done = list(sure)
        for step in range(len(sure), seen.lead):
            wanted = known[step] if step < len(known) else None
            if wanted is None:
                wanted = self._uncommitted(obs, seen.episode, seen.tick + step, last)
            last = self._allowed(obs, wanted, last)
            obs = self._after(obs, [last])
            done.append(last)
        if self._form is not None:
            done.append(self._uncommitted(obs, seen.episode, seen.tick + seen.lead, last))
        return obs, flat_actions(done, action_spec)

    def _uncommitted(self, obs: Floats, episode: int, tick: int, last: Any) -> Any:
        # Held here: another executor may follow at any moment.
        form = self._form
        if form is None:
            return self._default if last is None else last
        place = form.obs
        spec = form.executor.spec
        if self._memory is None:
            place[:] = pick(spec.obs, obs)
        else:
            goals = self._memory.goals
            place[: -goals.width] = pick(unconditioned(spec, goals).obs, obs)
            write_goal(place[-goals.width :], goals, *self._memory.newest(episode, tick))
        if form.run():
            raise PlannerError("The roll-forward's model gave NaN or infinity.")
        return form.take()

    def _allowed(self, obs: Floats, wanted: Any, last: Any) -> Any:
        if self._check is None or self._check(obs, wanted):
            return wanted
        if last is not None and self._check(obs, last):
            return last
        return self._default

    def _after(self, obs: Floats, actions: Sequence[Any]) -> Floats:
        # The model may write into what it is given, or give the same array each time.
        given = [np.copy(each) if isinstance(each, np.ndarray) else each for each in actions]
        out = np.array(self._model(obs.copy(), given), np.float32)
        finite = np.isfinite(out).all()
        if out.shape != obs.shape or not finite:
            raise PlannerError(
                f"The roll-forward's model gave shape {out.shape}, "
                f"{'finite' if finite else 'with NaN or infinity'}; an observation is {obs.shape}."
            )
        return out
