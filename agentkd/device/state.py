"""A device's state on disk: which executor acts, which one is on its way, which ones failed.

It is one small JSON file that is replaced whole at each transition, so a device that is killed at
any moment finds the former state or the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from agentkd.errors import LoadError, WriteError
from agentkd.fields import Fields, parse_json
from agentkd.files import loading, read_file, write_atomic
from agentkd.printable import printable

FORMAT, SCHEMA = "agentkd.device", 1
Stage = Literal["FETCHED", "VERIFIED", "STAGED", "TRIAL", "CONFIRMED", "REFUSED", "ROLLED_BACK"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""How far an executor came. The last three are ends; `REFUSED` is one before the trial."""
Slot = Literal["a", "b"]
_LARGEST = 1 << 23
_REMEMBERED = 1000
"""Executors on the blacklist; the oldest is forgotten."""
_NAME, _TEXT = 200, 1000
"""Characters of a name and of a sentence that are kept."""


@dataclass(frozen=True, slots=True)
class Held:
    """An executor in one of the two slots."""

    slot: Slot
    digest: str
    """SHA-256 of its file, in hexadecimal."""
    name: str
    """What its file was called."""
    signed: str = ""
    """What its signature said; "" if none was checked."""
    serial: int = 0
    """That of its signature; a later signing in the same repository has a larger one."""
    anchor: str = ""
    """SHA-256 of the root.json that was trusted then, in hexadecimal."""

    def __post_init__(self) -> None:
        """Keep what can be printed, and written."""
        object.__setattr__(self, "name", printable(self.name)[:_NAME])
        object.__setattr__(self, "signed", printable(self.signed)[:_TEXT])


@dataclass(slots=True)
class Tally:
    """What was counted in one half of a trial: in the shadow, or acting."""

    ticks: int = 0
    acted: int = 0
    """Ticks at which the executor that acts decided: in the shadow, the former one."""
    vetoed: int = 0
    """Ticks at which a router refused what it decided."""
    late: int = 0
    """Deadlines missed."""
    compared: int = 0
    """Decisions in the shadow."""
    over: int = 0
    """Those of them that took longer than the budget."""
    agreed: float = 0.0
    """The sum of their agreements with what was done."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An executor on its way, from `FETCHED` to `TRIAL`."""

    held: Held
    stage: Stage
    starts: int = 0
    """How many programs have begun its trial and not ended cleanly; counted before it is used."""
    shadow: Tally = field(default_factory=Tally)
    acting: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last update ended."""

    digest: str
    name: str
    stage: Stage
    reason: str
    """One word."""
    text: str
    """The same in a sentence."""

    def __post_init__(self) -> None:
        """Keep what can be printed, and written."""
        object.__setattr__(self, "name", printable(self.name)[:_NAME])
        object.__setattr__(self, "text", printable(self.text)[:_TEXT])


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a device remembers."""

    active: Held | None = None
    """The confirmed executor, with which a program starts; None on a new device."""
    former: Held | None = None
    """The one before it, in the other slot, until that is needed."""
    candidate: Candidate | None = None
    last: Outcome | None = None
    blacklist: Mapping[str, str] = field(default_factory=dict)
    """By digest, why an executor is not tried again."""

    @property
    def free(self) -> Slot:
        """The slot in which the active executor does not lie."""
        return "b" if self.active is not None and self.active.slot == "a" else "a"

    @property
    def waiting(self) -> Candidate | None:
        """What is staged or on trial; an update that was killed before that counts for nothing."""
        found = self.candidate
        return found if found is not None and found.stage in ("STAGED", "TRIAL") else None

    def advanced(self, candidate: Candidate) -> State:
        """Return the state with a candidate that came further."""
        return replace(self, candidate=candidate)

    def ended(self, outcome: Outcome, *, blacklisted: bool = False) -> State:
        """Return the state after an update that ended."""
        found = dict(self.blacklist)
        if blacklisted:
            found[outcome.digest] = outcome.text
        kept = dict(list(found.items())[-_REMEMBERED:])
        return replace(self, candidate=None, last=outcome, blacklist=kept)


def read_state(path: Path) -> State:
    """Read a state; where there is no file, that of a new device.

    Raises:
        LoadError: If the file cannot be read.
    """
    if not path.exists():
        return State()
    with loading(path):
        return _parsed(read_file(path, _LARGEST), path)


def write_state(path: Path, state: State) -> None:
    """Replace the state on disk, with one that is read as it was written.

    Raises:
        WriteError: If it cannot be written or read; the former one stays.
    """
    told = {"format": FORMAT, "schema": SCHEMA, **asdict(state)}
    try:
        data = json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False).encode()
        with loading(path):
            same = _parsed(data, path) == state
    except (LoadError, UnicodeError) as error:
        raise WriteError(f"{path} would not be read again: {error}") from error
    if not same:
        raise WriteError(f"{path} would be read as another state than {state!r:.300}.")
    write_atomic(path, data)


def _parsed(data: bytes, path: Path) -> State:
    fields = Fields(parse_json(data, path, limit=_LARGEST), str(path))
    if (fields.text("format"), fields.whole("schema")) != (FORMAT, SCHEMA):
        raise LoadError(f"it is not a {FORMAT} of schema {SCHEMA}")
    blacklist = fields.fields("blacklist")
    candidate, last = _optional(fields, "candidate"), _optional(fields, "last")
    return State(
        active=_held(_optional(fields, "active")),
        former=_held(_optional(fields, "former")),
        candidate=None if candidate is None else _candidate(candidate),
        last=None if last is None else _outcome(last),
        blacklist={each: blacklist.text(each) for each in fields.get("blacklist")},
    )


def to_json(state: State) -> dict[str, Any]:
    """Return a state as JSON values."""
    return asdict(state)


def _optional(fields: Fields, name: str) -> Fields | None:
    return None if fields.get(name) is None else fields.fields(name)


def _held(fields: Fields | None) -> Held | None:
    if fields is None:
        return None
    return Held(
        slot=cast(Slot, fields.choice("slot", get_args(Slot))),
        digest=fields.text("digest"),
        name=fields.text("name"),
        signed=fields.text("signed"),
        serial=fields.whole("serial"),
        anchor=fields.text("anchor", ""),
    )


def _candidate(fields: Fields) -> Candidate:
    held = _held(fields.fields("held"))
    assert held is not None
    stage = cast(Stage, fields.choice("stage", STAGES[:4]))
    halves = (_tally(fields.fields(name, {})) for name in ("shadow", "acting"))
    return Candidate(held, stage, fields.whole("starts"), *halves)


def _tally(fields: Fields) -> Tally:
    return Tally(
        ticks=fields.whole("ticks", 0),
        acted=fields.whole("acted", 0),
        vetoed=fields.whole("vetoed", 0),
        late=fields.whole("late", 0),
        compared=fields.whole("compared", 0),
        over=fields.whole("over", 0),
        agreed=fields.number("agreed", 0.0),
    )


def _outcome(fields: Fields) -> Outcome:
    return Outcome(
        digest=fields.text("digest"),
        name=fields.text("name"),
        stage=cast(Stage, fields.choice("stage", STAGES[4:])),
        reason=fields.text("reason"),
        text=fields.text("text"),
    )
