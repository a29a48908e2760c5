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
from tests.device_updates import AT, CALLS
from tests.runtime_children import constant
from tests.signing import Signer
from tests.test_device import written
from tests.waiting import ENOUGH

ROOT = Path(__file__).parents[1]
MOST = 150
"""System calls of one kind that an update may make; there are fewer."""


@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_the_old_or_the_new_executor_is_whole(call: str, signed: bool, tmp_path: Path) -> None:
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
    for number in range(1, MOST):
        shutil.copytree(first, folders / str(number))
    done = subprocess.run(
        [
            *("strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={call}"),
            *("-e", f"inject={call}:signal=KILL:when={AT}"),
            *(sys.executable, str(ROOT / "tests" / "device_updates.py")),
            *(call, str(folders), str(new), str(trust or "")),
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
    killed = [int(line) for line in done.stdout.split()]
    assert killed == list(range(1, len(killed) + 1))
    assert killed
    ends = set()
    for number in killed:
        device = Device(folders / str(number), trust=trust)
        ends.add(int(device.executor().act(np.zeros(3, np.float32))))
        # Whatever was left over is in nobody's way.
        if device.status().waiting is None:
            device.apply(new)
        if device.status().waiting is not None:
            device.confirm()
        assert device.executor().act(np.zeros(3, np.float32)) == 2
    assert ends <= {1, 2}
    assert 1 in ends
