"""The gate of a device that trusts a repository: what is signed comes in, by hand or by a watch."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkd.cli.main import main
from agentkd.device import Device, State
from agentkd.device.watch import Watch
from agentkd.errors import DeviceError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.signing.store import TrustStore
from tests.runtime_children import BOX, constant
from tests.signing import Signer
from tests.test_device import acts, written


class TestSigned:
    """With trust."""

    @pytest.fixture(autouse=True)
    def trusted(self, tmp_path: Path) -> None:
        """A repository that the device trusts."""
        pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")
        self.signer = Signer(tmp_path)
        self.device = Device(tmp_path / "device", trust=self.signer.root)

    def offer(self, name: str, executor: Executor, **options: Any) -> Path:
        """Write and sign an executor file."""
        path = written(self.signer.file.parent, name, executor)
        self.signer.sign(path, **options)
        return path

    def refused(self, call: Callable[[], Any], said: str) -> DeviceError:
        """Make sure that a call is refused, and the present executor acts."""
        before = self.device.status().active
        with pytest.raises(DeviceError, match=said) as caught:
            call()
        assert self.device.status().active == before
        return caught.value

    def test_only_signed_files_come_in(self, tmp_path: Path) -> None:
        """And an unsigned one is not blacklisted: anyone can offer it."""
        path = written(tmp_path, "e", constant(1))
        error = self.refused(lambda: self.device.apply(path), "unsigned")
        assert (error.reason, error.state) == ("unsigned", "FETCHED")
        assert self.device.status() == State()
        self.signer.sign(path)
        state = self.device.apply(path)
        assert state.active is not None
        assert state.active.signed.startswith("signed as e.akd, serial 2")

    def test_an_expired_proof_is_refused(self) -> None:
        """A device that was updated in time acts on."""
        from tests.signing import later

        self.device.apply(self.offer("a", constant(1)))
        late = self.offer("b", constant(2), days=1, now=later(-2))
        self.refused(lambda: self.device.apply(late), "expired")
        assert acts(self.device) == 1

    def test_an_older_version_is_refused_until_it_is_signed_again(self, tmp_path: Path) -> None:
        """Its proof is older, and with a new one its serial is."""
        one = self.offer("a", constant(1))
        two = self.offer("b", constant(2))
        kept = (tmp_path / "a.akd.proof").read_bytes()
        self.device.apply(two)
        self.refused(lambda: self.device.apply(one), "rollback|older")
        (tmp_path / "a.akd.proof").write_bytes((tmp_path / "b.akd.proof").read_bytes())
        error = self.refused(lambda: self.device.apply(one), "was signed before b")
        assert error.reason == "old"
        (tmp_path / "a.akd.proof").write_bytes(kept)
        self.signer.sign(one)
        assert self.device.apply(one).waiting is not None

    def test_serials_of_another_repository_are_not_compared(self, tmp_path: Path) -> None:
        """Each counts from 1."""
        for _ in range(3):
            first = self.offer("a", constant(1))
        self.device.apply(first)
        (tmp_path / "new").mkdir()
        other = Signer(tmp_path / "new")
        second = written(tmp_path / "new", "b", constant(2))
        other.sign(second)
        device = Device(self.device.folder, trust=other.root)
        state = device.apply(second)
        assert state.active is not None
        assert state.waiting is not None
        assert state.waiting.held.serial < state.active.serial

    def test_after_a_stolen_key_what_the_message_says_helps(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thief's serial is as large as can be: going back brings an honest one."""
        self.device.apply(self.offer("a", constant(1)))
        stolen = self.offer("b", constant(2))
        check = TrustStore.check

        def largest(trust: TrustStore, *rest: Any) -> Any:
            return replace(check(trust, *rest), serial=1 << 62)

        monkeypatch.setattr(TrustStore, "check", largest)
        self.device.apply(stolen)
        monkeypatch.undo()
        self.device.confirm()
        repair = self.offer("c", constant(3))
        self.refused(lambda: self.device.apply(repair), "stolen key, go back first: agentkd device")
        self.device.rollback()
        assert self.device.apply(repair).waiting is not None

    def test_what_came_without_trust_does_not_act_with_it(self, tmp_path: Path) -> None:
        """Neither as the confirmed executor nor as the next one."""
        plain = Device(tmp_path / "device")
        plain.apply(written(tmp_path, "a", constant(1)))
        with pytest.raises(DeviceError, match="came onto the device unsigned"):
            self.device.executor()
        plain.apply(written(tmp_path, "b", constant(2)))
        assert self.device.begin() is None
        last = self.device.status().last
        assert last is not None
        assert last.reason == "unsigned"
        # A signed one is welcome, and is the first that a program can start with.
        self.device.apply(self.offer("c", constant(3)))
        assert acts(self.device) == 3

    def test_a_repository_is_watched(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The command lets in what is new, waits for a trial, and says what is refused once."""
        words = ["device", "watch", str(self.signer.folder), "--name", "e.akd"]
        words += ["--folder", str(self.device.folder), "--trust", str(self.signer.root)]
        assert main(words) == 1
        assert "no signed 'e.akd'" in capsys.readouterr().out
        self.offer("e", constant(1))
        assert main(words) == 0
        assert acts(self.device) == 1
        self.offer("e", constant(2))
        assert main(words) == 0
        assert "STAGED" in capsys.readouterr().out
        self.offer("e", constant(3))
        assert main(words) == 0
        assert "Let its trial end" in capsys.readouterr().out
        self.device.rollback()
        assert main(words) == 0
        self.device.confirm()
        assert acts(self.device) == 3
        self.offer("e", initial("mlp:4", BOX))
        assert main(words) == 1
        assert "acts in" in capsys.readouterr().out

    def test_a_repository_is_looked_at_again_and_again(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Until Ctrl-C, with pauses; what did not change is not said again."""
        self.offer("e", constant(1))
        paused: list[float] = []

        def pause(seconds: float) -> None:
            paused.append(seconds)
            if len(paused) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr("agentkd.cli.device.time.sleep", pause)
        words = ["device", "watch", str(self.signer.folder), "--name", "e.akd", "--every", "9"]
        words += ["--folder", str(self.device.folder), "--trust", str(self.signer.root)]
        assert main(words) == 130
        assert paused == [9.0] * 3
        assert capsys.readouterr().out.count("CONFIRMED") == 1

    def test_only_what_is_new_is_fetched_and_nobody_waits_for_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others may change the state meanwhile; what was refused is neither fetched nor noted."""
        fetched: list[str] = []
        fetch = TrustStore.fetch

        def slow(trust: TrustStore, address: str, name: str, most: int) -> Any:
            folder = os.open(self.device.folder, os.O_RDONLY)
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(folder)
            fetched.append(name)
            return fetch(trust, address, name, most)

        monkeypatch.setattr(TrustStore, "fetch", slow)
        watch = Watch(self.device, str(self.signer.folder), "e.akd")
        said: list[str] = []
        unfit = initial("mlp:4", BOX)
        for executor in (constant(1), None, unfit, None, constant(2), None, constant(3), None):
            if executor is not None:
                self.offer("e", executor)
            before = self.device.path.stat().st_ino if said else 0
            said.append(watch.look())
            if executor is None:
                assert self.device.path.stat().st_ino == before
        # The last of them waits for the trial of the one before, and is not fetched yet.
        assert len(fetched) == 3
        assert [bool(text) for text in said] == [True, False] * 4
        # A slot that was damaged is fetched again.
        self.device.confirm()
        self.offer("e", constant(2))
        watch.look()
        assert len(fetched) == 3
        (self.device.folder / "slot-b.akd").write_bytes(b"x")
        watch.look()
        assert (len(fetched), self.device.status().waiting is not None) == (4, True)

    def test_a_refusal_that_is_known_is_not_written_again(self) -> None:
        """By another process either."""
        self.device.apply(self.offer("a", constant(1)))
        other = self.offer("other", initial("mlp:4", BOX))
        found = []
        for _ in range(2):
            device = Device(self.device.folder, trust=self.signer.root)
            self.refused(lambda: device.apply(other), "acts in")  # noqa: B023 (called at once)
            found.append(device.path.stat())
        assert (found[0].st_ino, found[0].st_mtime_ns) == (found[1].st_ino, found[1].st_mtime_ns)

    def test_what_comes_from_elsewhere_needs_a_signature(self, tmp_path: Path) -> None:
        """Without trust nothing is fetched."""
        with pytest.raises(DeviceError, match=r"root\.json"):
            Device(tmp_path / "plain").fetch(str(self.signer.folder), "e.akd")
