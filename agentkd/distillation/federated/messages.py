"""What server and clients send each other: named arrays as safetensors, checked when they arrive.

No message has a field for an observation of a client's. A request carries weights, public states or
a consensus; a reply carries weights or answers to public states, and how many labels were learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

from agentkd.distillation.federated.public import PublicStates, answer_width, check_answers
from agentkd.errors import LoadError
from agentkd.executors.executor import Executor
from agentkd.files import loading
from agentkd.types import Floats

MOST_BYTES = 1 << 26
"""Bytes of a message that are read at most."""
MOST_NUMBER = 1e4
"""The greatest magnitude of a weight; those of tiny networks are about 1."""
_MOST_COUNT = 10**9
Shapes = Mapping[str, tuple[Any, tuple[int | None, ...]]]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client is asked to do in a round.

    Attributes:
        number: Which round, from 1.
        rounds: How many there are.
        labels: Labels to collect.
        steps: Gradient steps to take.
        answers: Whether to reply with answers to the public states instead of weights.
        weights: The shared executor's weights to go on from, (weights,); None for the client's own.
        normaliser: Its mean and scale, (2 * obs,); None where clients keep their own.
        public: The public states; None if they were sent before or are not needed.
        consensus: The clients' consensus on the public states, (states, width), or None.
        run: Tells requests of one run from those of another.
    """

    number: int
    rounds: int
    labels: int
    steps: int
    answers: bool = False
    weights: Floats | None = None
    normaliser: Floats | None = None
    public: PublicStates | None = None
    consensus: Floats | None = None
    run: int = 0


def weights_of(executor: Executor) -> Floats:
    """Return an executor's weights without its normaliser, (weights,)."""
    return executor.vector()[2 * len(executor.mean) :]


def with_weights(executor: Executor, weights: Floats) -> Executor:
    """Return an executor with other weights, (weights,), and its own normaliser."""
    vector = np.concatenate([executor.mean, executor.scale, weights])
    return executor.with_vector(vector, executor.version)


def with_normaliser(executor: Executor, normaliser: Floats) -> Executor:
    """Return an executor with the mean and scale of a `normaliser`, (2 * obs,)."""
    mean, scale = np.split(np.array(normaliser), 2)
    return replace(executor, mean=mean, scale=scale)


def write_request(request: Request, executor: Executor) -> bytes:
    """Write a request; `executor` is the shared one."""
    counts = [request.number, request.rounds, request.labels, request.steps]
    task = [*counts, request.answers, request.run]
    arrays: dict[str, Any] = {"task": np.array(task, np.int64)}
    if request.weights is not None:
        arrays |= {"form": form_of(executor), "weights": request.weights}
    if request.normaliser is not None:
        arrays["normaliser"] = request.normaliser
    if request.public is not None:
        arrays |= {"public": request.public.obs, "lengths": request.public.lengths}
    if request.consensus is not None:
        arrays["consensus"] = request.consensus
    return write_arrays(arrays)


def read_request(raw: bytes, executor: Executor) -> Request:
    """Read a request for a client with an `executor`.

    Raises:
        LoadError: If it is damaged, for another executor, or holds impossible values.
    """
    size = len(executor.mean)
    optional: Shapes = {
        "form": (np.uint8, (8,)),
        "weights": (np.float32, (len(weights_of(executor)),)),
        "normaliser": (np.float32, (2 * size,)),
        "public": (np.float32, (None, size)),
        "lengths": (np.int64, (None,)),
        "consensus": (np.float32, (None, answer_width(executor.spec))),
    }
    with loading("The server's request"):
        found = _read(raw, {"task": (np.int64, (6,))}, optional)
        number, rounds, labels, steps, answers, run = (int(each) for each in found["task"])
        counts = (number, rounds, labels, steps)
        if not all(1 <= each <= _MOST_COUNT for each in counts) or number > rounds:
            raise LoadError(f"round {number} of {rounds}, {labels} labels, {steps} steps")
        if "weights" in found and not np.array_equal(found.get("form", ()), form_of(executor)):
            raise LoadError(
                f"its weights are not those of {executor.architecture}; give clients and server "
                "the same executor"
            )
        _check_size(found.get("weights"))
        normaliser = found.get("normaliser")
        if normaliser is not None and not (normaliser[size:] > 0).all():
            raise LoadError("a normaliser whose scale is not above 0")
        public = None
        if "public" in found:
            public = PublicStates(found["public"], found.get("lengths", np.zeros(0, np.int64)))
        return Request(
            *counts,
            answers=bool(answers),
            weights=found.get("weights"),
            normaliser=normaliser,
            public=public,
            consensus=found.get("consensus"),
            run=run,
        )


def write_reply(labels: int, name: str, numbers: Floats) -> bytes:
    """Write a reply: how many labels were learnt, and "weights" or "answers"."""
    return write_arrays({"labels": np.array([labels], np.int64), name: numbers})


def read_reply(
    raw: bytes, executor: Executor, request: Request, states: int, who: str
) -> tuple[Floats, int]:
    """Read what a client called `who` replied to a request; `states` is how many are public.

    Returns:
        Weights (weights,) or answers (states, width), and the number of labels.

    Raises:
        LoadError: If it is damaged or of another shape, or its numbers are NaN, infinite or huge.
    """
    name = "answers" if request.answers else "weights"
    answers, weights = (states, answer_width(executor.spec)), (len(weights_of(executor)),)
    shape = answers if request.answers else weights
    wanted: Shapes = {"labels": (np.int64, (1,)), name: (np.float32, shape)}
    with loading(f"The reply of {who}"):
        found = _read(raw, wanted, {})
        numbers, labels = found[name], int(found["labels"][0])
        # The number of labels is the client's weight in the mean.
        if not 1 <= labels <= request.labels:
            raise LoadError(f"{labels} labels, where 1 to {request.labels} were asked for")
        if request.answers:
            check_answers(numbers, executor.spec)
        else:
            _check_size(numbers)
        return numbers, labels


def form_of(executor: Executor) -> NDArray[np.uint8]:
    """Return eight bytes that tell executors apart whose weights do not fit each other."""
    form = (executor.architecture, len(executor.mean), executor.spec.action, executor.head)
    return np.frombuffer(hashlib.sha256(repr(form).encode()).digest()[:8], np.uint8)


def _read(raw: bytes, wanted: Shapes, optional: Shapes) -> dict[str, NDArray[Any]]:
    """Read arrays of known names, kinds and shapes, of finite numbers."""
    if len(raw) > MOST_BYTES:
        raise LoadError(f"{len(raw):,} bytes; at most {MOST_BYTES:,} are read")
    found = read_arrays(raw)
    known = {**wanted, **optional}
    if missing := [name for name in wanted if name not in found]:
        raise LoadError(f"it has no {missing[0]!r}")
    for name, array in found.items():
        if name not in known:
            raise LoadError(f"an unknown entry {name!r:.40}")
        dtype, shape = known[name]
        fits = len(array.shape) == len(shape) and all(
            want in (None, got) for want, got in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            raise LoadError(f"{name!r} is {array.dtype} of {array.shape}, not {shape}")
        if not np.isfinite(array).all():
            raise LoadError(f"{name!r} holds NaN or infinity")
    return found


def _check_size(weights: Floats | None) -> None:
    if weights is not None and (most := np.abs(weights).max(initial=0.0)) > MOST_NUMBER:
        raise LoadError(f"a weight of {most:.3g}; at most {MOST_NUMBER:,.0f}")
