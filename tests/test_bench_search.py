"""The smallest executor that keeps enough: who goes on, what is picked, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle
from agentkd.deploy.int8.calibrate import integer_form
from agentkd.deploy.int8.emit import constants
from agentkd.distillation import Distiller, DistillerOptions, Returns, open_task
from agentkd.distillation.auto.candidates import (
    Candidate,
    Cost,
    Integers,
    Limits,
    Made,
    Pruning,
    cost_of,
    front,
    learn,
    pick,
)
from agentkd.distillation.auto.search import halve, search
from agentkd.distillation.int8 import FineTuning
from agentkd.distillation.prune import prune
from agentkd.dists import mode
from agentkd.errors import ConfigError, PlannerError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate, evaluate_random
from agentkd.measure.intervals import Interval
from agentkd.planners import Planner
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats, Policy
from tests.cli_planners import balance
from tests.cli_reports import report, undocumented

CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
RULE = Planner(balance, CARTPOLE, "rule", 4, "")
BALANCING = open_task("CartPole-v1", RULE)
FEW = ("linear", "mlp:4", "mlp:16")


def candidate(name: str, size: int, kept: float) -> Candidate:
    """A candidate of so many bytes that kept so much."""
    executor = initial("linear", CARTPOLE)
    cost = Cost(size // 4, size, size / 100)
    return Candidate(name, Made(name, executor), cost, Interval(kept, kept, kept), 0, 0)


def ladder(*kept: float) -> list[Candidate]:
    """Candidates of 100, 200, … bytes."""
    return [candidate(str(index), 100 * (index + 1), value) for index, value in enumerate(kept)]


@pytest.mark.parametrize(
    ("kept", "stay"),
    [
        # One keeps it: it goes on, with the best below and the next above.
        ((0.1, 0.5, 0.4, 0.98, 0.99, 1.0), {"1", "3", "4"}),
        # The smallest keeps it: nothing is below, the next above is enough.
        ((0.98, 0.99, 1.0, 1.0), {"0", "1"}),
        # None keeps it: those that keep most.
        ((0.1, 0.5, 0.4, 0.7), {"1", "3"}),
        # Only the largest does.
        ((0.1, 0.9, 0.97), {"1", "2"}),
        # What could not be measured is worst.
        ((float("nan"), 0.2, 0.1), {"1", "2"}),
    ],
)
def test_the_better_half_goes_on(kept: tuple[float, ...], stay: set[str]) -> None:
    """What is promising is the smallest that may keep the target."""
    assert halve(ladder(*kept), 0.97) == stay


def test_the_smallest_that_keeps_the_target_is_picked() -> None:
    """Not the best; and the reason names the others."""
    chosen, why = pick(ladder(0.5, 0.97, 0.99, 1.2), 0.97)
    assert chosen.name == "1"
    assert "smallest that kept 0.97" in why
    assert "0 kept most, 0.500" in why
    assert "4.0 times" not in why
    assert "2.0 times" in why
    best, why = pick(ladder(0.5, 0.8, 0.7), 0.97)
    assert best.name == "1"
    assert "None kept 0.97" in why


def test_the_front_holds_what_nothing_smaller_beats() -> None:
    """Each on it keeps more than all that are smaller."""
    assert [each.name for each in front(ladder(0.5, 0.4, 0.9, 0.9, 1.0))] == ["0", "2", "4"]


def test_costs_are_counted() -> None:
    """Bytes hold the normaliser too; a limit is told with the value beyond it."""
    executor = initial("mlp:8", CARTPOLE)
    cost = cost_of(executor)
    assert (cost.parameters, cost.bytes) == (58, 4 * (58 + 8))
    assert cost.microseconds > 0
    assert Limits().beyond(cost) == ""
    assert "58 parameters" in Limits(parameters=57).beyond(cost)
    assert "264 bytes" in Limits(bytes=200).beyond(cost)
    assert "microseconds" in Limits(microseconds=1e-6).beyond(cost)
    with pytest.raises(ConfigError, match="bytes"):
        Limits(bytes=0)


def drawn(architecture: str, spec: Spec = CARTPOLE) -> Executor:
    """An executor with arbitrary numbers."""
    executor = initial(architecture, spec)
    vector = np.random.default_rng(0).standard_normal(executor.vector().shape)
    return executor.with_vector(vector.astype(np.float32), 0)


OBS = np.random.default_rng(1).standard_normal((500, 4)).astype(np.float32)


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu", "elu"])
def test_units_that_never_move_are_removed_without_a_change(activation: str) -> None:
    """Their mean goes into the biases that follow."""
    one = initial(f"mlp:8,{activation}", CARTPOLE)
    numbers = np.random.default_rng(2).standard_normal(one.vector().shape)
    # The first four units see nothing; their biases stay.
    numbers[8 : 8 + 4 * 4] = 0.0
    still = one.with_vector(numbers.astype(np.float32), 0)
    smaller = prune(still, OBS, 0.5)
    assert smaller.parameters == 4 * 4 + 4 + 4 * 2 + 2
    assert np.allclose(smaller.outputs(OBS), still.outputs(OBS), atol=1e-4)


def test_pruning_keeps_head_normaliser_and_clip() -> None:
    """Only hidden units go."""
    box = BoxSpec((-2, -1), (2, 1), (2,))
    spec = Spec(CARTPOLE.obs, box)
    executor = replace(drawn("mlp:8", spec), clip=3.0)
    smaller = prune(executor, OBS, 0.25)
    assert (smaller.head, smaller.clip) == ("squashed", 3.0)
    assert smaller.architecture == "mlp:6"
    assert np.array_equal(smaller.mean, executor.mean)


def test_what_cannot_be_pruned_is_refused() -> None:
    """A share of nothing or all, and an executor without hidden units."""
    for share in (0.0, 1.0):
        with pytest.raises(ConfigError, match="share"):
            prune(drawn("mlp:8"), OBS, share)
    with pytest.raises(ConfigError, match="nothing to remove"):
        prune(drawn("linear"), OBS, 0.5)


def taught(architecture: str, obs: Floats) -> Callable[[Executor], Distiller]:
    """A maker of distillers that have the rule's labels."""

    def make(executor: Executor) -> Distiller:
        distiller = Distiller(executor, DistillerOptions(batch=64))
        distiller.add(obs, balance(obs))
        return distiller

    return make


