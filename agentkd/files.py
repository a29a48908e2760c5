"""Bounded reading of hostile files, and writing that replaces whole files."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from agentkd.errors import AgentkdError, LoadError, TooLargeError, WriteError

Content = bytes | str | Callable[[Path], object]
"""Bytes, text, or a function that writes the file at the path it is given."""

_MOST_HEADER = 1 << 22
"""Bytes of a safetensors header that are read at most."""


@contextmanager
def loading(
    what: object, error: type[LoadError] = LoadError, *, keep: tuple[type[AgentkdError], ...] = ()
) -> Iterator[None]:
    """Turn every exception of the block into a `LoadError` that gives the reason.

    The original exception is the error's `__cause__`. A `LoadError` of the block passes, with the
    name of the file before its message.

    Args:
        what: The name of the file, for the message.
        error: The class to raise.
        keep: Classes of errors that pass unchanged, besides `error`.

    Raises:
        LoadError: If the block raises anything but `error` and `keep`.
    """
    try:
        yield
    except (error, *keep) as found:
        if type(found) is not LoadError or str(what) in str(found):
            raise
        raise LoadError(f"{what}: {found}") from found
    except AgentkdError as found:
        raise error(f"{what}: {found}") from found
    except OSError as found:
        raise error(f"{what} cannot be read: {found.strerror or found}.") from found
    except Exception as found:  # damaged data raise nearly anything
        raise error(f"{what} is damaged: {reason(found)}.") from found


def reason(error: BaseException) -> str:
    """Give an exception's class and the start of its message."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def regular(path: str | Path, limit: int) -> Iterator[IO[bytes]]:
    """Open a regular file of at most `limit` bytes for reading.

    Raises:
        LoadError: If it is missing, no regular file (a folder, pipe or device), or larger.
    """
    try:
        # A pipe without a writer would block without O_NONBLOCK.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or error
        raise LoadError(f"{path} cannot be read: {text}.") from error
    try:
        _check(descriptor, path, limit)
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def _check(descriptor: int, path: str | Path, limit: int) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise LoadError(f"{path} is not a regular file.")
    if found.st_size > limit:
        raise TooLargeError(f"{path} has {found.st_size:,} bytes; at most {limit:,} are read.")


def read_file(path: str | Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        LoadError: If it cannot be read, is not a regular file, or is larger.
    """
    with regular(path, limit) as stream, loading(path):
        # A stream sets aside as many bytes as it is asked for.
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(size + 1)
        if len(data) > size:
            raise LoadError(f"{path} grows while it is read.")
        return data


def digest_of(stream: IO[bytes]) -> str:
    """Give the SHA-256 of what is left of a file, in hexadecimal."""
    found = hashlib.sha256()
    while piece := stream.read(1 << 20):
        found.update(piece)
    return found.hexdigest()


def read_tensors(data: bytes) -> dict[str, Any]:
    """Read the bytes of a safetensors file as arrays.

    Raises:
        LoadError: If they are damaged, or the header is too long.
    """
    from safetensors.numpy import load

    with loading("The tensors"):
        (header,) = struct.unpack_from("<Q", data)
        if header > _MOST_HEADER:
            raise LoadError(f"The header has {header:,} bytes; at most {_MOST_HEADER:,} are read.")
        return dict(load(data))


def write_atomic(path: str | Path, content: Content, *, hint: str = "") -> None:
    """Write a file whole or not at all, as `write_files` does for several.

    Raises:
        WriteError: If it could not be written.
    """
    write_files({Path(path): content}, hint=hint)


def write_files(files: Mapping[Path, Content], *, hint: str = "") -> None:
    """Write files, each whole, and none unless all of them fit on the disk.

    Each goes into a temporary file beside it, onto the disk, and then into its place. Folders are
    made, links are followed, and no temporary file is left behind.

    Args:
        files: What to write, by path.
        hint: What to do about an error, for the end of its message.

    Raises:
        WriteError: If one could not be written, or its place is taken by something else than a
            file. What was there before is whole.
    """
    staged: list[tuple[Path, Path]] = []
    at: Path | None = None
    try:
        for path, content in files.items():
            if "\0" in str(path):
                raise WriteError(f"{str(path)!r} holds a null byte, which no path may.")
            at, real = path, Path(os.path.realpath(path))
            if real.exists() and not real.is_file():
                raise WriteError(f"{path} is not a regular file; name another one.")
            real.parent.mkdir(parents=True, exist_ok=True)
            # A short name: that of the file may be as long as names can be.
            fresh = real.with_name(f".{os.urandom(8).hex()}.tmp")
            staged.append((fresh, real))
            _put(fresh, content)
        for fresh, at in staged:
            fresh.replace(at)
        for folder in {real.parent for _, real in staged}:
            with suppress(OSError):  # a file system without it; the files are there
                sync(folder)
    except OSError as error:
        raise WriteError(
            f"{at} could not be written: {error.strerror or error}. What was there "
            f"before is whole. {hint}".rstrip()
        ) from error
    finally:
        for fresh, _ in staged:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)


def _put(path: Path, content: Content) -> None:
    if callable(content):
        content(path)
        sync(path)
        return
    with path.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
