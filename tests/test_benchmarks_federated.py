"""The study of federated distillation: bodies, options and tables. test_federated runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import environments
from agentkd.errors import ConfigError, EpisodeError

pytest.importorskip("mujoco", reason="mujoco is not installed")
from benchmarks import federated
from envs.bodies import HIGH, LOW, drawn


def test_a_drawn_body_is_the_usual_one_times_factors() -> None:
    """Mass, friction and each motor, the same for the same seed."""
    name = drawn("Hopper-v5", 3)
    assert name == drawn("Hopper-v5", 3) != drawn("Hopper-v5", 4)
    given = environments.split(name)[1]
    usual: Any = environments.make("Hopper-v5").unwrapped
    made: Any = environments.make(name).unwrapped
    for wanted, own, before in (
        (given["mass"], made.model.body_mass[1:], usual.model.body_mass[1:]),
        (given["friction"], made.model.geom_friction[:, 0], usual.model.geom_friction[:, 0]),
        (given["motors"], made.model.actuator_gear[:, 0], usual.model.actuator_gear[:, 0]),
    ):
        np.testing.assert_allclose(own, np.asarray(wanted) * before)
        assert LOW <= np.min(wanted) <= np.max(wanted) <= HIGH


@pytest.mark.parametrize("given", ['"mass": 0', '"motors": [1, 1]', '"robot": "CartPole-v1"'])
def test_a_body_that_cannot_be_is_refused(given: str) -> None:
    """Factors above 0, one for each motor, and a robot of MuJoCo's."""
    with pytest.raises((ConfigError, EpisodeError), match=r"factors|motors|CartPole"):
        environments.make(f"envs.bodies:body{{{given}}}")


def test_options_are_checked(tmp_path: Path) -> None:
    """What is wrong is named."""
    (tmp_path / "sac-Hopper-v5").mkdir()
    good: dict[str, Any] = {"planners": tmp_path, "robots": ("Hopper-v5",)}
    for changed, match in (
        ({"arms": ("locl",)}, "local"),
        ({"planners": None}, "--planners"),
        ({"robots": ("Walker2d-v5",)}, "sac-Walker2d-v5 is missing"),
        ({"labels": 3}, "a label and a step for each round"),
    ):
        with pytest.raises(ConfigError, match=match):
            list(federated.works(federated.Options(**{**good, **changed})))


def test_the_worst_device_and_the_best_local_executor_are_told() -> None:
    """Retention is a device's own: its planner is measured on its body."""
    base: dict[str, Any] = {"robot": "R", "executor": "mlp:4"}
    results: list[dict[str, Any]] = []
    for seed in (0, 1):
        know = {"returns": [110.0, 210.0], "random": [10.0, 10.0], "arm": "planner, random"}
        everywhere = [[110.0, 10.0], [60.0, 110.0]]
        local = {"arm": "local", "returns": [110.0, 110.0], "everywhere": everywhere}
        weights = {"arm": federated.SHARED, "returns": [100.0, 170.0], "sent": 5, "received": 7}
        bad = {"arm": "bad, median", "returns": [90.0, 170.0], "sent": 5, "received": 7}
        results += [{**base, **each, "seed": seed} for each in (know, local, weights, bad)]
    found = federated.findings(federated.Options(), results)
    rows = {row["arm"]: row for row in federated._rows(results)}
    assert rows["local"]["mixture"].mean == pytest.approx(0.5)
    assert rows[federated.SHARED]["worst"].mean == pytest.approx(0.8)
    assert rows[federated.SHARED]["mean"].mean == pytest.approx(0.85)
    assert "the shared executor beats the best local one" in found.verdict
    assert "bad, median costs 0.050" in found.verdict
