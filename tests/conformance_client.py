"""What tuf-conformance runs as the client under test: the trust of a device, over HTTP.

Its protocol is in CLIENT-CLI.md of https://github.com/theupdateframework/tuf-conformance. From a
checkout of that, with this project's packages and on this project's path:

    python -m pytest tuf_conformance --entrypoint "python -m tests.conformance_client"
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from agentkd.errors import AgentkdError
from agentkd.signing.fetching import reader
from agentkd.signing.store import TrustStore

_MOST = 1 << 20


def main() -> int:
    """Do what the suite asks for; 1 if it is refused."""
    parser = argparse.ArgumentParser()
    for option in ("--metadata-dir", "--metadata-url", "--target-base-url", "--target-dir"):
        parser.add_argument(option, type=Path if option.endswith("dir") else str)
    parser.add_argument("--target-name", action="append")
    parser.add_argument("command", choices=("init", "refresh", "download"))
    parser.add_argument("root", nargs="?")
    given = parser.parse_args()
    seen: Path = given.metadata_dir
    # The suite reads all *.json of the folder as metadata, so what is the client's has other names.
    anchor, memory = seen / "anchor", seen / "memory"
    if given.command == "init":
        shutil.copy(given.root, anchor)
        shutil.copy(given.root, seen / "root.json")
        return 0
    address = given.metadata_url.rstrip("/").removesuffix("/metadata")
    trust = TrustStore(anchor, memory)
    try:
        if given.command == "refresh":
            with trust._refreshed(reader(address), address):
                pass
        for name in given.target_name or []:
            data, _ = trust.fetch(address, name, _MOST)
            (given.target_dir / name.replace("/", "_")).write_bytes(data)
    except AgentkdError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        _show(memory, seen)
    return 0


def _show(memory: Path, folder: Path) -> None:
    """Lay out what the memory holds as the suite reads it."""
    files = json.loads(memory.read_text())["files"] if memory.exists() else {}
    roots = sorted((int(each.partition(".")[0]), each) for each in files if "root" in each)
    found = {each: text for each, text in files.items() if "root" not in each}
    if roots:
        found["root.json"] = files[roots[-1][1]]
    for name, text in found.items():
        (folder / name).write_bytes(text.encode())


if __name__ == "__main__":
    sys.exit(main())
