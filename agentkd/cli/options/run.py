"""Options of `agentkd run`, and what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import OmitArgPrefixes

from agentkd.cli.planner_choice import Access
from agentkd.cli.strategy_choice import StrategyChoice
from agentkd.cli.watch_choice import WatchChoice
from agentkd.errors import ConfigError, did_you_mean

_ANY_STRATEGY, _NOBODY = StrategyChoice(), WatchChoice()
_ARMS = ("planner", "executor", "runtime")


@dataclass(frozen=True, kw_only=True)
class Options(Access):
    """Run an agent whose planner is late, and compare its arms on the same seeds.

    Without an executor file the executor first learns from nothing, live, from the planner's late
    answers. Then each arm lives the same episodes.

    Example: agentkd run LunarLander-v3 --planner policies/lunarlander --clock virtual
    --planner-latency 8
    """

    env: tyro.conf.Positional[str]
    """A Gymnasium id, "module:Id-v0", or "module:attribute" that makes one."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    planner: tuple[str, ...]
    """An SB3 save or its folder, an .akd file, or module:attribute; several are an ensemble."""
    executor: str = "mlp:64,64"
    """An executor file (.akd), or an architecture that learns from nothing."""
    hz: float = 50.0
    """Ticks per second."""
    clock: Literal["wall", "virtual"] = "wall"
    """Whether ticks take real time, or the planner's latency is counted in ticks."""
    planner_latency: str = "auto"
    """Ticks by which each answer of the planner is late, or "real": as late as it is. By default
    real on the wall clock, 4 on the virtual one."""
    ticks: int | None = None
    """The length of each arm in ticks."""
    seconds: float | None = None
    """The length of each arm in seconds."""
    episodes: int | None = None
    """The length of each arm in episodes; 20 on the virtual clock, if nothing else is given, and 20
    seconds on the wall clock."""
    learn_ticks: int | None = None
    """Ticks to learn live before the arms are measured; 30000 on the virtual clock, as long as an
    arm on the wall clock. 0 for an executor file."""
    arms: str = "planner,executor,runtime"
    """Which arms are compared, separated by commas."""
    budget: float | None = None
    """Seconds that a decision may wait for the planner's answer on the wall clock, if it was that
    fast lately; by default a quarter of a period, 0 for never."""
    seed: int = 1000
    """Episode i is reset with seed + i."""
    strategies: OmitArgPrefixes[StrategyChoice] = _ANY_STRATEGY
    """Which strategies may act, and how they are requested."""
    watching: OmitArgPrefixes[WatchChoice] = _NOBODY
    """Scheduling of the tick thread, and where its metrics go."""
    out: Path | None = None
    """Where the report and the executor go; by default runs/run-ENV."""
    overwrite: bool = False
    """Replace what an earlier run left in the folder."""

    @property
    def chosen_arms(self) -> tuple[str, ...]:
        """The arms by name.

        Raises:
            ConfigError: If an arm is unknown, or none is given.
        """
        arms = tuple(word.strip() for word in self.arms.split(",") if word.strip())
        for arm in arms:
            if arm not in _ARMS:
                raise ConfigError(f"No arm {arm!r}.{did_you_mean(arm, _ARMS)}")
        if not arms:
            raise ConfigError(f"No arms. Known: {', '.join(_ARMS)}.")
        return arms

    @property
    def latency(self) -> int | None:
        """The planner's latency in ticks, None for as late as it is.

        Raises:
            ConfigError: If it is no number, or not possible under this clock.
        """
        text = self.planner_latency
        if text == "auto":
            return None if self.clock == "wall" else 4
        if text == "real":
            if self.clock == "virtual":
                raise ConfigError(
                    "--planner-latency real needs --clock wall: virtual ticks take no time."
                )
            return None
        if not text.isdigit():
            raise ConfigError(f"--planner-latency {text!r}: a number of ticks, such as 4, or real.")
        return int(text)

    @property
    def learns(self) -> bool:
        """Whether the executor is to learn before the arms are measured."""
        return not self.executor.endswith(".akd")

    def check(self) -> None:
        """Validate the options before anything is measured.

        Raises:
            ConfigError: With the option and its value.
        """
        least: tuple[tuple[str, float | None, float], ...] = (
            ("ticks", self.ticks, 1),
            ("episodes", self.episodes, 1),
            ("learn-ticks", self.learn_ticks, 1 if self.learns else 0),
            ("seed", self.seed, 0),
            ("budget", self.budget, 0),
        )
        for name, number, bound in least:
            if number is not None and not bound <= number < math.inf:
                raise ConfigError(f"--{name} {number}: at least {bound:g}.")
        for name, number in (("hz", self.hz), ("seconds", self.seconds)):
            if number is not None and not 0 < number < math.inf:
                raise ConfigError(f"--{name} {number}: above 0.")
        if not self.learns and self.learn_ticks:
            raise ConfigError(
                "An executor file is run as it is; leave --learn-ticks out, or give an "
                "architecture such as mlp:64,64."
            )
