"""Freeway: its rules, the published games, and what is observed of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentkd import dists, environments
from agentkd.errors import ConfigError, SpecError
from agentkd.planners import load_planner
from agentkd.spec import env_spec
from agentkd.types import Floats
from envs import freeway, freeway_rules
from envs.freeway_rules import Board, Lane, Position, board_of
from policies.freeway import ahead, holds, reactive, safe

IDS = [
    f"agentkd/Freeway{difficulty}{layout}-v0"
    for difficulty in ("", "Easy", "Medium", "Hard")
    for layout in ("", "Cars")
]


def literally(lane: Lane, turns: int) -> list[list[int]]:
    """The cells of a lane's cars turn by turn, moved one by one as the rules say."""
    right, size = lane.stride > 0, abs(lane.stride)
    cars = []
    for offset in lane.offsets:
        # Only slow cars begin on the way; they are then about to stay for a period.
        cell = (0 if right else 8) + lane.stride * (offset // lane.period)
        cars.append([cell, lane.period])
    seen = []
    for _ in range(turns):
        for car in cars:
            if not 0 <= car[0] <= 8:
                car[:] = [0 if right else 8, lane.period]
                continue
            car[1] -= 1
            if car[1] == 0:
                car[:] = [car[0] + lane.stride, lane.period]
        back = -1 if right else 1
        seen.append([cell + back * part for cell, _ in cars for part in range(size)])
    return seen


@pytest.mark.parametrize("game", [0, 7, *freeway_rules.PUBLISHED["hard"]])
def test_a_crossing_is_covered_as_cars_move_one_by_one(game: int) -> None:
    """The cycle says what moving each car turn by turn gives."""
    board = freeway_rules.drawn(game)
    for row, lane in enumerate(board.lanes, 1):
        for turn, cells in enumerate(literally(lane, 90), 1):
            assert board.free(row, turn) == (4 not in cells)


def play(env: str, choose: Callable[[Floats], int], games: int = 8) -> list[float]:
    """The returns of the published games."""
    world = environments.make(f"envs.freeway:{env}")
    returns = []
    for seed in range(games):
        obs, _ = world.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            obs, reward, over, _, _ = world.step(choose(obs))
            total += reward
        returns.append(total)
    return returns


def by_rule(obs: Floats) -> int:
    return int(reactive(obs[None]).logits.argmax())


@pytest.mark.parametrize(
    ("difficulty", "rule", "exact"),
    [("Easy", 0.993, 0.993), ("Medium", 0.0, 0.962), ("Hard", 0.0, 0.902)],
)
def test_the_published_games_are_those(difficulty: str, rule: float, exact: float) -> None:
    """Rule, exact planner and default agent score what is published."""
    env = f"agentkd/Freeway{difficulty}-v0"
    spec = env_spec(environments.make(f"envs.freeway:{env}"))
    search: Any = load_planner("policies.freeway:planner", spec).policy
    once = search.at(1)

    def by_search(obs: Floats) -> int:
        return int(dists.mode(once(obs[None]), spec.action)[0])

    scores = {
        name: np.mean(play(env, choose)) / freeway.BEST
        for name, choose in (
            ("rule", by_rule),
            ("exact", by_search),
            ("default", lambda _: freeway_rules.UP),
        )
    }
    assert scores == {
        "rule": pytest.approx(rule, abs=5e-4),
        "exact": pytest.approx(exact, abs=5e-4),
        "default": 0.0,
    }


@pytest.mark.parametrize("env", IDS)
def test_freeway_is_an_environment(env: str) -> None:
    """Gymnasium's own check finds nothing."""
    check_env(environments.make(f"envs.freeway:{env}").unwrapped)


@pytest.mark.parametrize("forecast", [True, False])
def test_an_observation_determines_the_position(forecast: bool) -> None:
    """What is observed can be read back, also after collisions."""
    random = np.random.default_rng(1)
    low, high = freeway_rules.limits(forecast=forecast)
    for game in range(40):
        position = freeway_rules.begin(freeway_rules.drawn(game))
        for turn in range(30):
            obs = freeway_rules.observe(position, turn, forecast=forecast)
            assert ((low <= obs) & (obs <= high)).all()
            assert freeway_rules.restore(obs) == (position, turn)
            position, _ = freeway_rules.move(position, int(random.integers(3)))
            if position.row == 0:
                break


def test_the_forecast_says_what_will_be() -> None:
    """Entry (j, m) is whether the lane j rows ahead is covered j + m turns from now."""
    board = freeway_rules.drawn(freeway_rules.PUBLISHED["hard"][0])
    obs = freeway_rules.observe(Position(board, 11, 6), 11)
    forecast = obs[freeway_rules.PLAIN :].reshape(10, freeway_rules.SLACK)
    for index, ahead_by in enumerate(range(-1, 9)):
        for slack in range(freeway_rules.SLACK):
            turns = ahead_by + slack
            covered = turns > 0 and not board.free(6 - ahead_by, 11 + turns)
            assert forecast[index, slack] == covered


def empty_road() -> Board:
    """One slow car a lane, none of them near the crossing for a while."""
    return board_of((Lane(1, 4, (0,)),) * 8)


def test_a_collision_takes_player_and_cars_back() -> None:
    """Who is run over stands at the start, and so do the cars."""
    board = board_of((Lane(4, 1, (0,)),) * 8)
    position = Position(board, 0, 9)
    # The long car covers cells 1 to 4 after one turn.
    after, crashed = freeway_rules.move(position, freeway_rules.UP)
    assert (after, crashed) == (Position(board, 0, 9), True)


def test_the_goal_is_reached_before_the_cars_move() -> None:
    """Nine rows take nine turns, and the last one cannot end in a collision."""
    position = freeway_rules.begin(empty_road())
    for _ in range(9):
        position, crashed = freeway_rules.move(position, freeway_rules.UP)
        assert not crashed
    assert position.row == 0
    assert freeway_rules.fewest_turns(empty_road()) == 9


def test_a_board_without_a_way_has_no_fewest_turns() -> None:
    """Cars that cover a crossing at every turn let nobody through."""
    wall = Lane(1, 1, tuple(range(10)))
    assert freeway_rules.fewest_turns(board_of((wall,) * 8)) is None


def test_a_game_that_is_not_through_ends_after_100_turns() -> None:
    """It ends by itself, and nothing was paid."""
    world = environments.make("envs.freeway:agentkd/FreewayHard-v0")
    world.reset(seed=0)
    outcomes = [world.step(freeway_rules.STAY)[1:4] for _ in range(100)]
    assert outcomes == [(0.0, False, False)] * 99 + [(0.0, True, False)]


@pytest.mark.parametrize("difficulty", ["any", "easy", "medium", "hard"])
def test_boards_are_drawn_as_the_difficulty_says(difficulty: Any) -> None:
    """Unseeded games are in range, and never one of the published."""
    world = freeway.Freeway(difficulty)
    least, most = freeway.RANGES[difficulty]
    published = {
        freeway_rules.drawn(game).lanes
        for games in freeway_rules.PUBLISHED.values()
        for game in games
    }
    world.reset(seed=1234)
    for _ in range(30):
        _, info = world.reset()
        assert least <= info["fewest_turns"] <= most
        assert freeway_rules.drawn(info["game"]).lanes not in published


def test_a_game_can_be_named() -> None:
    """The option gives the game of the published generator."""
    world = freeway.Freeway()
    _, info = world.reset(options={"game": 1447})
    assert (info["game"], info["fewest_turns"]) == (1447, 19)
    with pytest.raises(ConfigError, match="game is -1"):
        world.reset(options={"game": -1})


def test_what_is_not_known_is_refused_with_the_nearest() -> None:
    """A difficulty with a typo is named, and what was meant."""
    with pytest.raises(ConfigError, match="mean 'medium'"):
        freeway.Freeway("medum")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros(7, np.float32), "215 or 75"),
        (np.full(75, np.nan, np.float32), "NaN"),
        (np.zeros(75, np.float32), "No lane"),
    ],
)
def test_garbage_is_no_position(obs: Floats, message: str) -> None:
    """What is no observation is said to be none."""
    with pytest.raises(SpecError, match=message):
        freeway_rules.restore(obs)


