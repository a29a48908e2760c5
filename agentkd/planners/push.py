"""Files to the Hugging Face Hub: listed first, and in one commit on the one that was seen.

What is uploaded is named; a folder is never copied whole. The client is huggingface_hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentkd.errors import ConfigError, LoadError
from agentkd.extras import needing
from agentkd.files import digest_of, reason, regular
from agentkd.planners.hub import LARGEST, RECORD, check_repo, is_commit, needed

CARD = "README.md"
_BESIDE = (CARD, "LICENSE", "report.json", "report.html", "table.md", "table.csv")
"""Files that go along with those that a planner needs."""
_PROOF = ".akd.proof"
_MOST_FILES = 64


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is to be uploaded.

    Attributes:
        name: Its name in the repository.
        path: Where it lies here.
        size: Bytes.
        digest: Its SHA-256.
    """

    name: str
    path: Path
    size: int
    digest: str


State = Literal["new", "changed", "same", "there"]
"""How a file differs from the one in the repository; "there" if the Hub tells no SHA-256."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be uploaded where.

    Attributes:
        repo: "owner/name".
        parent: The commit that it goes on; "" if there is no repository, or no commit in it.
        files: The files, with what is there of each.
    """

    repo: str
    parent: str
    files: tuple[tuple[Upload, State], ...]


def uploads(source: Path, names: Sequence[str] = ()) -> tuple[Upload, ...]:
    """Choose the files of a folder, or an executor file with what lies beside it.

    Of a folder: what `pull` would take (weights, statistics, settings), executor files with their
    proofs, README.md, LICENSE, and a report. Of a file: itself, its proof and README.md.

    Args:
        source: The folder or file.
        names: The files to take instead, as paths in the folder.

    Raises:
        ConfigError: If there is no such file, none is chosen, too many are, or one is too large.
    """
    folder = source if source.is_dir() else source.parent
    if names:
        chosen = list(dict.fromkeys(names))
    elif source.is_dir():
        chosen = sorted(filter(_goes, _inside(folder)))
    else:
        beside = (source.name, source.name + ".proof", CARD)
        chosen = [each for each in beside if each == source.name or (folder / each).is_file()]
    if not any(each != CARD for each in chosen):
        raise ConfigError(f"{source} has no file to upload. Name some with --file.")
    if len(chosen) > _MOST_FILES:
        raise ConfigError(
            f"{source} has {len(chosen)} files to upload, at most {_MOST_FILES}; name those of one "
            "with --file."
        )
    return tuple(_upload(folder, each) for each in chosen)


def plan(repo: str, files: Sequence[Upload], revision: str = "main") -> Plan:
    """Look at what a repository has, and say what an upload would change.

    Raises:
        ConfigError: If huggingface_hub is missing, or the name is not one of a repository.
        LoadError: If the Hub cannot be read.
    """
    check_repo(repo)
    with needing("agentkd push"):
        import huggingface_hub as hub
        from huggingface_hub.errors import RepositoryNotFoundError
    try:
        info: Any = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    except RepositoryNotFoundError:
        return Plan(repo, "", tuple((each, "new") for each in files))
    except Exception as error:  # what the client and the server raise is theirs
        raise LoadError(f"{repo} cannot be read: {reason(error)}.") from error
    there = {str(each.rfilename): each.lfs for each in info.siblings or ()}
    return Plan(repo, str(info.sha), tuple((each, _state(each, there)) for each in files))


def push(plan: Plan, message: str, *, private: bool = False, revision: str = "main") -> str:
    """Upload what a plan lists, in one commit; return that commit, 40 hexadecimal digits.

    The repository is made if it is not there. Nothing is deleted.

    Raises:
        LoadError: If the Hub refuses, a file changed since it was listed, or the repository has
            another commit by now.
    """
    with needing("agentkd push"):
        import huggingface_hub as hub
    for each, _ in plan.files:
        with regular(each.path, LARGEST) as stream:
            if digest_of(stream) != each.digest:
                raise LoadError(f"{each.path} changed since it was listed. Push again.")
    api = hub.HfApi()
    operations = [
        hub.CommitOperationAdd(path_in_repo=each.name, path_or_fileobj=str(each.path))
        for each, state in plan.files
        if state != "same"
    ]
    try:
        if not plan.parent:
            api.create_repo(plan.repo, private=private, exist_ok=True)
        done: Any = api.create_commit(
            plan.repo,
            operations,
            commit_message=message,
            revision=revision,
            parent_commit=plan.parent or None,
        )
    except Exception as error:  # likewise
        raise LoadError(f"{plan.repo} was not changed: {reason(error)}.{_remedy(error)}") from error
    commit = str(done.oid)
    if not is_commit(commit):
        raise LoadError(f"{plan.repo} answered with the commit {commit!r:.60}.")
    return commit


def _remedy(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return " Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
    if status == 412:
        return " It has another commit by now: look at it, and push again."
    return ""


def _inside(folder: Path) -> list[str]:
    """Return the files of a folder, as paths in it; hidden ones are left out."""
    found = []
    for each in folder.rglob("*"):
        inside = each.relative_to(folder)
        if each.is_file() and not any(part.startswith(".") for part in inside.parts):
            found.append(inside.as_posix())
    return found


def _goes(name: str) -> bool:
    return name in _BESIDE or name.endswith(_PROOF) or needed(name)


def _upload(folder: Path, name: str) -> Upload:
    path = folder / name
    if name == RECORD or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"{name!r:.120} cannot be uploaded; name files in {folder}.")
    if not path.is_file():
        raise ConfigError(f"{folder} has no file {name!r:.120}.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{path} is a link out of {folder}. Copy the file, or leave it out.")
    size = path.stat().st_size
    if size > LARGEST:
        raise ConfigError(f"{path} has {size:,} bytes; at most {LARGEST:,} are uploaded.")
    with regular(path, LARGEST) as stream:
        return Upload(Path(name).as_posix(), path, size, digest_of(stream))


def _state(upload: Upload, there: Mapping[str, Any]) -> State:
    if upload.name not in there:
        return "new"
    large = there[upload.name]
    if not large:
        return "there"
    return "same" if str(large.sha256) == upload.digest else "changed"
