"""The inside of a worker process."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from agentkd.errors import AgentkdError, ConfigError, RefError
from agentkd.refs import resolve
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.memory import Segment
from agentkd.runtime.process import HOPELESS, RAISED
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


def main(orders: Mapping[str, Any]) -> None:
    """Make what the orders name, and serve until told to end."""
    fd, size = orders["status"]
    status = Status(Segment(size, fd))
    status.set_pid(os.getpid())
    words = Mailbox.attach(*orders["words"])
    code = RAISED
    try:
        made = resolve(orders["factory"])(**orders["arguments"])
        resolve(orders["serve"])(orders, made, status, words)
    except (RefError, ConfigError) as error:
        # Another start would end the same way.
        code = RAISED if status.ready else HOPELESS
        say(words, describe(error))
    except Exception as error:
        say(words, describe(error))
    else:
        return
    sys.stdout.flush()
    os._exit(code)
