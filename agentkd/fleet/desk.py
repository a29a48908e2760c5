"""A planner for a whole fleet, over its broker: it answers many devices at once.

Questions and answers are the frames of a served planner (`agentkd/planners/remote/server.py`):

| topic | header | arrays |
|---|---|---|
| `d/DEVICE/ask` | `{"id", "episode", "method": "about", "spec"}` | |
| | `{"id", "episode", "method": "call"}` | observations (n, size) |
| `d/DEVICE/answer` | `{"type": "answer" or "failed", "id", "episode", …}` | the answer's |

A device has one question at a time: a newer one takes the place of one that still waits. What waits
is thought about together, and each answer is a label, also one that comes too late to act on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd import dists
from agentkd.errors import AgentkdError, ConfigError, LoadError, WireError, WriteError, check_range
from agentkd.files import loading
from agentkd.frames import Frame, answer_frame, pack, unpack
from agentkd.planners.planner import Planner
from agentkd.printable import logger
from agentkd.spec_json import from_json, to_json
from agentkd.transport import Message, Transport
from agentkd.transport.names import Topics
from agentkd.types import AnyDist, Floats, Guidance

log = logger(__name__)

LARGEST = 1 << 20
"""Bytes of a question or an answer."""
BUSY = "Too many devices ask."
_MOST_ROWS = 64
"""Observations of a question."""
Labelled = Callable[[str, Floats, AnyDist], object]
"""Takes a device's observations, (n, size), and the planner's answers to them."""


def filters(site: str) -> str:
    """Return what a desk receives."""
    return Topics(site).every("ask")


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """What a device asked."""

    device: str
    same: Mapping[str, Any]
    """What comes back with the answer."""
    obs: Floats


@final
class PlannerDesk:
    """Answers a fleet's devices.

    Args:
        planner: Answers batches of observations. It is asked in a thread, one batch at a time.
        transport: The line to the broker, made with `filters`.
        site: The name of the fleet.
        most: Observations of a batch, at most.
        waiting: Devices that may wait; others are told to ask again.
        labelled: Takes each answer as a label. Where it raises `WriteError`, the desk goes on.

    Raises:
        ConfigError: If the planner has a memory, which would have to travel, or a number is out of
            its range.
    """

    def __init__(
        self,
        planner: Planner,
        transport: Transport,
        site: str,
        *,
        most: int = 256,
        waiting: int = 1000,
        labelled: Labelled | None = None,
    ) -> None:
        check_range("most", most, least=1, whole=True)
        check_range("waiting", waiting, least=1, whole=True)
        if hasattr(planner.policy, "initial_state"):
            raise ConfigError(
                f"{planner.name} has a memory, and answers over a broker may be lost. Serve it "
                "over WebSockets: agentkd serve."
            )
        self.counters: Counter[str] = Counter()
        """Questions `answered`, `failed`, `replaced` by newer ones, `refused` as nonsense and
        `busy`; `batches`, and observations `labelled`; how often labels were `unwritten`."""
        self._planner, self._transport, self._topics = planner, transport, Topics(site)
        self._horizon = int(getattr(planner.policy, "horizon", 1))
        self._most, self._room, self._labelled = most, waiting, labelled
        self._waiting: dict[str, _Question] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Answer until it is cancelled."""
        receiving = asyncio.create_task(self._receive(), name="desk: receive")
        receiving.add_done_callback(lambda _: self._news.set())
        try:
            while not receiving.done():
                self._news.clear()
                while self._waiting:
                    await self._think(self._batch())
                await self._news.wait()
            await receiving
        finally:
            receiving.cancel()

    async def _receive(self) -> None:
        async for received in self._transport.receive():
            if received.connected:
                continue
            device, what = self._topics.read(received.topic)
            if what != "ask":
                continue
            try:
                with loading("A question"):
                    self._take(device, received.payload)
            except LoadError as error:
                self.counters["refused"] += 1
                log.info("%s: %s", received.topic, error)

    def _take(self, device: str, payload: bytes) -> None:
        """Take a question; what is none is counted."""
        if len(payload) > LARGEST:
            raise WireError(f"A question of {len(payload):,} bytes.")
        frame = unpack(payload)
        same = {name: frame.header.get(name) for name in ("id", "episode")}
        if not all(type(each) is int and abs(each) < 1 << 62 for each in same.values()):
            raise WireError(f"A question {same['id']!r:.80} of {same['episode']!r:.80}.")
        if frame.header.get("method") == "about":
            self._tell_about(device, same, frame.header.get("spec"))
            return
        question = _Question(device, same, self._observations(frame))
        if device in self._waiting:
            self.counters["replaced"] += 1
        elif len(self._waiting) >= self._room:
            self.counters["busy"] += 1
            self._fail(question, BUSY)
            return
        # A newer question keeps the place of the one before.
        self._waiting[device] = question
        self._news.set()

    def _observations(self, frame: Frame) -> Floats:
        size = self._planner.spec.obs.size
        obs = frame.arrays[0] if len(frame.arrays) == 1 else np.empty((0, 0), np.float32)
        if frame.header.get("method") != "call" or obs.ndim != 2 or obs.shape[1] != size:
            raise WireError(f"Observations of shape {obs.shape}; (n, {size}) was expected.")
        if not (0 < len(obs) <= _MOST_ROWS and np.isfinite(obs).all()):
            raise WireError(f"{len(obs)} observations, or one that is not finite.")
        return obs

    def _tell_about(self, device: str, same: Mapping[str, Any], told: Any) -> None:
        """Tell of the planner, if it is for the device's environment."""
        planner = self._planner
        theirs = planner.spec if told is None else from_json(told)
        if theirs.obs.size != planner.spec.obs.size or theirs.action != planner.spec.action:
            text = f"The planner is for {planner.spec}, not for {theirs}."
            self._send(device, {"type": "failed", **same, "text": text[:2000]}, ())
            return
        about = {
            "spec": to_json(planner.spec),
            "name": planner.name,
            "horizon": self._horizon,
            "parameters": planner.parameters,
        }
        self._send(device, {"type": "answer", **same, **about}, ())

    def _batch(self) -> list[_Question]:
        """Take what waits longest, as much as fits a batch."""
        taken: list[_Question] = []
        rows = 0
        for question in list(self._waiting.values()):
            rows += len(question.obs)
            if taken and rows > self._most:
                break
            taken.append(self._waiting.pop(question.device))
        return taken

    async def _think(self, asked: Sequence[_Question]) -> None:
        """Answer questions together; if that fails, one after another."""
        self.counters["batches"] += 1
        obs = np.concatenate([each.obs for each in asked])
        try:
            answer = await asyncio.to_thread(self._answered, obs)
        except Exception as error:  # whatever a planner raises
            if len(asked) > 1:
                for each in asked:
                    await self._think([each])
                return
            self.counters["failed"] += 1
            text = str(error) if isinstance(error, AgentkdError) else repr(error)
            self._fail(asked[0], f"The planner raised {text}")
            return
        at = 0
        for each in asked:
            mine = self._part(answer, at, at + len(each.obs))
            at += len(each.obs)
            said, arrays = answer_frame(mine)
            self.counters["answered"] += 1
            self._send(each.device, {"type": "answer", **each.same, **said}, arrays)
            self._label(each, mine)

    def _answered(self, obs: Floats) -> Any:
        """Ask the planner, in a thread; check what it says."""
        policy: Any = self._planner.policy
        answer = policy(obs)
        rows = answer.rows if isinstance(answer, Guidance) else answer
        if rows is not None:
            dists.check(rows, self._planner.spec.action, len(obs) * self._horizon)
        return answer

    def _part(self, answer: Any, begin: int, end: int) -> Any:
        """Return the answer to some of the observations."""
        rows = slice(begin * self._horizon, end * self._horizon)
        if not isinstance(answer, Guidance):
            return dists.rows(answer, rows)
        return Guidance(
            None if answer.rows is None else dists.rows(answer.rows, rows),
            None if answer.goal is None else answer.goal[begin:end],
            None if answer.expected is None else answer.expected[rows],
        )

    def _label(self, asked: _Question, answer: Any) -> None:
        """Hand an answer on as labels: the first row is for the observation itself."""
        rows = answer.rows if isinstance(answer, Guidance) else answer
        if self._labelled is None or rows is None:
            return
        first = np.arange(len(asked.obs)) * self._horizon
        labelled, labels = self._labelled, dists.rows(rows, first)
        if self.write(lambda: labelled(asked.device, asked.obs, labels)):
            self.counters["labelled"] += len(asked.obs)

    def write(self, work: Callable[[], object]) -> bool:
        """Let labels be written; count it if the disk refuses, and warn the first time."""
        try:
            work()
        except WriteError as error:
            if not self.counters["unwritten"]:
                log.warning("Labels are lost, and the planner goes on answering: %s", error)
            self.counters["unwritten"] += 1
            return False
        return True

    def _fail(self, asked: _Question, text: str) -> None:
        busy = text == BUSY
        said = {"type": "failed", **asked.same, "text": text[:2000], "busy": busy}
        self._send(asked.device, said, ())

    def _send(self, device: str, header: Mapping[str, Any], arrays: Sequence[Floats]) -> None:
        try:
            payload = pack(header, arrays, LARGEST)
        except WireError as error:
            payload = pack(
                {
                    "type": "failed",
                    "id": header["id"],
                    "episode": header["episode"],
                    "text": str(error)[:2000],
                }
            )
        self._transport.send(Message(self._topics.of(device, "answer"), payload))
