"""The tests of tuf-conformance, one by one under their names, against what a device trusts.

Those that do not apply are listed with their reasons in docs/conformance.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentkd.signing import keys as private_keys
from agentkd.signing import store
from tests.signing import later
from tests.signing_world import LISTED, NAME, World

pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A repository and a device."""
    world = World(tmp_path)
    monkeypatch.setattr(store, "reader", lambda _: world.read)
    return world


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the device's clock to so many days from now."""
    from tuf.ngclient._internal import trusted_metadata_set

    def shift(days: float) -> None:
        class Shifted(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + timedelta(days=days)

        module = type("datetime", (), {"datetime": Shifted, "timezone": None})
        monkeypatch.setattr(store, "datetime", Shifted)
        monkeypatch.setattr(trusted_metadata_set, "datetime", module, raising=True)
        module.timezone = type("timezone", (), {"utc": UTC})  # type: ignore[attr-defined]

    return shift


ALL_AT_1 = {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}


def test_basic_refresh_requests(world: World) -> None:
    """The next root, then each role once, in order; nothing else is asked for."""
    assert world.fetched() == ""
    assert world.asked[:-1] == [
        f"metadata/{name}"
        for name in ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json")
    ]


def test_basic_refresh_trusted_data(world: World) -> None:
    """What is kept is what was published."""
    assert world.refused() == ""
    published = {name: world.files[f"1.{name}"] for name in ("snapshot.json", "targets.json")}
    assert world.kept == published | {
        "timestamp.json": world.files["timestamp.json"],
        "1.root.json": world.files["1.root.json"],
    }


def test_implicit_refresh(world: World) -> None:
    """A file that is not there: the newest metadata are kept all the same."""
    assert world.fetched("nonexistent") == "missing"
    assert world.versions == ALL_AT_1


def test_invalid_initial_root(world: World) -> None:
    """Nothing is asked for, and nothing kept."""
    told = json.loads(world.anchor.read_bytes())
    del told["signed"]["version"]
    world.anchor.write_text(json.dumps(told))
    assert world.fetched() == "damaged"
    assert (world.asked, world.versions) == ([], {})


def test_unsigned_initial_root(world: World) -> None:
    """Nothing is asked for, and nothing kept."""
    told = json.loads(world.anchor.read_bytes())
    told["signatures"][0]["sig"] = "00" * 64
    world.anchor.write_text(json.dumps(told))
    assert world.fetched() == "signature"
    assert (world.asked, world.versions) == ([], {})


@pytest.mark.parametrize(
    ("role", "kept"),
    [
        ("root", {"root": 1}),
        ("timestamp", {"root": 2}),
        ("snapshot", {"root": 2, "timestamp": 2}),
        ("targets", {"root": 2, "timestamp": 2, "snapshot": 2}),
    ],
)
def test_unsigned_metadata(role: str, kept: dict[str, int], world: World) -> None:
    """The roles before it are kept."""
    world.signers[role] = []
    world.publish("root", *LISTED)
    assert world.refused() == "signature"
    assert world.versions == kept


@pytest.mark.parametrize(
    ("role", "kept"),
    [
        ("root", {"root": 1}),
        ("snapshot", {"root": 2, "timestamp": 2}),
        ("targets", {"root": 2, "timestamp": 2, "snapshot": 2}),
    ],
)
def test_url_and_metadata_version_mismatch(role: str, kept: dict[str, int], world: World) -> None:
    """Version 3 under the name of version 2."""
    world.about[role].version += 1
    for each in ("root", *LISTED):
        world.publish(each)
        if each == role:
            world.files[f"2.{each}.json"] = world.files.pop(f"3.{each}.json")
            if each == "targets":
                world.about["snapshot"].meta["targets.json"].version = 2
            elif each == "snapshot":
                world.about["timestamp"].snapshot_meta.version = 2
    assert world.refused() == "rollback"
    assert world.versions == kept


def test_timestamp_content_changes(world: World) -> None:
    """Another timestamp of the same version: that which was seen counts."""
    assert world.refused() == ""
    seen = world.files["timestamp.json"]
    world.about["timestamp"].snapshot_meta.version = 100
    world.about["timestamp"].version = 0
    world.publish("timestamp")
    assert world.files["timestamp.json"] != seen
    assert world.refused() == ""
    assert world.kept["timestamp.json"] == seen


def test_basic_metadata_hash_support(world: World) -> None:
    """Right hashes are fine."""
    world.hashes = True
    world.publish(*LISTED)
    assert b"sha256" in world.files["2.snapshot.json"]
    assert world.refused() == ""


def test_targets_hash_mismatch(world: World) -> None:
    """The snapshot counts, the targets do not."""
    world.hashes = True
    world.publish(*LISTED)
    assert world.refused() == ""
    world.publish("targets")
    world.about["snapshot"].meta["targets.json"].hashes = {"sha256": "0" * 64}
    world.publish("snapshot", "timestamp")
    assert world.refused() == "digest"
    assert (world.versions["snapshot"], world.versions["targets"]) == (3, 2)


def test_snapshot_hash_mismatch(world: World) -> None:
    """The timestamp counts, the snapshot does not."""
    world.hashes = True
    world.publish("snapshot", "timestamp")
    assert world.refused() == ""
    world.publish("snapshot")
    world.about["timestamp"].snapshot_meta.hashes = {"sha256": "0" * 64}
    world.publish("timestamp")
    assert world.refused() == "digest"
    assert (world.versions["timestamp"], world.versions["snapshot"]) == (3, 2)


def test_metadata_bytes_match(world: World) -> None:
    """They are kept byte for byte, however they were written."""
    world.files["timestamp.json"] += b" "
    assert world.refused() == ""
    assert world.kept["timestamp.json"] == world.files["timestamp.json"]


def test_custom_fields(world: World) -> None:
    """Fields that nobody knows are signed with the others."""
    assert world.refused() == ""
    (signer,) = private_keys.generate(1)
    signer.public_key.unrecognized_fields["extra-field"] = {"a": 1, "b": 2}
    world.about["root"].unrecognized_fields["custom-field"] = "value"
    world.add("root", signer)
    world.about["root"].roles["root"].unrecognized_fields["another-field"] = "value"
    world.publish("root")
    assert world.refused() == ""
    assert world.versions["root"] == 2
    world.publish("root")
    world.edit("3.root.json", lambda told: told["signed"].update({"custom-field": "other"}))
    assert world.refused() == "signature"


def test_deprecated_keyid_hash_algorithms(world: World) -> None:
    """A field of a former specification says nothing."""
    world.about["root"].roles["snapshot"].keyids.clear()
    world.signers["snapshot"] = []
    (signer,) = private_keys.generate(1)
    signer.public_key.unrecognized_fields["keyid_hash_algorithms"] = "md5"
    world.add("snapshot", signer)
    world.publish("root", "snapshot", "timestamp")
    assert world.refused() == ""
    assert (world.versions["root"], world.versions["snapshot"]) == (2, 2)


def test_snapshot_404(world: World) -> None:
    """A timestamp of a snapshot that is not there counts; its predecessor does no more."""
    assert world.refused() == ""
    world.about["timestamp"].snapshot_meta.version += 1
    world.publish("timestamp")
    assert world.refused() == "missing"
    assert world.versions == ALL_AT_1 | {"timestamp": 2}


def test_targets_404(world: World) -> None:
    """A snapshot of targets that are not there counts too."""
    assert world.refused() == ""
    world.about["snapshot"].meta["targets.json"].version += 1
    world.publish("snapshot", "timestamp")
    assert world.refused() == "missing"
    assert world.versions == ALL_AT_1 | {"timestamp": 2, "snapshot": 2}


def test_timestamp_404(world: World) -> None:
    """Without a timestamp nothing is known to be the newest."""
    assert world.refused() == ""
    del world.files["timestamp.json"]
    assert world.fetched() == "missing"
    assert world.asked[-1] == "metadata/timestamp.json"


def test_incorrect_metadata_type(world: World) -> None:
    """A snapshot that the timestamp's key has signed is no timestamp."""
    from tuf.api.metadata import MetaFile

    world.add("snapshot", *world.signers["timestamp"])
    world.about["snapshot"].meta = {"snapshot.json": MetaFile(1)}
    world.publish("root", "snapshot")
    world.files["timestamp.json"] = world.files.pop("2.snapshot.json")
    assert world.refused() == "damaged"
    assert world.versions == {"root": 2}


def test_root_expired(world: World) -> None:
    """It is followed, and nothing that comes after it is read."""
    assert world.refused() == ""
    world.publish("root")
    assert world.refused() == ""
    world.about["root"].expires = later(-1)
    world.publish("root", *LISTED)
    assert world.refused() == "expired"
    assert world.versions == ALL_AT_1 | {"root": 3}


@pytest.mark.parametrize(
    ("role", "kept"),
    [
        ("timestamp", {}),
        ("snapshot", {"timestamp": 2}),
        ("targets", {"timestamp": 2, "snapshot": 2}),
    ],
)
def test_what_expired_is_not_kept(role: str, kept: dict[str, int], world: World) -> None:
    """test_timestamp_expired, test_snapshot_expired and test_targets_expired."""
    assert world.refused() == ""
    world.about[role].expires = later(-5)
    world.publish(*LISTED)
    assert world.refused() == "expired"
    assert world.versions == ALL_AT_1 | kept


def test_expired_local_root(world: World, at: Callable[[float], None]) -> None:
    """A newer one takes its place."""
    world.about["root"].expires = later(7)
    world.publish("root")
    assert world.refused() == ""
    at(18)
    assert world.refused() == "expired"
    world.about["root"].expires = later(21)
    world.publish("root")
    assert world.refused() == ""
    assert world.versions["root"] == 3


def test_expired_local_timestamp(world: World, at: Callable[[float], None]) -> None:
    """A newer one takes its place."""
    world.about["timestamp"].expires = later(7)
    world.publish("timestamp")
    assert world.refused() == ""
    at(18)
    assert world.refused() == "expired"
    world.about["timestamp"].expires = later(21)
    world.publish(*LISTED)
    assert world.refused() == ""
    assert world.versions == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 3}