def test_pruning_learns_on_after_each_cut() -> None:
    """A quarter, then half of the units gone, the executor still says the same."""
    make = taught("mlp:16", OBS)
    first = make(initial("mlp:16", CARTPOLE))
    learn([first], 0.0, 400)
    step = Pruning(shares=(0.25, 0.5), steps=100)
    made = list(step(first.freeze(), make, 0.0))
    assert [each.executor.architecture for each in made] == ["mlp:12", "mlp:8"]
    said = mode(balance(OBS), CARTPOLE.action)
    for each in made:
        mine = mode(each.executor(OBS), CARTPOLE.action)
        assert (mine == said).mean() > 0.95
    assert list(step(initial("linear", CARTPOLE), make, 0.0)) == []


def test_integers_keep_what_the_floats_say() -> None:
    """Fitted from the labels; a quarter of the bytes and more, no time of this machine.

    An executor that has no integer form is passed over.
    """
    make = taught("mlp:16", OBS)
    first = make(initial("mlp:16", CARTPOLE))
    learn([first], 0.0, 400)
    executor = first.freeze()
    step = Integers(FineTuning(steps=100, batch=64), timed=False)
    (made,) = step(executor, make, 0.0)
    assert made.name == "mlp:16 (int8)"
    policy: Any = made.policy
    said = mode(balance(OBS), CARTPOLE.action)
    assert (mode(policy(OBS), CARTPOLE.action) == said).mean() > 0.95
    cost = made.cost()
    assert cost.bytes == constants(policy)
    assert math.isnan(cost.microseconds)
    assert "unknown" in Limits(microseconds=5.0).beyond(cost)
    assert Limits(bytes=10_000).beyond(cost) == ""
    # Without steps there is time for a few.
    (few,) = Integers()(executor, make, 0.0)
    assert few.steps == 50
    attentive = initial("attention:8/2/1", CARTPOLE)
    why: list[str] = []
    assert list(Integers(told=why.append)(attentive, make, 0.0)) == []
    assert "attention" in why[0]


