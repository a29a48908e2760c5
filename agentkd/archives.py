"""Zips, arrays and saved tensors: declared sizes are compared with what is there."""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from agentkd.errors import LoadError, UnsafeError
from agentkd.files import loading, reason

if TYPE_CHECKING:
    import torch

MOST_ENTRIES = 4096
"""Entries that a zip may have."""
_MOST_DIRECTORY = 1 << 20
"""Bytes of a zip's directory that are read at most."""
_RATIO = 200
"""How far an entry may unpack beyond its stored size, above a floor."""
_FLOOR = 1 << 24
_MOST_PARTS = 1 << 18
"""Parts of a pickle; what it refers to again counts again, as hashing or printing it costs."""
_PART = 1 << 10
"""Bytes of a text that count as one part."""
_DEEPEST = 256
"""How deep the things in a pickle may lie: comparing or freeing them recurses as deep."""
_GROWS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_CALLS = {"REDUCE", "NEWOBJ"}
"""How torch lets a pickle call what it names."""
_MAKES = re.compile(r"bytearray|\w*Tensor|(Unt|T)ypedStorage|_rebuild_from_type_v2")
"""What torch lets a pickle call, and what makes as many numbers as it is told, or calls it."""
_PICKLES = 5
"""In files of torch.save before 1.6: magic number, version, system, what was saved, its keys."""
_END = struct.Struct("<4s4H2IH")
_TAIL = _END.size + (1 << 16)
_LOCATOR = 20
_WIDE = struct.Struct("<4sQ2H2I4Q")


class NoZipError(LoadError):
    """A file that is not a zip, or was cut short."""


@contextmanager
def opened_zip(stream: IO[bytes], what: object) -> Iterator[zipfile.ZipFile]:
    """Open a zip after checking the size of its directory, and read the directory.

    Raises:
        NoZipError: If it is not a zip.
        LoadError: If it has too many entries, one twice, or one too large for the file.
    """
    with loading(what):
        _check_directory(stream, what)
        try:
            file = zipfile.ZipFile(stream)
        except zipfile.BadZipFile as error:
            raise NoZipError(f"{what} is not a zip: {error}.") from error
    with file:
        entries = file.infolist()
        if len(entries) > MOST_ENTRIES:
            raise LoadError(f"{what} has {len(entries)} entries; {MOST_ENTRIES} at most.")
        names = {entry.filename for entry in entries}
        if len(names) < len(entries):
            raise LoadError(f"{what} holds an entry twice.")
        size = stream.seek(0, os.SEEK_END)
        packed = sum(entry.compress_size for entry in entries)
        if packed > size:
            raise LoadError(f"{what} has {size:,} bytes; its entries claim {packed:,}.")
        for entry in entries:
            stored = entry.compress_type == zipfile.ZIP_STORED
            if stored and entry.file_size != entry.compress_size:
                raise LoadError(f"{what}: {entry.filename!r} has two sizes.")
            if entry.file_size > max(_FLOOR, _RATIO * entry.compress_size):
                raise LoadError(
                    f"{what}: {entry.filename!r} unpacks {entry.compress_size:,} bytes "
                    f"to {entry.file_size:,}; at most {_RATIO} to one is read."
                )
        yield file


