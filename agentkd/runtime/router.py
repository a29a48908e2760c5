"""Who acts at a tick. Pure: no state, no clock, no I/O."""

from __future__ import annotations

from typing import Literal, get_args

from agentkd.errors import ConfigError, did_you_mean
from agentkd.types import Source

Mode = Literal["runtime", "planner", "executor"]
"""Strategy or executor, whichever is in time; the planner alone; the executor alone."""
MODES: tuple[Mode, ...] = get_args(Mode)


def check_mode(mode: str) -> Mode:
    """Give a mode back if it is one.

    Raises:
        ConfigError: If it is not.
    """
    for known in MODES:
        if mode == known:
            return known
    raise ConfigError(f"No mode {mode!r}.{did_you_mean(mode, MODES)}")


def route(
    mode: Mode, *, blind: bool, strategy: bool, why: str, held: bool
) -> tuple[Source, str]:
    """Decide who acts: strategy, then executor, then hold, then default.

    Args:
        mode: Which of them take part.
        blind: Whether the observation holds NaN or infinity, so that nobody can answer.
        strategy: Whether a strategy serves this tick.
        why: Why it does, or why not.
        held: Whether there is an action of this episode to hold.

    Returns:
        The source and the reason.
    """
    if blind:
        return ("hold" if held else "default"), "nan"
    if mode == "executor":
        return "executor", "alone"
    if strategy:
        return "strategy", why
    if mode == "runtime":
        return "executor", why
    return ("hold" if held else "default"), why
