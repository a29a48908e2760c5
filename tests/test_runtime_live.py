"""The live page: it shows an agent, holds nothing but a virtual clock, and lets no stranger in."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as client
from websockets.typing import Origin

from agentkd.errors import ConfigError
from agentkd.runtime import Agent, RunResult
from agentkd.runtime.codec import Answer
from agentkd.runtime.live.feed import Feed
from agentkd.runtime.live.page import SIZE, LivePage
from agentkd.runtime.live.summary import Summary
from agentkd.runtime.recorder import Recorder
from tests.deploy_browser import chromium
from tests.report_axe import violations
from tests.runtime_children import Echo, Steps, constant
from tests.waiting import ENOUGH, wait_for


class Seen(Steps):
    """An environment that renders arrays."""

    render_mode = "rgb_array"
    shape: tuple[int, ...] = (300, 480, 3)

    def render(self) -> Any:
        frame = np.zeros(self.shape, np.uint8)
        frame[..., 0] = 200
        return frame


@pytest.fixture
def page() -> Iterator[LivePage]:
    with LivePage(pace=0.0) as made:
        made.await_ready(ENOUGH)
        yield made


def socket_of(page: LivePage, origin: str | None = None, path: str = "ws") -> ClientConnection:
    address = page.address.replace("http://", "ws://") + path
    own = Origin(page.address.rsplit("/", 2)[0] if origin is None else origin)
    return client(address, origin=own, open_timeout=ENOUGH)


def states(connection: ClientConnection) -> Iterator[dict[str, Any]]:
    """States as they come; frames are left out."""
    while True:
        told = connection.recv(ENOUGH)
        if isinstance(told, str):
            yield json.loads(told)


def until(connection: ClientConnection, so: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    return next(state for state in states(connection) if so(state))


def wish(connection: ClientConnection, what: str, value: Any = None) -> None:
    connection.send(json.dumps({"do": what, "value": value}))


@contextlib.contextmanager
def running(agent: Agent, env: Any, **how: Any) -> Iterator[list[RunResult]]:
    """An agent that runs in a thread until the block ends."""
    ended: list[RunResult] = []
    thread = threading.Thread(target=lambda: ended.append(agent.run(env, **how)), daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        agent.stop()
        thread.join(ENOUGH)
        assert not thread.is_alive()


def test_a_feed_hands_everything_on_and_keeps_the_newest() -> None:
    """The recorder that was there gets each word; what is shown is taken once."""
    heard: list[str] = []

    class Log(Recorder):
        def decide(self, *what: Any) -> None:
            heard.append(what[2])

        def score(self, score: float) -> None:
            heard.append(f"score {score}")

    feed = Feed(Log())
    feed.observe(7, 2, 500, np.zeros(1, np.float32))
    feed.hear(Answer(1, 2, 4, 1, 0.1, 0.2, None))
    feed.decide(0, "executor", "late", 3, 2000)
    feed.score(1.5)
    feed.score(2.0)
    taken = feed.take()
    assert taken["ticks"] == [(7, "executor", "late", 2000, 500)]
    assert taken["answers"] == [(7, 4, 0.2, 0, False)]
    assert (taken["return"], taken["returns"]) == (3.5, [])
    feed.reset(3)
    assert feed.take()["returns"] == [3.5]
    assert feed.take()["ticks"] == []
    assert heard == ["late", "score 1.5", "score 2.0"]


def test_a_summary_keeps_the_newest_and_begins_afresh() -> None:
    """Figures are those of the newest ticks; another run forgets the one before."""
    summary = Summary()
    assert summary.state() == {}
    news = {"run": 1, "answers": [[5, 2, 0.1, 1, False]], "returns": [4.0], "tick": 9}
    ticks = [
        [i, "executor", "guided" if i == 999 else "late", 1000 * (i + 1), 0] for i in range(1000)
    ]
    summary.take({**news, "ticks": ticks})
    state = summary.state()
    assert len(state["who"]) == len(state["times"]) == 400
    assert state["who"][-2:] == ["executor", "guided"]
    assert state["p50"] == pytest.approx(800.5)
    assert sum(count for *_, count in state["bars"]) == 1000
    summary.take({**news, "run": 2, "ticks": [], "answers": []})
    assert summary.state()["who"] == []
    assert summary.state()["returns"] == [4.0]


def test_a_browser_sees_who_decides_and_what_came(page: LivePage) -> None:
    """Ticks, answers with their age, the return and frames come, newest first."""
    agent = Agent(constant(0), planner=Echo(), planner_latency=3, live=page)
    page.title = "runtime"
    with socket_of(page) as seen, running(agent, Seen(), clock="virtual", ticks=10**9, seed=0):
        state = until(seen, lambda state: state["answers"] and len(state["who"]) > 8)
        assert state["title"] == "runtime"
        assert state["virtual"] is True
        assert state["latency"] == 3
        assert {"executor"} <= set(state["who"]) <= {"executor", "strategy", "hold"}
        assert all(came - saw == 3 for came, saw, *_ in state["answers"])
        assert state["return"] is not None
        frame = next(told for told in seen if isinstance(told, bytes))
        width, height = SIZE.unpack_from(frame)
        assert (width, height) == (240, 150)
        assert len(frame) == SIZE.size + 3 * width * height
        assert frame[SIZE.size] == 200


def test_a_virtual_clock_is_paused_and_stepped(page: LivePage) -> None:
    """While it is paused no tick comes; a step is one tick; then it goes on."""
    agent = Agent(constant(0), live=page)
    with socket_of(page) as seen, running(agent, Steps(), clock="virtual", ticks=10**9):
        until(seen, lambda state: state["tick"] > 10)
        wish(seen, "pause")
        paused = until(seen, lambda state: state["paused"])["tick"]
        assert until(seen, lambda state: True)["tick"] == paused
        for _ in range(3):
            wish(seen, "step")
            stepped = until(seen, lambda state: state["tick"] > paused)["tick"]  # noqa: B023
            assert stepped == paused + 1
            paused = stepped
        wish(seen, "go")
        until(seen, lambda state: state["tick"] > paused + 100)


def test_a_pause_ends_with_the_run_or_the_last_browser(page: LivePage) -> None:
    """A run that is paused stops when it is told to, and goes on when nobody looks any more."""
    agent = Agent(constant(0), live=page)
    with running(agent, Steps(), clock="virtual", ticks=10**9):
        with socket_of(page) as seen:
            until(seen, lambda state: state["tick"] > 0)
            wish(seen, "pause")
            paused = until(seen, lambda state: state["paused"])["tick"]
        wait_for(lambda: page._feed.tick > paused)
        with socket_of(page) as seen:
            until(seen, lambda state: state["tick"] > 0)
            wish(seen, "pause")
            until(seen, lambda state: state["paused"])


def test_a_slow_pace_ends_with_the_last_browser(page: LivePage) -> None:
    """A run that nobody looks at is not left to take ten times as long."""
    agent = Agent(constant(0), live=page)
    with running(agent, Steps(), clock="virtual", ticks=10**9):
        with socket_of(page) as seen:
            wish(seen, "pace", 0.5)
            until(seen, lambda state: state["pace"] == 0.5)
        wait_for(lambda: page.pace == 1.0)


def test_the_planner_s_latency_is_changed_and_told(page: LivePage) -> None:
    """Answers come later from then on, and the page remembers what was changed, and when."""
    agent = Agent(constant(0), planner=Echo(), planner_latency=2, live=page)
    page.title = "runtime"
    with socket_of(page) as seen, running(agent, Steps(), clock="virtual", ticks=10**9):
        assert until(seen, lambda state: state["answers"])["delays"]
        for wrong in (-1, 10**6, 2.5, "9", None, True):
            wish(seen, "latency", wrong)
        wish(seen, "latency", 9)
        state = until(seen, lambda state: state["latency"] == 9)
        until(seen, lambda state: state["answers"][-1][0] - state["answers"][-1][1] == 9)
        assert state["virtual"]
    ((title, tick, ticks),) = page.changes
    assert (title, ticks) == ("runtime", 9)
    assert tick > 0


def test_a_wall_clock_is_shown_and_never_held(page: LivePage) -> None:
    """Whatever a page wishes for, a robot's ticks go on, as late as its planner is."""
    agent = Agent(constant(0), planner=Echo(), planner_latency=1, live=page)
    with socket_of(page) as seen, running(agent, Seen(), hz=200, ticks=10**9):
        state = until(seen, lambda state: state["tick"] > 0)
        assert (state["virtual"], state["delays"]) == (False, False)
        for what in ("pause", "step"):
            wish(seen, what)
        wish(seen, "latency", 50)
        wish(seen, "pace", 0.1)
        before = until(seen, lambda state: True)["tick"]
        state = until(seen, lambda state: state["tick"] > before + 100)
        assert not state["paused"]
        assert page.pace == 0.0
    assert page.changes == []


