"""Exported C from outside: header, guard against NaN, re-entrant form."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentkd.deploy.akx import RUNTIME, to_akx
from agentkd.deploy.bundle import probes
from agentkd.deploy.c99 import emit_c
from agentkd.deploy.int8.emit import emit_c_int8
from agentkd.deploy.int8.quantise import quantise
from agentkd.deploy.interface import check_name, header_of
from agentkd.deploy.programs import STRICT, build
from agentkd.errors import ConfigError, NumbersError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.frozen import Frozen
from agentkd.executors.layers import Dense
from agentkd.executors.native import KERNELS, Native, compile_native
from agentkd.runtime.form import NativeForm, NumpyForm
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from tests.deploy_executors import CASES, lively

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
COMPILERS = [
    pytest.param(cc, marks=pytest.mark.needs(cc, f"{cplusplus}"), id=cc)
    for cc, cplusplus in (("gcc", "g++"), ("clang", "clang++"))
]
CPLUSPLUS = {"gcc": "g++", "clang": "clang++"}
FLAGS = [
    ("-O0",),
    ("-O2",),
    ("-O2", "-ffinite-math-only"),
    ("-O3", "-ffast-math"),
    ("-Ofast", "-funroll-loops"),
]
FORMS = ["c", "c-int8"]
CHOICES, NUMBERS, UNIT, IMAGE = (lively(*CASES[i]) for i in (2, 5, 9, 12))
EDGES = lively("mlp:9,elu", BoxSpec((-np.inf, -1e-45, -2.0), (0.5, np.inf, 3e38), (3,)))
HERE = Path(__file__).parent


def text_of(frozen: Frozen, form: str, name: str = "net") -> str:
    if form == "c":
        return emit_c(frozen, name)
    return emit_c_int8(quantise(frozen), name)


def write(folder: Path, frozen: Frozen, form: str, name: str = "net") -> None:
    """Write the C file and its header."""
    text = text_of(frozen, form, name)
    (folder / f"{name}.c").write_text(text)
    (folder / f"{name}.h").write_text(header_of(text, name))


def run(*words: object, folder: Path) -> str:
    """Run a command that has to succeed; its output."""
    done = subprocess.run(
        [str(each) for each in words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("frozen", [UNIT, IMAGE], ids=["unit", "image"])
def test_the_guard_survives_every_optimisation(
    frozen: Frozen, form: str, cc: str, tmp_path: Path
) -> None:
    """The file's own test, which tries NaN and infinity, passes under -Ofast too."""
    write(tmp_path, frozen, form)
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
    done = subprocess.run(
        [tmp_path / "net"], capture_output=True, text=True, check=False
    )
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
def test_the_runtime_refuses_what_is_no_number_under_fast_math(
    cc: str, tmp_path: Path
) -> None:
    """Observations, weights, scales, bounds and clips that are NaN are refused."""
    for source in RUNTIME:
        shutil.copy(source, tmp_path)
    (tmp_path / "main.c").write_text(AKX_GUARD)
    numbers = 9  # AKX_NUMBERS
    broken = {
        "weight": replace(NUMBERS, layers=(with_nan(NUMBERS), *NUMBERS.layers[1:])),
        "scale": replace(NUMBERS, scale=np.full(7, np.inf, np.float32)),
        "clip": replace(NUMBERS, clip=float("nan")),
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


def with_nan(frozen: Frozen) -> Dense:
    first = frozen.layers[0]
    assert isinstance(first, Dense)
    weight = first.weight.copy()
    weight[-1, -1] = np.nan
    return replace(first, weight=weight)


def unchecked_akx(frozen: Frozen) -> bytes:
    """A model.akx whose checksum is right and whose numbers are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentkd.deploy.akx.np.isfinite", lambda values: np.array(True))
        return to_akx(frozen)


@pytest.mark.parametrize("cc", COMPILERS)
def test_the_native_form_refuses_what_is_no_number_under_fast_math(
    cc: str, tmp_path: Path
) -> None:
    """Built with any flags, it decides nothing for NaN and infinity."""
    source = KERNELS.parents[1] / "kernel.c"
    for number, flags in enumerate(FLAGS):
        # A path of its own, or the library that is loaded already would be found.
        path = tmp_path / f"{number}.so"
        shared = ("-std=gnu99", "-fPIC", "-shared", "-w", "-o", path, "-lm")
        run(cc, *flags, source, *shared, folder=tmp_path)
        library = ctypes.CDLL(str(path))
        library.akd_call.restype = ctypes.c_int32
        for frozen in (CHOICES, IMAGE):
            native = Native(frozen, library)
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
    frozen = lively("gru:6", DiscreteSpec(3))
    last = frozen.layers[-1]
    assert isinstance(last, Dense)
    weight = np.full_like(last.weight, 3e38)
    frozen = replace(frozen, layers=(*frozen.layers[:-1], replace(last, weight=weight)))
    made = compile_native(lively("gru:6", DiscreteSpec(3)))
    assert made is not None
    acting: NumpyForm | NativeForm = NumpyForm(frozen)
    if native:
        acting = NativeForm(Native(frozen, made._library))
    before = np.full(6, 0.9, np.float32)
    acting.memory[:] = before
    acting.obs[:] = 1.0
    assert acting.run() == 1
    assert (acting.memory == before).all()


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
@pytest.mark.parametrize("frozen", [EDGES, UNIT], ids=["edges", "unit"])
def test_a_program_in_cplusplus_links_with_it(
    frozen: Frozen, form: str, cc: str, tmp_path: Path
) -> None:
    """The header serves C99, C++11 and C++17, and the C file is valid C++ as well."""
    write(tmp_path, frozen, form)
    kind = "float" if isinstance(frozen.spec.action, BoxSpec) else "int32_t"
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
    for name, (form, frozen) in names.items():
        write(tmp_path, frozen, form, name)
    for source in RUNTIME:
        shutil.copy(source, tmp_path)
    include = "".join(f'#include "{name}.h"\n' for name in names)
    body = "".join(
        f"    static struct {name}_state {name};\n    static float {name}_x[2];\n"
        for name in names
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
        assert found == {
            f"{name}_{each}" for each in ("act", "outputs", "reset", "step")
        }


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
    ran = subprocess.run(
        [tmp_path / "main"], input=obs, capture_output=True, check=False
    )
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


def overflowing(architecture: str = "mlp:9") -> Frozen:
    """An executor whose weights are finite and whose numbers are not."""
    frozen = lively(architecture, DiscreteSpec(3))
    last = frozen.layers[-1]
    assert isinstance(last, Dense)
    weight = np.full_like(last.weight, 3e38)
    return replace(frozen, layers=(*frozen.layers[:-1], replace(last, weight=weight)))


@pytest.mark.needs("cc")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_overflow_decide_nothing(tmp_path: Path) -> None:
    """C, NumPy and the native form say so instead of choosing among infinities."""
    frozen = overflowing()
    obs = np.full(7, 50.0, np.float32)
    with pytest.raises(NumbersError, match="overflow"):
        frozen.act(obs)
    form = NumpyForm(frozen)
    form.obs[:] = obs
    assert form.run() == 1
    made = compile_native(lively("mlp:9", DiscreteSpec(3)))
    assert made is not None
    native = Native(frozen, made._library)
    with pytest.raises(NumbersError, match="overflow"):
        native.act(obs)
    write(tmp_path, frozen, "c")
    (tmp_path / "main.c").write_text(
        '#include "net.h"\nint main(void)\n{\n    static struct net_state state;\n'
        "    float obs[NET_OBS];\n    int32_t action[1] = {77};\n"
        "    for (int i = 0; i < NET_OBS; i++)\n        obs[i] = 50.0f;\n"
        "    return net_step(&state, obs, action, 0) != 1 || action[0] != 77;\n}\n"
    )
    for flags in FLAGS:
        program = build(tmp_path, ["main.c", "net.c"], flags=("-std=c99", *flags))
        assert subprocess.run([program], check=False).returncode == 0


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
    with pytest.raises(NumbersError, match="bounds"):
        emit_c(replace(CHOICES, clip=float("nan")))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_executor_that_always_overflows_is_not_written() -> None:
    """Its own test could not pass; the error says what is wrong."""
    last = CHOICES.layers[-1]
    assert isinstance(last, Dense)
    huge = replace(last, weight=np.full_like(last.weight, 3e38))
    with pytest.raises(NumbersError, match="overflow"):
        emit_c(replace(CHOICES, layers=(*CHOICES.layers[:-1], huge)))


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
    frozen = initial("linear", spec, seed=1)
    seen = probes(frozen, 32, seed=3)
    text = emit_c_int8(quantise(frozen, seen), "net", golden=seen[:2])
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
