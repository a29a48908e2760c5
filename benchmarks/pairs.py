"""Pairs of ways to distil that differ in one mechanism."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentkd.errors import ConfigError, did_you_mean
from agentkd.types import Kind

_CHOICES: tuple[Kind, ...] = ("categorical", "qvalues", "multicategorical", "bernoulli")
_BOXES: tuple[Kind, ...] = ("gaussian", "squashed", "point")
_ANY = _CHOICES + _BOXES


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to distil.

    Attributes:
        terms: What is minimised.
        reuse: Gradient steps for each label, in units of what they are by default.
        together: Whether all planners for the environment are one ensemble.
    """

    terms: str = "match"
    reuse: float = 1.0
    together: bool = False


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Two ways to distil that differ in one thing.

    Attributes:
        name: What it is called.
        about: What differs.
        without: Without it.
        within: With it.
        kinds: Of planners' answers that it is for.
        attacked: Whether it is for observations that are off, and measured so too.
    """

    name: str
    about: str
    without: Arm
    within: Arm
    kinds: tuple[Kind, ...] = _ANY
    attacked: bool = False


_HARD = Arm("hard")
_MATCH = Arm()
MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism("soft", "probabilities, not the best choice", _HARD, _MATCH, _CHOICES),
    Mechanism("auto", "tau by entropy", _MATCH, Arm("soft:tau=auto"), _CHOICES),
    Mechanism(
        "gaps",
        "tau in gaps, not absolute",
        Arm("soft:tau=1,unit=absolute"),
        Arm("soft:tau=0.3,unit=gap"),
        ("qvalues",),
    ),
    Mechanism(
        "sides",
        "tau on both sides, not the planner's",
        Arm("soft:tau=2,sides=planner"),
        Arm("soft:tau=2,sides=both"),
        _CHOICES,
    ),
    Mechanism("mixture", "hard labels mixed in", _MATCH, Arm("0.7 soft + 0.3 hard"), _CHOICES),
    Mechanism("smoothing", "smoothed hard labels", _HARD, Arm("hard:smoothing=0.1"), _CHOICES),
    Mechanism("ensemble", "all planners of the place", _MATCH, Arm(together=True)),
    Mechanism("adversarial", "a discriminator beside", _MATCH, Arm("match + 0.1 adversarial")),
    Mechanism("reuse", "labels used 4 times as often", _MATCH, Arm(reuse=4.0)),
    Mechanism(
        "augment",
        "labels hold for noisy states, too",
        _MATCH,
        Arm("0.5 match + 0.5 robust:by=noise,eps=0.05"),
        attacked=True,
    ),
    Mechanism(
        "robust",
        "labels hold for the worst near by",
        _MATCH,
        Arm("0.5 match + 0.5 robust:by=pgd,eps=0.1"),
        attacked=True,
    ),
)


def find_mechanisms(names: Sequence[str]) -> tuple[Mechanism, ...]:
    """Give mechanisms by their names, all if there is none.

    Raises:
        ConfigError: If a name is unknown.
    """
    known = {each.name: each for each in MECHANISMS}
    for name in names:
        if name not in known:
            raise ConfigError(f"No mechanism {name!r}.{did_you_mean(name, known)}")
    return tuple(known[name] for name in names) if names else MECHANISMS