def test_a_run_is_the_same_with_a_page_and_without(page: LivePage) -> None:
    """On the virtual clock a page that is only looked at changes no figure."""

    def returns(**more: Any) -> Any:
        agent = Agent(constant(0), planner=Echo(), planner_latency=3, **more)
        ended = agent.run(Steps(), clock="virtual", ticks=300, seed=3)
        return ended.returns, ended.unfinished_return, ended.metrics["decisions_total"]

    with socket_of(page):
        assert returns(live=page) == returns()


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 3), (4, 4, 2)])
def test_a_renderer_that_fails_costs_the_frames_only(page: LivePage, shape: Any) -> None:
    """The page says why there is no picture."""
    env = Seen()
    env.shape = shape
    agent = Agent(constant(0), live=page)
    with socket_of(page) as seen, running(agent, env, clock="virtual", ticks=10**9):
        assert until(seen, lambda state: state["frames"])["frames"].startswith("No frames: ")


def test_only_the_thread_that_steps_renders(page: LivePage) -> None:
    """Another one that does its chores, while a step takes long, leaves the environment alone."""
    rendered = []

    class Counting(Seen):
        def render(self) -> Any:
            rendered.append(threading.get_ident())
            return super().render()

    page.look_at(Counting())
    before = len(rendered)
    other = threading.Thread(target=page.show_frame)
    other.start()
    other.join()
    assert len(rendered) == before
    page.show_frame()
    assert rendered == [threading.get_ident()] * (before + 1)


