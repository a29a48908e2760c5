"""`agentkd fleet`: what its words do, what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkd.cli import fleet_demo
from agentkd.cli.main import main, parse
from agentkd.fleet.decisions import decide
from agentkd.fleet.office import Office
from agentkd.signing.proof import proof_path
from tests.fleet_world import executor_file
from tests.signing import Signer

pytest.importorskip("cryptography")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server's folder with two devices."""
    found = tmp_path / "fleet"
    assert main(["fleet", "setup", str(found), "--site", "plant"]) == 0
    office = Office(found)
    for name in ("a", "b"):
        report(office, name)
    return found


def report(office: Office, name: str, **told: Any) -> None:
    """Let a device report, and what is due happen."""
    office.look()
    known = office.fleet.devices.get(name)
    seen = known.target.revision if known is not None and known.target is not None else 0
    event = {
        "what": "device", "device": name, "online": True, "boot": "0" * 16, "session": 1,
        "seen": seen, "phase": "IDLE", "digest": "", "active": "", "reason": "", "text": "", **told,
    }  # fmt: skip
    office.change(lambda _: [event])
    settle(office)


def settle(office: Office) -> None:
    """Let what is due happen."""
    office.look()
    while decide(office.fleet, office.clock()):
        office.change(lambda fleet: decide(fleet, office.clock()))


