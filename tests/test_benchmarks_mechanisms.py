"""With and without: the pairs are what they say, and so are their differences."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import DQN

from agentkd.distillation.distiller import DistillerOptions
from agentkd.errors import ConfigError
from benchmarks.__main__ import main
from benchmarks.mechanisms import Options, Subject, paired
from benchmarks.pairs import MECHANISMS, find_mechanisms
from benchmarks.planners import Case
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
    n = freedom + 1
    differences = np.arange(n) * math.sqrt(n) / np.std(np.arange(n), ddof=1)
    found = paired(differences.tolist(), confidence)
    assert found.high - found.mean == pytest.approx(expected, abs=1e-4)


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


def command(planners: Path, *more: str) -> list[str]:
    """The benchmark of one of them, with small budgets."""
    words = ["mechanisms", "--planners", str(planners), "--only", "dqn-CartPole-v1"]
    return [*words, "--executor", "linear", "--episodes", "1", *more]


def test_what_is_shared_is_distilled_once(planners: Path, tmp_path: Path) -> None:
    """Two mechanisms with one baseline compare with the same executors."""
    out = tmp_path / "out"
    more = ["--labels", "100", "--seeds", "2", "--attack", "noise", "--out", str(out)]
    assert main([*command(planners, *more), "--mechanisms", "auto", "robust"]) == 0
    data = report(out)
    runs = [each for each in data["results"] if each["what"] == "executor"]
    # Three arms of two seeds; those without auto and without robust are the same.
    assert len([each for each in runs if not each["under"]]) == 6
    assert len([each for each in runs if each["under"]]) == 4
    auto, clean, noisy = data["changes"]
    assert auto["without"] == clean["without"]
    assert (clean["under"], noisy["under"]) == ("", "noise")
    pairs = zip(auto["without"], auto["with"], strict=True)
    assert auto["change"] == pytest.approx(sum(b - a for a, b in pairs) / 2)
    assert auto["labels"] == [100, 100]


def test_reuse_takes_more_steps(planners: Path, tmp_path: Path) -> None:
    """Four times the gradient steps for as many labels."""
    more = ["--labels", "160", "--seeds", "1", "--out", str(tmp_path / "out")]
    names = ["--mechanisms", "reuse"]
    assert main([*command(planners, *more), *names]) == 0
    (reuse,) = report(tmp_path / "out")["changes"]
    before, after = reuse["steps"]
    assert after == pytest.approx(4 * before, rel=0.1)


def test_mechanisms_are_for_the_planners_they_fit(planners: Path) -> None:
    """An ensemble needs another planner."""
    case = Case("dqn", "CartPole-v1", str(planners / "dqn-CartPole-v1"))
    alone = Subject(case, (), Options())
    both = Subject(case, (str(planners / "more-CartPole-v1"),), Options())
    names = {each.name for each in MECHANISMS if alone.fits(each)}
    more = {each.name for each in MECHANISMS if both.fits(each)}
    assert more - names == {"ensemble"}
    assert {"soft", "auto", "gaps", "reuse"} <= names


def test_the_command_compares_and_reports(
    planners: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mechanisms by name, or terms of one's own; the report names every key."""
    out = tmp_path / "out"
    words = command(planners, "--labels", "64", "--seeds", "2")
    names = ["--mechanisms", "augment", "ensemble"]
    assert main([*words, *names, "--out", str(out)]) == 0
    data = report(out)
    assert [(e["mechanism"], e["under"]) for e in data["changes"]] == [
        ("augment", ""),
        ("augment", "pgd"),
        ("ensemble", ""),
    ]
    keys = [*data["changes"][:1], *data["results"]]
    assert undocumented(*keys) == []
    assert (out / "report.html").is_file()
    shutil.rmtree(out)
    assert main([*words, "--compare", "hard", "soft", "--out", str(out)]) == 0
    assert report(out)["changes"][0]["about"] == "soft, not hard"
    said = capsys.readouterr().out
    assert "augment under pgd" in said
    for bad in (["--compare", "hard"], ["--mechanisms", "x"], ["--labels", "0"]):
        assert main([*words, *bad]) == 2
    for bad in (["--first-seed", "-1"], ["--reuse", "0"], ["--reuse", "2"]):
        assert main([*words, *bad, "--mechanisms", "augment"]) == 2
    assert main([*words, "--only", "nobody"]) == 2


def test_other_seeds_and_more_steps_may_be_asked_for(planners: Path, tmp_path: Path) -> None:
    """Settings are chosen on some seeds and measured on others; both are reported."""
    words = command(planners, "--labels", "64", "--seeds", "1", "--first-seed", "7")
    words += ["--compare", "match", "match + 0.01 slopes"]
    steps = []
    for reuse in ("1", "2"):
        out = tmp_path / reuse
        assert main([*words, "--reuse", reuse, "--out", str(out)]) == 0
        data = report(out)
        assert {e["seed"] for e in data["results"] if e["what"] == "executor"} == {7}
        steps.append(data["changes"][0]["steps"])
    assert steps[1] == [2 * each for each in steps[0]]
