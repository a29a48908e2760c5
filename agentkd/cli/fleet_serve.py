"""`agentkd fleet serve`: the process between a fleet's folder and its broker."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agentkd.cli import broker as cli_broker
from agentkd.cli.terminal import Console
from agentkd.extras import needing
from agentkd.fleet.audit import Entry
from agentkd.fleet.knowledge import FOLDER, Knowledge
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


def broker_of(folder: Path, address: str | None, how: cli_broker.Broker) -> tuple[str, Connect]:
    """Return the broker's address, of the folder if none is given, and what makes lines to it."""
    if address is not None:
        return address, _connection(address, how)
    broker = read_broker(folder)
    return broker.address, connection(broker)


def serve(
    folder: Path,
    address: str | None,
    how: cli_broker.Broker,
    metrics_port: int | None,
    *,
    collect: bool = False,
) -> int:
    """Serve a folder until a signal ends it."""
    console, office = Console(), Office(folder)
    site = office.fleet.site
    address, connect = broker_of(folder, address, how)
    knowledge = Knowledge(folder) if collect else None
    with alone(folder), contextlib.ExitStack() as stack, ctrl_c() as ended:
        server_is: list[Server] = []
        if metrics_port is not None:
            with needing("--metrics-port"):
                from agentkd.runtime.exposition import PrometheusServer

            def source() -> dict[str, Any]:
                return server_is[0].metrics() if server_is else {}

            stack.enter_context(PrometheusServer(source, metrics_port, described=DESCRIBED))
            console.print(f"metrics: http://127.0.0.1:{metrics_port}/metrics")
        if collect:
            console.print(f"what devices send is kept in {folder / FOLDER}", soft_wrap=True)
        console.print(f"{site}: serving {folder} at {address}; Ctrl-C ends it", soft_wrap=True)
        sys.stdout.flush()
        tell = partial(_tell, console)
        asyncio.run(_serve(office, connect, knowledge, server_is, tell, ended))
    return 0


async def _serve(
    office: Office,
    connect: Connect,
    knowledge: Knowledge | None,
    server_is: list[Server],
    tell: Callable[[Sequence[Entry]], None],
    ended: Callable[[], bool],
) -> None:
    """Serve until a signal comes, or the server ends by an error."""
    line = connect(*filters(office.fleet.site, collect=knowledge is not None))
    server = Server(office, line, knowledge=knowledge, told=tell)
    server_is.append(server)
    serving = asyncio.create_task(server.run())
    try:
        while not ended() and not serving.done():
            await asyncio.wait({serving}, timeout=_TURN)
        if serving.done():
            await serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await line.aclose()


def _tell(console: Console, entries: Sequence[Entry]) -> None:
    """Print what is decided; what devices report is in the trail."""
    for entry in entries:
        if entry.event["what"] != "device":
            console.print(told(entry.event), soft_wrap=True)
            sys.stdout.flush()
