"""What lets executors in on others' behalf: Mender's update module, and waiting for a trial."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle
from agentkd.device import Device
from agentkd.errors import ConfigError
from agentkd.signing.proof import Proof
from tests.runtime_children import constant
from tests.signing import Signer
from tests.test_device import written
from tests.waiting import ENOUGH, wait_for

ROOT = Path(__file__).parents[1]
MODULE = ROOT / "examples" / "fleet" / "agentkd-executor"


@pytest.mark.parametrize(("ends", "status"), [("confirm", 0), ("rollback", 1)])
def test_a_trial_is_waited_for(
    ends: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until another process ends it; the status says how."""
    monkeypatch.setattr("agentkd.cli.device._LOOK", 0.01)
    device = Device(tmp_path / "device")
    device.apply(written(tmp_path, "a", constant(1)))
    words = ["device", "wait", "--folder", str(device.folder)]
    assert main(words) == 0
    device.apply(written(tmp_path, "b", constant(2)))
    assert main([*words, "--seconds", "0"]) == 1
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(main(words)))
    # In a thread of their own, commands leave signals alone.
    monkeypatch.setattr("agentkd.cli.main.like_ctrl_c", _as_it_is)
    thread.start()
    getattr(device, ends)()
    wait_for(lambda: ended)
    thread.join()
    assert ended == [status]


def test_an_executor_that_acts_is_not_waited_for(tmp_path: Path) -> None:
    """Whatever was refused after it; and of another one nothing is expected."""
    device = Device(tmp_path / "device")
    first, second = (written(tmp_path, f"{n}", constant(n)) for n in (1, 2))
    device.apply(first)
    (tmp_path / "bad.akd").write_bytes(b"x")
    words = ["device", "apply", "--folder", str(device.folder)]
    assert main([*words, str(tmp_path / "bad.akd")]) == 2
    words[1] = "wait"
    assert main([*words, str(first)]) == 0
    assert main([*words, str(second)]) == 1
    device.apply(second)
    assert main([*words, str(first)]) == 0
    assert main([*words, str(tmp_path / "none.akd")]) == 2


class _as_it_is:  # noqa: N801 (stands in for a function)
    def __enter__(self) -> type[int]:
        return int

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


def test_what_checks_signatures_is_told_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extra that brings it."""
    for name in ("cryptography", "tuf", "tuf.ngclient"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "root.json").write_text("{}")
    (tmp_path / "e.akd.proof").write_text(Proof({}).to_bytes().decode())
    file = written(tmp_path, "e", constant(1))
    with pytest.raises(ConfigError, match=r"agentkd\[fleet\]"):
        read_bundle(file, trust=tmp_path / "root.json")


@pytest.mark.needs("sh")
def test_mender_updates_a_device(tmp_path: Path) -> None:
    """The states of its protocol, in its order: one deployment that succeeds, one that fails."""
    pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")
    signer = Signer(tmp_path)
    files, program = tmp_path / "artifact" / "files", tmp_path / "bin" / "agentkd"
    for folder in (files, program.parent):
        folder.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentkd "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AGENTKD_FOLDER": str(tmp_path / "device"),
        "AGENTKD_TRUST": str(signer.root),
        "AGENTKD_SECONDS": "0",
    }

    def call(state: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(MODULE), state, str(files.parent)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=ENOUGH,
            check=False,
        )
        return done.returncode, done.stdout

    def act() -> int:
        return int(Device(tmp_path / "device").executor().act(np.zeros(3, np.float32)))

    assert call("NeedsArtifactReboot") == (0, "No\n")
    assert call("SupportsRollback") == (0, "Yes\n")
    assert call("SomethingNew") == (0, "")
    file = written(files, "executor", constant(1))
    assert call("ArtifactInstall")[0] == 2
    signer.sign(file)
    assert call("ArtifactInstall")[0] == 0
    assert call("ArtifactCommit")[0] == 0
    assert act() == 1
    signer.sign(written(files, "executor", constant(2)))
    assert call("ArtifactInstall")[0] == 0
    # No program tries it, so it is not confirmed in time.
    assert call("ArtifactCommit")[0] == 1
    assert call("ArtifactRollback")[0] == 0
    assert act() == 1
    assert Device(tmp_path / "device").status().waiting is None
    # An artifact that is refused takes nothing with it when it is rolled back.
    device = Device(tmp_path / "device", trust=signer.root)
    signer.sign(written(files, "executor", constant(3)))
    device.apply(file)
    device.confirm()
    assert call("ArtifactCommit")[0] == 0
    written(files, "executor", constant(0))
    before = device.status()
    assert call("ArtifactInstall")[0] == 2
    assert call("ArtifactCommit")[0] == 1
    assert call("ArtifactRollback")[0] == 0
    assert device.status() == before
    assert act() == 3
    written(files, "another", constant(2))
    assert call("ArtifactInstall")[0] == 1
    assert call("ArtifactRollback")[0] == 0
    assert device.status() == before
