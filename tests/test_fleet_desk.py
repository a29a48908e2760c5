"""A planner that answers a fleet over its broker: in batches, the newest question first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.errors import ConfigError, PlannerError, WriteError
from agentkd.fleet.asking import FleetPlanner
from agentkd.fleet.desk import PlannerDesk, filters
from agentkd.frames import Frame, answer_of, pack, unpack
from agentkd.planners import Planner
from agentkd.runtime.agent import Agent
from agentkd.spec_json import from_json, to_json
from agentkd.transport.memory import Faults, Hub
from agentkd.transport.names import Topics
from agentkd.transport.transport import Connect, Message, Received
from agentkd.types import ActionDist, AnyDist, Categorical, Floats, Guidance
from tests.runtime_children import BOX, SPEC, Ahead, Echo, constant
from tests.test_runtime_processes import act_until, answered
from tests.virtual_loop import run_virtually
from tests.waiting import ENOUGH

SITE = "plant"
TOPICS = Topics(SITE)


def planner(policy: Any) -> Planner:
    """Give a policy a name."""
    return Planner(policy, SPEC, "a stub", 7, "")


def rows(count: int, size: int = 3) -> Floats:
    """Return observations."""
    return np.ones((count, size), np.float32)


def asked(number: int, *firsts: float, episode: int = 0, **more: Any) -> bytes:
    """Return a question about observations that begin with these numbers."""
    obs = np.array([[each, 0, 0] for each in firsts], np.float32)
    return pack({"id": number, "episode": episode, "method": "call", **more}, [obs])


class World:
    """A desk on a hub, and devices that ask by hand."""

    def __init__(self, policy: Any, **options: Any) -> None:
        self.hub = Hub(options.pop("faults", None))
        self.labels: list[tuple[str, Floats, AnyDist]] = []
        keep = lambda *each: self.labels.append(each)  # noqa: E731
        line = self.hub.line(filters(SITE))
        self.desk = PlannerDesk(planner(policy), line, SITE, labelled=keep, **options)
        self.answers: list[tuple[str, Frame]] = []

    def ask(self, device: str, payload: bytes) -> None:
        """Let a device ask."""
        self.hub.publish(Message(TOPICS.of(device, "ask"), payload))

    async def listen(self) -> None:
        """Note down what is answered."""
        line = self.hub.line(f"{TOPICS.root}/d/+/answer")
        async for each in line.receive():
            if not each.connected:
                self.answers.append((TOPICS.read(each.topic)[0], unpack(each.payload)))

    def run(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a test's body beside the desk."""

        async def main() -> None:
            listening = asyncio.create_task(self.listen())
            desk = asyncio.create_task(self.desk.run())
            await asyncio.sleep(0)
            try:
                await body()
            finally:
                for each in (listening, desk):
                    each.cancel()
                    with suppress(asyncio.CancelledError):
                        await each

        run_virtually(main())

    def chosen(self) -> dict[str, list[int]]:
        """Return what each device was last told to choose."""
        found = {}
        for device, frame in self.answers:
            answer = answer_of(frame, SPEC)
            assert not isinstance(answer, Guidance)
            found[device] = np.asarray(dists.mode(answer, SPEC.action)).tolist()
        return found


def test_devices_that_wait_are_answered_together() -> None:
    """Each its own observations, under its own number and episode."""
    policy = Echo()
    world = World(policy)

    async def body() -> None:
        for each in range(4):
            world.ask(f"d{each}", asked(10 + each, each, each + 1, episode=each))
        await asyncio.sleep(1)

    world.run(body)
    assert policy.asked == [[0, 1, 1, 2, 2, 3, 3, 4]]
    assert world.chosen() == {f"d{each}": [each, (each + 1) % 4] for each in range(4)}
    same = [(frame.header["id"], frame.header["episode"]) for _, frame in world.answers]
    assert same == [(10 + each, each) for each in range(4)]
    assert world.desk.counters["batches"] == 1


def test_a_batch_has_an_end_and_who_waited_longest_is_first() -> None:
    """A newer question takes the place of the one before, and keeps it."""
    policy = Echo()
    world = World(policy, most=2)

    async def body() -> None:
        for each in range(5):
            world.ask(f"d{each}", asked(1, each))
        world.ask("d0", asked(2, 3))
        await asyncio.sleep(1)

    world.run(body)
    assert policy.asked == [[3, 1], [2, 3], [4]]
    assert world.desk.counters["replaced"] == 1
    assert [frame.header["id"] for device, frame in world.answers if device == "d0"] == [2]


def test_too_many_are_told_so() -> None:
    """They ask again later; those that wait are answered."""
    world = World(Echo(), waiting=2)

    async def body() -> None:
        for each in range(3):
            world.ask(f"d{each}", asked(1, each))
        await asyncio.sleep(1)

    world.run(body)
    busy = [device for device, frame in world.answers if frame.header.get("busy")]
    assert busy == ["d2"]
    assert world.desk.counters["answered"] == 2


