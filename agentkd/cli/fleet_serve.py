"""`agentkd fleet serve`: the process between a fleet's folder and its broker."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from agentkd.cli import broker as cli_broker
from agentkd.cli.terminal import Console
from agentkd.extras import needing
from agentkd.fleet.audit import AuditLog
from agentkd.fleet.office import Office, told
from agentkd.fleet.server import DESCRIBED, Server, alone, filters
from agentkd.fleet.setup import Broker, read_broker
from agentkd.interrupt import ctrl_c
from agentkd.transport.transport import Connect

_TURN = 0.3


def connection(broker: Broker) -> Connect:
    """Return what makes lines to the broker that was set up."""
    how = cli_broker.Broker(tls_ca=broker.ca, tls_cert=broker.cert, tls_key=broker.key)
    return _connection(broker.address, how)


def _connection(address: str, how: cli_broker.Broker) -> Connect:
    with needing("A fleet's broker"):
        from agentkd.transport.mqtt import MqttTransport
    # With an identifier of its own, any client could take the server's place at the broker.
    return partial(MqttTransport, cli_broker.mqtt_options(address, how))


def serve(
    folder: Path, address: str | None, how: cli_broker.Broker, metrics_port: int | None
) -> int:
    """Serve a folder until a signal ends it."""
    console, office, trail = Console(), Office(folder), AuditLog(folder)
    # What was decided before is not told again.
    deque(trail.read(), maxlen=0)
    site = office.fleet.site
    if address is None:
        broker = read_broker(folder)
        address, connect = broker.address, connection(broker)
    else:
        connect = _connection(address, how)
    with alone(folder), contextlib.ExitStack() as stack, ctrl_c() as ended:
        server_is: list[Server] = []
        if metrics_port is not None:
            with needing("--metrics-port"):
                from agentkd.runtime.exposition import PrometheusServer

            def source() -> dict[str, Any]:
                return server_is[0].metrics() if server_is else {}

            stack.enter_context(PrometheusServer(source, metrics_port, described=DESCRIBED))
            console.print(f"metrics: http://127.0.0.1:{metrics_port}/metrics")
        console.print(f"{site}: serving {folder} at {address}; Ctrl-C ends it", soft_wrap=True)
        sys.stdout.flush()
        tell = partial(_tell, trail, console, ended)
        asyncio.run(_serve(office, connect, server_is, tell))
    return 0


async def _serve(
    office: Office,
    connect: Connect,
    server_is: list[Server],
    tell: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Serve until `tell` ends, or the server does by an error."""
    line = connect(*filters(office.fleet.site))
    server = Server(office, line)
    server_is.append(server)
    serving = asyncio.create_task(server.run())
    telling = asyncio.create_task(tell())
    try:
        done, _ = await asyncio.wait({serving, telling}, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in (serving, telling):
            each.cancel()
        await asyncio.gather(serving, telling, return_exceptions=True)
        await line.aclose()


async def _tell(trail: AuditLog, console: Console, ended: Callable[[], bool]) -> None:
    """Print what is decided, until a signal comes; what devices report is in the trail."""
    while not ended():
        for entry in await asyncio.to_thread(lambda: list(trail.read())):
            if entry.event["what"] != "device":
                console.print(told(entry.event), soft_wrap=True)
                sys.stdout.flush()
        await asyncio.sleep(_TURN)
