"""Federated distillation without Flower: clients, public states, and what messages may hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from agentkd.distillation import DistillerOptions
from agentkd.distillation.federated import InMemory, PublicStates, federate, open_client
from agentkd.distillation.federated.messages import (
    Request,
    read_reply,
    read_request,
    weights_of,
    with_weights,
    write_reply,
    write_request,
)
from agentkd.errors import ConfigError, LoadError, SpecError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec
from tests.federated_world import client, marked, rule, secrets, start

PUBLIC = PublicStates.of(np.random.default_rng(9).normal(size=(20, 3)).astype(np.float32))
BOX = BoxSpec((-1.0,), (1.0,), (1,))


def ask(number: int = 1, **changes: Any) -> Request:
    """A request for a small round."""
    return Request(number, 3, 64, 10, **changes)


def test_a_round_learns_from_the_weights_that_were_sent() -> None:
    """The reply holds other weights of the same length, and how many labels were learnt."""
    one, executor = client(1), start(seed=3)
    request = ask(weights=weights_of(executor))
    raw = one.answer(write_request(request, executor))
    weights, labels = read_reply(raw, executor, request, 0, "one")
    assert labels == 64
    assert weights.shape == weights_of(executor).shape
    # Ten steps do not lead far.
    assert 0 < np.abs(weights - weights_of(executor)).max() < 0.2


def test_a_reply_holds_nothing_of_an_observation() -> None:
    """Of rows, marks and means nothing is in the bytes, whatever is asked for."""
    one, executor = client(1), start()
    for request in (ask(weights=weights_of(executor)), ask(2, answers=True, public=PUBLIC)):
        raw = one.answer(write_request(request, executor))
        assert set(load(raw)) == {"answers" if request.answers else "weights", "labels"}
        assert not [each for each in secrets({"one": one}) if each in raw]


def test_a_client_keeps_its_own_normaliser() -> None:
    """It is that of its first round, in which the labels are centred elsewhere."""
    clients = [client(seed, centre=centre) for seed, centre in ((1, -5.0), (2, 5.0))]
    executor = start()
    for number in (1, 2):
        for each in clients:
            each.answer(write_request(ask(number, weights=weights_of(executor)), executor))
    for each, centre in zip(clients, (-5.0, 5.0), strict=True):
        first = np.concatenate(marked(each).given[:2])
        np.testing.assert_allclose(each.executor.mean, first.mean(axis=0), rtol=1e-5)
        assert abs(each.executor.mean[1] - centre) < 0.5
        own = each.own(executor)
        assert (own.mean == each.executor.mean).all()
        assert (weights_of(own) == weights_of(executor)).all()


def test_a_shared_normaliser_replaces_the_own() -> None:
    """What the server sends counts."""
    one, executor = client(1), start()
    shared = np.array([1, 2, 3, 0.1, 0.2, 0.3], np.float32)
    one.answer(write_request(ask(weights=weights_of(executor), normaliser=shared), executor))
    assert np.concatenate([one.executor.mean, one.executor.scale]).tolist() == shared.tolist()


def test_a_client_repeats_itself_with_the_same_seed() -> None:
    """The same labels and draws give the same bytes, others others."""
    executor = start()
    request = write_request(ask(weights=weights_of(executor)), executor)
    first, again, other = (client(seed).answer(request) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    "action", [DiscreteSpec(3), MultiDiscreteSpec((2, 3)), MultiBinarySpec(2), BOX]
)
def test_answers_are_learnt_back(action: ActionSpec) -> None:
    """An executor's own answers, as a consensus, teach another one to answer so."""
    teaching, taught = start(action, "mlp:8", 1), start(action, "mlp:8", 2)
    loud = weights_of(teaching).copy()
    loud[-4 * 8 :] *= 30.0
    teaching = with_weights(teaching, loud)
    wanted = PUBLIC.answers(teaching)
    before = np.abs(PUBLIC.answers(taught) - wanted).mean()
    options = DistillerOptions(batch=32, warmup=5, least=1)
    learnt = PUBLIC.distil(wanted, taught, options, 300, (0.0, 1.0))
    assert np.abs(PUBLIC.answers(learnt) - wanted).mean() < 0.2 * before


def test_a_memory_is_followed_through_public_episodes() -> None:
    """It begins anew with each episode."""
    executor = start(BOX, "gru:4", 1)
    episode = PUBLIC.obs[:5]
    twice = PublicStates.of([episode, episode]).answers(executor)
    assert (twice[:5] == twice[5:]).all()
    assert not np.allclose(twice[:5], PublicStates.of([PUBLIC.obs[5:10]]).answers(executor))


@pytest.mark.parametrize("episodes", [[], [np.zeros((0, 3))], np.zeros(3), np.full((2, 3), np.nan)])
def test_public_states_are_checked(episodes: Any) -> None:
    """None, no rows of numbers, or NaN."""
    with pytest.raises(SpecError, match="Public states"):
        PublicStates.of(episodes)


