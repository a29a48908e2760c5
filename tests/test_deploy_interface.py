"""Exported C from outside: its header, its names, its re-entrant form."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentkd.deploy.akx import RUNTIME
from agentkd.deploy.c99 import emit_c
from agentkd.deploy.int8.emit import emit_c_int8
from agentkd.deploy.int8.quantise import quantise
from agentkd.deploy.interface import check_name
from agentkd.deploy.programs import STRICT, build
from agentkd.deploy.vectors import probes
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from tests.deploy_programs import (
    CHOICES,
    COMPILERS,
    CPLUSPLUS,
    EDGES,
    FORMS,
    NUMBERS,
    UNIT,
    WARNINGS,
    run,
    write,
)

CALLER = """
#include "net.h"
int main()
{
    static struct net_state state;
    static float obs[NET_OBS];
    static KIND action[NET_ACTION];
    net_reset(&state);
    return net_step(&state, obs, action, 0);
}
"""


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("executor", [EDGES, UNIT], ids=["edges", "unit"])
def test_a_program_in_cplusplus_links_with_it(
    executor: Executor, form: str, cc: str, tmp_path: Path
) -> None:
    """The header serves C99, C++11 and C++17, and the C file is valid C++ as well."""
    write(tmp_path, executor, form)
    kind = "float" if isinstance(executor.spec.action, BoxSpec) else "int32_t"
    caller = CALLER.replace("KIND", kind)
    (tmp_path / "main.cpp").write_text(caller)
    (tmp_path / "main.c").write_text(caller.replace("main()", "main(void)"))
    run(cc, "-std=c99", *WARNINGS, "-c", "net.c", folder=tmp_path)
    command = [cc, "-std=c99", *WARNINGS, "main.c", "net.o", "-o", "main", "-lm"]
    run(*command, folder=tmp_path)
    run("./main", folder=tmp_path)
    for standard in ("-std=c++11", "-std=c++17"):
        whole = [CPLUSPLUS[cc], standard, *WARNINGS]
        run(*whole, "main.cpp", "net.o", "-o", "main", "-lm", folder=tmp_path)
        run("./main", folder=tmp_path)
        more = ("-x", "c++", "-DNET_TEST", "net.c", "-o", "main", "-lm")
        run(*whole, *more, folder=tmp_path)
        run("./main", folder=tmp_path)


@pytest.mark.parametrize("cc", COMPILERS)
def test_a_program_in_cplusplus_links_with_the_runtime(cc: str, tmp_path: Path) -> None:
    """akx.h declares C functions to C++, and akx.c is valid C++ as well."""
    for source in RUNTIME:
        shutil.copy(source, tmp_path)
    (tmp_path / "main.cpp").write_text(
        '#include "akx.h"\nint main()\n{\n    akx net;\n'
        "    return akx_open(&net, nullptr, 0) != AKX_SHORT;\n}\n"
    )
    for standard in ("-std=c++11", "-std=c++17"):
        run(cc, "-std=c99", *WARNINGS, "-c", "akx.c", folder=tmp_path)
        whole = [CPLUSPLUS[cc], standard, *WARNINGS]
        run(*whole, "main.cpp", "akx.o", "-o", "main", "-lm", folder=tmp_path)
        run("./main", folder=tmp_path)
        run(*whole, "-x", "c++", "-c", "akx.c", folder=tmp_path)


@pytest.mark.needs("cc", "nm")
def test_executors_and_the_runtime_link_into_one_program(tmp_path: Path) -> None:
    """Each file exports four functions and nothing else, all under its own name."""
    names = {"left": ("c", UNIT), "right": ("c", UNIT), "whole": ("c-int8", UNIT)}
    for name, (form, executor) in names.items():
        write(tmp_path, executor, form, name)
    for source in RUNTIME:
        shutil.copy(source, tmp_path)
    include = "".join(f'#include "{name}.h"\n' for name in names)
    body = "".join(
        f"    static struct {name}_state {name};\n    static float {name}_x[2];\n" for name in names
    )
    call = "".join(f"    failed |= {n}_step(&{n}, obs, {n}_x, 0);\n" for n in names)
    (tmp_path / "main.c").write_text(
        f'{include}#include "akx.h"\nint main(void)\n{{\n    static float obs[7];\n'
        f"    int failed = 0;\n{body}{call}"
        "    return failed || left_x[0] != right_x[0] || akx_reason(0) == 0;\n}\n"
    )
    sources = ["main.c", "akx.c", *(f"{name}.c" for name in names)]
    program = build(tmp_path, sources)
    assert subprocess.run([program], check=False).returncode == 0
    # In one translation unit too.
    text = "".join(f'#include "{each}"\n' for each in sources)
    (tmp_path / "unit.c").write_text(text)
    build(tmp_path, ["unit.c"])
    for name in names:
        run("cc", "-c", f"{name}.c", folder=tmp_path)
        said = run("nm", "-g", "--defined-only", f"{name}.o", folder=tmp_path)
        found = {line.split()[-1].lstrip("_") for line in said.splitlines()}
        assert found == {f"{name}_{each}" for each in ("act", "outputs", "reset", "step")}


THREADS = """
#include <pthread.h>
#include <stdio.h>
#include "net.h"
static float obs[ROWS * NET_OBS];
static float wanted[ROWS * NET_ACTION];
static float got[2][ROWS * NET_ACTION];

