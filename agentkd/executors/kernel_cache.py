"""The compiled kernel: from the user's cache, or built for this process alone.

A library is code, so it is checked before it is loaded. The cache's folder must belong to this user
and is closed to all others. A library must be a regular file of this user that nobody else may
write to, and its name holds the SHA-256 of its bytes. Anything else is built again. The folder is
opened once and used by its descriptor, so it cannot be exchanged between the check and the use.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from agentkd.printable import logger

log = logger(__name__)

_COMPILE = 120.0
"""Seconds for the compiler."""
_STALE = 3600.0
"""Age in seconds of an unfinished build whose process was killed."""
_MOST_BYTES = 1 << 26
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path
    fd: int

    @property
    def place(self) -> str:
        """A path that means this folder even if `path` means another one by now."""
        own = f"/proc/self/fd/{self.fd}"
        return own if Path(own).exists() else str(self.path)

    def names(self) -> list[str]:
        with os.scandir(self.fd) as entries:
            return [each.name for each in entries]


class CompilerError(Exception):
    """The compiler failed; the text is what it said."""


@final
class SlowCompilerError(CompilerError):
    """The compiler was still at work after its time."""


def load(command: Sequence[str], key: bytes, functions: Sequence[str]) -> ctypes.CDLL:
    """Load the library that a compiler makes; build it only if it is not cached.

    If the cache cannot be used, build in a temporary folder that is removed as soon as the library
    is loaded.

    Args:
        command: The compiler and its arguments, without the output; absolute paths.
        key: Everything that the library depends on.
        functions: What it has to define.

    Raises:
        OSError: If the library cannot be built here, or does not load.
        CompilerError: If the compiler fails or takes too long.
    """
    stem = f"kernel-{hashlib.sha256(key).hexdigest()[:20]}"
    try:
        with _opened(_cache()) as folder:
            found = _cached(folder, stem, functions)
            return found or _built(folder, stem, command, functions)
    except OSError as error:
        log.warning(
            "No kernel cache (%s): this process compiles for itself. Set "
            "XDG_CACHE_HOME to a folder of your own.",
            error,
        )
    except SlowCompilerError:
        raise
    except CompilerError:
        # A full disk looks like this too; the temporary folder may be on another.
        log.info("The kernel did not compile in the cache's folder.")
    with tempfile.TemporaryDirectory(prefix="agentkd-") as name, _opened(Path(name)) as folder:
        return _built(folder, stem, command, functions)


def _cache() -> Path:
    """Return the cache's folder, made if need be.

    Raises:
        OSError: If there is no home, or the folder cannot be made.
    """
    # The XDG specification says to ignore relative paths.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise FileNotFoundError(str(error)) from error
    if not base.is_absolute():
        raise FileNotFoundError(f"HOME is relative: {str(base.parent)!r}")
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = base / "agentkd"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def _opened(path: Path) -> Iterator[_Folder]:
    """Open a folder of this user's and close it to all others.

    If others could write to it until now, remove the libraries in it.

    Raises:
        OSError: If it is a link, no folder, or another user's.
    """
    folder = _Folder(path, os.open(path, _OPEN | os.O_DIRECTORY))
    try:
        status = os.fstat(folder.fd)
        if status.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to user {status.st_uid}")
        if status.st_mode & _OTHERS:
            os.fchmod(folder.fd, 0o700)
        if status.st_mode & _OTHERS_WRITE:
            log.warning("Other users could write to %s: it is emptied.", path)
            for name in folder.names():
                _remove(folder, name)
        yield folder
    finally:
        os.close(folder.fd)


def _remove(folder: _Folder, name: str) -> None:
    """Remove a library or an unfinished build."""
    if name.startswith("kernel-"):
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder.fd)
    if name.startswith(("kernel-", "build-")):
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder.fd)


def _cached(folder: _Folder, stem: str, functions: Sequence[str]) -> ctypes.CDLL | None:
    """Load a library of the cache; None if no whole one is there."""
    for name in folder.names():
        if name.startswith("build-"):
            with contextlib.suppress(OSError):
                age = time.time() - os.stat(name, dir_fd=folder.fd).st_mtime
                if age > _STALE:
                    _remove(folder, name)
        match = re.fullmatch(rf"{stem}-([0-9a-f]{{64}})\.so", name)
        if match is None:
            continue
        try:
            if _digest(folder, name) == match[1]:
                return _loaded(folder, name, functions)
        except FileNotFoundError:
            # Another process removed it.
            continue
        except OSError as error:
            log.warning("The cached kernel is not used: %s", error)
        _remove(folder, name)
    return None


def _digest(folder: _Folder, name: str) -> str:
    """Hash a library of this user's.

    Raises:
        OSError: If it is a link, no regular file, too large, another user's, or others may write to
            it.
    """
    fd = os.open(name, _OPEN | os.O_NONBLOCK, dir_fd=folder.fd)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError(f"{name} is not a library")
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
            raise PermissionError(f"another user may write to {name}")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loaded(folder: _Folder, name: str, functions: Sequence[str]) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(f"{folder.place}/{name}")
    except OSError as error:
        reason = str(error).rpartition(": ")[2]
        raise OSError(f"{folder.path} holds no library to load: {reason}") from error
    missing = [each for each in functions if not hasattr(library, each)]
    if missing:
        raise OSError(f"{name} does not define {', '.join(missing)}")
    return library


def _built(
    folder: _Folder, stem: str, command: Sequence[str], functions: Sequence[str]
) -> ctypes.CDLL:
    """Compile, load, and only then put the library into the folder.

    Raises:
        OSError: If the folder cannot be written to, or the library does not load.
        CompilerError: If the compiler fails or takes too long.
    """
    # Only a build needs it: a start that finds the library in the cache does without.
    import subprocess

    build = f"build-{os.urandom(8).hex()}"
    os.mkdir(build, 0o700, dir_fd=folder.fd)
    try:
        subprocess.run(
            [*command, "-o", "library"],
            cwd=f"{folder.place}/{build}",
            # The compiler's own temporary files go the way of the folder.
            env={**os.environ, "TMPDIR": "."},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_COMPILE,
        )
        os.chmod(f"{build}/library", 0o700, dir_fd=folder.fd)
        digest = _digest(folder, f"{build}/library")
        name = f"{stem}-{digest}.so"
        made = f"{build}/{name}"
        os.rename(f"{build}/library", made, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
        library = _loaded(folder, made, functions)
        os.rename(made, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
    except subprocess.CalledProcessError as error:
        raise CompilerError(error.stderr.decode(errors="replace").strip()) from error
    except subprocess.TimeoutExpired as error:
        raise SlowCompilerError(f"not done after {_COMPILE:.0f} s") from error
    finally:
        _remove(folder, build)
    return library
