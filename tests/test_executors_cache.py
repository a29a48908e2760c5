"""The compiled kernel's cache: only this user's own whole libraries are loaded."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkd.executors.kernel_cache import CompilerError, load
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.needs("cc")

Make = Callable[[], ctypes.CDLL]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, not made yet; and a temporary folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "cache" / "agentkd"


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    """A file that grows by a line with each build."""
    return tmp_path / "builds"


@pytest.fixture
def make(tmp_path: Path, builds: Path) -> Make:
    """Load a library whose `seven` gives 7, by way of the cache."""
    source, compiler = tmp_path / "seven.c", tmp_path / "cc"
    source.write_text("int seven(void) { return 7; }\n")
    compiler.write_text(f'#!/bin/sh\necho one >> {builds}\nexec cc "$@"\n')
    compiler.chmod(0o755)
    command = [str(compiler), "-shared", "-fPIC", str(source)]
    return lambda: load(command, source.read_bytes(), ["seven"])


def count(builds: Path) -> int:
    return len(builds.read_text().splitlines())


def only(cache: Path) -> Path:
    (found,) = cache.iterdir()
    return found


def plant(folder: Path, marker: Path) -> bytes:
    """A library that leaves a mark when it is loaded."""
    source = folder / "planted.c"
    source.write_text(
        "#include <stdio.h>\nint seven(void) { return 8; }\n"
        "__attribute__((constructor)) static void leave(void) {\n"
        f'    FILE *file = fopen("{marker}", "w");\n    if (file) fclose(file);\n}}\n'
    )
    out = folder / "planted.so"
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", out], check=True)
    return out.read_bytes()


def test_a_library_is_built_once_and_closed_to_others(
    cache: Path, builds: Path, make: Make, tmp_path: Path
) -> None:
    """The folder's mode is 0700, the second load builds nothing, nothing else stays."""
    assert [make().seven() for _ in range(3)] == [7, 7, 7]
    assert count(builds) == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    assert only(cache).stat().st_mode & 0o077 == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def replace(file: Path, data: bytes) -> None:
    # Not in place: the library is mapped by this process.
    file.unlink()
    file.write_bytes(data)


