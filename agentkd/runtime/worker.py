"""The inside of a worker process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import threading
import traceback
from pathlib import Path

from agentkd.errors import AgentkdError
from agentkd.refs import resolve
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.memory import Segment
from agentkd.runtime.process import MOST_NICE, RAISED
from agentkd.runtime.status import Status


def describe(error: BaseException) -> str:
    """Tell an error: our own by its message, others with their traceback."""
    if isinstance(error, AgentkdError):
        cause = f" ({error.__cause__!r})" if error.__cause__ else ""
        return f"{type(error).__name__}: {error}{cause}"
    return "".join(traceback.format_exception(error)).strip()


def say(words: Mailbox, text: str) -> None:
    """Send a text to the parent, its end where it is too long."""
    words.write(text.encode(errors="backslashreplace")[-words.size :])


def end_with_parent() -> None:
    """End this process when the parent's end of standard input closes.

    The kernel sends SIGIO then, which ends a process even while its only thread is
    deep in a library; a thread does the same where pipes send no signal.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(0, fcntl.F_GETFL)
        fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)

    def watch() -> None:
        select.select([0], [], [])
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def stand_back(nice: int) -> None:
    """Let everybody who is not as nice as can be go first, where the system can.

    A process of niceness 19 keeps the processor that it has for a while after an
    ordinary one wants it; one of SCHED_IDLE gives it up at once, which ticks notice.
    """
    if nice < MOST_NICE or not hasattr(os, "SCHED_IDLE"):
        return
    # Threads that libraries have started already as well.
    for thread in threads():
        with contextlib.suppress(OSError):
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def threads() -> list[int]:
    """The threads of this process, by the system's numbers; 0 where it tells none."""
    try:
        return [int(each.name) for each in Path("/proc/self/task").iterdir()]
    except OSError:
        return [0]


def main() -> None:
    """Read the orders, make what they name, and serve until told to end."""
    orders = json.loads(sys.stdin.buffer.readline())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if orders["nice"]:
        os.nice(orders["nice"])
    fd, size = orders["status"]
    status = Status(Segment(size, fd))
    words = Mailbox.attach(*orders["words"])
    try:
        made = resolve(orders["factory"])(**orders["arguments"])
        stand_back(orders["nice"])
        resolve(orders["serve"])(orders, made, status, words)
    except Exception as error:
        say(words, describe(error))
        sys.stdout.flush()
        os._exit(RAISED)
