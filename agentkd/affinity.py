"""Which processors a thread may use, while the tick's thread is bound to some of them."""

from __future__ import annotations

import os

UNBOUND: list[set[int]] = []
"""The processors that a thread had before it was bound to some of them, while it is."""


def unbind() -> None:
    """Give this thread the processors that it would have if the tick's thread were not bound."""
    if UNBOUND:
        os.sched_setaffinity(0, UNBOUND[0])
