"""What a fleet's server knows: values, of a device and of a rollout, without any behaviour."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from agentkd.errors import ConfigError, LoadError, check_range
from agentkd.fields import Fields
from agentkd.fleet.messages import Action

Kind = Literal["refused", "rolled-back", "timed-out"]
FAILURES: tuple[Kind, ...] = ("refused", "rolled-back", "timed-out")
Outcome = Literal["later", "absent", "pending", "confirmed", "refused", "rolled-back", "timed-out"]
"""Where a device stands in a rollout: not asked yet; asked and off line, without having begun;
under way; and the four ends."""
OUTCOMES: tuple[Outcome, ...] = ("later", "absent", "pending", "confirmed", *FAILURES)
Course = Literal["running", "paused", "aborted", "rolled-back", "finished"]
ABORT: Mapping[str, float] = {"refused": 0.1, "rolled-back": 0.05, "timed-out": 0.2}
"""The share of each failure above which a rollout is aborted, by default."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is delivered, and under which conditions.

    Raises:
        ConfigError: If a value is out of its range.
    """

    digest: str
    """SHA-256 of the executor's file, in hexadecimal."""
    name: str
    """What it was signed as."""
    size: int
    """Bytes."""
    proof: str = ""
    """SHA-256 of its proof, "" if it has none."""
    signed: str = ""
    """What the proof says, "" if it was not checked."""
    waves: tuple[float, ...] = (5.0, 25.0, 100.0)
    """Per cent of the devices that are asked in each wave and those before it."""
    sample: int = 5
    """Devices that have to come to an end before anything is judged; fewer if fewer are asked."""
    abort: Mapping[str, float] = field(default_factory=lambda: dict(ABORT))
    """By kind of failure, the share of the asked devices above which the rollout is aborted."""
    limit: float = 900.0
    """Seconds that a device may take, from when it was asked and on line."""
    back: bool = False
    """Whether an abort also rolls back the devices that took it."""

    def __post_init__(self) -> None:
        """Check the values."""
        waves = self.waves
        ordered = all(a < b for a, b in pairwise(waves))
        if not waves or not ordered or not waves[0] > 0 or waves[-1] != 100:
            told = ",".join(f"{each:g}" for each in waves)
            raise ConfigError(
                f"waves are {told or 'empty'}; they have to grow from above 0 to 100 per cent, "
                "such as 5,25,100."
            )
        check_range("sample", self.sample, least=1, whole=True)
        check_range("limit", self.limit, above=0, below=math.inf)
        for kind, share in self.abort.items():
            if kind not in FAILURES:
                raise ConfigError(f"abort {kind!r}: one of {', '.join(FAILURES)}.")
            check_range(f"abort {kind}", share, least=0, most=1)


@dataclass(frozen=True, slots=True)
class Target:
    """What a device is asked for."""

    revision: int
    """The number of the line that made it so, or larger if the device has seen larger ones."""
    action: Action
    rollout: int
    """The number of the line that began the rollout."""


@dataclass(slots=True)
class Known:
    """A device, as far as it told, and where it stands in the newest rollout."""

    name: str
    boot: str = ""
    session: int = 0
    online: bool = False
    seen: int = 0
    phase: str = "IDLE"
    digest: str = ""
    active: str = ""
    reason: str = ""
    text: str = ""
    target: Target | None = None
    asked: int = 0
    """The revision with which the newest rollout asked it first, 0 if it did not."""
    begun: bool = False
    """Whether it has had the newest rollout's executor in its slots."""
    end: Outcome | None = None
    clock: float | None = None
    """When its time began to count."""
    outcome: Outcome = "later"
    outbid: bool = False
    """Whether it has obeyed another server since the newest rollout began."""

    def revision(self, number: int) -> int:
        """Return one above all that the device was told, at least `number`."""
        told = self.target.revision if self.target is not None else 0
        return max(number, self.seen + 1, told + 1)


@dataclass(slots=True)
class Rollout:
    """A rollout under way, or over."""

    number: int
    plan: Plan
    by: str
    began: float
    course: Course = "running"
    wave: int = -1
    wave_began: float = 0.0
    text: str = ""
    """Why it was aborted."""
    ended: float | None = None


def read_plan(fields: Fields) -> Plan:
    """Return the plan of an event.

    Raises:
        LoadError: If a field is missing, or not what it should be.
    """
    for name in ("digest", "proof"):
        if not _DIGEST.fullmatch(fields.text(name)) and (name == "digest" or fields.text(name)):
            raise LoadError(f"{fields.text(name)[:80]!r} is not a SHA-256 in hexadecimal.")
    abort = fields.get("abort")
    shares = Fields(abort, "abort")
    return Plan(
        digest=fields.text("digest"),
        name=fields.text("name"),
        size=fields.whole("size"),
        proof=fields.text("proof"),
        signed=fields.text("signed"),
        waves=fields.numbers("waves"),
        sample=fields.whole("sample"),
        abort={each: shares.number(each) for each in abort},
        limit=fields.number("limit"),
        back=fields.flag("back"),
    )