static void *live(void *into)
{
    struct net_state state;
    float *const out = into;
    net_reset(&state);
    for (int i = 0; i < ROWS; i++)
        if (net_step(&state, obs + i * NET_OBS, out + i * NET_ACTION, NULL) != 0)
            return into;
    return NULL;
}

int main(void)
{
    pthread_t other[2];
    struct net_state one, two;
    float a[NET_ACTION], b[NET_ACTION];
    int failed = 0;
    if (fread(obs, sizeof obs, 1, stdin) != 1)
        return 2;
    failed |= live(wanted) != NULL;
    for (int i = 0; i < 2; i++)
        pthread_create(other + i, NULL, live, got[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(other[i], NULL);
    for (int i = 0; i < ROWS * NET_ACTION; i++)
        for (int k = 0; k < 2; k++)
            failed |= got[k][i] < wanted[i] || got[k][i] > wanted[i];
    /* One of two instances lags behind by a row. */
    net_reset(&one);
    net_reset(&two);
    net_step(&one, obs, a, NULL);
    for (int i = 1; i < ROWS; i++) {
        net_step(&one, obs + i * NET_OBS, a, NULL);
        net_step(&two, obs + (i - 1) * NET_OBS, b, NULL);
        for (int k = 0; k < NET_ACTION; k++) {
            failed |= a[k] < wanted[i * NET_ACTION + k];
            failed |= b[k] > wanted[(i - 1) * NET_ACTION + k];
            failed |= a[k] > wanted[i * NET_ACTION + k];
            failed |= b[k] < wanted[(i - 1) * NET_ACTION + k];
        }
    }
    return failed;
}
"""


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flags", [(), ("-fsanitize=thread",)], ids=["plain", "tsan"])
def test_threads_and_instances_do_not_disturb_each_other(
    form: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """A gated unit run by two threads, and by two instances in turn, stays itself."""
    write(tmp_path, UNIT, form)
    (tmp_path / "main.c").write_text(THREADS.replace("ROWS", "50"))
    command = ["gcc", "-std=gnu99", *WARNINGS, "-O1", "-g", *flags]
    command += ["-DNET_REENTRANT", "main.c", "net.c", "-o", "main", "-lm", "-lpthread"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    if done.returncode and flags:
        pytest.skip("this compiler has no thread sanitiser")
    assert done.returncode == 0, done.stderr
    obs = probes(UNIT, 50, seed=3).astype("<f4").tobytes()
    ran = subprocess.run([tmp_path / "main"], input=obs, capture_output=True, check=False)
    if flags and b"unexpected memory mapping" in ran.stderr:
        pytest.skip("the thread sanitiser does not run under this kernel")
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.needs("gcc", "nm")
@pytest.mark.parametrize("form", FORMS)
def test_the_reentrant_form_alone_has_no_state(form: str, tmp_path: Path) -> None:
    """With NAME_REENTRANT defined, nothing writable is left in the file."""
    write(tmp_path, UNIT, form)
    run("gcc", *STRICT, "-fno-pie", "-DNET_REENTRANT", "-c", "net.c", folder=tmp_path)
    said = run("nm", "net.o", folder=tmp_path)
    assert not [line for line in said.splitlines() if line.split()[-2] in "bBdDC"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "letters"),
        ("a b", "letters"),
        ("é", "letters"),
        ("net.v2", "letters"),
        ("a\n", "letters"),
        ("class", "keyword"),
        ("restrict", "keyword"),
        ("co_await", "keyword"),
        ("akx", "runtime"),
        ("AKD", "runtime"),
    ],
)
def test_a_name_that_cannot_begin_names_is_refused(name: str, why: str) -> None:
    """Floats and integers refuse it alike, and say why."""
    with pytest.raises(ConfigError, match=why):
        check_name(name)
    with pytest.raises(ConfigError, match=why):
        emit_c(CHOICES, name)
    with pytest.raises(ConfigError, match=why):
        emit_c_int8(quantise(CHOICES), name)


def test_bounds_that_are_nan_are_not_written() -> None:
    """The largest float stands for infinity; nothing stands for NaN."""
    assert "INFINITY" not in emit_c(EDGES) + emit_c_int8(quantise(EDGES))
    with pytest.raises(SpecError, match="clip is nan"):
        replace(CHOICES, clip=float("nan"))


@pytest.mark.needs("gcc", "clang")
def test_extreme_weights_are_valid_literals(tmp_path: Path) -> None:
    """Denormal, largest and negative zero weights compile without a warning."""
    first = NUMBERS.layers[0]
    assert isinstance(first, Dense)
    weight = first.weight.copy()
    bias = first.bias.copy()
    weight.ravel()[:4] = [1e-45, -1e-45, -0.0, 1e-38]
    bias[:2] = 3.4028235e38, -3.4028235e38
    odd = replace(first, weight=weight, bias=bias)
    text = emit_c(replace(NUMBERS, layers=(odd, *NUMBERS.layers[1:])), "net")
    (tmp_path / "net.c").write_text(text)
    for cc in ("gcc", "clang"):
        run(cc, *STRICT, "-c", "net.c", folder=tmp_path)
    for said in ("1.40129846e-45f", "-3.40282347e+38f", " -0.0f"):
        assert said in text


@pytest.mark.needs("gcc")
def test_a_wide_layer_of_integers_is_written_and_runs(tmp_path: Path) -> None:
    """70,000 inputs, more than 16 bits count, pass the file's own test."""
    spec = Spec(ObsSpec((Part("", "box", (70_000,), "float32"),)), DiscreteSpec(2))
    executor = initial("linear", spec, seed=1)
    seen = probes(executor, 32, seed=3)
    text = emit_c_int8(quantise(executor, seen), "net", golden=seen[:2])
    (tmp_path / "net.c").write_text(text)
    program = build(tmp_path, ["net.c"], flags=(*STRICT, "-DNET_TEST"))
    assert "golden vectors" in run(program, folder=tmp_path)


def test_a_layer_too_wide_for_the_integers_is_refused() -> None:
    """The error gives the limit and the other target."""
    made = quantise(CHOICES)
    wide = np.zeros((3, 131_070), np.int8)
    layers = (*made.layers[:-1], replace(made.last, weight=wide))
    with pytest.raises(SpecError, match=r"fewer than 131,070 inputs.*Export to c"):
        emit_c_int8(replace(made, layers=layers), golden=np.zeros((1, 7), np.float32))
