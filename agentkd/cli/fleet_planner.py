"""`agentkd fleet label` and `answer`: what a planner does for a fleet."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agentkd.cli.broker import Broker
from agentkd.cli.fleet_serve import broker_of
from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import Bundle, read_bundle
from agentkd.distillation.dataset import About, Dataset
from agentkd.distillation.observations import labelled
from agentkd.distillation.recording import DatasetWriter
from agentkd.errors import ConfigError
from agentkd.fleet.desk import PlannerDesk, filters
from agentkd.fleet.knowledge import gather
from agentkd.fleet.office import FILES, Office
from agentkd.interrupt import ctrl_c
from agentkd.planners import Planner, load_planner
from agentkd.transport.transport import Connect
from agentkd.types import AnyDist, Floats
from agentkd.views import environment

_TURN = 0.3
_FLUSH = 60.0
"""Seconds after which labels are on the disk."""


def label(folder: Path, planner: str, out: Path, most: int, share: float) -> int:
    """Label what devices sent, with the labels that the newest executor's file keeps."""
    console, office = Console(), Office(folder)
    bundle = _newest(office)
    spec = environment(bundle.executor.spec)
    found = gather(folder, spec.obs.size, most=most, share=share)
    known = load_planner(planner, spec)
    env = str(bundle.executor.about.provenance.get("env", ""))
    data = labelled(found.obs, known, env=env, kept=bundle.labels)
    _write(out, data)
    kept = 0 if bundle.labels is None else len(bundle.labels.obs)
    outside = f"; {found.outside:,} that no others met were left out" if found.outside else ""
    console.print(
        f"{known.name}: {len(found.obs):,} observations of {len(found.devices)} devices{outside}",
        soft_wrap=True,
    )
    console.print(f"{kept:,} labels of the newest executor's file go with them", soft_wrap=True)
    architecture = bundle.executor.architecture
    console.print(
        f"next:     agentkd distill --data {out} --executor {architecture}", soft_wrap=True
    )
    return 0


def _newest(office: Office) -> Bundle:
    rollout = office.fleet.rollout
    if rollout is None:
        raise ConfigError(f"Nothing was pushed yet: agentkd fleet push {office.folder} FILE.")
    return read_bundle(office.folder / FILES / rollout.plan.digest)


def _write(out: Path, data: Dataset) -> None:
    with DatasetWriter(out, data.about) as writer:
        rows = data.part(0)
        writer.add(rows.obs, rows.dist, rows.reward, np.ones(len(rows), np.bool_), rows.ended)


def answer(folder: Path, planner: str, out: Path | None, address: str | None, how: Broker) -> int:
    """Serve a planner to the devices until a signal ends it."""
    console, office = Console(), Office(folder)
    address, connect = broker_of(folder, address, how)
    known = load_planner(planner, environment(_newest(office).executor.spec))
    site = office.fleet.site
    with ctrl_c() as ended, contextlib.ExitStack() as stack:
        writer = None
        if out is not None:
            about = About(env="", spec=known.spec, planner=known.name, digest=known.digest)
            place = _fresh(out)
            writer = stack.enter_context(DatasetWriter(place, about))
            console.print(f"labels go to {place}", soft_wrap=True)
        console.print(f"{known.name} answers {site} at {address}; Ctrl-C ends it", soft_wrap=True)
        sys.stdout.flush()
        desk = asyncio.run(_answer(known, connect, site, writer, ended))
    counts = desk.counters
    batches = max(1, counts["batches"])
    console.print(
        f"{counts['answered']:,} answered, {counts['answered'] / batches:.1f} at once; "
        f"{counts['replaced']:,} replaced by newer ones, {counts['failed']:,} failed, "
        f"{counts['refused']:,} refused; the disk refused labels {counts['unwritten']:,} times.",
        soft_wrap=True,
    )
    return 0


def _fresh(out: Path) -> Path:
    """Return the folder for the labels of this start: the number after the last one's."""
    taken = [int(each.name) for each in out.glob("*") if each.name.isdecimal()]
    return out / f"{max(taken, default=0) + 1:04}"


async def _answer(
    planner: Planner,
    connect: Connect,
    site: str,
    writer: DatasetWriter | None,
    ended: Callable[[], bool],
) -> PlannerDesk:
    def keep(_device: str, obs: Floats, dist: AnyDist) -> None:
        assert writer is not None
        count = len(obs)
        whole = np.ones(count, np.bool_)
        writer.add(obs, dist, np.zeros(count, np.float32), whole, whole.astype(np.uint8))

    line = connect(filters(site))
    desk = PlannerDesk(planner, line, site, labelled=None if writer is None else keep)
    answering = asyncio.create_task(desk.run())
    now = asyncio.get_running_loop().time
    due = now() + _FLUSH
    try:
        while not ended() and not answering.done():
            await asyncio.wait({answering}, timeout=_TURN)
            if writer is not None and now() >= due:
                desk.write(writer.flush)
                due = now() + _FLUSH
        if answering.done():
            await answering
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await line.aclose()
    return desk
