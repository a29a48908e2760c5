"""Keys and repositories: what is written where, who may read it, and what is never signed."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.files import write_atomic
from agentkd.signing import repository as repositories
from agentkd.signing.keys import default_folder
from agentkd.signing.proof import LARGEST, METADATA, proof_from_bytes, read_proof
from tests.runtime_children import constant
from tests.signing import Signer, check, later

pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """A repository with nothing in it."""
    return Signer(tmp_path)


def test_private_keys_are_the_owner_s_alone_and_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode 0600 in a folder of mode 0700, in the user's configuration, and not what is copied."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    written = repositories.create(tmp_path / "fleet")
    folder = tmp_path / "config" / "agentkd" / "keys" / "fleet"
    assert default_folder(tmp_path / "fleet") == folder
    assert {each.parent for each in written} == {folder}
    assert {stat.S_IMODE(each.stat().st_mode) for each in written} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    published = b"".join(each.read_bytes() for each in (tmp_path / "fleet").rglob("*.json"))
    assert b"PRIVATE" not in published
    assert b"PRIVATE" in written[0].read_bytes()
    with pytest.raises(ConfigError, match="would be published"):
        repositories.create(tmp_path / "other", tmp_path / "other" / "keys")


def test_nothing_is_replaced(signer: Signer, tmp_path: Path) -> None:
    """Neither a key nor a repository."""
    before = {each: each.read_bytes() for each in signer.secret.rglob("*.pem")}
    for folder, secret in (
        (signer.folder, tmp_path / "fresh"),
        (tmp_path / "fresh", signer.secret),
    ):
        with pytest.raises(ConfigError, match="not empty"):
            repositories.create(folder, secret)
    assert {each: each.read_bytes() for each in signer.secret.rglob("*.pem")} == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(signer: Signer, mode: int) -> None:
    """The error has the command that helps."""
    (key,) = signer.secret.glob("targets-*.pem")
    key.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        signer.sign()


def test_as_many_keys_sign_as_the_threshold_says(tmp_path: Path) -> None:
    """They may lie in several folders; fewer are told by number."""
    signer = Signer(tmp_path, keys=3, threshold=2)
    stick = tmp_path / "stick"
    stick.mkdir()
    first, second, third = sorted(signer.secret.glob("targets-*.pem"))
    third.unlink()
    assert check(signer.trust(), signer.sign())
    second.rename(stick / second.name)
    with pytest.raises(ConfigError, match="2 of 3 keys, and 1"):
        signer.sign()
    repositories.sign(signer.folder, [signer.file], [signer.secret, stick])
    assert check(signer.trust(), dict(read_proof(signer.file).files))
    assert first.exists()


@pytest.mark.parametrize("name", ["targets", "snapshot", "root", "timestamp"])
def test_nothing_is_signed_on_top_of_what_others_wrote(
    signer: Signer, name: str, tmp_path: Path
) -> None:
    """Who can write to the server must not have a signer sign for them."""
    signer.sign()
    other = tmp_path / "other"
    other.mkdir()
    theirs = Signer(other)
    theirs.sign()
    for path in (signer.folder / "metadata").glob(f"*{name}.json"):
        path.write_bytes((theirs.folder / "metadata" / path.name).read_bytes())
    with pytest.raises(LoadError, match="restore"):
        signer.sign()


def test_a_rotation_that_was_killed_is_finished_by_the_next_signing(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new root is kept beside the keys before it is published."""
    signer.sign()
    real = write_atomic

    def dies(path: Path, *rest: Any, **options: Any) -> None:
        if path.name == "2.root.json" and path.parent.name == "metadata":
            raise KeyboardInterrupt
        real(path, *rest, **options)

    monkeypatch.setattr(repositories, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt):
        signer.rotate("targets")
    monkeypatch.undo()
    assert check(signer.trust(), signer.sign()).root == 2


@pytest.fixture
def apart(signer: Signer, tmp_path: Path) -> Path:
    """A stick, onto which the keys of root and targets were moved."""
    signer.sign()
    stick = tmp_path / "stick"
    stick.mkdir()
    for path in [*signer.secret.glob("targets-*.pem"), *signer.secret.glob("root-*.pem")]:
        path.rename(stick / path.name)
    return stick


def contents(*folders: Path) -> dict[Path, bytes]:
    """Return all files of folders."""
    return {
        each: each.read_bytes()
        for folder in folders
        for each in folder.rglob("*")
        if each.is_file()
    }