def test_repository_substitutes_target_file(world: World) -> None:
    """Another file under a signed name, of the same length or not."""
    other = world.target("other.akd", b"content")
    world.publish(*LISTED)
    assert world.fetched() == ""
    for place in [each for each in world.files if each.startswith("targets/")]:
        world.files[place] = b"malicious data"[: len(world.files[place])]
    assert world.fetched() == "digest"
    assert world.fetched("other.akd") == "digest"
    assert world.refused(b"malici" + b"s" * (other.length - 6)) == "digest"


def test_multiple_changes_to_target(world: World) -> None:
    """Each signed change is taken, and nothing else under the same name."""
    for turn in range(4):
        data = f"executor {turn}".encode()
        world.target(NAME, data)
        world.publish(*LISTED)
        came: list[bytes] = [b""]
        assert world.fetched(into=came) == ""
        assert came[1] == data
        before = dict(world.files)
        place = next(each for each, held in world.files.items() if held == data)
        world.files[place] = data[::-1]
        world.publish(*LISTED)
        assert world.fetched() == "digest"
        world.files[place] = before[place]


@pytest.mark.parametrize("hashes", [["sha256"], ["sha256", "sha512"], ["sha512"]])
def test_download_with_hash_algorithms(hashes: list[str], world: World) -> None:
    """SHA-256 has to be one of them: files are named by it."""
    world.target("executor-2.akd", b"2", *hashes)
    world.publish(*LISTED)
    known = "sha256" in hashes
    assert world.fetched("executor-2.akd") == ("" if known else "digest")
    assert world.refused(b"2") == ("" if known else "digest")


