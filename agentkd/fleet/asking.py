"""A planner behind a fleet's broker, as a policy: what a `PlannerDesk` answers.

A question that is not answered in time is asked again under the same number, as lines lose what
they carry. An answer that does not fit the present question is counted, and no more: it is a label
where the planner is.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, final

from agentkd.errors import AgentkdError, PlannerError, WireError, check_range
from agentkd.fleet.desk import LARGEST
from agentkd.fleet.messages import Topics
from agentkd.frames import Frame, answer_of, pack, unpack
from agentkd.printable import logger, printable
from agentkd.runtime.workers.priority import unbind
from agentkd.spec import Spec
from agentkd.spec_json import to_json
from agentkd.transport import Connect, Message, Transport
from agentkd.transport.names import device_name
from agentkd.types import ActionDist, Floats, Guidance

log = logger(__name__)

_AGAIN, _SELDOM = 1.0, 8.0
"""Seconds without an answer after which a question is asked again: at first, and at most."""
_MOST_HORIZON = 1 << 16


@final
class FleetPlanner:
    """A planner that answers over a fleet's broker.

        connect = partial(MqttTransport, MqttOptions("mqtts://broker:8883"))
        with FleetPlanner(connect, "plant", "arm-7", spec) as planner:
            with Agent(device.executor(), planner=planner, period=0.02) as agent:
                ...

    Its line lives in a thread of its own. It waits for its answers, so give it to the runtime as it
    is, which then asks it in another thread. `episode` goes with each question and comes back.

    Args:
        connect: Makes the transport.
        site: The name of the fleet.
        device: The name of this device in it.
        spec: The environment.
        patience: Seconds for which a question is asked again.

    Raises:
        PlannerError: If no planner answers, or it is for another environment.
        Exception: What `connect` raises.
    """

    def __init__(
        self, connect: Connect, site: str, device: str, spec: Spec, *, patience: float = 30.0
    ) -> None:
        check_range("patience", patience, above=0, below=86400)
        self.spec, self.episode = spec, 0
        self.restarts = {"lost": 0}
        """How often the line was there again after it had been lost."""
        self.counters: Counter[str] = Counter()
        """Questions `asked_again`, answers that were `late`, and what was no answer, `strange`."""
        self._topics, self._device = Topics(site), device_name(device)
        self._connect, self._patience = connect, patience
        self._id = 0
        self._asked: tuple[Mapping[str, int], bytes] | None = None
        self._answer: Frame | None = None
        self._came, self._gone = threading.Condition(), False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._line: Transport | None = None
        self._fault: Exception | None = None
        begun = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(begun,), name="planner", daemon=True
        )
        self._thread.start()
        begun.wait()
        try:
            about = self._ask("about", [], spec=to_json(spec)).header
            self.name, self.horizon, self.parameters = _checked(about)
        except BaseException as error:
            self.close()
            if isinstance(error, PlannerError) and self._fault is not None:
                raise self._fault from None
            raise

    def __call__(self, obs: Floats, /) -> ActionDist | Guidance:
        """Answer for a batch of observations, (batch, size), as the planner does.

        Raises:
            PlannerError: If it fails, or does not answer in time.
        """
        return answer_of(self._ask("call", [obs]), self.spec)

    def interrupt(self) -> None:
        """Give up what is waited for, until `resume`."""
        with self._came:
            self._gone = True
            self._came.notify_all()

    def resume(self) -> None:
        """Let it be asked again after an `interrupt`."""
        self._gone = False

    def close(self) -> None:
        """End the line."""
        self.interrupt()
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End the line."""
        self.close()

    def _ask(self, method: str, arrays: Sequence[Floats], **more: Any) -> Frame:
        """Ask until there is an answer, or patience is over."""
        self._id += 1
        same = {"id": self._id, "episode": self.episode}
        payload = pack({**same, "method": method, **more}, arrays, LARGEST)
        end, pause = time.monotonic() + self._patience, _AGAIN
        with self._came:
            self._asked, self._answer = (same, payload), None
            self._put()
            while True:
                left = end - time.monotonic()
                if self._fault is not None and not self._gone:
                    self._asked = None
                    raise PlannerError(
                        f"The line to the planner ended in an error: {self._fault}"
                    ) from self._fault
                if self._gone or left <= 0 or not self._thread.is_alive():
                    self._asked = None
                    raise PlannerError(
                        "The planner was given up."
                        if self._gone
                        else f"No planner of {self._topics.site} answered in {self._patience:g} s."
                    )
                came = self._came.wait_for(self._heard, min(pause, left))
                answer = self._taken()
                if answer is not None and not answer.header.get("busy"):
                    self._asked = None
                    break
                if not came or answer is not None:
                    # It was lost, or the planner has too much to do.
                    if answer is not None:
                        self._came.wait_for(lambda: self._gone, min(pause, left))
                    self.counters["asked_again"] += 1
                    self._put()
                    pause = min(2 * pause, _SELDOM)
        if answer.header.get("type") == "failed":
            raise PlannerError(printable(str(answer.header.get("text")))[:2000])
        return answer

    def _taken(self) -> Frame | None:
        answer, self._answer = self._answer, None
        return answer

    def _heard(self) -> bool:
        return self._answer is not None or self._gone or self._fault is not None

    def _put(self) -> None:
        """Send the present question, from whichever thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._send)

    def _send(self) -> None:
        asked, line = self._asked, self._line
        if asked is not None and line is not None:
            line.send(Message(self._topics.of(self._device, "ask"), asked[1]))

    def _work(self, begun: threading.Event) -> None:
        """Hold the line, in the thread."""

        async def hold() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            begun.set()
            line = self._line = self._connect(self._topics.of(self._device, "answer"))
            before = False
            try:
                async for received in line.receive():
                    if received.connected:
                        self.restarts["lost"] += before
                        before = True
                        self._send()
                    else:
                        self._take(received.payload)
            finally:
                await line.aclose()

        try:
            unbind()
            asyncio.run(hold())
        except asyncio.CancelledError:
            pass
        except Exception as error:  # the robot's loop goes on
            self._fault = error
            log.exception("The line to the planner ended in an error.")
        finally:
            begun.set()
            with self._came:
                self._came.notify_all()

    def _take(self, payload: bytes) -> None:
        """Take an answer, if it is one to the present question."""
        try:
            if len(payload) > 2 * LARGEST:
                raise WireError(f"An answer of {len(payload):,} bytes.")
            frame = unpack(payload)
        except AgentkdError as error:
            self.counters["strange"] += 1
            log.info("An answer that is none: %s", error)
            return
        with self._came:
            asked = self._asked
            same = {name: frame.header.get(name) for name in ("id", "episode")}
            if asked is None or same != asked[0] or self._answer is not None:
                self.counters["late"] += 1
                return
            self._answer = frame
            self._came.notify_all()


def _checked(about: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return name, horizon and number of parameters of what a planner tells of itself."""
    name, horizon, parameters = (about.get(each) for each in ("name", "horizon", "parameters"))
    if type(name) is not str or type(horizon) is not int or type(parameters) is not int:
        raise WireError(f"The planner does not tell what it is: {about!r:.300}")
    if not 1 <= horizon <= _MOST_HORIZON:
        raise WireError(f"The planner's horizon is {horizon}.")
    return printable(name), horizon, parameters
