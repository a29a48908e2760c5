"""Signatures that another process checks: the same answers, and its libraries are not loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentkd.device import Device
from agentkd.errors import ConfigError, DeviceError, SignatureError, WriteError
from agentkd.signing import apart, store
from agentkd.signing.proof import Proof
from agentkd.signing.store import TrustStore
from tests.runtime_children import constant
from tests.signing import DATA, Signer, check
from tests.test_device import acts, written
from tests.test_signing_attacks import ATTACKS

ROOT = Path(__file__).resolve().parents[1]

pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """A repository in which two of two keys sign."""
    return Signer(tmp_path, keys=2, threshold=2)


def apart_from(signer: Signer, folder: Path) -> TrustStore:
    """Return what trusts a repository, has a memory, and checks in another process."""
    folder.mkdir(exist_ok=True)
    return TrustStore(signer.root, folder / "trust.json", apart=True)


def test_it_says_and_remembers_what_this_process_would(signer: Signer, tmp_path: Path) -> None:
    """Also after newer metadata, and of a file under another name."""
    here, there = signer.trust(tmp_path / "here.json"), apart_from(signer, tmp_path / "there")
    for _ in range(2):
        files = signer.sign()
        assert check(there, files) == check(here, files)
        assert (tmp_path / "there" / "trust.json").read_bytes() == (
            tmp_path / "here.json"
        ).read_bytes()
    assert [each.name for each in (tmp_path / "there").iterdir()] == ["trust.json"]


@pytest.mark.parametrize("name", ["one key as two", "a rogue root", "expired targets", "garbage"])
def test_it_refuses_for_the_same_reason(name: str, signer: Signer, tmp_path: Path) -> None:
    """In the same words."""
    attack, reason = ATTACKS[name]
    files = attack(signer.sign(), signer)
    said = []
    for trust in (signer.trust(tmp_path / "here.json"), apart_from(signer, tmp_path / "there")):
        with pytest.raises(SignatureError) as caught:
            check(trust, files)
        assert caught.value.reason == reason
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_what_it_has_seen_counts_against_a_rollback(signer: Signer, tmp_path: Path) -> None:
    """It is kept though the file was another one."""
    old, new = signer.sign(), signer.sign()
    trust = apart_from(signer, tmp_path / "there")
    with pytest.raises(SignatureError, match="not the file that was signed"):
        trust.check(DATA[:-1], Proof(new))
    with pytest.raises(SignatureError) as caught:
        check(trust, old)
    assert caught.value.reason == "rollback"


def test_an_anchor_that_changed_is_told(signer: Signer, tmp_path: Path) -> None:
    """A device goes by the one that it started with."""
    files = signer.sign()
    trust = apart_from(signer, tmp_path / "there")
    signer.root.write_bytes(signer.root.read_bytes() + b" ")
    with pytest.raises(SignatureError, match="changed while a program ran"):
        check(trust, files)


def test_a_missing_folder_is_told_in_the_same_words(signer: Signer, tmp_path: Path) -> None:
    """What cannot be kept, where, and that nothing was accepted."""
    files, said = signer.sign(), []
    for apart_too in (False, True):
        with pytest.raises(WriteError, match=r"kept in .*No such file.*Nothing was acc") as caught:
            check(TrustStore(signer.root, tmp_path / "no" / "trust.json", apart=apart_too), files)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_names_that_are_no_text_are_checked_too(signer: Signer, tmp_path: Path) -> None:
    """That of the file, the anchor's, and the folder's of the memory."""
    files, odd = signer.sign(), tmp_path / os.fsdecode(b"odd\xff")
    odd.mkdir()
    anchor = odd / "root.json"
    anchor.write_bytes(signer.root.read_bytes())
    trust, said = TrustStore(anchor, odd / "trust.json", apart=True), []
    assert trust.check(DATA, Proof(files), odd).serial
    for each in (trust, TrustStore(anchor)):
        with pytest.raises(SignatureError) as caught:
            each.check(DATA[:-1], Proof(files), odd)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("apart_too", [False, True])
def test_a_check_puts_no_older_memory_over_a_newer_one(
    apart_too: bool, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another check may end while one is under way; what it has seen still counts."""
    memory = tmp_path / "trust.json"
    trust = TrustStore(signer.root, memory, apart=apart_too)
    check(trust, signer.sign())
    old, new = signer.sign(), signer.sign()
    name = "ask" if apart_too else "_lay_out"
    work = getattr(store, name)

    def slow(*given: Any) -> Any:
        monkeypatch.setattr(store, name, work)
        check(signer.trust(memory), new)
        return work(*given)

    monkeypatch.setattr(store, name, slow)
    with pytest.raises(WriteError, match=r"meanwhile\. Nothing was accepted\. Try again"):
        check(trust, old)
    with pytest.raises(SignatureError) as caught:
        check(trust, old)
    assert caught.value.reason == "rollback"
    check(trust, new)