def test_download_with_unknown_hash_algorithm(world: World) -> None:
    """What nobody can compute proves nothing."""
    found = world.target("executor-2.akd", b"2")
    found.hashes = {"unknown-hash": found.hashes["sha256"]}
    world.publish(*LISTED)
    assert world.fetched("executor-2.akd") == "digest"
    assert world.refused(b"2") == "digest"


def test_snapshot_does_not_meet_threshold(world: World) -> None:
    """Two signatures where three have to be."""
    world.add("snapshot", *private_keys.generate(2))
    world.about["root"].roles["snapshot"].threshold = 3
    world.publish("root", *LISTED)
    assert world.refused() == ""
    world.signers["snapshot"].pop()
    world.publish(*LISTED)
    assert world.refused() == "signature"
    assert world.versions["snapshot"] == 2


def test_snapshot_has_too_few_keys(world: World) -> None:
    """Six signatures of five keys."""
    world.add("snapshot", *private_keys.generate(4))
    world.about["root"].roles["snapshot"].threshold = 6
    world.publish("root", "snapshot", "timestamp")
    assert world.refused() == "signature"
    assert (world.versions["root"], "snapshot" in world.versions) == (2, False)


def test_duplicate_keys(world: World) -> None:
    """One key that is listed nine times, and signs as often."""
    world.about["root"].roles["snapshot"].threshold = 6
    world.publish("root", "snapshot", "timestamp")

    def listed(told: Any) -> None:
        told["signed"]["roles"]["snapshot"]["keyids"] *= 9

    root = json.loads(world.files["2.root.json"])
    listed(root)
    _resign(world, root, "2.root.json")
    world.edit("2.snapshot.json", lambda told: told.update(signatures=told["signatures"] * 9))
    assert world.refused() == "damaged"
    assert "snapshot" not in world.versions


def _resign(world: World, told: Any, name: str) -> None:
    """Sign metadata that python-tuf would not write."""
    from securesystemslib.formats import encode_canonical

    data = str(encode_canonical(told["signed"])).encode()
    told["signatures"] = [each.sign(data).to_dict() for each in world.signers["root"]]
    world.files[name] = json.dumps(told).encode()


