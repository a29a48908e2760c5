"""`agentkd fleet serve`: the process between a fleet's folder and its broker."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path

from agentkd.cli.terminal import Console
from agentkd.extras import needing
from agentkd.fleet.office import Office, told
from agentkd.fleet.server import DESCRIBED, Server, alone, filters
from agentkd.fleet.setup import Broker, read_broker
from agentkd.transport.transport import Connect


def connection(broker: Broker) -> Connect:
    """Return what makes the server's line to a broker."""
    with needing("A fleet's broker"):
        from agentkd.transport.mqtt import MqttTransport
        from agentkd.transport.options import MqttOptions
    options = MqttOptions(broker.address, ca=broker.ca, cert=broker.cert, key=broker.key)
    return partial(MqttTransport, options)


def serve(folder: Path, address: str | None, metrics_port: int | None) -> int:
    """Serve a folder until a signal ends it."""
    console, office = Console(), Office(folder)
    broker = Broker(address) if address is not None else read_broker(folder)
    connect = connection(broker)
    with alone(folder), contextlib.ExitStack() as stack:
        server_is: list[Server] = []
        if metrics_port is not None:
            with needing("--metrics-port"):
                from agentkd.runtime.exposition import PrometheusServer
            source = lambda: server_is[0].metrics() if server_is else {}  # noqa: E731
            stack.enter_context(PrometheusServer(source, metrics_port, described=DESCRIBED))
            console.print(f"metrics: http://127.0.0.1:{metrics_port}/metrics")
        console.print(f"{office.fleet.site}: serving {folder} at {broker.address}", soft_wrap=True)
        asyncio.run(_serve(office, connect, server_is, console))
    return 0


async def _serve(
    office: Office, connect: Connect, server_is: list[Server], console: Console
) -> None:
    line = connect(*filters(office.fleet.site))
    server = Server(office, line)
    server_is.append(server)
    serving = asyncio.create_task(server.run())
    telling = asyncio.create_task(_tell(office.folder, console))
    try:
        done, _ = await asyncio.wait({serving, telling}, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in (serving, telling):
            each.cancel()
        await asyncio.gather(serving, telling, return_exceptions=True)
        await line.aclose()


async def _tell(folder: Path, console: Console) -> None:
    """Print what is decided; what devices report is in the trail."""
    from agentkd.fleet.audit import AuditLog

    trail = AuditLog(folder)
    for _ in trail.read():
        continue
    while True:
        for entry in await asyncio.to_thread(lambda: list(trail.read())):
            if entry.event["what"] != "device":
                console.print(told(entry.event), soft_wrap=True)
        await asyncio.sleep(0.5)
