"""A device that is killed at any system call of an update has the old or the new executor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from agentkd.device import Device
from tests.device_updates import AT, CALLS, MOST, OTHERWISE
from tests.runtime_children import constant
from tests.signing import Signer
from tests.test_device import written
from tests.waiting import ENOUGH

ROOT = Path(__file__).parents[1]


@pytest.mark.needs("strace")
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_the_old_or_the_new_executor_is_whole(signed: bool, tmp_path: Path) -> None:
    """After a kill at each system call; and the same update then goes through."""
    if signed and find_spec("tuf") is None:
        pytest.skip("needs tuf, of the extra fleet")
    signer = Signer(tmp_path) if signed else None
    trust = None if signer is None else signer.root
    old, new = written(tmp_path, "old", constant(1)), written(tmp_path, "new", constant(2))
    first = tmp_path / "first"
    if signer is not None:
        signer.sign(old)
    Device(first, trust=trust).apply(old)
    if signer is not None:
        signer.sign(new)
    folders = tmp_path / "devices"
    # With signatures there are many more, so only those are tried that change a folder.
    calls = ("fsync", "mkdir", "rename", "symlink", "unlink") if signed else CALLS
    for call in calls:
        for number in range(1, MOST + 1):
            shutil.copytree(first, folders / f"{call}-{number}")
    inject = [f"inject={call}:signal=KILL:when={AT.get(call, OTHERWISE)}" for call in calls]
    done = subprocess.run(
        [
            *("strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={','.join(calls)}"),
            *(word for each in inject for word in ("-e", each)),
            *(sys.executable, str(ROOT / "tests" / "device_updates.py")),
            *(",".join(calls), str(folders), str(new), str(trust or "")),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )
    if "ptrace" in done.stderr:
        pytest.skip(f"needs strace that may trace: {done.stderr.strip()[:80]}")
    assert done.returncode == 0, done.stderr
    killed = done.stdout.split()
    # Each of these is made at least once by an update.
    assert {name.partition("-")[0] for name in killed} >= {"fsync", "rename"}
    ends = set()
    for name in killed:
        device = Device(folders / name, trust=trust)
        ends.add(int(device.executor().act(np.zeros(3, np.float32))))
        # What is left over is in no update's way.
        if device.status().waiting is None:
            device.apply(new)
        if device.status().waiting is not None:
            device.confirm()
        assert device.executor().act(np.zeros(3, np.float32)) == 2, name
        assert not [each for each in device.folder.iterdir() if each.is_dir()], name
    # One that is killed after its last transition has the new one.
    assert ends == {1, 2}
