"""`agentkd device run`: a device that follows a fleet's server over MQTT."""

from __future__ import annotations

import sys
import time
from functools import partial

from rich.text import Text

from agentkd.cli.broker import Broker, mqtt_options
from agentkd.cli.terminal import Console
from agentkd.device.device import Device
from agentkd.fleet.device import Follower
from agentkd.fleet.messages import Report
from agentkd.fleet.sharing import LEDGER, Sharing
from agentkd.interrupt import ctrl_c
from agentkd.transport.mqtt import MqttTransport

_TURN = 0.2


def follow(
    device: Device, address: str, site: str, name: str, broker: Broker, sharing: Sharing | None
) -> int:
    """Follow the server behind a broker until Ctrl-C or SIGTERM."""
    options = mqtt_options(address, broker)
    console = Console()
    trust = "signed files alone" if device.signed else "unsigned files too, for there is no --trust"
    with ctrl_c() as ended:
        connect = partial(MqttTransport, options)
        seen = partial(_show, console)
        follower = Follower(device, connect, site, name, sharing=sharing, seen=seen)
        if sharing is not None:
            what = ", ".join(sharing.leave) or "nothing"
            _say(console, f"{what} may leave, {sharing.per_hour:,} bytes an hour: {LEDGER}")
        _say(console, f"{name} of {site} at {address}, takes {trust}; Ctrl-C ends it.")
        with follower:
            while follower.alive and not ended():
                time.sleep(_TURN)
            failed = not follower.alive
    strange = sum(follower.strange.values())
    if strange:
        _say(console, f"{strange:,} messages were not what they should be, and were ignored.")
    return int(failed)


def _show(console: Console, report: Report) -> None:
    """Print what is new."""
    acts = report.active[:12] or "nothing"
    words = [f"{report.phase:<11}", report.digest[:12], report.reason, report.text]
    told = " ".join(each for each in words if each)
    _say(console, f"{told.rstrip()} (starts with {acts}, connection {report.session})")


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
    sys.stdout.flush()
