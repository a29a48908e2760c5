"""Clients on other machines: a round's requests go out over a transport, and replies come back."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, final

from agentkd.distillation.federated.wire import (
    Offer,
    Receiving,
    Sending,
    Topics,
    read_boot,
    read_offer,
)
from agentkd.errors import AgentkdError, ConfigError, LoadError, check_range
from agentkd.printable import logger
from agentkd.runtime.workers.priority import unbind
from agentkd.transport.blobs import CHUNK, need, read_need
from agentkd.transport.names import device_name
from agentkd.transport.transport import Connect, Message, Transport

log = logger(__name__)

LARGEST = 1 << 22
"""Bytes of a reply that are taken: a million weights."""
_AWAY = "it is not connected"
_LOOK = 0.5
"""Seconds after which one who waits looks whether the line is still there."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A client that was asked, and what came of it."""

    sending: Sending
    away: float
    """When it was heard last, or the line began."""
    arriving: Receiving | None = None
    outcome: bytes | str | None = None


@final
class Caller:
    """Asks clients over a line, in one event loop.

    Args:
        line: The line, made with `Topics.server`.
        topics: The site's.
        names: The clients; what comes from others is ignored.
        patience: Seconds for which a client may be away before a round goes on without it.
        largest: Bytes of a reply at most.
        chunk: Bytes of a chunk.
    """

    def __init__(
        self,
        line: Transport,
        topics: Topics,
        names: Sequence[str],
        *,
        patience: float = 10.0,
        largest: int = LARGEST,
        chunk: int = CHUNK,
    ) -> None:
        self.present: dict[str, str] = {}
        """The boots of those who are there, by client."""
        self.strange: Counter[str] = Counter()
        """Messages that were not what they should be, by kind."""
        self._line, self._topics, self._names = line, topics, frozenset(names)
        self._patience, self._largest, self._chunk = patience, largest, chunk
        self._asked: dict[str, _Asked] = {}
        self._began: float | None = None
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Take what comes, until it is cancelled."""
        async for each in self._line.receive():
            if each.connected:
                self._began = asyncio.get_running_loop().time()
                for asked in self._asked.values():
                    asked.away = self._began
                    asked.sending.renew()
            else:
                self._take(each.topic, each.payload)
            self._news.set()

    async def ask(
        self, requests: Mapping[str, bytes], seconds: float | None
    ) -> dict[str, bytes | str]:
        """Ask each client, and wait for replies; see `Clients.ask`."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        end = float("inf") if seconds is None else begun + seconds
        self._asked = {
            name: _Asked(
                Sending(self._line.send, self._topics, name, "to", raw, chunk=self._chunk), begun
            )
            for name, raw in requests.items()
        }
        try:
            while missing := [n for n, each in self._asked.items() if each.outcome is None]:
                now = clock()
                if now >= end:
                    break
                self._news.clear()
                due = min(end, *(self._turn(name, now) for name in missing))
                # Not wait_for: that of Python 3.11 may swallow a cancellation.
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - clock())):
                        await self._news.wait()
            found = {n: each.outcome for n, each in self._asked.items()}
            return {name: outcome for name, outcome in found.items() if outcome is not None}
        finally:
            self._asked = {}

    def _turn(self, name: str, now: float) -> float:
        """Offer a client its request if that is due, or give it up; return when to look again."""
        asked = self._asked[name]
        if name in self.present or self._began is None:
            asked.away = now
        elif now >= asked.away + self._patience:
            asked.outcome = _AWAY
            return now
        if now >= asked.sending.due:
            # Also what it has: a client that was started anew has nothing.
            asked.sending.offer(now)
        return min(asked.sending.due, asked.away + self._patience)

    def _take(self, topic: str, payload: bytes) -> None:
        """Take a message; one that is not what it should be is counted and ignored."""
        name, what = self._topics.read(topic)
        if name not in self._names:
            self._ignore("client", f"{name or topic} is none of the clients")
            return
        now = asyncio.get_running_loop().time()
        asked = self._asked.get(name)
        if asked is not None:
            asked.away = now
        try:
            if what == "here":
                self._met(name, read_boot(payload))
            elif what == "offer":
                self._offered(name, read_offer(payload))
            elif what == "need" and asked is not None:
                asked.sending.needed(read_need(payload), now)
            elif what == "chunk" and asked is not None:
                self._came(name, asked, payload)
        except LoadError as error:
            self._ignore(what, f"{name}: {error}")

    def _met(self, name: str, boot: str) -> None:
        """Note that a client is there, or gone."""
        asked, before = self._asked.get(name), self.present.pop(name, "")
        if asked is not None and boot and boot != before:
            asked.sending.renew()
        if boot:
            self.present[name] = boot

    def _offered(self, name: str, offer: Offer) -> None:
        """Answer the offer of a reply with what is missing of it."""
        asked = self._asked.get(name)
        if asked is None or asked.sending.offered.request != offer.request:
            self._have(name, offer)  # it is too late
            if asked is not None:
                asked.sending.renew()
            return
        file = offer.file
        if asked.outcome is None:
            if file is None:
                asked.outcome = f"it failed with {offer.failed}, and its own log says why"
            elif file.size > self._largest:
                asked.outcome = (
                    f"a reply of {file.size:,} bytes; at most {self._largest:,} are taken "
                    "(largest=)"
                )
            elif asked.arriving is None or asked.arriving.offer != offer:
                asked.arriving = Receiving(offer)
        if asked.outcome is not None:
            self._have(name, offer)
        elif asked.arriving is not None:
            self._send(name, asked.arriving.need.to_bytes())

    def _came(self, name: str, asked: _Asked, payload: bytes) -> None:
        """Take a chunk of a reply."""
        arriving = asked.arriving
        if arriving is not None and asked.outcome is None and arriving.put(payload):
            asked.outcome = arriving.whole() or "its reply is not what it offered"
            self._have(name, arriving.offer)

    def _have(self, name: str, offer: Offer) -> None:
        """Say that nothing is missing of what a client offers."""
        self._send(name, need(offer.digest, ()).to_bytes())

    def _send(self, name: str, payload: bytes) -> None:
        self._line.send(Message(self._topics.of(name, "to", "need"), payload))

    def _ignore(self, kind: str, why: str) -> None:
        """Count a message; the first of a kind is logged."""
        self.strange[kind] += 1
        if self.strange[kind] == 1:
            log.warning("A message was ignored, and others of its kind will be: %s", why)


