"""A planner behind a fleet's broker, as a policy: what a `PlannerDesk` answers.

A question that is not answered in time is asked again under the same number, as lines lose what
they carry. An answer that does not fit the present question is counted, and no more: it is a label
where the planner is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, final

from agentkd.errors import AgentkdError, PlannerError, WireError, check_range
from agentkd.fleet.desk import LARGEST
from agentkd.frames import Frame, answer_of, pack, unpack
from agentkd.printable import logger, printable
from agentkd.spec import Spec
from agentkd.spec_json import to_json
from agentkd.transport import Connect, Message
from agentkd.transport.names import Topics, device_name
from agentkd.transport.thread import LineThread, wait_for
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
        self._id, self._gone = 0, False
        self._asked: tuple[Mapping[str, int], bytes] | None = None
        self._answers: list[Frame] = []
        self._news = asyncio.Event()
        self._thread = LineThread(self._hold, "planner", "the planner")
        try:
            about = self._ask("about", [], spec=to_json(spec)).header
            self.name, self.horizon, self.parameters = _checked(about)
        except BaseException as error:
            self.close()
            if isinstance(error, PlannerError) and self._thread.fault is not None:
                raise self._thread.fault from None
            raise

    def __call__(self, obs: Floats, /) -> ActionDist | Guidance:
        """Answer for a batch of observations, (batch, size), as the planner does.

        Raises:
            PlannerError: If it fails, or does not answer in time.
        """
        return answer_of(self._ask("call", [obs]), self.spec)

    def interrupt(self) -> None:
        """Give up what is waited for, until `resume`."""
        self._gone = True
        self._thread.post(self._news.set)

    def resume(self) -> None:
        """Let it be asked again after an `interrupt`."""
        self._gone = False

    def close(self) -> None:
        """End the line."""
        self.interrupt()
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the line."""
        self.close()

    def _ask(self, method: str, arrays: Sequence[Floats], **more: Any) -> Frame:
        """Ask until there is an answer, or patience is over."""
        self._id += 1
        same = {"id": self._id, "episode": self.episode}
        payload = pack({**same, "method": method, **more}, arrays, LARGEST)
        try:
            answer = self._thread.call(self._wait(same, payload))
        except AgentkdError as error:
            raise PlannerError(str(error)) from self._thread.fault
        if answer is None:
            raise PlannerError(
                "The planner was given up."
                if self._gone
                else f"No planner of {self._topics.site} answered in {self._patience:g} s."
            )
        if answer.header.get("type") == "failed":
            raise PlannerError(printable(str(answer.header.get("text")))[:2000])
        return answer

    async def _wait(self, same: Mapping[str, int], payload: bytes) -> Frame | None:
        """Ask, in the thread; return None if there is no answer."""
        clock = asyncio.get_running_loop().time
        end, pause = clock() + self._patience, _AGAIN
        self._asked = same, payload
        try:
            while not self._gone and (left := end - clock()) > 0:
                self._answers.clear()
                self._news.clear()
                self._send()
                await wait_for(self._news, min(pause, left))
                if self._answers:
                    return self._answers[0]
                # It was lost, or the planner has too much to do.
                self.counters["asked_again"] += 1
                pause = min(2 * pause, _SELDOM)
            return None
        finally:
            self._asked = None

    def _send(self) -> None:
        if self._asked is not None:
            self._line.send(Message(self._topics.of(self._device, "ask"), self._asked[1]))

    async def _hold(self, begin: Callable[[], None]) -> None:
        """Hold the line, in the thread."""
        line = self._line = self._connect(self._topics.of(self._device, "answer"))
        begin()
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
        same = {name: frame.header.get(name) for name in ("id", "episode")}
        if self._asked is None or same != self._asked[0] or self._answers:
            self.counters["late"] += 1
        elif not frame.header.get("busy"):
            self._answers.append(frame)
            self._news.set()


def _checked(about: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return name, horizon and number of parameters of what a planner tells of itself."""
    name, horizon, parameters = (about.get(each) for each in ("name", "horizon", "parameters"))
    if type(name) is not str or type(horizon) is not int or type(parameters) is not int:
        raise WireError(f"The planner does not tell what it is: {about!r:.300}")
    if not 1 <= horizon <= _MOST_HORIZON:
        raise WireError(f"The planner's horizon is {horizon}.")
    return printable(name), horizon, parameters
