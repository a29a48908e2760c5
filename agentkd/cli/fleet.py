"""`agentkd fleet`: signed executors for many devices, in waves."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.live import Live
from rich.text import Text

from agentkd.cli.broker import UNGUARDED, Broker
from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError
from agentkd.extras import needing

Action = Literal[
    "setup",
    "serve",
    "push",
    "status",
    "watch",
    "pause",
    "resume",
    "rollback",
    "audit",
    "label",
    "answer",
    "demo",
]
_EVERY = 0.5
"""Seconds between two looks of `watch`."""
_LINE_EVERY = 5.0
_TAKES: dict[str, tuple[str, ...]] = {
    "setup": ("site", "broker_name", "port", "devices"),
    "serve": ("broker", "metrics_port", "collect"),
    "push": ("waves", "sample", "abort", "limit", "back"),
    "audit": ("since", "json", "key"),
    "label": ("planner", "out", "most", "share"),
    "answer": ("planner", "out", "broker"),
    "demo": ("executor", "landers"),
}
"""The options of each action; some go with several."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Deliver executors to many devices, in waves, and stop by itself where one is bad.

    setup makes the server's folder, a configuration for mosquitto, and certificates. serve is the
    one process that talks to the broker. push begins a rollout; pause, resume and rollback act on
    it. They write into the folder's audit trail, which serve follows. status prints the state,
    watch shows it live until the rollout is over, audit verifies the trail and prints it. label
    asks a planner about the observations that devices sent, and writes labels for agentkd distill
    --data. answer serves a planner to the devices. demo shows rollouts, on this machine.
    """

    action: tyro.conf.Positional[Action]
    """setup, serve, push, status, watch, pause, resume, rollback, audit, label, answer or demo."""
    folder: tyro.conf.Positional[Path | None] = None
    """The server's folder; for demo by default one in runs/."""
    file: tyro.conf.Positional[Path | None] = None
    """For push, the executor file; its proof lies beside it."""
    site: str | None = None
    """For setup, the name of the fleet, the second part of its topics; by default that of the
    folder."""
    broker_name: str | None = None
    """For setup, the host's name or address by which devices call the broker; without it, a broker
    for this machine alone, without certificates."""
    port: int | None = None
    """For setup, the broker's port; by default 8883, or 1883 without certificates."""
    devices: str | None = None
    """For setup, names of devices that get a certificate, separated by commas."""
    broker: str | None = None
    """For serve and answer, the address of another broker than the one that was set up:
    mqtt://HOST:PORT, or mqtts://HOST:PORT with TLS."""
    how: tyro.conf.OmitArgPrefixes[Broker] = UNGUARDED
    """With --broker, how to connect to it."""
    metrics_port: int | None = None
    """For serve, serve metrics for Prometheus at http://127.0.0.1:PORT/metrics."""
    collect: bool = False
    """For serve, keep the observations that devices send."""
    planner: str | None = None
    """For label and answer, the planner: a save, a policy file, a folder with one, or
    module:attribute."""
    out: Path | None = None
    """For label, the folder for the labels; for answer, one in which each start makes a folder for
    the labels of what is asked, if they are wanted."""
    most: int | None = None
    """For label, how many observations at most; by default 20,000."""
    share: float | None = None
    """For label, the share of them that one of many devices may give; by default 0.1."""
    waves: str | None = None
    """For push, the per cent of the devices that are asked in each wave and those before it; by
    default 5,25,100."""
    sample: int | None = None
    """For push, how many devices have to come to an end before anything is judged; by default 5."""
    abort: tuple[str, ...] = ()
    """For push, the share of each kind of failure above which the rollout is aborted: by default
    refused=0.1 rolled-back=0.05 timed-out=0.2."""
    limit: float | None = None
    """For push, the seconds that a device may take, from when it was asked and on line; by default
    900."""
    back: bool = False
    """For push, let an abort also roll back the devices that took it."""
    since: str | None = None
    """For audit, print what is from here on: a line's number, or a time such as
    2026-11-29T20:00."""
    json: bool = False
    """For audit, print each event as a line of JSON."""
    key: Path | None = None
    """For audit, a copy of audit.pub that was kept elsewhere; by default the folder's."""
    executor: Path | None = None
    """For demo, the LunarLander-v3 executor that flies at the beginning; by default
    policies/lunarlander/executor.akd."""
    landers: int | None = None
    """For demo, how many; by default 20."""


