"""Which planner the options mean, and how it may be read."""

from __future__ import annotations

from typing import Any, Protocol

from agentkd.errors import ConfigError


class Choice(Protocol):
    """The options that every command with a planner has."""

    @property
    def planner(self) -> tuple[str, ...]:
        """One reference, or several for an ensemble."""
        ...

    @property
    def vecnormalize(self) -> str | None:
        """The file of its normaliser's statistics."""
        ...

    @property
    def algorithm(self) -> str | None:
        """The SB3 algorithm, where a save does not tell."""
        ...

    @property
    def unpickle(self) -> bool:
        """Whether a save's code may run."""
        ...


def reference(options: Choice) -> str | tuple[str, ...]:
    """Give the one reference, or all of an ensemble's.

    Raises:
        ConfigError: If there is none.
    """
    if not options.planner:
        raise ConfigError("--planner needs at least one reference.")
    return options.planner[0] if len(options.planner) == 1 else options.planner


def access(options: Choice) -> dict[str, Any]:
    """Give `load_planner`'s own options, by name."""
    return {
        "vecnormalize": options.vecnormalize,
        "algorithm": options.algorithm,
        "allow_pickle": options.unpickle,
    }
