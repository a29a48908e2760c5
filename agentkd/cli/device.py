"""`agentkd device`: the gate through which an executor gets onto a device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.device.device import Device
from agentkd.device.state import Held, State
from agentkd.device.watch import Watch
from agentkd.errors import ConfigError

Action = Literal["apply", "status", "wait", "confirm", "rollback", "watch"]
_LOOK = 0.5
"""Seconds between two looks at a state that is waited for."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Let an executor onto a device, and see, confirm or roll back what is on it.

    apply takes an executor file from FETCHED over VERIFIED to STAGED. The robot's own program tries
    it from there: TRIAL, then CONFIRMED or ROLLED_BACK. watch does that with each new version that
    a signed repository has, in a folder or behind an HTTP address. wait ends with the trial, in
    status 0 if the executor was confirmed and 1 if not.
    """

    action: tyro.conf.Positional[Action]
    """apply, status, wait, confirm, rollback or watch."""
    what: tyro.conf.Positional[str | None] = None
    """For apply, the executor file; for watch, the repository."""
    folder: Path
    """The device's own folder."""
    trust: Path | None = None
    """The root.json of the repository whose signatures are trusted; without it, unsigned files are
    taken."""
    again: bool = False
    """For apply, take the file off the blacklist."""
    name: str = "executor.akd"
    """For watch, what the executor is signed as."""
    every: float | None = None
    """For watch, look again after so many seconds, until Ctrl-C; by default once."""
    seconds: float = 600.0
    """For wait, the longest time."""


def run(options: Options) -> int:
    """Do what is asked, and print the device's state."""
    action, what = options.action, options.what
    if (what is None) == (action in ("apply", "watch")):
        wanted = {"apply": "an executor file", "watch": "a repository"}.get(action, "nothing else")
        raise ConfigError(f"device {action} takes {wanted}, and {what!r} was given.")
    if options.again and action != "apply":
        raise ConfigError(f"--again goes with apply, not {action}.")
    if options.every is not None and (action != "watch" or not options.every > 0):
        raise ConfigError(f"--every {options.every}: above 0, and with watch.")
    if not options.seconds >= 0:
        raise ConfigError(f"--seconds {options.seconds}: at least 0.")
    if action in ("status", "wait") and not options.folder.is_dir():
        raise ConfigError(f"--folder {options.folder} is not a folder.")
    device = Device(options.folder, trust=options.trust)
    console = Console()
    if action == "watch":
        assert what is not None
        return _watch(device, what, options, console)
    if action == "apply":
        assert what is not None
        state = device.apply(what, again=options.again)
    elif action == "confirm":
        state = device.confirm()
    elif action == "rollback":
        state = device.rollback()
    else:
        state = device.status()
    if action == "wait":
        state = _awaited(device, options.seconds)
    show(state, console)
    return int(action == "wait" and not _succeeded(state))


def _awaited(device: Device, seconds: float) -> State:
    """Return the state once nothing is staged or on trial any more, or the time is over."""
    end = time.monotonic() + seconds
    while (state := device.status()).waiting is not None and time.monotonic() < end:
        time.sleep(_LOOK)
    return state


def _succeeded(state: State) -> bool:
    """Return whether the last update ended well, and none is under way."""
    return state.waiting is None and state.last is not None and state.last.stage == "CONFIRMED"


def _watch(device: Device, address: str, options: Options, console: Console) -> int:
    watch = Watch(device, address, options.name)
    while True:
        text = watch.look()
        if text:
            console.print(text, soft_wrap=True)
        if options.every is None:
            show(device.status(), console)
            return 1 if watch.failed else 0
        time.sleep(options.every)


def show(state: State, console: Console) -> None:
    """Print a device's state, a line for each executor."""
    lines = [("acts", _held(state.active))]
    if state.former is not None:
        lines.append(("before it", _held(state.former)))
    if state.candidate is not None:
        candidate = state.candidate
        started = f", {candidate.starts} programs began its trial" if candidate.starts else ""
        lines.append((candidate.stage, f"{_held(candidate.held)}{started}"))
    if state.last is not None:
        last = state.last
        lines.append(("last", f"{last.name} {last.digest[:12]} {last.stage}: {last.text}"))
    lines += [("blacklisted", f"{each[:12]}: {why}") for each, why in state.blacklist.items()]
    for name, text in lines:
        console.print(Text.assemble((f"{name:<12}", "dim"), text), soft_wrap=True)


def _held(held: Held | None) -> str:
    if held is None:
        return "nothing"
    return f"{held.name} {held.digest[:12]}, {held.signed or 'unsigned'}"