def truncated(file: Path, planted: bytes) -> None:
    data = file.read_bytes()
    replace(file, data[: len(data) // 2])


def empty(file: Path, planted: bytes) -> None:
    replace(file, b"")


def exchanged(file: Path, planted: bytes) -> None:
    replace(file, planted)


def writable(file: Path, planted: bytes) -> None:
    file.chmod(0o722)


def link(file: Path, planted: bytes) -> None:
    elsewhere = file.parents[1] / "elsewhere.so"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def pipe(file: Path, planted: bytes) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path, planted: bytes) -> None:
    file.unlink()
    (file / "in").mkdir(parents=True)


@pytest.mark.parametrize("damage", [truncated, empty, exchanged, writable, link, pipe, folder])
def test_a_library_that_is_not_as_it_was_written_is_built_again(
    damage: Callable[[Path, bytes], None], cache: Path, builds: Path, make: Make, tmp_path: Path
) -> None:
    """Damaged, exchanged, linked or open to others: it is replaced, not loaded."""
    make()
    marker = tmp_path / "marker"
    name = only(cache).name
    damage(only(cache), plant(tmp_path, marker))
    assert make().seven() == 7
    assert not marker.exists()
    assert count(builds) == 2
    assert make().seven() == 7
    assert count(builds) == 2
    assert only(cache).name == name
    assert only(cache).is_file()
    assert not only(cache).is_symlink()


def test_a_library_in_a_folder_that_others_could_write_to_is_built_again(
    cache: Path, builds: Path, make: Make
) -> None:
    """The folder is closed first, and what does not belong to the cache stays."""
    make()
    (cache / "notes").write_text("mine")
    cache.chmod(0o777)
    assert make().seven() == 7
    assert count(builds) == 2
    assert cache.stat().st_mode & 0o777 == 0o700
    assert (cache / "notes").read_text() == "mine"


def test_another_user_s_cache_is_not_used(
    cache: Path, builds: Path, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither its folder nor its library: the process builds for itself."""
    make()
    before = only(cache).read_bytes()
    mine = os.geteuid()
    real = os.fstat

    def told(fd: int) -> os.stat_result:
        status = real(fd)
        inside = os.path.samestat(status, cache.stat())
        return os.stat_result((*status[:4], mine + 1, *status[5:])) if inside else status

    monkeypatch.setattr(os, "fstat", told)
    assert make().seven() == 7
    assert count(builds) == 2
    assert only(cache).read_bytes() == before
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_another_user_s_library_is_not_loaded(
    cache: Path, builds: Path, make: Make, tmp_path: Path
) -> None:
    """Case attacks/12: a planted library of another user in an open folder."""
    make()
    marker = tmp_path / "marker"
    replace(only(cache), plant(tmp_path, marker))
    os.chown(only(cache), 54321, 54321)
    only(cache).chmod(0o777)
    cache.chmod(0o777)
    assert make().seven() == 7
    assert not marker.exists()


def no_home(cache: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("XDG_CACHE_HOME")

    def missing() -> Path:
        raise RuntimeError("Could not determine home directory.")

    patch.setattr(Path, "home", missing)


def relative_home(cache: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("XDG_CACHE_HOME", "cache")
    patch.setenv("HOME", "home")


def file_for_base(cache: Path, patch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("")


def file_for_folder(cache: Path, patch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_text("")


def link_for_folder(cache: Path, patch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    (cache.parent / "other").mkdir()
    cache.symlink_to("other")


def nowhere(cache: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("XDG_CACHE_HOME", "/proc/none")


def full(cache: Path, patch: pytest.MonkeyPatch) -> None:
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None and os.path.samestat(os.fstat(dir_fd), cache.stat()):
            raise OSError(28, "No space left on device")
        real(path, mode, dir_fd=dir_fd)

    patch.setattr(os, "mkdir", mkdir)


@pytest.mark.parametrize(
    "fault",
    [no_home, relative_home, file_for_base, file_for_folder, link_for_folder, nowhere, full],
)
def test_without_a_cache_the_library_is_built_privately(
    fault: Callable[[Path, pytest.MonkeyPatch], None],
    cache: Path,
    builds: Path,
    make: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It works, says why, and leaves nothing in the temporary folder or here."""
    here = set(Path.cwd().iterdir())
    with pytest.MonkeyPatch.context() as patch:
        fault(cache, patch)
        assert make().seven() == 7
    assert count(builds) == 1
    assert "No kernel cache" in caplog.text
    assert list((tmp_path / "tmp").iterdir()) == []
    assert set(Path.cwd().iterdir()) == here


def test_a_relative_cache_is_ignored_as_its_specification_says(
    cache: Path, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The home folder's own is used instead."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert make().seven() == 7
    assert only(tmp_path / "home" / ".cache" / "agentkd").is_file()


@pytest.mark.parametrize(
    "script", ["exit 1", "exit 0", "echo garbage > library", "cc -shared -o library -xc /dev/null"]
)
def test_a_compiler_that_makes_no_library_leaves_nothing(
    script: str, cache: Path, tmp_path: Path
) -> None:
    """It fails, makes nothing, makes garbage, or something without the function."""
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    with pytest.raises((OSError, CompilerError)):
        load([str(compiler)], b"", ["seven"])
    assert list(cache.iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_place_for_a_private_build_is_an_error(
    cache: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller uses NumPy then."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(OSError, match="none"):
        make()


def test_what_a_killed_build_left_is_removed_later(cache: Path, make: Make) -> None:
    """An unfinished build goes when it is old, and stays while it may be at work."""
    cache.mkdir(parents=True)
    for name, age in (("build-old", 7200), ("build-new", 0)):
        (cache / name).mkdir()
        (cache / name / "library").write_text("")
        os.utime(cache / name, (time.time() - age,) * 2)
    make()
    assert min(each.name[:9] for each in cache.iterdir()) == "build-new"
    assert not (cache / "build-old").exists()


_CHILD = """
import sys
from agentkd.executors.kernel_cache import load
command = ["cc", "-shared", "-fPIC", sys.argv[1]]
print("ready", flush=True)
sys.stdin.readline()
print(load(command, b"", ["seven"]).seven())
"""


def child(source: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_several_processes_build_at_once(cache: Path, tmp_path: Path) -> None:
    """Each gets a library that works, and one stays."""
    source = tmp_path / "seven.c"
    source.write_text("int seven(void) { return 7; }\n")
    children = [child(source) for _ in range(4)]
    for each in children:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in children:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    assert [each.communicate()[0] for each in children] == ["7\n"] * 4
    assert only(cache).name.startswith("kernel-")


def test_a_kill_while_it_compiles_leaves_nothing_in_the_temporary_folder(
    cache: Path, tmp_path: Path
) -> None:
    """What is unfinished lies in the cache, where the next build finds it."""
    compiler, compiling = tmp_path / "cc", tmp_path / "compiling"
    script = f"#!/bin/sh\n: > $TMPDIR/one\n: > {compiling}\nexec sleep 1000\n"
    compiler.write_text(script)
    compiler.chmod(0o755)
    code = "from agentkd.executors.kernel_cache import load\n"
    code += f"load([{str(compiler)!r}], b'', [])"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, start_new_session=True
    ) as process:
        wait_for(compiling.exists)
        os.killpg(process.pid, signal.SIGKILL)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert only(cache).name.startswith("build-")
