"""The command line of the programs that train planners with Stable-Baselines3."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def command(
    about: str | None, train: Callable[[Path, int, int], None], out: str, steps: int
) -> None:
    """Read a folder, environment steps and a seed from the command line, and train with them."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    train(given.out, given.steps, given.seed)