def test_duplicate_sig_keyids(world: World) -> None:
    """A signature that is there twice, though one would do."""
    world.edit("1.snapshot.json", lambda told: told["signatures"].append(told["signatures"][0]))
    assert world.refused() == "damaged"
    assert "snapshot" not in world.versions


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_keytype_and_scheme(kind: str, world: World) -> None:
    """A root may name keys of other kinds, whose wrong signatures do not count."""
    from securesystemslib.signer import CryptoSigner

    signer = getattr(CryptoSigner, f"generate_{kind}")()
    world.add("root", signer)
    world.about["root"].roles["root"].threshold = 2
    world.publish("root")
    assert world.refused() == ""
    world.publish("root")

    def wrong(told: Any) -> None:
        for each in told["signatures"]:
            if each["keyid"] == signer.public_key.keyid:
                each["sig"] = f"{each['sig'][:-8]}00000000"

    world.edit("3.root.json", wrong)
    assert world.refused() == "signature"
    assert world.versions["root"] == 2


@pytest.mark.parametrize("wrong", ["00" * 64, ""])
def test_invalid_sig_in_valid_metadata(wrong: str, world: World) -> None:
    """A wrong signature beside as many right ones as there have to be."""
    world.add("timestamp")
    world.publish("root", "timestamp")
    world.edit("timestamp.json", lambda told: told["signatures"][0].update(sig=wrong))
    assert world.refused() == ""


def test_new_timestamp_version_rollback(world: World) -> None:
    """An older timestamp is refused."""
    old = world.files["timestamp.json"]
    world.publish("timestamp")
    assert world.refused() == ""
    world.files["timestamp.json"] = old
    assert world.fetched() == "rollback"
    assert world.versions["timestamp"] == 2
    assert world.asked[-1] == "metadata/timestamp.json"


@pytest.mark.parametrize("hashes", [False, True])
def test_snapshot_rollback(hashes: bool, world: World) -> None:
    """A newer timestamp of an older snapshot is refused, and not kept."""
    world.hashes = hashes
    world.publish("snapshot", "timestamp")
    assert world.refused() == ""
    world.about["snapshot"].version = 0
    world.publish("snapshot", "timestamp")
    assert world.fetched() == "rollback"
    assert (world.versions["timestamp"], world.versions["snapshot"]) == (2, 2)
    assert world.asked[-1] == "metadata/timestamp.json"


@pytest.mark.parametrize("hashes", [False, True])
def test_targets_rollback(hashes: bool, world: World) -> None:
    """A newer snapshot of older targets is refused, and not kept."""
    world.hashes = hashes
    world.publish(*LISTED)
    assert world.refused() == ""
    world.about["targets"].version = 0
    world.publish(*LISTED)
    assert world.refused() == "rollback"
    assert (world.versions["snapshot"], world.versions["targets"]) == (2, 2)


def test_targets_role_removal(world: World) -> None:
    """What a snapshot has listed is listed by the next one, though the device does not use it."""
    from tuf.api.metadata import MetaFile

    world.about["snapshot"].meta["delegated.json"] = MetaFile(1)
    world.publish(*LISTED)
    assert world.refused() == ""
    del world.about["snapshot"].meta["delegated.json"]
    world.publish("snapshot", "timestamp")
    assert world.refused() == "damaged"
    assert world.versions["snapshot"] == 2


@pytest.mark.parametrize("role", LISTED)
def test_fast_forward_recovery(role: str, world: World) -> None:
    """test_targets_, test_new_snapshot_ and test_new_timestamp_fast_forward_recovery.

    Versions begin anew once the keys have changed that vouch for them.
    """
    world.about[role].version = 99
    world.publish(*LISTED[LISTED.index(role) :])
    assert world.refused() == ""
    assert world.versions[role] == 100
    for each in {"targets": ("snapshot",), "snapshot": LISTED[1:], "timestamp": LISTED[2:]}[role]:
        world.rotate(each)
    world.about[role].version = 0
    world.publish("root", *LISTED)
    assert world.refused() == ""
    assert world.versions[role] == 1


def test_delegations_are_not_followed(world: World) -> None:
    """What a delegated role lists is not signed, whatever its name; it is not even asked for."""
    from tuf.api.metadata import DelegatedRole, Delegations, MetaFile

    for name in ("release", "?", "#", "/delegatedrole", "../delegatedrole"):
        (signer,) = private_keys.generate(1)
        keyid = signer.public_key.keyid
        role = DelegatedRole(name, [keyid], 1, False, ["*"])
        world.about["targets"].delegations = Delegations(
            {keyid: signer.public_key}, roles={name: role}
        )
        world.about["snapshot"].meta[f"{name}.json"] = MetaFile(1)
        world.publish(*LISTED)
        assert world.refused() == ""
        assert world.fetched("elsewhere.akd") == "missing"
        assert world.asked == ["metadata/2.root.json", "metadata/timestamp.json"]
