"""WebAssembly: what is exported decides in Node and in Chromium as NumPy does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.deploy.export import export_file
from agentkd.deploy.vectors import answers, probes
from agentkd.deploy.verify import compare, reference
from agentkd.deploy.wasm import emit
from agentkd.deploy.wasm.emit import emit_wasm
from agentkd.deploy.wasm.run import run_wasm
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.difference import actions_of
from agentkd.executors.executor import Executor
from agentkd.spec import ActionSpec, DiscreteSpec
from tests.deploy_browser import chromium, served
from tests.deploy_executors import CASES, NAMES, lively

RUNS = pytest.mark.needs("clang", "wasm-ld", "node")
INCLUDE = Path(emit.__file__).with_name("include")
SOURCE = Path(__file__).with_name("wasm_math.c")
ROWS = 500
UNITS = 0.51
"""Largest error in units in the last place; rounding alone makes 0.5."""


@pytest.mark.needs("clang")
def test_its_functions_are_as_exact_as_rounding_allows(tmp_path: Path) -> None:
    """Over floats of every size, infinity and NaN: within 0.51 units of the C library's double."""
    flags = ["-O2", "-std=c99", "-ffreestanding", "-ffp-contract=off", "-DSTEP=4093"]
    program = tmp_path / "program"
    # Its <stdio.h> is the system's; <math.h> is ours.
    command = ["clang", *flags, "-isystem", str(INCLUDE), str(SOURCE), "-o", str(program), "-lm"]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert all(float(each) <= UNITS for each in done.stdout.split()), done.stdout


@RUNS
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_it_decides_in_node_as_numpy_does(architecture: str, action: ActionSpec) -> None:
    """Every kind of layer and action: outputs within 1e-5, the same choices."""
    executor = lively(architecture, action)
    obs = 2 * probes(executor, ROWS, seed=3)
    verdict = compare("wasm", executor, run_wasm(executor, obs), reference(executor, obs))
    assert verdict.status == "agrees", verdict.text


