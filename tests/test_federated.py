"""Federated distillation with Flower's strategies. `make federated` runs these tests."""

from __future__ import annotations

import os
import re
import runpy
import sys
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from agentkd.distillation import DistillerOptions
from agentkd.distillation.federated import Client, Round, federate
from agentkd.distillation.federated.messages import weights_of
from agentkd.errors import AgentkdError, ConfigError
from agentkd.executors.executor import Executor
from benchmarks.__main__ import main
from tests.cli_reports import report
from tests.federated_world import MARK, client, marked, recorded, secrets, start

with warnings.catch_warnings():
    # Flower imports an old command line library, which the newest click warns of.
    warnings.simplefilter("ignore")
    if find_spec("flwr") is None:
        pytest.skip("needs flwr; make federated runs these tests", allow_module_level=True)
    # Before anything else imports Flower, which reads then whether to send telemetry.
    from agentkd.distillation.federated import grid  # isort: split
    from flwr.serverapp.strategy import (
        DifferentialPrivacyServerSideFixedClipping,
        FedAvg,
        FedMedian,
        FedProx,
        FedTrimmedAvg,
        MultiKrum,
    )
    from flwr.supercore import telemetry
    from flwr.supercore.task_identity import TaskIdentity

ROOT = Path(__file__).parents[1]
PUBLIC = np.random.default_rng(9).normal(size=(64, 3)).astype(np.float32)
SEEN = np.concatenate([np.full((64, 1), MARK), PUBLIC[:, 1:]], axis=1).astype(np.float32)
"""Public states like those that clients see, for tests of learning."""
SMALL: dict[str, Any] = {"rounds": 2, "labels": 64, "steps": 20}
ALL = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}


def crowd(count: int = 4, executor: Executor | None = None) -> dict[str, Client]:
    """Clients with labels of their own, centred elsewhere."""
    return {f"robot {i}": client(i, executor, centre=float(i)) for i in range(count)}


def sent_weights(replies: list[bytes]) -> np.ndarray:
    """The weights of each reply, (replies, weights)."""
    return np.stack([load(each)["weights"] for each in replies])


@pytest.mark.parametrize("mode", ["weights", "answers", "consensus"])
@pytest.mark.parametrize("normaliser", ["personal", "shared"])
def test_nothing_that_is_sent_is_an_observation(mode: Any, normaliser: Any) -> None:
    """Every byte that leaves a client, or the server, in each mode."""
    clients = crowd()
    lines = recorded(clients)
    federate(lines, start(), mode=mode, normaliser=normaliser, public=PUBLIC, **SMALL)
    assert len(lines.replies) == len(lines.requests) == 8
    hidden = secrets(clients)
    assert len(hidden) > 4 * 2 * 128
    for raw in (*lines.replies, *lines.requests):
        assert not [each for each in hidden if each in raw]


def test_the_search_for_observations_finds_them() -> None:
    """A client that sends its observations as its answers would be found."""
    clients = crowd(1)
    federate(clients, start(), **SMALL)
    obs = np.concatenate(marked(clients["robot 0"]).given)
    raw = save({"answers": obs, "labels": np.array([1])})
    assert [each for each in secrets(clients) if each in raw]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (None, lambda weights: weights.mean(axis=0)),
        (FedMedian(**ALL), lambda weights: np.median(weights, axis=0)),
        (FedTrimmedAvg(**ALL, beta=0.25), lambda w: np.sort(w, axis=0)[1:-1].mean(axis=0)),
    ],
    ids=["mean", "median", "trimmed"],
)
def test_aggregation_is_what_numpy_makes_of_the_replies(strategy: Any, expected: Any) -> None:
    """Of four clients' weights, all with as many labels."""
    lines = recorded(crowd())
    result = federate(lines, start(), strategy=strategy, **{**SMALL, "rounds": 1})
    wanted = expected(sent_weights(lines.replies).astype(np.float64))
    np.testing.assert_allclose(weights_of(result.executor), wanted, atol=1e-6)


def test_a_mean_counts_labels() -> None:
    """A client that learnt from half as many labels counts half."""

    def change(name: str, reply: bytes) -> bytes:
        return save({**load(reply), "labels": np.array([32 if name == "robot 0" else 64])})

    lines = recorded(crowd(2), change)
    result = federate(lines, start(), **{**SMALL, "rounds": 1})
    wanted = np.average(sent_weights(lines.replies), axis=0, weights=[1, 2])
    np.testing.assert_allclose(weights_of(result.executor), wanted, atol=1e-6)


def agreement(executor: Executor) -> float:
    """How often an executor chooses as the rule does."""
    chosen = np.argmax(executor.outputs(SEEN), axis=1)
    return float((chosen == (SEEN[:, 2] > 0)).mean())