def references(episodes: int = 4) -> Returns:
    """What the rule and random actions get."""
    best = evaluate("CartPole-v1", balance, episodes=episodes, seed=50)
    floor = evaluate_random("CartPole-v1", episodes=episodes, seed=50)
    return Returns(best.returns, floor.returns, 50)


def test_a_search_finds_the_smallest_and_repeats_itself() -> None:
    """A linear rule needs a linear executor; the same seed gives the same one."""
    said: list[str] = []
    found = [
        search(
            BALANCING,
            references(),
            FEW,
            labels=4000,
            steps=3000,
            watch=lambda text, _: said.append(text),
        )
        for _ in range(2)
    ]
    first = found[0]
    assert first.chosen.name == "linear"
    assert first.chosen.kept.mean == 1.0
    assert 4000 <= first.labels < 4000 + 12 * 16
    vectors = [each.chosen.made.executor.vector() for each in found]
    assert np.array_equal(vectors[0], vectors[1])
    assert {each.name for each in first.candidates} == set(FEW)
    dropped = [each.note for each in first.candidates if each is not first.chosen]
    assert all(dropped)
    assert said[0].startswith("rung 1 of 3")


def test_a_search_takes_further_steps_on_the_same_front() -> None:
    """Whatever makes a smaller executor is measured and picked like the others."""

    class Same:
        """Says that it costs one byte, and acts by a policy of its own."""

        name = "shrunk"
        asked = 0

        def policy(self, obs: Floats, /) -> Categorical:
            self.asked += 1
            return balance(obs)

        def __call__(
            self, executor: Executor, distiller: Callable[[Executor], Distiller], seconds: float
        ) -> Iterator[Made]:
            assert len(distiller(executor).buffer) > 100
            policy: Policy = self.policy
            yield Made("shrunk", executor, policy, bytes=1)

    step = Same()
    found = search(BALANCING, references(), ("mlp:4",), labels=600, steps=200, further=[step])
    assert found.chosen.name == "shrunk"
    assert step.asked > 100


def test_candidates_beyond_the_limits_take_no_part() -> None:
    """They are named with what they are beyond; where all are, that is the error."""
    found = search(
        BALANCING, references(2), FEW, limits=Limits(parameters=40), labels=300, steps=60
    )
    assert set(found.left_out) == {"mlp:16"}
    assert "114 parameters" in found.left_out["mlp:16"]
    with pytest.raises(ConfigError, match="58 parameters"):
        search(
            BALANCING, references(2), ("mlp:8",), limits=Limits(parameters=40), labels=300, steps=60
        )


@pytest.mark.parametrize(
    "wrong", [{"labels": 3}, {"steps": 3}, {"seconds": 0.0}, {"labels": 1, "steps": 0}]
)
def test_a_search_needs_an_end(wrong: dict[str, float]) -> None:
    """Seconds, or labels and steps."""
    with pytest.raises(ConfigError):
        search(BALANCING, references(1), FEW, **wrong)  # type: ignore[arg-type]


def test_candidates_may_look_into_the_planner() -> None:
    """Terms that need the planner itself have it in a search, too."""
    planner = initial("mlp:4", CARTPOLE, seed=5)
    found = search(
        open_task("CartPole-v1", planner),
        references(2),
        ("linear",),
        labels=300,
        steps=20,
        options=DistillerOptions(terms="match + 0.1 slopes"),
    )
    assert found.chosen.name == "linear"


def test_a_search_needs_labels_or_a_dataset() -> None:
    """Steps alone are for a dataset, and something has to be learnt from."""
    with pytest.raises(ConfigError, match="labels"):
        search(BALANCING, references(2), FEW, steps=3)
    with pytest.raises(ConfigError, match="planner, or a dataset"):
        open_task("CartPole-v1")


AUTO = [
    *["distill", "CartPole-v1", "--planner", "tests.cli_planners:balance"],
    *["--executor", "auto", "--labels", "1500", "--steps", "1500", "--episodes", "4"],
    *["--candidates", *FEW],
]


