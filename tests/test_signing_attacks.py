"""Attacks on signatures, as tuf-conformance has them: each is refused, and by its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import SignatureError
from agentkd.signing import keys as private_keys
from agentkd.signing import repository as repositories
from agentkd.signing.proof import Proof
from agentkd.signing.store import SIGNED_AT
from tests.signing import DATA, Files, Signer, check, edit, follow, later, named

pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")


def expires(signed: Any) -> None:
    """Let metadata have expired."""
    signed.expires = later(-1)


def unsigned(role: str) -> Callable[[Files, Signer], Files]:
    """Strip a role's signatures."""
    return lambda files, _: edit(files, role, lambda _: None, [])


def foreign(role: str) -> Callable[[Files, Signer], Files]:
    """Sign a role by a key that nobody trusts."""
    return lambda files, _: edit(files, role, lambda _: None, private_keys.generate(2))


def one_of_two(files: Files, signer: Signer) -> Files:
    """Sign targets by one key, where two have to."""
    return edit(files, "targets", lambda _: None, signer.keys("targets")[:1])


def one_twice(files: Files, signer: Signer) -> Files:
    """Give one key's signature twice, where two keys have to sign."""
    files = one_of_two(files, signer)
    name = named(files, "targets")
    told = json.loads(files[name])
    told["signatures"] *= 2
    return files | {name: json.dumps(told).encode()}


def one_as_two(files: Files, signer: Signer) -> Files:
    """Give one key's signature under another one's id as well."""
    files = one_of_two(files, signer)
    name = named(files, "targets")
    told = json.loads(files[name])
    first, second = signer.keys("targets")
    told["signatures"].append({**told["signatures"][0], "keyid": second.public_key.keyid})
    assert first.public_key.keyid != second.public_key.keyid
    return files | {name: json.dumps(told).encode()}


def one_key_listed_twice(files: Files, signer: Signer) -> Files:
    """Publish a root that lists one key's id twice."""
    files = next_root(files, signer, lambda root: None)
    name = named(files, "root")
    told = json.loads(files[name])
    told["signed"]["roles"]["targets"]["keyids"] *= 2
    return files | {name: json.dumps(told).encode()}


def next_root(files: Files, signer: Signer, change: Callable[[Any], None]) -> Files:
    """Add a root signed by the root's keys."""

    def changed(root: Any) -> None:
        root.version += 1
        change(root)

    first = dict(files)
    return first | edit(files, "root", changed, signer.keys("root"))


def rogue_root(files: Files, _: Signer) -> Files:
    """Add a root whose keys are its own alone."""
    mine = private_keys.generate(2)

    def changed(root: Any) -> None:
        root.version += 1
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        for each in mine:
            root.add_key(each.public_key, "root")

    return files | edit(files, "root", changed, mine)


def skipped_root(files: Files, signer: Signer) -> Files:
    """Call root 3 root 2."""
    found = next_root(files, signer, lambda root: setattr(root, "version", root.version + 1))
    return {name.replace("3.root", "2.root"): data for name, data in found.items()}


def snapshot_of_another_version(files: Files, signer: Signer) -> Files:
    """Lay a snapshot where the timestamp says another one lies."""
    found = edit(
        files, "snapshot", lambda each: setattr(each, "version", 9), signer.keys("snapshot")
    )
    return {name.replace("9.snapshot", "2.snapshot"): data for name, data in found.items()}


def targets_of_another_version(files: Files, signer: Signer) -> Files:
    """Let the snapshot name a version that the targets do not have."""
    found = follow(files, signer)

    def change(snapshot: Any) -> None:
        snapshot.meta["targets.json"].version = 9
        snapshot.meta["targets.json"].hashes = snapshot.meta["targets.json"].length = None

    found = edit(found, "snapshot", change, signer.keys("snapshot"))
    found = edit(found, "timestamp", loosen, signer.keys("timestamp"))
    return {name.replace("2.targets", "9.targets"): data for name, data in found.items()}


