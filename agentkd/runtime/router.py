"""Who acts at a tick: the first source in the fallback order that no router refuses.

The order is strategy, executor, hold (the last action again), default. A router is asked about each
source that has an action, and says why it may not act; the default needs no leave. Routers compose
by being several: the first refusal counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final, get_args

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, did_you_mean
from agentkd.executors.acting import Form
from agentkd.spec import ActionSpec, Spec
from agentkd.types import ActionDist, Floats, Source, Strategy

Mode = Literal["runtime", "planner", "executor"]
"""Strategy or executor, whichever is in time; the planner alone; the executor alone."""
MODES: tuple[Mode, ...] = get_args(Mode)
ORDER: tuple[Source, ...] = get_args(Source)
"""The fallback order."""


def check_mode(mode: str) -> Mode:
    """Give a mode back if it is one.

    Raises:
        ConfigError: If it is not.
    """
    for known in MODES:
        if mode == known:
            return known
    raise ConfigError(f"No mode {mode!r}.{did_you_mean(mode, MODES)}")


@final
class Moment:
    """What a router sees of a tick. It is the same object at each tick: keep no part.

    Attributes:
        tick: The tick.
        obs: What the environment is observed to be, (obs,).
        left: Seconds until the decision's deadline; infinite without one.
        blind: Whether the observation holds NaN or infinity.
        strategy: The strategy that would act, None where none serves.
        row: Which of its rows is for this tick.
        remaining: Its actions from this tick on, (ticks, …); empty without one.
        age: Ticks since its observation, 0 without one.
        why: Why the source before the one asked about does not act; "" if none.
        held: For how many ticks in a row the last action was held so far.
        mine: What the executor would do, whether or not it takes part.
    """

    __slots__ = (
        "_actions",
        "_form",
        "_spec",
        "age",
        "blind",
        "held",
        "left",
        "mine",
        "obs",
        "remaining",
        "row",
        "strategy",
        "tick",
        "why",
    )

    def __init__(self, spec: Spec) -> None:
        """Make room for ticks of an environment."""
        self._spec = spec
        self._actions: dict[Source, Any] = {}
        self._form: Form | None = None
        self.tick = self.row = self.age = self.held = 0
        self.obs: Floats = np.zeros(spec.obs.size, np.float32)
        self.left = float("inf")
        self.blind = False
        self.strategy: Strategy | None = None
        self.why = ""
        self.mine: Any = None
        self.remaining: Sequence[Any] = ()

    def begin(self, tick: int, obs: Floats, form: Form | None, left: float, held: int) -> None:
        """Begin a tick, without any action yet; a `form` has decided on it."""
        self.tick, self.obs, self.left, self.held = tick, obs, left, held
        self.blind = form is None
        self.strategy, self.row, self.age, self.why = None, 0, 0, ""
        self.remaining = ()
        self._form = form
        self._actions.clear()

    @property
    def actions(self) -> ActionSpec:
        """What actions look like."""
        return self._spec.action

    def propose(self, source: Source, action: Any) -> None:
        """Say what a source would do."""
        self._actions[source] = action

    def action(self, source: Source) -> Any:
        """What a source would do, in the environment's units; None for nothing."""
        return self._actions.get(source)

    def apart(self, source: Source, other: Source) -> float:
        """How far two sources' actions are apart, 0 to 1; NaN where one has none.

        Choices: the share that differs. Boxes: the mean absolute difference in units of the bounds'
        distance.
        """
        left, right = self._actions.get(source), self._actions.get(other)
        if left is None or right is None:
            return float("nan")
        pair = np.asarray([left]), np.asarray([right])
        return 1.0 - float(dists.agreement(*pair, self._spec.action)[0])

    def executor(self) -> ActionDist:
        """The executor's action distribution, one row.

        Raises:
            ConfigError: If it was not asked: the observation is blind.
        """
        if self._form is None:
            raise ConfigError("The executor was not asked about a blind observation.")
        return self._form.dist()

    def planner(self) -> ActionDist | None:
        """The strategy's action distribution for this tick, one row."""
        if self.strategy is None or self.strategy.rows is None:
            return None
        return dists.rows(self.strategy.rows, slice(self.row, self.row + 1))


class Router(ABC):
    """Refuses sources. It may have a state, which belongs to one agent.

    Attributes:
        ends: Whether a strategy that it refuses is dropped for good, not only passed over at this
            tick.
        judges: Whether it says itself which late rows may act, so that the runtime's own judgement
            (`Trust`) steps back.
    """

    ends: ClassVar[bool] = False
    judges: bool = False

    @abstractmethod
    def veto(self, source: Source, moment: Moment, /) -> str:
        """Say in one word why a source may not act now; "" if it may."""

    def takes_part(self, _source: Source, /) -> bool:
        """Whether a source takes part at all; asked once."""
        return True

    def fallback(self, _moment: Moment, /) -> Any:
        """An action instead of the default's; None for none."""
        return None

    def reset(self) -> None:  # noqa: B027 (most routers have nothing to forget)
        """Forget the episode."""

    def counts(self) -> Mapping[str, Any]:
        """What it counted, by name."""
        return {}


def taking_part(mode: Mode, routers: Sequence[Router]) -> tuple[Source, ...]:
    """The fallback order of those who take part; the default always does.

    Raises:
        ConfigError: If nobody is left to decide.
    """
    without = {"planner": "executor", "executor": "strategy", "runtime": ""}[mode]
    found = tuple(
        source
        for source in ORDER
        if source == "default"
        or (source != without and all(each.takes_part(source) for each in routers))
    )
    if "strategy" not in found and "executor" not in found:
        raise ConfigError(
            f"With mode={mode!r} and these routers neither a strategy nor the executor "
            "takes part. Leave one of them out."
        )
    return found
