"""examples/browser: its lander flies as Gymnasium's, and an executor lands it in Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.box2d import lunar_lander

from agentkd.deploy.bundle import write_bundle
from agentkd.spec import BoxSpec, DiscreteSpec
from tests.deploy_browser import Page, chromium
from tests.deploy_executors import lively
from tests.report_axe import violations
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "browser"
PILOT: Any = lunar_lander.heuristic
AT_START = 14
"""Numbers that an episode draws before those of wind."""
WIND_INDEX = 9999
WORLDS: dict[str, dict[str, Any]] = {
    "calm": {},
    "light": {"gravity": -4.0},
    "windy": {"enable_wind": True, "wind_power": 12.0, "turbulence_power": 1.2},
    "continuous": {"continuous": True},
}
FLIGHT = """
import { readFileSync } from "node:fs";
import { Lander } from "%s";
console.log(JSON.stringify(JSON.parse(readFileSync(0)).map(({ drawn, actions, world }) => {
  const numbers = drawn.values();
  const lander = new Lander(() => numbers.next().value, world);
  const rows = [[...lander.observation, 0]];
  for (const action of actions) {
    if (lander.ended) break;
    lander.tick(action);
    rows.push([...lander.observation, lander.reward]);
  }
  return [rows, lander.ended];
})));
"""


@pytest.fixture
def planck() -> None:
    """Skip without the physics; in CI, where they should be, fail."""
    if not (FOLDER / "node_modules" / "planck").is_dir():
        message = "needs planck: npm ci --prefix examples/browser"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def ran(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program at the root."""
    return subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


