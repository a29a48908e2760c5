"""`agentkd fleet label` and `answer`, and what says what leaves a device."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from agentkd.cli.fleet_planner import _answer, _fresh
from agentkd.cli.main import main
from agentkd.distillation import open_dataset
from agentkd.distillation.dataset import About
from agentkd.distillation.recording import DatasetWriter
from agentkd.fleet.asking import FleetPlanner
from agentkd.fleet.knowledge import Knowledge
from agentkd.fleet.notes import Note
from agentkd.fleet.office import Office
from agentkd.fleet.setup import local
from agentkd.frames import pack
from agentkd.planners import Planner
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.transport.memory import Hub
from agentkd.transport.names import Topics
from agentkd.transport.transport import Message
from agentkd.types import Categorical, Floats
from tests.brokers import Mosquitto
from tests.fleet_world import executor_file, office
from tests.virtual_loop import run_virtually

pytest.importorskip("cryptography")
pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]
SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))
PLANNER = "tests.test_cli_fleet_planner:left_or_right"


def left_or_right(obs: Floats) -> Categorical:
    """Choose by the sign of the first number."""
    return Categorical(np.stack([-obs[:, 0], obs[:, 0]], axis=1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server's folder in which an executor was pushed and two devices told something."""
    place = office(tmp_path)
    digest = place.push(executor_file(tmp_path)).digest
    knowledge = Knowledge(place.folder)
    for name, first in (("a", -1.0), ("b", 1.0)):
        obs = np.full((10, 3), first, np.float32)
        knowledge.take(name, Note(digest, obs, np.ones(10, np.float32)).to_bytes())
    return place.folder


def test_what_devices_sent_is_labelled(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a dataset, which distill takes; the command says of how many devices."""
    out = tmp_path / "labels"
    words = ["fleet", "label", str(folder), "--planner", PLANNER, "--out", str(out)]
    assert main(words) == 0
    assert "20 observations of 2 devices" in capsys.readouterr().out
    data = open_dataset(out)
    rows = data.part(0)
    assert (data.labels, data.complete) == (20, True)
    assert isinstance(rows.dist, Categorical)
    assert (rows.dist.logits.argmax(1) == (rows.obs[:, 0] > 0)).all()
    made = tmp_path / "next"
    words = ["--data", str(out), "--executor", "mlp:4", "--steps", "50", "--out", str(made)]
    assert main(["distill", *words]) == 0
    assert (made / "executor.akd").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["label"], "needs --planner"),
        (["label", "--planner", PLANNER], "needs --out"),
        (["answer"], "needs --planner"),
        (["serve", "--planner", PLANNER], "--planner goes with fleet label or answer"),
        (["status", "--collect"], "--collect goes with fleet serve"),
        (["label", "--planner", PLANNER, "--out", "x", "--share", "0.9"], "share is 0.9"),
    ],
)
def test_what_does_not_fit_is_said(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the option and the remedy."""
    assert main(["fleet", words[0], str(folder), *words[1:]]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "--share", "observations"], "go with run"),
        (["run", "mqtt://x", "--share-per-hour", "5"], "--share-per-hour goes with --share"),
        (["run", "mqtt://x", "--share", "../x"], "What may leave is '../x'"),
    ],
)
def test_what_may_leave_is_checked(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is sent."""
    more = ["--site", "s", "--device", "d"] if words[0] == "run" else []
    assert main(["device", *words, "--folder", str(tmp_path), *more]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_labels_are_on_the_disk_after_a_minute(tmp_path: Path) -> None:
    """A kill loses no more; and a disk that refuses loses only what waited for it."""
    about = About(env="", spec=SPEC, planner="a stub")
    hub, out = Hub(), tmp_path / "asked"
    found: list[int] = []

    async def run() -> None:
        now = asyncio.get_running_loop().time
        known = Planner(left_or_right, SPEC, "a stub", 0, "")

        def ended() -> bool:
            return now() > 400

        async def devices() -> None:
            for each in range(3):
                ask = {"id": each, "episode": 0, "method": "call"}
                payload = pack(ask, [np.full((1, 3), each, np.float32)])
                hub.publish(Message(Topics("plant").of("a", "ask"), payload))
                await asyncio.sleep(1)
                blocked = out / "part-00001.safetensors"
                if each == 1:
                    blocked.mkdir()
                await asyncio.sleep(70)
                if each == 1:
                    blocked.rmdir()
                found.append(open_dataset(out).labels)

        asking = asyncio.create_task(devices())
        desk = await _answer(known, hub.line, "plant", writer, ended)
        await asking
        assert desk.counters["unwritten"] == 1

    with DatasetWriter(out, about) as writer:
        run_virtually(run())
    assert found == [1, 1, 2]
    assert open_dataset(out).part(0).obs[:, 0].tolist() == [0]
    assert open_dataset(out).part(1).obs[:, 0].tolist() == [2]


def test_each_start_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """So that a service that is started again is not refused."""
    assert _fresh(tmp_path / "out") == tmp_path / "out" / "0001"
    (tmp_path / "out" / "0009").mkdir(parents=True)
    (tmp_path / "out" / "notes.txt").touch()
    assert _fresh(tmp_path / "out") == tmp_path / "out" / "0010"


@pytest.mark.needs("mosquitto")
def test_a_planner_answers_over_a_real_broker(folder: Path, tmp_path: Path) -> None:
    """In a process of its own, until a signal; each answer is a label."""
    pytest.importorskip("aiomqtt", reason="needs aiomqtt, of the extra mqtt")
    from agentkd.transport.mqtt import MqttTransport
    from agentkd.transport.options import MqttOptions

    out = tmp_path / "asked"
    with Mosquitto(tmp_path) as broker:
        local(folder, broker.port)
        words = ["fleet", "answer", str(folder), "--planner", PLANNER, "--out", str(out)]
        process = subprocess.Popen(
            [sys.executable, "-m", "agentkd", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            connect = partial(MqttTransport, MqttOptions(broker.address, keepalive=5))
            site = Office(folder).fleet.site
            with FleetPlanner(connect, site, "a", SPEC, patience=250.0) as planner:
                answer = planner(np.array([[2, 0, 0], [-2, 0, 0]], np.float32))
                assert isinstance(answer, Categorical)
                assert answer.logits.argmax(1).tolist() == [1, 0]
        finally:
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate()
    assert process.returncode == 0
    assert "1 answered" in " ".join(told.split())
    assert open_dataset(out / "0001").labels == 2
