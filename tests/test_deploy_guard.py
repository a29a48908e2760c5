"""Executors decide nothing for NaN and infinity, however they were compiled."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentkd.deploy.akx import RUNTIME, to_akx
from agentkd.deploy.c99 import emit_c
from agentkd.deploy.programs import build
from agentkd.errors import NumbersError
from agentkd.executors.acting import NumpyForm
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.executors.native import KERNELS, Native, NativeForm, compile_native
from agentkd.spec import DiscreteSpec
from tests.deploy_executors import lively
from tests.deploy_programs import (
    CHOICES,
    COMPILERS,
    FLAGS,
    FORMS,
    IMAGE,
    NUMBERS,
    UNIT,
    WARNINGS,
    run,
    text_of,
    write,
)


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("executor", [UNIT, IMAGE], ids=["unit", "image"])
def test_the_guard_survives_every_optimisation(
    executor: Executor, form: str, cc: str, tmp_path: Path
) -> None:
    """The file's own test, which tries NaN and infinity, passes under -Ofast too."""
    write(tmp_path, executor, form)
    for flags in FLAGS:
        command = [cc, "-std=c99", *WARNINGS, *flags, "-DNET_TEST", "net.c"]
        run(*command, "-o", "net", "-lm", folder=tmp_path)
        assert "golden vectors" in run("./net", folder=tmp_path)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("form", FORMS)
def test_the_own_test_notices_a_guard_that_is_gone(form: str, tmp_path: Path) -> None:
    """Without the check on bits, the file's own test fails and says why."""
    text = text_of(CHOICES, form)
    for kept in ("found < 0xFF000000u", "_largest(x, n) < 0xFF000000u"):
        text = text.replace(kept, kept.replace("0xFF000000u", "0xFFFFFFFFu"))
    text = text.replace("word << 1 >= 0xFF000000u", "word << 1 > 0xFFFFFFFFu")
    (tmp_path / "net.c").write_text(text)
    run("gcc", "-w", "-DNET_TEST", "net.c", "-o", "net", "-lm", folder=tmp_path)
    done = subprocess.run([tmp_path / "net"], capture_output=True, text=True, check=False)
    assert (done.returncode, "NaN" in done.stdout) == (1, True)


AKX_GUARD = """
#include <stdio.h>
#include <string.h>
#include "akx.h"
static uint32_t data[1 << 14];
int main(int argc, char **argv)
{
    static const uint32_t bad[] = {0x7FC00000u, 0x7F800001u, 0x7F800000u, 0xFF800000u};
    static float obs[64], scratch[4096], values[8];
    static int32_t choices[8];
    struct akx net;
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    const size_t length = file != NULL ? fread(data, 1, sizeof data, file) : 0;
    if (file != NULL)
        fclose(file);
    const int32_t status = akx_open(&net, data, length);
    if (argc > 2 || status != AKX_OK)
        return status;
    for (int32_t i = 0; i < 4 * net.obs; i++) {
        memcpy(obs + i / 4, bad + i % 4, sizeof *obs);
        if (akx_act(&net, obs, NULL, scratch, 4096, choices, values) != AKX_OBSERVATION)
            return 100;
        obs[i / 4] = 0.0f;
    }
    return akx_act(&net, obs, NULL, scratch, 4096, choices, values);
}
"""


@pytest.mark.parametrize("cc", COMPILERS)
def test_the_runtime_refuses_what_is_no_number_under_fast_math(cc: str, tmp_path: Path) -> None:
    """Observations, weights, scales, bounds and clips that are NaN are refused."""
    for source in RUNTIME:
        shutil.copy(source, tmp_path)
    (tmp_path / "main.c").write_text(AKX_GUARD)
    numbers = 9  # AKX_NUMBERS
    broken = {
        "weight": replace(NUMBERS, layers=(with_nan(NUMBERS), *NUMBERS.layers[1:])),
        "scale": replace(NUMBERS, scale=np.full(7, np.inf, np.float32)),
        "clip": with_clip(NUMBERS, float("nan")),
    }
    for flags in (FLAGS[0], FLAGS[-2], (*FLAGS[-1], "-DAKX_DENSE_ONLY")):
        command = [cc, "-std=c99", *WARNINGS, *flags, "main.c", "akx.c"]
        run(*command, "-o", "main", "-lm", folder=tmp_path)
        (tmp_path / "model.akx").write_bytes(to_akx(NUMBERS))
        run("./main", "model.akx", folder=tmp_path)
        for each in broken.values():
            (tmp_path / "model.akx").write_bytes(unchecked_akx(each))
            words = [str(tmp_path / "main"), "model.akx", "open"]
            done = subprocess.run(words, cwd=tmp_path, check=False)
            assert done.returncode == numbers


