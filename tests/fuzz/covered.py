"""Runs one target under atheris, which looks for inputs that reach new lines.

    python -m tests.fuzz.covered TARGET FOLDER COUNTS [options of libFuzzer]

Findings are kept and the run goes on. What ends the process, libFuzzer leaves as a file in the
working directory.
"""

from __future__ import annotations

import faulthandler
import os
import struct
import sys
import tempfile
from pathlib import Path

import atheris

COUNTS = struct.Struct("<4q")
"""Inputs, and how many were accepted, refused, and are findings."""


def main() -> None:
    """Run until libFuzzer ends."""
    with atheris.instrument_imports(include=["agentkd"]):
        from tests.fuzz.formats import target as target_of
        from tests.fuzz.run import Findings
        from tests.fuzz.target import TooLargeError, attempt, limit_addresses, peak

        target = target_of(sys.argv[1])
        from tests.fuzz.draw import Draw

        target.build(Draw(b""))
    findings = Findings(Path(sys.argv[2]))
    told = os.open(sys.argv[3], os.O_RDWR)
    counts = list(COUNTS.unpack(os.pread(told, COUNTS.size, 0)))
    verdicts = {"accepted": 1, "refused": 2, "finding": 3}
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=Path.cwd()))
    limit_addresses()
    base = peak()

    def one(data: bytes) -> None:
        outcome = attempt(target, data, folder, base)
        counts[0] += 1
        counts[verdicts[outcome.verdict]] += 1
        os.pwrite(told, COUNTS.pack(*counts), 0)
        if outcome.verdict == "finding":
            findings.keep(target, data, outcome)
            if outcome.kind.startswith(TooLargeError.__name__):
                os._exit(0)  # the next input would be blamed for it

    atheris.Setup([sys.argv[0], *sys.argv[4:]], one)
    faulthandler.disable()
    atheris.Fuzz()


if __name__ == "__main__":
    main()
