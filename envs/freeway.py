"""Freeway: cross eight lanes of traffic without standing where a car is.

`agentkd/Freeway-v0` draws boards of every difficulty, `agentkd/FreewayEasy-v0`, `…Medium-v0` and
`…Hard-v0` of one; `agentkd/FreewayCars-v0` and so on observe the cars alone, without the forecast.
The rules are in `envs.freeway_rules`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np

from agentkd.errors import ConfigError, did_you_mean
from agentkd.types import Floats
from envs import freeway_rules as rules

Difficulty = Literal["any", "easy", "medium", "hard"]
Layout = Literal["forecast", "cars"]
RANGES: dict[str, tuple[int, int]] = {
    "any": (9, 21),
    "easy": (9, 12),
    "medium": (13, 16),
    "hard": (17, 21),
}
"""The fewest turns in which a board of each difficulty can be crossed."""
BEST = 89.0
"""The return that a published score of 1 stands for."""
_GAMES = 1 << 32


class Freeway(gym.Env[Floats, np.int64]):
    """Cross eight lanes in as few turns as possible, within 100.

    Actions: 0 up, 1 stay, 2 down. The only reward is paid at the goal: 100 minus the turns taken. A
    collision takes player and cars back to where they began, and the turns go on. The observation
    determines the position; see `rules.observe`.

    Reset with seed i, the game is the i-th of the published ones of its difficulty (0 to 7; for
    "any" 0 to 23, the easy ones first). Any other seed, and none, draws a board that can be crossed
    in as many turns as the difficulty says, and that is none of the published ones.

    Args:
        difficulty: Which boards are drawn.
        layout: "forecast" observes the cars and which crossings will be covered when the player
            could be there; "cars" leaves the second out.
        render_mode: "ansi" or None.

    Raises:
        ConfigError: If a difficulty or layout is not known.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(
        self,
        difficulty: Difficulty = "any",
        layout: Layout = "forecast",
        render_mode: str | None = None,
    ) -> None:
        """Lay out the spaces."""
        for name, known in ((difficulty, Difficulty), (layout, Layout)):
            if name not in get_args(known):
                hint = did_you_mean(str(name), get_args(known))
                raise ConfigError(f"Freeway knows no {name!r}.{hint}")
        self._forecast = layout == "forecast"
        self._range = RANGES[difficulty]
        self._published = _published(difficulty)
        self.render_mode = render_mode
        low, high = rules.limits(forecast=self._forecast)
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gym.spaces.Discrete(rules.ACTIONS)
        self._game, self._turn, self._crashes = self._published[0], 0, 0
        self._position = rules.begin(rules.drawn(self._game))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin a game.

        Args:
            seed: See the class.
            options: {"game": …} names the game by its seed, as the published game does.

        Returns:
            The observation, and the game, its fewest turns and the crashes so far.

        Raises:
            ConfigError: If a game of that number cannot be.
        """
        super().reset(seed=seed)
        game = (options or {}).get("game")
        if game is not None:
            if not 0 <= int(game) < _GAMES:
                raise ConfigError(f"game is {game}; it has to be from 0 to 2³² − 1.")
            self._game = int(game)
        elif seed is not None and seed < len(self._published):
            self._game = self._published[seed]
        else:
            self._game = self._draw()
        self._position = rules.begin(rules.drawn(self._game))
        self._turn = self._crashes = 0
        return self._seen(), self._info()

    def _draw(self) -> int:
        least, most = self._range
        while True:
            game = int(self.np_random.integers(_GAMES))
            board = rules.drawn(game)
            fewest = rules.fewest_turns(board)
            fits = fewest is not None and least <= fewest <= most
            if fits and board.lanes not in _held_out():
                return game

    def step(self, action: np.int64 | int) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take a turn: the player moves, then the cars."""
        self._position, crashed = rules.move(self._position, int(action))
        self._turn += 1
        self._crashes += crashed
        through = self._position.row == 0
        reward = float(rules.TURNS - self._turn) if through else 0.0
        over = through or self._turn >= rules.TURNS
        return self._seen(), reward, over, False, self._info()

    def _seen(self) -> Floats:
        return rules.observe(self._position, self._turn, forecast=self._forecast)

    def _info(self) -> dict[str, Any]:
        fewest = rules.fewest_turns(self._position.board)
        return {"game": self._game, "fewest_turns": fewest, "crashes": self._crashes}

    def render(self) -> str | None:
        """Draw the board as text: @ the player, > and < heads of cars, = the rest."""
        if self.render_mode != "ansi":
            return None
        position = self._position
        lines = [["."] * 9 for _ in range(rules.START + 1)]
        for line, lane in zip(lines[1:], position.board.lanes, strict=False):
            for offset in lane.offsets:
                head = lane.head((position.clock + offset) % lane.cycle)
                back = -1 if lane.stride > 0 else 1
                for part in range(abs(lane.stride)):
                    cell = head + part * back
                    if 0 <= cell < len(line):
                        line[cell] = "=" if part else ("<" if back > 0 else ">")
        lines[position.row][4] = "@"
        return "\n".join(map("".join, lines)) + f"\nturn {self._turn}"


def _published(difficulty: str) -> tuple[int, ...]:
    if difficulty == "any":
        return tuple(game for games in rules.PUBLISHED.values() for game in games)
    return rules.PUBLISHED[difficulty]


@cache
def _held_out() -> frozenset[tuple[rules.Lane, ...]]:
    """The published boards: nothing is trained on them."""
    return frozenset(rules.drawn(game).lanes for game in _published("any"))


for _difficulty in get_args(Difficulty):
    for _layout, _suffix in (("forecast", ""), ("cars", "Cars")):
        _name = "" if _difficulty == "any" else _difficulty.capitalize()
        gym.register(
            f"agentkd/Freeway{_name}{_suffix}-v0",
            entry_point="envs.freeway:Freeway",
            kwargs={"difficulty": _difficulty, "layout": _layout},
        )
