"""`agentkd device`: the gate through which an executor gets onto a device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from agentkd.cli.broker import UNGUARDED, Broker
from agentkd.device.device import Device
from agentkd.device.slots import file_digest
from agentkd.device.state import Held, State
from agentkd.device.watch import Watch
from agentkd.errors import ConfigError
from agentkd.fleet.sharing import Sharing
from agentkd.signing.store import TrustStore

if TYPE_CHECKING:
    from agentkd.cli.terminal import Console

Action = Literal["apply", "status", "wait", "confirm", "rollback", "watch", "run"]
_LOOK = 0.5
"""Seconds between two looks at a state that is waited for."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Let an executor onto a device, and see, confirm or roll back what is on it.

    apply takes an executor file from FETCHED over VERIFIED to STAGED. The robot's own program tries
    it from there: TRIAL, then CONFIRMED or ROLLED_BACK. watch does that with each new version that
    a signed repository has, in a folder or behind an HTTP address. wait ends with the trial, in
    status 0 if the executor was confirmed and 1 if not. Given a file, wait and rollback are about
    that one: rollback does nothing if it neither acts nor waits.

    run follows a fleet's server over an MQTT broker, until Ctrl-C: it fetches what the server
    desires for this device, in chunks, takes it through the same gate, and reports how far it came.
    It runs beside the robot's own program, which tries what is staged. Lost connections are made
    again, and what was fetched is kept. --user, --password-file and the --tls options say how to
    connect: with TLS to mqtts://HOST:8883, without it to mqtt://HOST:1883.

    Example: agentkd device apply executor.akd --folder device --trust root.json

    Example: agentkd device run mqtts://broker:8883 --folder device --trust root.json --site plant
    --device arm-7 --tls-ca ca.pem --tls-cert arm-7.pem --tls-key arm-7.key
    """

    action: tyro.conf.Positional[Action]
    """apply, status, wait, confirm, rollback, watch or run."""
    what: tyro.conf.Positional[str | None] = None
    """For apply, wait and rollback, the executor file; for watch, the repository; for run, the
    broker."""
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
    site: str | None = None
    """For run, the name of the fleet."""
    device: str | None = None
    """For run, the name of this device in it."""
    share: str | None = None
    """For run, what may leave the device of what the robot's program noted: observations, and
    names of its metrics, separated by commas; by default nothing."""
    share_per_hour: int | None = None
    """For run with --share, bytes that may leave in an hour; by default 100,000."""
    broker: tyro.conf.OmitArgPrefixes[Broker] = UNGUARDED
    """For run, how to connect."""


def run(options: Options) -> int:
    """Do what is asked, and print the device's state."""
    _check(options)
    action, what = options.action, options.what
    # What runs for months does not hold the libraries that check signatures.
    trust = None if options.trust is None else TrustStore(options.trust, apart=action == "run")
    device = Device(options.folder, trust=trust)
    if action == "run":
        from agentkd.cli.device_run import follow

        assert what is not None
        names = str(options.site), str(options.device)
        return follow(device, what, *names, options.broker, _sharing(options))
    from agentkd.cli.terminal import Console

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
        state = device.rollback(None if what is None else file_digest(what))
    elif action == "wait":
        return _wait(device, what, options.seconds, console)
    else:
        state = device.status()
    show(state, console)
    starting = device.starting()
    if state.active is not None and starting != state.active:
        what = f"{_held(starting)}, for {state.active.name} is damaged or unsigned"
        _print(console, "starts with", what)
    return 0


def _check(options: Options) -> None:
    """Raise ConfigError for options that do not go together."""
    action, what = options.action, options.what
    needed = {"apply": "an executor file", "watch": "a repository", "run": "a broker"}
    if (action in needed) if what is None else (action in ("status", "confirm")):
        wanted = needed.get(action, "nothing else")
        raise ConfigError(f"device {action} takes {wanted}, and {what!r} was given.")
    if options.again and action != "apply":
        raise ConfigError(f"--again goes with apply, not {action}.")
    if options.every is not None and (action != "watch" or not options.every > 0):
        raise ConfigError(f"--every {options.every}: above 0, and with watch.")
    if not options.seconds >= 0:
        raise ConfigError(f"--seconds {options.seconds}: at least 0.")
    if action == "run" and None in (options.site, options.device):
        raise ConfigError("device run takes the fleet's name, --site, and the device's, --device.")
    of_run = (options.site, options.device, options.share, options.broker)
    if action != "run" and of_run != (None, None, None, UNGUARDED):
        raise ConfigError(
            f"--site, --device, --share and the broker's options go with run, not {action}."
        )
    if options.share_per_hour is not None and options.share is None:
        raise ConfigError("--share-per-hour goes with --share, which says what may leave.")
    if action in ("status", "wait") and not options.folder.is_dir():
        raise ConfigError(f"--folder {options.folder} is not a folder.")


def _sharing(options: Options) -> Sharing | None:
    """Return what may leave the device."""
    if options.share is None:
        return None
    leave = tuple(each.strip() for each in options.share.split(",") if each.strip())
    per_hour = options.share_per_hour
    return Sharing(leave) if per_hour is None else Sharing(leave, per_hour)


def _wait(device: Device, file: str | None, seconds: float, console: Console) -> int:
    """Wait until an executor, that of a file or what waits now, is confirmed or is not."""
    end = time.monotonic() + seconds
    state = device.status()
    digest = "" if file is None else file_digest(file)
    if not digest and state.waiting is not None:
        digest = state.waiting.held.digest
    while _waits(state, digest) and time.monotonic() < end:
        time.sleep(_LOOK)
        state = device.status()
    show(state, console)
    if digest:
        return int(state.active is None or state.active.digest != digest)
    return int(state.last is None or state.last.stage != "CONFIRMED")


def _waits(state: State, digest: str) -> bool:
    return state.waiting is not None and state.waiting.held.digest == digest


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
        _print(console, name, text)


def _print(console: Console, name: str, text: str) -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{name:<12}", "dim"), text), soft_wrap=True)


def _held(held: Held | None) -> str:
    if held is None:
        return "nothing"
    return f"{held.name} {held.digest[:12]}, {held.signed or 'unsigned'}"
