"""Planners of the Hugging Face Hub: files of one commit, as far as a planner needs them.

Nothing is read or run: the files are copied, each with its SHA-256. The client is huggingface_hub.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from agentkd.errors import ConfigError, LoadError
from agentkd.extras import needing
from agentkd.fields import parse_json
from agentkd.files import Content, digest_of, reason, regular, write_files

RECORD = "pulled.json"
"""The file that says where the others come from."""
NEEDED = (
    *("*.zip", "*.akd", "*.onnx", "*.onnx.data", "*.onnx_data", "*.pt", "*.pth", "*.h5", "*.hdf5"),
    *("*.cleanrl_model", "*vec_normalize*.pkl", "*vecnormalize*.pkl"),
    *("agent.yaml", "deploy.yaml", "*IO_descriptors.yaml", "manifest.json"),
)
"""Names of files that a planner is made of: weights, statistics, settings, contracts."""
_NEEDLESS = (
    "train_eval_metrics.zip",
    "optimizer*",
    "*.optimizer.*",
    "*replay*",
    "policy.pth",
    "pytorch_variables.pth",
)
"""Names that look so and are not: logs, optimisers, parts of an unpacked save."""
LARGEST = 4 * 2**30
_RECORD = 1 << 20
_MOST_FILES, _MOST_LISTED = 64, 100_000
_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was copied.

    Attributes:
        repo: "owner/name".
        commit: The commit, 40 hexadecimal digits.
        files: The SHA-256 of each file, by its name in the repository.
        folder: Where they lie.
    """

    repo: str
    commit: str
    files: Mapping[str, str]
    folder: Path


def pull(repo: str, revision: str | None, folder: Path, *, names: Sequence[str] = ()) -> Pulled:
    """Copy the files of a planner into a folder, and write beside them where they come from.

    Args:
        repo: "owner/name".
        revision: A commit, tag or branch; None for the newest commit.
        folder: Where to write. What is there and differs is not replaced.
        names: The files to take, instead of those that a planner needs (`NEEDED`).

    Raises:
        ConfigError: If huggingface_hub is missing, the repository has no such file, a file would be
            replaced, or the folder holds files of another commit.
        LoadError: If the repository cannot be read, or a file is not the one that was announced.
    """
    check_repo(repo)
    with needing("agentkd pull"):
        import huggingface_hub as hub
    told = f"{repo}@{revision}" if revision else repo
    try:
        info: Any = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:  # what the client and the server raise is theirs
        raise LoadError(f"{told} cannot be read: {reason(error)}.") from error
    commit = str(info.sha)
    if not is_commit(commit) or (revision and is_commit(revision) and revision != commit):
        raise LoadError(f"{told} was answered with the commit {commit!r:.60}.")
    _check_record(folder / RECORD, repo, commit)
    found = _listed(info.siblings or (), told)
    chosen = _chosen(found, names, told)
    with tempfile.TemporaryDirectory(prefix="agentkd-") as cache:
        sums: dict[str, str] = {}
        files: dict[Path, Content] = {}
        for name in chosen:
            source = _fetched(hub, repo, commit, name, cache)
            with regular(source, LARGEST) as stream:
                sums[name] = digest_of(stream)
            if found[name] not in ("", sums[name]):
                raise LoadError(
                    f"{name} of {told} has the SHA-256 {sums[name]}, not {found[name]}."
                )
            place = folder / name
            _check_place(place, sums[name])
            files[place] = partial(shutil.copyfile, source)
        record = {"repo": repo, "commit": commit, "files": sums}
        files[folder / RECORD] = json.dumps(record, indent=1, sort_keys=True) + "\n"
        write_files(files)
    return Pulled(repo, commit, sums, folder)


def check_repo(repo: str) -> None:
    """Raise ConfigError if `repo` is not "owner/name"."""
    if not _REPO.fullmatch(repo):
        raise ConfigError(f"{repo!r:.120} is not a repository of the Hub. Write OWNER/NAME.")


def is_commit(text: str) -> bool:
    """Whether a text is a commit: 40 hexadecimal digits."""
    return _COMMIT.fullmatch(text) is not None


def _listed(siblings: Sequence[Any], told: str) -> dict[str, str]:
    """Return the SHA-256 of each file, by name; "" where the Hub does not tell one."""
    if len(siblings) > _MOST_LISTED:
        raise LoadError(f"{told} has {len(siblings):,} files; at most {_MOST_LISTED:,} are read.")
    found: dict[str, str] = {}
    for each in siblings:
        name, large = str(each.rfilename), each.lfs
        path = PurePosixPath(name)
        odd = path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable()
        if odd or str(path) != name:
            raise LoadError(f"{told} has a file {name!r:.120}, which is no name of a file.")
        if each.size is not None and each.size > LARGEST and needed(name):
            raise LoadError(f"{name} of {told} has {each.size:,} bytes; at most {LARGEST:,}.")
        found[name] = str(large.sha256) if large else ""
    return found


def needed(name: str) -> bool:
    """Whether a planner needs a file of this name."""
    last = PurePosixPath(name).name
    fits = any(fnmatch(last, each) for each in NEEDED)
    return fits and not any(fnmatch(last, each) for each in _NEEDLESS)


def _chosen(found: Mapping[str, str], names: Sequence[str], told: str) -> list[str]:
    if RECORD in names:
        raise ConfigError(f"{told}: {RECORD} is the name of agentkd's own record; leave it out.")
    for name in names:
        if name not in found:
            raise ConfigError(f"{told} has no file {name!r}. It has {_some(found)}.")
    chosen = sorted(names or filter(needed, found))
    if not chosen:
        raise ConfigError(
            f"{told} has no file that a planner is known to need: {_some(found)}. Name them with "
            "--file; serve a LeRobot policy from its own environment (agentkd serve)."
        )
    if len(chosen) > _MOST_FILES:
        raise ConfigError(
            f"{told} has {len(chosen)} files for planners, such as {_some(chosen)}; name those of "
            f"one with --file, at most {_MOST_FILES}."
        )
    return chosen


def _some(names: Any) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return (", ".join(map(repr, listed[:8])) or "none") + more


def _fetched(hub: Any, repo: str, commit: str, name: str, cache: str) -> Path:
    try:
        got = hub.hf_hub_download(repo, name, revision=commit, cache_dir=cache)
    except Exception as error:  # likewise
        raise LoadError(f"{name} of {repo}@{commit} did not come: {reason(error)}.") from error
    # Its cache holds links.
    return Path(got).resolve()


def _check_record(path: Path, repo: str, commit: str) -> None:
    """Raise ConfigError if a folder holds files of another commit."""
    if not path.exists():
        return
    with regular(path, _RECORD) as stream:
        record = parse_json(stream.read(_RECORD), path, limit=_RECORD)
    there = [record.get(each) for each in ("repo", "commit")] if isinstance(record, dict) else []
    if there != [repo, commit]:
        was = "@".join(map(str, there)) or "no record of agentkd's"
        raise ConfigError(
            f"{path} is of {was:.120}, and {repo}@{commit} is asked for. Give another folder "
            "(--to), or remove that one."
        )


def _check_place(place: Path, digest: str) -> None:
    if not place.exists():
        return
    if place.is_file():
        with place.open("rb") as stream:
            if digest_of(stream) == digest:
                return
    raise ConfigError(f"{place} is there and is another file. Move it, or give --to.")
