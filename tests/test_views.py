"""Planner and executor each see a part of the observation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentkd import env_spec, load_planner
from agentkd.distillation.task import open_task
from agentkd.errors import ConfigError, PlannerError, SpecError
from agentkd.executors.architecture import initial
from agentkd.spec import ObsSpec, Part, Spec, flatten_one, unflatten
from agentkd.spec_json import from_json, to_json
from agentkd.types import Floats
from agentkd.views import View, alone, columns, groups, pick, see, whole, words_of
from tests.views_robot import ROBOT, VECTOR, Robot, observation, regulate

BROKEN = [
    (VECTOR, VECTOR, "not Spec"),
    (3, VECTOR, "not int"),
    ("tests.views_robot:ROBOT", VECTOR, "is a Spec"),
    ("joint", ROBOT, "Did you mean 'joints'"),
    ("joints[9]", ROBOT, "holds nothing"),
    ("joints[x]", ROBOT, "write places"),
    ("2:2", VECTOR, "holds nothing"),
    ("8", VECTOR, "there are 8 numbers"),
    ("joints", VECTOR, "name places"),
    ("stack:0", VECTOR, "from 1 to 256"),
    ("delay:0", VECTOR, "from 1 to 256 ticks"),
    ("actions:300", VECTOR, "from 1 to 256 ticks"),
    ("", VECTOR, "empty"),
    (["math:sin", "0"], VECTOR, "stands alone"),
    ("math:sin", VECTOR, "for planners only"),
]


@pytest.mark.parametrize(
    ("text", "spec", "places"),
    [
        ("0:2,4:5", VECTOR, [0, 1, 4]),
        ("-1,0", VECTOR, [0, 7]),
        ("3:", VECTOR, [3, 4, 5, 6, 7]),
        ([1, 2], VECTOR, [1, 2]),
        ("joints", ROBOT, [5, 6, 7, 8, 9, 10]),
        ("mode,state[0:2]", ROBOT, [0, 1, 11, 12, 13]),
        ("joints[-1],joints[0]", ROBOT, [5, 10]),
    ],
)
def test_a_view_is_what_its_words_say(text: Any, spec: Spec, places: list[int]) -> None:
    """Places are those of the whole flat observation, in its order."""
    seen = see(spec, text)
    found = columns(seen.obs)
    assert found is not None
    assert found.tolist() == places
    assert seen.obs.size == len(places)
    assert whole(seen.obs) == spec.obs
    again = see(spec, words_of(seen.obs))
    assert again == seen
    assert from_json(to_json(seen)) == seen


def test_everything_is_no_view() -> None:
    """A view of all that there is changes nothing."""
    assert see(VECTOR, "0:8") == see(VECTOR, None) == VECTOR
    assert see(ROBOT, "state,joints,mode") == ROBOT
    assert columns(VECTOR.obs) is None
    assert words_of(VECTOR.obs) == []


@pytest.mark.parametrize(("text", "spec", "why"), BROKEN, ids=[str(each[0]) for each in BROKEN])
def test_a_broken_view_is_named(text: Any, spec: Spec, why: str) -> None:
    """The error names the word and what there is."""
    with pytest.raises(ConfigError, match=why):
        see(spec, text)


def test_groups_of_rsl_rl_are_views() -> None:
    """Its runner has a list of keys for each policy."""
    found = groups({"student": ["joints"], "teacher": ["joints", "state"]})
    assert found["teacher"] == View(("joints", "state"))


def test_a_spec_from_a_file_cannot_see_what_is_not_there() -> None:
    """Places are ascending and within the part."""
    for seen in ((0, 0), (2, 1), (8,), (-1,), (True,), ()):
        with pytest.raises(SpecError):
            ObsSpec((Part("", "box", (8,), "float32", seen=seen),))


def test_what_is_seen_is_flattened_and_nothing_else_is_touched() -> None:
    """A device that has only the sensors gives only them."""
    seen = see(ROBOT, "joints[1:3],mode").obs
    obs = observation()
    flat = flatten_one(seen, obs)
    assert flat.tolist() == pick(seen, flatten_one(ROBOT.obs, obs)).tolist()
    obs["state"] = "a camera that nobody looks at"
    assert flatten_one(seen, obs).tolist() == flat.tolist()
    del obs["state"]
    assert flatten_one(seen, obs).tolist() == flat.tolist()
    del obs["joints"]
    with pytest.raises(SpecError, match="joints"):
        flatten_one(seen, obs)
    with pytest.raises(SpecError, match="no shape to give back"):
        unflatten(seen, flat[None])
    with pytest.raises(SpecError, match="14 or 5"):
        pick(seen, np.zeros((1, 6), np.float32))


def test_what_is_left_alone_is_no_dictionary() -> None:
    """A planner of one part takes that part as its whole observation."""
    assert alone(see(ROBOT, "joints").obs) == ObsSpec((Part("", "box", (2, 3), "float32"),))
    both = alone(see(ROBOT, "state[0:2],mode").obs)
    assert [(part.name, part.shape) for part in both.parts] == [("state", (2,)), ("mode", ())]


@pytest.mark.parametrize("sees", ["state", "tests.views_robot:from_whole"])
def test_a_planner_is_asked_about_its_view(sees: str) -> None:
    """It gets its part alone, or what a function makes of the whole."""
    spec = env_spec(Robot())
    planner = load_planner("tests.views_robot:regulate", spec, sees=sees)
    obs, _ = Robot().reset(seed=3)
    flat = flatten_one(spec.obs, obs)[None]
    assert planner.spec == spec
    found: Any = planner.policy
    assert np.allclose(found(flat).action, regulate(obs["state"][None]).action)


def test_a_planner_with_a_memory_is_asked_about_its_view() -> None:
    """It keeps its memory."""
    spec = env_spec(Robot())
    sketch = initial("gru:4", spec, sees="state")

    class Recurrent:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, sketch.memory), np.float32),)

        def __call__(self, obs: Floats, state: Any) -> Any:
            assert obs.shape[1] == 2
            dist, after = sketch.answer(obs, state[0])
            return dist, (after,)

    task = open_task(Robot, Recurrent(), sees="state")
    policy: Any = task.planner.policy
    rows = np.ones((3, spec.obs.size), np.float32)
    dist, _ = policy(rows, policy.initial_state(3))
    assert dist.action.shape == (3, 1)


def test_a_planner_view_that_cannot_be_is_named() -> None:
    """A stack is the executor's; a function answers with rows."""
    spec = env_spec(Robot())
    with pytest.raises(PlannerError, match="stack:4 is for executors"):
        load_planner("tests.views_robot:regulate", spec, sees="state,stack:4")
    with pytest.raises(PlannerError, match="numbers of shape"):
        load_planner("tests.views_robot:regulate", spec, sees="numpy:shape")
    with pytest.raises(ConfigError, match="give its spec"):
        load_planner("tests.views_robot:regulate", sees="state")


def test_a_planner_that_looks_for_more_than_it_sees_is_told() -> None:
    """Its view's size is named before anything is distilled or recorded."""
    with pytest.raises(PlannerError, match=r"raised IndexError for an observation \(1, 1\), which"):
        open_task(Robot, lambda obs: obs[:, 2:3] + obs[:, 2], sees="sensors")
