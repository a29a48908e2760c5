"""The live page as the agent's process has it: what is shown goes out, wishes come in.

The page is served by a process of its own (`agentkd.runtime.live.server`). Between ticks, news is
written into shared memory, where the newest replaces the oldest: nothing that a browser does, or
does not do, holds a tick up. While no browser looks, nothing is written.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Self, final

import numpy as np

from agentkd.errors import ConfigError, check_range
from agentkd.executors.staged import Staged, finish
from agentkd.extras import needing
from agentkd.printable import logger
from agentkd.runtime.live.feed import Feed
from agentkd.runtime.workers.channels import STEPS, Bell, Handle, Mailbox
from agentkd.runtime.workers.host import Host, Process

log = logger(__name__)

_NEWS, _ORDERS = 1 << 16, 512
"""Bytes of a message to the page, and of one from it."""
SIDE = 240
"""Pixels of a frame's longer side at most."""
SIZE = struct.Struct("<HH")
"""Before a frame's bytes: its width and height."""
_SHOW, _FRAME = 0.1, 0.2
"""Seconds between two messages, and between two frames."""
_LOOK = 0.005
"""Seconds between two looks for a wish, while the ticks are held."""
_ALONE = 3.0
"""Seconds without a browser after which what was paused or slowed goes on."""
MOST_LATENCY, MOST_PACE = 200, 1000.0
"""The largest latency that can be wished for, in ticks, and the largest pace."""


