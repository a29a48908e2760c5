"""The hub in memory behaves as an MQTT broker does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from agentkd.errors import ConfigError
from agentkd.transport import Message, Received
from agentkd.transport.memory import Faults, Hub, Line, matches
from tests.virtual_loop import run_virtually


async def _come(line: Line) -> list[Received]:
    """Return what comes until nothing more is under way."""
    found: list[Received] = []

    async def read() -> None:
        async for each in line.receive():
            found.append(each)  # noqa: PERF401 (what came is kept when it is cancelled)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 1000)
    return found


def _payloads(found: list[Received]) -> list[tuple[str, bytes]]:
    return [(each.topic, each.payload) for each in found if not each.connected]


def test_filters_match_as_in_mqtt() -> None:
    """`+` stands for one word, `#` for all that follow, and for none."""
    assert matches("a/b", "a/b")
    assert matches("a/+/c", "a/b/c")
    assert matches("a/#", "a/b/c")
    assert matches("a/#", "a")
    assert not matches("a/+", "a/b/c")
    assert not matches("a/+/c", "a/b")
    assert not matches("a/b", "a/b/c")


def _run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await body()

    run_virtually(main())


def test_messages_come_to_those_who_asked() -> None:
    """A message comes once to each line whose filters match, also if two of them do."""

    async def body() -> None:
        hub = Hub()
        one, other, sender = hub.line("a/+", "a/b"), hub.line("c"), hub.line()
        assert sender.send(Message("a/b", b"1"))
        assert _payloads(await _come(one)) == [("a/b", b"1")]
        assert _payloads(await _come(other)) == []

    _run(body)


def test_retained_messages_come_to_those_who_come_later() -> None:
    """The newest retained message comes with a subscription; an empty one takes it back."""

    async def body() -> None:
        hub = Hub()
        sender = hub.line()
        for payload in (b"1", b"2"):
            sender.send(Message("a", payload, retain=True))
        late = hub.line("#")
        assert _payloads(await _come(late)) == [("a", b"2")]
        sender.send(Message("a", b"", retain=True))
        assert _payloads(await _come(late)) == [("a", b"")]
        assert _payloads(await _come(hub.line("#"))) == []

    _run(body)


def test_a_line_asks_for_more_and_leaves_it_again() -> None:
    """`subscribe` brings what is retained, and takes the place of the call before."""

    async def body() -> None:
        hub = Hub()
        hub.publish(Message("b/1", b"x", retain=True))
        line = hub.line("a")
        line.subscribe("b/+")
        assert _payloads(await _come(line)) == [("b/1", b"x")]
        line.subscribe()
        hub.publish(Message("b/2", b"y"))
        hub.publish(Message("a", b"z"))
        assert _payloads(await _come(line)) == [("a", b"z")]
        line.subscribe("b/+")
        line.cut()
        line.restore()
        assert _payloads(await _come(line)) == [("b/1", b"x"), ("b/1", b"x")]

    _run(body)


def test_a_cut_line_leaves_its_will_and_comes_back() -> None:
    """The will of the present connection is published; what was sent meanwhile follows."""

    async def body() -> None:
        hub = Hub(queue=3)
        sessions = iter((b"1", b"2"))
        line = hub.line("s", will=lambda: Message("w", next(sessions), retain=True))
        line.cut()
        assert hub.retained == {"w": b"1"}
        hub.publish(Message("s", b"lost"))
        sent = [line.send(Message("s", b"%d" % index)) for index in range(4)]
        assert sent == [True, True, True, False]
        assert line.dropped == 1
        line.restore()
        found = await _come(line)
        assert [each.connected for each in found] == [True, True, False]
        assert _payloads(found) == [("s", b"0")]
        assert line.dropped == 3
        line.close()
        assert hub.retained == {"w": b"1"}
        assert [each async for each in line.receive()] == []

    _run(body)


def test_a_full_queue_drops_and_counts() -> None:
    """Who does not read loses what comes, and sees how much."""

    async def body() -> None:
        hub = Hub(queue=3)
        line = hub.line("a")
        for index in range(5):
            hub.publish(Message("a", bytes([index])))
        assert line.dropped == 3
        assert len(_payloads(await _come(line))) == 2

    _run(body)


def test_faults_come_by_their_seed() -> None:
    """Loss, repetition, damage and reordering happen, the same for the same seed."""

    async def once(seed: int) -> list[tuple[str, bytes]]:
        hub = Hub(Faults(loss=0.1, repeat=0.1, damage=0.1, delay=2.0), seed=seed)
        line, sender = hub.line("a"), hub.line()
        for index in range(200):
            sender.send(Message("a", b"%03d" % index))
        return _payloads(await _come(line))

    found = run_virtually(once(1))
    assert found == run_virtually(once(1))
    assert found != run_virtually(once(2))
    payloads = [payload for _, payload in found]
    whole = Counter(each for each in payloads if len(each) == 3 and each.isdigit())
    assert 100 < len(whole) < 200
    assert max(whole.values()) > 1
    assert sorted(payloads) != payloads
    assert any(len(each) < 3 for each in payloads)


def test_what_is_under_way_is_lost_with_the_connection() -> None:
    """A delayed message does not come over the next connection."""

    async def body() -> None:
        hub = Hub(Faults(delay=10.0))
        line, sender = hub.line("a"), hub.line()
        sender.send(Message("a", b"1"))
        line.cut()
        line.restore()
        sender.cut()
        assert _payloads(await _come(line)) == []

    _run(body)


def test_faults_are_checked() -> None:
    """A probability above one is none."""
    with pytest.raises(ConfigError, match="loss"):
        Faults(loss=1.5)
