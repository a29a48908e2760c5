"""A federated round over a line: chunks, time limits, kills, lies, and what is in the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.distillation.federated import Member, PublicStates, Remote, Round
from agentkd.distillation.federated.kept import Kept, read_kept, write_kept
from agentkd.distillation.federated.member import Answers
from agentkd.distillation.federated.messages import Request, weights_of, write_request
from agentkd.distillation.federated.remote import Caller
from agentkd.distillation.federated.wire import Offer, Receiving, read_offer
from agentkd.errors import AgentkdError, ConfigError, LoadError
from agentkd.transport.blobs import blob, packed
from agentkd.transport.memory import Faults, Hub, Line
from agentkd.transport.names import Topics
from agentkd.transport.transport import Message
from tests.federated_world import client, secrets, start
from tests.virtual_loop import run_virtually

SITE = "plant"
TOPICS = Topics(SITE)
REQUEST = b"do a round" * 100


class Echo:
    """Replies with the request backwards, and counts."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[bytes] = []
        self.error = error

    def answer(self, request: bytes, /) -> bytes:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return request[::-1]


class Field:
    """A hub with a server, clients, and one who reads everything."""

    def __init__(self, faults: Faults | None = None, seed: int = 0) -> None:
        self.hub = Hub(faults, seed=seed)
        self.tap = self.hub.line("akd/#")
        self.lines: dict[str, Line] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def serve(self, *names: str, **options: Any) -> Caller:
        """Start a server."""
        self.lines["server"] = line = self.hub.line(TOPICS.every("from/+"))
        found = Caller(line, TOPICS, names, chunk=64, **options)
        self.tasks["server"] = asyncio.create_task(found.run())
        return found

    def join(self, name: str, answers: Answers) -> Member:
        """Start a client's program."""

        def connect(*filters: str, will: Any = None) -> Line:
            self.lines[name] = self.hub.line(*filters, will=will)
            return self.lines[name]

        member = Member(answers, connect, SITE, name, chunk=64)
        self.tasks[name] = asyncio.create_task(member.run())
        return member

    async def kill(self, name: str) -> None:
        """End a program as a kill does: its last will is published, and nothing else is sent."""
        self.lines[name].cut()
        task = self.tasks.pop(name)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    def said(self) -> list[bytes]:
        """All payloads so far."""
        return [each.payload for each in self.tap._came]

    async def close(self) -> None:
        """End everything."""
        for name in list(self.tasks):
            await self.kill(name)


