"""examples/browser: its world is the Python one, and its executor keeps the pendulum upright."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import envs.changing  # noqa: F401
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.deploy.export import export_file
from agentkd.spec import DiscreteSpec
from tests.deploy_browser import Page, chromium
from tests.deploy_executors import lively
from tests.waiting import wait_for

FOLDER = Path(__file__).parents[1] / "examples" / "browser"
PAGE = FOLDER / "pendulum.html"
WORLDS = [(1.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (0.6, 1.3, 1.4), (-0.8, 0.9, 0.7)]
BALANCED = [WORLDS[0], WORLDS[1], (0.8, 1.2, 0.8), WORLDS[3]]
"""Not every world can be balanced: one with a weak motor and a long, heavy rod cannot."""
TICKS = 200


def node(folder: Path, text: str, given: Any) -> Any:
    """What a module in the folder prints for what it is given, both JSON."""
    (folder / "main.mjs").write_text(
        'import { readFileSync } from "node:fs";\n'
        "const given = JSON.parse(readFileSync(0));\n" + text
    )
    (folder / "world.mjs").write_text((FOLDER / "world.js").read_text())
    done = subprocess.run(
        ["node", "main.mjs"],
        cwd=folder,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def trajectory(world: tuple[float, float, float], seed: int) -> list[Any]:
    """States before a tick, the action, and what the Python world made of it."""
    gain, length, mass = world
    name = "agentkd/ChangingPendulum-v0"
    env: Any = gym.make(name, gain=gain, length=length, mass=mass)
    env.reset(seed=seed)
    random = np.random.default_rng(seed)
    found = []
    for _ in range(TICKS):
        before = [float(each) for each in env.unwrapped.state]
        # Above the limits too; each action holds for a while by chance.
        action = random.uniform(-2.5, 2.5, 1)
        obs, reward, *_ = env.step(action)
        after = [float(each) for each in env.unwrapped.state]
        found.append([before, float(action[0]), after, obs.astype(float).tolist(), float(reward)])
    env.close()
    return found


@pytest.mark.needs("node")
@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_the_world_of_the_page_is_the_python_one(
    world: tuple[float, float, float], tmp_path: Path
) -> None:
    """200 ticks with random actions, step by step: the state, what is observed, the reward."""
    steps = trajectory(world, seed=4)
    gain, length, mass = world
    found = node(
        tmp_path,
        'import { World } from "./world.mjs";\nconst world = new World();\n'
        f"Object.assign(world, {{ gain: {gain}, length: {length}, mass: {mass} }});\n"
        "console.log(JSON.stringify(given.map(([[angle, velocity], action]) => {\n"
        "  Object.assign(world, { angle, velocity });\n"
        "  const reward = world.step(action);\n"
        "  return [world.angle, world.velocity, ...world.observe(), reward];\n"
        "})));\n",
        [each[:2] for each in steps],
    )
    wanted = np.array([[*after, *obs, reward] for _, _, after, obs, reward in steps])
    np.testing.assert_allclose(np.array(found), wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.array(found)[:, :2], wanted[:, :2], rtol=0, atol=1e-12)


@pytest.mark.needs("clang", "wasm-ld", "node")
def test_its_executor_swings_up_in_every_world(tmp_path: Path) -> None:
    """From hanging still, in WebAssembly: upright in the last 100 of 300 ticks."""
    export_file(read_bundle(FOLDER / "executor.akd").executor, tmp_path / "net.wasm")
    (tmp_path / "net.mjs").write_text((tmp_path / "net.js").read_text())
    tilts = node(
        tmp_path,
        'import { World } from "./world.mjs";\nimport { load } from "./net.mjs";\n'
        "const net = await load();\n"
        "console.log(JSON.stringify(given.map(([gain, length, mass]) => {\n"
        "  const world = Object.assign(new World(), { gain, length, mass });\n"
        "  const tilts = [];\n"
        "  for (let i = 0; i < 300; i++) {\n"
        "    world.step(net.act(world.observe())[0]);\n"
        "    tilts.push(Math.abs(world.tilt()));\n  }\n  return tilts;\n})));\n",
        BALANCED,
    )
    worst = np.array(tilts)[:, 200:].max(axis=1)
    assert (worst < 0.25).all(), worst


def apart(page: str) -> tuple[str, str]:
    """A page without its WebAssembly, which depends on the compiler; and that."""
    found = re.search(r'id="executor">\n(.*)\n</script>', page)
    assert found is not None
    return page.replace(found[1], ""), found[1]


def build(*words: str) -> None:
    """Run build.py."""
    command = [sys.executable, str(FOLDER / "build.py"), *words]
    root = {"PYTHONPATH": str(FOLDER.parents[1])}
    subprocess.run(command, check=True, env={**os.environ, **root}, capture_output=True)


@pytest.mark.needs("clang", "wasm-ld")
def test_the_page_is_what_its_pieces_make(tmp_path: Path) -> None:
    """The committed page is the one that build.py writes, but for what a compiler decides."""
    out = tmp_path / "page.html"
    build("--out", str(out))
    assert apart(out.read_text())[0] == apart(PAGE.read_text())[0]


def broad(page: Page) -> int:
    """How far the page reaches beyond its window, in pixels."""
    found = page.ask("document.documentElement.scrollWidth - innerWidth")
    return int(found)


@pytest.mark.needs("chromium")
def test_the_page_balances_in_chromium_and_fits_every_width() -> None:
    """It says who acts and how long it takes, follows the scheme, and nothing is refused."""
    with chromium() as page:
        page.size(390)
        page.open(PAGE.as_uri())
        upright = "Number(document.querySelector('#upright').dataset.ticks)"
        wait_for(lambda: page.ask(upright) >= 60)
        text = page.ask("document.body.innerText")
        assert "16 golden vectors agree here" in text
        assert re.search(r"acts\s+the executor", text)
        assert re.search(r"one decision\s+[\d.]+ µs", text)
        looks = "getComputedStyle(document.body).backgroundColor"
        seen = {}
        for dark in (False, True):
            for width in (390, 768, 1280):
                page.size(width, dark=dark)
                assert broad(page) <= 0, width
                assert len(page.picture()) > 5000
            seen[dark] = page.ask(looks)
        assert seen == {False: "rgb(255, 255, 255)", True: "rgb(20, 23, 27)"}
        page.ask("document.querySelector('[data-acts=nobody]').click()")
        wait_for(lambda: "nobody" in page.ask("document.querySelector('#acts').textContent"))
        page.ask("document.querySelector('#pause').click()")
        assert page.ask("document.querySelector('#pause').textContent") == "Go on"
        assert page.errors == []


@pytest.mark.needs("clang", "wasm-ld", "chromium")
def test_a_page_times_any_executor(tmp_path: Path) -> None:
    """Golden vectors agree, and both times are shown."""
    write_bundle(tmp_path / "executor.akd", lively("gru:6", DiscreteSpec(3)))
    out = tmp_path / "time.html"
    build("--time", "--executor", str(tmp_path / "executor.akd"), "--out", str(out))
    with chromium() as page:
        page.open(out.as_uri())
        wait_for(lambda: "µs" in page.ask("document.querySelector('#median').textContent"))
        text = page.ask("document.body.innerText")
        assert page.errors == []
    assert "16 golden vectors agree" in text
    assert len(re.findall(r"[\d.]+ µs", text)) == 2