def test_the_command_leaves_front_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pick is the executor, and each on the front has a file."""
    out = tmp_path / "out"
    assert main([*AUTO, "--out", str(out), "--target", "0.9"]) == 0
    said = capsys.readouterr().out
    assert "smallest that kept 0.9" in said
    data = report(out)
    assert undocumented(data, data["candidates"][0]) == []
    names = [each["name"] for each in data["candidates"]]
    assert set(names) >= set(FEW)
    assert read_bundle(out / "executor.akd").executor.architecture == data["architecture"]
    on_front = [each["name"] for each in data["candidates"] if each["front"]]
    assert len(list((out / "candidates").glob("*.akd"))) == len(on_front)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Retention over size" in page


def test_the_command_picks_integers_where_they_keep_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They take the fewest bytes; the report is of the integer form of the file."""
    out = tmp_path / "out"
    only = ["--candidates", "mlp:8", "--no-prune", "--target", "0.5", "--int8"]
    assert main([*AUTO, *only, "--out", str(out)]) == 0
    assert "--to c-int8" in capsys.readouterr().out
    data = report(out)
    picked = min(data["candidates"], key=lambda each: each["bytes"])
    assert picked["name"] == "mlp:8 (int8)"
    assert picked["decision_us"] is None
    form = integer_form(read_bundle(out / "executor.akd"))
    again = evaluate("CartPole-v1", form.policy, episodes=4, seed=data["eval_seed"])
    assert list(again.returns) == data["returns"]["executor"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--target", "0"], "target is 0"),
        (["--seconds", "3"], "--labels and --steps"),
        (["--resume"], "--resume"),
        (["--most-parameters", "3"], "within the limits"),
        (["--candidates", "mpl:3"], "mpl:3"),
        (["--data", "nowhere"], "not a dataset"),
        (["--int8", "--most-us", "3"], "no time on this machine"),
        (["--executor", "mlp:8"], "--candidates is not for one architecture"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    more: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and the reason."""
    assert main([*AUTO, *more, "--out", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err


def test_a_dataset_is_searched_without_its_planner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its labels are all there is, and the executor is measured all the same."""
    data = str(tmp_path / "labels")
    words = ["record", "CartPole-v1", "--planner", "tests.cli_planners:balance"]
    assert main([*words, "--labels", "2000", "--episodes", "4", "--out", data]) == 0
    auto = ["distill", "--data", data, "--executor", "auto", "--episodes", "4"]
    auto += ["--candidates", *FEW, "--out", str(tmp_path / "out")]
    assert main([*auto, "--steps", "1500", "--labels", "9"]) == 2
    assert "--data" in capsys.readouterr().err
    assert main([*auto, "--steps", "1500", "--target", "0.9"]) == 0
    found = report(tmp_path / "out")
    assert found["retention"] > 0.9
    assert found["env"] == "CartPole-v1"
    assert all(each["labels"] == found["labels"] for each in found["candidates"])
    assert found["labels"] < 2000


def test_a_planner_of_nothing_but_nan_ends_a_search() -> None:
    """It is said, and nobody waits for a label."""

    def late(obs: Floats, /) -> Categorical:
        # Well at the first look, and never again.
        logits = balance(obs).logits
        return Categorical(logits if len(obs) == 1 else np.full_like(logits, np.nan))

    planner = Planner(late, CARTPOLE, "late", 0, "")
    with pytest.raises(PlannerError, match="nothing but NaN"):
        search(open_task("CartPole-v1", planner), references(2), ("mlp:4",), labels=100, steps=10)


def test_what_a_step_makes_beyond_the_limits_is_left_out() -> None:
    """A smaller executor that acts too slowly is no candidate."""

    class Slow:
        name = "slow"

        def __call__(self, executor: Executor, distiller: object, seconds: float) -> Iterator[Made]:
            yield Made("slow", executor, bytes=10**9)

    found = search(
        BALANCING,
        references(2),
        ("mlp:4",),
        labels=300,
        steps=60,
        limits=Limits(bytes=10**6),
        further=[Slow()],
    )
    assert [each.name for each in found.candidates] == ["mlp:4"]