def test_frames_that_take_too_long_are_left_out(page: LivePage) -> None:
    """On a wall clock a frame has to fit into half a period."""

    class Slow(Seen):
        def render(self) -> Any:
            threading.Event().wait(0.01)
            return super().render()

    agent = Agent(constant(0), live=page)
    with socket_of(page) as seen, running(agent, Slow(), hz=200, ticks=10**9):
        said = until(seen, lambda state: state["frames"])["frames"]
        assert "too long for a tick" in said


def test_an_agent_may_have_a_page_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """A port makes one, which is logged and closes with the agent."""
    agent = Agent(constant(0), live=0)
    with agent:
        assert agent.live is not None
        assert agent.live.address in caplog.text
        agent.live.await_ready(ENOUGH)
        pid = agent.live._host.pid
        with urllib.request.urlopen(agent.live.address, timeout=ENOUGH) as answer:
            assert "agentkd, live" in answer.read().decode()
    assert pid is not None
    with pytest.raises(ConfigError, match="live is 'x'; give a LivePage, a port or None"):
        Agent(constant(0), live="x")  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} .* is not available"):
            LivePage(port)


@pytest.mark.needs("chromium")
def test_the_page_works_in_a_browser(page: LivePage) -> None:
    """It fits a telephone and a screen in both schemes, and its controls hold the clock."""
    agent = Agent(constant(0), planner=Echo(), planner_latency=3, live=page)
    page.title = "runtime"
    with chromium() as seen, running(agent, Seen(), clock="virtual", ticks=10**9, seed=0):
        seen.open(page.address)
        words = "document.getElementById({0!r}).textContent"
        wait_for(lambda: seen.ask(words.format("who")) != "–")
        assert seen.ask("document.getElementById('frame').width") == 240
        for width in (390, 1280):
            for dark in (False, True):
                seen.size(width, dark=dark)
                assert seen.ask("document.scrollingElement.scrollWidth - innerWidth") <= 0
                assert violations(seen) == []
        seen.ask("document.getElementById('pause').click()")
        wait_for(lambda: "paused" in seen.ask(words.format("state")))
        seen.ask("document.getElementById('step').click()")
        slider = "document.getElementById('latency')"
        seen.ask(f"{slider}.value = 12; {slider}.dispatchEvent(new Event('change')); 0")
        wait_for(lambda: page.changes)
        seen.ask("document.getElementById('pause').click()")
        wait_for(lambda: "paused" not in seen.ask(words.format("state")))
        assert seen.errors == []
    assert page.changes[0][2] == 12


