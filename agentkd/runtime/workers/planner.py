"""The inside of a planner's process: answer the newest observation, label the rest."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from agentkd.errors import ConfigError, PlannerError
from agentkd.executors.executor import Executor
from agentkd.runtime.batch_limit import BatchLimit
from agentkd.runtime.codec import (
    Answer,
    Seen,
    SeenCodec,
    decode_executor,
    decode_weights,
    encode_answer,
)
from agentkd.runtime.goals import Goals, conditioned
from agentkd.runtime.query import Demands, PlannerQuery, Reply
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.workers.channels import (
    DROPPED,
    ERRORS,
    LABELS,
    STOP,
    Bell,
    LabelRing,
    Mailbox,
    Status,
)
from agentkd.runtime.workers.child import Child
from agentkd.spec import Spec, from_json

_IDLE = 0.05
"""A worker without work shows a heartbeat this often, in seconds."""
_ENOUGH = 3
"""Errors in a row after which a planner is made anew."""


def serve(child: Child) -> None:
    """Answer observations until told to end; runs in the planner's process.

    Raises:
        PlannerError: After several errors in a row: only a new start may help.
        ConfigError: If the planner does not fit its port.
    """
    orders, status = child.orders, child.status
    spec = from_json(orders["spec"])
    codec = SeenCodec(spec, orders["ahead"])
    seen, answers = child.mailbox("seen"), child.mailbox("answers")
    bell = Bell.attach(child.shared["bell"])
    weights = child.mailbox("weights") if "weights" in child.shared else None
    demands = _demands(child, spec, weights)
    ring = _ring(child, spec, demands)
    query = _query(child, spec, demands, backlog=ring is not None)
    executor = demands.executor
    # A planner may not like an observation of zeros; real ones will tell.
    with contextlib.suppress(Exception):
        query.warm_up()
    status.set_ready()
    failures = 0
    limit = BatchLimit(seen.slots)
    waiting: list[bytes] = []
    while not status[STOP]:
        status.beat()
        lost = seen.missed
        waiting += seen.take()
        lost = seen.missed - lost + max(0, len(waiting) - seen.slots)
        status[DROPPED] += lost
        waiting = waiting[-seen.slots :]
        if not waiting or not query.may_ask(codec.decode(waiting[-1])):
            bell.wait(_IDLE)
            continue
        messages, waiting = waiting, []
        # The oldest are given up: what a slow planner cannot label never delays it. One with a
        # memory needs them all.
        if not query.recurrent:
            status[DROPPED] += max(0, len(messages) - limit.rows)
            messages = messages[-limit.rows :]
        found = weights.take() if weights is not None else []
        if found and executor is not None:
            newest = decode_weights(found[-1])
            executor = executor.with_vector(newest, executor.version + 1)
            query.follow(executor)
        began = time.monotonic()
        asked = [codec.decode(each) for each in messages]
        try:
            reply = _ask(query, asked, seen, codec, answers, status)
        except PlannerError as error:
            failures += 1
            status[ERRORS] += 1
            if failures == _ENOUGH:
                raise
            child.say(f"{type(error).__name__}: {error}")
            continue
        failures = 0
        if reply is None:
            continue
        answer, labels = reply
        limit.note(len(messages), answer.thinking)
        status[DROPPED] += max(0, len(messages) - answer.labels)
        if ring is not None and labels is not None:
            ring.push(*labels)
        status[LABELS] += answer.labels
        answer = _not_before(began, orders["at_least"], answer, status)
        answers.write(encode_answer(answer))


def _demands(child: Child, spec: Spec, weights: Mailbox | None) -> Demands:
    """Read what is wanted besides answers."""
    orders = child.orders
    goals = None if orders["goals"] is None else Goals(*orders["goals"])
    roll = None if orders["roll"] is None else RollForward(**orders["roll"])
    executor: Executor | None = None
    vector = None if weights is None else weights.last()
    if weights is not None and vector is not None:
        of = spec if goals is None else conditioned(spec, goals)
        executor = decode_executor(orders["executor"], of, decode_weights(vector))
        weights.take()
    return Demands(roll, goals, executor)


def _ring(child: Child, spec: Spec, demands: Demands) -> LabelRing | None:
    if "labels" not in child.shared:
        return None
    of = spec if demands.goals is None else conditioned(spec, demands.goals)
    return LabelRing.attach(child.shared["labels"], of)


def _query(child: Child, spec: Spec, demands: Demands, *, backlog: bool) -> PlannerQuery:
    query = PlannerQuery(child.made, spec, backlog=backlog, demands=demands)
    if query.horizon > child.orders["most_rows"]:
        raise ConfigError(
            f"The planner's horizon is {query.horizon}; give "
            f"ProcessPlanner(most_rows={query.horizon})."
        )
    if query.recurrent and not child.orders["alone"]:
        raise ConfigError(
            "A planner with a memory has to see every observation; it cannot be one of "
            "several workers. Give workers=1."
        )
    return query


def _ask(
    query: PlannerQuery,
    asked: list[Seen],
    seen: Mailbox,
    codec: SeenCodec,
    answers: Mailbox,
    status: Status,
) -> Reply | None:
    """Ask; partial answers go out at once. None if a new episode ended it."""
    reply = None
    for reply in query.replies(asked):
        answer, _ = reply
        if not answer.partial:
            break
        answers.write(encode_answer(answer))
        status.beat()
        newest = seen.last()
        if newest is not None and codec.decode(newest).episode != answer.episode:
            return None
    return reply


def _not_before(began: float, seconds: float, answer: Answer, status: Status) -> Answer:
    """Hold an answer back until it took so many seconds."""
    missing = began + seconds - time.monotonic()
    if missing <= 0:
        return answer
    while missing > 0 and not status[STOP]:
        time.sleep(min(missing, _IDLE))
        status.beat()
        missing = began + seconds - time.monotonic()
    late = time.monotonic() - began - answer.thinking
    return replace(answer, thinking=answer.thinking + late, latency=answer.latency + late)