@final
@dataclass(slots=True)
class _Held:
    """A loop in a thread, and what is in it."""

    loop: asyncio.AbstractEventLoop | None = None
    task: asyncio.Task[None] | None = None
    caller: Caller | None = None
    fault: Exception | None = None
    begun: threading.Event = field(default_factory=threading.Event)


@final
class Remote:
    """Clients on other machines, reached over a transport. It is a `Clients`.

        connect = partial(MqttTransport, MqttOptions("mqtts://broker:8883"))
        with Remote(connect, "plant", ["arm-1", "arm-2"]) as clients:
            result = federate(clients, executor, timeout=600)

    Each client is a `Member`, in a program of its own. Give `federate` a time limit: a client that
    is there and never replies is waited for otherwise. One that is away for longer than `patience`
    is left out of the round, and asked again in the next one.

    Args:
        connect: Makes the transport: `Hub.line`, or `partial(MqttTransport, options)`.
        site: The name of the fleet.
        names: The devices that take part. The broker has to vouch for their names: `agentkd fleet
            setup` makes rules for mosquitto.
        patience: Seconds for which a client may be away.
        largest: Bytes of a reply at most; four for each weight, and some more.

    Raises:
        LoadError: If a name is not one word.
        ConfigError: If a name stands twice, or a number is out of its range.
        Exception: What `connect` raises.
    """

    def __init__(
        self,
        connect: Connect,
        site: str,
        names: Sequence[str],
        *,
        patience: float = 10.0,
        largest: int = LARGEST,
    ) -> None:
        check_range("patience", patience, above=0)
        check_range("largest", largest, least=1)
        self.names = tuple(device_name(each) for each in names)
        if twice := [each for each in self.names if self.names.count(each) > 1]:
            raise ConfigError(f"The client {twice[0]} stands twice among the names.")
        topics, held = Topics(site), _Held()
        self._held = held

        async def hold() -> None:
            line = connect(topics.server())
            held.caller = Caller(line, topics, self.names, patience=patience, largest=largest)
            held.loop, held.task = asyncio.get_running_loop(), asyncio.current_task()
            held.begun.set()
            try:
                await held.caller.run()
            finally:
                await line.aclose()

        def work() -> None:
            try:
                unbind()
                asyncio.run(hold())
            except asyncio.CancelledError:
                pass
            except Exception as error:  # it is raised where replies are waited for
                held.fault = error
            finally:
                held.begun.set()

        self._thread = threading.Thread(target=work, name="federated", daemon=True)
        self._thread.start()
        held.begun.wait()
        if held.caller is None:
            self._thread.join()
            assert held.fault is not None
            raise held.fault

    def ask(
        self, requests: Mapping[str, bytes], timeout: float | None
    ) -> Mapping[str, bytes | str]:
        """Send each client its request, and wait for the replies.

        Raises:
            AgentkdError: If the line ended in an error, or was closed.
        """
        held = self._held
        assert held.loop is not None
        assert held.caller is not None
        asking = held.caller.ask(requests, timeout)
        try:
            future = asyncio.run_coroutine_threadsafe(asking, held.loop)
        except RuntimeError as error:
            asking.close()
            raise self._ended() from error
        try:
            # A loop that is closing takes calls that it does not finish.
            while self._thread.is_alive() and not wait((future,), _LOOK).done:
                pass
            if not future.done():
                asking.close()
                raise self._ended()
            return future.result()
        except CancelledError as error:
            raise self._ended() from error
        finally:
            if not held.loop.is_closed():
                future.cancel()

    def close(self) -> None:
        """End the line."""
        held = self._held
        if held.loop is not None and held.task is not None and not held.loop.is_closed():
            held.loop.call_soon_threadsafe(held.task.cancel)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End the line."""
        self.close()

    def _ended(self) -> AgentkdError:
        self._thread.join()
        fault = self._held.fault
        said = "was closed" if fault is None else f"ended in an error: {fault}"
        return AgentkdError(f"The line to the clients {said}.")