def loosen(timestamp: Any) -> None:
    """Let a timestamp say a snapshot's version alone."""
    timestamp.snapshot_meta.hashes = timestamp.snapshot_meta.length = None


def no_targets(files: Files, signer: Signer) -> Files:
    """Let the snapshot name no targets."""
    files = edit(files, "snapshot", lambda each: each.meta.clear(), signer.keys("snapshot"))
    return edit(files, "timestamp", loosen, signer.keys("timestamp"))


def wrong_length(files: Files, signer: Signer) -> Files:
    """Sign another length than the file has."""

    def change(targets: Any) -> None:
        targets.targets["executor.akd"].length += 1
        targets.version += 1

    return follow(edit(files, "targets", change, signer.keys("targets")), signer)


def another_file(files: Files, signer: Signer) -> Files:
    """Sign another file's hash."""

    def change(targets: Any) -> None:
        targets.targets["executor.akd"].hashes = {"sha256": "0" * 64}
        targets.version += 1

    return follow(edit(files, "targets", change, signer.keys("targets")), signer)


def expired(role: str) -> Callable[[Files, Signer], Files]:
    """Let a role have expired."""

    def attack(files: Files, signer: Signer) -> Files:
        if role == "root":
            return next_root(files, signer, expires)
        files = edit(files, role, expires, signer.keys(role))
        return files if role == "timestamp" else follow_up(files, role, signer)

    return attack


def follow_up(files: Files, role: str, signer: Signer) -> Files:
    """Let the timestamp be about a snapshot that was changed, if one was."""
    if role == "targets":
        return follow(files, signer)
    return edit(files, "timestamp", loosen, signer.keys("timestamp"))


def snapshot_for_timestamp(files: Files, _: Signer) -> Files:
    """Give the snapshot as the timestamp."""
    return files | {"timestamp.json": files[named(files, "snapshot")]}


def deep(files: Files, _: Signer) -> Files:
    """Give what no parser of JSON survives."""
    return files | {"timestamp.json": b"[" * 10_000}


def garbage(files: Files, _: Signer) -> Files:
    """Give what is no JSON."""
    return files | {"timestamp.json": b"\xff\x00"}


def too_long(files: Files, _: Signer) -> Files:
    """Give a timestamp longer than timestamps are."""
    return files | {"timestamp.json": files["timestamp.json"] + b" " * 20_000}


def without(role: str) -> Callable[[Files, Signer], Files]:
    """Leave a role's metadata out."""
    return lambda files, _: {name: data for name, data in files.items() if role not in name}


ATTACKS: dict[str, tuple[Callable[[Files, Signer], Files], str]] = {
    "unsigned timestamp": (unsigned("timestamp"), "signature"),
    "unsigned snapshot": (unsigned("snapshot"), "digest"),
    "unsigned targets": (unsigned("targets"), "digest"),
    "a foreign timestamp": (foreign("timestamp"), "signature"),
    "a foreign snapshot": (
        lambda files, signer: edit(
            foreign("snapshot")(files, signer), "timestamp", loosen, signer.keys("timestamp")
        ),
        "signature",
    ),
    "foreign targets": (
        lambda files, signer: follow(foreign("targets")(files, signer), signer),
        "signature",
    ),
    "one key of two": (
        lambda files, signer: follow(one_of_two(files, signer), signer),
        "signature",
    ),
    "one key twice": (lambda files, signer: follow_raw(one_twice, files, signer), "damaged"),
    "one key as two": (lambda files, signer: follow_raw(one_as_two, files, signer), "signature"),
    "a key listed twice": (one_key_listed_twice, "damaged"),
    "a rogue root": (rogue_root, "signature"),
    "a root left out": (skipped_root, "rollback"),
    "another snapshot": (snapshot_of_another_version, "digest"),
    "other targets": (targets_of_another_version, "rollback"),
    "a snapshot of nothing": (no_targets, "damaged"),
    "a wrong length": (wrong_length, "digest"),
    "a wrong hash": (another_file, "digest"),
    "expired root": (expired("root"), "expired"),
    "expired timestamp": (expired("timestamp"), "expired"),
    "expired snapshot": (expired("snapshot"), "expired"),
    "expired targets": (expired("targets"), "expired"),
    "a snapshot as timestamp": (snapshot_for_timestamp, "damaged"),
    "deep JSON": (deep, "damaged"),
    "garbage": (garbage, "damaged"),
    "endless metadata": (too_long, "large"),
    "no timestamp": (without("timestamp"), "missing"),
    "no snapshot": (without("snapshot"), "missing"),
    "no targets": (without("targets"), "missing"),
}


