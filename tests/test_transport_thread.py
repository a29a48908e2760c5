"""A line in a thread of its own: it begins, says what it ended in, and ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable

import pytest

from agentkd.errors import AgentkdError
from agentkd.transport.thread import LineThread


async def hold(begin: Callable[[], None]) -> None:
    """Hold a line over which nothing comes."""
    begin()
    await asyncio.Event().wait()


async def name() -> str:
    """Return the thread that runs this."""
    return threading.current_thread().name


def test_it_runs_what_it_is_given() -> None:
    """In its thread, once the line is held."""
    line = LineThread(hold, "a line", "the desk")
    assert line.alive
    assert line.call(name()) == "a line"
    came = threading.Event()
    line.post(came.set)
    assert came.wait(300)
    line.close()


def test_closing_ends_the_thread() -> None:
    """A later call says so; later posts do nothing."""
    line = LineThread(hold, "a line", "the desk")
    line.close()
    assert not line.alive
    line.post(lambda: None)
    with pytest.raises(AgentkdError, match="The line to the desk was closed"):
        line.call(name())
    line.close()


def test_closing_from_another_thread_ends_a_call() -> None:
    """What waits for an answer does not wait for ever."""
    line, asked = LineThread(hold, "a line", "the desk"), threading.Event()

    async def forever() -> None:
        asked.set()
        await asyncio.Event().wait()

    def close() -> None:
        asked.wait()
        line.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(AgentkdError, match="was closed"):
        line.call(forever())
    closing.join()


def test_an_error_before_it_has_begun_is_raised() -> None:
    """As it is, where the line is made."""

    async def fails(_: Callable[[], None]) -> None:
        raise OSError("ca.pem is missing.")

    with pytest.raises(OSError, match=r"ca\.pem is missing"):
        LineThread(fails, "a line", "the desk")


def test_an_error_after_it_has_begun_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """In the log, and to the next call."""

    async def fails(begin: Callable[[], None]) -> None:
        begin()
        raise OSError("The wire is cut.")

    line = LineThread(fails, "a line", "the desk")
    with pytest.raises(AgentkdError, match=r"ended in an error: The wire is cut\."):
        line.call(name())
    assert isinstance(line.fault, OSError)
    assert "The line to the desk ended in an error." in caplog.text


def test_a_thread_that_cannot_begin_leaves_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is raised, and nothing is left open."""

    def fails() -> None:
        raise OSError("No such processor.")

    monkeypatch.setattr("agentkd.transport.thread.unbind", fails)
    gc.collect()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with pytest.raises(OSError, match="No such processor"):
            LineThread(hold, "a line", "the desk")
        gc.collect()
    assert found == []