def test_each_task_takes_the_keys_that_it_needs(signer: Signer, apart: Path) -> None:
    """The daily keys renew; root's and they rotate them; a signature takes those of targets."""
    ours = [signer.secret]
    repositories.sign(signer.folder, private=ours, days=9)
    assert not (signer.folder / "metadata" / "3.targets.json").exists()
    with pytest.raises(ConfigError, match="role targets takes"):
        signer.sign()
    (key,) = apart.glob("targets-*.pem")
    key.rename(apart.parent / key.name)
    for role in ("timestamp", "snapshot"):
        repositories.rotate(signer.folder, role, [*ours, apart])
        assert signer.trust().fetch(str(signer.folder), "executor.akd", 100)
    (apart.parent / key.name).rename(apart / key.name)
    repositories.sign(signer.folder, [signer.file], [*ours, apart])
    assert check(signer.trust(), dict(read_proof(signer.file).files)).root == 3


@pytest.mark.parametrize("role", ["timestamp", "targets", "root"])
@pytest.mark.parametrize("missing", ["snapshot", "root"])
def test_a_rotation_that_lacks_a_key_writes_nothing(
    signer: Signer, role: Any, missing: str, tmp_path: Path
) -> None:
    """Neither keys nor a root; with all keys it works later."""
    signer.sign()
    (key,) = signer.secret.glob(f"{missing}-*.pem")
    key.rename(tmp_path / key.name)
    before = contents(signer.folder, signer.secret)
    for _ in range(3):
        with pytest.raises(ConfigError, match=f"role {missing} takes"):
            signer.rotate(role)
    assert contents(signer.folder, signer.secret) == before
    (tmp_path / key.name).rename(key)
    signer.rotate(role)
    assert check(signer.trust(), signer.sign()).root == 2


@pytest.mark.parametrize("rotated", ["targets", "timestamp"])
def test_rotations_that_were_killed_one_after_another_are_made_good(
    signer: Signer, monkeypatch: pytest.MonkeyPatch, rotated: Any
) -> None:
    """However many roots are newer than what is published; also by a renewal alone."""
    signer.sign()

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repositories, "_publish", dies)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            signer.rotate(rotated)
    monkeypatch.undo()
    repositories.sign(signer.folder, private=[signer.secret])
    found = signer.trust().fetch(str(signer.folder), "executor.akd", 100)[1]
    assert found.root == 4
    assert check(signer.trust(), signer.sign()).root == 4


def test_nothing_is_signed_on_top_of_what_former_keys_signed(
    signer: Signer, tmp_path: Path
) -> None:
    """Once a rotation is through, stolen keys of before it count for nothing."""
    signer.sign()
    stolen = tmp_path / "stolen"
    shutil.copytree(signer.folder, stolen / "repository")
    shutil.copytree(signer.secret, stolen / "secret")
    signer.rotate("timestamp")
    repositories.sign(stolen / "repository", private=[stolen / "secret"])
    for path in (stolen / "repository" / "metadata").glob("*[!0-9].json"):
        if "root" not in path.name:
            shutil.copy(path, signer.folder / "metadata")
    with pytest.raises(LoadError, match="restore the repository"):
        signer.sign()