def live(story: Callable[[Field], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a story on a virtual clock."""

    async def run() -> None:
        field = Field(**options)
        try:
            await story(field)
        finally:
            await field.close()

    run_virtually(run())


@pytest.mark.parametrize("seed", range(4))
def test_replies_come_over_a_line_that_spoils(seed: int) -> None:
    """Messages are lost, repeated, damaged and late; what is read is what was sent."""

    async def story(field: Field) -> None:
        caller, clients = field.serve("one", "two", patience=60.0), {"one": Echo(), "two": Echo()}
        for name, each in clients.items():
            field.join(name, each)
        for number in range(3):
            requests = {name: REQUEST + bytes([number]) + name.encode() for name in clients}
            found = await caller.ask(requests, 3600.0)
            assert found == {name: raw[::-1] for name, raw in requests.items()}
        assert [len(each.asked) for each in clients.values()] == [3, 3]

    live(story, faults=Faults(loss=0.2, repeat=0.2, damage=0.2, delay=1.0), seed=seed)


def test_it_takes_few_messages_where_nothing_is_lost() -> None:
    """An offer, a need, the chunks and an acknowledgement, each way, and that a client is there."""

    async def story(field: Field) -> None:
        caller = field.serve("one")
        field.join("one", Echo())
        await caller.ask({"one": REQUEST}, None)
        await asyncio.sleep(60.0)
        chunks = -(-len(REQUEST) // 64)
        assert field.hub.published <= 2 * (chunks + 3) + 3

    live(story)


def test_who_is_away_and_who_is_late_is_left_out() -> None:
    """One was never there, one is there and says nothing; the third one's reply counts."""

    async def story(field: Field) -> None:
        caller = field.serve("here", "away", "silent", patience=5.0)
        field.join("here", Echo())
        field.hub.publish(Message(TOPICS.of("silent", "from/here"), b"0" * 16, retain=True))
        begun = asyncio.get_running_loop().time()
        found = await caller.ask(dict.fromkeys(("here", "away", "silent"), REQUEST), 100.0)
        assert found == {"here": REQUEST[::-1], "away": "it is not connected"}
        assert asyncio.get_running_loop().time() == pytest.approx(begun + 100.0, abs=1.0)

    live(story)


def test_without_a_silent_client_a_round_takes_no_longer_than_patience() -> None:
    """A client that is killed amid its round is away; nobody waits for the time limit."""

    async def story(field: Field) -> None:
        caller = field.serve("here", "killed", patience=5.0)
        field.join("here", Echo())
        field.join("killed", Echo())
        await asyncio.sleep(1.0)
        asking = asyncio.create_task(caller.ask(dict.fromkeys(("here", "killed"), REQUEST), None))
        await field.kill("killed")
        begun = asyncio.get_running_loop().time()
        assert set(await asking) == {"here", "killed"}
        assert asyncio.get_running_loop().time() < begun + 10.0

    live(story)


def test_a_client_that_is_started_anew_does_the_round_again() -> None:
    """Killed between the request and its reply."""

    class Dies(Echo):
        def answer(self, request: bytes, /) -> bytes:
            super().answer(request)
            begun.set()
            raise asyncio.CancelledError

    begun = asyncio.Event()

    async def story(field: Field) -> None:
        caller = field.serve("one")
        field.join("one", Dies())
        asking = asyncio.create_task(caller.ask({"one": REQUEST}, None))
        await begun.wait()
        await field.kill("one")
        again = Echo()
        field.join("one", again)
        assert await asking == {"one": REQUEST[::-1]}
        assert again.asked == [REQUEST]

    live(story)


def test_a_server_that_is_started_anew_gets_the_reply_that_is_there() -> None:
    """The client does not do the round twice; a round that is new it does."""

    async def story(field: Field) -> None:
        echo, caller = Echo(), field.serve("one")
        field.join("one", echo)
        for _ in range(2):
            assert await caller.ask({"one": REQUEST}, None) == {"one": REQUEST[::-1]}
            await field.kill("server")
            caller = field.serve("one")
        await caller.ask({"one": REQUEST + b"another"}, None)
        assert echo.asked == [REQUEST, REQUEST + b"another"]

    live(story)


def test_a_reply_that_is_too_late_is_acknowledged_and_not_taken() -> None:
    """Its client goes on with the next round at once."""

    class Slow(Echo):
        caller: Caller

        def answer(self, request: bytes, /) -> bytes:
            # What is asked for changes while it thinks.
            if len(self.asked) == 0:
                self.caller._asked.clear()
            return super().answer(request)

    async def story(field: Field) -> None:
        slow = Slow()
        caller = slow.caller = field.serve("one")
        field.join("one", slow)
        assert await caller.ask({"one": REQUEST}, 1.0) == {}
        begun = asyncio.get_running_loop().time()
        assert await caller.ask({"one": REQUEST + b"2"}, None) == {"one": b"2" + REQUEST[::-1]}
        assert asyncio.get_running_loop().time() < begun + 5.0

    live(story)


def test_what_a_client_raises_stays_with_it() -> None:
    """The server hears the name of the class; the text could hold an observation."""

    async def story(field: Field) -> None:
        caller = field.serve("one")
        field.join("one", Echo(ValueError("observed 123.4567")))
        found = await caller.ask({"one": REQUEST}, None)
        assert found == {"one": "it failed with ValueError, and its own log says why"}
        assert not [each for each in field.said() if b"observed" in each]

    live(story)


LIES: dict[str, tuple[Callable[[str], tuple[Offer, list[bytes]]], str]] = {}


def lie(match: str) -> Callable[[Callable[[str], tuple[Offer, list[bytes]]]], None]:
    """Note what a client may offer that is not so."""

    def noted(made: Callable[[str], tuple[Offer, list[bytes]]]) -> None:
        LIES[made.__name__] = made, match

    return noted


@lie("a reply of 10,000 bytes; at most 2,000 are taken")
def large(request: str) -> tuple[Offer, list[bytes]]:
    """More than is taken."""
    file, chunks = blob(bytes(10_000), 64)
    return Offer(request, file), chunks


@lie("not what it offered")
def other(request: str) -> tuple[Offer, list[bytes]]:
    """Chunks that do not add up to the digest of the whole."""
    file, chunks = blob(b"good" * 50, 64)
    false = type(file)("0" * 64, file.size, file.chunk, file.hashes)
    return Offer(request, false), chunks


@lie("")
def spoilt(request: str) -> tuple[Offer, list[bytes]]:
    """Chunks that are not those of the hashes: they never come."""
    file, chunks = blob(b"good" * 50, 64)
    return Offer(request, file), [each[::-1] + b"x" for each in chunks]


@pytest.mark.parametrize("name", LIES)
def test_a_client_that_lies_is_left_out_and_the_others_are_not(name: str) -> None:
    """Whatever it offers, and however often."""
    made, match = LIES[name]

    async def story(field: Field) -> None:
        caller = field.serve("good", "bad", largest=2000)
        field.join("good", Echo())
        line = field.hub.line(TOPICS.of("bad", "to/+"))

        async def bad() -> None:
            async for each in line.receive():
                if not each.topic.endswith("offer"):
                    continue
                offer, chunks = made(read_offer(each.payload).request)
                assert offer.file is not None
                digest = bytes.fromhex(offer.file.digest)
                line.send(Message(TOPICS.of("bad", "from/offer"), packed(offer)))
                for index, chunk in enumerate(chunks):
                    head = digest + index.to_bytes(4, "big")
                    line.send(Message(TOPICS.of("bad", "from/chunk"), head + chunk))

        field.tasks["bad"] = asyncio.create_task(bad())
        field.lines["bad"] = line
        found = await caller.ask({"good": REQUEST, "bad": REQUEST}, 60.0)
        assert found.pop("good") == REQUEST[::-1]
        assert match in str(found.get("bad", ""))
        assert ("bad" in found) == bool(match)

    live(story)


@pytest.mark.parametrize("what", ["here", "offer", "need", "chunk", "other"])
@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff" * 40, b'{"request": 1}', b"0" * 16])
def test_strange_messages_are_counted_and_change_nothing(what: str, payload: bytes) -> None:
    """From a client, from one that is none, and to a client."""

    async def story(field: Field) -> None:
        caller = field.serve("one")
        field.join("one", Echo())
        await asyncio.sleep(1.0)
        for topic in (
            TOPICS.of("one", f"from/{what}"),
            TOPICS.of("stranger", f"from/{what}"),
            TOPICS.of("one", f"to/{what}"),
        ):
            field.hub.publish(Message(topic, payload))
        assert await caller.ask({"one": REQUEST}, None) == {"one": REQUEST[::-1]}
        assert caller.strange["client"] == 1

    live(story)


def test_an_offer_is_checked() -> None:
    """A request or a reply, or the name of an error, and no other text."""
    file, _ = blob(b"reply", 64)
    wrong: list[Callable[[], Offer]] = [
        lambda: Offer("no digest", file),
        lambda: Offer("0" * 64),
        lambda: Offer("0" * 64, file, "ValueError"),
        lambda: Offer("0" * 64, failed="observed 123.4567"),
    ]
    for made in wrong:
        with pytest.raises(LoadError):
            made()
    assert read_offer(packed(Offer("0" * 64, file))) == Offer("0" * 64, file)
    assert read_offer(packed(Offer("0" * 64, failed="OSError"))).digest == "0" * 64


def whole(said: list[bytes]) -> list[bytes]:
    """Everything that was offered, put together again of its chunks."""
    found = []
    for raw in said:
        with suppress(LoadError):
            offer = read_offer(raw)
            if offer.file is not None:
                receiving = Receiving(offer)
                if any(receiving.put(each) for each in said):
                    found.append(receiving.whole() or b"")
    return found


def test_nothing_that_travels_is_an_observation() -> None:
    """Each payload on the line, and all that chunks add up to, in both kinds of reply."""
    executor = start()
    public = PublicStates.of(np.random.default_rng(9).normal(size=(20, 3)).astype(np.float32))
    weights = weights_of(executor)
    requests = (
        Request(1, 2, 64, 10, weights=weights),
        Request(2, 2, 64, 10, answers=True, public=public),
    )

    async def story(field: Field) -> None:
        clients = {name: client(seed, executor) for seed, name in enumerate(("one", "two"))}
        caller = field.serve(*clients)
        for name, each in clients.items():
            field.join(name, each)
        for request in requests:
            raw = write_request(request, executor)
            found = await caller.ask(dict.fromkeys(clients, raw), None)
            assert all(isinstance(each, bytes) for each in found.values())
        said, hidden = field.said(), secrets(clients)
        joined = whole(said)
        assert len(joined) >= 8
        assert len(hidden) > 2 * 2 * 64
        for payload in (*said, *joined):
            assert not [each for each in hidden if each in payload]

    live(story)


def test_names_are_words() -> None:
    """Nothing in a topic is ever anything else; a name stands once."""
    for site, name in (("a/b", "one"), ("plant", "a/b"), ("plant", "#"), ("", "one")):
        with pytest.raises(LoadError):
            Topics(site).of(name, "to/offer")
    assert TOPICS.read("akd/v1/plant/f/one/from/offer") == ("one", "from/offer")
    assert TOPICS.read("akd/v1/other/f/one/from/offer") == ("", "")
    assert TOPICS.read("akd/v1/plant/f/one/from/offer/more") == ("", "")
    hub: Any = Hub().line
    with pytest.raises(ConfigError, match="one stands twice"):
        Remote(hub, SITE, ["one", "one"])
    with pytest.raises(ConfigError, match="patience"):
        Remote(hub, SITE, ["one"], patience=0.0)


def test_a_line_that_cannot_be_made_or_ends_is_told() -> None:
    """Nobody waits for replies that cannot come."""

    def denied(*_: str, will: Any = None) -> Any:
        raise ConfigError(f"no broker, and no {will}")

    with pytest.raises(ConfigError, match="no broker"):
        Remote(denied, SITE, ["one"])
    remote = Remote(lambda *filters, will=None: Hub().line(*filters, will=will), SITE, ["one"])
    remote.close()
    with pytest.raises(AgentkdError, match="was closed"):
        remote.ask({"one": REQUEST}, None)


OPTIONS: Mapping[str, Any] = {"mode": "weights", "clients": ["one", "two"]}
KEPT = Kept(
    7,
    np.arange(3, dtype=np.float32),
    np.arange(5, dtype=np.float32),
    (Round(1, ("one",), {"two": "it did not reply in time"}, 10, 20),),
    frozenset(["one"]),
    agreed=True,
)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    """Each part of it; where there is no file, nothing."""
    path = tmp_path / "kept" / "poles.round"
    assert read_kept(path, OPTIONS, (3,), 5) is None
    write_kept(path, KEPT, OPTIONS)
    found = read_kept(path, OPTIONS, (3,), 5)
    assert found is not None
    assert (found.run, found.rounds, found.told) == (7, KEPT.rounds, KEPT.told)
    assert (found.numbers == KEPT.numbers).all()
    assert (found.vector == KEPT.vector).all()
    assert found.agreed


def test_what_is_kept_of_another_run_is_refused(tmp_path: Path) -> None:
    """The option is named; and what is damaged is refused too."""
    path = tmp_path / "poles.round"
    write_kept(path, KEPT, OPTIONS)
    with pytest.raises(ConfigError, match=r"with mode='weights', and this one has 'answers'"):
        read_kept(path, {**OPTIONS, "mode": "answers"}, (3,), 5)
    for shape, size in (((4,), 5), ((3,), 6)):
        with pytest.raises(LoadError, match=r"poles\.round"):
            read_kept(path, OPTIONS, shape, size)
    write_kept(path, Kept(7, KEPT.numbers * np.float32("nan"), KEPT.vector), OPTIONS)
    with pytest.raises(LoadError, match="numbers"):
        read_kept(path, OPTIONS, (3,), 5)
    for raw in (b"", b"nothing", path.read_bytes()[:-40]):
        path.write_bytes(raw)
        with pytest.raises(LoadError, match=r"poles\.round"):
            read_kept(path, OPTIONS, (3,), 5)
