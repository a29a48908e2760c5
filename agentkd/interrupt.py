"""Ctrl-C as a question that is asked where it does no harm."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def ctrl_c(patience: int = 1) -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question that is asked between two steps.

    Raised anywhere, it could leave half-changed weights. It is noted `patience` times,
    and then raised. What an outer block of this kind has noted counts here, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    presses = _Presses(patience, before.count if isinstance(before, _Presses) else 0)
    signal.signal(signal.SIGINT, presses)
    try:
        yield lambda: presses.count > 0
    finally:
        signal.signal(signal.SIGINT, before)


class _Presses:
    """Counts Ctrl-C, and raises it once patience is over."""

    def __init__(self, patience: int, count: int) -> None:
        self.patience, self.count = patience, count

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > self.patience:
            signal.default_int_handler(number, frame)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, such as while results are written.

    The third one is raised at once, for a disk that does not answer.

    Raises:
        KeyboardInterrupt: At the end of the block, if Ctrl-C came.
    """
    with ctrl_c(patience=2) as asked:
        yield
    if asked():
        raise KeyboardInterrupt
