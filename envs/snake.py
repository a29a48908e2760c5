"""Snake: eat what does not last, grow, and do not get in your own way.

`agentkd/Snake-v0` draws games with 1, 5 or 8 obstacles, `agentkd/SnakeEasy-v0`, `…Medium-v0` and
`…Hard-v0` with 1, 5 and 8. The rules are in `envs.snake_rules`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np

from agentkd.errors import ConfigError, did_you_mean
from agentkd.types import Floats
from envs import snake_rules as rules

Difficulty = Literal["any", "easy", "medium", "hard"]
OBSTACLES: dict[str, tuple[int, ...]] = {
    "any": (1, 5, 8),
    "easy": (1,),
    "medium": (5,),
    "hard": (8,),
}
WORST, BEST = -1.0, 15.0
"""The returns that published scores of 0 and 1 stand for."""
_PUBLISHED = 8
"""The games 0 to 7 are those on which agents are compared."""
_FIRST, _GAMES = 1000, 1 << 32


class Snake(gym.Env[Floats, np.int64]):
    """Eat as much as possible in 100 turns, on six by six cells.

    Actions: 0 straight on, 1 left, 2 right, as the snake sees it. Food pays 1, death costs 1 and
    ends the game. The observation determines the position but for what is chance, which is where
    food will appear; see `rules.observe`.

    Reset with seed i, the game is the i-th of the published ones of its difficulty (0 to 7; for
    "any" 0 to 23, those with the fewest obstacles first). Any other seed, and none, draws one that
    is not among them.

    Args:
        difficulty: How many obstacles there are.
        render_mode: "ansi" or None.

    Raises:
        ConfigError: If the difficulty is not known.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(self, difficulty: Difficulty = "any", render_mode: str | None = None) -> None:
        """Lay out the spaces."""
        if difficulty not in OBSTACLES:
            hint = did_you_mean(str(difficulty), OBSTACLES)
            raise ConfigError(f"Snake knows no {difficulty!r}.{hint}")
        self._obstacles = OBSTACLES[difficulty]
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0.0, 1.0, (rules.SIZE,), np.float32)
        self.action_space = gym.spaces.Discrete(rules.ACTIONS)
        self._begin(0, self._obstacles[0])

    def _begin(self, game: int, obstacles: int) -> None:
        self._game, self._blocked = game, obstacles
        self._position, self._cells = rules.drawn(game, obstacles)
        self._next = rules.FIRST

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin a game.

        Args:
            seed: See the class.
            options: {"game": …} names the game by its seed, with the fewest obstacles of the
                difficulty.

        Returns:
            The observation, and the game, its obstacles and the snake's length.

        Raises:
            ConfigError: If a game of that number cannot be.
        """
        super().reset(seed=seed)
        named = (options or {}).get("game")
        if named is not None:
            if not 0 <= int(named) < _GAMES:
                raise ConfigError(f"game is {named}; it has to be from 0 to 2³² − 1.")
            self._begin(int(named), self._obstacles[0])
        elif seed is not None and seed < _PUBLISHED * len(self._obstacles):
            which, game = divmod(seed, _PUBLISHED)
            self._begin(game, self._obstacles[which])
        else:
            which = int(self.np_random.integers(len(self._obstacles)))
            game = int(self.np_random.integers(_FIRST, _GAMES))
            self._begin(game, self._obstacles[which])
        return rules.observe(self._position), self._info()

    def step(self, action: np.int64 | int) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take a turn."""
        self._position, reward, over = rules.move(self._position, int(action))
        if not over and rules.due(self._position):
            cell = self._cells[self._next % len(self._cells)]
            self._position = rules.appear(self._position, cell)
            self._next += 1
        return rules.observe(self._position), reward, over, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"game": self._game, "obstacles": self._blocked, "length": len(self._position.body)}

    def render(self) -> str | None:
        """Draw the board as text: @ the head, o the body, digits food, # obstacles."""
        if self.render_mode != "ansi":
            return None
        position = self._position
        marks = ["#" if position.solid >> cell & 1 else "." for cell in rules.CELLS]
        for cell, life in position.food:
            marks[rules.CELLS.index(cell)] = str(life % 10)
        for cell in position.body:
            marks[rules.CELLS.index(cell)] = "@" if cell == position.body[-1] else "o"
        side = rules.SIDE
        rows = ["".join(marks[at : at + side]) for at in range(0, side * side, side)]
        return "\n".join(rows) + f"\nturn {position.turn}"


for _difficulty in get_args(Difficulty):
    _name = "" if _difficulty == "any" else _difficulty.capitalize()
    gym.register(
        f"agentkd/Snake{_name}-v0",
        entry_point="envs.snake:Snake",
        kwargs={"difficulty": _difficulty},
    )
