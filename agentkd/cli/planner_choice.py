"""Options for loading planners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentkd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Access:
    """How an SB3 save is read."""

    vecnormalize: str | None = None
    """Statistics of the planner's normaliser, if not beside it; "off" for none."""
    algorithm: str | None = None
    """The SB3 algorithm, if the save does not tell."""
    unpickle: bool = False
    """Read a save by running the code in it. Only for files whose maker you trust."""


def reference(options: Any) -> str | tuple[str, ...]:
    """Return the one reference in `options.planner`, or all of an ensemble's.

    Raises:
        ConfigError: If there is none.
    """
    planner: tuple[str, ...] = options.planner
    if not planner:
        raise ConfigError("--planner needs at least one reference.")
    return planner[0] if len(planner) == 1 else planner


def access(options: Any) -> dict[str, Any]:
    """Return `load_planner`'s own options, by name."""
    return {
        "vecnormalize": options.vecnormalize,
        "algorithm": options.algorithm,
        "allow_pickle": options.unpickle,
    }
