"""What a decider tells of its ticks, to a decision log or a live page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.executors.acting import Form
    from agentkd.runtime.codec import Answer
    from agentkd.types import Floats, Source


class Recorder:
    """What a decider tells of its ticks, in this order; here it does nothing."""

    def executor(self, form: Form, _used: Form) -> Form:
        """Note who acts from now on, if that changed; return `form`."""
        return form

    def observe(self, tick: int, episode: int, lateness: int, obs: Floats) -> None:
        """Note what is observed, (obs,)."""

    def hear(self, answer: Answer) -> None:
        """Note what the planner answered."""

    def left(self, ns: int) -> int:
        """Note how much time is left; return how much is to be reckoned with."""
        return ns

    def decide(self, action: Any, source: Source, reason: str, version: int, taken: int) -> None:
        """Note what was decided."""

    def score(self, score: float) -> None:
        """Note a score of what was decided, such as its reward."""

    def reset(self, episode: int) -> None:
        """Note that an episode begins."""