@final
class _Listener:
    """A port of this machine that another process listens at."""

    def __init__(self, port: int) -> None:
        check_range("port", port, least=0, most=65535, hint="0 takes a free one.", whole=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(32)
        except OSError as error:
            self._socket.close()
            raise ConfigError(
                f"Port {port} at 127.0.0.1 is not available: {error.strerror or error}. "
                "Another one, or 0 for any that is free?"
            ) from error
        self.port = int(self._socket.getsockname()[1])

    def handle(self) -> Handle:
        """Return what the other process needs."""
        return Handle(self._socket.fileno(), 0)

    def close(self) -> None:
        """Close the port."""
        self._socket.close()


@final
class LivePage:
    """A page in the browser that shows an agent while it lives, and may hold a virtual clock.

        with LivePage() as page:
            print(page.address)
            result = Agent("mlp:32", spec, planner="robot:Regulator", live=page).run(robot, …)

    It is reached from this machine only, by an address with a token that is drawn afresh. It shows
    one agent at a time; the next one takes its place. On a wall clock the page only shows: nothing
    in it stops or slows a robot's ticks. On a virtual clock it may pause, step, set the pace, and
    change the planner's latency; `changes` then tells what was changed.

    Args:
        port: The port; 0 for one that is free.
        pace: How fast a virtual clock runs at first, in multiples of real time; 0 for as fast as
            it can.

    Attributes:
        address: What to open in the browser.
        title: What is shown now, such as an arm's name.
        changes: Latencies that were wished for, as (title, tick, ticks).

    Raises:
        ConfigError: If the port is not available, or the package websockets is missing.
    """

    def __init__(self, port: int = 0, *, pace: float = 1.0) -> None:
        check_range("pace", pace, least=0, most=MOST_PACE)
        with needing("The live page"):
            import_module("websockets")
        self._listener = _Listener(port)
        token = secrets.token_urlsafe(16)
        self.address = f"http://127.0.0.1:{self._listener.port}/{token}/"
        self.title, self.pace = "", pace
        self.changes: list[tuple[str, int, int]] = []
        self._news, self._orders = Mailbox(_NEWS, 16), Mailbox(_ORDERS, 16)
        self._frames = Mailbox(SIZE.size + 3 * SIDE * SIDE, 2)
        self._bell = Bell()
        told = {"token": token, "port": self._listener.port}
        shared: dict[str, Any] = {
            "listener": self._listener,
            "bell": self._bell,
            "news": self._news,
            "orders": self._orders,
            "frames": self._frames,
        }
        serve = "agentkd.runtime.live.server:serve"
        self._host = Host("live page", Process("builtins:dict", told), serve, {}, shared)
        self._feed, self._facts = Feed(None), _nothing
        self._delay: Callable[[int], object] | None = None
        self._about: dict[str, Any] = {}
        self._render: Callable[[], Any] | None = None
        self._renders = 0
        """The thread that may render: the one that steps the environment."""
        self._run = 0
        self._virtual = self._paused = self._paced = False
        self._steps, self._due = 0, 0.0
        self._shown = self._framed = self._watched_at = 0.0

    def __enter__(self) -> Self:
        self._host.check()
        return self

    def __exit__(self, *_: object) -> None:
        self._host.close()

    def await_ready(self, timeout: float | None = None) -> None:
        """Wait until a browser can open it, or raise a WorkerError."""
        self._host.await_ready(timeout)

    @property
    def watched(self) -> bool:
        """Whether a browser looks at it."""
        return self._host.ready and self._host.status[STEPS] > 0

    def begin(
        self,
        feed: Feed,
        facts: Callable[[], Mapping[str, Any]],
        *,
        period: float | None,
        virtual: bool,
        latency: int | None = None,
        delay: Callable[[int], object] | None = None,
    ) -> None:
        """Show another agent from now on.

        Args:
            feed: What its ticks note.
            facts: Returns its counts, as JSON values.
            period: Seconds from tick to tick.
            virtual: Whether its clock is virtual, so that the page may hold it.
            latency: The planner's latency in ticks, where it is set.
            delay: Sets that latency, where it can be set.
        """
        self._feed, self._facts, self._virtual = feed, facts, virtual
        self._delay = delay if virtual else None
        self._render, self._paused, self._steps = None, False, 0
        self._run += 1
        self._about = {
            "run": self._run,
            "period": period,
            "virtual": virtual,
            "latency": latency,
            "delays": self._delay is not None,
            "frames": "",
        }

    def entitle(self, title: str, pace: float) -> None:
        """Say what is shown from now on, and how fast, unless the page has chosen a pace."""
        self.title = title
        if not self._paced:
            self.pace = pace

    # What follows runs between ticks.

    def showing(self) -> Iterator[str]:
        """Look after the page's process, and tell it what is new; a chore of a wall clock."""
        self._host.check()
        self._obey()
        if self.watched:
            yield "lay out"
            self._show()

    def look_at(self, env: Any) -> float:
        """Take frames from an environment that renders arrays, in this thread.

        Returns:
            How many seconds one takes; NaN where there are none.
        """
        if getattr(env, "render_mode", None) != "rgb_array":
            return math.nan
        self._render, self._renders = env.render, threading.get_ident()
        self.show_frame()  # the first one is slow
        began = time.perf_counter()
        self.show_frame()
        taken = time.perf_counter() - began
        return taken if self._render is not None else math.nan

    def without_frames(self, why: str) -> None:
        """Show no frames, and say why."""
        self._render, self._about["frames"] = None, why

    def show_frame(self) -> None:
        """Render a frame and hand it over, made smaller by leaving pixels out.

        Cameras and contexts of a renderer belong to the thread that steps the environment: chores
        that another one does in its stead, while a step takes long, render nothing.
        """
        if self._render is None or threading.get_ident() != self._renders:
            return
        try:
            frame = np.asarray(self._render())
            if frame.ndim != 3 or frame.shape[2] < 3 or frame.dtype != np.uint8 or not frame.size:
                raise ConfigError(f"render gave {frame.dtype} of shape {frame.shape}.")  # noqa: TRY301
        except Exception as error:  # a renderer raises anything
            self.without_frames(f"No frames: {error!s:.200}")
            return
        every = -(-max(frame.shape[:2]) // SIDE)
        small = np.ascontiguousarray(frame[::every, ::every, :3])
        self._frames.write(SIZE.pack(small.shape[1], small.shape[0]) + small.tobytes())
        self._bell.ring()

    def framing(self) -> Staged[None]:
        """Show a frame if a browser looks and the last one is old enough; a chore."""
        now = time.monotonic()
        if self._render is not None and now - self._framed >= _FRAME and self.watched:
            self._framed = now
            yield "render"
            self.show_frame()

    def hold(self, stopped: Callable[[], bool]) -> None:
        """Let a virtual clock wait for its pace, or while it is paused; called before each tick."""
        self._tell()
        while self._paused and not self._steps and not stopped():
            time.sleep(_LOOK)
            self._tell()
        if self._steps:
            self._steps -= 1
            self._due = 0.0
            return
        period = self._about["period"] or 0.0
        self._due = max(self._due, time.monotonic() - period)
        # Waiting in short sleeps, so that another pace counts at once.
        while self.pace and not self._paused and not stopped():
            left = self._due - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, _LOOK))
            self._tell()
        self._due += period / self.pace if self.pace else 0.0

    def _tell(self) -> None:
        """Do what was wished for, and show what is new ten times a second."""
        self._obey()
        now = time.monotonic()
        if now - self._shown < _SHOW:
            return
        self._shown = now
        self._host.check()
        if self.watched:
            self._watched_at = now
            self._show()
            finish(self.framing())
        elif now - self._watched_at > _ALONE:
            self._paused = False
            if self._paced and 0 < self.pace < 1:
                # Nobody is there to see it slowly.
                self.pace = 1.0

    def _show(self) -> None:
        state = {"title": self.title, "paused": self._paused, "pace": self.pace}
        news = {**self._about, **state, **self._feed.take(), **self._facts()}
        text = json.dumps(news, default=str).encode()
        with contextlib.suppress(ConfigError):  # too large: the next one tells more
            self._news.write(text)
        self._bell.ring()

    def _obey(self) -> None:
        if not self._orders.waiting():
            return
        for message in self._orders.take():
            with contextlib.suppress(ValueError, TypeError):
                self._do(json.loads(message))

    def _do(self, order: Mapping[str, Any]) -> None:
        """Do what was wished for, on a virtual clock only."""
        if not self._virtual:
            return
        match order:
            case {"do": "pause"}:
                self._paused, self._steps = True, 0
            case {"do": "go"}:
                self._paused, self._due = False, 0.0
            case {"do": "step"}:
                self._paused, self._steps = True, self._steps + 1
            case {"do": "pace", "value": float() | int() as pace} if 0 <= pace <= MOST_PACE:
                self.pace, self._due, self._paced = float(pace), 0.0, True
            case {"do": "latency", "value": int() as ticks} if 0 <= ticks <= MOST_LATENCY:
                if self._delay is not None and ticks != self._about["latency"]:
                    self._delay(ticks)
                    self._about["latency"] = ticks
                    self.changes.append((self.title, self._feed.tick, ticks))


def _nothing() -> Mapping[str, Any]:
    return {}
