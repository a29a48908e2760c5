"""`agentkd device run`: a device that follows a fleet's server over MQTT."""

from __future__ import annotations

import sys
import time
from functools import partial

from agentkd.cli.broker import Broker, mqtt_options
from agentkd.device.device import Device
from agentkd.fleet.device import Follower
from agentkd.fleet.messages import Report
from agentkd.fleet.sharing import LEDGER, Sharing
from agentkd.interrupt import ctrl_c
from agentkd.printable import printable
from agentkd.transport.mqtt import MqttTransport

_TURN = 0.2


def follow(
    device: Device, address: str, site: str, name: str, broker: Broker, sharing: Sharing | None
) -> int:
    """Follow the server behind a broker until Ctrl-C or SIGTERM."""
    options = mqtt_options(address, broker)
    trust = "signed files alone" if device.signed else "unsigned files too, for there is no --trust"
    with ctrl_c() as ended:
        connect = partial(MqttTransport, options)
        follower = Follower(device, connect, site, name, sharing=sharing, seen=_show)
        if sharing is not None:
            what = ", ".join(sharing.leave) or "nothing"
            _say(f"{what} may leave, {sharing.per_hour:,} bytes an hour: {LEDGER}")
        _say(f"{name} of {site} at {address}, takes {trust}; Ctrl-C ends it.")
        with follower:
            while follower.alive and not ended():
                time.sleep(_TURN)
            failed = not follower.alive
    strange = sum(follower.strange.values())
    if strange:
        _say(f"{strange:,} messages were not what they should be, and were ignored.")
    return int(failed)


def _show(report: Report) -> None:
    """Print what is new."""
    acts = report.active[:12] or "nothing"
    words = [f"{report.phase:<11}", report.digest[:12], report.reason, report.text]
    told = " ".join(each for each in words if each)
    _say(f"{told.rstrip()} (starts with {acts}, connection {report.session})")


def _say(text: str) -> None:
    # rich would stay for months to print a line now and then.
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()
