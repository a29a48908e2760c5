"""What a fleet's rollout looks like: a table, live or once."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agentkd.fleet.decisions import waits
from agentkd.fleet.known import FAILURES, OUTCOMES, Known, Outcome, Rollout
from agentkd.fleet.rollout import Fleet

_EACH = 40
"""Devices up to which each has a line of its own."""
_TOLD = 10
"""Devices that failed of which a table says why."""
_STYLE = {"confirmed": "green", "pending": "cyan", "later": "dim", "absent": "yellow"}


def shown(fleet: Fleet, now: float) -> RenderableType:
    """Return a fleet's state as a table."""
    rollout = fleet.rollout
    parts: list[RenderableType] = []
    if rollout is not None:
        parts += [_heading(rollout), Text(waits(fleet, now)), _bar(fleet), _counts(fleet)]
    else:
        parts.append(Text(waits(fleet, now)))
    few = len(fleet.devices) <= _EACH
    devices = list(fleet.devices.values()) if few else _failed(fleet)
    if devices:
        parts.append(_devices(sorted(devices, key=lambda each: each.name)))
    told = f"{len(fleet.devices):,} devices, {fleet.online:,} on line"
    foot = f"{told}; line {fleet.number:,} of the audit trail"
    return Group(*parts, Text(foot, "dim"))


def line(fleet: Fleet, now: float) -> str:
    """Return a fleet's state as one line."""
    rollout = fleet.rollout
    if rollout is None:
        return waits(fleet, now)
    counts = ", ".join(f"{fleet.counts[each]} {each}" for each in OUTCOMES if fleet.counts[each])
    return f"{_took(rollout, now)}  {counts}. {waits(fleet, now)}"


def _took(rollout: Rollout, now: float) -> str:
    seconds = max(0.0, (rollout.ended if rollout.ended is not None else now) - rollout.began)
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _heading(rollout: Rollout) -> Text:
    plan = rollout.plan
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(rollout.began))
    return Text.assemble(
        (f"{plan.name} {plan.digest[:12]}", "bold"),
        f"  {plan.signed or 'signature not checked here'}\n",
        (f"pushed {began} by {rollout.by}", "dim"),
    )


def _bar(fleet: Fleet) -> RenderableType:
    total = max(1, len(fleet.devices))
    grid = Table.grid()
    grid.add_row(ProgressBar(total=total, completed=fleet.counts["confirmed"], width=60))
    return grid


def _counts(fleet: Fleet) -> Text:
    words = [
        (f"{fleet.counts[each]:,} {each}   ", _style(each))
        for each in OUTCOMES
        if fleet.counts[each] or each == "confirmed"
    ]
    return Text.assemble(*words)


def _style(outcome: Outcome) -> str:
    return _STYLE.get(outcome, "red")


def _failed(fleet: Fleet) -> list[Known]:
    found = [each for each in fleet.devices.values() if each.outcome in FAILURES]
    return found[:_TOLD]


def _why(device: Known) -> str:
    return f"{device.reason}: {device.text}" if device.reason else ""


def _devices(devices: list[Known]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("device", "", "rollout", "phase", "acts with", "why"):
        # Where there is little room, the last one gives way.
        table.add_column(name, no_wrap=name != "why")
    for each in devices:
        table.add_row(
            Text(each.name),
            Text("on line", "green") if each.online else Text("off line", "yellow"),
            Text(each.outcome, _style(each.outcome)),
            Text(each.phase),
            Text(each.active[:12]),
            Text(_why(each), no_wrap=True, overflow="ellipsis"),
        )
    return table