def follow_raw(attack: Callable[[Files, Signer], Files], files: Files, signer: Signer) -> Files:
    """Let snapshot and timestamp say nothing of the length and hash of what is attacked."""

    def loosened(snapshot: Any) -> None:
        snapshot.meta["targets.json"].hashes = snapshot.meta["targets.json"].length = None

    files = edit(files, "snapshot", loosened, signer.keys("snapshot"))
    return attack(edit(files, "timestamp", loosen, signer.keys("timestamp")), signer)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """A repository in which two of two keys sign."""
    return Signer(tmp_path_factory.mktemp("signer"), keys=2, threshold=2)


@pytest.fixture(scope="module")
def files(signer: Signer) -> Files:
    """A valid proof."""
    return signer.sign()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_its_reason(
    name: str, signer: Signer, files: Files, tmp_path: Path
) -> None:
    """The same trust accepts the true proof before and after, and nothing else."""
    attack, reason = ATTACKS[name]
    trust = signer.trust()
    assert check(trust, files).name == "executor.akd"
    with pytest.raises(SignatureError) as caught:
        check(trust, attack(files, signer))
    assert caught.value.reason == reason, caught.value
    assert check(trust, files).name == "executor.akd"


def test_a_changed_file_is_refused(signer: Signer, files: Files) -> None:
    """Each signed file is named by its SHA-256."""
    with pytest.raises(SignatureError) as caught:
        signer.trust().check(DATA[:-1], Proof(files))
    assert caught.value.reason == "digest"


def test_another_repository_s_proof_is_refused(files: Files, tmp_path: Path) -> None:
    """Names and versions are the same; the keys are others."""
    with pytest.raises(SignatureError) as caught:
        check(Signer(tmp_path).trust(), files)
    assert caught.value.reason == "signature"


def _older_targets(old: Files, new: Files, signer: Signer) -> Files:
    """Sign a newer snapshot of older targets, as who holds the online keys can."""
    found = follow(follow(old, signer), signer)
    return follow(found, signer)


def _older_snapshot(old: Files, new: Files, signer: Signer) -> Files:
    """Sign a newer timestamp of an older snapshot."""

    def change(timestamp: Any) -> None:
        timestamp.version += 5

    return edit(old, "timestamp", change, signer.keys("timestamp"))


@pytest.mark.parametrize(
    "attack",
    [lambda old, new, signer: old, _older_snapshot, _older_targets],
    ids=["timestamp", "snapshot", "targets"],
)
def test_what_is_older_than_seen_is_refused(
    attack: Callable[[Files, Files, Signer], Files], tmp_path: Path
) -> None:
    """With a memory; without one, an old proof is accepted until it expires."""
    signer = Signer(tmp_path)
    old = signer.sign()
    trust = signer.trust(tmp_path / "memory.json")
    check(trust, old)
    new = signer.sign()
    check(trust, new)
    with pytest.raises(SignatureError) as caught:
        check(trust, attack(old, new, signer))
    assert caught.value.reason == "rollback"
    check(signer.trust(), old)


