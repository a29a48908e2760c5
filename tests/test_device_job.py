"""The job handler of the AWS IoT Device Client, run as the client runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.device import Device
from agentkd.device.state import State
from tests.runtime_children import constant
from tests.signing import Signer
from tests.test_device import written
from tests.waiting import ENOUGH, wait_for

ROOT = Path(__file__).parents[1]
HANDLER = ROOT / "examples" / "fleet" / "agentkd-job"
BUCKET = "https://s3.REGION.amazonaws.com/BUCKET/"
pytestmark = pytest.mark.needs("sh", "curl")


class Bucket(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: object) -> None:
        """Do nothing."""


class Client:
    """What the device client does with a job document, by its sources (JobEngine.cpp)."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.handlers = home / "jobs"
        self.handlers.mkdir()
        shutil.copy(HANDLER, self.handlers)
        (self.handlers / HANDLER.name).chmod(0o700)
        self._environment = environment
        self.reported: list[str] = []

    def run(self, document: dict[str, Any]) -> str:
        """Run a job's steps; return the last status that is reported."""
        assert document["version"] == "1.0"
        self.reported.append("IN_PROGRESS")
        for step in document["steps"]:
            action = step["action"]
            assert (action["type"], action["input"]["path"]) == ("runHandler", "default")
            program = self.handlers / action["input"]["handler"]
            assert program.stat().st_mode & 0o777 == 0o700
            words = [program, action.get("runAsUser", ""), *action["input"]["args"]]
            done = subprocess.run(
                words, env=self._environment, capture_output=True, timeout=ENOUGH, check=False
            )
            if done.returncode:
                self.reported.append("FAILED")
                return "FAILED"
        self.reported.append("SUCCEEDED")
        return "SUCCEEDED"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")
    return Signer(tmp_path)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "bucket").mkdir()
    serve = partial(Bucket, directory=str(tmp_path / "bucket"))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def client(tmp_path: Path, signer: Signer) -> Client:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("agentkd", f'exec {sys.executable} -m agentkd "$@"'),
        ("sudo", f'printf \'%s\\n\' "$*" >>{tmp_path}/sudo\nshift 4\nexec "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "no_proxy": "127.0.0.1",
        "AGENTKD_FOLDER": str(tmp_path / "device"),
        "AGENTKD_TRUST": str(signer.root),
    }
    return Client(tmp_path, environment)


def document(address: str, name: str, user: str = "") -> dict[str, Any]:
    """The document that the handler's head shows, with what AWS fills in."""
    head = HANDLER.read_text().partition("set -eu")[0]
    start = head.index('{"version"')
    text = head[start : head.index("]}}}]}") + len("]}}}]}")].replace("\n#", "\n")
    found = json.loads(text)
    action = found["steps"][0]["action"]
    action["runAsUser"] = user
    signed = "${aws:iot:s3-presigned-url:" + BUCKET
    assert all(each.startswith(signed) for each in action["input"]["args"])
    names = [each.removeprefix(signed).removesuffix("}") for each in action["input"]["args"]]
    action["input"]["args"] = [address + each.replace("walk-7", name) for each in names]
    return dict(found)


def state(folder: Path) -> State:
    return Device(folder).status()


def acts(folder: Path) -> int:
    return int(Device(folder).executor().act(np.zeros(3, np.float32)))


def test_jobs_update_a_device(
    client: Client, signer: Signer, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first executor succeeds, a confirmed one does, one that no program tries fails."""
    bucket, folder = tmp_path / "bucket", tmp_path / "device"
    for number in (1, 2, 3):
        signer.sign(written(bucket, f"n{number}", constant(number)))
    assert client.run(document(address, "n1")) == "SUCCEEDED"
    assert acts(folder) == 1
    # The same job once more, as after a restart of the client.
    assert client.run(document(address, "n1")) == "SUCCEEDED"
    job = threading.Thread(target=client.run, args=[document(address, "n2")])
    job.start()
    wait_for(lambda: state(folder).waiting)
    Device(folder).confirm()
    job.join()
    assert client.reported[-2:] == ["IN_PROGRESS", "SUCCEEDED"]
    assert acts(folder) == 2
    monkeypatch.setitem(client._environment, "AGENTKD_SECONDS", "0")
    assert client.run(document(address, "n3")) == "FAILED"
    assert state(folder).waiting is None
    assert acts(folder) == 2
    # As another user, everything is done as that one. An older proof would be refused.
    signer.sign(bucket / "n2.akd")
    assert client.run(document(address, "n2", user="robot")) == "SUCCEEDED"
    words = [line.split()[:5] for line in (tmp_path / "sudo").read_text().splitlines()]
    assert {tuple(each[:4]) for each in words} == {("-n", "-u", "robot", "--")}
    assert [each[4] for each in words] == ["mktemp", "curl", "curl", "agentkd", "agentkd", "rm"]
    assert not list(tmp_path.glob("tmp.*"))


def test_jobs_that_bring_nothing_good_fail(
    client: Client, signer: Signer, address: str, tmp_path: Path
) -> None:
    """An address that leads nowhere, a proof of something else, no proof, another scheme."""
    bucket, folder = tmp_path / "bucket", tmp_path / "device"
    signer.sign(written(bucket, "good", constant(1)))
    assert client.run(document(address, "good")) == "SUCCEEDED"
    before = state(folder)
    written(bucket, "unsigned", constant(2))
    written(bucket, "other", constant(2))
    shutil.copy(bucket / "good.akd.proof", bucket / "other.akd.proof")
    for name in ("absent", "unsigned", "other"):
        assert client.run(document(address, name)) == "FAILED"
    job = document(f"file://{bucket}/", "good")
    assert client.run(job) == "FAILED"
    job["steps"][0]["action"]["input"]["args"].pop()
    assert client.run(job) == "FAILED"
    assert state(folder) == before
    assert not list(tmp_path.glob("tmp.*"))
