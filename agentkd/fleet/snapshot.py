"""The state of a fleet as JSON, for a checkpoint in its trail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from agentkd.errors import LoadError
from agentkd.fields import Fields
from agentkd.fleet.known import OUTCOMES, Course, Known, Plan, Rollout, Target, read_plan
from agentkd.fleet.messages import Action
from agentkd.transport.names import device_name

_PLAIN = {each.name: each.default for each in fields(Known) if each.name != "name"}
_TEXTS = ("boot", "phase", "digest", "active", "reason", "text")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What cannot be worked out from the rest."""

    site: str
    devices: Mapping[str, Known]
    rollout: Rollout | None
    plans: Mapping[int, Plan]
    """By the number of a rollout."""
    former: tuple[str, ...]
    """Digests of what was delivered before."""

    def told(self) -> dict[str, Any]:
        """Return it as JSON has it; of a device what is not as in a new one."""
        rollout = None if self.rollout is None else _told(self.rollout)
        if rollout is not None:
            # It is among the plans.
            del rollout["plan"]
        return {
            "site": self.site,
            "devices": [_device(each) for each in self.devices.values()],
            "rollout": rollout,
            "plans": {str(number): _told(plan) for number, plan in self.plans.items()},
            "former": list(self.former),
        }


def read_snapshot(held: Fields) -> Snapshot:
    """Read a snapshot.

    Raises:
        LoadError: If it is none.
    """
    devices = {each.name: each for each in map(_known, held.objects("devices"))}
    told, plans = held.fields("plans"), dict[int, Plan]()
    for number in held.get("plans"):
        if not number.isdecimal() or len(number) > 18:
            raise LoadError(f"{number[:80]!r} is no number of a rollout.")
        plans[int(number)] = read_plan(told.fields(number))
    rollout = None
    if held.get("rollout") is not None:
        found = held.fields("rollout")
        number = found.whole("number")
        if number not in plans:
            raise LoadError(f"The rollout of line {number} has no plan.")
        ended = None if found.get("ended") is None else found.number("ended")
        course: Course = _one_of(found, "course", get_args(Course))
        wave = found.whole("wave", least=-1, most=len(plans[number].waves) - 1)
        rollout = Rollout(
            *(number, plans[number], found.text("by"), found.number("began"), course, wave),
            *(found.number("wave_began"), found.text("text"), ended),
        )
    return Snapshot(held.text("site"), devices, rollout, plans, held.texts("former"))


def _device(device: Known) -> dict[str, Any]:
    told = {name: getattr(device, name) for name in _PLAIN}
    if device.target is not None:
        told["target"] = _told(device.target)
    return {"name": device.name} | {
        name: value for name, value in told.items() if value != _PLAIN[name]
    }


def _known(told: Fields) -> Known:
    found: dict[str, Any] = {name: told.text(name, _PLAIN[name]) for name in _TEXTS}
    found |= {name: told.whole(name, 0) for name in ("session", "seen", "asked")}
    found |= {name: told.flag(name, False) for name in ("online", "begun", "outbid")}
    found |= {n: _one_of(told, n, OUTCOMES) for n in ("end", "outcome") if n in told}
    if "clock" in told:
        found["clock"] = told.number("clock")
    if "target" in told:
        target = told.fields("target")
        action = _one_of(target, "action", get_args(Action))
        found["target"] = Target(target.whole("revision"), action, target.whole("rollout"))
    return Known(device_name(told.text("name")), **found)


def _told(value: Any) -> dict[str, Any]:
    """Return a value's fields as JSON has them."""
    return {
        name: list(each) if isinstance(each, tuple) else each
        for name, each in asdict(value).items()
    }


def _one_of(told: Fields, name: str, known: tuple[Any, ...]) -> Any:
    """Return one of a Literal's words."""
    return told.choice(name, known)
