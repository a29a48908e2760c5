"""What lies in a device's folder in another's place: nothing hangs, and nothing else is removed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkd.device import Device
from agentkd.errors import DeviceError
from agentkd.fleet.errand import Errand, Pace, Patience, Standing
from agentkd.fleet.messages import Desired
from agentkd.transport.blobs import blob
from tests.runtime_children import constant
from tests.signing import Signer
from tests.test_device import acts, written

pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")

_MAKE: dict[str, Callable[[Path, Path], object]] = {
    "folder": lambda path, _: (path / "in").mkdir(parents=True),
    "pipe": lambda path, _: os.mkfifo(path),
    "link": lambda path, precious: path.symlink_to(precious),
    "loop": lambda path, _: path.symlink_to(path.name),
}


class Place:
    """A device with an executor, a signed second one, and a folder that is nobody's business."""

    def __init__(self, folder: Path) -> None:
        signer, self.precious = Signer(folder), folder / "precious"
        first, self.second = written(folder, "a", constant(1)), written(folder, "b", constant(2))
        signer.sign(first)
        self.device = Device(folder / "device", trust=signer.root)
        self.device.apply(first)
        signer.sign(self.second)
        self.precious.mkdir()
        (self.precious / "kept").write_text("kept")

    def put(self, name: str, kind: str) -> None:
        """Put something into the device's folder."""
        path = self.device.folder / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        _MAKE[kind](path, self.precious)

    def followed(self) -> Standing | None:
        """Let the second executor come over the line."""
        proof = self.second.with_name("b.akd.proof")
        parts = [blob(each.read_bytes()) for each in (self.second, proof)]
        (file, _), (signature, _) = parts
        desired = Desired(3, "apply", file.digest, "b.akd", file, signature)

        async def run() -> Standing | None:
            errand = Errand(desired, self.device, Patience(Pace(), random.Random(1)))
            for _ in range(4):
                standing = await errand.step(self.device.status(), self.device.starting())
                for about, chunks in parts:
                    for index, data in enumerate(chunks):
                        errand.put(about.digest, index, data)
            return standing

        return asyncio.run(run())

    def whole(self) -> None:
        """Make sure that nothing was lost."""
        assert [each.name for each in self.precious.iterdir()] == ["kept"]
        assert acts(self.device) == 1


@pytest.mark.parametrize("kind", _MAKE)
@pytest.mark.parametrize("name", [".proof-x", ".x.tmp", "incoming/junk"])
def test_what_is_left_over_is_removed_and_what_it_leads_to_is_not(
    name: str, kind: str, tmp_path: Path
) -> None:
    """A link that an update met ended each update before."""
    place = Place(tmp_path)
    place.put(name, kind)
    standing = place.followed()
    assert standing is not None
    assert standing.phase == "STAGED"
    assert not (place.device.folder / name).is_symlink()
    assert not (place.device.folder / name).exists()
    place.whole()


@pytest.mark.parametrize("kind", _MAKE)
@pytest.mark.parametrize("name", ["incoming", "incoming/DIGEST.akd", "fetching.lock", "slot-b.akd"])
def test_what_is_in_the_way_is_told_and_waited_for(name: str, kind: str, tmp_path: Path) -> None:
    """Nothing waits for a pipe; the update goes through once it is gone."""
    place = Place(tmp_path)
    digest = hashlib.sha256(place.second.read_bytes()).hexdigest()
    path = place.device.folder / name.replace("DIGEST", digest)
    place.put(str(path.relative_to(place.device.folder)), kind)
    standing = place.followed()
    assert standing is not None
    if (name, kind) in {("incoming", "folder"), ("fetching.lock", "pipe"), ("slot-b.akd", "loop")}:
        assert standing.phase == "STAGED"
    else:
        assert (standing.phase, standing.reason) == ("FETCHING", "unwritten"), standing
        assert name.partition("/")[0] in standing.text
    place.whole()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_memory_that_is_none_is_no_licence(kind: str, tmp_path: Path) -> None:
    """What guards against old files is not begun anew by itself."""
    place = Place(tmp_path)
    place.put("trust.json", kind)
    with pytest.raises(DeviceError, match=r"trust\.json is not a regular file"):
        place.device.apply(place.second)
    place.whole()
