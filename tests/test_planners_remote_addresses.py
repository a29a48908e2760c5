"""Addresses, tokens and TLS of served planners, and the command that serves them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agentkd.errors import ConfigError, PlannerError
from agentkd.planners import load_planner
from agentkd.planners.remote import server as serving
from agentkd.planners.remote.client import RemotePlanner
from agentkd.planners.remote.server import PlannerServer
from agentkd.planners.remote.wire import Address, address_of, read_token
from tests.runtime_children import SPEC, Echo
from tests.test_planners_remote import (
    ROOT,
    batch,
    connect,
    hung_up,  # noqa: F401 (a fixture)
    kept,
    planner,
    served,
    vanish,
)
from tests.waiting import ENOUGH


def test_address_is_a_reference_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ws://…` loads as a planner, with the token of the environment."""
    with served(Echo(), token="secret") as server:
        monkeypatch.setenv("AGENTKD_TOKEN", "secret")
        known = load_planner(server.address, SPEC)
        assert isinstance(known.policy, RemotePlanner)
        kept(known.policy)
        assert known.parameters == 7
        assert "a stub at ws://" in known.name
        monkeypatch.delenv("AGENTKD_TOKEN")
        file = tmp_path / "token"
        file.write_text("secret\n")
        monkeypatch.setenv("AGENTKD_TOKEN_FILE", str(file))
        again = load_planner(server.address, SPEC)
        assert isinstance(again.policy, RemotePlanner)
        assert kept(again.policy).spec == SPEC
    file.write_text("")
    with pytest.raises(ConfigError, match="empty"):
        read_token(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ws://10.0.0.7:99", Address(False, "10.0.0.7", 99)),
        ("wss://robot", Address(True, "robot", 4750)),
        ("ws://[::1]:99", Address(False, "::1", 99)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    """Host and port; the port may be left out."""
    assert address_of(text) == expected
    assert str(expected).startswith(text)


def test_what_cannot_be_meant_is_refused() -> None:
    """Open to everybody without a token, or a port that is taken: refused."""
    for text in ("ws://", "ws://host:x", "ws://host:99999", "tcp://a:1", "ws://a/b"):
        with pytest.raises(ConfigError, match="not an address"):
            address_of(text)
    with pytest.raises(ConfigError, match="everybody"):
        PlannerServer(planner(Echo()), host="0.0.0.0")
    with served(Echo()) as server:
        port = address_of(server.address).port
        with pytest.raises(ConfigError, match="not available"):
            PlannerServer(planner(Echo()), port=port)
    with pytest.raises(PlannerError, match="cannot be reached"):
        RemotePlanner(f"ws://127.0.0.1:{port}", patience=0)


def test_serve_command_serves_until_it_is_told_to_end() -> None:
    """`agentkd serve` prints its address, answers, and ends on Ctrl-C with a count."""
    command = [sys.executable, "-m", "agentkd", "serve", "tests.cli_planners:balance"]
    child = subprocess.Popen(
        [*command, "--env", "CartPole-v1", "--port", "0", "--token-file", "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin, child.stdout:
        child.stdin.write("secret\n")
        child.stdin.close()
        line = ""
        while "ws://" not in line:
            line = child.stdout.readline()
            assert line, "it said nothing"
        address = line[line.index("ws://") :].split()[0]
        remote = kept(RemotePlanner(address, token="secret", patience=ENOUGH))
        answer = remote(np.array([[0, 0, 0.2, 0]], np.float32))
        assert answer.logits.argmax() == 1
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read()
        assert "1 question" in rest
        assert child.wait(ENOUGH) == 0


def test_a_token_never_crosses_a_network_unencrypted() -> None:
    """Neither end takes it beyond this machine without TLS."""
    with pytest.raises(ConfigError, match="unencrypted"):
        RemotePlanner("ws://192.0.2.1:4750", token="secret", patience=0)
    with pytest.raises(ConfigError, match="certificate"):
        PlannerServer(planner(Echo()), host="0.0.0.0", token="secret")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for this machine that signs itself, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj"]
    command += ["/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    return cert, key


@pytest.mark.needs("openssl")
def test_tls_encrypts_and_proves_the_server(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wss://` asks a server whose certificate is trusted, and no other."""
    cert, key = certificate
    with served(Echo(), cert=cert, key=key, token="secret") as server:
        assert server.address.startswith("wss://")
        remote = connect(server, token="secret", ca=cert)
        assert remote(batch(3)).logits.argmax() == 3
        with pytest.raises(PlannerError, match="AGENTKD_CA_FILE"):
            connect(server, token="secret")
        with pytest.raises(PlannerError, match="cannot be reached"):
            kept(RemotePlanner(server.address.replace("wss", "ws"), patience=0))
        monkeypatch.setenv("AGENTKD_CA_FILE", str(cert))
        with pytest.raises(PlannerError, match="token"):
            connect(server, token="guess")
        again = connect(server, token="secret")
        vanish(remote)
        assert again(batch(2)).logits.argmax() == 2
        assert remote(batch(1)).logits.argmax() == 1
    with pytest.raises(ConfigError, match="certificates"):
        RemotePlanner(server.address, ca=key.with_name("none"), patience=0)
    with pytest.raises(ConfigError, match="The certificate"):
        PlannerServer(planner(Echo()), cert=key.with_name("none"))


@pytest.mark.needs("openssl")
def test_who_holds_up_the_handshake_of_tls_is_a_stranger_too(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest has to go when another one comes."""
    monkeypatch.setattr(serving, "_STRANGERS", 4)
    cert, key = certificate
    with served(Echo(), cert=cert, key=key) as server, contextlib.ExitStack() as stack:
        at = address_of(server.address)
        idle = [
            stack.enter_context(socket.create_connection((at.host, at.port), timeout=ENOUGH))
            for _ in range(10)
        ]
        for each in idle[:6]:
            with contextlib.suppress(ConnectionError):
                assert each.recv(1) == b""
        assert connect(server, ca=cert)(batch(1)).logits.argmax() == 1