@pytest.mark.parametrize("mode", ["weights", "answers", "consensus"])
def test_each_mode_learns_the_rule(mode: Any) -> None:
    """The shared executor chooses as the planners do, with the normaliser of public states."""
    clients = {f"robot {i}": client(i) for i in range(3)}
    how: dict[str, Any] = {"rounds": 4, "labels": 256, "steps": 150}
    options = DistillerOptions(batch=32, warmup=5)
    result = federate(clients, start(), mode=mode, public=SEEN, options=options, **how)
    assert agreement(result.executor) > 0.9
    assert result.executor.version == 4


def test_a_consensus_joins_unlike_executors() -> None:
    """Each client has an architecture of its own, one with a memory; the server's is another."""
    architectures = ("mlp:4", "mlp:8,tanh", "gru:4")
    clients = {each: client(1, start(architecture=each)) for each in architectures}
    lines = recorded(clients)
    result = federate(lines, start(), mode="consensus", public=PUBLIC, **SMALL)
    assert result.executor.architecture == "mlp:8"
    assert not any("weights" in load(each) for each in (*lines.requests, *lines.replies))
    # Public states are sent once, a consensus from the second round on.
    assert [sorted(load(each)) for each in lines.requests[2:4]] == [
        ["lengths", "public", "task"],
        ["consensus", "task"],
    ]


def test_normalisers_stay_personal_unless_one_is_shared() -> None:
    """Clients that see other numbers share weights, and not means."""
    apart, together = crowd(2), crowd(2)
    federate(apart, start(), **SMALL)
    federate(together, start(), normaliser="shared", public=PUBLIC, **SMALL)
    assert apart["robot 0"].executor.mean[1] < apart["robot 1"].executor.mean[1] - 0.5
    first, second = (each.executor for each in together.values())
    assert (first.mean == second.mean).all()
    np.testing.assert_allclose(first.mean, PUBLIC.mean(axis=0), atol=1e-6)
    with pytest.raises(ConfigError, match="no normaliser to share"):
        federate(crowd(2), start(), normaliser="shared", **SMALL)


@pytest.mark.parametrize("mode", ["weights", "answers"])
def test_a_seed_repeats_it_exactly(mode: Any) -> None:
    """Also where the strategy draws some of the clients; and Python's own draws go on."""

    def vector(seed: int) -> Any:
        half = FedAvg(fraction_train=0.5, **ALL)
        how = {"mode": mode, "strategy": half, "public": PUBLIC, "seed": seed}
        result = federate(crowd(), start(), **{**SMALL, **how, "rounds": 3})
        assert all(len(each.replied) == 2 for each in result.rounds)
        return result.executor.vector().tolist(), [each.replied for each in result.rounds]

    first, again, other = vector(1), vector(1), vector(3)
    assert first == again
    assert first[1] != other[1]


def spoilt(how: str, reply: bytes) -> bytes | str | None:
    """A reply of a bad client."""
    held = dict(load(reply))
    match how:
        case "nan":
            held["weights"] = held["weights"] * np.float32("nan")
        case "shape":
            held["weights"] = held["weights"][1:]
        case "huge":
            held["weights"] = held["weights"] * np.float32(1e9)
        case "silent":
            return None
        case "says":
            return "out of power"
    return save(held)


@pytest.mark.parametrize("how", ["nan", "shape", "huge", "silent", "says"])
def test_a_bad_client_is_refused_counted_and_named(how: str) -> None:
    """The result is that of the other clients alone."""

    def change(name: str, reply: bytes) -> bytes | str | None:
        return spoilt(how, reply) if name == "robot 1" else reply

    rounds: list[Round] = []
    result = federate(
        recorded(crowd(3), change), start(), watch=lambda each, _: rounds.append(each), **SMALL
    )
    assert dict(result.refused) == {"robot 1": 2}
    assert tuple(rounds) == result.rounds
    assert result.rounds[0].replied == ("robot 0", "robot 2")
    words = {"nan": "NaN", "shape": "float32 of", "huge": "a weight of", "says": "out of power"}
    assert words.get(how, "in time") in result.rounds[0].refused["robot 1"]
    others = {name: each for name, each in crowd(3).items() if name != "robot 1"}
    alone = federate(others, start(), **SMALL)
    assert (result.executor.vector() == alone.executor.vector()).all()


def test_without_any_reply_the_former_executor_stays() -> None:
    """A round without replies changes nothing; without any round that had some, it is an error."""
    lost = iter([False, True])

    def change(name: str, reply: bytes) -> bytes | str:
        return "gone" if broken else reply

    lines = recorded(crowd(1), change)
    broken = next(lost)
    seen: list[Any] = []

    def watch(_: Round, executor: Executor) -> None:
        nonlocal broken
        seen.append(weights_of(executor))
        broken = next(lost, True)

    federate(lines, start(), watch=watch, **SMALL)
    assert (seen[0] == seen[1]).all()
    broken = True
    with pytest.raises(AgentkdError, match="robot 0: gone"):
        federate(lines, start(), **SMALL)


