"""The inside of a worker process."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentkd.errors import AgentkdError, ConfigError, RefError
from agentkd.refs import resolve
from agentkd.runtime.workers.channels import PID, Mailbox, Status
from agentkd.runtime.workers.host import HOPELESS, RAISED


@dataclass(slots=True)
class Child:
    """What a worker's function gets: what the factory made, its orders, and the channels.

    `shared` has the channels' handles by name; `status` shows its state; `words` takes errors.
    """

    made: Any
    orders: Mapping[str, Any]
    shared: Mapping[str, Sequence[int]]
    status: Status
    words: Mailbox

    def mailbox(self, name: str) -> Mailbox:
        """Open a shared mailbox."""
        return Mailbox.attach(self.shared[name])

    def say(self, text: str) -> None:
        """Send a text to the parent; only its end if it is too long."""
        self.words.write(text.encode(errors="backslashreplace")[-self.words.size :])


def describe(error: BaseException) -> str:
    """Describe an error: ours by its message, others by their traceback."""
    if isinstance(error, AgentkdError):
        cause = f" ({error.__cause__!r})" if error.__cause__ else ""
        return f"{type(error).__name__}: {error}{cause}"
    return "".join(traceback.format_exception(error)).strip()


def main(told: Mapping[str, Any]) -> None:
    """Make what the host named, and serve until told to end."""
    shared = told["shared"]
    status = Status.attach(shared["status"])
    status[PID] = os.getpid()
    child = Child(None, told["orders"], shared, status, Mailbox.attach(shared["words"]))
    code = RAISED
    try:
        child.made = resolve(told["factory"])(**told["arguments"])
        resolve(told["serve"])(child)
    except (RefError, ConfigError) as error:
        # Another start would end the same way.
        code = RAISED if status.ready else HOPELESS
        child.say(describe(error))
    except Exception as error:
        child.say(describe(error))
    else:
        return
    sys.stdout.flush()
    os._exit(code)
