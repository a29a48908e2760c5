"""A form that is timed by another Python, whose packages would not fit in this one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.executors.executor import Executor
from agentkd.measure.latency import Latency

_START = 300
"""Seconds for what it imports and lowers."""


def time_elsewhere(
    python: str, executor: Executor, name: str, *, seconds: float, rounds: int
) -> Latency:
    """Time a form in another Python, one thread; where it fails, its note says why.

    Args:
        python: The interpreter; it has torch, and what the form needs.
        executor: The executor.
        name: The form's.
        seconds: As in `agentkd.measure.latency.measure`.
        rounds: Likewise.
    """
    nothing = Latency(name, math.nan, math.nan, math.nan, 0)
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        file = Path(folder) / "executor.akd"
        write_bundle(file, executor)
        # This library and none of the packages that lie beside it.
        home = Path(__file__).parents[1]
        (Path(folder) / "agentkd").symlink_to(home, target_is_directory=True)
        words = [python, "-m", __name__, str(file), str(seconds), str(rounds)]
        try:
            done = subprocess.run(
                words,
                env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_START + 10 * seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return _noted(nothing, f"{python}: {error}")
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        return Latency(**{**found, "note": f"{found['note']}; another Python"})
    except (IndexError, ValueError, TypeError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return _noted(nothing, f"{python}: {last}")


def _noted(latency: Latency, note: str) -> Latency:
    return Latency(**{**asdict(latency), "note": note})


def main() -> None:
    """Time ExecuTorch for the file, seconds and rounds on the command line."""
    import torch

    from agentkd.measure.forms_torch import executorch
    from agentkd.measure.latency import measure, observations

    torch.set_num_threads(1)
    file, seconds, rounds = sys.argv[1:]
    executor = read_bundle(file).executor
    obs = observations(executor.spec, executor.mean)
    (found,) = measure([executorch(executor)], obs, seconds=float(seconds), rounds=int(rounds))
    sys.stdout.write("\n" + json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
