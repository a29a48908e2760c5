"""What a live page is told of an agent: noted on the tick, laid out between ticks."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, final

from agentkd.executors.acting import Form
from agentkd.runtime.codec import Answer
from agentkd.runtime.recorder import Recorder
from agentkd.types import Floats, Source

if TYPE_CHECKING:
    from agentkd.runtime.decider import Decider

_TICKS, _ANSWERS, _RETURNS = 400, 64, 64
"""The most of each between two messages; older ones are dropped."""


@final
class Feed(Recorder):
    """Keeps the newest ticks, answers and returns until they are taken.

    It stands before the recorder that was there, such as a decision log, and hands everything on.
    """

    def __init__(self, inner: Recorder | None) -> None:
        self._inner = inner or Recorder()
        self._now = (0, 0, 0)
        self._total, self._scored = 0.0, False
        self._ticks: deque[tuple[Any, ...]] = deque(maxlen=_TICKS)
        self._answers: deque[tuple[Any, ...]] = deque(maxlen=_ANSWERS)
        self._returns: deque[float] = deque(maxlen=_RETURNS)

    # What follows runs on the tick.

    def executor(self, form: Form, _used: Form) -> Form:
        """Hand on who acts."""
        return self._inner.executor(form, _used)

    def observe(self, tick: int, episode: int, lateness: int, obs: Floats) -> None:
        """Note the tick."""
        self._now = tick, episode, lateness
        self._inner.observe(tick, episode, lateness, obs)

    def hear(self, answer: Answer) -> None:
        """Note an answer: when it came, what it saw, and how long it took."""
        ticks = 0 if answer.rows is None else len(answer.rows.rows)
        self._answers.append((self._now[0], answer.origin, answer.latency, ticks, answer.partial))
        self._inner.hear(answer)

    def left(self, ns: int) -> int:
        """Hand on how much time is left."""
        return self._inner.left(ns)

    def decide(self, action: Any, source: Source, reason: str, version: int, taken: int) -> None:
        """Note a decision."""
        tick, _, late = self._now
        self._ticks.append((tick, source, reason, taken, late))
        self._inner.decide(action, source, reason, version, taken)

    def score(self, score: float) -> None:
        """Add a score to the episode's return."""
        self._total += score
        self._scored = True
        self._inner.score(score)

    def reset(self, episode: int) -> None:
        """Note that an episode begins, and the return of the one before."""
        if self._scored:
            self._returns.append(self._total)
        self._total = 0.0
        self._inner.reset(episode)

    # What follows runs between ticks.

    @property
    def tick(self) -> int:
        """The newest tick."""
        return self._now[0]

    def take(self) -> dict[str, Any]:
        """Return what was noted since the last call, as JSON values.

        Ticks are (tick, source, reason, ns taken, ns late); answers (tick, tick seen, seconds,
        rows, whether a better one follows).
        """
        tick, episode, _ = self._now
        return {
            "tick": tick,
            "episode": episode,
            "return": self._total if self._scored else None,
            "ticks": _drained(self._ticks),
            "answers": _drained(self._answers),
            "returns": _drained(self._returns),
        }


def _drained(values: deque[Any]) -> list[Any]:
    return [values.popleft() for _ in range(len(values))]


def facts(decider: Decider) -> dict[str, Any]:
    """Return counts that cost next to nothing to read, as JSON values."""
    metrics, strategies = decider.metrics, decider.strategies
    current = strategies.current
    return {
        "decisions": [[*who, count] for who, count in list(metrics.decisions.items())],
        "misses": metrics.deadline_misses,
        "missed_cycles": metrics.missed_cycles,
        "answered": metrics.answers,
        "agreement": metrics.agreement.newest(),
        "accepted": strategies.accepted,
        "rejected": dict(strategies.rejected),
        "strategy": None if current is None else [current.origin, current.valid_until],
        "swaps": metrics.swaps,
        "refused": dict(metrics.swaps_refused),
        "rollbacks": dict(metrics.rollbacks),
        "version": decider.form.executor.version,
    }
