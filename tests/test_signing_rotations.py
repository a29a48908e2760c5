"""Which keys have to sign: tuf-conformance's test_updater_key_rotations.py, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentkd.signing import keys as private_keys
from tests.signing_world import LISTED, World

pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A repository and a device."""
    return World(tmp_path)


@dataclass(frozen=True)
class Version:
    """The keys of a role, how many have to sign, those that do, and whether that counts."""

    keys: str
    threshold: int
    signed: str
    counts: bool = True


ROOTS: dict[str, Sequence[Version]] = {
    "1-of-1-key-rotation": [Version("1", 1, "1"), Version("2", 1, "21"), Version("2", 1, "2")],
    "1-of-1-key-rotation-unused-signatures": [
        Version("1", 1, "314"),
        Version("2", 1, "3214"),
        Version("2", 1, "324"),
    ],
    "3-of-5-sign-with-different-keycombos": [
        Version("01234", 3, "024"),
        Version("01234", 3, "041"),
        Version("01234", 3, "013"),
        Version("01234", 3, "013"),
    ],
    "3-of-5-one-key-rotated": [Version("01234", 3, "024"), Version("01345", 3, "041")],
    "3-of-5-one-key-rotated-with-intermediate-step": [
        Version("01234", 3, "024"),
        Version("01345", 3, "0245"),
        Version("01345", 3, "045"),
    ],
    "3-of-5-all-keys-rotated-with-intermediate-step": [
        Version("01234", 3, "024"),
        Version("56789", 3, "024567"),
        Version("56789", 3, "567"),
    ],
    "1-of-3-threshold-increase-to-2-of-3": [Version("123", 1, "1"), Version("123", 2, "12")],
    "2-of-3-threshold-decrease-to-1-of-3": [
        Version("123", 2, "12"),
        Version("123", 1, "12"),
        Version("123", 1, "1"),
    ],
    "1-of-2-threshold-increase-to-2-of-2": [Version("1", 1, "1"), Version("12", 2, "12")],
    "1-of-1-key-rotation-fail-not-signed-with-old-key": [
        Version("1", 1, "1"),
        Version("2", 1, "234", False),
    ],
    "1-of-1-key-rotation-fail-not-signed-with-new-key": [
        Version("1", 1, "1"),
        Version("2", 1, "134", False),
    ],
    "3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys": [
        Version("01234", 3, "024"),
        Version("01345", 3, "024", False),
    ],
    "3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys": [
        Version("01234", 3, "024"),
        Version("01345", 3, "045", False),
    ],
    "1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached": [
        Version("123", 1, "1"),
        Version("123", 2, "2", False),
    ],
    "2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-reached": [
        Version("123", 2, "12"),
        Version("123", 1, "1", False),
    ],
}
OTHERS = {
    "1-of-1-key-rotation": Version("2", 1, "2"),
    "1-of-1-key-rotation-unused-signatures": Version("1", 1, "314"),
    "1-of-1-key-rotation-fail-not-signed-with-new-key": Version("2", 1, "134", False),
    "3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys": Version(
        "01345", 3, "024", False
    ),
    "2-of-5-one-key-signature-missing-threshold-not-reached": Version("01345", 3, "04", False),
    "3-of-5-sign-first-combo": Version("01234", 3, "024"),
    "3-of-5-sign-second-combo": Version("01234", 3, "041"),
    "3-of-5-sign-third-combo": Version("01234", 3, "013"),
    "3-of-5-sign-fourth-combo": Version("01234", 3, "123"),
    "3-of-5-sign-fifth-combo": Version("01234", 3, "234"),
}


def _let(world: World, role: str, about: Version, keys: Sequence[Any]) -> None:
    """Let the root name these keys of a role, and those sign that are said to."""
    world.about["root"].roles[role].keyids.clear()
    world.add(role, *(keys[int(each)] for each in about.keys))
    world.about["root"].roles[role].threshold = about.threshold
    world.signers[role] = [keys[int(each)] for each in about.signed]


@pytest.mark.parametrize("name", ROOTS)
def test_root_rotation(name: str, world: World) -> None:
    """As many keys of the root before and of its own have to sign a root."""
    keys = private_keys.generate(10)
    world.about["root"].version = 0
    for each in ROOTS[name]:
        _let(world, "root", each, keys)
        world.publish("root")
    world.anchor.write_bytes(world.files["1.root.json"])
    counts = ROOTS[name][-1].counts
    assert world.refused() == ("" if counts else "signature")
    assert world.versions["root"] == len(ROOTS[name]) - (not counts)


@pytest.mark.parametrize("name", OTHERS)
def test_non_root_rotations(name: str, world: World) -> None:
    """As many keys as the newest root says have to sign each other role."""
    keys, about = private_keys.generate(10), OTHERS[name]
    for role in reversed(LISTED):
        _let(world, role, about, keys)
        world.publish("root", *LISTED)
        assert world.refused() == ("" if about.counts else "signature")
        if about.counts:
            assert world.versions[role] == world.about[role].version
