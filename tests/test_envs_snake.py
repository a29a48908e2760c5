"""Snake: its rules, its games, and what is observed of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentkd import environments
from agentkd.errors import ConfigError, SpecError
from agentkd.types import Floats
from envs import snake, snake_rules
from envs.snake_rules import CELLS, LEFT, RIGHT, STRAIGHT, Position
from policies.snake import ahead, reactive, safe

IDS = [f"agentkd/Snake{difficulty}-v0" for difficulty in ("", "Easy", "Medium", "Hard")]
OPEN = snake_rules.drawn(0, 0)[0].solid


def cell(column: int, row: int) -> int:
    """A cell by column from the left and row from above, 0 to 5."""
    return CELLS[row * snake_rules.SIDE + column]


def at(
    *body: tuple[int, int],
    heading: int = 1,
    food: tuple[tuple[int, int, int], ...] = (),
    turn: int = 0,
) -> Position:
    """A position on an open board; the tail first, food as (column, row, life)."""
    meals = tuple((cell(x, y), life) for x, y, life in food)
    return Position(OPEN, tuple(cell(*each) for each in body), heading, meals, turn)


def test_food_makes_the_snake_longer() -> None:
    """Where there is food the tail stays, and 1 is paid."""
    before = at((1, 1), (2, 1), food=((3, 1, 5),))
    after, reward, over = snake_rules.move(before, STRAIGHT)
    assert after.body == (cell(1, 1), cell(2, 1), cell(3, 1))
    assert (after.food, reward, over) == ((), 1.0, False)


def test_turns_are_the_snakes_own() -> None:
    """Left of a snake that goes right is up."""
    before = at((1, 1), (2, 1))
    assert snake_rules.move(before, LEFT)[0].body[-1] == cell(2, 0)
    assert snake_rules.move(before, RIGHT)[0].body[-1] == cell(2, 2)


@pytest.mark.parametrize(
    ("position", "action"),
    [(at((4, 0), (5, 0)), STRAIGHT), (at((2, 1), (1, 1), (1, 2), (2, 2), (3, 2), heading=1), LEFT)],
    ids=["wall", "room"],
)
def test_the_wall_is_death_and_room_is_not(position: Position, action: int) -> None:
    """Death costs 1 and ends the game."""
    _, reward, over = snake_rules.move(position, action)
    dead = action == STRAIGHT
    assert (reward, over) == ((-1.0, True) if dead else (0.0, False))


def ring(food: tuple[tuple[int, int, int], ...] = ()) -> Position:
    """A snake whose head comes from below to its own tail."""
    return at((1, 1), (2, 1), (2, 2), (1, 2), heading=3, food=food)


def test_the_tail_moves_away_in_time() -> None:
    """The head may go where the tail was, unless food keeps it there."""
    after, reward, over = snake_rules.move(ring(), RIGHT)
    assert (after.body[-1], reward, over) == (cell(1, 1), 0.0, False)
    _, reward, over = snake_rules.move(ring(((1, 1, 4),)), RIGHT)
    assert (reward, over) == (-1.0, True)


def test_food_goes_and_the_next_in_age_is_passed_over() -> None:
    """Of three that would go at once, the second stays for a turn, as published."""
    three = at((0, 0), (1, 0), food=((3, 3, 1), (4, 3, 1), (5, 3, 1), (5, 5, 4)))
    after, _, _ = snake_rules.move(three, STRAIGHT)
    assert after.food == ((cell(4, 3), 1), (cell(5, 5), 4))


def test_a_game_ends_after_100_turns() -> None:
    """The last turn is paid like any other."""
    last = at((1, 1), (2, 1), food=((3, 1, 5),), turn=99)
    _, reward, over = snake_rules.move(last, STRAIGHT)
    assert (reward, over) == (1.0, True)


@pytest.mark.parametrize("env", IDS)
def test_snake_is_an_environment(env: str) -> None:
    """Gymnasium's own check finds nothing."""
    check_env(environments.make(f"envs.snake:{env}").unwrapped)


