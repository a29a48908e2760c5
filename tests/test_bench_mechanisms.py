"""With and without: the pairs are what they say, and so are their differences."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from stable_baselines3 import DQN

from agentkd.bench.mechanisms import MECHANISMS, Bench, Setting, find_mechanisms
from agentkd.bench.suite import Case
from agentkd.cli.main import main
from agentkd.distillation.distiller import DistillerOptions
from agentkd.errors import ConfigError
from agentkd.measure.attack import Attack
from agentkd.measure.intervals import paired, student
from tests.cli_reports import report, undocumented


def test_differences_by_hand() -> None:
    """Of 1, 2 and 3: mean 2, standard error 1/√3, Student's 4.303 for two degrees."""
    found = paired([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    half = 4.302653 / math.sqrt(3)
    assert found.low == pytest.approx(2 - half, abs=1e-5)
    assert found.high == pytest.approx(2 + half, abs=1e-5)
    alike = paired([0.5, 0.5])
    assert (alike.low, alike.high) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("confidence", "freedom", "expected"),
    [(0.95, 1, 12.7062), (0.95, 4, 2.7764), (0.99, 9, 3.2498), (0.9, 30, 1.6973)],
)
def test_students_quantiles_are_those_of_the_tables(
    confidence: float, freedom: int, expected: float
) -> None:
    """Abramowitz and Stegun 1964, table 26.10."""
    assert student(confidence, freedom) == pytest.approx(expected, abs=1e-4)


def test_what_has_no_interval_says_why() -> None:
    """No pair, one pair, a pair that is no number."""
    assert paired([]).reason == "There are no pairs."
    assert math.isnan(paired([1.0]).low)
    assert "NaN" in paired([1.0, math.nan]).reason
    with pytest.raises(ConfigError, match="confidence"):
        paired([1.0, 2.0], 1.0)


def test_each_pair_differs_in_one_thing_and_can_be_meant() -> None:
    """Names are unique, every arm's terms are read, and no arm equals its other."""
    assert len({each.name for each in MECHANISMS}) == len(MECHANISMS)
    for each in MECHANISMS:
        assert each.without != each.within
        for arm in (each.without, each.within):
            DistillerOptions(terms=arm.terms)
    assert find_mechanisms(["auto"])[0].within.terms == "soft:tau=auto"
    with pytest.raises(ConfigError, match="Did you mean 'auto'"):
        find_mechanisms(["atuo"])


@pytest.fixture
def planners(tmp_path: Path) -> Path:
    """Two untrained DQN for CartPole, in the layout of a suite."""
    folder = tmp_path / "planners"
    for name, seed in (("dqn-CartPole-v1", 0), ("more-CartPole-v1", 1)):
        (folder / name).mkdir(parents=True)
        model = DQN(
            "MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10, seed=seed
        )
        model.save(folder / name / "model.zip")
    return folder


def bench(planners: Path, others: tuple[str, ...] = ()) -> Bench:
    """One of them, with small budgets."""
    case = Case("dqn", "CartPole-v1", str(planners / "dqn-CartPole-v1"))
    setting = Setting("linear", (0, 1), 2, 1000, Attack("noise", 0.1))
    return Bench(case, others, setting)


def test_what_is_shared_is_distilled_once(planners: Path) -> None:
    """Two mechanisms with one baseline compare with the same executors."""
    one = bench(planners)
    said: list[str] = []
    first, second = find_mechanisms(["auto", "robust"])
    (auto,) = one.compare(first, 100, said.append)
    assert len([line for line in said if line.startswith("distilling")]) == 4
    clean, noisy = one.compare(second, 100, said.append)
    assert len([line for line in said if line.startswith("distilling")]) == 6
    assert auto.without == clean.without
    assert (clean.under, noisy.under) == ("", "noise")
    assert auto.change.mean == pytest.approx(
        sum(b - a for a, b in zip(auto.without, auto.within, strict=True)) / 2
    )
    assert auto.counts[0][0] == auto.counts[1][0] == 100


def test_dear_labels_are_fewer_and_reuse_takes_more_steps(planners: Path) -> None:
    """An eighth of the labels at 8 queries each; four times the gradient steps."""
    one = bench(planners)
    dear, reuse = find_mechanisms(["votes-dear", "reuse"])
    (found,) = one.compare(dear, 160, lambda _: None)
    assert [count[0] for count in found.counts] == [160, 20]
    (found,) = one.compare(reuse, 160, lambda _: None)
    (_, before), (_, after) = found.counts
    assert after == pytest.approx(4 * before, rel=0.1)


def test_mechanisms_are_for_the_planners_they_fit(planners: Path) -> None:
    """Terms for boxes are none for choices; an ensemble needs another planner."""
    alone = bench(planners)
    both = bench(planners, (str(planners / "more-CartPole-v1"),))
    names = {each.name for each in MECHANISMS if alone.fits(each)}
    more = {each.name for each in MECHANISMS if both.fits(each)}
    assert more - names == {"ensemble"}
    assert not more & {"huber", "precision", "pre-tanh", "modes"}
    assert {"soft", "auto", "gaps", "votes", "augment"} <= names


def test_the_command_compares_and_reports(
    planners: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mechanisms by name, or terms of one's own; the report names every key."""
    out = tmp_path / "out"
    words = ["bench", "mechanisms", "--planners", str(planners), "--labels", "64"]
    words += ["--only", "dqn-CartPole-v1", "--executor", "linear", "--seeds", "2"]
    words += ["--episodes", "1"]
    assert main([*words, "--mechanisms", "augment", "ensemble", "--out", str(out)]) == 0
    data = report(out)
    assert [(e["mechanism"], e["under"]) for e in data["entries"]] == [
        ("augment", ""),
        ("augment", "pgd"),
        ("ensemble", ""),
    ]
    assert undocumented(data, data["entries"][0]) == []
    assert (out / "report.html").is_file()
    shutil.rmtree(out)
    assert main([*words, "--compare", "hard", "soft", "--out", str(out)]) == 0
    assert report(out)["entries"][0]["about"] == "soft, not hard"
    said = capsys.readouterr().out
    assert "augment under pgd" in said
    for bad in (["--compare", "hard"], ["--mechanisms", "x"], ["--labels", "0"]):
        assert main([*words, *bad]) == 2
    for bad in (["--first-seed", "-1"], ["--reuse", "0"], ["--reuse", "2"]):
        assert main([*words, *bad, "--mechanisms", "augment"]) == 2
    assert main([*words, "--only", "nobody"]) == 2


def test_other_seeds_and_more_steps_may_be_asked_for(planners: Path, tmp_path: Path) -> None:
    """Settings are chosen on some seeds and measured on others; both are reported."""
    words = ["bench", "mechanisms", "--planners", str(planners), "--labels", "64"]
    words += ["--only", "dqn-CartPole-v1", "--executor", "linear", "--seeds", "1"]
    words += ["--episodes", "1", "--compare", "match", "match + 0.01 slopes"]
    steps = []
    for reuse in ("1", "2"):
        out = tmp_path / reuse
        more = ["--first-seed", "7", "--reuse", reuse, "--out", str(out)]
        assert main([*words, *more]) == 0
        data = report(out)
        assert (data["first_seed"], data["reuse"]) == (7, float(reuse))
        steps.append(data["entries"][0]["steps"])
    assert steps[1] == [2 * each for each in steps[0]]
