"""A line that ends while it is used: nobody waits for ever, and nobody hides why."""

from __future__ import annotations

import asyncio
import runpy
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentkd.distillation.federated import Remote
from agentkd.errors import AgentkdError
from agentkd.transport.transport import Received
from tests.waiting import ENOUGH

EXAMPLE = Path(__file__).parents[1] / "examples" / "federated.py"


def test_a_call_to_a_loop_that_is_closing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken after the loop has cancelled what it knows, and never finished."""
    closing, called = threading.Event(), threading.Event()

    async def late() -> AsyncIterator[None]:
        # asyncio closes it after it has cancelled all tasks, and before the loop.
        try:
            yield
        finally:
            closing.set()
            called.wait(ENOUGH)

    class Line:
        def __init__(self, *_: str) -> None:
            self.late = late()

        async def receive(self) -> AsyncIterator[Received]:
            await anext(self.late)
            yield Received("", b"", connected=True)
            raise RuntimeError("the broker refused")

        def send(self, _: Any) -> bool:
            return True

        async def aclose(self) -> None:
            pass

    call = asyncio.run_coroutine_threadsafe

    def calls(*given: Any) -> Any:
        assert closing.wait(ENOUGH)
        future = call(*given)
        called.set()
        return future

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", calls)
    connect: Any = Line
    remote, said = Remote(connect, "plant", ["one"]), []

    def ask() -> None:
        try:
            remote.ask({"one": b"x"}, None)
        except AgentkdError as error:
            said.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ENOUGH)
    assert said == ["The line to the clients ended in an error: the broker refused."]


def test_the_example_tells_why_a_device_ended() -> None:
    """It raises, so that its exit status is not 0."""
    example = runpy.run_path(str(EXAMPLE))
    closed: list[bool] = []
    client = SimpleNamespace(close=lambda: closed.append(True))
    join = example["join"]
    join.__globals__["open_client"] = lambda *_, **__: client

    def refused(*_: str, will: Any = None) -> Any:
        raise ConnectionError(f"wrong certificate, {will}")

    with pytest.raises(ConnectionError, match="wrong certificate"):
        join(refused, "short")
    assert closed
