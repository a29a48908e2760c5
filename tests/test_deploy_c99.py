"""The generated C file: it compiles without a warning, and decides as NumPy does."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.deploy.c99 import emit_c
from agentkd.deploy.ctext import comment, kernels, literal
from agentkd.deploy.programs import STRICT, build, run_c
from agentkd.deploy.vectors import probes
from agentkd.deploy.verify import compare, reference
from agentkd.distillation.distiller import Distiller
from agentkd.environments import make
from agentkd.errors import ConfigError, LoadError, NumbersError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.planners import load_planner
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    ObsSpec,
    Part,
    Spec,
    env_spec,
    flatten_one,
)
from agentkd.types import Floats
from tests.deploy_executors import CASES, NAMES, lively

UBSAN = ("-std=c99", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")
CORTEX = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
COMPILERS = [
    pytest.param("gcc", marks=pytest.mark.needs("gcc")),
    pytest.param("clang", marks=pytest.mark.needs("clang")),
]
ROOT = Path(__file__).parents[1]
MANY = 10_000


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_it_compiles_and_its_own_test_passes(
    architecture: str, action: ActionSpec, cc: str, tmp_path: Path
) -> None:
    """Strict C99, no warning under two compilers, and golden vectors that agree."""
    (tmp_path / "net.c").write_text(emit_c(lively(architecture, action), "net"))
    flags = (*STRICT, "-Wconversion", "-Wmissing-prototypes", "-DNET_TEST")
    program = build(tmp_path, ["net.c"], cc=cc, flags=flags)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:22]) == (0, "net: 16 golden vectors")


@pytest.mark.needs("cc")
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_ten_thousand_observations(architecture: str, action: ActionSpec) -> None:
    """Numbers within 1e-5 of NumPy, and the same choice wherever there is no tie."""
    executor = lively(architecture, action)
    obs = 2 * probes(executor, MANY, seed=3)
    verdict = compare("C99", executor, run_c(executor, obs), reference(executor, obs))
    assert verdict.status == "agrees", verdict.text


def distilled() -> tuple[Executor, Floats]:
    """Distil LunarLander for a moment; give the executor and what it then sees."""
    env = make("LunarLander-v3")
    spec = env_spec(env)
    planner = load_planner(str(ROOT / "policies" / "lunarlander"), spec)
    policy: Any = planner.policy
    distiller = Distiller(initial("mlp:64,64", spec))
    executor: Executor | None = None
    seen: list[Floats] = []
    episode = 0
    while len(seen) < MANY:
        obs, _ = env.reset(seed=episode)
        episode, over, flight = episode + 1, False, []
        while not over:
            flat = flatten_one(spec.obs, obs)
            flight.append(flat)
            # One's own states are seen by who flies: the planner first, then it.
            act = 0 if executor is None else executor.act(flat)
            obs, _, ended, cut, _ = env.step(act)
            over = ended or cut or len(flight) == 400
        if executor is None or episode < 8:
            rows = np.stack(flight)
            distiller.add(rows, policy(rows))
            for _ in range(40):
                distiller.step()
            executor = distiller.freeze(1)
        else:
            seen += flight
    env.close()
    assert executor is not None
    return executor, np.stack(seen[:MANY])


@pytest.mark.needs("cc")
def test_real_episodes_of_a_distilled_executor() -> None:
    """Over 10,000 states that it flew through itself, C decides as NumPy does."""
    executor, obs = distilled()
    verdict = compare("C99", executor, run_c(executor, obs), reference(executor, obs))
    assert verdict.status == "agrees", verdict.text


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_no_undefined_behaviour(architecture: str, action: ActionSpec) -> None:
    """UBSan has nothing to say."""
    executor = lively(architecture, action)
    run_c(executor, probes(executor, 20), cc="gcc", flags=UBSAN)


@pytest.mark.needs("cc", "valgrind")
def test_no_byte_is_read_that_was_not_written() -> None:
    """Valgrind has nothing to say."""
    executor = lively(*CASES[3])
    under = ("valgrind", "-q", "--error-exitcode=9", "--track-origins=yes")
    run_c(executor, probes(executor, 20), under=under)


@pytest.mark.needs("cc")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_no_number_decides_nothing(value: float) -> None:
    """It returns 1, as the native form does."""
    executor = lively(*CASES[0])
    obs = probes(executor, 1)
    obs[0, 3] = value
    with pytest.raises(LoadError, match="status 1"):
        run_c(executor, obs)


@pytest.mark.needs("cc")
@pytest.mark.parametrize("most", [30.0, 5e3, 1e38])
def test_its_own_test_takes_wide_bounds(most: float, tmp_path: Path) -> None:
    """Rounding of squashed actions near zero is small beside their range."""
    action = BoxSpec((-most,) * 64, (most,) * 64, (64,))
    (tmp_path / "net.c").write_text(emit_c(lively("mlp:64,64,tanh", action), "net"))
    program = build(tmp_path, ["net.c"], flags=(*STRICT, "-O3", "-DNET_TEST"))
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:22]) == (0, "net: 16 golden vectors")


@pytest.mark.needs("cc")
def test_its_own_test_can_fail(tmp_path: Path) -> None:
    """With one weight changed, the golden vectors are not met."""
    text = emit_c(lively(*CASES[0]))
    found = re.search(r"executor_bias0\[64\] = \{\n +(\S+),", text)
    assert found is not None
    text = text[: found.start(1)] + "7.5f" + text[found.end(1) :]
    (tmp_path / "executor.c").write_text(text)
    program = build(tmp_path, ["executor.c"], flags=(*STRICT, "-DEXECUTOR_TEST"))
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, "FAILED" in done.stdout) == (1, True)


@pytest.mark.needs("arm-none-eabi-gcc", "arm-none-eabi-size")
@pytest.mark.parametrize("level", ["-Os", "-O2"])
def test_code_for_a_cortex_m4_fits_a_kilobyte(level: str, tmp_path: Path) -> None:
    """8-64-64-4 takes at most 1 KB of code, weights apart, and 512 bytes of RAM."""
    spec = Spec(ObsSpec((Part("", "box", (8,), "float32"),)), DiscreteSpec(4))
    (tmp_path / "net.c").write_text(emit_c(initial("mlp:64,64", spec), "net"))
    command = ["arm-none-eabi-gcc", *STRICT, *CORTEX, level, "-c", "net.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    sizes = subprocess.run(
        ["arm-none-eabi-size", "-A", "net.o"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    section = {words[0]: int(words[1]) for words in map(str.split, sizes.splitlines()[2:]) if words}
    assert 0 < section[".text"] <= 1024
    assert section[".bss"] == 512


@pytest.mark.parametrize("name", ["", "2fast", "a-b", "int", "é", "a" * 32, "_x"])
def test_a_name_that_is_none_in_c_is_refused(name: str) -> None:
    """The message says what would do."""
    with pytest.raises(ConfigError, match="such as executor"):
        emit_c(lively(*CASES[0]), name)


def test_weights_that_are_no_numbers_are_not_written() -> None:
    """NaN stops the export."""
    executor = lively(*CASES[0])
    with pytest.raises(NumbersError):
        emit_c(replace(executor, mean=np.full(7, np.nan, np.float32)))


def test_the_head_says_what_made_it() -> None:
    """Command, planner, its digest, architecture and sizes are in the comment."""
    text = emit_c(
        lively(*CASES[0]),
        provenance={
            "command": ["agentkd", "distill", "policies/*"],
            "planner": {"name": "PPO", "refs": ["big"]},
            "planner_digest": "ab" * 32,
            "env": "Ship-v0 */ int x; /* ??/",
        },
    )
    head = text[: text.index("*/")]
    for said in ("agentkd distill policies/ *", "PPO, big", "abab", "4932", "19784"):
        assert said in head
    assert head.count("/*") == 1


@pytest.mark.parametrize("text", ["*/", "/*/", "a\nb", "??/", "é\0", "*//*", "???/"])
def test_any_text_is_safe_in_a_comment(text: str) -> None:
    """It neither ends the comment, nor begins one, nor is a trigraph, nor breaks."""
    safe = comment(text)
    assert safe.isascii()
    assert safe.isprintable()
    assert not any(bad in safe for bad in ("*/", "/*", "??"))


def test_nine_digits_give_every_float_back() -> None:
    """A float32 written and read again is the same one."""
    words = np.random.default_rng(0).integers(0, 2**32, 5000, np.uint32)
    values = words.view(np.float32)
    for value in [*values[np.isfinite(values)], np.float32(3), np.float32(-0.0)]:
        written = literal(value)
        assert np.float32(written.rstrip("f")) == value
        assert "." in written or "e" in written


def test_every_kernel_is_found_in_the_header() -> None:
    """What the generator takes from the header is all that there is."""
    assert set(kernels()) == {
        *("normalise", "dense", "relu", "tanh", "silu", "elu", "activate"),
        *("best", "squash", "bound", "normalise_image", "up", "sigmoid"),
        *("largest", "finite"),
        *("conv", "tokens", "norm", "head", "attention", "pool", "gru", "lstm"),
        *("stack", "past"),
    }
    assert "vector" not in "".join(kernels().values())
