"""The maze: corridors that are a cell wide, and carts that roam in them.

All functions take and give arrays with any number of leading axes, so that a planner can try many
moves at once. Lengths are in cells, times in ticks of `TICK` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIZE, CARTS, SEEN = 6, 5, 3
"""Cells in a row, carts, and how many of the nearest are seen."""
TICK = 0.05
SPEED, CART_SPEED = 1.0, 0.5
RADIUS, TOUCH = 0.12, 0.28
"""Of the player, and the distance of two centres that touch."""
GRIP = 0.3
"""The share of the wanted change of velocity that a tick brings."""
FAR = 2.5
"""How far carts are seen, and walls."""
TURNS = 0.01
"""How often a cart turns round in a tick, for no reason."""
_ROOM = 0.5 - RADIUS
_DIAGONAL = np.sqrt(0.5)
MOVES = np.array(
    [(0, 0), (1, 0), (0, 1), (-1, 0), (0, -1)]
    + [(x * _DIAGONAL, y * _DIAGONAL) for x in (1, -1) for y in (1, -1)]
)
"""The velocity that each action asks for: rest, four directions, four diagonals."""
WAYS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
"""From a cell to its neighbours, in the order of `open_ways`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A maze.

    Attributes:
        open_ways: Whether a cell is open to its neighbours in the order of `WAYS`, (x, y, 4).
        start: The cell where the player begins.
        target: The cell that is looked for.
    """

    open_ways: Bools
    start: tuple[int, int]
    target: tuple[int, int]


def draw(random: np.random.Generator) -> Layout:
    """Draw a maze without closed rooms; one wall in six is taken away, so that there are rings."""
    ways = np.zeros((SIZE, SIZE, 4), bool)
    seen = {(0, 0)}
    path = [(0, 0)]
    while path:
        x, y = path[-1]
        found = [way for way in range(4) if _inside(x, y, way) and _next(x, y, way) not in seen]
        if not found:
            path.pop()
            continue
        way = int(random.choice(found))
        _open(ways, x, y, way)
        path.append(_next(x, y, way))
        seen.add(path[-1])
    for x in range(SIZE):
        for y in range(SIZE):
            for way in (0, 1):
                if _inside(x, y, way) and random.random() < 1 / 6:
                    _open(ways, x, y, way)
    start = tuple(random.integers(0, SIZE, 2).tolist())
    away = distances(ways, start)
    far = np.argwhere(away >= min(SIZE + 2, away.max()))
    target = tuple(far[random.integers(len(far))].tolist())
    return Layout(ways, start, target)


def _inside(x: int, y: int, way: int) -> bool:
    return all(0 <= place < SIZE for place in _next(x, y, way))


def _next(x: int, y: int, way: int) -> tuple[int, int]:
    return x + int(WAYS[way, 0]), y + int(WAYS[way, 1])


def _open(ways: Bools, x: int, y: int, way: int) -> None:
    ways[x, y, way] = True
    ways[(*_next(x, y, way), (way + 2) % 4)] = True


def distances(ways: Bools, target: tuple[int, int]) -> NDArray[np.int64]:
    """Count the cells from each cell to the target, (x, y)."""
    found = np.full((SIZE, SIZE), SIZE * SIZE)
    found[target] = 0
    rim = [target]
    while rim:
        later = []
        for x, y in rim:
            for way in range(4):
                if ways[x, y, way] and found[_next(x, y, way)] > found[x, y] + 1:
                    found[_next(x, y, way)] = found[x, y] + 1
                    later.append(_next(x, y, way))
        rim = later
    return found


def move(ways: Bools, place: Doubles, speed: Doubles, wanted: Doubles) -> tuple[Doubles, Doubles]:
    """Move players for a tick; walls stop them, one axis at a time.

    Args:
        ways: `open_ways` of each player's maze, (…, x, y, 4), or of one maze for all.
        place: Where they are, (…, 2).
        speed: Their velocities, (…, 2).
        wanted: The velocities that they want, (…, 2).

    Returns:
        Places and velocities.
    """
    speed = speed + GRIP * (SPEED * wanted - speed)
    place = place.copy()
    for axis in (0, 1):
        ways_here = _ways_at(ways, place)
        cell = np.clip(np.floor(place[..., axis]), 0, SIZE - 1)
        low = cell + 0.5 - np.where(ways_here[..., axis + 2], 1.5, _ROOM)
        high = cell + 0.5 + np.where(ways_here[..., axis], 1.5, _ROOM)
        there = place[..., axis] + TICK * speed[..., axis]
        held = np.clip(there, low, high)
        speed[..., axis] = np.where(held == there, speed[..., axis], 0.0)
        place[..., axis] = held
    return place, speed


def _ways_at(ways: Bools, place: Doubles) -> Bools:
    cells = np.clip(np.floor(place), 0, SIZE - 1).astype(int)
    rows = np.arange(len(ways)).reshape(-1, *(1,) * (place.ndim - 2))
    here = (cells[..., 0], cells[..., 1])
    found: Bools = ways[here] if ways.ndim == 3 else ways[(rows, *here)]
    return found


def room(ways: Bools, place: Doubles) -> Doubles:
    """How far the walls are in the order of `WAYS`, at most `FAR`, (4,)."""
    found = np.empty(4)
    for way in range(4):
        x, y = np.floor(place).astype(int).tolist()
        inside = place[way % 2] - (x, y)[way % 2]
        far = 1 - inside if way < 2 else inside
        while far < FAR and ways[x, y, way]:
            x, y = _next(x, y, way)
            far += 1
        found[way] = min(far, FAR)
    return found


class Carts:
    """Carts that roam: each goes from cell to cell, anywhere but back, and turns round at times."""

    def __init__(self, layout: Layout, random: np.random.Generator) -> None:
        """Place the carts, none within two cells of the player."""
        self._ways, self._random = layout.open_ways, random
        away = distances(self._ways, layout.start)
        cells = np.argwhere(away > 2)
        chosen = cells[random.choice(len(cells), CARTS, replace=len(cells) < CARTS)]
        self.places = chosen + 0.5
        self._way = np.array([self._turn(cell, None) for cell in chosen])
        self._left = np.ones(CARTS)

    @property
    def speeds(self) -> Doubles:
        """Their velocities, (carts, 2)."""
        speeds: Doubles = CART_SPEED * WAYS[self._way]
        return speeds

    def _turn(self, cell: Any, came: int | None) -> int:
        ways = np.flatnonzero(self._ways[int(cell[0]), int(cell[1])])
        back = None if came is None else (came + 2) % 4
        chosen = [way for way in ways if way != back] or list(ways)
        return int(self._random.choice(chosen))

    def step(self) -> None:
        """Go on for a tick."""
        far = CART_SPEED * TICK
        turned = self._random.random(CARTS) < TURNS
        for index in range(CARTS):
            if turned[index]:
                self._way[index] = (self._way[index] + 2) % 4
                self._left[index] = 1.0 - self._left[index]
            if self._left[index] <= far:
                cell = np.floor(self.places[index] + WAYS[self._way[index]] * self._left[index])
                self.places[index] = cell + 0.5
                self._way[index] = self._turn(cell, int(self._way[index]))
                self._left[index] = 1.0
            self.places[index] += WAYS[self._way[index]] * far
            self._left[index] -= far