def test_a_root_is_renewed_in_time(
    tmp_path: Path, signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    """Signing warns before it expires and refuses after; the command in the message helps."""
    signer.sign()
    assert not caplog.records
    with pytest.raises(ConfigError, match="agentkd keys renew"):
        signer.sign(now=later(366))
    signer.sign(now=later(340))
    assert "agentkd keys renew" in caplog.text
    caplog.clear()
    old = Signer.__new__(Signer)
    old.folder, old.secret, old.file = tmp_path / "old", tmp_path / "keys", signer.file
    repositories.create(old.folder, old.secret, now=later(-366))
    with pytest.raises(ConfigError, match="metadata of root expired"):
        old.sign()
    for path in old.secret.glob("[!r]*.pem"):
        path.rename(tmp_path / path.name)
    assert (repositories.renew(old.folder, [old.secret]) - later(0)).days in (364, 365)
    for path in tmp_path.glob("*.pem"):
        path.rename(old.secret / path.name)
    assert check(old.trust(), old.sign()).root == 2
    assert not caplog.records


def test_targets_that_expire_are_told_by_a_renewal(
    signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    """It leaves them as they are, so their end comes nearer."""
    signer.sign()
    repositories.renew(signer.folder, [signer.secret], now=later(300))
    repositories.sign(signer.folder, private=[signer.secret], now=later(350))
    assert "metadata of targets expire on" in caplog.text
    with pytest.raises(ConfigError, match=r"agentkd keys sign .* FILE"):
        repositories.sign(signer.folder, private=[signer.secret], now=later(366))


def test_a_folder_that_cannot_be_written_makes_no_keys(tmp_path: Path) -> None:
    """So that a second try, elsewhere, finds their folder as it was."""
    (tmp_path / "file").write_bytes(b"")
    for folder, secret in (("file/fleet", "keys"), ("fleet", "file/keys")):
        with pytest.raises(WriteError, match="Nothing can be written"):
            repositories.create(tmp_path / folder, tmp_path / secret)
    assert not contents(tmp_path).keys() - {tmp_path / "file"}
    assert repositories.create(tmp_path / "fleet", tmp_path / "keys")


def test_a_proof_is_renewed_and_files_stay_signed(signer: Signer) -> None:
    """Signing nothing signs what is there for another time."""
    signer.sign(days=1)
    before = signer.trust().fetch(str(signer.folder), "executor.akd", 100)[1]
    repositories.sign(signer.folder, private=[signer.secret], days=9)
    after = signer.trust().fetch(str(signer.folder), "executor.akd", 100)[1]
    assert (after.expires - before.expires).days == 8
    assert after.serial == before.serial


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keys": 1, "threshold": 2}, "keys is 1"),
        ({"threshold": 0}, "threshold is 0"),
        ({"days": 0}, "days is 0"),
        ({"days": 1000}, "days is 1000"),
    ],
)
def test_options_that_cannot_be_are_told(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Before anything is written."""
    with pytest.raises(ConfigError, match=said):
        repositories.create(tmp_path / "r", tmp_path / "k", **options)
    assert not list(tmp_path.iterdir())


def test_names_that_cannot_be_are_not_signed(signer: Signer, tmp_path: Path) -> None:
    """A name becomes a path elsewhere."""
    file = tmp_path / "a b.akd"
    file.write_bytes(b"x")
    with pytest.raises(ConfigError, match="cannot be signed"):
        signer.sign(file)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"format": "agentkd.proof", "schema": 2, "metadata": {}}',
        b'{"format": "agentkd.proof", "schema": 1, "metadata": {"../1.root.json": ""}}',
        b'{"format": "agentkd.proof", "schema": 1, "metadata": {"1.root.json": 1}}',
        b'{"format": "agentkd.proof", "schema": 1}',
        b" " * (LARGEST + 1),
    ],
)
def test_a_damaged_proof_is_refused(text: bytes) -> None:
    """By its form, before any signature is looked at."""
    with pytest.raises(LoadError):
        proof_from_bytes(text)
    assert METADATA.fullmatch("12.snapshot.json")


def test_keys_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """new, sign, rotate and renew; what shows a file shows whether it is signed."""
    monkeypatch.chdir(tmp_path)
    write_bundle("e.akd", constant(1))
    keys = ["--private", "secret"]
    assert main(["keys", "new", "repository", *keys, "--keys", "3", "--threshold", "2"]) == 0
    root = "repository/metadata/1.root.json"
    assert main(["inspect", "e.akd"]) == 0
    assert main(["inspect", "e.akd", "--trust", root]) == 2
    assert main(["keys", "sign", "repository", "e.akd", *keys]) == 0
    assert main(["keys", "rotate", "repository", "targets", "root", *keys]) == 0
    assert main(["keys", "renew", "repository", *keys]) == 0
    assert "root valid until" in capsys.readouterr().out
    assert main(["keys", "sign", "repository", *keys]) == 0
    capsys.readouterr()
    assert main(["inspect", "e.akd"]) == 0
    assert "unsigned: e.akd.proof was not checked" in capsys.readouterr().out
    assert main(["inspect", "e.akd", "--trust", root]) == 0
    assert "signed as e.akd, serial 2" in capsys.readouterr().out
    assert main(["verify", "e.akd", "--rows", "1", "--trust", root]) == 0
    assert "signature: signed as e.akd" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rotate", "repository"], "needs roles"),
        (["rotate", "repository", "boss"], "'boss'"),
        (["sign", "repository", "--keys", "2"], "go with new"),
        (["renew", "repository", "root"], "a repository alone"),
        (["renew", "repository", "--days", "9"], "a repository alone"),
        (["new", "repository", "e.akd"], "at most one"),
        (["sign", "nowhere", "--private", "elsewhere"], "No folder"),
    ],
)
def test_what_keys_cannot_do_is_told(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", *words]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_a_full_disk_leaves_the_repository_as_it_was(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timestamp is written last, so what was signed before stays signed."""
    before = signer.sign()

    def full(*_: Any, **__: Any) -> None:
        raise WriteError("No space left on device.")

    monkeypatch.setattr(repositories, "write_files", full)
    with pytest.raises(WriteError):
        signer.sign()
    monkeypatch.undo()
    assert check(signer.trust(), before)
    assert signer.trust().fetch(str(signer.folder), "executor.akd", 100)