def script(folder: Path, text: str) -> Any:
    """What a module in the folder prints in Node, read as JSON."""
    (folder / "main.mjs").write_text(text)
    done = subprocess.run(
        ["node", "main.mjs"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def written(folder: Path, executor: Executor, name: str = "net") -> None:
    """Export it, with the loader as a module that Node takes for one."""
    export_file(executor, folder / f"{name}.wasm")
    shutil.copy(folder / f"{name}.js", folder / f"{name}.mjs")


IMPORT = 'import { load } from "./net.mjs";\nconst net = await load();\n'
TRIED = """
const tried = async (what) => {
  try { await what(); return "none"; } catch (error) { return `${error.name}: ${error.message}`; }
};
"""


@RUNS
def test_a_memory_is_cleared_kept_and_apart(tmp_path: Path) -> None:
    """`reset` begins an episode, `another` remembers apart, NaN leaves the memory as it was."""
    executor = lively("gru:6", DiscreteSpec(3))
    written(tmp_path, executor)
    obs = probes(executor, 3)
    rows = json.dumps(obs.astype(float).tolist())
    found = script(
        tmp_path,
        f"{IMPORT}{TRIED}const rows = {rows};\nconst all = [];\n"
        "const see = (from, row) => { from.act(row); all.push([...from.outputs]); };\n"
        "see(net, rows[0]); see(net, rows[1]);\n"
        "const other = await net.another(); see(other, rows[0]);\n"
        "const bad = [...rows[0]]; bad[2] = NaN; const said = await tried(() => net.act(bad));\n"
        "see(net, rows[2]); net.reset(); see(net, rows[0]);\n"
        "console.log(JSON.stringify([said, all]));\n",
    )
    said, seen = found
    assert said.startswith("RangeError: The observation holds NaN")
    wanted = answers(executor, obs)
    order = [wanted[0], wanted[1], wanted[0], wanted[2], wanted[0]]
    np.testing.assert_allclose(np.array(seen), np.stack(order), atol=1e-5)


@RUNS
@pytest.mark.parametrize("case", [1, 2, 3, 4, 5, 7], ids=lambda each: NAMES[each])
def test_an_action_has_the_units_of_the_environment(case: int, tmp_path: Path) -> None:
    """One choice is a number that begins where the space does, others are arrays of their own."""
    executor = lively(*CASES[case])
    written(tmp_path, executor)
    obs = probes(executor, 2)
    rows = json.dumps(obs.astype(float).tolist())
    kind, first = script(
        tmp_path,
        f"{IMPORT}const [first, second] = {rows}.map((row) => net.act(row));\n"
        "const kind = first.constructor.name;\n"
        "console.log(JSON.stringify([kind, kind === 'Number' ? [first] : [...first]]));\n",
    )
    wanted = actions_of(executor, answers(executor, obs))[0]
    names = {"f": "Float32Array", "i": "Int32Array"}
    single = isinstance(executor.spec.action, DiscreteSpec)
    assert kind == ("Number" if single else names[wanted.dtype.kind])
    np.testing.assert_allclose(first, wanted, rtol=1e-5, atol=1e-5)


@RUNS
def test_what_cannot_be_loaded_or_decided_is_named(tmp_path: Path) -> None:
    """Other files, other WebAssembly, observations of another size."""
    written(tmp_path, lively(*CASES[0]))
    found = script(
        tmp_path,
        f"{IMPORT}{TRIED}const empty = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);\n"
        "const said = [await tried(() => net.act([1, 2])), await tried(() => net.act(3)),\n"
        "  await tried(() => load(empty)), await tried(() => load('nowhere.wasm')),\n"
        "  await tried(() => net.act(['a', 0, 0, 0, 0, 0, 0]))];\n"
        "console.log(JSON.stringify(said));\n",
    )
    for text, part in zip(
        found,
        ["has 2 numbers, not 7", "not 7", "not an executor", "nowhere.wasm", "holds NaN"],
        strict=True,
    ):
        assert part in text, text


@RUNS
def test_golden_vectors_are_in_the_file_and_can_fail(tmp_path: Path) -> None:
    """`verify` runs them on the machine; with one bit of a wanted output changed it says so."""
    executor = lively("mlp:64,64,tanh", CASES[5][1])
    written(tmp_path, executor)
    text = (
        f"{IMPORT}const found = [await net.verify()];\n"
        'const odd = await load(new URL("./odd.wasm", import.meta.url));\n'
        "found.push(await odd.verify());\nconsole.log(JSON.stringify(found));\n"
    )
    data = bytearray((tmp_path / "net.wasm").read_bytes())
    facts = json.loads(re.findall(rb"agentkd\.facts(\{.*?\})\0", bytes(data))[0])
    data[-4 * facts["rows"] * facts["actions"] - 1] ^= 1
    (tmp_path / "odd.wasm").write_bytes(data)
    whole, odd = script(tmp_path, text)
    assert (whole["agrees"], whole["rows"]) == (True, 16)
    assert odd["agrees"] is False
    assert facts["architecture"] == "mlp:64,64,tanh"


@RUNS
def test_the_command_writes_two_files_and_runs_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The suffix decides; a loader of one's own is not replaced."""
    file = tmp_path / "executor.akd"
    write_bundle(file, lively(*CASES[0]))
    out = tmp_path / "web" / "it's 50%.wasm"
    for _ in range(2):
        assert main(["export", str(file), "-o", str(out)]) == 0
    assert "run by wasm in Node: within" in " ".join(capsys.readouterr().out.split())
    assert {each.name for each in out.parent.iterdir()} == {out.name, "it's 50%.js"}
    shutil.copy(out.with_suffix(".js"), out.with_name("net.mjs"))
    assert script(out.parent, f"{IMPORT}console.log(net.info.obs);\n") == 7
    out.with_suffix(".js").write_text("mine")
    assert main(["export", str(file), "-o", str(out)]) == 2
    assert "agentkd did not write it" in " ".join(capsys.readouterr().err.split())
    assert main(["export", str(file), "--to", "wasm", "-o", str(tmp_path / "x.js")]) == 2
    assert "is the loader's name" in " ".join(capsys.readouterr().err.split())


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without clang and wasm-ld nothing is written, and the error says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"no clang and no wasm-ld .*apt install clang lld"):
        emit_wasm(lively(*CASES[0]))


@RUNS
def test_node_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is passed on, and that it is missing."""
    executor = lively(*CASES[0])
    obs = probes(executor, 1)
    obs[0, 3] = np.nan
    with pytest.raises(LoadError, match=r"(?s)status 1.*holds NaN"):
        run_wasm(executor, obs)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "node" else f"/bin/{name}")
    with pytest.raises(LoadError, match="no node"):
        run_wasm(executor, obs)


@pytest.mark.needs("clang", "wasm-ld", "chromium")
def test_it_decides_in_chromium_under_a_strict_policy(tmp_path: Path) -> None:
    """Every kind of executor is loaded by its own module, and its golden vectors agree there."""
    for place, case in enumerate(CASES):
        export_file(lively(*case), tmp_path / f"net{place}.wasm")
    (tmp_path / "page.html").write_text(
        '<!doctype html><title>t</title><link rel="icon" href="data:,">'
        '<script type="module" src="page.js"></script>'
    )
    (tmp_path / "page.js").write_text(
        "globalThis.found = (async () => {\n  const all = [];\n"
        f"  for (let i = 0; i < {len(CASES)}; i++) {{\n"
        "    const { load } = await import(`./net${i}.js`);\n"
        "    all.push(await (await load()).verify());\n  }\n  return all;\n})();\n"
    )
    with chromium() as page, served(tmp_path) as address:
        page.open(f"{address}/page.html")
        found = page.ask("globalThis.found")
    assert [each["agrees"] for each in found] == [True] * len(CASES), found
    assert page.errors == []