def run(options: Options) -> int:
    """Do what is asked."""
    _check(options)
    with needing(f"agentkd fleet {options.action}"):
        import cryptography  # noqa: F401 (all of it is signed)
    if options.action == "demo":
        from agentkd.cli.fleet_demo import demo

        return demo(options.folder, options.executor, options.landers)
    if options.folder is None:
        raise ConfigError(f"fleet {options.action} takes the server's folder.")
    if options.action == "setup":
        return _setup(options, options.folder)
    if options.action == "serve":
        from agentkd.cli.fleet_serve import serve

        return serve(
            options.folder,
            options.broker,
            options.how,
            options.metrics_port,
            collect=options.collect,
        )
    if options.action in ("label", "answer"):
        return _with_planner(options, options.folder)
    if options.action == "audit":
        return _audit(options, options.folder)
    return _act(options, options.folder)


def _check(options: Options) -> None:
    """Raise ConfigError for an option that goes with another action."""
    mine = _TAKES.get(options.action, ())
    for name in dict.fromkeys(name for names in _TAKES.values() for name in names):
        if name not in mine and getattr(options, name) not in (None, (), False):
            flag = name.replace("_", "-")
            whose = " or ".join(action for action, names in _TAKES.items() if name in names)
            raise ConfigError(f"--{flag} goes with fleet {whose}, not fleet {options.action}.")
    if options.file is not None and options.action != "push":
        raise ConfigError(f"fleet {options.action} takes a folder; {options.file} is one too many.")
    if options.how != UNGUARDED and options.broker is None:
        raise ConfigError("--tls-ca, --user and their like go with --broker.")
    for name in ("port", "metrics_port"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 65536:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: from 1 to 65535.")


def _with_planner(options: Options, folder: Path) -> int:
    from agentkd.cli.fleet_planner import answer, label

    if options.planner is None:
        raise ConfigError(f"fleet {options.action} needs --planner.")
    if options.action == "answer":
        return answer(folder, options.planner, options.out, options.broker, options.how)
    if options.out is None:
        raise ConfigError("fleet label needs --out, the folder for the labels.")
    most = 20_000 if options.most is None else options.most
    share = 0.1 if options.share is None else options.share
    return label(folder, options.planner, options.out, most, share)


def _setup(options: Options, folder: Path) -> int:
    from agentkd.fleet.setup import begin, local, secure

    console = Console()
    site = options.site
    if site is None:
        site = _site(folder)
    devices = [each.strip() for each in (options.devices or "").split(",") if each.strip()]
    if devices and options.broker_name is None:
        raise ConfigError(
            f"--devices {options.devices}: certificates are for a broker; give its --broker-name."
        )
    if begin(folder, site):
        console.print(f"{folder}: the fleet {site}; keep its audit.pub apart", soft_wrap=True)
    if options.broker_name is None:
        file = local(folder, options.port or 1883)
        console.print(f"for this machine alone: mosquitto -c {file}", soft_wrap=True)
    else:
        made = secure(folder, options.broker_name, options.port or 8883, devices)
        file = folder / "broker" / "mosquitto.conf"
        console.print(f"broker: mosquitto -c {file}", soft_wrap=True)
        for home in made:
            console.print(f"{home.name}: copy {home} to it, and nowhere else", soft_wrap=True)
        if made:
            address = f"mqtts://{options.broker_name}:{options.port or 8883}"
            words = (
                "--tls-ca ca.pem --tls-cert device.pem --tls-key device.key --trust root.json "
                "--folder FOLDER"
            )
            text = f"there:    agentkd device run {address} --site {site} --device NAME {words}"
            console.print(text, soft_wrap=True)
    root = folder / "root.json"
    if not root.exists():
        text = f"{root} is missing: without it, what is pushed need not be signed"
        console.print(Text(text, "yellow"), soft_wrap=True)
    console.print(f"next:     agentkd fleet serve {folder}", soft_wrap=True)
    return 0


def _site(folder: Path) -> str:
    from agentkd.fleet.audit import NAME
    from agentkd.fleet.office import Office

    return Office(folder).fleet.site if (folder / NAME).exists() else folder.resolve().name


def _act(options: Options, folder: Path) -> int:
    from agentkd.cli.fleet_table import shown
    from agentkd.fleet.office import Office

    console, office = Console(), Office(folder)
    if options.action == "push":
        if options.file is None:
            raise ConfigError("fleet push takes the server's folder and an executor file.")
        plan = office.push(options.file, **_conditions(options))
        signed = plan.signed or f"signature not checked: {folder} has no root.json"
        console.print(f"{plan.name} {plan.digest[:12]}: {signed}", soft_wrap=True)
        console.print(f"next:     agentkd fleet watch {folder}", soft_wrap=True)
        return 0
    if options.action == "watch":
        return _watch(folder, console)
    if options.action in ("pause", "resume", "rollback"):
        office.command(options.action)
    console.print(shown(office.fleet, time.time()))
    return 0


def _conditions(options: Options) -> dict[str, Any]:
    """Return the fields of a plan that were given."""
    found: dict[str, Any] = {"back": options.back}
    for name in ("sample", "limit"):
        if getattr(options, name) is not None:
            found[name] = getattr(options, name)
    if options.waves is not None:
        try:
            found["waves"] = tuple(float(each) for each in options.waves.split(","))
        except ValueError:
            raise ConfigError(
                f"--waves {options.waves!r}: numbers with commas between them, such as 5,25,100."
            ) from None
    if options.abort:
        from agentkd.fleet.known import ABORT

        found["abort"] = {**ABORT, **dict(_share(each) for each in options.abort)}
    return found


def _share(word: str) -> tuple[str, float]:
    kind, _, value = word.partition("=")
    try:
        return kind, float(value)
    except ValueError:
        raise ConfigError(f"--abort {word!r}: KIND=SHARE, such as rolled-back=0.05.") from None


def _watch(folder: Path, console: Console) -> int:
    """Show the state until the rollout is over; 0 if it is finished, 1 if it was given up."""
    from agentkd.cli.fleet_table import line, shown
    from agentkd.fleet.office import Office

    office = Office(folder)
    live = Live(console=console, auto_refresh=False) if console.is_interactive else None
    told = -_LINE_EVERY
    if live is not None:
        live.start()
    try:
        while True:
            office.look()
            rollout, now = office.fleet.rollout, time.time()
            over = rollout is not None and rollout.course not in ("running", "paused")
            if live is not None:
                live.update(shown(office.fleet, now), refresh=True)
            elif over or time.monotonic() - told >= _LINE_EVERY:
                console.print(line(office.fleet, now), soft_wrap=True)
                sys.stdout.flush()
                told = time.monotonic()
            if over:
                assert rollout is not None
                return 0 if rollout.course == "finished" else 1
            time.sleep(_EVERY)
    finally:
        if live is not None:
            live.stop()


def _audit(options: Options, folder: Path) -> int:
    """Verify each line, then print those that are asked for."""
    from agentkd.fleet.audit import AuditLog
    from agentkd.fleet.office import told
    from agentkd.fleet.rollout import Fleet

    console = Console()
    trail = AuditLog(folder, options.key)
    first, earliest = _since(options.since)
    last, count, fleet = None, 0, Fleet()
    for entry in trail.everything():
        # A checkpoint has to be what the lines before it make.
        fleet.apply(entry)
        last, count = entry, count + 1
        if entry.number < first or entry.time < earliest:
            continue
        if options.json:
            told_all = {"number": entry.number, "time": entry.time, **entry.event}
            print(json.dumps(told_all))  # noqa: T201 (JSON, not for a reader)
            continue
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.time))
        console.print(
            Text.assemble((f"{entry.number:>6}  {at}  ", "dim"), told(entry.event)), soft_wrap=True
        )
    if options.json:
        return 0
    for begin, end in trail.absent:
        text = f"lines {begin:,} to {end:,} are not here; the checkpoint after them stands for them"
        console.print(Text(text, "yellow"), soft_wrap=True)
    if trail.torn:
        text = f"{trail.torn} bytes of an unfinished line follow; the next writer cuts them off"
        console.print(Text(text, "yellow"))
    assert last is not None
    console.print(
        f"{count:,} lines verified, up to line {last.number:,}; its SHA-256 is {last.digest}",
        soft_wrap=True,
    )
    return 0


def _since(word: str | None) -> tuple[int, float]:
    """Return the number of the first line and the earliest time."""
    if word is None:
        return 0, 0.0
    if word.isdecimal():
        return int(word), 0.0
    try:
        found = datetime.fromisoformat(word)
    except ValueError:
        raise ConfigError(
            f"--since {word!r}: a line's number, or a time such as 2026-11-29T20:00, in UTC."
        ) from None
    return 0, (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
