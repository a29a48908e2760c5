"""Coverage-guided runs: atheris, in a process that is started again after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from tests.fuzz.run import WAITING, Findings, Tally, seeded
from tests.fuzz.target import Outcome, Target

_COUNTED = ("accepted", "refused", "finding")
_FIRST = 64
_LONGEST = 256


def available() -> bool:
    """Whether atheris is installed."""
    return find_spec("atheris") is not None


def run_guided(target: Target, seed: int, seconds: float, out: Path, findings: Findings) -> Tally:
    """Fuzz a target for so many seconds; what it learns stays in `out`/corpus.

    Args:
        target: The format.
        seed: Of the first inputs, and of libFuzzer's choices.
        seconds: How long.
        out: Where the corpus and what is temporary go.
        findings: Where findings go.
    """
    from tests.fuzz.covered import COUNTS

    corpus, work = out / "corpus" / target.name, out / "work" / target.name
    for folder in (corpus, work):
        folder.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(islice(seeded(target, seed), _FIRST)):
        (corpus / f"first-{index:02d}").write_bytes(data)
    counts = work / "counts"
    counts.write_bytes(COUNTS.pack(0, 0, 0, 0))
    end, crashes = time.monotonic() + seconds, Tally()
    while (left := int(end - time.monotonic())) > 0:
        command = [sys.executable, "-m", "tests.fuzz.covered", target.name]
        command += [str(findings.folder.resolve()), str(counts.resolve())]
        command += [f"-max_total_time={left}", f"-timeout={WAITING}", "-rss_limit_mb=0"]
        command += [f"-seed={seed + 1 + crashes.inputs}", f"-max_len={_LONGEST}"]
        command += ["-verbosity=0", "-print_final_stats=0", str(corpus.resolve())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with (work / "stderr").open("wb") as told:
            subprocess.run(
                command, cwd=work, env=environment, stdout=told, stderr=told, check=False
            )
        found = [
            each for each in work.iterdir() if each.name.startswith(("crash-", "timeout-", "oom-"))
        ]
        for artifact in found:
            kind = artifact.name.partition("-")[0]
            text = (work / "stderr").read_text(errors="replace")[-4000:]
            findings.keep(target, artifact.read_bytes(), Outcome("finding", kind, text))
            artifact.unlink()
            crashes.inputs += 1
            crashes.kinds[kind] += 1
            crashes.verdicts["finding"] += 1
    inputs, *verdicts = COUNTS.unpack(counts.read_bytes())
    tally = Tally(inputs=inputs + crashes.inputs, kinds=crashes.kinds)
    tally.verdicts.update(dict(zip(_COUNTED, verdicts, strict=True)))
    tally.verdicts.update(crashes.verdicts)
    return tally
