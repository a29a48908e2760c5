"""Messages of federated distillation: a hostile server's requests, a hostile client's replies."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import initial
from agentkd.distillation.federated.messages import (
    Request,
    read_reply,
    read_request,
    weights_of,
    with_normaliser,
    with_weights,
    write_reply,
    write_request,
)
from agentkd.distillation.federated.public import PublicStates
from agentkd.executors.executor import Executor
from agentkd.spec import DiscreteSpec, Spec
from agentkd.types import Floats
from tests.deploy_executors import OBS
from tests.fuzz.archives import tensors
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_REQUEST, _REPLY = "request", "reply"
_STATES = 6


@functools.cache
def _executor() -> Executor:
    return initial("gru:4", Spec(OBS, DiscreteSpec(3)))


@functools.cache
def _public() -> PublicStates:
    obs = np.random.default_rng(0).normal(size=(_STATES, len(_executor().mean)))
    return PublicStates.of(list(obs.astype(np.float32).reshape(2, 3, -1)))


def _asked(answers: bool) -> Request:
    executor = _executor()
    consensus = _public().answers(executor) if answers else None
    normaliser = np.concatenate([executor.mean, executor.scale])
    weights = weights_of(executor)
    return Request(2, 3, 64, 10, answers, weights, normaliser, _public(), consensus)


def build(draw: Draw) -> Files:
    """Change a request or a reply."""
    answers, executor = draw.chance(2), _executor()
    if draw.chance(2):
        return {_REQUEST: tensors(draw, write_request(_asked(answers), executor))}
    numbers = _public().answers(executor) if answers else weights_of(executor)
    name = "answers" if answers else "weights"
    return {_REPLY: tensors(draw, write_reply(64, name, numbers)), name: b""}


def read(folder: Path) -> Request | Floats:
    """Read it as the other end does."""
    if (folder / _REQUEST).exists():
        return read_request((folder / _REQUEST).read_bytes(), _executor())
    asked = _asked((folder / "answers").exists())
    return read_reply((folder / _REPLY).read_bytes(), _executor(), asked, _STATES, "x")[0]


def work(found: Any) -> None:
    """An executor takes what was read and answers."""
    executor, public = _executor(), _public()
    if isinstance(found, Request):
        if found.normaliser is not None:
            executor = with_normaliser(executor, found.normaliser)
        public = found.public or public
        found = found.weights
    if found is not None and found.shape == weights_of(executor).shape:
        executor = with_weights(executor, found)
    assert public.answers(executor).shape == (len(public.obs), 3)


TARGET = Target("federated", build, read, work)
