"""What a robot's program notes down for the fleet: hard observations, more than others."""

from __future__ import annotations

import heapq
import math
import random
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple, Self, final

import numpy as np

from agentkd.affinity import unbind
from agentkd.device.device import Device
from agentkd.errors import AgentkdError, ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.files import write_atomic
from agentkd.fleet.notes import FOLDER, LARGEST, Note, waiting_in
from agentkd.printable import logger
from agentkd.runtime.agent import Agent
from agentkd.spec import flatten_one
from agentkd.types import Floats
from agentkd.views import pick

log = logger(__name__)

MOST_FILES = 16
"""Files that wait at most; the oldest make room."""
_HEADER = 1 << 10


class _Drawn(NamedTuple):
    """An observation in the draw; those with the largest keys stay, and no two have a tick."""

    key: float
    tick: int
    hard: float
    obs: Floats


@final
class Notebook:
    """Notes down hard observations of each stretch of ticks, and what the agent counted.

        with Agent(device.executor(), period=0.02) as agent, Notebook(device, agent) as notebook:
            while agent.tick():
                action = agent.act(obs)
                robot.send(action)
                notebook.tick(obs)

    Which ones is drawn, without putting back, with chances as the square of their hardness
    (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir").

    The notes lie in `outgoing/` in the device's folder. Nothing leaves the device unless what
    follows the server is told so (`agentkd.fleet.sharing.Sharing`, `agentkd device run --share`).
    `tick` is for the thread that ticks; a thread that ends with each file counts and writes.

    Args:
        device: The device.
        agent: Acts with the device's executor.
        every: Ticks of a stretch.
        most: Observations of a stretch that are noted.
        seed: Of the draw; None for one of the system's.

    Raises:
        ConfigError: If a number is out of its range, the agent does not act with the device's
            executor, that has a memory, for which an observation alone tells nothing, or an
            observation is too large for a message.
    """

    def __init__(
        self,
        device: Device,
        agent: Agent,
        *,
        every: int = 1000,
        most: int = 32,
        seed: int | None = None,
    ) -> None:
        check_range("every", every, least=1, whole=True)
        check_range("most", most, least=1, most=4096, whole=True)
        if not device.started:
            raise ConfigError("Make the agent with device.executor(), and the notebook after it.")
        if agent.executor.memory:
            raise ConfigError(
                f"{agent.executor.architecture} has a memory: single observations teach it "
                "nothing. Leave the notebook out."
            )
        size = 4 * (agent.spec.obs.size + 1)
        if size + _HEADER > LARGEST:
            raise ConfigError(
                f"An observation has {size:,} bytes; a note has {LARGEST:,} at most. Leave the "
                "notebook out."
            )
        self._agent, self._executor = agent, device.started
        self._every, self._most = every, min(most, (LARGEST - _HEADER) // size)
        self._folder = device.folder / FOLDER
        self._random = random.Random(seed)  # noqa: S311 (of a sample)
        self._ticks = 0
        self._drawn: list[_Drawn] = []
        self._job: threading.Thread | None = None

    def tick(self, obs: Any) -> None:
        """Take note of a tick's observation, as `Agent.act` took it, after the action was sent."""
        flat = flatten_one(self._agent.spec.obs, obs)
        self._ticks += 1
        hard = float(hardness(self._agent.executor, flat[None])[0])
        if math.isfinite(hard):
            key = math.log(1.0 - self._random.random()) / max(hard * hard, 1e-9)
            heapq.heappush(self._drawn, _Drawn(key, self._ticks, hard, flat))
            if len(self._drawn) > self._most:
                heapq.heappop(self._drawn)
        if self._ticks % self._every == 0 and (self._job is None or not self._job.is_alive()):
            self._write()

    def settle(self) -> None:
        """Wait for what is being written."""
        if self._job is not None:
            self._job.join()
            self._job = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write down what is left."""
        self.settle()
        if self._drawn:
            self._write()
        self.settle()

    def _write(self) -> None:
        """Write the stretch down, in a thread."""
        # However many of the first are taken, they are such a draw.
        drawn, self._drawn = sorted(self._drawn, reverse=True), []

        def work() -> None:
            unbind()
            try:
                self._keep(drawn, self._agent.metrics())
            except (AgentkdError, OSError) as error:  # the robot's loop goes on
                log.warning("What was noted is lost: %s", error)

        self._job = threading.Thread(target=work, name="notebook", daemon=True)
        self._job.start()

    def _keep(self, drawn: list[_Drawn], counted: Mapping[str, Any]) -> None:
        notes = [Note(values=_numbers(counted))]
        if drawn:
            hard = np.array([each.hard for each in drawn], np.float32)
            notes.append(Note(self._executor, np.stack([each.obs for each in drawn]), hard))
        for note in notes:
            waiting = waiting_in(self._folder)
            for old in waiting[: max(0, len(waiting) + 1 - MOST_FILES)]:
                old.unlink(missing_ok=True)
            number = int(waiting[-1].stem) + 1 if waiting else 1
            write_atomic(self._folder / f"{number:08}.note", note.to_bytes())


def hardness(executor: Executor, obs: Floats) -> Floats:
    """Return how hard observations are for an executor.

    Args:
        executor: Whose normaliser says what it was made from.
        obs: Flat observations, (n, size).

    Returns:
        The root mean square of the normalised observation, (n,); 1 on average where it was taught.
    """
    seen = pick(executor.spec.obs, obs)
    apart = (seen.astype(np.float64) - executor.mean) * executor.scale
    found: Floats = np.sqrt(np.mean(apart * apart, axis=1)).astype(np.float32)
    return found


def _numbers(counted: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a finite number of an agent's metrics."""
    found: dict[str, float] = {}
    for name, value in counted.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and math.isfinite(value) and len(found) < 200:
            found[name] = float(value)
    return found
