"""Work in stages, so that a loop in a hurry can do one at a time."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Staged = Generator[str, None, T]
"""Does one stage at each step, yields the name of the next one, and returns the result."""


def finish(staged: Staged[T]) -> T:
    """Do all the stages that are left; return the result."""
    while True:
        try:
            next(staged)
        except StopIteration as end:
            result: T = end.value
            return result
