"""The rules of Snake, with NumPy only: body, food that does not last, and obstacles.

The snake lives on six by six cells within walls, some of which are obstacles. Food appears every
third turn, stays for ten and makes the snake longer. Cells are numbers on a grid of 13 by 13, large
enough for whatever is seen around any head.

Source: the game of the Real-Time Reasoning Gym (Wen et al. 2025, arXiv 2511.04898), by its rules;
its boards and foods come from the same draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agentkd.errors import SpecError
from agentkd.types import Floats

STRAIGHT, LEFT, RIGHT = 0, 1, 2
ACTIONS = 3
TURNS, LIFE, EVERY, FIRST = 100, 10, 3, 3
"""Turns of a game; turns that food lasts; turns between foods; foods at the start."""
WIDTH = 13
SEEN = 11
"""The window around the head that is observed has so many cells a side."""
SIZE = 3 * SEEN * SEEN + 1
SIDE = 6
"""The board has so many cells a side."""
_CORNER = 3 * WIDTH + 4
"""The cell of the upper left corner of the board, on the grid."""
_CENTRE = 6 * WIDTH + 6
_STEPS = (-WIDTH, 1, WIDTH, -1)
"""Up, right, down, left: a turn to the right is the next one."""
_TURNED = (0, -1, 1)
_ALL = (1 << WIDTH * WIDTH) - 1
_MOST = SIDE * SIDE


class Position(NamedTuple):
    """Where a game stands, as far as it can be seen.

    Attributes:
        solid: A bit for each cell of the grid: walls and obstacles.
        body: The snake's cells, the tail first, the head last.
        heading: 0 up, 1 right, 2 down, 3 left.
        food: Cells and the turns that are left to them, the oldest first.
        turn: Turns taken.
    """

    solid: int
    body: tuple[int, ...]
    heading: int
    food: tuple[tuple[int, int], ...]
    turn: int


def _cell(x: int, y: int) -> int:
    """A cell by its place on the board: x from the left, y from below, 0 to 5."""
    return _CORNER + (SIDE - 1 - y) * WIDTH + x


CELLS = tuple(_cell(x, y) for y in reversed(range(SIDE)) for x in range(SIDE))
"""The board's cells, row by row from above."""


def drawn(game: int, obstacles: int) -> tuple[Position, tuple[int, ...]]:
    """Draw a game.

    NumPy's old generator, whose numbers never change, draws what the published game draws, in its
    order.

    Args:
        game: The seed, 0 to 2³² − 1.
        obstacles: How many.

    Returns:
        The position at the start, and the cells on which food appears, one after another and again
        from the first; the first three lie there already.
    """
    random = np.random.RandomState(game)
    begin = _cell(2, 2)
    blocked: list[int] = []
    while len(blocked) < obstacles:
        x, y = int(random.randint(0, SIDE)), int(random.randint(0, SIDE))
        cell = _cell(x, y)
        if cell != begin and cell not in blocked:
            blocked.append(cell)
    free = [_cell(x, y) for x in range(SIDE) for y in range(SIDE)]
    free = [cell for cell in free if cell != begin and cell not in blocked]
    random.shuffle(free)
    random.shuffle(free)
    solid = _ALL & ~sum(1 << cell for cell in CELLS if cell not in blocked)
    food = tuple((cell, LIFE) for cell in free[:FIRST])
    return Position(solid, (begin,), 3, food, 0), tuple(free)


def move(position: Position, action: int) -> tuple[Position, float, bool]:
    """Take a turn, in which no food appears.

    Returns:
        The position that follows; 1 for food, −1 for death, else 0; whether it is over.
    """
    solid, body, heading, food, turn = position
    heading = (heading + _TURNED[action]) % 4
    head = body[-1] + _STEPS[heading]
    eaten = any(cell == head for cell, _ in food)
    # The tail moves away in time, unless the snake grows.
    if solid >> head & 1 or head in (body if eaten else body[1:]):
        return Position(solid, body, heading, food, turn + 1), -1.0, True
    body = (*body, head) if eaten else (*body[1:], head)
    if eaten:
        food = tuple([each for each in food if each[0] != head])
    after = Position(solid, body, heading, _aged(food), turn + 1)
    return after, float(eaten), turn + 1 >= TURNS


