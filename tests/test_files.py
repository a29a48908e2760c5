"""Bounded reading of hostile files, and writing that replaces whole files."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.archives import array_header, opened_zip, read_array, read_entry
from agentkd.errors import BundleError, LoadError, SpecError, TooLargeError, WriteError
from agentkd.fields import MOST_DEPTH, Fields, parse_json
from agentkd.files import loading, read_file, read_tensors, write_atomic, write_files


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A folder, a pipe nobody writes to and a device are refused, and nothing hangs."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(LoadError, match="not a regular file"):
            read_file(path, 100)
    for odd in (tmp_path / "none", tmp_path / "n\0l", tmp_path / ("x" * 5000)):
        with pytest.raises(LoadError, match="cannot be read"):
            read_file(odd, 100)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A file with a hole of a terabyte takes no memory."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLargeError, match="at most 100"):
        read_file(tmp_path / "large", 100)
    (tmp_path / "small").write_bytes(b"x" * 100)
    assert read_file(tmp_path / "small", 100) == b"x" * 100


def test_a_high_limit_sets_no_memory_aside(tmp_path: Path) -> None:
    """As much is asked for as the file holds, not as it might."""
    (tmp_path / "small").write_bytes(b"x" * 100)
    tracemalloc.start()
    try:
        assert len(read_file(tmp_path / "small", 1 << 32)) == 100
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "raised",
    [
        RecursionError("deep"),
        MemoryError(),
        struct.error("short"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        OverflowError("large"),
        zipfile.BadZipFile("no"),
        KeyError("name"),
        TypeError("kind"),
        OSError(5, "Input/output error"),
        AssertionError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_exception_becomes_a_load_error(raised: Exception) -> None:
    """Whatever a reader raises is a `LoadError` with the exception as its cause."""
    with pytest.raises(LoadError, match="it") as caught, loading("it"):
        raise raised
    assert caught.value.__cause__ is raised
    with pytest.raises(BundleError), loading("it", BundleError):
        raise raised


def test_an_interrupt_is_none_of_a_readers_errors() -> None:
    """Ctrl-C passes."""
    with pytest.raises(KeyboardInterrupt), loading("it"):
        raise KeyboardInterrupt


def test_a_readers_own_error_says_of_which_file_it_is() -> None:
    """The name is there once; a kept error passes as it is."""
    with pytest.raises(LoadError, match=r"^it: no$"), loading("it"):
        raise LoadError("no")
    with pytest.raises(LoadError, match=r"^it: no$"), loading("it"), loading("it"):
        raise LoadError("no")
    with pytest.raises(SpecError, match=r"^no$"), loading("it", keep=(SpecError,)):
        raise SpecError("no")
    with pytest.raises(LoadError, match=r"^it: no$"), loading("it"):
        raise SpecError("no")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1),
        '"' + '\\"' * 1000,
        '"\\',
        "NaN",
        "[-Infinity]",
        "1e999",
        "-1e999",
        "1" * 41,
        '{"a": 1, "a": 2}',
        '"\\ud800"',
        b"\xff\xfe",
        "",
        "[1,]",
    ],
    ids=range(15),
)
def test_json_that_is_none_or_too_much_is_refused(text: str | bytes) -> None:
    """Depth, numbers, doubled names, half characters and broken text are refused."""
    with pytest.raises(LoadError, match="it"):
        parse_json(text, "it")


def test_json_has_a_limit_on_bytes_and_on_values() -> None:
    """Brackets in text are text; a document of many values is refused unread."""
    assert parse_json('["[[[[\\"[", "\\u00e9"]', "it") == ['[[[["[', "é"]
    assert parse_json("[1e5, -0.5, NaN]", "it", infinite=True)[0] == 1e5
    with pytest.raises(LoadError, match="at most 3"):
        parse_json("[1, 2]", "it", limit=3)
    with pytest.raises(LoadError, match="values"):
        parse_json("[" + "[]," * 3_000_000 + "1]", "it")


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (Fields.text, 5),
        (Fields.flag, 1),
        (Fields.whole, True),
        (Fields.whole, 1.0),
        (Fields.whole, -1),
        (Fields.whole, 10**39),
        (Fields.number, "1"),
        (Fields.number, float("nan")),
        (Fields.fields, []),
        (Fields.items, {}),
        (Fields.texts, [1]),
        (Fields.wholes, ["1"]),
        (Fields.numbers, [None]),
    ],
)
def test_a_field_of_another_type_is_named(read: Any, value: Any) -> None:
    """The message names the object and the field."""
    with pytest.raises(LoadError, match="it: 'x'"):
        read(Fields({"x": value}, "it"), "x")
    with pytest.raises(LoadError, match="'x' is missing"):
        read(Fields({}, "it"), "x")


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)
    return out.getvalue()


def test_a_zip_gives_its_entries() -> None:
    """Stored and compressed entries are read whole."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = zipped(("a", b"x" * 1000), ("b", b""), method=method)
        with opened_zip(io.BytesIO(data), "it") as file:
            assert read_entry(file, "a", 1000, "it") == b"x" * 1000
            with pytest.raises(LoadError, match="at most 999"):
                read_entry(file, "a", 999, "it")
            with pytest.raises(LoadError, match="'c'"):
                read_entry(file, "c", 999, "it")


