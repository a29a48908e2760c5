"""Options of `agentkd eval`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from agentkd.cli.planner_choice import Access


@dataclass(frozen=True, kw_only=True)
class Options(Access):
    """Measure policies on the same episodes, side by side.

    Example: agentkd eval LunarLander-v3 policies/lunarlander runs/demo/executor.akd
    """

    env: tyro.conf.Positional[str]
    """A Gymnasium id, "module:Id-v0", or "module:attribute" that makes one."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    policies: tyro.conf.Positional[tuple[str, ...]]
    """SB3 saves or their folders, module:attribute, executor files (.akd), and earlier results: a
    report.json or a folder with one."""
    reference: str | None = None
    """What retention and agreement are against; by default the first planner."""
    episodes: int = 20
    """How many episodes each policy lives."""
    seed: int = 1000
    """Episode i is reset with seed + i."""
    attack: Literal["noise", "fgsm", "pgd"] | None = None
    """Measure everything once more on perturbed observations: by noise, or the worst that one step,
    or several, along an executor's own gradient find."""
    epsilon: float = 0.1
    """The size of the attack, in units of the spread of what the reference observes."""
    attack_steps: int = 10
    """How many steps pgd takes."""
    out: Path | None = None
    """Where to write the report; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""