def test_each_answer_is_a_label_whoever_still_waits_for_it() -> None:
    """The device may be gone: what was thought is kept."""
    world = World(Ahead(3))

    async def body() -> None:
        world.ask("gone", asked(1, 1, 2))
        await asyncio.sleep(1)

    world.run(body)
    ((device, obs, dist),) = world.labels
    assert (device, obs[:, 0].tolist()) == ("gone", [1, 2])
    # Of several rows the first is for the observation itself.
    assert np.asarray(dists.mode(dist, SPEC.action)).tolist() == [1, 2]
    assert world.desk.counters["labelled"] == 2


def test_a_disk_that_refuses_labels_ends_no_planner(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted, told once, and tried again."""
    world = World(Echo())
    full = True

    def keep(*_: object) -> None:
        if full:
            raise WriteError("The disk is full.")

    async def body() -> None:
        nonlocal full
        world.desk._labelled = keep
        for each in range(4):
            full = each < 3
            world.ask(f"d{each}", asked(1, each))
            await asyncio.sleep(1)

    world.run(body)
    assert world.chosen() == {f"d{each}": [each] for each in range(4)}
    assert world.desk.counters["unwritten"] == 3
    assert world.desk.counters["labelled"] == 1
    assert caplog.text.count("The disk is full.") == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nonsense",
        pack({"id": 1, "episode": 0, "method": "call"}),
        pack({"id": 1, "episode": 0, "method": "call"}, [rows(1, 4)]),
        pack({"id": 1, "episode": 0, "method": "call"}, [rows(100)]),
        pack({"id": 1, "episode": 0, "method": "call"}, [rows(1) * np.nan]),
        pack({"id": 1, "episode": 0, "method": "begin"}, [rows(1)]),
        pack({"id": True, "episode": 0, "method": "call"}, [rows(1)]),
        pack({"id": 1, "episode": "x", "method": "call"}, [rows(1)]),
        pack({"id": 1, "episode": 0, "method": "about", "spec": {"obs": 1}}),
    ],
)
def test_what_is_no_question_is_counted(payload: bytes) -> None:
    """And the next one is answered."""
    world = World(Echo())

    async def body() -> None:
        world.ask("d0", payload)
        world.ask("d1", asked(1, 2))
        await asyncio.sleep(1)

    world.run(body)
    assert world.chosen() == {"d1": [2]}
    assert world.desk.counters["refused"] == 1


def test_one_question_that_the_planner_fails_at_fails_alone() -> None:
    """The others of its batch are answered."""

    class Picky(Echo):
        def __call__(self, obs: Floats) -> ActionDist:
            if (obs[:, 0] == 3).any():
                raise ValueError("not three")
            return super().__call__(obs)

    world = World(Picky())

    async def body() -> None:
        for each in range(4):
            world.ask(f"d{each}", asked(1, each))
        await asyncio.sleep(1)

    world.run(body)
    failed = {d: f.header["text"] for d, f in world.answers if f.header["type"] == "failed"}
    assert list(failed) == ["d3"]
    assert "not three" in failed["d3"]
    assert world.desk.counters["answered"] == 3


def test_a_planner_with_a_memory_is_not_served() -> None:
    """Its memory would have to travel."""

    class Remembers(Echo):
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 1), np.float32),)

    with pytest.raises(ConfigError, match="has a memory"):
        run_virtually(_made(Remembers()))


async def _made(policy: Any) -> None:
    World(policy)


def beside(policy: Any, faults: Faults | None = None) -> Connect:
    """Return what makes a device's line; a desk answers on the same hub, in the same thread."""
    tasks = []

    def connect(*wanted: str, **options: Any) -> Any:
        hub = Hub(faults, seed=1)
        desk = PlannerDesk(planner(policy), hub.line(filters(SITE)), SITE)
        tasks.append(asyncio.get_running_loop().create_task(desk.run()))
        return hub.line(*wanted, **options)

    return connect


def test_a_planner_over_a_broker_is_a_policy() -> None:
    """It tells what it is, answers batches, and says what goes wrong."""
    with FleetPlanner(beside(Ahead(2)), SITE, "d0", SPEC) as found:
        assert (found.name, found.horizon, found.parameters) == ("a stub", 2, 7)
        answer = found(np.array([[1, 0, 0], [3, 0, 0]], np.float32))
        assert isinstance(answer, Categorical)
        assert len(answer.logits) == 4
        found._patience = 0.1
        with pytest.raises(PlannerError, match="No planner of plant answered"):
            found(np.ones((1, 4), np.float32))
    with pytest.raises(PlannerError, match="is for"):
        FleetPlanner(beside(Echo()), SITE, "d0", BOX)


def test_a_line_that_cannot_be_made_is_what_is_raised() -> None:
    """At once, and not that no planner answered."""

    def connect(*_: str, **__: Any) -> Any:
        raise ConfigError("ca.pem is missing.")

    with pytest.raises(ConfigError, match=r"ca\.pem is missing"):
        FleetPlanner(connect, SITE, "d0", SPEC)


def test_a_line_that_ended_in_an_error_says_which() -> None:
    """A later question has the reason, and does not wait for an answer."""

    class Ends:
        def __init__(self, line: Any) -> None:
            self.send, self.aclose = line.send, line.aclose
            self._line = line

        async def receive(self) -> AsyncIterator[Received]:
            async for each in self._line.receive():
                yield each
                if not each.connected:
                    raise OSError("The wire is cut.")

    whole = beside(Echo())

    def connect(*wanted: str, **_: Any) -> Any:
        return Ends(whole(*wanted))

    with (
        FleetPlanner(connect, SITE, "d0", SPEC) as found,
        pytest.raises(PlannerError, match="The wire is cut"),
    ):
        found(np.zeros((1, 3), np.float32))


def test_a_line_that_loses_delays_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is asked again under its number; an answer that comes twice counts once."""
    for pause in ("_AGAIN", "_SELDOM"):
        monkeypatch.setattr(f"agentkd.fleet.asking.{pause}", 0.01)
    faults = Faults(loss=0.3, repeat=0.3)
    with FleetPlanner(beside(Echo(), faults), SITE, "d0", SPEC) as found:
        for each in range(30):
            answer: Any = found(np.array([[each % 4, 0, 0]], np.float32))
            assert int(np.asarray(dists.mode(answer, SPEC.action))[0]) == each % 4
    assert found.counters["asked_again"] > 0


def test_an_interrupt_ends_the_waiting() -> None:
    """And it can be asked again."""
    gate = threading.Event()

    class Slow(Echo):
        def __call__(self, obs: Floats) -> ActionDist:
            gate.wait()
            return super().__call__(obs)

    with FleetPlanner(beside(Slow()), SITE, "d0", SPEC) as found:
        threading.Timer(0.05, found.interrupt).start()
        with pytest.raises(PlannerError, match="given up"):
            found(np.zeros((1, 3), np.float32))
        gate.set()
        found.resume()
        answer: Any = found(np.array([[2, 0, 0]], np.float32))
        assert int(np.asarray(dists.mode(answer, SPEC.action))[0]) == 2


class TooBusy:
    """A line to a planner that says `busy`, and answers later without being asked again."""

    connected, dropped = True, 0

    def __init__(self, later: Callable[[], bool]) -> None:
        self._later = later
        self._asked: asyncio.Queue[Message] = asyncio.Queue()

    def send(self, message: Message, /) -> bool:
        """Take a question."""
        self._asked.put_nowait(message)
        return True

    async def receive(self) -> AsyncIterator[Received]:
        """Yield what is answered."""
        while True:
            asked = unpack((await self._asked.get()).payload).header
            same = {name: asked[name] for name in ("id", "episode")}
            if asked["method"] == "about":
                about = {"name": "a stub", "horizon": 1, "parameters": 0}
                yield Received("", pack({"type": "about", **same, **about}))
                continue
            busy = {"type": "failed", **same, "text": "busy", "busy": True}
            later = self._later()
            yield Received("", pack(busy))
            if later:
                # Once the first answer has been taken in.
                await asyncio.sleep(0.01)
                yield Received("", pack({**busy, "text": "It has no time today.", "busy": False}))

    async def aclose(self) -> None:
        """End the line."""


@pytest.mark.parametrize("gives_up", [False, True])
def test_an_answer_or_an_interrupt_ends_the_pause_of_a_busy_planner(
    gives_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked again for what it has answered; an interrupt at once is not missed."""
    monkeypatch.setattr("agentkd.fleet.asking._AGAIN", 10 * ENOUGH)

    def later() -> bool:
        if gives_up:
            found.interrupt()
        return not gives_up

    connect: Any = lambda *_, **__: TooBusy(later)  # noqa: E731
    told = "given up" if gives_up else "no time today"
    with (
        FleetPlanner(connect, SITE, "d0", SPEC, patience=20 * ENOUGH) as found,
        pytest.raises(PlannerError, match=told),
    ):
        found(rows(1))
    assert found.counters["late"] == 0
    assert gives_up or found.counters["asked_again"] == 0


def test_an_agent_acts_with_it() -> None:
    """The runtime asks it in a thread, and takes what it answers."""
    with (
        FleetPlanner(beside(Echo()), SITE, "d0", SPEC) as found,
        Agent(constant(1), SPEC, planner=found, native=False) as agent,
    ):
        metrics = act_until(agent, answered(5))
        assert (metrics["planner_errors_total"], metrics["labels_total"] > 0) == (0, True)


def test_about_is_answered_with_the_spec() -> None:
    """As a planner that is served over WebSockets does."""
    world = World(Echo())

    async def body() -> None:
        about = {"id": 1, "episode": 0, "method": "about", "spec": to_json(SPEC)}
        world.ask("d0", pack(about))
        await asyncio.sleep(1)

    world.run(body)
    assert from_json(world.answers[0][1].header["spec"]) == SPEC
