"""Everything agentkd raises on purpose, in one tree.

Each message says what was wrong, with the value, and what to do about it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable
from typing import Any, Literal

from agentkd.printable import printable


class AgentkdError(Exception):
    """The root of the tree.

    Its text may quote a file or a peer: control characters in it are escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), lines=True)


class ConfigError(AgentkdError):
    """An invalid option or argument."""


class SpecError(AgentkdError):
    """An observation, action, space or shape that does not fit."""


class RefError(AgentkdError):
    """A reference that leads nowhere."""


class LoadError(AgentkdError):
    """A file that is not what it should be."""


class UnsafeError(LoadError):
    """A file that could only be read by running the code it holds."""


class TooLargeError(LoadError):
    """A file of more bytes than are read."""


class StatisticsError(LoadError, UserWarning):
    """A save that saw normalised observations, without its normaliser's statistics.

    It is warned of, and raised where such warnings are errors, as in the commands.
    """


BundleReason = Literal[
    "unreadable",  # the file cannot be opened
    "unwritten",  # it could not be written
    "large",  # more bytes than are read
    "empty",
    "foreign",  # something else
    "truncated",  # it ends early
    "layout",  # bytes where none belong, or other bytes than were written
    "checksum",  # an entry is not what was written
    "schema",  # of a format that this agentkd does not read
    "manifest",  # what is written about it is invalid
    "tensors",  # its numbers cannot be read, or do not fit
    "golden",  # it gives other outputs here than where it was made
    "signature",  # it is unsigned, or its signature is not valid
]
"""Why an executor file was refused, in one word."""


class BundleError(LoadError):
    """An executor file that is damaged, truncated or of another format; `reason` says why."""

    def __init__(self, message: str, reason: BundleReason = "manifest") -> None:
        super().__init__(message)
        self.reason: BundleReason = reason


SignatureReason = Literal[
    "unsigned",  # there is no proof
    "signature",  # too few of the keys that are trusted have signed
    "expired",  # it was signed for a time that is over
    "rollback",  # older than what was seen before
    "digest",  # another file than the one that was signed
    "large",  # more bytes than are read
    "missing",  # a part of the proof is not there
    "damaged",  # it cannot be read
]
"""Why a signature does not hold, in one word."""


class SignatureError(LoadError):
    """A file without a valid signature; `reason` says why."""

    def __init__(self, message: str, reason: SignatureReason) -> None:
        super().__init__(message)
        self.reason: SignatureReason = reason


DeviceReason = Literal[
    "unsigned",  # its signature does not hold
    "damaged",  # it is not a whole executor file
    "golden",  # its golden vectors give something else on this device
    "unfit",  # it is for another robot
    "old",  # it was signed before the one that acts
    "blacklisted",  # it failed here before
    "busy",  # another one is on trial
    "slow",  # it takes too long
    "numbers",  # it gives NaN or infinity
    "disagrees",  # it acts otherwise than the one that acts
    "score",  # the scores fell
    "vetoed",  # routers refused more of its actions than before
    "replaced",  # it was no longer the one that acts, in the midst of its trial
    "crashes",  # the robot's program started too often without confirming it
    "asked",  # rolled back by hand
    "unwritten",  # the device's folder cannot be written
    "empty",  # there is no executor
]
"""Why a device refuses an executor or returns to the former one, in one word."""


class DeviceError(AgentkdError):
    """A device that refuses an executor; `state` is how far it came, `reason` is why.

    The executor that acted before acts on. The message ends in the state, if there is one.
    """

    def __init__(self, message: str, state: str, reason: DeviceReason) -> None:
        super().__init__(f"{message} (state: {state})" if state else message)
        self.state, self.reason = state, reason


class PlannerError(AgentkdError):
    """A planner that raised, hung, died or answered garbage."""


class WireError(PlannerError):
    """What came over a wire is not a message of agentkd's; the connection is given up."""


class WorkerError(AgentkdError):
    """A worker process that could not be started or kept alive."""


class EpisodeError(AgentkdError):
    """An environment that raised, or gave what is not a number."""


class WriteError(AgentkdError):
    """A file that could not be written; what was there before is whole."""


class NumbersError(AgentkdError):
    """NaN or infinity where numbers are needed."""


_TOLD = 40
"""Known names that a message lists."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Say which of the `known` names was probably meant, for the end of a message.

    Returns:
        " Did you mean 'x'?" or, where nothing is near, " Known: 'x', 'y'."
    """
    # Only a message needs it, and a device that starts needs no message.
    from difflib import get_close_matches

    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {near[0]!r}?"
    if names:
        more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
        return " Known: " + ", ".join(repr(each) for each in names[:_TOLD]) + more + "."
    return ""


def check_choice(what: str, name: str, known: Collection[str]) -> None:
    """Check that a name is one of those `known`.

    Raises:
        ConfigError: If it is not, with the one that was probably meant.
    """
    if name not in known:
        raise ConfigError(f"No {what} {name!r}.{did_you_mean(name, known)}")


def check_range(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
    hint: str = "",
) -> None:
    """Check an option's number against bounds; NaN is within none, and None is not checked.

    True and False are no numbers.

    Args:
        name: The option's name, for the message.
        value: Its value.
        least: The smallest value.
        above: What it has to be greater than.
        most: The greatest value.
        below: What it has to be smaller than; `math.inf` for any finite number.
        whole: Whether it has to be an int, Python's or NumPy's; 8.0 is none.
        hint: A sentence for the end of the message.

    Raises:
        ConfigError: If the value is outside, or no number.
    """
    bounds = (
        (least, operator.ge, "at least"),
        (above, operator.gt, "above"),
        (most, operator.le, "at most"),
        (below, operator.lt, "below"),
    )
    if value is None:
        return
    given = [(bound, holds, word) for bound, holds, word in bounds if bound is not None]
    wanted = " and ".join(
        "finite" if bound == math.inf else f"{word} {bound}" for bound, _, word in given
    )
    try:
        number = not isinstance(value, bool) and (not whole or operator.index(value) == value)
        if number and all(holds(value, bound) for bound, holds, _ in given):
            return
    except (TypeError, ValueError):  # it can be no index, or not be compared
        number = False
    shown = f"{value}" if number else f"{value!r:.80}"
    if not number:
        wanted = ", ".join(filter(None, ("an int" if whole else "a number", wanted)))
    raise ConfigError(f"{name} is {shown}; it has to be {wanted}. {hint}".rstrip())
