"""The inside of a planner's process: answer the newest observation, label the rest."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentkd.deploy.bundle import from_bytes
from agentkd.errors import ConfigError, PlannerError
from agentkd.executors.executor import Executor
from agentkd.runtime.codec import Answer, Seen, SeenCodec, decode_weights, encode_answer
from agentkd.runtime.goals import Goals, conditioned
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.memory import Bell, Segment
from agentkd.runtime.pace import Pace
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.status import DROPPED, ERRORS, LABELS, Status
from agentkd.runtime.thinking import Demands, Thinker, Thought
from agentkd.runtime.worker import say
from agentkd.spec import Spec, from_json

_IDLE = 0.05
"""A worker without work shows a heartbeat this often, in seconds."""
_ENOUGH = 3
"""Errors in a row after which a planner is made anew."""


def serve(orders: Mapping[str, Any], made: Any, status: Status, words: Mailbox) -> None:
    """Answer observations until told to end; runs in the planner's process.

    Raises:
        PlannerError: After several errors in a row: only a new start may help.
        ConfigError: If the planner does not fit its port.
    """
    spec = from_json(orders["spec"])
    codec = SeenCodec(spec, orders["ahead"])
    seen = Mailbox.attach(*orders["seen"])
    answers = Mailbox.attach(*orders["answers"])
    bell = Bell(*orders["bell"])
    demands, weights = _demands(orders["demands"])
    ring = _ring(orders["labels"], spec, demands)
    thinker = _thinker(orders, made, spec, demands, backlog=ring is not None)
    executor = demands.executor
    # A planner may not like an observation of zeros; real ones will tell.
    with contextlib.suppress(Exception):
        thinker.warm_up()
    status.set_ready()
    failures = 0
    pace = Pace(seen.slots)
    waiting: list[bytes] = []
    while not status.stopping:
        status.beat()
        lost = seen.missed
        waiting += seen.take()
        lost = seen.missed - lost + max(0, len(waiting) - seen.slots)
        status.count(DROPPED, lost)
        waiting = waiting[-seen.slots :]
        if not waiting or not thinker.may_ask(codec.decode(waiting[-1])):
            bell.wait(_IDLE)
            continue
        messages, waiting = waiting, []
        # The oldest are given up: what a slow planner cannot label never delays it. One with a
        # memory needs them all.
        if not thinker.recurrent:
            status.count(DROPPED, max(0, len(messages) - pace.limit))
            messages = messages[-pace.limit :]
        executor = _followed(thinker, executor, weights)
        began = time.monotonic()
        asked = [codec.decode(each) for each in messages]
        try:
            thought = _think(thinker, asked, seen, codec, answers, status)
        except PlannerError as error:
            failures += 1
            status.count(ERRORS)
            if failures == _ENOUGH:
                raise
            say(words, f"{type(error).__name__}: {error}")
            continue
        failures = 0
        if thought is None:
            continue
        pace.note(len(messages), thought.answer.thinking)
        status.count(DROPPED, max(0, len(messages) - thought.answer.labels))
        if ring is not None and thought.dist is not None:
            ring.push(thought.obs, thought.dist)
        status.count(LABELS, thought.answer.labels)
        answer = _not_before(began, orders["at_least"], thought.answer, status)
        answers.write(encode_answer(answer))


def _demands(told: Mapping[str, Any]) -> tuple[Demands, Mailbox | None]:
    """Read what is wanted besides answers, and where newer executors come in."""
    goals = Goals(*told["goals"]) if told["goals"] is not None else None
    if told["roll"] is None:
        return Demands(goals=goals), None
    roll = RollForward(**told["roll"])
    if told["executor"] is None:
        return Demands(roll, goals), None
    executor = from_bytes(base64.b64decode(told["executor"])).executor
    return Demands(roll, goals, executor), Mailbox.attach(*told["weights"])


def _ring(labels: Any, spec: Spec, demands: Demands) -> LabelRing | None:
    if labels is None:
        return None
    rows, fd, size = labels
    if demands.goals is not None:
        spec = conditioned(spec, demands.goals)
    return LabelRing(spec, rows, Segment(size, fd))


def _thinker(
    orders: Mapping[str, Any], made: Any, spec: Spec, demands: Demands, *, backlog: bool
) -> Thinker:
    thinker = Thinker(made, spec, backlog=backlog, demands=demands)
    if thinker.horizon > orders["most_rows"]:
        raise ConfigError(
            f"The planner's horizon is {thinker.horizon}; give "
            f"ProcessPlanner(most_rows={thinker.horizon})."
        )
    if thinker.recurrent and not orders["alone"]:
        raise ConfigError(
            "A planner with a memory has to see every observation; it cannot be one of "
            "several workers. Give workers=1."
        )
    return thinker


def _followed(
    thinker: Thinker, executor: Executor | None, weights: Mailbox | None
) -> Executor | None:
    """Take the newest executor, if there is a new one."""
    found = weights.take() if weights is not None else []
    if not found or executor is None:
        return executor
    executor = executor.with_vector(decode_weights(found[-1]), executor.version + 1)
    thinker.follow(executor)
    return executor


def _think(
    thinker: Thinker,
    asked: list[Seen],
    seen: Mailbox,
    codec: SeenCodec,
    answers: Mailbox,
    status: Status,
) -> Thought | None:
    """Think; partial answers go out at once, and a new episode ends it: then None."""
    thought = None
    for thought in thinker.thoughts(asked):
        if not thought.answer.partial:
            break
        answers.write(encode_answer(thought.answer))
        status.beat()
        newest = seen.last()
        if newest is not None and codec.decode(newest).episode != thought.answer.episode:
            return None
    return thought


def _not_before(began: float, seconds: float, answer: Answer, status: Status) -> Answer:
    """Hold an answer back until it took so many seconds."""
    missing = began + seconds - time.monotonic()
    if missing <= 0:
        return answer
    while missing > 0 and not status.stopping:
        time.sleep(min(missing, _IDLE))
        status.beat()
        missing = began + seconds - time.monotonic()
    late = time.monotonic() - began - answer.thinking
    return replace(answer, thinking=answer.thinking + late, latency=answer.latency + late)
