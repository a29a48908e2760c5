"""Compare what an executor reaches in the page's lander and in Gymnasium's, seed by seed.

    python examples/browser/compare.py [EXECUTOR] [--episodes 100] [--seed 1000]

Both draw the same numbers, so that terrain, first push and dispersion of the engines are the same.
The page's side runs in Node: the executor as WebAssembly, the physics in lander.js.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from agentkd import Executor, env_spec, read_bundle
from agentkd.deploy.wasm.emit import emit_wasm, loader_of
from agentkd.errors import AgentkdError, LoadError, SpecError
from agentkd.measure.intervals import mean_interval
from agentkd.spec import BoxSpec

HERE = Path(__file__).parent
LANDER = HERE.parents[1] / "policies" / "lunarlander" / "executor.akd"
ENDS = ("landed", "crashed", "away", "late")
TERRAIN_AND_PUSH, WIND, TICKS = 14, 2, 1001
"""Numbers that an episode draws at its start, of wind (which is off), and ticks with two each."""


class Episode(NamedTuple):
    """What an episode came to."""

    score: float
    end: str
    ticks: int


def environment(executor: Executor) -> Any:
    """Make Gymnasium's environment, of the variant that the executor is for."""
    env = gym.make("LunarLander-v3", continuous=isinstance(executor.spec.action, BoxSpec))
    spec = env_spec(env)
    size, action = executor.spec.obs.size, executor.spec.action
    if size != spec.obs.size or action != spec.action:
        raise SpecError(
            f"The executor sees {size} numbers and acts in {action}; LunarLander-v3 shows "
            f"{spec.obs.size} and takes {spec.action}."
        )
    return env


def in_gymnasium(executor: Executor, env: Any, seed: int) -> Episode:
    """Play an episode in Gymnasium's environment."""
    obs, _ = env.reset(seed=seed)
    executor.reset()
    score, ticks, over = 0.0, 0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(executor.act(obs))
        score, ticks, over = score + float(reward), ticks + 1, terminated or truncated
    world = env.unwrapped
    end = "away" if terminated else "late"
    if world.game_over:
        end = "crashed"
    if not world.lander.awake:
        end = "landed"
    return Episode(score, end, ticks)


def in_page(executor: Executor, seeds: range) -> list[Episode]:
    """Play episodes in the page's world, in Node."""
    draws = []
    for seed in seeds:
        numbers = np.random.default_rng(seed).random(TERRAIN_AND_PUSH + 2 * TICKS)
        draws.append(np.insert(numbers, TERRAIN_AND_PUSH, [0.0] * WIND).tolist())
    node = shutil.which("node")
    if node is None:
        raise LoadError("no node (Debian: apt install nodejs)")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "executor.wasm").write_bytes(emit_wasm(executor))
        loader = Path(folder) / "executor.mjs"
        loader.write_text(loader_of("executor.wasm", "executor.mjs"), encoding="utf-8")
        done = subprocess.run(
            [node, str(HERE / "play.js"), str(loader)],
            input=json.dumps(draws),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise LoadError(f"node ended with status {done.returncode}. {done.stderr.strip()[:2000]}")
    return [Episode(*each) for each in json.loads(done.stdout)]


def line(name: str, scores: list[float], rest: str) -> str:
    """Write a row of the table."""
    found = mean_interval(scores)
    return f"{name:26}{found.mean:8.2f}  {found.low:8.2f} … {found.high:<8.2f}{rest}".rstrip()


def main() -> None:
    """Play, and print a table."""
    parser = ArgumentParser(description="Compare the page's lander with Gymnasium's.")
    parser.add_argument("executor", type=Path, nargs="?", default=LANDER, metavar="EXECUTOR")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000, help="of the first episode")
    asked = parser.parse_args()
    if asked.episodes < 1:
        parser.error(f"--episodes {asked.episodes}: at least 1")
    seeds = range(asked.seed, asked.seed + asked.episodes)
    try:
        executor = read_bundle(asked.executor).executor
        env = environment(executor)
        page = in_page(executor, seeds)
        original = [in_gymnasium(executor, env, seed) for seed in seeds]
    except (AgentkdError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"LunarLander-v3, {len(seeds)} episodes from seed {asked.seed}, {asked.executor}\n")
    heads = "".join(f"{end:>9}" for end in (*ENDS, "ticks"))
    print(f"{'':26}{'return':>8}  {'95 % interval':^19}{heads}")
    for name, episodes in (("Gymnasium, Box2D", original), ("the page, planck.js", page)):
        ends = Counter(each.end for each in episodes)
        counts = "".join(f"{ends[end]:9}" for end in ENDS)
        ticks = np.mean([each.ticks for each in episodes])
        print(line(name, [each.score for each in episodes], f"{counts}{ticks:9.1f}"))
    pairs = list(zip(page, original, strict=True))
    apart = [ours.score - theirs.score for ours, theirs in pairs]
    same = sum(ours.end == theirs.end for ours, theirs in pairs)
    print(line("difference, by seed", apart, ""))
    print(
        f"\nthe same end in {same} of {len(pairs)}; largest difference {max(map(abs, apart)):.2f}"
    )


if __name__ == "__main__":
    main()
