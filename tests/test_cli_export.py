"""`agentkd export`: its files are written whole, beside nothing else, or not at all."""

from __future__ import annotations

import locale
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import Bundle, from_bytes, to_bytes, write_bundle
from agentkd.deploy.ctext import literal
from agentkd.deploy.export import Request, export
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec

SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))
FROZEN = initial("mlp:4", SPEC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "executor.akd"
    write_bundle(path, FROZEN)
    return path


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    ("to", "out", "header"),
    [
        ("c", "executor.c", "executor.h"),
        ("c", "a b's $HOME.c", "a b's $HOME.h"),
        ("c", "-x.c", "-x.h"),
        ("c", "no suffix", "no suffix.h"),
        ("c", "executor.cpp", "executor.h"),
        ("c", "é*?[0].c", "é*?[0].h"),
        ("c-int8", "executor.int8.c", "executor.int8.h"),
        ("c-int8", "-q", "-q.h"),
        ("c", "x" * 253 + ".c", "x" * 253 + ".h"),
    ],
)
def test_a_header_lies_beside_each_c_file(to: str, out: str, header: str, file: Path) -> None:
    """Whatever the file is called, it is checked, and two files are written."""
    folder = file.parent / "made"
    words = ["export", str(file), "--to", to, f"--out={folder / out}"]
    assert main(words) == 0
    assert names(folder) == {out, header}
    text = (folder / header).read_text()
    assert text.startswith("/* Calls an executor exported to C by agentkd")
    assert text.partition("\n")[2] in (folder / out).read_text()


@pytest.mark.needs("cc", "c++")
def test_the_written_files_link_under_the_given_name(file: Path) -> None:
    """`--name` begins the names, and a program in C++ calls them by the header."""
    words = ["export", str(file), "--to", "c", "--name", "left"]
    assert main([*words, "--out", str(file.with_name("brain.c"))]) == 0
    folder = file.parent
    (folder / "main.cpp").write_text(
        '#include "brain.h"\nint main()\n{\n    left_state state;\n'
        "    const float obs[LEFT_OBS] = {};\n    int32_t action[LEFT_ACTION];\n"
        "    left_reset(&state);\n"
        "    return left_step(&state, obs, action, nullptr);\n}\n"
    )
    subprocess.run(["cc", "-c", "brain.c"], cwd=folder, check=True)
    link = ["c++", "-std=c++11", "main.cpp", "brain.o", "-o", "main", "-lm"]
    subprocess.run(link, cwd=folder, check=True)
    subprocess.run([folder / "main"], check=True)


def refused(file: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What an export that fails says, on one line; it leaves everything as it was."""
    before = {each: each.read_bytes() for each in file.parent.iterdir() if each.is_file()}
    assert main(["export", str(file), *words]) == 2
    after = {each: each.read_bytes() for each in file.parent.iterdir() if each.is_file()}
    assert after == before
    return " ".join(capsys.readouterr().err.split())


def test_what_would_be_lost_is_not_overwritten(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The executor file, a header of one's own, and what is no file stay."""
    folder = file.parent
    (folder / "mine.h").write_text("int mine;\n")
    (folder / "a.h").mkdir()
    link = folder / "link.c"
    link.symlink_to(file)
    for out, said in [
        (file, "the executor file itself"),
        (link, "the executor file itself"),
        (folder / "mine.c", "mine.h is there"),
        (folder / "x.h", "end the file in .c"),
        (folder, "is a folder"),
        (Path(), "is a folder"),
        (folder / "a.c", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (file / "x.c", "could not be written"),
        (folder / ("x" * 300), "could not be written"),
    ]:
        text = refused(file, "--to", "c", f"--out={out}", capsys=capsys)
        assert said in text, text
    assert not Path("/dev/null").is_file()


def test_an_export_over_an_older_one_replaces_both_files(file: Path) -> None:
    """Also through a link, which stays a link."""
    real = file.with_name("real.c")
    real.write_text("old")
    link = file.with_name("link.c")
    link.symlink_to(real)
    for _ in range(2):
        assert main(["export", str(file), "--to", "c", "--out", str(link)]) == 0
    assert link.is_symlink()
    assert "executor_step" in real.read_text()
    assert names(file.parent) == {"executor.akd", "link.c", "link.h", "real.c"}


@pytest.mark.parametrize("env", ["", None, 7])
def test_episodes_of_a_file_without_an_environment_are_refused(
    env: object, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `freeze` writes one: the error says what to give instead."""
    write_bundle(file, FROZEN, {"env": env})
    words = ("--to", "c-int8", "--calibrate", "episodes")
    text = refused(file, *words, capsys=capsys)
    assert "names no environment" in text
    assert ".npy file of observations, (n, 3)" in text
    np.save(file.with_name("seen.npy"), np.zeros((5, 3), np.float32))
    seen = str(file.with_name("seen.npy"))
    assert main(["export", str(file), "--to", "c-int8", "--calibrate", seen]) == 0


def bundle() -> Bundle:
    return from_bytes(to_bytes(FROZEN, {}))


def test_an_opset_is_chosen_on_the_command_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written, or refused with the numbers that the reader takes."""
    out = file.with_name("e.onnx")
    words = ["--to", "onnx", "--out", str(out)]
    assert main(["export", str(file), *words, "--opset", "13"]) == 0
    assert onnx.load(str(out)).opset_import[0].version == 13
    for more, said in [
        (("--opset", "8"), "choose 9 to 22"),
        (("--opset", "23"), "choose 9 to 22"),
        (("--opset", "16", "--flavour", "ml-agents"), "choose 9 to 15, which Unity"),
        (("--opset", "20", "--flavour", "godot-rl"), "choose 9 to 19"),
    ]:
        assert said in refused(file, *words, *more, capsys=capsys)
    text = refused(file, "--to", "c", "--opset", "13", capsys=capsys)
    assert "goes with onnx, not c" in text


def test_numbers_in_c_have_a_point_in_every_locale() -> None:
    """No locale of this machine changes what is written."""
    before, wanted = locale.setlocale(locale.LC_ALL), export(bundle(), "c")
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8", "C"):
            try:
                locale.setlocale(locale.LC_ALL, name)
            except locale.Error:
                continue
            assert literal(0.5) == "0.5f"
            assert export(bundle(), "c", Request()) == wanted
    finally:
        locale.setlocale(locale.LC_ALL, before)


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    ("out", "start"), [("e.c", b"/*"), ("e.int8.c", b"/*"), ("e.akx", b"AKX"), ("e.onnx", b"\x08")]
)
def test_the_suffix_decides(out: str, start: bytes, file: Path) -> None:
    """`-o FILE` alone says what is written; integers end in .int8.c."""
    path = file.parent / out
    assert main(["export", str(file), "-o", str(path)]) == 0
    data = path.read_bytes()
    assert data.startswith(start)
    if out.endswith(".c"):
        assert (b"int8_t" in data) == ("int8" in out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "e.pt"], "the suffix names no target"),
        ([], "Name the file to write"),
        (["--to", "torchscript"], "No target"),
    ],
)
def test_a_target_nobody_named_is_refused(
    words: list[str], said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error lists what there is."""
    assert said in refused(file, *words, capsys=capsys)
