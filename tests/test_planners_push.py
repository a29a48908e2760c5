"""`agentkd push`: to a stand-in of the Hub on this machine, never to the network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from agentkd.errors import ConfigError, LoadError
from agentkd.planners import push

ROOT = Path(__file__).parents[1]
FIRST = "f" * 40
REPO = "some/policy"


class Hub:
    """The endpoints of the Hub that an upload and a download use, over one repository in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commit = ""
        self.summary = ""
        self.large: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.token: str | None = "secret"
        self.race = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def take(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                sent = self.rfile.read(length)
                path = unquote(urlsplit(self.path).path)
                outer.asked.append((self.command, path))
                writes = self.command in ("POST", "PUT") and not path.startswith("/store/")
                given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                more: dict[str, str] = {}
                status, data = 401, b'{"error": "Invalid token."}'
                if not writes or given == outer.token:
                    status, data, more = outer.answer(self.command, path, sent)
                self.send_response(status)
                for name, value in {**more, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

        for method in ("GET", "HEAD", "POST", "PUT"):
            setattr(Handler, f"do_{method}", Handler.take)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, method: str, path: str, sent: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Status, bytes and headers for a request."""
        if method == "PUT":
            self.large[path.removeprefix("/store/")] = sent
            return 200, b"", {}
        if method == "POST":
            return self.write(path, sent)
        for revision in ("main", self.commit):
            if self.commit and path == f"/api/models/{REPO}/revision/{revision}":
                return 200, json.dumps(self.told()).encode(), {}
            begin = f"/{REPO}/resolve/{revision}/"
            if path.startswith(begin) and path[len(begin) :] in self.files:
                data = self.files[path[len(begin) :]]
                etag = hashlib.sha256(data).hexdigest()
                return 200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit}
        return 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}

    def told(self) -> dict[str, Any]:
        """What the repository holds; small texts have no SHA-256 there."""
        siblings = []
        for name, data in self.files.items():
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
            known = {} if name.endswith(".md") else {"lfs": lfs}
            siblings.append({"rfilename": name, "size": len(data), **known})
        return {"id": REPO, "sha": self.commit, "siblings": siblings}

    def write(self, path: str, sent: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Make the repository, or commit to it."""
        found: Any = {}
        if path == "/api/repos/create":
            found = {"url": f"{self.address}/{REPO}"}
        elif path.startswith(f"/api/models/{REPO}/preupload/"):
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "regular" if each["path"].endswith(".md") else "lfs",
                    "shouldIgnore": False,
                }
                for each in json.loads(sent)["files"]
            ]
            found = {"files": modes}
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.address}/store/{each['oid']}"}}}
                for each in json.loads(sent)["objects"]
            ]
            found = {"transfer": "basic", "objects": objects}
        elif path.startswith(f"/api/models/{REPO}/commit/"):
            return self.committed(sent)
        return 200, json.dumps(found).encode(), {}

    def committed(self, sent: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Apply a commit, if it goes on the one that is there."""
        lines = [json.loads(each) for each in sent.splitlines()]
        header = lines[0]["value"]
        if self.race or header.get("parentCommit", "") != self.commit:
            return 412, b'{"error": "The repository has another commit."}', {}
        for each in lines[1:]:
            value = each["value"]
            content = base64.b64decode(value["content"]) if each["key"] == "file" else None
            self.files[value["path"]] = content or self.large[value["oid"]]
        self.summary = header["summary"]
        self.commit = hashlib.sha1(sent).hexdigest()
        told = {"commitUrl": f"{self.address}/{REPO}/commit/x", "commitOid": self.commit}
        return 200, json.dumps(told).encode(), {}


@pytest.fixture
def server() -> Iterator[Hub]:
    """A Hub without the repository."""
    pytest.importorskip("huggingface_hub")
    made = Hub()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy's folder, with what goes to the Hub and what does not."""
    place = tmp_path / "policy"
    for name, data in {
        "planner.zip": b"weights",
        "executor.akd": b"executor",
        "executor.akd.proof": b"signed",
        "README.md": b"---\nlibrary_name: agentkd\n---\n",
        "params/agent.yaml": b"seed: 1\n",
        "train.py": b"print()\n",
        ".env": b"HF_TOKEN=x",
        ".git/model.zip": b"no",
        "private.pem": b"key",
        "pulled.json": b"{}",
    }.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


GOES = {"planner.zip", "executor.akd", "executor.akd.proof", "README.md", "params/agent.yaml"}


def run(server: Hub, folder: Path, *words: str, token: str | None = "secret") -> tuple[int, str]:
    """Run agentkd in a process of its own, which reads the address when it begins."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(folder / ".home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    if token is not None:
        environment["HF_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-m", "agentkd", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_folder_is_pushed_and_pulled_again(server: Hub, folder: Path, tmp_path: Path) -> None:
    """What a planner needs goes, with its card; `pull` of that commit gives the same bytes."""
    status, said = run(server, tmp_path, "push", "policy", REPO, "--message", "a walk")
    assert status == 0, said
    assert set(server.files) == GOES
    assert server.files["planner.zip"] == b"weights"
    assert server.summary == "a walk"
    assert f"{REPO}@{server.commit}" in said
    assert hashlib.sha256(b"weights").hexdigest() in said
    status, said = run(server, tmp_path, "pull", f"{REPO}@{server.commit}", "--to", "again")
    assert status == 0, said
    assert (tmp_path / "again" / "planner.zip").read_bytes() == b"weights"
    assert (tmp_path / "again" / "executor.akd").read_bytes() == b"executor"


def test_a_dry_run_lists_and_writes_nothing(server: Hub, folder: Path, tmp_path: Path) -> None:
    """Each file with its SHA-256 and what is there; no request that writes, no token needed."""
    status, said = run(server, tmp_path, "push", "policy", REPO, "--dry-run", token=None)
    assert status == 0, said
    assert "a new repository" in said
    assert "nothing was uploaded" in said
    for name in GOES:
        assert any(
            line.split()[0] == "new" and line.endswith(name) for line in said.splitlines()
        ), name
    for name in ("train.py", ".env", ".git", "private.pem", "pulled.json"):
        assert name not in said
    assert not [each for each in server.asked if each[0] != "GET"]


def test_what_is_there_is_compared(server: Hub, folder: Path, tmp_path: Path) -> None:
    """Only what differs is uploaded, on the commit that was seen; nothing is deleted."""
    assert run(server, tmp_path, "push", "policy", REPO)[0] == 0
    first = server.commit
    (folder / "planner.zip").write_bytes(b"better")
    (folder / "executor.akd").unlink()
    (folder / "README.md").unlink()
    status, said = run(server, tmp_path, "push", "policy", REPO)
    assert status == 0, said
    assert f"on {first}" in said
    assert "No README.md" in said
    words = {line.split()[-1]: line.split()[0] for line in said.splitlines() if len(line) > 60}
    assert words["planner.zip"] == "changed"
    assert words["params/agent.yaml"] == "same"
    assert server.files["planner.zip"] == b"better"
    assert server.files["executor.akd"] == b"executor"
    status, said = run(server, tmp_path, "push", "policy", REPO)
    assert (status, "nothing to upload" in said) == (0, True), said


def test_an_executor_file_goes_with_its_proof_and_card(
    server: Hub, folder: Path, tmp_path: Path
) -> None:
    """And nothing else of its folder."""
    status, said = run(server, tmp_path, "push", "policy/executor.akd", REPO, "--private")
    assert status == 0, said
    assert set(server.files) == {"executor.akd", "executor.akd.proof", "README.md"}


@pytest.mark.parametrize(
    ("words", "change", "text"),
    [
        (["policy", REPO], {"token": "other"}, "hf auth login"),
        (["policy", REPO], {"race": True}, "push again"),
        (["policy", "policy"], {}, "Write OWNER/NAME"),
        (["nowhere", REPO], {}, "nowhere is not there"),
        (["policy", REPO, "--file", "x.zip"], {}, "has no file 'x.zip'"),
        (["policy", REPO, "--file", "../x.zip"], {}, "cannot be uploaded"),
        (["policy/.git/..", REPO, "--file", "pulled.json"], {}, "cannot be uploaded"),
    ],
)
def test_what_cannot_be_pushed_is_named(
    words: list[str], change: dict[str, Any], text: str, server: Hub, folder: Path, tmp_path: Path
) -> None:
    """Nothing is committed then."""
    for name, value in change.items():
        setattr(server, name, value)
    status, said = run(server, tmp_path, "push", *words)
    assert (status, "Traceback" in said) == (2, False), said
    assert text in " ".join(said.split()), said
    assert server.files == {}


def test_links_that_lead_out_are_refused(folder: Path, tmp_path: Path) -> None:
    """A folder of another's cannot make a file of mine public."""
    (tmp_path / "mine.zip").write_bytes(b"mine")
    (folder / "other.zip").symlink_to(tmp_path / "mine.zip")
    with pytest.raises(ConfigError, match="link out of"):
        push.uploads(folder)


def test_a_file_that_changes_is_not_pushed(folder: Path) -> None:
    """What is uploaded is what was listed."""
    pytest.importorskip("huggingface_hub")
    files = push.uploads(folder)
    (folder / "planner.zip").write_bytes(b"other")
    with pytest.raises(LoadError, match="changed since it was listed"):
        push.push(push.Plan(REPO, FIRST, tuple((each, "new") for each in files)), "x")


def test_the_extra_is_named_where_the_client_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without huggingface_hub everything else works."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"agentkd push needs .*agentkd\[hub\]"):
        push.plan(REPO, ())