def test_lengths_whose_sum_overflows_are_refused() -> None:
    """Four of 2 to the 62nd and three more are three, to a sum of 64 bits."""
    lengths = np.array([2**62] * 4 + [3], np.int64)
    with pytest.raises(SpecError, match="add up to the states"):
        PublicStates(PUBLIC.obs[:3], lengths)


WEIGHTS = weights_of(start())
GOOD = {"labels": np.array([64], np.int64), "weights": WEIGHTS}
BAD: dict[str, tuple[Any, str]] = {
    "not a message": (b"nothing", "damaged"),
    "empty": (b"", "damaged"),
    "missing": ({"labels": GOOD["labels"]}, "no 'weights'"),
    "unknown": ({**GOOD, "obs": WEIGHTS}, "unknown entry 'obs'"),
    "short": ({**GOOD, "weights": WEIGHTS[1:]}, "float32 of"),
    "double": ({**GOOD, "weights": WEIGHTS.astype(np.float64)}, "float64 of"),
    "nan": ({**GOOD, "weights": WEIGHTS * np.float32("nan")}, "NaN"),
    "huge": ({**GOOD, "weights": WEIGHTS + np.float32(1e9)}, "a weight of 1e"),
    "no labels": ({**GOOD, "labels": np.array([0], np.int64)}, "0 labels"),
    "too heavy": ({**GOOD, "labels": np.array([10**12], np.int64)}, "1000000000000 labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reply_is_refused(name: str) -> None:
    """Damage, wrong shapes, NaN, huge weights and claims of labels, each with the client's name."""
    bad, match = BAD[name]
    raw = bad if isinstance(bad, bytes) else save(bad)
    with pytest.raises(LoadError, match=match) as caught:
        read_reply(raw, start(), ask(weights=WEIGHTS), 0, "robot 7")
    assert "robot 7" in str(caught.value)


@pytest.mark.parametrize(
    ("action", "answer"), [(None, 1.5), (None, -0.5), (BOX, 3.5), (BOX, float("inf"))]
)
def test_answers_that_cannot_be_are_refused(action: Any, answer: float) -> None:
    """Probabilities beyond 0 and 1, actions far beyond their bounds."""
    executor = start(action)
    width = 1 if action else 2
    raw = write_reply(64, "answers", np.full((20, width), answer, np.float32))
    with pytest.raises(LoadError, match=r"robot 7.*(answers from|infinity)"):
        read_reply(raw, executor, ask(answers=True), 20, "robot 7")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"number": 4}, "round 4 of 3"),
        ({"labels": 0}, "0 labels"),
        ({"normaliser": np.zeros(6, np.float32)}, "scale"),
        ({"weights": WEIGHTS * np.float32(1e9)}, "a weight of"),
    ],
)
def test_a_client_checks_what_it_is_sent(changes: dict[str, Any], match: str) -> None:
    """A server is trusted no more than a client."""
    base = {"number": 1, "rounds": 3, "labels": 64, "steps": 10, "weights": WEIGHTS}
    with pytest.raises(LoadError, match=match):
        read_request(write_request(Request(**{**base, **changes}), start()), start())


def test_weights_of_another_executor_are_refused() -> None:
    """Of the same length, but with another activation."""
    other = start(architecture="mlp:8,tanh")
    assert weights_of(other).shape == WEIGHTS.shape
    raw = write_request(ask(weights=weights_of(other)), other)
    with pytest.raises(LoadError, match="not those of mlp:8"):
        client(1).answer(raw)


def test_answers_need_public_states() -> None:
    """A client that was started anew says so, and is told once more."""
    with pytest.raises(ConfigError, match="were not sent"):
        client(1).answer(write_request(ask(answers=True, weights=WEIGHTS), start()))


def test_a_client_that_raises_is_named_and_ends_nothing() -> None:
    """Whatever it raises."""
    clients = InMemory({"good": client(1), "bad": client(2)})
    request = write_request(ask(weights=WEIGHTS), start())
    found = clients.ask({"good": request, "bad": b"nonsense"}, None)
    assert isinstance(found["good"], bytes)
    assert isinstance(found["bad"], str)


def test_a_client_is_opened_from_an_environment() -> None:
    """An environment and a planner, as any distillation's."""

    def planner(obs: Any) -> Any:
        return rule(obs[:, 1:])

    with pytest.raises(ConfigError, match="is for 3 numbers"):
        open_client("CartPole-v1", planner, start())
    opened = open_client("CartPole-v1", planner, "mlp:4", seed=1)
    executor = opened.executor
    opened.answer(write_request(ask(weights=weights_of(executor)), executor))
    assert opened.labels >= 64
    opened.close()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mode": "weight"}, "Did you mean 'weights'"),
        ({"normaliser": "own"}, "personal"),
        ({"rounds": 0}, "rounds is 0"),
        ({"mode": "answers"}, "needs public states"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], match: str) -> None:
    """Before Flower is looked for."""
    with pytest.raises(ConfigError, match=match):
        federate({"one": client(1)}, start(), **changes)
