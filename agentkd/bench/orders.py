"""What is said to a process that measures a cell, and what it says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from agentkd.bench.cells import Cell
from agentkd.errors import WorkerError

MOST_RETURN = 1e100
"""The largest return of an episode that is taken for one, in either direction."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of a cell.

    Attributes:
        returns: The sum of rewards of each episode, in the order of the seeds.
        parameters: How many numbers of the executor were trained; 0 where none acts.
        making: Seconds in which the executor was made; 0 where it was there already.
        seconds: Seconds in all.
    """

    returns: tuple[float, ...]
    parameters: int
    making: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Order:
    """A cell to measure, and the file of its executor, "" where it has no recipe."""

    key: str
    cell: Cell
    file: str


@dataclass(frozen=True, slots=True)
class Done:
    """A cell that was measured, or why not.

    Attributes:
        error: What was raised, in a line; "" if nothing.
        lost: Whether the process that measured it is gone; it may be tried again.
    """

    key: str
    figures: Figures | None = None
    error: str = ""
    lost: bool = False


def order_of(message: bytes) -> Order:
    """Read an order."""
    told = json.loads(message)
    return Order(told["key"], Cell(**told["cell"]), told["file"])


def words_of(done: Done) -> bytes:
    """Write what became of a cell."""
    return json.dumps(asdict(done)).encode()


def done_of(message: bytes) -> Done:
    """Read what became of a cell.

    Raises:
        WorkerError: If it is not what a worker says.
    """
    try:
        told = json.loads(message)
        figures = None if told["figures"] is None else _figures_of(told["figures"])
        return Done(told["key"], figures, told["error"], bool(told["lost"]))
    except (ValueError, KeyError, TypeError) as error:
        raise WorkerError(f"A worker said what cannot be read: {error}.") from error


def _figures_of(told: Any) -> Figures:
    """Make figures of JSON values."""
    return Figures(tuple(map(float, told["returns"])), *(told[k] for k in _NUMBERS))


_NUMBERS = ("parameters", "making", "seconds")
