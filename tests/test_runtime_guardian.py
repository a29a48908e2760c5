"""What a planner started ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentkd.distillation.process_source import ProcessSource
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Task
from agentkd.executors.architecture import initial
from agentkd.planners import Planner
from agentkd.runtime import Agent, Patience, Process, ProcessPlanner
from agentkd.runtime.workers.ending import Ending
from agentkd.runtime.workers.guardian import offspring
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from tests.programs import alive, running
from tests.runtime_children import constant
from tests.waiting import wait_for

HERE = "tests.runtime_children"
QUICK = Patience(start=60, answer=60, backoff=0.01, most_backoff=0.05, grace=2.0)
HASTY = replace(QUICK, answer=1.0)
WAYS = ("plain", "session", "daemon", "deaf")

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux finds orphans")


def port(record: Path, way: str, patience: Patience = QUICK) -> ProcessPlanner:
    arguments = {"record": str(record), "way": way}
    return ProcessPlanner(Process(f"{HERE}:with_children", arguments), patience=patience)


@pytest.mark.parametrize("way", WAYS)
def test_children_of_a_planner_end_when_the_agent_closes(tmp_path: Path, way: str) -> None:
    """In whatever session a planner's children are, none outlives the agent."""
    record = tmp_path / "pid"
    with Agent(constant(0), planner=port(record, way)) as agent:
        agent.await_ready()
        child = int(record.read_text())
        assert alive(child)
    assert not alive(child)


@pytest.mark.parametrize("way", ["plain", "daemon"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_children_of_a_planner_end_before_it_is_started_again(
    tmp_path: Path, way: str, number: signal.Signals
) -> None:
    """A planner that is killed or hangs takes its children along."""
    record = tmp_path / "pid"
    planner = port(record, way, HASTY)
    with Agent(constant(0), planner=planner) as agent:
        agent.await_ready()
        child, worker = int(record.read_text()), planner.pid
        assert worker is not None
        record.unlink()
        os.kill(worker, number)
        wait_for(record.exists)
        assert not alive(child)


def test_a_planner_killed_says_by_what(tmp_path: Path) -> None:
    """The signal that ended a planner is in its error."""
    planner = port(tmp_path / "pid", "plain")
    with Agent(constant(0), planner=planner) as agent:
        agent.await_ready()
        assert planner.pid is not None
        os.kill(planner.pid, signal.SIGSEGV)
        wait_for(lambda: "SIGSEGV" in agent.metrics()["planner_error"])


@pytest.mark.parametrize("way", WAYS)
def test_children_of_a_planner_end_with_a_killed_parent(tmp_path: Path, way: str) -> None:
    """When the agent's process is killed, planner and children end, even in a hang."""
    record = tmp_path / "pid"
    script = f"""
import time
from tests.runtime_children import constant
from agentkd.runtime import Agent, ProcessPlanner, Process
arguments = {{"record": {str(record)!r}, "way": {way!r}}}
port = ProcessPlanner(Process("{HERE}:with_children", arguments))
with Agent(constant(0), planner=port) as agent:
    agent.await_ready()
    agent.act([0, 1, 0])
    print(port.pid, flush=True)
    time.sleep(1000)
"""
    with running(script) as (parent, said):
        worker = int(said.readline())
        child = int(record.read_text())
        assert alive(worker)
        assert alive(child)
        parent.kill()
    wait_for(lambda: not alive(worker) and not alive(child))


FORKED = f"""
import os, sys
from tests.runtime_children import constant
from agentkd.runtime import Agent, Process
made = []
with Agent(constant(0), planner=Process("{HERE}:Echo"), learn=True) as agent:
    agent.await_ready()
    child = os.fork()
    if not child:
        sys.exit(0)
    os.waitpid(child, 0)
    distiller = agent._wanted[3]
    print(os.path.isfile(distiller.arguments["executor"]))
    agent.supervise()
    found = agent.metrics()
    print(found["planner_restarts_total"]["died"] + found["distiller_restarts_total"]["died"])
    print(found["planner_state"], found["distiller_state"])
print(os.path.exists(os.path.dirname(distiller.arguments["executor"])))
"""


def test_a_forked_child_that_exits_ends_nothing() -> None:
    """Neither planner nor distiller, nor the folder that the distiller is started from again."""
    root = Path(__file__).parent.parent
    said = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, cwd=root, text=True, check=True
    )
    assert said.stdout.split() == ["True", "0", "ready", "ready", "False"]


def test_worker_ends_with_its_guardian(tmp_path: Path) -> None:
    """A guardian that is killed leaves no worker, and another one is started."""
    planner = port(tmp_path / "pid", "plain")
    with Agent(constant(0), planner=planner) as agent:
        agent.await_ready()
        worker = planner.pid
        assert worker is not None
        stat = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
        os.kill(int(stat[1]), signal.SIGKILL)
        wait_for(lambda: not alive(worker))
        wait_for(lambda: planner.ready and planner.pid != worker)


def test_a_child_that_reads_input_finds_none(tmp_path: Path) -> None:
    """A planner's standard input is empty: what it starts waits for nothing there."""
    remote = Process("subprocess:check_call", {"args": ["cat"]})
    planner = ProcessPlanner(remote, patience=QUICK)
    with Agent(constant(0), planner=planner) as agent:
        # The call returns 0, which is no planner: that much is reached.
        wait_for(lambda: "is not a planner" in agent.metrics()["planner_error"])


MOTHER = """
import subprocess
from dataclasses import replace
from pathlib import Path
import numpy as np
from agentkd.types import Categorical
Path("pid").write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
def planner(obs):
    return Categorical(np.zeros((len(obs), 2), np.float32))
"""


def test_children_of_a_collecting_planner_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a planner starts while it labels for a distiller ends with the source."""
    (tmp_path / "mother.py").write_text(MOTHER)
    monkeypatch.chdir(tmp_path)
    spec = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
    nobody = Planner(initial("mlp:4", spec), spec, "", 0, "")
    source = ProcessSource(
        Task("CartPole-v1", spec, nobody, "categorical", refs=("mother:planner",)),
        initial("mlp:4", spec),
        CollectionOptions(environments=2),
        0,
    )
    try:
        wait_for(lambda: bool(source.take()))
        child = int((tmp_path / "pid").read_text())
        assert alive(child)
    finally:
        source.close()
    assert not alive(child)


def test_offspring_are_found_over_generations() -> None:
    """Children and their children are found."""
    inner = "import time; print(1, flush=True); time.sleep(99)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = offspring(child.pid)
        assert len(found) == 1
        os.kill(found[0], signal.SIGKILL)


def test_the_end_of_a_guardian_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not end is looked at, and killed with its group when it takes too long."""
    code = "import signal; signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, process_group=0)
    ending = Ending(process)
    assert not ending.over()
    assert process.poll() is None
    monkeypatch.setattr(ending, "_limit", 0.0)
    ending.wait()
    assert process.poll() == -signal.SIGKILL
