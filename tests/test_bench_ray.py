"""Cells on a Ray cluster: the same figures, also when a machine of it is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentkd.cli.main import main
from tests.programs import ROOT
from tests.test_bench_runs import FEW, SUITE, bench, figures, suite_of
from tests.waiting import ENOUGH

NICE = {"RAY_worker_niceness": "0"}
"""Ray's workers yield to all other programs otherwise, and hardly run on a busy machine."""
CLUSTER = """
import os, subprocess, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from tests.waiting import wait_for

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": int(os.environ["HEAD_CPUS"])})
lost = cluster.add_node(num_cpus=1)
words = [sys.executable, "-m", "agentkd", "bench", *sys.argv[1:], "--ray", cluster.address]
running = subprocess.Popen(words)
note = os.environ.get("AGENTKD_TEST_NOTE")
if note:
    # A cell is under way, and its machine is the only one.
    wait_for(lambda: Path(note).exists() or running.poll() is not None)
    cluster.add_node(num_cpus=1)
    cluster.remove_node(lost, allow_graceful=False)
status = running.wait()
cluster.shutdown()
sys.exit(status)
"""


def on_a_cluster(*words: str, head_processors: int = 1) -> None:
    """Run a suite on a cluster of a head and another node."""
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, *words],
        cwd=ROOT,
        env=os.environ | NICE | {"HEAD_CPUS": str(head_processors), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cluster_gives_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one process on this machine, to the last digit."""
    monkeypatch.chdir(ROOT)
    suite, out, here = suite_of(tmp_path, SUITE), tmp_path / "ray", tmp_path / "here"
    on_a_cluster(suite, "--out", str(out))
    assert main(["bench", suite, "--out", str(here)]) == 0
    assert figures(out) == figures(here)


def test_a_cluster_that_is_started_here_gives_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes have one thread each, whatever the environment says."""
    pytest.importorskip("ray")
    monkeypatch.chdir(ROOT)
    suite, out, here = suite_of(tmp_path, FEW, "telling"), tmp_path / "ray", tmp_path / "here"
    note = tmp_path / "note"
    words = bench(suite, "--out", str(out), "--ray", "local")
    more = {"OMP_NUM_THREADS": "2", "AGENTKD_TEST_NOTE": str(note)}
    subprocess.run(words, cwd=ROOT, env=os.environ | NICE | more, timeout=ENOUGH, check=True)
    assert set(note.read_text().split()) == {"1"}
    assert main(["bench", suite, "--out", str(here)]) == 0
    assert figures(out) == figures(here)


def test_a_lost_machine_costs_only_what_was_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells are measured on another one, and the figures are the same."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("AGENTKD_TEST_NOTE", str(tmp_path / "note"))
    suite, out, here = suite_of(tmp_path, FEW, "once"), tmp_path / "ray", tmp_path / "here"
    on_a_cluster(suite, "--out", str(out), head_processors=0)
    assert (tmp_path / "note").exists()
    assert main(["bench", suite, "--out", str(here)]) == 0
    assert figures(out) == figures(here)


def test_ray_and_jobs_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Each says where cells are measured."""
    assert main(["bench", "quick", "--ray", "local", "--jobs", "2"]) == 2
    assert "--jobs" in capsys.readouterr().err


def test_without_ray_its_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["bench", "quick", "--ray", "local"]) == 2
    assert 'pip install "agentkd[ray]"' in capsys.readouterr().err