def test_from_setup_to_a_stop(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Push, status, pause, resume, watch and audit tell one story."""
    file = executor_file(tmp_path)
    words = ["fleet", "push", str(folder), str(file), "--waves", "50,100", "--sample", "1"]
    assert main([*words, "--abort", "refused=0.5", "--limit", "60"]) == 0
    assert "signature not checked" in capsys.readouterr().out
    office = Office(folder)
    settle(office)
    plan = office.fleet.plans[office.fleet.number - 1]
    assert (plan.waves, plan.sample, plan.limit) == ((50.0, 100.0), 1, 60.0)
    assert plan.abort == {"refused": 0.5, "rolled-back": 0.05, "timed-out": 0.2}
    assert main(["fleet", "status", str(folder)]) == 0
    assert "Wave 1 of 2, 50 %" in capsys.readouterr().out
    assert main(["fleet", "pause", str(folder)]) == 0
    assert "It is paused" in capsys.readouterr().out
    assert main(["fleet", "pause", str(folder)]) == 2
    assert "pause goes with one that is running" in capsys.readouterr().err
    assert main(["fleet", "resume", str(folder)]) == 0
    settle(office)
    asked = next(name for name, each in office.fleet.devices.items() if each.asked)
    report(office, asked, phase="ROLLED_BACK", digest=plan.digest, reason="score", text="It fell.")
    capsys.readouterr()
    assert main(["fleet", "watch", str(folder)]) == 1
    assert "1 of 1 devices rolled it back" in capsys.readouterr().out
    assert main(["fleet", "audit", str(folder), "--since", "4"]) == 0
    said = capsys.readouterr().out
    assert "push executor.akd" in said
    assert "ROLLED_BACK" in said
    assert "created" not in said
    assert f"{office.fleet.number} lines verified" in said
    assert main(["fleet", "audit", str(folder), "--json", "--since", "2000-01-01"]) == 0
    lines = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert [each["number"] for each in lines] == list(range(1, office.fleet.number + 1))
    assert lines[0]["what"] == "created"


def test_a_watch_ends_with_the_rollout(folder: Path, tmp_path: Path) -> None:
    """Status 0 when every device that answered has confirmed it."""
    file = executor_file(tmp_path)
    assert main(["fleet", "push", str(folder), str(file), "--waves", "100"]) == 0
    office = Office(folder)
    settle(office)
    assert office.fleet.rollout is not None
    digest = office.fleet.rollout.plan.digest
    for name in ("a", "b"):
        report(office, name, phase="CONFIRMED", digest=digest, active=digest)
    assert main(["fleet", "watch", str(folder)]) == 0
    assert main(["fleet", "rollback", str(folder)]) == 0
    assert main(["fleet", "watch", str(folder)]) == 1


def test_a_folder_with_a_root_takes_signed_files_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unsigned file, or one whose proof is of another, is refused at the push."""
    (tmp_path / "signer").mkdir()
    signer = Signer(tmp_path / "signer")
    file = executor_file(tmp_path)
    (folder / "root.json").write_bytes(signer.root.read_bytes())
    assert main(["fleet", "push", str(folder), str(file)]) == 2
    assert "is unsigned" in capsys.readouterr().err
    signer.sign(file)
    other = executor_file(tmp_path, 1, "other.akd")
    proof_path(other).write_bytes(proof_path(file).read_bytes())
    assert main(["fleet", "push", str(folder), str(other)]) == 2
    assert "is not the file that was signed" in capsys.readouterr().err
    assert main(["fleet", "push", str(folder), str(file)]) == 0
    assert "serial 2" in capsys.readouterr().out


def test_a_tampered_trail_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command refuses it, and says which line."""
    path = folder / "audit.log"
    path.write_bytes(path.read_bytes().replace(b'"device":"a"', b'"device":"z"'))
    for action in ("status", "audit", "pause"):
        assert main(["fleet", action, str(folder)]) == 2
        assert "line 2 does not verify" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["push", "FOLDER"], "and an executor file"),
        (["push", "FOLDER", "x.akd", "--waves", "5,x"], "--waves '5,x'"),
        (["push", "FOLDER", "FILE", "--waves", "50"], "waves are 50"),
        (["push", "FOLDER", "FILE", "--abort", "refused"], "--abort 'refused'"),
        (["push", "FOLDER", "FILE", "--abort", "eaten=0.1"], "'eaten'"),
        (["push", "FOLDER", "FILE", "--sample", "0"], "sample is 0"),
        (["push", "FOLDER", "FILE", "--limit", "-1"], "limit is -1"),
        (["status", "FOLDER", "x"], "x is one too many"),
        (["status", "FOLDER", "--waves", "5"], "--waves goes with fleet push, not fleet status"),
        (["status"], "takes the server's folder"),
        (["status", "nowhere"], "agentkd fleet setup nowhere"),
        (["audit", "FOLDER", "--since", "yesterday"], "--since 'yesterday'"),
        (["setup", "FOLDER", "--site", "other"], "--site plant"),
        (["setup", "FOLDER", "--devices", "a"], "--broker-name"),
        (["serve", "FOLDER", "--metrics-port", "70000"], "--metrics-port 70000"),
        (["demo", "FOLDER"], "is not empty"),
        (["demo", "--landers", "0"], "--landers 0"),
        (["demo", "--executor", "nowhere.akd"], "nowhere.akd is not there"),
    ],
)
def test_mistakes_name_the_value(
    folder: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A word that cannot be meant ends in status 2, with the value and the remedy."""
    place = {"FOLDER": str(folder), "FILE": str(executor_file(tmp_path))}
    if words[0] == "demo" and "--executor" not in words:
        words = [*words, "--executor", place["FILE"]]
    assert main(["fleet", *(place.get(each, each) for each in words)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_setup_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a broker's name it makes certificates, and says what a device runs."""
    words = ["fleet", "setup", str(tmp_path / "line3"), "--broker-name", "broker.example"]
    assert main([*words, "--devices", "arm-1, arm-2"]) == 0
    said = capsys.readouterr().out
    assert "mosquitto -c" in said
    told = next(line for line in said.splitlines() if line.startswith("there:"))
    command = told.split("agentkd device ")[1].split()
    assert command[:2] == ["run", "mqtts://broker.example:8883"]
    assert str(parse("device", command).broker.tls_key) == "device.key"
    assert "--site line3" in said
    assert "root.json is missing" in said
    assert (tmp_path / "line3" / "devices" / "arm-2" / "device.key").exists()


@pytest.mark.parametrize(
    "broker", [False, pytest.param(True, marks=pytest.mark.needs("mosquitto"))]
)
def test_the_demo_ends_well_and_stops_the_bad_one(
    broker: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four landers, with and without a broker: one executor is confirmed, the other stopped."""
    for package in ("Box2D", "gymnasium", "tuf", "aiomqtt"):
        pytest.importorskip(package)
    if not broker:
        monkeypatch.setattr(fleet_demo, "_mosquitto", lambda: None)
    executor = Path(__file__).parents[1] / "policies" / "lunarlander" / "executor.akd"
    home = tmp_path / "demo"
    words = ["fleet", "demo", str(home), "--executor", str(executor), "--landers", "4"]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("a hub in memory takes its place" in said) is not broker
    assert "4 of 4 landers confirmed lander-2.akd" in said
    assert "lander-3-shuffled.akd was stopped in wave 1: 1 of 1 devices rolled it back" in said
    assert "no lander was left without an executor" in said
    assert main(["fleet", "audit", str(home / "fleet")]) == 0


def test_a_file_that_ends_early_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says which file it is, and nothing is pushed."""
    cut = tmp_path / "cut.akd"
    cut.write_bytes(executor_file(tmp_path).read_bytes()[:1000])
    assert main(["fleet", "push", str(folder), str(cut)]) == 2
    assert f"{cut}: " in capsys.readouterr().err.replace("\n", "")