def flown(text: str, given: Any) -> Any:
    """What a module prints for what it is given, both JSON."""
    done = ran("node", "--input-type=module", "--eval", text, given=json.dumps(given))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def flight(seed: int, settings: dict[str, Any]) -> tuple[dict[str, Any], Any, str]:
    """Fly an episode in Gymnasium: what it drew and did, rows of what was seen, how it ended."""
    env: Any = gym.make("LunarLander-v3", **settings)
    obs, _ = env.reset(seed=seed)
    world = env.unwrapped
    random = np.random.default_rng(seed)
    drawn = random.random(AT_START).tolist()
    wind = [0.0, 0.0]
    if settings.get("enable_wind"):
        # Between the two: as whole numbers they are drawn otherwise.
        found = random.integers(-WIND_INDEX, WIND_INDEX, size=2)
        wind = [(each + WIND_INDEX + 0.5) / (2 * WIND_INDEX) for each in found]
    drawn += wind
    rows, actions = [[*obs.tolist(), 0.0]], []
    over = False
    while not over:
        action = PILOT(env, obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        actions.append(np.asarray(action).tolist())
        rows.append([*obs.tolist(), float(reward)])
        over = terminated or truncated
    drawn += random.random(2 * len(rows)).tolist()
    end = "crashed" if world.game_over else "away" if terminated else "late"
    end = end if world.lander.awake else "landed"
    env.close()
    told = {"gravity": settings.get("gravity", -10.0)}
    if settings.get("enable_wind"):
        told |= {"wind": settings["wind_power"], "turbulence": settings["turbulence_power"]}
    return {"drawn": drawn, "actions": actions, "world": told}, np.array(rows), end


@pytest.mark.needs("node")
@pytest.mark.usefixtures("planck")
@pytest.mark.parametrize("name", WORLDS)
def test_the_lander_of_the_page_flies_as_gymnasiums(name: str) -> None:
    """The same numbers drawn, the same actions: tick by tick the same, until it touches ground."""
    flights = [flight(seed, WORLDS[name]) for seed in range(6)]
    found = flown(FLIGHT % (FOLDER / "lander.js").as_uri(), [each[0] for each in flights])
    ends = []
    for (_, wanted, end), (rows, ended) in zip(flights, found, strict=True):
        touching = np.flatnonzero(wanted[:, 6:8].any(axis=1))
        flying = int(touching[0]) if len(touching) else len(wanted) - 1
        assert flying > 50
        got = np.array(rows[:flying])
        np.testing.assert_allclose(got[:, :8], wanted[:flying, :8], rtol=0, atol=2e-3)
        np.testing.assert_allclose(got[:, 8], wanted[:flying, 8], rtol=0, atol=0.05)
        ends.append((ended, end))
    # Box2D has float32: after a bounce, paths may part.
    assert sum(ours == theirs for ours, theirs in ends) >= 5, ends
    assert ("landed", "landed") in ends


@pytest.mark.needs("node")
@pytest.mark.usefixtures("planck")
def test_a_seed_decides_an_episode() -> None:
    """The same seed draws the same terrain, another does not."""
    text = (
        f'import {{ Lander, seeded }} from "{(FOLDER / "lander.js").as_uri()}";\n'
        "const all = [3, 3, 4].map((seed) => new Lander(seeded(seed)).terrain);\n"
        "console.log(JSON.stringify(all));\n"
    )
    first, again, other = flown(text, None)
    assert first == again != other


@pytest.mark.needs("clang", "wasm-ld", "node")
@pytest.mark.usefixtures("planck")
def test_an_executor_lands_in_both_worlds() -> None:
    """The command plays the same episodes in both, and says how each ended."""
    done = ran(sys.executable, "examples/browser/compare.py", "--episodes", "3")
    assert done.returncode == 0, done.stderr
    for name in ("Gymnasium, Box2D", "the page, planck.js"):
        assert re.search(rf"{name} +2\d\d\.\d\d .* 3 +0 +0 +0 +\d+\.\d\n", done.stdout), done.stdout
    assert "the same end in 3 of 3" in done.stdout


def build(*words: str, script: Path = FOLDER / "build.py") -> subprocess.CompletedProcess[str]:
    """Run build.py."""
    return ran(sys.executable, str(script), *words)


@pytest.mark.usefixtures("planck")
def test_what_cannot_be_built_is_named(tmp_path: Path) -> None:
    """An executor of another environment, no file, no physics: one line, and nothing is written."""
    out = tmp_path / "lander.html"
    for action in (DiscreteSpec(4), BoxSpec((-1.0,) * 2, (1.0,) * 2, (2,))):
        write_bundle(tmp_path / "other.akd", lively("mlp:6", action))
        done = build(str(tmp_path / "other.akd"), "-o", str(out))
        assert done.returncode == 1
        assert "maps 7 numbers to" in done.stderr
        assert "LunarLander-v3 shows 8" in done.stderr
        done = ran(sys.executable, str(FOLDER / "compare.py"), str(tmp_path / "other.akd"))
        assert "sees 7 numbers and acts in" in done.stderr
        assert "Traceback" not in done.stderr
    assert "nowhere.akd" in build("nowhere.akd", "-o", str(out)).stderr
    shutil.copy(FOLDER / "build.py", tmp_path)
    executor = str(ROOT / "policies" / "lunarlander" / "executor.akd")
    done = build(executor, "-o", str(out), script=tmp_path / "build.py")
    assert f"npm ci --prefix {tmp_path}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def shown(page: Page, name: str) -> str:
    """The text of an element."""
    return str(page.ask(f"document.querySelector('#{name}').textContent"))


def press(page: Page, key: str, kind: str = "keyDown") -> None:
    """Press a key, or let it go."""
    text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
    page.call("Input.dispatchKeyEvent", type=kind, key=key, **text)


@pytest.mark.needs("clang", "wasm-ld", "chromium")
@pytest.mark.usefixtures("planck")
def test_the_page_lands_in_chromium_and_fits_every_width(tmp_path: Path) -> None:
    """It lands, says how long a decision takes, follows the scheme, and nothing is refused."""
    out = tmp_path / "lander.html"
    done = build("-o", str(out))
    assert done.returncode == 0, done.stderr
    assert not re.search(r"""(src|href)=["'](?!data:)""", out.read_text())
    with chromium() as page:
        page.size(390)
        page.open(out.as_uri())
        wait_for(lambda: shown(page, "landed") == "1")
        assert re.fullmatch(r"2\d\d, landed|\d+", shown(page, "score"))
        assert "16 golden vectors agree here" in shown(page, "golden")
        assert re.fullmatch(r"[\d.]+ µs", shown(page, "decision"))
        looks = "getComputedStyle(document.body).backgroundColor"
        seen = {}
        for dark in (False, True):
            for width in (390, 1280):
                page.size(width, dark=dark)
                broad = page.ask("document.documentElement.scrollWidth - innerWidth")
                assert broad <= 0, width
                assert len(page.picture()) > 5000
                assert violations(page) == []
            seen[dark] = page.ask(looks)
        assert seen == {False: "rgb(255, 255, 255)", True: "rgb(20, 23, 27)"}
        assert page.errors == []


@pytest.mark.needs("clang", "wasm-ld", "chromium")
@pytest.mark.usefixtures("planck")
def test_keys_and_sliders_reach_the_world(tmp_path: Path) -> None:
    """Restart, push and pause by a key; arrows fly; another world begins the counts anew."""
    out = tmp_path / "lander.html"
    build("-o", str(out))
    with chromium() as page:
        page.open(out.as_uri())
        wait_for(lambda: shown(page, "pause"))
        press(page, "ArrowUp")
        wait_for(lambda: shown(page, "acts") == "you")
        press(page, "ArrowUp", "keyUp")
        wait_for(lambda: shown(page, "acts") == "the executor")
        wait_for(lambda: shown(page, "landed") != "0")
        page.ask(
            "{ const wind = document.querySelector('#wind'); wind.value = 7;"
            " wind.dispatchEvent(new Event('input')); }"
        )
        wait_for(lambda: shown(page, "landed") == "0")
        assert page.ask("document.querySelector('#wind + output').textContent") == "7"
        page.ask(
            "for (const key of 'ruuuuuuuuuu') document.body.dispatchEvent("
            "new KeyboardEvent('keydown', { key, bubbles: true }))"
        )
        wait_for(lambda: shown(page, "lost") == "1")
        wait_for(lambda: re.fullmatch(r"-?[1-9]\d*", shown(page, "score")))
        press(page, "p")
        assert shown(page, "pause") == "Go on (P)"
        press(page, "r")
        wait_for(lambda: shown(page, "score") == "0")
        assert page.errors == []


@pytest.mark.needs("clang", "wasm-ld", "chromium")
def test_a_page_times_any_executor(tmp_path: Path) -> None:
    """Golden vectors agree, and it says of how many decisions each time is."""
    write_bundle(tmp_path / "executor.akd", lively("gru:6", DiscreteSpec(3)))
    out = tmp_path / "new" / "time.html"
    done = build("--time", str(tmp_path / "executor.akd"), "-o", str(out))
    assert done.returncode == 0, done.stderr
    with chromium() as page:
        page.open(out.as_uri())
        wait_for(lambda: "µs" in shown(page, "median"))
        assert page.errors == []
        assert "16 golden vectors agree" in shown(page, "golden")
        assert re.search(r"Of 101 means of [\d,]+ decisions", shown(page, "how"))
        least, median = (float(shown(page, name).split()[0]) for name in ("least", "median"))
        assert 0 < least <= median
        assert violations(page) == []
