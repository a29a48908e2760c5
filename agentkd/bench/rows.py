"""The rows of a run: cells.csv, to which each finished cell appends one."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final, get_args

from agentkd.bench.cells import Cell, CellArm
from agentkd.bench.orders import MOST_RETURN, Done, Figures
from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.fields import parse_json
from agentkd.files import loading, read_file, write_atomic
from agentkd.printable import logger, printable
from agentkd.report.write import check_out, prepare_out

log = logger(__name__)

FILE = "cells.csv"
_LOCK = ".agentkd"
_LARGEST = 1 << 30
_CELL = (
    *("env", "planner", "arm", "executor", "method", "latency", "seed", "episodes", "first_seed"),
    "labels",
)
_NUMBERS = ("latency", "seed", "episodes", "first_seed", "labels", "parameters")
COLUMNS = (
    *("key", *_CELL, "parameters", "return", "returns", "making_seconds", "seconds", "error"),
    "check",
)
"""The columns of cells.csv, described in docs/reference/bench.md."""


@dataclass(frozen=True, slots=True)
class Row:
    """A finished cell.

    Attributes:
        key: The hash of its inputs.
        env, planner, arm, executor, method, latency: The cell's.
        seed, episodes, first_seed, labels: Likewise.
        parameters: How many numbers of the executor were trained.
        returns: Of each episode; () after an error.
        making, seconds: In which the executor was made, and in all.
        error: What was raised; "" if nothing.
    """

    key: str
    env: str
    planner: str
    arm: str
    executor: str
    method: str
    latency: int
    seed: int
    episodes: int
    first_seed: int
    labels: int
    parameters: int
    returns: tuple[float, ...]
    making: float
    seconds: float
    error: str = ""

    @property
    def score(self) -> float:
        """The mean return of its episodes: the score of one run."""
        return math.fsum(self.returns) / len(self.returns) if self.returns else math.nan

    def values(self) -> dict[str, Any]:
        """Return its values by column, without the check."""
        own = {name: getattr(self, name) for name in _CELL}
        return {
            "key": self.key,
            **own,
            "parameters": self.parameters,
            "return": self.score if self.returns else None,
            "returns": list(self.returns),
            "making_seconds": round(self.making, 3),
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }


def row_of(cell: Cell, done: Done) -> Row:
    """Make the row of a cell that is done."""
    own = {name: getattr(cell, name) for name in _CELL}
    found = done.figures or Figures((), 0, 0.0, 0.0)
    figures = {
        name: getattr(found, name) for name in ("parameters", "returns", "making", "seconds")
    }
    return Row(done.key, **own, **figures, error=done.error)


def write_line(row: Row) -> str:
    """Write a row as a line of cells.csv, with the start of its SHA-256 at the end."""
    values = row.values()
    values["returns"] = json.dumps(values["returns"])
    texts = ["" if v is None else printable(str(v)) for v in values.values()]
    return _line([*texts, _check(texts)])


def read_line(line: str) -> Row:
    """Read a line of cells.csv.

    Raises:
        LoadError: If it is damaged.
    """
    with loading("The row"):
        (texts,) = csv.reader([line], strict=True)
        if len(texts) != len(COLUMNS) or _check(texts[:-1]) != texts[-1]:
            raise LoadError("its check differs.")
        found = dict(zip(COLUMNS, texts, strict=True))
        returns = parse_json(found["returns"], "its returns")
        if not isinstance(returns, list) or not all(isinstance(e, int | float) for e in returns):
            raise LoadError("its returns are no numbers.")
        if not all(abs(each) <= MOST_RETURN for each in returns):
            raise LoadError("a return is too large.")
        if returns and len(returns) != int(found["episodes"]):
            raise LoadError("it has other returns than episodes.")
        if found["arm"] not in get_args(CellArm):
            raise LoadError("nobody acts.")
        numbers: dict[str, Any] = {name: _whole(found[name]) for name in _NUMBERS}
        texts_of: dict[str, Any] = {
            name: found[name] for name in ("key", *_CELL) if name not in numbers
        }
        return Row(
            **texts_of,
            **numbers,
            returns=tuple(map(float, returns)),
            making=_seconds(found["making_seconds"]),
            seconds=_seconds(found["seconds"]),
            error=found["error"],
        )


def _whole(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 53:
        raise LoadError(f"{text[:40]} is out of range.")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.0 <= number < 1e12:
        raise LoadError(f"{text[:40]} is out of range.")
    return number


def read_rows(path: Path) -> tuple[list[Row], int]:
    """Read a cells.csv, and say how many lines of it are damaged, the torn last one among them.

    Raises:
        LoadError: If it cannot be read, or has other columns.
    """
    text = read_file(path, _LARGEST).decode(errors="replace")
    lines = text.split("\n")
    torn = lines.pop()
    if not lines:
        return [], bool(torn)
    if lines[0] != _line(COLUMNS).rstrip("\n"):
        raise LoadError(
            f"{path} has other columns than this version's. Give another folder with --out, or "
            "--overwrite to replace it."
        )
    rows, damaged = [], int(bool(torn))
    for line in lines[1:]:
        try:
            rows.append(read_line(line))
        except LoadError:
            damaged += 1
    return rows, damaged


@contextmanager
def alone(out: Path, *, overwrite: bool, resume: bool) -> Iterator[None]:
    """Prepare a folder, and make sure that no other run writes into it meanwhile.

    Raises:
        ConfigError: If another run does, or the folder is not for this one.
        WriteError: If it cannot be written to.
    """
    check_out(out, overwrite=overwrite, resume=resume)
    if not (out / _LOCK).is_file():
        prepare_out(out, overwrite=overwrite, resume=resume)
    with loading(out):
        descriptor = os.open(out / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"Another run writes into {out}. End that one first, or give another --out."
            ) from None
        if overwrite or resume:
            prepare_out(out, overwrite=overwrite, resume=resume)
        yield
    finally:
        os.close(descriptor)


@final
class Ledger:
    """The rows of a folder that is this run's alone.

    A row is appended whole or not at all, and is on the disk before `append` returns. Damaged
    lines, the torn one that a kill may leave, and rows that later ones replace are dropped when the
    file is opened or closed.
    """

    def __init__(self, out: Path) -> None:
        """Open the file, which is made if it is missing.

        Raises:
            LoadError: If it is not this version's.
            WriteError: If it cannot be written.
        """
        self._path = path = out / FILE
        self.rows: dict[str, Row] = {}
        if path.exists():
            rows, damaged = read_rows(path)
            self.rows = {row.key: row for row in rows}
            if damaged:
                log.warning("%s: %d damaged or torn rows are measured again.", path, damaged)
            if damaged or len(rows) > len(self.rows):
                self._rewrite()
        if not path.exists() or not path.stat().st_size:
            self._rewrite()
        self._replaced = False
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise WriteError(f"{path} cannot be written to: {error.strerror}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._replaced:
            self._rewrite()

    def _rewrite(self) -> None:
        lines = map(write_line, self.rows.values())
        write_atomic(self._path, "".join([_line(COLUMNS), *lines]))

    def append(self, row: Row) -> None:
        """Append a row.

        Raises:
            WriteError: If the disk refuses; the rows before are whole.
        """
        line = write_line(row).encode()
        before = os.fstat(self._file).st_size
        try:
            _write(self._file, line)
        except OSError as error:
            with suppress(OSError):
                os.truncate(self._path, before)
            raise WriteError(
                f"{self._path} could not be written: {error.strerror}. The rows before are whole; "
                "make room, and go on with --resume."
            ) from error
        self._replaced |= row.key in self.rows
        # The last one, as it is in the file.
        self.rows.pop(row.key, None)
        self.rows[row.key] = row


def write_parquet(path: Path, rows: Sequence[Row]) -> bool:
    """Write rows as Parquet, if pyarrow is installed; say whether it is.

    Raises:
        WriteError: If the disk refuses.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        return False
    text, whole, number = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    kinds = dict.fromkeys(_NUMBERS, whole) | {"returns": pyarrow.list_(number)}
    kinds |= dict.fromkeys(("return", "making_seconds", "seconds"), number)
    schema = pyarrow.schema([(name, kinds.get(name, text)) for name in COLUMNS[:-1]])
    table = pyarrow.Table.from_pylist([row.values() for row in rows], schema)
    write_atomic(path, lambda place: pyarrow.parquet.write_table(table, place))
    return True


def _write(file: int, line: bytes) -> None:
    """Append a line, and have it on the disk."""
    if os.write(file, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file)


def _line(texts: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(texts)
    return out.getvalue()


def _check(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def finished(rows: Mapping[str, Row], keys: Sequence[str]) -> list[Row]:
    """Return the rows of the cells that have one, in the order of the keys."""
    return [rows[key] for key in keys if key in rows]