@pytest.mark.parametrize(
    "boot",
    [
        f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})",
        "raise MemoryError",
        "print('nonsense')",
        "print('{}')",
        """print('{"memory": "", "name": "x", "serial": "1"}')""",
        """print('{"memory": "", "name": "x", "serial": 1, "root": 1, "expires": "never"}')""",
    ],
    ids=["killed", "raised", "no JSON", "empty", "other types", "no time"],
)
def test_without_an_answer_nothing_comes_in_and_it_may_be_asked_again(
    boot: str, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack of memory passes; it blacklists nothing."""
    path = written(tmp_path, "e", constant(2))
    signer.sign(path)
    device = Device(tmp_path / "device", trust=TrustStore(signer.root, apart=True))
    with monkeypatch.context() as patched:
        patched.setattr(apart, "_BOOT", boot)
        with pytest.raises(DeviceError, match="could not be checked") as caught:
            device.apply(path)
    assert caught.value.reason == "unwritten"
    assert device.status().active is None
    device.apply(path)
    assert acts(device) == 2


@pytest.mark.parametrize(("kind", "wanted"), [("config", ConfigError), ("unwritten", WriteError)])
def test_other_errors_keep_their_class(
    kind: str, wanted: type[Exception], signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a package that is missing, or a full disk."""
    files = signer.sign()
    told = f"""print('{{"memory": "", "error": "{kind}", "text": "so"}}')"""
    monkeypatch.setattr(apart, "_BOOT", told)
    with pytest.raises(wanted, match="so"):
        check(TrustStore(signer.root, apart=True), files)


def test_a_device_agent_loads_nothing_that_checks_signatures(
    signer: Signer, tmp_path: Path
) -> None:
    """Nor after an update: the process that did has ended."""
    pytest.importorskip("aiomqtt", reason="needs aiomqtt, of the extra mqtt")
    path = written(tmp_path, "e", constant(2))
    signer.sign(path)
    code = (
        "import sys, agentkd.cli.device_run; from agentkd.device import Device\n"
        "from agentkd.fleet.device import Follower\n"
        "from agentkd.signing.store import TrustStore\n"
        "from agentkd.transport.mqtt import MqttTransport, MqttOptions\n"
        f"trust = TrustStore({str(signer.root)!r}, apart=True)\n"
        f"device = Device({str(tmp_path / 'd')!r}, trust=trust)\n"
        "MqttTransport(MqttOptions('mqtt://127.0.0.1:1'))\n"
        f"device.apply({str(path)!r})\n"
        "print(*{each.partition('.')[0] for each in sys.modules}, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"cryptography", "gymnasium", "securesystemslib", "torch", "tuf", "urllib3"}
    heavy |= {"rich", "tyro", "scipy", "pandas", "numpy.random", "agentkd.deploy.verify"}
    assert set(done.stdout.split()) & heavy == set()


def test_the_command_needs_no_typeguard(tmp_path: Path) -> None:
    """It takes a start 60 ms and 4 MB, where tyro meets `X | None`."""
    pytest.importorskip("tyro", reason="needs tyro, of the extra cli")
    code = (
        "import sys; from agentkd.cli.main import main\n"
        f"main(['device', 'status', '--folder', {str(tmp_path)!r}])\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"asyncio", "cryptography", "email", "http", "ssl", "torch", "tuf", "typeguard"}
    assert set(done.stdout.split()) & heavy == set()
