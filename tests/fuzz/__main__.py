"""Fuzzes every reader of files and messages: `make fuzz`, or python -m tests.fuzz."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Tiny networks gain nothing from threads, and a process with threads must not fork.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from tests.fuzz import formats, guided, native  # noqa: E402
from tests.fuzz.run import Findings, Tally, replay, run, seeded  # noqa: E402

_ALL = sorted([*formats.TARGETS, native.NAME, native.SANITIZED])


def main() -> int:
    """Run the targets that were named, or all; 1 if there are findings."""
    options = _parsed()
    names = options.target or _ALL
    findings = Findings(options.out / "findings")
    if options.replay:
        return _replayed(names[0], options.replay, options.out)
    if options.inputs is None:
        _say_what_is_missing(names)
    total, began = Tally(), time.monotonic()
    share = options.seconds / len(names)
    for name in names:
        start = time.monotonic()
        if options.inputs is not None:
            tally = _counted(name, options.seed, options.inputs, findings, options.out)
        else:
            tally = _timed(name, options.seed, share, findings, options.out)
        _print_tally(name, tally, time.monotonic() - start)
        total.inputs += tally.inputs
        total.verdicts += tally.verdicts
    _print_tally("all", total, time.monotonic() - began)
    if total.verdicts["finding"]:
        print(f"Findings, each with the command that replays it: {findings.folder}")
        for path in sorted(findings.folder.glob("*.txt")):
            print(f"  {path.name}: {path.read_text(errors='replace').splitlines()[0]}")
    return 1 if total.verdicts["finding"] else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="for all targets")
    parser.add_argument("--target", action="append", choices=_ALL, help="repeat it for several")
    parser.add_argument("--inputs", type=int, help="run so many of each, then end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--replay", type=Path, help="run this input of one --target")
    options = parser.parse_args()
    if options.replay and len(options.target or ()) != 1:
        parser.error("--replay needs one --target")
    return options


def _say_what_is_missing(names: list[str]) -> None:
    if not guided.available():
        print("atheris is not installed: inputs are random, not guided by coverage.")
    if {native.NAME, native.SANITIZED} & set(names) and not native.has_libfuzzer():
        print("clang with libFuzzer is not installed: no C target is fuzzed.")


def _replayed(name: str, path: Path, out: Path) -> int:
    data = path.read_bytes()
    if name == native.NAME:
        done = native.run_files(out / "work" / "replay", [path])
        print(done.stdout + done.stderr)
        return done.returncode
    name = "bundle" if name == native.SANITIZED else name
    outcome = replay(formats.target(name), data, out / "work" / "replay")
    print(f"{outcome.verdict} {outcome.kind}\n{outcome.text}")
    return 1 if outcome.verdict == "finding" else 0


def _counted(name: str, seed: int, inputs: int, findings: Findings, out: Path) -> Tally:
    """Run a fixed number of inputs, the same for the same seed."""
    if name == native.NAME:
        return native.run_alone(out / "work" / name, seed, inputs, findings)
    if name == native.SANITIZED:
        return native.run_sanitized(seed, ("--inputs", str(inputs)), out, findings)
    return _repeated(name, seed, findings, lambda done: inputs - done)


def _timed(name: str, seed: int, seconds: float, findings: Findings, out: Path) -> Tally:
    """Run inputs for so many seconds, guided by coverage where that can be."""
    if name == native.NAME:
        return native.run_libfuzzer(seed, seconds, out, findings)
    if name == native.SANITIZED:
        return native.run_sanitized(seed, ("--seconds", str(seconds)), out, findings)
    if guided.available() and not native.sanitized():
        return guided.run_guided(formats.target(name), seed, seconds, out, findings)
    end = time.monotonic() + seconds
    return _repeated(name, seed, findings, lambda _: 100 if time.monotonic() < end else 0)


def _repeated(name: str, seed: int, findings: Findings, left: Callable[[int], int]) -> Tally:
    target = formats.target(name)
    inputs, total = seeded(target, seed), Tally()
    while (more := left(total.inputs)) > 0:
        tally = run(target, inputs, findings, min(more, 100))
        total.inputs += tally.inputs
        total.verdicts += tally.verdicts
        total.kinds += tally.kinds
        if sys.stderr.isatty():
            print(f"\r{name} {total.inputs:,}", end="\r", file=sys.stderr)
    return total


def _print_tally(name: str, tally: Tally, seconds: float) -> None:
    counts = tally.verdicts
    known = f"{counts['accepted']:>9,} accepted {counts['refused']:>9,} refused"
    if tally.inputs and not counts.total():
        known = " " * len(known)  # libFuzzer counts inputs alone
    print(
        f"{name:<13}{tally.inputs:>9,} inputs {known} {counts['finding']:>5,} findings "
        f"{seconds:>7.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