def test_a_board_is_drawn_as_text() -> None:
    """Rows from goal to start, with the player in the crossing's column."""
    world = gym.make("agentkd/FreewayHard-v0", render_mode="ansi")
    world.reset(seed=0)
    lines = str(world.render()).splitlines()
    assert (len(lines), lines[9], lines[10]) == (11, "....@....", "turn 0")


@pytest.mark.parametrize("forecast", [True, False])
def test_the_guard_knows_the_next_turn(forecast: bool) -> None:
    """An action is safe exactly if the world then shows no collision."""
    random = np.random.default_rng(3)
    for game in range(20):
        position = freeway_rules.begin(freeway_rules.drawn(game))
        for turn in range(12):
            obs = freeway_rules.observe(position, turn, forecast=forecast)
            found = [safe(obs, action) for action in range(3)]
            assert found == [not freeway_rules.move(position, a)[1] for a in range(3)]
            position, _ = freeway_rules.move(position, int(random.integers(3)))
            if position.row == 0:
                break


@pytest.mark.parametrize("layout", ["forecast", "cars"])
def test_rolling_forward_is_what_then_happens(layout: Any) -> None:
    """The observation after some actions is the one that the environment gives."""
    world = freeway.Freeway("medium", layout)
    obs, _ = world.reset(seed=3)
    actions = [0, 1, 0, 0, 2, 0, 1, 0]
    expected = ahead(obs, actions)
    for action in actions:
        obs, *_ = world.step(action)
    np.testing.assert_array_equal(expected, obs)


def test_a_plan_holds_only_where_it_leads_to_the_goal() -> None:
    """The planner's own plan does; going straight up on a hard board does not."""
    world = freeway.Freeway("hard")
    obs, info = world.reset(seed=0)
    spec = env_spec(world)
    planner: Any = load_planner("policies.freeway:planner", spec).policy
    plan = [int(a) for a in dists.mode(planner(obs[None]), spec.action)]
    assert holds(obs, plan)
    assert holds(obs, plan[: info["fewest_turns"]])
    assert not holds(obs, plan[: info["fewest_turns"] - 1])
    assert not holds(obs, [freeway_rules.UP] * 9)