@pytest.mark.parametrize(
    ("difficulty", "score"), [("Easy", 0.0156), ("Medium", 0.0156), ("Hard", 0.0078)]
)
def test_the_published_games_are_those(difficulty: str, score: float) -> None:
    """An agent that never answers, straight on, scores what is published."""
    world = environments.make(f"envs.snake:agentkd/Snake{difficulty}-v0")
    returns = []
    for seed in range(8):
        world.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            _, reward, over, _, _ = world.step(STRAIGHT)
            total += reward
        returns.append(total)
    span = snake.BEST - snake.WORST
    assert (np.mean(returns) - snake.WORST) / span == pytest.approx(score, abs=1e-4)


def lived(games: int) -> list[tuple[Floats, Position]]:
    """What is observed on the way of a rule, and where the games then stand."""
    world = snake.Snake()
    found = []
    for seed in range(games):
        obs, _ = world.reset(seed=seed)
        over = False
        while not over:
            found.append((obs, world._position))
            action = int(reactive(obs[None]).logits.argmax())
            obs, _, over, _, _ = world.step(action)
    return found


def test_an_observation_determines_the_position() -> None:
    """Read back, it is observed alike and goes on alike."""
    for obs, position in lived(3):
        read = snake_rules.restore(obs)
        np.testing.assert_array_equal(snake_rules.observe(read), obs)
        for action in range(3):
            mine, theirs = (snake_rules.move(each, action) for each in (read, position))
            assert mine[1:] == theirs[1:]
            assert len(mine[0].body) == len(theirs[0].body)
            assert safe(obs, action) == (theirs[1] >= 0)


def test_rolling_forward_is_what_then_happens() -> None:
    """Until food appears, the observation after some actions is as foretold."""
    world = snake.Snake("easy")
    obs, _ = world.reset(seed=2)
    # Food appears in the turns 1, 4, 7: after the first, two are as foretold.
    obs, *_ = world.step(STRAIGHT)
    expected = ahead(obs, [LEFT, STRAIGHT])
    for action in (LEFT, STRAIGHT):
        obs, *_ = world.step(action)
    np.testing.assert_array_equal(expected, obs)


def test_a_flood_counts_what_can_be_reached() -> None:
    """All of an open board can be, and each cell by its distance."""
    layers, area = snake_rules.flood(at((0, 0)))
    assert area == 35
    assert [layer.bit_count() for layer in layers] == [2, 3, 4, 5, 6, 5, 4, 3, 2, 1]


def test_a_flood_waits_for_the_body() -> None:
    """A piece of the body is in the way until it has moved on."""
    # The head sits in the corner behind its own body: only the tail opens the way.
    closed = at((2, 0), (2, 1), (1, 1), (0, 1), (0, 0), heading=0)
    layers, _ = snake_rules.flood(closed)
    assert layers[0] == 1 << cell(1, 0)
    assert layers[1] == 1 << cell(2, 0)
    freed = at((3, 1), (2, 1), (1, 1), (0, 1), (0, 0), heading=0)
    assert snake_rules.flood(freed)[0][1] >> cell(2, 0) & 1


def test_other_games_are_drawn_beside_the_published() -> None:
    """Unseeded games have the difficulty's obstacles and other seeds."""
    world = snake.Snake("hard")
    world.reset(seed=99)
    for _ in range(20):
        _, info = world.reset()
        assert info["obstacles"] == 8
        assert info["game"] >= 1000


def test_what_cannot_be_is_refused() -> None:
    """A difficulty or game that is none is named."""
    with pytest.raises(ConfigError, match="mean 'hard'"):
        snake.Snake("hrd")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="game is -2"):
        snake.Snake().reset(options={"game": -2})


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros(5, np.float32), "364"),
        (np.full(364, np.inf, np.float32), "364"),
        (np.zeros(364, np.float32), "no head"),
    ],
)
def test_garbage_is_no_position(obs: Any, message: str) -> None:
    """What is no observation is said to be none."""
    with pytest.raises(SpecError, match=message):
        snake_rules.restore(obs)


def test_a_board_is_drawn_as_text() -> None:
    """Six rows, the head, and what lies about."""
    world = snake.Snake("hard", render_mode="ansi")
    world.reset(seed=0)
    lines = str(world.render()).splitlines()
    text = "".join(lines[:6])
    assert (len(lines), len(text), text.count("#"), text.count("0")) == (7, 36, 8, 3)
    assert text.count("@") == 1
