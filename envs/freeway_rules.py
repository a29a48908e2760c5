"""The rules of Freeway, with NumPy only: cars, crossing, observations and back.

Eight lanes lie between the start, row 9, and the goal, row 0. Each lane is nine cells wide; the
player crosses in the middle one. A lane's cars move in a cycle that depends on nothing but the
turns since the start, so a position is three numbers: the board, the clock and the row. A collision
takes the player back to the start and all cars with it.

Source: the game of the Real-Time Reasoning Gym (Wen et al. 2025, arXiv 2511.04898), by its rules;
its boards come from the same draws, so that the same seed is the same board.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from agentkd.errors import SpecError
from agentkd.types import Floats

LANES, START, TURNS = 8, 9, 100
UP, STAY, DOWN = 0, 1, 2
ACTIONS = 3
_MOVES = (-1, 0, 1)
_LAST, _CROSSING = 8, 4
"""The last cell of a lane, and the one in which the player crosses."""
_CARS = 3
_LANE = 2 + 2 * _CARS
_CARS_SIZE = LANES * _LANE
PLAIN = _CARS_SIZE + START + 2
"""How many numbers the observation of the cars alone has."""
SLACK = 14
_NEAREST, _FARTHEST = -1, 8
FULL = PLAIN + (_FARTHEST - _NEAREST + 1) * SLACK
"""How many numbers it has with the forecast."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane and its cars, which are alike.

    Attributes:
        stride: Cells that a car moves at a time; below 0 it moves to the left.
        period: Turns from one move to the next.
        offsets: How many turns each car is into its cycle at the start.
    """

    stride: int
    period: int
    offsets: tuple[int, ...]

    @property
    def moves(self) -> int:
        """How many moves take a car from where it enters off the lane."""
        return _LAST // abs(self.stride) + 1

    @property
    def cycle(self) -> int:
        """Turns until a car is where it was; one of them it spends off the lane."""
        return self.moves * self.period + 1

    def head(self, phase: int) -> int:
        """The cell of a car's head so many turns into its cycle; off it, outside."""
        entry = 0 if self.stride > 0 else _LAST
        return entry + self.stride * min(phase // self.period, self.moves)

    def blocks(self, phase: int) -> bool:
        """Whether a car that is so far in its cycle covers the crossing."""
        head, length = self.head(phase), abs(self.stride)
        if self.stride > 0:
            return head - length < _CROSSING <= head
        return head <= _CROSSING < head + length


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """Eight lanes; the first is next to the goal. `board_of` makes each only once.

    Attributes:
        lanes: The lanes.
        blocked: For each lane, whether its crossing is covered at each turn of a cycle.
    """

    lanes: tuple[Lane, ...]
    blocked: tuple[tuple[bool, ...], ...] = field(repr=False)

    def free(self, row: int, clock: int) -> bool:
        """Whether a player may be in a row at a turn."""
        if not 1 <= row <= LANES:
            return True
        cycle = self.blocked[row - 1]
        return not cycle[clock % len(cycle)]


class Position(NamedTuple):
    """Where a game stands, as far as the cars and the player go.

    Attributes:
        board: The lanes.
        clock: Turns since the start, or since the last collision.
        row: The player's; 0 is the goal.
    """

    board: Board
    clock: int
    row: int


@lru_cache(maxsize=4096)
def board_of(lanes: tuple[Lane, ...]) -> Board:
    """Give the board with these lanes, the same object each time."""
    return Board(lanes, tuple(map(_covered, lanes)))


@lru_cache(maxsize=4096)
def _covered(lane: Lane) -> tuple[bool, ...]:
    """Whether a lane's crossing is covered at each turn of its cycle."""
    return tuple(
        any(lane.blocks((turn + offset) % lane.cycle) for offset in lane.offsets)
        for turn in range(lane.cycle)
    )


@lru_cache(maxsize=4096)
def drawn(game: int) -> Board:
    """Draw the board of a game.

    NumPy's old generator, whose numbers never change, draws what the published game draws, in its
    order.

    Args:
        game: The seed, 0 to 2³² − 1.
    """
    random = np.random.RandomState(game)
    random.choice(LANES, LANES, replace=False)
    left = random.rand(LANES) < 0.5
    alike = random.randint(0, 2, LANES) == 1
    lanes: list[Lane] = []
    for index in range(LANES):
        if index and alike[index]:
            lanes.append(lanes[-1])
            continue
        kind = random.randint(0, 3)
        if kind == 0:
            length = int(random.randint(2, 5))
            lanes.append(Lane(-length if left[index] else length, 1, (0,)))
            continue
        count = int(random.randint(2, 4)) if kind == 1 else 1
        period = int(random.randint(1, 4) if kind == 1 else random.randint(1, 5))
        # Slow cars all move to the right; the draw only says where they begin.
        first, apart = (_LAST, -(9 // count)) if left[index] else (0, 9 // count)
        cells = ((first + apart * car) % 9 for car in range(count))
        lanes.append(Lane(1, period, tuple(cell * period for cell in cells)))
    return board_of(tuple(lanes))


def begin(board: Board) -> Position:
    """Give the position at which a game, and a player after a collision, begins."""
    return Position(board, 0, START)


def move(position: Position, action: int) -> tuple[Position, bool]:
    """Take a turn.

    The player moves first. Who reaches the goal is through; else the cars move, and who is then
    where a car is begins again.

    Returns:
        The position that follows, and whether there was a collision.
    """
    board, clock, row = position
    row = min(row + _MOVES[action], START)
    if row == 0:
        return Position(board, clock + 1, 0), False
    if board.free(row, clock + 1):
        return Position(board, clock + 1, row), False
    return begin(board), True


@lru_cache(maxsize=65536)
def fewest_turns(board: Board) -> int | None:
    """The fewest turns from the start to the goal; None if there is no way in time."""
    everywhere = (1 << (START + 1)) - 1
    rows = 1 << START
    for turn in range(1, TURNS):
        rows = (rows | rows << 1 | rows >> 1) & everywhere
        if rows & 1:
            return turn
        for lane, cycle in enumerate(board.blocked):
            if cycle[turn % len(cycle)]:
                rows &= ~(2 << lane)
    return None


@lru_cache(maxsize=65536)
def _lanes_seen(board: Board, clock: int) -> Floats:
    """What is seen of the lanes, (64,); a car's place is counted from the crossing."""
    seen = np.zeros((LANES, _LANE), np.float32)
    for row, lane in zip(seen, board.lanes, strict=True):
        row[:2] = lane.stride / lane.period, abs(lane.stride)
        for car, offset in enumerate(lane.offsets):
            phase = (clock + offset) % lane.cycle
            entry = 0 if lane.stride > 0 else _LAST
            place = entry + lane.stride * phase / lane.period - _CROSSING
            row[2 + car] = 1.0
            row[2 + _CARS + car] = place
    return seen.ravel()


@lru_cache(maxsize=65536)
def _forecast(board: Board, clock: int, row: int) -> Floats:
    """Which crossings will be covered when the player could be there, (140,).

    Entry (j, m): whether the lane j rows ahead is covered j + m turns from now, when a player who
    stood still m times is there. j is −1, 0, …, 8, and m is 0, …, 13.
    """
    seen = np.zeros((_FARTHEST - _NEAREST + 1, SLACK), np.float32)
    for index, ahead in enumerate(range(_NEAREST, _FARTHEST + 1)):
        lane = row - ahead - 1
        if not 0 <= lane < LANES:
            continue
        cycle = board.blocked[lane]
        for slack in range(max(0, 1 - ahead), SLACK):
            seen[index, slack] = cycle[(clock + ahead + slack) % len(cycle)]
    return seen.ravel()


def observe(position: Position, turn: int, *, forecast: bool = True) -> Floats:
    """Give what is observed, (215,), or (75,) without the forecast.

    For each lane from the goal on: velocity in cells a turn, length in cells, three times whether
    there is a car, three times the place of its head in cells from the crossing. Then the row, one
    number for each of 1 to 9; the clock and the turn, in hundreds; and the forecast.
    """
    board, clock, row = position
    rows = np.zeros(START + 2, np.float32)
    if row:
        rows[row - 1] = 1.0
    rows[START:] = clock / TURNS, turn / TURNS
    parts = [_lanes_seen(board, clock), rows]
    if forecast:
        parts.append(_forecast(board, clock, row))
    return np.concatenate(parts)


def limits(*, forecast: bool = True) -> tuple[Floats, Floats]:
    """The least and the largest that is observed, both (215,) or (75,)."""
    low = np.zeros((LANES, _LANE), np.float32)
    high = np.ones((LANES, _LANE), np.float32)
    low[:, 0], high[:, 0], high[:, 1] = -4.0, 4.0, 4.0
    low[:, 2 + _CARS :], high[:, 2 + _CARS :] = -8.0, 8.0
    rest = (FULL if forecast else PLAIN) - _CARS_SIZE
    return (
        np.concatenate([low.ravel(), np.zeros(rest, np.float32)]),
        np.concatenate([high.ravel(), np.ones(rest, np.float32)]),
    )


@lru_cache(maxsize=65536)
def _board_seen(lanes: bytes, clock: int) -> Board:
    seen = np.frombuffer(lanes, np.float32).reshape(LANES, _LANE)
    return board_of(tuple(_lane_seen(row, clock) for row in seen))


def _lane_seen(row: Floats, clock: int) -> Lane:
    velocity, length = float(row[0]), round(float(row[1]))
    if velocity == 0 or not 1 <= length <= 4:
        raise SpecError(f"No lane has cars of length {length} at {velocity} a turn.")
    stride = length if velocity > 0 else -length
    period = round(stride / velocity)
    lane = Lane(stride, period, ())
    entry = 0 if stride > 0 else _LAST
    places = (row[2 + _CARS + car] for car in range(_CARS) if row[2 + car] > 0.5)
    phases = (round((float(place) + _CROSSING - entry) * period / stride) for place in places)
    return Lane(stride, period, tuple((each - clock) % lane.cycle for each in phases))


def restore(obs: Floats) -> tuple[Position, int]:
    """Read a position and the turn from an observation, (215,) or (75,).

    Raises:
        SpecError: If it is not an observation of Freeway.
    """
    if obs.shape not in ((FULL,), (PLAIN,)):
        raise SpecError(
            f"An observation of Freeway has {FULL} or {PLAIN} numbers, not {obs.shape}."
        )
    if not np.isfinite(obs).all():
        raise SpecError("The observation holds NaN or infinity.")
    rows = obs[_CARS_SIZE : _CARS_SIZE + START]
    clock, turn = (round(float(each) * TURNS) for each in obs[PLAIN - 2 : PLAIN])
    row = int(rows.argmax()) + 1 if rows.any() else 0
    lanes = np.ascontiguousarray(obs[:_CARS_SIZE], np.float32).tobytes()
    return Position(_board_seen(lanes, clock), clock, row), turn


PUBLISHED = {
    "easy": (1000, 1001, 1002, 1003, 1013, 1014, 1016, 1018),
    "medium": (1069, 1093, 1536, 1858, 1338, 2496, 1933, 1863),
    "hard": (1447, 2408, 2418, 2661, 1100, 1944, 1310, 2453),
}
"""The seeds of the published games. Three lie beside the turns of their difficulty: the first and
the fifth easy one take 13, the first medium one takes 12."""