def with_clip(executor: Executor, clip: float) -> Executor:
    """An executor with a clip that its constructor refuses."""
    odd = copy(executor)
    object.__setattr__(odd, "clip", clip)
    return odd


def with_nan(executor: Executor) -> Dense:
    first = executor.layers[0]
    assert isinstance(first, Dense)
    weight = first.weight.copy()
    weight[-1, -1] = np.nan
    return replace(first, weight=weight)


def unchecked_akx(executor: Executor) -> bytes:
    """A model.akx whose checksum is right and whose numbers are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentkd.deploy.akx.np.isfinite", lambda values: np.array(True))
        return to_akx(executor)


@pytest.mark.parametrize("cc", COMPILERS)
def test_the_native_form_refuses_what_is_no_number_under_fast_math(cc: str, tmp_path: Path) -> None:
    """Built with any flags, it decides nothing for NaN and infinity."""
    source = KERNELS.parents[1] / "kernel.c"
    for number, flags in enumerate(FLAGS):
        # A path of its own, or the library that is loaded already would be found.
        path = tmp_path / f"{number}.so"
        run(cc, *flags, "-std=gnu99", "-fPIC", "-w", "-c", source, folder=tmp_path)
        # Linked with -Ofast, it would make this whole process flush denormals to 0.
        run(cc, "-shared", "kernel.o", "-o", path, "-lm", folder=tmp_path)
        library = ctypes.CDLL(str(path))
        library.akd_call.restype = ctypes.c_int32
        for executor in (CHOICES, IMAGE):
            native = Native(executor, library)
            for place in (0, len(native.obs) - 1):
                for value in (np.nan, np.inf, -np.inf):
                    native.obs[:] = 0.0
                    assert native.run() == 0
                    native.obs[place] = value
                    assert native.run() == 1


@pytest.mark.needs("cc")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("native", [False, True])
def test_an_overflow_leaves_the_memory_as_it_was(native: bool) -> None:
    """The tick after it is decided as if there had been none."""
    executor = lively("gru:6", DiscreteSpec(3))
    last = executor.layers[-1]
    assert isinstance(last, Dense)
    weight = np.full_like(last.weight, 3e38)
    executor = replace(executor, layers=(*executor.layers[:-1], replace(last, weight=weight)))
    made = compile_native(lively("gru:6", DiscreteSpec(3)))
    assert made is not None
    acting: NumpyForm | NativeForm = NumpyForm(executor)
    if native:
        acting = NativeForm(Native(executor, made._library))
    before = np.full(6, 0.9, np.float32)
    acting.memory[:] = before
    acting.obs[:] = 1.0
    assert acting.run() == 1
    assert (acting.memory == before).all()


def overflowing(architecture: str = "mlp:9") -> Executor:
    """An executor whose weights are finite and whose numbers are not."""
    executor = lively(architecture, DiscreteSpec(3))
    last = executor.layers[-1]
    assert isinstance(last, Dense)
    weight = np.full_like(last.weight, 3e38)
    return replace(executor, layers=(*executor.layers[:-1], replace(last, weight=weight)))


@pytest.mark.needs("cc")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_overflow_decide_nothing(tmp_path: Path) -> None:
    """C, NumPy and the native form say so instead of choosing among infinities."""
    executor = overflowing()
    obs = np.full(7, 50.0, np.float32)
    with pytest.raises(NumbersError, match="overflow"):
        executor.act(obs)
    form = NumpyForm(executor)
    form.obs[:] = obs
    assert form.run() == 1
    made = compile_native(lively("mlp:9", DiscreteSpec(3)))
    assert made is not None
    native = Native(executor, made._library)
    with pytest.raises(NumbersError, match="overflow"):
        native.act(obs)
    write(tmp_path, executor, "c")
    (tmp_path / "main.c").write_text(
        '#include "net.h"\nint main(void)\n{\n    static struct net_state state;\n'
        "    float obs[NET_OBS];\n    int32_t action[1] = {77};\n"
        "    for (int i = 0; i < NET_OBS; i++)\n        obs[i] = 50.0f;\n"
        "    return net_step(&state, obs, action, 0) != 1 || action[0] != 77;\n}\n"
    )
    for flags in FLAGS:
        program = build(tmp_path, ["main.c", "net.c"], flags=("-std=c99", *flags))
        assert subprocess.run([program], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_executor_that_always_overflows_is_not_written() -> None:
    """Its own test could not pass; the error says what is wrong."""
    last = CHOICES.layers[-1]
    assert isinstance(last, Dense)
    huge = replace(last, weight=np.full_like(last.weight, 3e38))
    with pytest.raises(NumbersError, match="overflow"):
        emit_c(replace(CHOICES, layers=(*CHOICES.layers[:-1], huge)))