@pytest.mark.parametrize("role", repositories.ROLES)
def test_rotated_keys_are_followed_and_old_ones_refused(role: Any, tmp_path: Path) -> None:
    """From the first root on, however often; what old keys sign counts no more."""
    signer = Signer(tmp_path)
    old = signer.keys(role)
    trust = signer.trust(tmp_path / "memory.json")
    check(trust, signer.sign())
    signer.rotate(role, role)
    files = signer.sign()
    assert check(trust, files).root == 3
    assert check(signer.trust(), files).root == 3
    if role == "root":
        rogue = files | edit(files, "root", lambda root: setattr(root, "version", 4), old)
        with pytest.raises(SignatureError, match="root"):
            check(trust, rogue)
    else:
        with pytest.raises(SignatureError):
            check(signer.trust(), edit(files, role, lambda _: None, old))


def test_a_stolen_timestamp_key_is_made_good_by_a_rotation(tmp_path: Path) -> None:
    """Versions and times that were fast-forwarded are forgotten with the keys that signed them."""
    signer = Signer(tmp_path)
    trust = signer.trust(tmp_path / "memory.json")
    files = signer.sign()

    def forward(timestamp: Any) -> None:
        timestamp.version = 1_000_000
        timestamp.expires = later(36_500)
        timestamp.unrecognized_fields[SIGNED_AT] = later(36_000).isoformat()

    with pytest.raises(SignatureError) as caught:
        check(trust, edit(files, "timestamp", forward, signer.keys("timestamp")))
    assert caught.value.reason == "expired"
    with pytest.raises(SignatureError) as caught:
        check(trust, signer.sign())
    assert caught.value.reason == "rollback"
    signer.rotate("timestamp", "snapshot")
    assert check(trust, signer.sign()).root == 3


def test_a_device_whose_clock_stands_still_goes_by_signed_times(tmp_path: Path) -> None:
    """What had expired when the newest timestamp was signed is refused, whatever the clock says."""
    signer = Signer(tmp_path)
    trust = signer.trust(tmp_path / "memory.json")
    files = signer.sign(days=30)

    def signed_later(timestamp: Any) -> None:
        timestamp.version += 1
        timestamp.expires = later(90)
        timestamp.unrecognized_fields[SIGNED_AT] = later(60).isoformat()

    check(trust, files)
    with pytest.raises(SignatureError, match="snapshot expired") as caught:
        check(trust, edit(files, "timestamp", signed_later, signer.keys("timestamp")))
    assert caught.value.reason == "expired"
    # Whatever is signed anew later than that is fine, once its version is above the forged one's.
    signer.sign(now=later(61))
    check(trust, signer.sign(now=later(61)))


def test_metadata_too_large_to_keep_are_refused_and_not_kept(tmp_path: Path) -> None:
    """What a stolen key blows up in the memory must not outlive the key."""
    signer = Signer(tmp_path)
    memory = tmp_path / "memory.json"
    trust, files = signer.trust(memory), signer.sign()
    check(trust, files)
    before = memory.read_bytes()

    def pad(snapshot: Any) -> None:
        snapshot.version += 1
        # Two bytes each in the snapshot, six in the memory.
        snapshot.unrecognized_fields["x"] = "\u0101" * 900_000

    padded = edit(files, "snapshot", pad, signer.keys("snapshot"))
    name = named(padded, "snapshot")
    raw = json.dumps(json.loads(padded[name]), ensure_ascii=False).encode()
    padded |= {name: raw}

    def point(timestamp: Any) -> None:
        from tuf.api.metadata import MetaFile

        timestamp.version += 1
        timestamp.snapshot_meta = MetaFile.from_data(int(name.split(".")[0]), raw, ["sha256"])

    with pytest.raises(SignatureError) as caught:
        check(trust, edit(padded, "timestamp", point, signer.keys("timestamp")))
    assert caught.value.reason == "large"
    assert memory.read_bytes() == before
    signer.rotate("snapshot", "timestamp")
    assert check(trust, signer.sign()).root == 3