def _check_directory(stream: IO[bytes], what: object) -> None:
    """Make sure that the directory is small: zipfile makes an object of each entry."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL - _LOCATOR - _WIDE.size))
    tail = stream.read()
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != b"PK\x05\x06":
        at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise NoZipError(f"{what} is not a zip, or was cut short.")
    directory = _END.unpack_from(tail, at)[5]
    locator = at - _LOCATOR
    wide = locator - _WIDE.size
    if (
        wide >= 0
        and tail[locator : locator + 4] == b"PK\x06\x07"
        and tail[wide : wide + 4] == b"PK\x06\x06"
    ):
        # As zipfile does: the record of large zips, which torch.save always writes.
        directory = _WIDE.unpack_from(tail, wide)[8]
    if directory > _MOST_DIRECTORY:
        raise LoadError(
            f"{what}: the zip's directory has {directory:,} bytes; at most "
            f"{_MOST_DIRECTORY:,} are read."
        )


def read_entry(file: zipfile.ZipFile, name: str, limit: int, what: object) -> bytes:
    """Read an entry of an opened zip.

    Raises:
        LoadError: If it is missing, damaged, or larger than `limit` bytes.
    """
    with loading(f"{what}: {name!r}"):
        size = file.getinfo(name).file_size
        if size > limit:
            raise LoadError(f"{what}: {name!r} has {size:,} bytes; at most {limit:,} are read.")
        with file.open(name) as entry:
            data = entry.read(limit + 1)
        if len(data) != size:
            raise LoadError(f"{what}: {name!r} holds {len(data)} bytes, not {size}.")
        return data


def array_header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], Any, bool]:
    """Read the header of a .npy file of `size` bytes, and compare it with those that follow.

    Returns:
        Shape, dtype, and whether it lies in Fortran's order; numbers or text.

    Raises:
        LoadError: If the array does not have exactly the bytes that are there.
    """
    with loading("The array"):
        start = stream.tell()
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            found = np.lib.format.read_array_header_1_0(stream)
        else:
            found = np.lib.format.read_array_header_2_0(stream)
        shape, turned, dtype = found
        held = size - (stream.tell() - start)
        if dtype.kind not in "biufU":
            raise LoadError(f"an array of {dtype} is not read")
        if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != held:
            raise LoadError(f"{held} bytes for an array of {dtype}, shape {shape}")
        return shape, dtype, bool(turned)


def read_array(stream: IO[bytes], size: int) -> Any:
    """Read a .npy file of `size` bytes, as `array_header` checks them.

    Raises:
        LoadError: If the array does not have exactly the bytes that are there.
    """
    shape, dtype, turned = array_header(stream, size)
    with loading("The array"):
        data = stream.read(math.prod(shape) * dtype.itemsize)
        flat = np.frombuffer(data, dtype)
        return flat.reshape(shape, order="F" if turned else "C")


def check_tensor(tensor: torch.Tensor, at: str) -> None:
    """Make sure that a tensor is plain numbers, each of which is stored.

    Raises:
        LoadError: If it is something else, as a view that repeats its numbers is.
    """
    import torch

    if not (tensor.is_floating_point() or tensor.dtype == torch.int64):
        raise LoadError(
            f"{at} holds {tensor.dtype}; floating-point numbers and torch.int64 are read. "
            "Convert it before saving: tensor.float()."
        )
    # Only such tensors have a storage and strides that can be asked.
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
        raise LoadError(f"{at} is a tensor of layout {tensor.layout}, not plain.")
    if tensor.is_neg() or tensor.is_quantized:
        raise LoadError(f"{at} is a view of other numbers, not plain.")
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:
        raise LoadError(f"{at} has {tensor.numel():,} numbers; {stored:,} bytes are stored.")


def check_pickle(stream: IO[bytes], what: str, *, calls: bool = True) -> None:
    """Read a pickle's operations up to its end, without following them.

    Args:
        stream: Where it begins; left where it ends.
        what: The name of the file, for messages.
        calls: Whether it may call what makes arrays of any size.

    Raises:
        LoadError: If it has too many parts, or they lie too deep.
        UnsafeError: If it calls what it may not.
    """
    # Each thing is a list: its own parts, then the things in it.
    stack, left = list[list[Any]](), list[list[Any]]()
    marked, memo = list[list[list[Any]]](), dict[int, list[Any]]()
    makers = dict[int, str]()
    told: Any
    for count, (operation, told, _) in enumerate(pickletools.genops(stream)):
        name, before = operation.name, operation.stack_before
        place = told if name in ("LONG_BINPUT", "LONG_BINGET") else 0
        _check_parts(max(count, place), what)
        if name == "MARK":
            marked.append(stack)
            stack = []
            continue
        taken = list[list[Any]]()
        plain = before
        if pickletools.markobject in before:
            taken, stack = stack, marked.pop()
            plain = before[: before.index(pickletools.markobject)]
        taken = taken + [stack.pop() for _ in plain]
        if name in _CALLS and (called := makers.get(id(taken[-1]))) and not calls:
            raise UnsafeError(
                f"{what} holds more than plain tensors, so it was not read: GLOBAL {called}"
            )
        if "PUT" in name or name == "MEMOIZE":
            stack += taken
            memo[len(memo) if told is None else told] = stack[-1]
        elif "GET" in name:
            stack.append(memo[told])
        elif name in _GROWS:
            stack.append(taken.pop())
            stack[-1] += taken
        elif operation.stack_after:
            size = len(told) if isinstance(told, str | bytes) else 0
            stack += [[1 + size // _PART, *taken] for _ in operation.stack_after]
            # Torch joins both parts of a name, wherever they are split.
            named = told.replace(" ", ".") if name == "GLOBAL" else ""
            if _MAKES.fullmatch(named.rpartition(".")[2]):
                makers[id(stack[-1])] = named
        else:
            left += taken
    known = dict[int, tuple[int, int]]()
    for each in marked:
        left += each
    _check_parts(sum(_measured(each, known, what)[1] for each in left + stack), what)


def _check_parts(parts: int, what: str) -> None:
    if parts > _MOST_PARTS:
        raise LoadError(f"{what}: a pickle in it has more than {_MOST_PARTS:,} parts.")


def _measured(
    thing: list[Any], known: dict[int, tuple[int, int]], what: str, level: int = 1
) -> tuple[int, int]:
    """Give how deep a thing is, and how many parts it has; one that holds itself is too deep."""
    if id(thing) not in known:
        depth, parts = 0, thing[0]
        if level <= _DEEPEST:
            for each in thing[1:]:
                below, held = _measured(each, known, what, level + 1)
                depth, parts = max(depth, below), parts + held
        if max(level, 1 + depth) > _DEEPEST:
            raise LoadError(f"{what}: the things in a pickle lie more than {_DEEPEST} deep.")
        _check_parts(parts, what)
        known[id(thing)] = 1 + depth, parts
    return known[id(thing)]


def _check_saved(raw: bytes, what: str) -> None:
    """Check what torch.save wrote, in any version, before torch reads it.

    Raises:
        LoadError: If an entry is damaged or compressed; or as `check_pickle`.
        UnsafeError: As `check_pickle`.
    """
    if raw[:2] != b"PK":
        stream = io.BytesIO(raw)
        for _ in range(_PICKLES):
            check_pickle(stream, what, calls=False)
        return
    with opened_zip(io.BytesIO(raw), what) as file:
        for each in file.infolist():
            if each.compress_type:
                raise LoadError(f"{what} is compressed, which torch.save does not do.")
            if not each.CRC:
                del each.CRC  # torch.save may leave it out
            # Torch's reader does not look whether data are what was written.
            data = read_entry(file, each.filename, len(raw), what)
            if each.filename.casefold().endswith(".pkl"):
                check_pickle(io.BytesIO(data), what, calls=False)


def load_tensors(raw: bytes, what: str) -> Any:
    """Read what `torch.save` wrote, tensors and plain values only.

    Raises:
        LoadError: If it is damaged, or not as large as it says.
        UnsafeError: If it holds anything else.
    """
    import torch

    with loading(what):
        _check_saved(raw, what)
    try:
        with loading(what), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats of old versions of torch
            return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except LoadError as error:
        text = reason(error.__cause__ or error)
        if isinstance(error.__cause__, pickle.UnpicklingError) and re.search(
            "weights.only", text, re.IGNORECASE
        ):
            raise UnsafeError(
                f"{what} holds more than plain tensors, so it was not read: {text}"
            ) from error
        raise