def test_robust_strategies_outvote_plausible_lies() -> None:
    """Weights with their sign turned pass every check; a median and MultiKrum ignore them."""

    def change(name: str, reply: bytes) -> bytes:
        held = dict(load(reply))
        if name == "robot 4":
            held["weights"] = np.float32(-5) * held["weights"]
        return save(held)

    def distance(strategy: Any) -> float:
        clients = {f"robot {i}": client(i) for i in range(5)}
        result = federate(recorded(clients, change), start(), strategy=strategy, **SMALL)
        honest = federate({k: client(i) for i, k in enumerate(clients)}, start(), **SMALL)
        return float(np.abs(weights_of(result.executor) - weights_of(honest.executor)).mean())

    krum = MultiKrum(**ALL, num_malicious_nodes=1, num_nodes_to_select=4)
    mean, median, chosen = (distance(each) for each in (None, FedMedian(**ALL), krum))
    assert max(median, chosen) < 0.2 * mean


def test_a_client_that_was_started_anew_is_told_once_more() -> None:
    """It has lost the public states: it is refused for a round, and has them in the next."""
    clients = crowd(2)
    lines = recorded(clients)

    def watch(each: Round, _: Executor) -> None:
        if each.number == 1:
            lines.inner._clients["robot 1"] = client(1, centre=1.0)

    result = federate(
        lines, start(), mode="answers", public=PUBLIC, watch=watch, **{**SMALL, "rounds": 4}
    )
    assert [sorted(each.refused) for each in result.rounds] == [[], ["robot 1"], [], []]
    assert "public states" in result.rounds[1].refused["robot 1"]


def test_bytes_are_counted() -> None:
    """All that was sent and received, refused replies counted in."""
    lines = recorded(crowd(2))
    result = federate(lines, start(), **SMALL)
    assert result.sent == sum(map(len, lines.requests))
    assert result.received == sum(map(len, lines.replies))


def test_a_strategy_may_wrap_another() -> None:
    """Clipping to a norm of 0.01, without noise, bounds how far a round leads."""
    private = DifferentialPrivacyServerSideFixedClipping(FedAvg(**ALL), 0.0, 0.01, 4)
    result = federate(crowd(), start(), strategy=private, **{**SMALL, "rounds": 1})
    moved = weights_of(result.executor) - weights_of(start())
    assert 0 < np.linalg.norm(moved) < 0.0101


@pytest.mark.parametrize(
    ("strategy", "match"),
    [
        (FedAvg(), "needs 2 clients and there are 1"),
        (object(), "is a object"),
        (FedProx(**ALL, proximal_mu=0.1), "proximal-mu"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused(strategy: Any, match: str) -> None:
    """One would wait for ever, one is none, one needs something of the client."""
    with pytest.raises(ConfigError, match=match):
        federate(crowd(1), start(), strategy=strategy, **SMALL)


def test_another_flower_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Private names of Flower's are used; where they are missing the version is told."""
    monkeypatch.delattr(TaskIdentity, "_node_id")
    with pytest.raises(ConfigError, match=r"flwr 1\.\S+ is not the one .*_node_id"):
        federate(crowd(1), start(), **SMALL)


def test_flower_is_left_as_it_was_and_tells_nobody(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No connection, no telemetry, no output, no identity."""

    def denied(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("socket.socket.connect", denied)
    federate(crowd(1), start(), **SMALL)
    assert telemetry.FLWR_TELEMETRY_ENABLED == os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert capfd.readouterr() == ("", "")
    assert TaskIdentity._run_id is None
    assert list(grid._Rounds(lambda *_: {}, ("a", "b"), 0, 0).get_node_ids()) == [1, 2]


def test_the_study_runs_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each arm is measured on each body, and the bytes are those of its messages."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    from stable_baselines3 import SAC

    from benchmarks import federated

    monkeypatch.setattr(federated, "_PUBLIC", 64)
    place = tmp_path / "sac-Hopper-v5"
    place.mkdir()
    SAC("MlpPolicy", "Hopper-v5", seed=0, device="cpu", buffer_size=1).save(place / "planner.zip")
    words = ["federated", "--planners", str(tmp_path), "--robots", "Hopper-v5", "--seeds", "1"]
    words += ["--executors", "mlp:4", "--devices", "3", "--rounds", "2", "--labels", "128"]
    words += ["--steps", "8", "--episodes", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    found = {row["arm"]: row for row in report(tmp_path / "out")["results"]}
    assert set(found) == {"planner, random", *federated.ARMS}
    assert all(len(row["returns"]) == 3 for row in found.values())
    assert [len(row) for row in found["local"]["everywhere"]] == [3, 3, 3]
    assert found[federated.SHARED]["received"] == found["bad, krum"]["received"] > 0
    assert found[federated.SHARED]["refused"] == {}


def test_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three poles of other lengths are held up by one executor."""
    monkeypatch.setattr(sys, "argv", ["federated.py"])
    runpy.run_path(str(ROOT / "examples" / "federated.py"), run_name="__main__")
    said = capsys.readouterr().out
    returns: Mapping[str, str] = dict(re.findall(r"(\w+): mean return (\d+) of 500", said))
    assert set(returns) == {"short", "usual", "long"}
    assert min(map(int, returns.values())) > 400
