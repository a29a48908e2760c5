"""Repositories of signed files: what is missing, damaged, slow or endless."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import LoadError, SignatureError
from agentkd.signing import repository as repositories
from agentkd.signing.proof import Proof, proof_from_bytes
from agentkd.signing.store import TrustStore
from tests.signing import DATA, Signer, check

pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")


def test_a_signed_file_that_is_missing_is_told(tmp_path: Path) -> None:
    """In a folder too, and not as a disk that is full."""
    signer = Signer(tmp_path)
    signer.sign()
    for path in (signer.folder / "targets").iterdir():
        path.unlink()
    with pytest.raises(SignatureError, match=r"targets/.*Copy the whole") as caught:
        signer.trust().fetch(str(signer.folder), "executor.akd", 100)
    assert caught.value.reason == "missing"


def test_the_newest_signature_of_a_file_counts(tmp_path: Path) -> None:
    """Under whatever name it was: so an older executor is let in again by signing it again."""
    signer = Signer(tmp_path)
    signer.sign()
    again = tmp_path / "walk-3.akd"
    again.write_bytes(DATA)
    found = check(signer.trust(), signer.sign(again))
    assert (found.name, found.serial) == ("walk-3.akd", 3)


def test_more_roots_than_a_device_follows_lead_on_from_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The signer says which; a proof holds no more roots than a device reads."""
    signer = Signer(tmp_path)
    monkeypatch.setattr(repositories, "MOST_ROOTS", 3)
    for _ in range(2):
        signer.rotate("timestamp")
    assert check(signer.trust(), signer.sign()).root == 3
    assert not caplog.records
    for _ in range(2):
        signer.rotate("timestamp")
    files = signer.sign()
    assert "give devices metadata/3.root.json" in caplog.text
    assert sorted(each for each in files if "root" in each) == [f"{n}.root.json" for n in (3, 4, 5)]
    late = TrustStore(signer.folder / "metadata" / "3.root.json")
    assert check(late, files).root == 5
    with pytest.raises(SignatureError, match="Only what the keys of") as caught:
        check(signer.trust(), files)
    assert caught.value.reason == "signature"


def test_a_proof_has_as_many_roots_as_a_device_follows() -> None:
    """257; more are refused before any is read."""
    names = [f"{number}.root.json" for number in range(1, 258)]
    names += ["timestamp.json", "9.snapshot.json", "9.targets.json"]
    proof = Proof(dict.fromkeys(names, b"{}"))
    assert len(proof_from_bytes(proof.to_bytes()).files) == 260
    more = Proof({**proof.files, "258.root.json": b"{}"})
    with pytest.raises(LoadError, match="at most 260"):
        proof_from_bytes(more.to_bytes())


def test_a_damaged_memory_is_no_licence(tmp_path: Path) -> None:
    """It guards against rollbacks, so its loss is an error and not a new beginning."""
    signer = Signer(tmp_path)
    memory = tmp_path / "memory.json"
    files = signer.sign()
    check(signer.trust(memory), files)
    memory.write_bytes(memory.read_bytes()[:-9])
    with pytest.raises(SignatureError, match="remove it") as caught:
        check(signer.trust(memory), files)
    assert caught.value.reason == "damaged"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Signer, str, dict[str, Any]]]:
    """A repository behind HTTP, its address, and what the server says instead, by path's end."""
    signer = Signer(tmp_path)
    instead: dict[str, Any] = {}
    signer.sign()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            for end, answer in instead.items():
                if self.path.endswith(end):
                    self.send_response(200)
                    self.end_headers()
                    for piece in answer():
                        try:
                            self.wfile.write(piece)
                        except OSError:
                            return
                    return
            path = signer.folder / self.path.lstrip("/")
            if path.is_file():
                self.send_response(200)
                self.end_headers()
                self.wfile.write(path.read_bytes())
            else:
                self.send_error(404)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield signer, f"http://127.0.0.1:{server.server_port}", instead
    server.shutdown()
    server.server_close()
    thread.join()


def endless() -> Iterator[bytes]:
    """Never stop."""
    while True:
        yield b" " * 65536


def test_a_repository_is_read_over_http(
    served: tuple[Signer, str, dict[str, Any]], tmp_path: Path
) -> None:
    """A folder and an address give the same; what is too large, endless or altered is refused."""
    signer, address, instead = served
    trust = signer.trust(tmp_path / "memory.json")
    assert trust.fetch(address, "executor.akd", 1000) == trust.fetch(
        str(signer.folder), "executor.akd", 1000
    )
    for name, most, answer, end, reason in (
        ("other.akd", 1000, None, "", "missing"),
        ("executor.akd", 5, None, "", "large"),
        ("executor.akd", 1000, endless, "timestamp.json", "large"),
        ("executor.akd", 1000, endless, ".executor.akd", "large"),
        ("executor.akd", 1000, lambda: [DATA[::-1]], ".executor.akd", "digest"),
        ("executor.akd", 1000, lambda: [DATA[:-1]], ".executor.akd", "digest"),
    ):
        instead.clear()
        if answer is not None:
            instead[end] = answer
        with pytest.raises(SignatureError) as caught:
            trust.fetch(address, name, most)
        assert caught.value.reason == reason, (name, end)
    instead.clear()
    assert trust.fetch(address, "executor.akd", 1000)[0] == DATA


def test_a_server_that_drips_is_given_up(
    served: tuple[Signer, str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte within each wait keeps the client waiting; a download has one limit."""
    signer, address, instead = served
    monkeypatch.setattr("agentkd.signing.fetching._PATIENCE", 0.2)
    monkeypatch.setattr("agentkd.signing.fetching._SLOWEST", 1e9)
    over = threading.Event()

    def drip() -> Iterator[bytes]:
        while not over.wait(0.02):
            yield b" "

    for end in ("timestamp.json", ".executor.akd"):
        instead.clear()
        instead[end] = drip
        with pytest.raises(SignatureError, match="did not come within") as caught:
            signer.trust().fetch(address, "executor.akd", 1000)
        assert caught.value.reason == "missing"
    over.set()
