"""Which strategy serves a tick, with which of its rows.

A strategy is indexed by what was consumed since its observation, never by an estimate of latency.
One that was computed for a tick to come waits until then. Each refusal is counted under one of
these reasons, or under that of a router:

* late: its last row was for an earlier tick than the one it arrived at,
* superseded: one for a newer observation is here already,
* episode: it belongs to an episode that is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from agentkd import dists
from agentkd.errors import ConfigError, check_range
from agentkd.runtime.codec import Answer
from agentkd.runtime.goals import Goals
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.standin import HELD, StandIn
from agentkd.spec import ActionSpec, DiscreteSpec, Spec
from agentkd.types import Floats, Strategy

_REASONS = ("late", "stale", "diverged", "superseded", "episode", "guard")
_REMEMBERED = 1024
_WAITING = 64


@dataclass(frozen=True, slots=True)
class Trust:
    """When a late row may act in the executor's place (`agentkd.runtime.trust`).

    Attributes:
        same: The largest distance between an action that a prediction counted on and the one that
            was executed, 0 to 1.
        surprise: The largest distance between the executor's actions at the predicted and at the
            seen observation, at one tick, 0 to 1.
        sharp: The largest mean of that distance lately, as a share of how far planner and executor
            are apart about the same observation: a late row has to be nearer to the planner's word
            than the executor is.
        excess: How much further rows of an age may be from the executor than planner and executor
            are about the same observation, as a factor.
        slack: What the two means may be beyond that, 0 to 1.
        missed: The largest share of an observation's movement that predictions miss lately, 0 to 1:
            squared differences, predicted from seen, over those from answer to answer; the mean
            over the observation's numbers.
        stand_in: Answers that take at most two ticks act in the executor's place, held as by a
            planner alone, while their mean distance from the planner's later answers is below
            this share of the executor's, as where it has hardly learnt
            (`agentkd.runtime.standin`). 0: they never do. It needs `advance="ticks"`, and
            neither seam nor roll-forward.
    """

    same: float = 0.01
    surprise: float = 0.25
    sharp: float = 0.25
    excess: float = 1.5
    slack: float = 0.01
    missed: float = 0.5
    stand_in: float = 0.5

    def __post_init__(self) -> None:
        for name in ("same", "surprise", "sharp", "slack", "missed", "stand_in"):
            check_range(f"Trust's {name}", getattr(self, name), least=0, most=1)
        check_range("Trust's excess", self.excess, least=1)


@dataclass(frozen=True, slots=True)
class Seam:
    """How the actions of one strategy go over into those of the next.

    Attributes:
        freeze: Ticks for which a strategy that acts goes on after the next one came.
        blend: Ticks over which the old actions fade out after that; for boxes only.
    """

    freeze: int = 0
    blend: int = 0

    def __post_init__(self) -> None:
        check_range("freeze", self.freeze, least=0, whole=True)
        check_range("blend", self.blend, least=0, whole=True)


@dataclass(frozen=True, slots=True)
class StrategyOptions:
    """How strategies are asked for, and how they take over from one another.

    Attributes:
        roll_forward: How the observation is rolled forward to when the answer will arrive, None for
            as it is.
        goals: What the planner's goals look like, None where it gives none. The executor has to be
            made for `conditioned(spec, goals)`.
        seam: How the actions of one go over into those of the next.
        advance: "ticks": row k is for k ticks after the observation, for the world goes on whatever
            happens. "commands": it is for k actions after it, for a world that stands still while
            nobody decides, such as an arm that is told positions; held and default actions then use
            up no row.
        trust: When a late row may act in the executor's place; None for always. "auto" is
            `Trust()`, unless a seam, advance="commands" or a router that judges strategies says
            already how late rows are treated.
    """

    roll_forward: RollForward | None = None
    goals: Goals | None = None
    seam: Seam | None = None
    advance: Literal["ticks", "commands"] = "ticks"
    trust: Trust | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        if self.advance not in ("ticks", "commands"):
            raise ConfigError(f"advance is {self.advance!r}: 'ticks' or 'commands'.")
        if not isinstance(self.trust, Trust | None) and self.trust != "auto":
            raise ConfigError(f"trust is {self.trust!r}: 'auto', Trust(…) or None.")

    def to_json(self, trust: Trust | None) -> dict[str, Any]:
        """Return what a replay needs as JSON values, with the `Trust` in force."""
        parts = {"trust": trust, "goals": self.goals, "seam": self.seam}
        told = {name: part and asdict(part) for name, part in parts.items()}
        return {"advance": self.advance, **told}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> StrategyOptions:
        """Read what `to_json` gave."""
        kinds: dict[str, Any] = {"trust": Trust, "goals": Goals, "seam": Seam}
        given = {name: told.get(name) for name in kinds}
        if given["trust"]:
            # Earlier logs are of runs in which nothing stood in.
            given["trust"] = {"stand_in": 0.0, **given["trust"]}
        made = {name: kinds[name](**each) if each else None for name, each in given.items()}
        return cls(advance=told.get("advance", "ticks"), **made)

    def stand_in(self, trust: Trust | None, action: ActionSpec) -> StandIn | None:
        """Return what lets late answers stand in; None where they may not."""
        plain = self.roll_forward is None and self.seam is None and self.advance == "ticks"
        share = trust.stand_in if trust is not None and plain else 0.0
        return StandIn(share, action) if share else None

    def trusted(self, *, judged: bool) -> Trust | None:
        """Return the limits for late rows, or None; `judged`: a router judges them."""
        if isinstance(self.trust, Trust | None):
            return self.trust
        chosen = judged or self.seam is not None or self.advance == "commands"
        return None if chosen else Trust()


@final
class Strategies:
    """Holds the strategy that serves, and counts those that do not.

    If `patient`, it takes late strategies too, as a planner that acts alone does: one serves the
    tick at which it arrives with its last row. While a `stand_in` says so, it goes on with it.
    """

    def __init__(
        self,
        spec: Spec,
        options: StrategyOptions | None = None,
        *,
        patient: bool = False,
        stand_in: StandIn | None = None,
    ) -> None:
        wanted = options or StrategyOptions()
        self.accepted = 0
        self.rejected: dict[str, int] = dict.fromkeys(_REASONS, 0)
        self.current: Strategy | None = None
        self.before: Strategy | None = None
        self._spec = spec
        self._discrete = isinstance(spec.action, DiscreteSpec)
        self._goals = wanted.goals
        self._freeze = wanted.seam.freeze if wanted.seam is not None else 0
        self.standing = wanted.advance == "commands"
        # Where rows are used up by commands, those of a late answer were done already.
        self._patient = patient and not self.standing
        self.stand_in = stand_in
        self._coming: deque[Strategy] = deque(maxlen=_WAITING)
        self._goal: tuple[Floats, int] | None = None
        self._acted = False
        self._why = ""
        self._newest = (-1, -1)
        # At which ticks nobody had decided, so many times in all.
        self._idle = 0
        self._idle_at = [0] * _REMEMBERED

    def reset(self) -> None:
        """Forget the strategies: their episode is over."""
        self.current = self.before = None
        self._coming.clear()
        self._goal = None
        self._acted = False
        if self.stand_in is not None:
            self.stand_in.reset()

    def refuse(self, reason: str, *, drop: bool = False) -> None:
        """Count a strategy that does not serve; `drop` it for good if it is the present one."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        if drop:
            self.current = None

    def revert(self) -> None:
        """Go back to the strategy that acted before, if there is one."""
        self.current, self.before = self.before, None
        self._acted = self.current is not None

    def tick(self, tick: int) -> None:
        """Note that a tick begins."""
        self._idle_at[tick % _REMEMBERED] = self._idle

    def idled(self) -> None:
        """Note that at this tick nobody decided: the world stood still."""
        if self.standing:
            self._idle += 1

    def consumed(self, since: int, tick: int) -> int:
        """Return how many rows were used up between two ticks; negative before."""
        passed = tick - since
        if not self.standing or passed <= 0 or passed >= _REMEMBERED:
            return passed
        return passed - (self._idle - self._idle_at[since % _REMEMBERED])

    @property
    def stands(self) -> bool:
        """Whether late answers stand in for the executor."""
        return self.stand_in is not None and self.stand_in.stands

    def offer(self, answer: Answer, tick: int, episode: int, mine: Any = None) -> None:
        """Take an answer that arrived at `tick`, or refuse it.

        `mine` is what the executor would have done at the tick that it is for, if that is known.
        """
        horizon = 0 if answer.rows is None else len(answer.rows.rows)
        age = self.consumed(answer.tick, tick)
        guides = answer.goal is not None and self._goals is not None and age <= self._goals.max_age
        order = (answer.origin, answer.part)
        if answer.episode != episode:
            self._why = "episode"
            self.refuse(self._why)
            return
        foreseen = answer.expected is not None or answer.tick != answer.origin
        if self.stand_in is not None and answer.rows is not None and not foreseen:
            self.stand_in.take(answer.tick, tick, answer.rows, mine)
        if order <= self._newest:
            self._why = "superseded"
        elif age >= horizon and not (self._patient or self.stands or guides):
            self._why = "late"
        else:
            self._newest = order
            self.accepted += 1
            self._accept(answer, tick, horizon)
            return
        self.refuse(self._why)

    def _accept(self, answer: Answer, tick: int, horizon: int) -> None:
        last = answer.tick + max(0, horizon - 1)
        rows = actions = None
        if answer.rows is not None:
            rows = dists.opened(answer.rows, self._spec.action)
            actions = dists.mode(rows, self._spec.action)
        # What is under way is committed for some ticks; with nothing under way the answer's own
        # first tick is the first.
        committed = self._freeze if self._acted and self.current is not None else 0
        strategy = Strategy(
            id=answer.id,
            episode=answer.episode,
            obs_tick=answer.tick,
            ready_tick=tick,
            valid_until=max(last, tick),
            rows=rows,
            goal=answer.goal,
            partial=answer.partial,
            expected=answer.expected,
            doubt=answer.doubt,
            actions=actions,
            start=max(answer.tick, tick + committed),
            origin=answer.origin,
            part=answer.part,
            assumed=answer.assumed,
            predicted=answer.predicted,
        )
        if strategy.start <= tick:
            self._begin(strategy)
        else:
            self._coming.append(strategy)

    def _promote(self, tick: int) -> None:
        """Start the strategies whose first tick has come; keep the newest."""
        coming = self._coming
        if not coming:
            return
        ready = [strategy for strategy in coming if strategy.start <= tick]
        if ready:
            newest = ready[-1]
            self._begin(newest)
            # Older ones that would begin later are out of date by now.
            order = newest.origin, newest.part
            kept = [each for each in coming if (each.origin, each.part) > order]
            self._coming = deque(kept, maxlen=_WAITING)

    def _begin(self, strategy: Strategy) -> None:
        if self._acted and self.current is not None:
            self.before = self.current
        self.current = strategy
        self._acted = False
        if strategy.goal is not None:
            self._goal = strategy.goal, strategy.obs_tick

    def acted(self) -> None:
        """Note that the strategy that serves decided at this tick."""
        self._acted = True

    def serve(self, tick: int) -> tuple[Any, str]:
        """Return the action for a tick, None where no strategy serves; and why."""
        self._promote(tick)
        why, self._why = self._why or "late", ""
        strategy = self.current
        if strategy is None:
            return None, why
        row, horizon = self.row(strategy, tick), strategy.horizon
        reason = "fresh" if row == 0 else "ahead"
        if row >= horizon:
            age = tick - strategy.obs_tick
            held = self._patient and tick == strategy.ready_tick
            held = held or (self.stands and age < horizon + HELD)
            if not (horizon and held):
                self.current = None
                return None, why
            row, reason = horizon - 1, "late"
        # A copy: what the caller does to the action must not change the strategy.
        action = strategy.actions[row]
        return int(action) if self._discrete else action.copy(), reason

    def row(self, strategy: Strategy, tick: int) -> int:
        """Return which row of a strategy is for a tick."""
        return self.consumed(strategy.obs_tick, tick)

    def outgoing(self, tick: int) -> Any:
        """Return what the strategy before would do at a tick, or None."""
        strategy = self.before
        if strategy is None:
            return None
        row = self.row(strategy, tick)
        return strategy.actions[row] if 0 <= row < strategy.horizon else None

    def upcoming(self, tick: int, count: int) -> list[Any]:
        """Actions of strategies for the ticks from `tick` on, up to the first gap."""
        found: list[Any] = []
        for at in range(tick, tick + count):
            strategy = self.current
            for each in self._coming:
                if each.start <= at:
                    strategy = each
            if strategy is None:
                break
            row = self.row(strategy, at)
            if not 0 <= row < strategy.horizon:
                break
            found.append(strategy.actions[row])
        return found

    def goal(self, tick: int) -> tuple[Floats | None, int]:
        """Return the newest goal, (1, size), and its age in ticks."""
        self._promote(tick)
        return (None, 0) if self._goal is None else (self._goal[0], tick - self._goal[1])
