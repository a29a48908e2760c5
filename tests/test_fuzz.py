"""Fuzzing, a short pass of it: fixed inputs, of which none may be a finding."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agentkd.errors import LoadError
from tests.fuzz import formats, mutate
from tests.fuzz.archives import zipped
from tests.fuzz.draw import Draw
from tests.fuzz.run import seeded
from tests.fuzz.target import Files, Target, attempt, peak

ROOT = Path(__file__).parents[1]
INPUTS = 30


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run of every Python target prints."""
    # A process of its own: one with threads, as pytest's may be, must not fork.
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(INPUTS)]
    for name in formats.TARGETS:
        command += ["--target", name]
    done = subprocess.run(
        [*command, "--out", str(tmp_path_factory.mktemp("fuzz"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", formats.TARGETS)
def test_hostile_files_and_messages_are_refused_or_work(name: str, told: str) -> None:
    """Each input is refused by an error of the library's, or what is read works."""
    line = re.search(rf"^{name} +(\d+) inputs.* (\d+) findings", told, re.MULTILINE)
    assert line is not None, told
    assert line.groups() == (str(INPUTS), "0"), told


@pytest.mark.needs("gcc")
def test_the_c_runtime_touches_nothing_outside_its_buffers(tmp_path: Path) -> None:
    """Changed files with right checksums run under sanitizers, or are refused."""
    command = [sys.executable, "-m", "tests.fuzz", "--target", "akx", "--inputs", "300"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^akx +3\d\d inputs +[1-9]\d* accepted", done.stdout)


def test_the_same_bytes_make_the_same_files() -> None:
    """A saved input replays what it showed."""
    target = formats.target("bundle")
    inputs = [next(seeded(target, 3)) for _ in range(2)]
    assert inputs[0] == inputs[1]
    assert target.build(Draw(inputs[0])) == target.build(Draw(inputs[1]))


def target_of(read: object) -> Target:
    """A target whose reader is a function of one byte."""

    def build(draw: Draw) -> Files:
        return {"x": draw.raw(1)}

    return Target("stub", build, read, lambda _: None)  # type: ignore[arg-type]


def test_an_error_that_is_not_the_librarys_is_a_finding(tmp_path: Path) -> None:
    """A refusal is not; each finding is named by its exception and place."""

    def refuse(_: Path) -> None:
        raise LoadError("no")

    def fail(_: Path) -> None:
        raise KeyError("x")

    verdicts = [attempt(target_of(read), b"", tmp_path, peak()) for read in (refuse, fail, str)]
    assert [each.verdict for each in verdicts] == ["refused", "finding", "accepted"]
    assert verdicts[1].kind.startswith("KeyError in ")


CRASHES = """
import os, signal, sys
from pathlib import Path
from tests.fuzz.draw import Draw
from tests.fuzz.run import Findings, run
from tests.fuzz.target import Target

def read(folder):
    if (folder / "x").read_bytes() == b"c":
        os.kill(os.getpid(), signal.SIGSEGV)

target = Target("stub", lambda draw: {"x": draw.raw(1)}, read, lambda _: None)
tally = run(target, iter([b"a", b"c", b"b"]), Findings(Path(sys.argv[1])), 3)
print(tally.inputs, dict(tally.verdicts), list(tally.kinds))
"""


def test_a_crash_ends_one_input_and_is_kept(tmp_path: Path) -> None:
    """The inputs after it are run; the input and how to replay it are saved."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "3 {'accepted': 2, 'finding': 1} ['SIGSEGV']"
    (kept,) = tmp_path.glob("*.input")
    assert kept.read_bytes() == b"c"
    assert f"--target stub --replay {kept}" in kept.with_suffix(".txt").read_text()


def test_an_unchanged_archive_is_a_zip(tmp_path: Path) -> None:
    """What is written by hand is what others read."""
    (tmp_path / "x.zip").write_bytes(zipped([("a", b"12"), ("b/c", b"")]))
    with zipfile.ZipFile(tmp_path / "x.zip") as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == {"a": b"12", "b/c": b""}


def test_mutations_leave_the_original_as_it_is() -> None:
    """Changed trees are copies, and nearly all differ from it."""
    tree = {"a": [1, 2, {"b": "text"}], "c": 1.5}
    before = mutate.written(tree)
    changed = {mutate.written(mutate.tree(Draw(bytes((seed,))), tree)) for seed in range(50)}
    assert mutate.written(tree) == before
    assert len(changed - {before}) > 40