def _aged(food: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Age the food by a turn.

    When food goes, the food next in age is passed over in that turn. The published game does so,
    and scores are compared with its.
    """
    kept: list[tuple[int, int]] = []
    passed = False
    for cell, life in food:
        if passed:
            kept.append((cell, life))
            passed = False
        elif life <= 1:
            passed = True
        else:
            kept.append((cell, life - 1))
    return tuple(kept)


def appear(position: Position, cell: int) -> Position:
    """Let food appear on a cell."""
    return position._replace(food=(*position.food, (cell, LIFE)))


def due(position: Position) -> bool:
    """Whether food appears at the end of the turn that led here."""
    return position.turn % EVERY == 1


def _window() -> tuple[tuple[int, ...], ...]:
    """For each heading, the offsets of the cells around a head that looks up."""
    half = SEEN // 2
    offsets = []
    for heading in range(4):
        ahead, right = _STEPS[heading], _STEPS[(heading + 1) % 4]
        offsets.append(
            tuple(
                -row * ahead + column * right
                for row in range(-half, half + 1)
                for column in range(-half, half + 1)
            )
        )
    return tuple(offsets)


_WINDOWS = _window()


def observe(position: Position) -> Floats:
    """Give what is observed, (364,).

    Three planes of 11 by 11 cells around the head, which looks up: what is solid; how many moves
    until a piece of the body is gone, in 36ths; how many turns are left to the food, in tenths.
    Then the turn, in hundreds.
    """
    solid, body, heading, food, turn = position
    planes = np.zeros((3, WIDTH * WIDTH), np.float32)
    for order, cell in enumerate(body):
        planes[1, cell] = (order + 1) / _MOST
    for cell, life in food:
        planes[2, cell] = life / LIFE
    cells = np.asarray(_WINDOWS[heading]) + body[-1]
    # Beyond the grid there is only wall.
    inside = (cells >= 0) & (cells < WIDTH * WIDTH)
    seen = np.ones((3, SEEN * SEEN), np.float32)
    seen[1:] = 0.0
    kept = cells[inside]
    seen[0, inside] = [solid >> int(cell) & 1 for cell in kept]
    seen[1:, inside] = planes[1:, kept]
    return np.append(seen.ravel(), np.float32(turn / TURNS))


def restore(obs: Floats) -> Position:
    """Read a position from an observation, (364,); its head looks up.

    Food that is as old is put in the order of the cells; else it is the position that was observed,
    turned and shifted.

    Raises:
        SpecError: If it is not an observation of Snake.
    """
    if obs.shape != (SIZE,) or not np.isfinite(obs).all():
        raise SpecError(
            f"An observation of Snake has {SIZE} finite numbers; the shape of this one "
            f"is {obs.shape}."
        )
    seen = obs[:-1].reshape(3, SEEN * SEEN)
    cells = [_CENTRE + offset for offset in _WINDOWS[0]]
    solid = _ALL
    for cell, blocked in zip(cells, seen[0], strict=True):
        if blocked < 0.5:
            solid &= ~(1 << cell)
    orders = np.rint(seen[1] * _MOST)
    body = [cells[index] for index in np.argsort(orders, kind="stable") if orders[index]]
    if not body or body[-1] != _CENTRE:
        raise SpecError("The observation has no head in its middle.")
    lives = np.rint(seen[2] * LIFE)
    oldest = [index for index in np.argsort(lives, kind="stable") if lives[index]]
    food = tuple((cells[index], int(lives[index])) for index in oldest)
    return Position(solid, tuple(body), 0, food, round(float(obs[-1]) * TURNS))


def flood(position: Position) -> tuple[list[int], int]:
    """Spread from the head over free cells.

    A piece of the body is in the way until it has moved on.

    Returns:
        For each distance from 1 on the bits of the cells that are first reached with so many moves,
        and how many cells there are in all.
    """
    taken, body = position.solid, position.body
    for cell in body:
        taken |= 1 << cell
    front = reached = 1 << body[-1]
    layers: list[int] = []
    area = 0
    for distance in range(_MOST):
        if distance < len(body) - 1:
            taken &= ~(1 << body[distance])
        spread = front << 1 | front >> 1 | front << WIDTH | front >> WIDTH
        front = spread & ~taken & ~reached
        if not front:
            break
        layers.append(front)
        reached |= front
        area += front.bit_count()
    return layers, area
