"""`agentkd pull`: from a stand-in of the Hub on this machine, never from the network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from agentkd.errors import ConfigError, LoadError
from agentkd.planners import hub

COMMIT, OLDER = "c" * 40, "a" * 40
ROOT = Path(__file__).parents[1]
FILES = {
    "model_1499.pt": (ROOT / "tests" / "data" / "policies" / "rsl5_mlp.pt").read_bytes(),
    "params/agent.yaml": b"seed: 1\nactor:\n  class_name: MLPModel\n  activation: elu\n",
    "train_eval_metrics.zip": b"PK",
    "README.md": b"# a policy\n",
    "replay.mp4": b"\0" * 64,
}


class Hub:
    """The few endpoints of the Hub: what a revision holds, and a file of a commit."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.sha = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
        self.asked: list[str] = []
        self.commit = COMMIT
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                outer.asked.append(path)
                status, data, headers = outer.found(path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def found(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, bytes and headers for a path."""
        revisions = {"main": self.commit, COMMIT: self.commit, "v1": self.commit}
        for revision, commit in revisions.items():
            about = f"/api/models/some/policy/revision/{revision}"
            if path == about or (revision == "main" and path == "/api/models/some/policy"):
                siblings = [
                    {
                        "rfilename": n,
                        "size": len(d),
                        "lfs": {"sha256": self.sha[n], "size": len(d), "pointerSize": 1},
                    }
                    for n, d in self.files.items()
                ]
                told = {"id": "some/policy", "sha": commit, "siblings": siblings}
                return 200, json.dumps(told).encode(), {"Content-Type": "application/json"}
            begin = f"/some/policy/resolve/{revision}/"
            if path.startswith(begin) and path[len(begin) :] in self.files:
                data = self.files[path[len(begin) :]]
                etag = hashlib.sha256(data).hexdigest()
                return 200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
        return 404, b"{}", {"X-Error-Code": "RepoNotFound"}


@pytest.fixture
def server() -> Iterator[Hub]:
    """A Hub with one repository."""
    pytest.importorskip("huggingface_hub")
    made = Hub()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def pull(server: Hub, folder: Path, *words: str) -> tuple[int, str]:
    """Run the command in a process of its own, which reads the address when it begins."""
    done = subprocess.run(
        [sys.executable, "-m", "agentkd", "pull", *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
            ),
            "HF_ENDPOINT": server.address,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_planner_is_pulled_by_commit(server: Hub, tmp_path: Path) -> None:
    """What it needs comes with hashes; the commit is printed and written; the rest stays there."""
    status, said = pull(server, tmp_path, "some/policy")
    assert status == 0, said
    folder = tmp_path / "runs" / "pull-some-policy"
    inside = {e.relative_to(folder).as_posix() for e in folder.rglob("*") if e.is_file()}
    assert inside == {"model_1499.pt", "params/agent.yaml", "pulled.json"}
    record = json.loads((folder / "pulled.json").read_text())
    wanted = {name: server.sha[name] for name in ("model_1499.pt", "params/agent.yaml")}
    assert record == {"repo": "some/policy", "commit": COMMIT, "files": wanted}
    assert f"some/policy@{COMMIT}" in said
    assert all(digest in said for digest in wanted.values())
    assert "agentkd distill ENV --planner runs/pull-some-policy" in said
    # Files are asked for by commit, not by a branch that may have moved on.
    assert all(COMMIT in each for each in server.asked if "/resolve/" in each)
    from agentkd.planners import load_planner

    assert load_planner(str(folder)).parameters > 0
    again = pull(server, tmp_path, f"some/policy@{COMMIT}")
    assert again[0] == 0, again[1]


def test_named_files_and_another_folder(server: Hub, tmp_path: Path) -> None:
    """--file instead of what a planner needs; --to; a tag."""
    words = ["some/policy@v1", "--file", "README.md", "--to", "here"]
    status, said = pull(server, tmp_path, *words)
    assert status == 0, said
    assert (tmp_path / "here" / "README.md").read_bytes() == FILES["README.md"]
    assert not (tmp_path / "here" / "model_1499.pt").exists()


@pytest.mark.parametrize(
    ("words", "change", "text"),
    [
        (["other/policy"], {}, "other/policy cannot be read"),
        (["some/policy@nowhere"], {}, "some/policy@nowhere cannot be read"),
        (["some/policy", "--file", "x.pt"], {}, "has no file 'x.pt'"),
        (["some/policy"], {"files": {"README.md": b""}}, "serve a LeRobot policy"),
        (["some/policy"], {"files": {"../x.pt": b""}}, "no name of a file"),
        (["some/policy"], {"sha": {**dict.fromkeys(FILES, "0" * 64)}}, "not 0000"),
        ([f"some/policy@{COMMIT}"], {"commit": OLDER}, "answered with the commit"),
        (["policy"], {}, "Write OWNER/NAME"),
    ],
)
def test_what_cannot_be_pulled_is_named(
    words: list[str], change: dict[str, Any], text: str, server: Hub, tmp_path: Path
) -> None:
    """Repositories, revisions and files that are not there, and answers that cannot be."""
    for name, value in change.items():
        setattr(server, name, value)
    server.sha = {name: server.sha.get(name, "0" * 64) for name in server.files}
    status, said = pull(server, tmp_path, *words)
    assert (status, "Traceback" in said) == (2, False), said
    assert text in " ".join(said.split()), said
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_there_is_not_replaced(server: Hub, tmp_path: Path) -> None:
    """Nothing is written then."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model_1499.pt").write_bytes(b"mine")
    status, said = pull(server, tmp_path, "some/policy", "--to", "here")
    assert status == 2
    assert "is another file" in said
    assert [e.name for e in (tmp_path / "here").iterdir()] == ["model_1499.pt"]
    assert (tmp_path / "here" / "model_1499.pt").read_bytes() == b"mine"


def test_files_of_two_commits_are_not_mixed(server: Hub, tmp_path: Path) -> None:
    """A folder is of one commit; its own record is not replaced by another."""
    assert pull(server, tmp_path, "some/policy", "--to", "here")[0] == 0
    before = (tmp_path / "here" / "pulled.json").read_bytes()
    server.commit = OLDER
    status, said = pull(server, tmp_path, "some/policy", "--to", "here")
    assert status == 2
    assert f"is of some/policy@{COMMIT}" in said
    assert (tmp_path / "here" / "pulled.json").read_bytes() == before
    (tmp_path / "here" / "pulled.json").write_text("mine")
    status, said = pull(server, tmp_path, "some/policy", "--to", "here")
    assert (status, "Traceback" in said) == (2, False), said
    assert (tmp_path / "here" / "pulled.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["./a.pt", "a//b.pt", "a/./b.pt", ""])
def test_names_that_two_files_would_share_are_refused(name: str) -> None:
    """Those whose normal form differs, and that of the record."""
    with pytest.raises(LoadError, match="no name of a file"):
        hub._listed([SimpleNamespace(rfilename=name, lfs=None, size=1)], "some/policy")
    with pytest.raises(ConfigError, match="own record"):
        hub._chosen({"pulled.json": ""}, ["pulled.json"], "some/policy")


def test_optimisers_are_left_there() -> None:
    """Those of an unpacked SB3 save, too."""
    names = ["model.zip", "model/policy.optimizer.pth", "optimizer.pt", "model/policy.pth"]
    assert [each for each in names if hub.needed(each)] == ["model.zip"]


def test_the_extra_is_named_where_the_client_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without huggingface_hub everything else works."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"agentkd\[hub\]"):
        hub.pull("some/policy", None, tmp_path)
