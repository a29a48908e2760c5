"""Reads the files of a repository, from a folder or over HTTP, within limits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import quote

from agentkd.files import loading, read_file

Read = Callable[[str, int], bytes]
"""Gives a file of a repository, such as "metadata/timestamp.json", of so many bytes at most."""
_PATIENCE, _SLOWEST = 60.0, 10_000.0
"""Seconds for each download, and bytes in a further second."""


def reader(address: str) -> Read:
    """Return what reads a repository's files, from a folder or over HTTP."""
    if address.startswith(("http://", "https://")):
        from tuf.ngclient import Urllib3Fetcher

        fetcher = Urllib3Fetcher()

        def download(name: str, most: int) -> bytes:
            url = f"{address.rstrip('/')}/{quote(name)}"
            return _in_time(partial(fetcher.download_bytes, url, most), url, most)

        return download

    def read(name: str, most: int) -> bytes:
        path = Path(address) / name
        with loading(path):
            there = path.exists()
        if not there:
            raise FileNotFoundError(name)
        return read_file(path, most)

    return read


def _in_time(download: Callable[[], bytes], url: str, most: int) -> bytes:
    """Download `most` bytes at most, with one limit for all of it.

    The client limits each wait, and a server may send a byte in each. What takes too long is left
    to a thread that ends with the connection, or with the program.
    """
    from tuf.api.exceptions import SlowRetrievalError

    seconds = _PATIENCE + most / _SLOWEST
    results = SimpleQueue[tuple[bytes, Exception | None]]()

    def work() -> None:
        try:
            results.put((download(), None))
        except Exception as error:
            results.put((b"", error))

    threading.Thread(target=work, name="download", daemon=True).start()
    try:
        found, error = results.get(timeout=seconds)
    except Empty:
        raise SlowRetrievalError(f"{url} did not come within {seconds:.0f} s") from None
    try:
        if error is not None:
            raise error
        return found
    finally:
        del error  # it holds this frame, and the connection
