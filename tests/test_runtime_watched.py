"""Executor files that are watched and followed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.errors import BundleError, ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.runtime import Agent
from agentkd.runtime.watched import Watched
from tests.runtime_children import Steps, constant
from tests.test_runtime_swaps import OTHERS, see
from tests.waiting import wait_for


def rename(source: Path, target: Path) -> None:
    """Put a file in place at once."""
    source.replace(target)


def rewrite(source: Path, target: Path) -> None:
    """Write over a file in place."""
    target.write_bytes(source.read_bytes())


def delete_first(source: Path, target: Path) -> None:
    """Delete a file, and put another one there."""
    target.unlink()
    shutil.copy(source, target)


def link(source: Path, target: Path) -> None:
    """Let the name be a link to another file."""
    fresh = target.with_name("fresh")
    fresh.symlink_to(source)
    fresh.replace(target)


@pytest.mark.parametrize("put", [rename, rewrite, delete_first, link])
def test_a_watched_file_is_followed(put: Callable[[Path, Path], None], tmp_path: Path) -> None:
    """However a file is replaced, its executor acts some looks later."""
    file = tmp_path / "executor.akd"
    write_bundle(file, constant(1))
    with Agent(file, watch=True) as agent:
        assert agent.act(see(0)) == 1
        write_bundle(tmp_path / "other.akd", constant(2))
        put(tmp_path / "other.akd", file)
        act_until(agent, 2)
        assert agent.metrics()["swaps_refused_total"] == {}


def act_until(agent: Agent, choice: int) -> None:
    """Act until this choice is made."""
    wait_for(lambda: agent.act(see(0)) == choice)


def look(watched: Watched) -> Executor | None:
    """Look at the file."""
    found = watched.changed()
    return found.executor if found is not None else None


def test_a_file_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """While it grows it is refused by nobody; whole, it is taken once."""
    file = tmp_path / "executor.akd"
    digest = write_bundle(file, constant(1)).digest
    watched = Watched(file, digest)
    assert look(watched) is None
    write_bundle(tmp_path / "other.akd", constant(2))
    data = (tmp_path / "other.akd").read_bytes()
    for count in (0, 10, 100, len(data) - 1):
        file.write_bytes(data[:count])
        assert look(watched) is None
    file.write_bytes(data)
    found = look(watched)
    assert found is not None
    assert found.act(see(0)) == 2
    assert look(watched) is None


def test_a_bad_file_is_told_once(tmp_path: Path) -> None:
    """A file that stays bad raises at the second look, and never again."""
    file = tmp_path / "executor.akd"
    watched = Watched(file, write_bundle(file, constant(1)).digest)
    file.write_bytes(b"nothing")
    assert look(watched) is None
    with pytest.raises(BundleError):
        look(watched)
    assert [look(watched) for _ in range(3)] == [None] * 3
    file.write_bytes(b"nothing else")
    assert look(watched) is None
    with pytest.raises(BundleError):
        look(watched)


def test_a_file_that_is_gone_or_no_file_changes_nothing(tmp_path: Path) -> None:
    """A deleted file, a folder and a pipe are waited out; the same file is no news."""
    file = tmp_path / "executor.akd"
    watched = Watched(file, write_bundle(file, constant(1)).digest)
    data = file.read_bytes()
    file.unlink()
    assert look(watched) is None
    file.mkdir()
    assert look(watched) is None
    file.rmdir()
    os.mkfifo(file)
    assert look(watched) is None
    file.unlink()
    file.write_bytes(data)
    assert look(watched) is None


def test_a_watched_file_for_something_else_is_counted(tmp_path: Path) -> None:
    """A whole file that does not fit is refused, and the next one is looked at."""
    file = tmp_path / "executor.akd"
    write_bundle(file, constant(1))
    with Agent(file, watch=True) as agent:
        write_bundle(file, initial("linear", OTHERS["more choices"][0]))
        wait_for(lambda: agent.metrics()["swaps_refused_total"] == {"unfit": 1})
        assert agent.act(see(0)) == 1
        write_bundle(file, constant(3))
        act_until(agent, 3)


def test_only_a_file_is_watched(tmp_path: Path) -> None:
    """An executor without a path, and a path without a file, are refused."""
    with pytest.raises(ConfigError, match="give its path"):
        Agent(constant(0), watch=True)
    with pytest.raises(BundleError):
        Agent(tmp_path / "none.akd", watch=True)


def test_a_file_is_read_beside_the_ticks(tmp_path: Path) -> None:
    """A changed file is read in a thread that lives for it; the ticks go on meanwhile."""
    path = tmp_path / "executor.akd"
    write_bundle(path, constant(0))
    with Agent(path, watch=True, period=0.002) as agent:
        agent.tick()
        assert agent.act(see(0)) == 0
        write_bundle(path, constant(1))

        def swapped() -> bool:
            agent.tick()
            return bool(agent.act(see(0)) == 1)

        wait_for(swapped)
        # It is read again until its times tell that nothing is being written.
        wait_for(lambda: agent.tick() and "file" not in {t.name for t in threading.enumerate()})


def test_under_a_virtual_clock_its_ticks_decide_when_a_file_acts(tmp_path: Path) -> None:
    """A file that is replaced at a tick acts at the same tick in each run."""
    path = tmp_path / "executor.akd"

    def run() -> list[int]:
        write_bundle(path, constant(1))
        env, chosen = Steps(), list[int]()
        step = env.step

        def replacing(action: Any) -> Any:
            chosen.append(int(action))
            if len(chosen) == 20:
                write_bundle(path, constant(2))
            return step(action)

        env.step = replacing  # type: ignore[method-assign]
        Agent(path, watch=True).run(env, clock="virtual", hz=50, ticks=40)
        return chosen

    first = run()
    assert first[:20] + first[-10:] == [1] * 20 + [2] * 10
    assert run() == first


def test_a_file_from_a_clock_that_is_ahead_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is a day away, so nothing is being written to it."""
    file = tmp_path / "executor.akd"
    watched = Watched(file, write_bundle(file, constant(1)).digest)
    day = file.stat().st_mtime + 86_400
    os.utime(file, (day, day))
    reads: list[Path] = []

    def read(path: Path, **_: Any) -> Any:
        reads.append(path)
        return read_bundle(path)

    monkeypatch.setattr("agentkd.runtime.watched.read_bundle", read)
    assert [look(watched) for _ in range(3)] == [None] * 3
    assert len(reads) == 1