# What is hostile.


def fetch(address: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=ENOUGH) as answer:
            return answer.status, str(answer.headers["Content-Security-Policy"])
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_the_page_is_for_who_knows_the_token(page: LivePage) -> None:
    """Another token, another path or another name of the host gets nothing."""
    root = page.address.rsplit("/", 2)[0]
    port = root.rpartition(":")[2]
    code, policy = fetch(page.address)
    assert code == 200
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert f"connect-src ws://127.0.0.1:{port};" in policy
    assert "frame-ancestors 'none'" in policy
    for path in ("/", "/wrong/", "/%00/", f"/{'x' * 5000}/", "//"):
        assert fetch(root + path)[0] == 403
    assert fetch(page.address + "other")[0] == 404
    assert fetch(page.address, Host=f"evil.example:{port}")[0] == 403
    assert fetch(page.address, Host="127.0.0.1")[0] == 403
    assert fetch(page.address, Host=f"localhost:{port}")[0] == 200


def test_only_the_page_itself_gets_a_socket(page: LivePage) -> None:
    """A page of another origin, or a program without the token, is refused."""
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        with pytest.raises(InvalidStatus, match="403"):
            socket_of(page, origin)
    wrong = page.address.replace(page.address.split("/")[3], "wrong")
    with pytest.raises(InvalidStatus, match="403"):
        client(wrong.replace("http", "ws") + "ws", origin=Origin(page.address.rsplit("/", 2)[0]))
    with pytest.raises(InvalidStatus, match="404"):
        socket_of(page, path="wss")


def test_what_is_no_wish_is_passed_over(page: LivePage) -> None:
    """Nonsense changes nothing; a huge message ends its own connection only."""
    agent = Agent(constant(0), live=page)
    with running(agent, Steps(), clock="virtual", ticks=10**9), socket_of(page) as seen:
        for text in (
            "",
            "[",
            "1",
            "[]",
            "{}",
            '{"do": 1}',
            '{"do": "x"}',
            "[" * 200,
            '{"do": "pace", "value": NaN}',
        ):
            seen.send(text)
        seen.send(b"\xff\xfe")
        with socket_of(page) as other:
            other.send("x" * 100_000)
            with pytest.raises(ConnectionClosed):
                for _ in iter(lambda: other.recv(ENOUGH), None):
                    pass
        tick = until(seen, lambda state: True)["tick"]
        until(seen, lambda state: state["tick"] > tick)
        assert page.pace == 0.0


def test_a_browser_that_stops_reading_holds_nobody_up(page: LivePage) -> None:
    """Others see the newest state, and the ticks go on."""
    agent = Agent(constant(0), live=page)
    with socket_of(page) as stuck, running(agent, Seen(), clock="virtual", ticks=10**9):
        stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket_of(page) as seen:
            for _ in range(20):
                until(seen, lambda state: True)
            tick = until(seen, lambda state: True)["tick"]
            until(seen, lambda state: state["tick"] > tick + 100)


def test_many_connections_leave_room_for_nobody_else_and_harm_nothing(page: LivePage) -> None:
    """Beyond eight browsers there is a word, and connections that say nothing are closed."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(socket_of(page))
        wait_for(lambda: page._host.status[8] == 8)
        with pytest.raises(InvalidStatus, match="503"):
            socket_of(page)
    port = int(page.address.split(":")[2].split("/")[0])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(80)]
    try:
        # Those beyond the limit are closed at once, the others when they say nothing.
        for each in silent:
            each.settimeout(ENOUGH)
            with contextlib.suppress(ConnectionError):
                while each.recv(4096):
                    pass
    finally:
        for each in silent:
            each.close()
    assert fetch(page.address)[0] == 200