def test_zips_that_claim_too_much_are_refused() -> None:
    """A bomb, an entry twice, a huge directory and cut zips are refused unread."""
    bomb = zipped(("a", bytes(1 << 25)), method=zipfile.ZIP_DEFLATED)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(("a", b""), ("a", b""))
    many = zipped(*((f"{i:05}", b"") for i in range(5000)))
    whole = bytearray(zipped(("a", b"x" * 100)))
    whole[-46 - 1 + 20 : -46 - 1 + 28] = struct.pack("<2I", 1 << 30, 1 << 30)
    for data, said in (
        (bomb, "unpacks"),
        (twice, "twice"),
        (many, "entries"),
        (bytes(whole), "it"),
        (zipped(("a", b"x"))[:-5], "not a zip"),
        (b"", "not a zip"),
    ):
        with pytest.raises(LoadError, match=said), opened_zip(io.BytesIO(data), "it") as file:
            read_entry(file, "a", 1 << 40, "it")


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.array("text")])
def test_an_array_has_the_bytes_that_are_there(array: Any) -> None:
    """A .npy file reads as NumPy reads it, and none that claims more bytes."""
    out = io.BytesIO()
    np.save(out, array)
    data = out.getvalue()
    found = read_array(io.BytesIO(data), len(data))
    assert (found == array).all()
    for wrong in (data[:-1], data + b"x", data[:20], b""):
        with pytest.raises(LoadError, match="array"):
            read_array(io.BytesIO(wrong), len(wrong))


@pytest.mark.parametrize("shape", [(10**15,), (2**40, 2**40), (0, 10**18), (-1,), (-2, -3)])
def test_an_array_of_no_size_is_refused(shape: tuple[int, ...]) -> None:
    """A header alone allocates nothing."""
    out = io.BytesIO()
    header = {"descr": "<i4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    size = out.tell() + (24 if shape == (-2, -3) else 4)
    out.write(bytes(24))
    out.seek(0)
    with pytest.raises(LoadError, match="array"):
        array_header(out, size)


def test_an_array_of_objects_is_refused() -> None:
    """No pickle is read."""
    out = io.BytesIO()
    np.save(out, np.array([{}], object), allow_pickle=True)
    with pytest.raises(LoadError, match="not read"):
        read_array(io.BytesIO(out.getvalue()), len(out.getvalue()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 8) + b"{}      x",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 60)
        + json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}})
        .ljust(60)
        .encode(),
    ],
)
def test_tensors_that_are_damaged_are_refused(data: bytes) -> None:
    """Headers that claim too much, or are none, are no crash."""
    with pytest.raises(LoadError, match="tensors"):
        read_tensors(data)


def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the earlier file is whole, nothing is left, and a word is said."""
    path = tmp_path / "report.json"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"No space left.*whole"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """Who has the old file open reads it to its end: the new one takes its name."""
    path = tmp_path / "report.json"
    write_atomic(path, "old")
    with path.open() as reader:
        write_atomic(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


@pytest.fixture
def small_files() -> Iterator[int]:
    """Let no file of this process grow beyond some bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="limits files as Unix does")
def test_a_file_cut_short_by_the_system_is_no_file(tmp_path: Path, small_files: int) -> None:
    """The system stops the write half way; the old file is there, whole."""
    path = tmp_path / "report.json"
    write_atomic(path, "old")
    with pytest.raises(WriteError, match=r"report\.json could not be written"):
        write_atomic(path, "x" * 2 * small_files)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_loses_nothing(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first or the second file does not fit, both stay as they were."""
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    one, two = tmp_path / "e.c", tmp_path / "e.h"
    one.write_text("old")
    with pytest.raises(WriteError, match=r"e\.[ch] could not be written: No space"):
        write_files({one: b"new", two: b"new"})
    assert (one.read_text(), {each.name for each in tmp_path.iterdir()}) == ("old", {"e.c"})


def test_a_folder_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message holds the file and the system's reason."""

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(WriteError, match=r"e\.c could not be written: Permission"):
        write_files({tmp_path / "e.c": b"new"})
