"""Devices meet states that no one distilled; what they find hard makes the next executor.

An executor is distilled where a cart parks from near by. Its devices park from far away, on a rail
that is not level, and drive too fast. They send the hardest of their observations, the planner
labels them, and the executor that is distilled next comes through each device's gate. It needs
agentkd[fleet,train].
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

SITE = "rails"
SHARING = Sharing(leave=("observations",), per_hour=1_000_000)
_TICK = 0.01
TRIAL = TrialOptions(shadow=40, acting=40, agreement=0.0)


class Rail(gym.Env[Floats, Any]):
    """A cart that parks at 0: it observes place and speed, in m and m/s, and is pushed.

    Args:
        far: The distance within which it begins, in m.
        slope: What the rail adds to its acceleration here and there, in m/s².
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, far: float, slope: float) -> None:
        self._far, self._slope = far, slope

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Floats, Any]:
        """Begin somewhere, at rest."""
        super().reset(seed=seed, options=options)
        self._place, self._speed, self._ticks = self.np_random.uniform(-1, 1) * self._far, 0.0, 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, Any]:
        """Push for 0.1 s; distance costs, and so does a speed above 1 m/s."""
        push = float(np.clip(action[0], -1, 1)) + self._slope * np.sin(2 * self._place)
        self._speed += 0.1 * push
        self._place += 0.1 * self._speed
        self._ticks += 1
        cost = abs(self._place) + 5 * max(0.0, abs(self._speed) - 1)
        return self._seen(), -0.1 * cost, False, self._ticks == 100, {}

    def _seen(self) -> Floats:
        return np.array([self._place, self._speed], np.float32)


calm, wild = partial(Rail, 0.4, 0.0), partial(Rail, 4.0, 0.3)


def planner(obs: Floats) -> Point:
    """Drive to 0 at no more than 0.9 m/s: pushes, (batch, 1)."""
    wanted = np.clip(-1.5 * obs[:, :1], -0.9, 0.9)
    return Point(np.clip(4 * (wanted - obs[:, 1:]), -1, 1).astype(np.float32))


@dataclass(slots=True)
class Robot:
    """A cart, and the device whose executor pushes it."""

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
    """What the devices met with the first executor, (ticks, 2)."""
    sent: int
    """Observations that left the devices."""
    active: set[str]
    """The executors that devices start with at the end."""


async def live(home: Path, count: int = 5, ticks: int = 1000) -> Told:
    """Distil, let devices act and tell, distil again, and let the second executor in."""
    know = Planner(planner, env_spec(calm()), "parks", 0, "")
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
        tasks = [asyncio.create_task(each.run()) for each in followers]
        tasks.append(asyncio.create_task(server.run()))
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
        sent = server.counters["observations_taken"]
        found = gather(home / "fleet", know.spec.obs.size)
        second = home / "second.akd"
        data = labelled(found.obs, know, kept=load(first).about.labels)
        made = run_distillation(data=data, executor="mlp:32,32", steps=4000, seed=2)
        write_bundle(second, made.executor, labels=made.kept)
        await _deliver(home, second, office, robots)
        active = {each.status().active.digest for each in devices}  # type: ignore[union-attr]
    return Told(first, second, met, sent, active)


def _robot(device: Device, seed: int, stack: AsyncExitStack) -> Robot:
    agent = stack.enter_context(Agent(device.executor(), native=False))
    trial = stack.enter_context(Trial(device, agent, TRIAL))
    notebook = stack.enter_context(Notebook(device, agent, every=200, most=16, seed=seed))
    env = wild()
    stack.callback(env.close)
    return Robot(device, agent, trial, notebook, env, 1000 * seed)


async def _deliver(
    home: Path, file: Path, office: Office, robots: list[Robot] | None = None
) -> None:
    """Sign an executor, push it, and let the robots try it until the rollout is over."""
    repository.sign(home / "repository", [file], [home / "keys"])
    plan = Office(home / "fleet", office.clock).push(file, waves=(40.0, 100.0), sample=2)
    while True:
        rollout = office.fleet.rollout
        if rollout is not None and rollout.plan == plan and rollout.course != "running":
            break
        for each in robots or ():
            each.tick()
        await asyncio.sleep(_TICK)
    if rollout.course != "finished":
        raise SystemExit(f"The rollout is {rollout.course}: {rollout.text}")


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
