"""Devices meet states that no one distilled; what they find hard makes the next executor.

An executor is distilled where a pendulum begins upright. Its devices swing pendulums that begin
anywhere. They send the hardest of their observations, the planner labels them, and the executor
that is distilled next comes through each device's gate. It needs agentkd[fleet,train].
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentkd import Agent, Planner, distill, env_spec, load, write_bundle
from agentkd.device import Device, Trial, TrialOptions
from agentkd.distillation import run_distillation
from agentkd.distillation.observations import labelled
from agentkd.fleet.device import Follower
from agentkd.fleet.knowledge import Knowledge, gather
from agentkd.fleet.notebook import Notebook
from agentkd.fleet.notes import FOLDER, waiting_in
from agentkd.fleet.office import ROOT, Office
from agentkd.fleet.server import Server, filters
from agentkd.fleet.setup import begin
from agentkd.fleet.sharing import Sharing
from agentkd.measure.evaluate import evaluate
from agentkd.signing import repository
from agentkd.transport.memory import Hub
from agentkd.types import Floats, Point

SITE = "pendulums"
SHARING = Sharing(leave=("observations",), per_hour=1_000_000)
_TICK = 0.01
TRIAL = TrialOptions(shadow=40, acting=40, agreement=0.0)


class Starts(gym.Wrapper[Any, Any, Any, Any]):
    """Pendulum-v1 that begins within an angle of upright, in radians."""

    def __init__(self, angle: float) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self._angle = angle

    def reset(self, **options: Any) -> Any:
        """Begin near upright, with hardly any speed."""
        return self.env.reset(**{**options, "options": {"x_init": self._angle, "y_init": 0.1}})


calm, wild = partial(Starts, 0.2), partial(Starts, np.pi)


def planner(obs: Floats) -> Point:
    """Swing up by energy, and balance: torques in Nm, (batch, 1), of cos, sin and speed."""
    up, angle, speed = obs[:, 0], np.arctan2(obs[:, 1], obs[:, 0]), obs[:, 2]
    energy = speed**2 / 6 + 5 * (up - 1)
    swing = np.where(energy < 0, 2.0, -2.0) * np.where(speed >= 0, 1.0, -1.0)
    balance = -(12 * angle + 3 * speed)
    torque = np.where((up > 0.9) & (np.abs(speed) < 3), balance, swing)
    return Point(np.clip(torque, -2, 2).astype(np.float32)[:, None])


@dataclass(slots=True)
class Robot:
    """A pendulum, and the device whose executor swings it."""

    device: Device
    agent: Agent
    trial: Trial
    notebook: Notebook
    env: Any
    seed: int
    obs: Any = None
    met: list[Floats] = field(default_factory=list)
    """All observations, which stay here."""

    def tick(self) -> None:
        """Observe, act, and note down what was hard."""
        if self.obs is None:
            self.seed += 1
            self.obs, _ = self.env.reset(seed=self.seed)
        action = self.agent.act(self.obs)
        after, reward, _, cut, _ = self.env.step(action)
        self.trial.tick(self.obs, action, float(reward))
        self.notebook.tick(self.obs)
        self.met.append(self.obs)
        self.obs = after
        if cut:
            self.obs = None
            self.agent.reset()
            self.trial.reset()
        # A robot waits for neither; here a tick takes no time.
        self.trial.settle()
        self.notebook.settle()


@dataclass(frozen=True, slots=True)
class Told:
    """What came of it."""

    first: Path
    second: Path
    met: Floats
    """What the devices met with the first executor, (ticks, 3)."""
    sent: int
    """Observations that left the devices."""
    active: set[str]
    """The executors that devices start with at the end."""


async def live(home: Path, count: int = 5, ticks: int = 1000) -> Told:
    """Distil, let devices act and tell, distil again, and let the second executor in."""
    know = Planner(planner, env_spec(calm()), "energy", 0, "")
    repository.create(home / "repository", home / "keys")
    first = home / "first.akd"
    distill(calm, planner, "mlp:32,32", labels=3000, episodes=0, seed=1).save(first)
    begin(home / "fleet", SITE)
    root = home / "repository" / "metadata" / "1.root.json"
    (home / "fleet" / ROOT).write_bytes(root.read_bytes())
    hub, office = Hub(), Office(home / "fleet", asyncio.get_running_loop().time)
    async with AsyncExitStack() as stack:
        line = hub.line(*filters(SITE, collect=True))
        server = Server(office, line, knowledge=Knowledge(home / "fleet"))
        devices = [Device(home / f"device-{each}", trust=root) for each in range(count)]
        followers = [
            Follower(device, hub.line, SITE, device.folder.name, sharing=SHARING)
            for device in devices
        ]
        tasks = [asyncio.create_task(each.run()) for each in (server, *followers)]
        stack.push_async_callback(_end, tasks)
        await _until(lambda: len(office.fleet.devices) == count)
        await _deliver(home, first, office)
        robots = [_robot(device, seed, stack) for seed, device in enumerate(devices)]
        for _ in range(ticks):
            for each in robots:
                each.tick()
            await asyncio.sleep(_TICK)
        met = np.concatenate([np.stack(each.met) for each in robots])
        await _until(lambda: not any(waiting_in(each.folder / FOLDER) for each in devices))
        await asyncio.sleep(1.0)  # what was sent last is kept
        found = gather(home / "fleet", know.spec.obs.size)
        second = home / "second.akd"
        data = labelled(found.obs, know, kept=load(first).about.labels)
        made = run_distillation(data=data, executor=first, steps=4000, seed=2)
        write_bundle(second, made.executor, labels=made.kept)
        await _deliver(home, second, office, robots)
        active = {each.status().active.digest for each in devices}  # type: ignore[union-attr]
    return Told(first, second, met, server.counters["observations_taken"], active)


def _robot(device: Device, seed: int, stack: AsyncExitStack) -> Robot:
    agent = stack.enter_context(Agent(device.executor(), native=False))
    trial = stack.enter_context(Trial(device, agent, TRIAL))
    notebook = stack.enter_context(Notebook(device, agent, every=200, most=16))
    env = wild()
    stack.callback(env.close)
    return Robot(device, agent, trial, notebook, env, 1000 * seed)


async def _deliver(
    home: Path, file: Path, office: Office, robots: list[Robot] | None = None
) -> None:
    """Sign an executor, push it, and let the robots try it until the rollout is over."""
    repository.sign(home / "repository", [file], [home / "keys"])
    Office(home / "fleet", office.clock).push(file, waves=(40.0, 100.0), sample=2)
    while office.fleet.rollout is None or office.fleet.rollout.course == "running":
        for each in robots or ():
            each.tick()
        await asyncio.sleep(_TICK)
    if office.fleet.rollout.course != "finished":
        raise SystemExit(f"The rollout is {office.fleet.rollout.course}.")


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 (another process may do it)
        await asyncio.sleep(_TICK)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for each in tasks:
        each.cancel()
        with suppress(asyncio.CancelledError):
            await each


def main() -> None:
    """Show what the second executor is worth where the devices are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = asyncio.run(live(Path(folder), arguments.devices))
        print(f"{told.sent} of {len(told.met)} observations left the devices")
        for file in (told.first, told.second):
            returns = evaluate(wild, load(file), episodes=10, seed=100).returns
            print(f"{file.stem}: mean return {np.mean(returns):.0f} where the devices are")


if __name__ == "__main__":
    main()
