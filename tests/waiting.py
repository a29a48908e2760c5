"""How tests wait: for an event, under one limit that says nothing about speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

ENOUGH = 300.0
"""Seconds after which a test gives up and fails; nothing is asserted about times.

`timeout` in pyproject.toml is above it, so that a test says what it waited for.
"""


def longer(seconds: float) -> Iterator[float]:
    """Give spans, each four times as long as the one before, ENOUGH in all.

    For what runs for a given time: a busy machine needs a longer one to get anywhere.
    """
    left = ENOUGH
    while seconds < left:
        yield seconds
        left -= seconds
        seconds *= 4


def wait_for(done: Callable[[], Any], state: Callable[[], Any] = str) -> None:
    """Wait until something is so; `state` is called for the message if it is not."""
    end = time.monotonic() + ENOUGH
    while not done():
        assert time.monotonic() < end, state()
        time.sleep(0.002)
