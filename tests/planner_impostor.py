"""A server of planners that says what a test wants it to say."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from agentkd.frames import MOST_BYTES
from agentkd.planners.remote.line import Line, cut, settings
from agentkd.spec_json import to_json
from tests.runtime_children import SPEC
from tests.waiting import ENOUGH


def about(**more: Any) -> dict[str, Any]:
    """What a server tells of its planner."""
    kinds = {"recurrent": False, "anytime": False, "doubts": True}
    told = {"spec": to_json(SPEC), "name": "x", "horizon": 1, "parameters": 0}
    return {"type": "answer", **told, **kinds, **more}


def introduce(line: Line) -> None:
    """Answer a client's first question as a server does."""
    asked = line.receive(ENOUGH).header
    line.send({**about(), "id": asked["id"], "episode": asked["episode"]}, [], ENOUGH)


@contextmanager
def impostor(talk: Callable[[Line], None]) -> Iterator[str]:
    """A server that does what the test says with each connection; gives its address."""

    def attend(connection: ServerConnection) -> None:
        open_.append(connection)
        line = Line(connection, MOST_BYTES)
        with contextlib.suppress(OSError, ConnectionClosed):
            talk(line)
            connection.recv(ENOUGH)
        line.cut()

    open_: list[ServerConnection] = []
    with serve(attend, "127.0.0.1", 0, **settings(MOST_BYTES)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        for each in open_:
            cut(each.socket)
    thread.join(ENOUGH)
