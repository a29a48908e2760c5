"""After a kill at any moment `distill` goes on from what it had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle
from agentkd.distillation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.loop import run_distillation
from agentkd.distillation.run import Budget
from agentkd.distillation.sources import CollectionOptions
from agentkd.errors import LoadError, WriteError
from agentkd.executors.architecture import initial
from agentkd.planners import Planner
from agentkd.report.write import prepare_out
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats, Point
from tests.programs import killed_at
from tests.waiting import ENOUGH

ROOT = Path(__file__).parents[1]
PLANNER = "tests.cli_planners:balance"
SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), BoxSpec((-1.0,), (1.0,), (1,)))


@pytest.mark.parametrize(
    "event",
    [
        # After the first checkpoint, amid the second one, and once all is learnt.
        "agentkd.distillation.run:Run._learn_of@8",
        "agentkd.distillation.run:Run._step@40",
        "torch:save@2",
        "agentkd.deploy.bundle:write_bundle@2",
        "agentkd.report.write:write_files",
    ],
)
def test_a_distillation_that_was_killed_goes_on(
    event: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first checkpoint is there at once, and --resume ends what was begun."""
    out = tmp_path / "out"
    words = ["distill", "CartPole-v1", "--planner", PLANNER, "--executor", "mlp:8"]
    words += ["--labels", "1000", "--episodes", "2", "--out", str(out)]
    killed = killed_at(event, "agentkd", *words)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    read_bundle(out / "executor.akd")
    data = json.loads((out / "report.json").read_text())
    assert data["labels"] >= 1000
    assert not data["interrupted"]


def learnt(steps: int) -> Distiller:
    """A distiller that has learnt a little."""
    distiller = Distiller(initial("mlp:4", SPEC), DistillerOptions(least=8))
    random = np.random.default_rng(0)
    obs: Floats = random.normal(size=(64, 3)).astype(np.float32)
    distiller.add(obs, Point(np.tanh(obs[:, :1])))
    for _ in range(steps):
        distiller.step()
    return distiller


@pytest.mark.parametrize("name", ["distiller.pt", "labels.npz"])
@pytest.mark.parametrize("harm", ["missing", "empty", "half", "other"])
def test_where_the_last_checkpoint_is_damaged_the_one_before_is_used(
    name: str, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with either file, what was saved before comes back whole."""
    for steps in (3, 5):
        checkpoint = Checkpoint(seconds=float(steps))
        save_checkpoint(tmp_path, learnt(steps), checkpoint)
    file = tmp_path / name
    data = file.read_bytes()
    file.unlink()
    if harm != "missing":
        kept = {"empty": b"", "half": data[: len(data) // 2], "other": b"x" * 2000}
        file.write_bytes(kept[harm])
    fresh = Distiller(initial("mlp:4", SPEC), DistillerOptions(least=8))
    assert load_checkpoint(tmp_path, fresh).seconds == 3.0
    assert fresh.steps == 3
    assert len(fresh.buffer) == 64
    assert "before" in caplog.text


@pytest.mark.parametrize("count", range(1, 5))
def test_a_kill_between_any_two_renames_leaves_a_checkpoint(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files are renamed twice; stopped anywhere, one of the two is whole."""
    save_checkpoint(tmp_path, learnt(3), Checkpoint(seconds=3.0))
    left = count
    replace = Path.replace

    class Killed(BaseException):
        """Nothing after it happens, as with a kill."""

    def counted(self: Path, target: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    try:
        save_checkpoint(tmp_path, learnt(5), Checkpoint(seconds=5.0))
    except Killed:
        assert count < 4
    monkeypatch.undo()
    fresh = Distiller(initial("mlp:4", SPEC), DistillerOptions(least=8))
    assert load_checkpoint(tmp_path, fresh).seconds in (3.0, 5.0)
    assert len(fresh.buffer) == 64


def test_nothing_whole_is_told_as_the_newest_is(tmp_path: Path) -> None:
    """Where both are damaged the message is about the newest."""
    with pytest.raises(LoadError, match="no checkpoint"):
        load_checkpoint(tmp_path, learnt(0))


def test_labels_are_kept_before_the_first_step(tmp_path: Path) -> None:
    """A planner whose answers are dear loses none to an early end."""
    asked = 0

    def dear(obs: Floats) -> Any:
        nonlocal asked
        asked += len(obs)
        if asked > 100:
            raise KeyboardInterrupt
        from tests.cli_planners import balance

        return balance(obs)

    from agentkd.environments import look_at

    spec, _ = look_at("CartPole-v1")
    planner = Planner(dear, spec, "dear", 0, "")
    first = run_distillation(
        "CartPole-v1", planner, "mlp:8", labels=5000, episodes=0, checkpoint=tmp_path
    )
    assert first.interrupted
    assert first.labels >= 64
    asked = -(10**9)
    second = run_distillation(
        "CartPole-v1", planner, "mlp:8", labels=600, episodes=0, checkpoint=tmp_path, resume=True
    )
    assert second.labels >= 600
    assert second.steps > 0


def test_starting_does_not_count_as_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock begins with the first label, however long that takes."""
    from agentkd.distillation import loop, run

    now = 0.0

    class Clock:
        """A clock that a test moves."""

        @staticmethod
        def monotonic() -> float:
            return now

        @staticmethod
        def sleep(seconds: float) -> None:
            nonlocal now
            now += max(seconds, 0.001)

    class Slow:
        """A source that gives its first labels after 100 s."""

        restarts = dropped = 0

        def take(self) -> list[Any]:
            nonlocal now
            now += 1.0
            if now < 100:
                return []
            obs: Floats = np.zeros((8, 3), np.float32)
            return [(obs, Point(np.zeros((8, 1), np.float32)), None)]

        def update(self, executor: Any, share: float) -> None: ...

        def returns(self) -> tuple[float, ...]:
            return ()

        def close(self) -> None:
            nonlocal now
            now += 50.0

    monkeypatch.setattr(run, "time", Clock)
    distiller = Distiller(initial("mlp:4", SPEC), DistillerOptions(least=8))
    step = distiller.step

    def slow_step() -> object:
        Clock.sleep(0.01)
        return step()

    monkeypatch.setattr(distiller, "step", slow_step)
    going = run.Run(
        distiller,
        Slow(),
        Budget(seconds=10.0),
        CollectionOptions(),
        earlier=2.0,
        every=1.0,
        watch=None,
        checkpoint=None,
        origin=Checkpoint(),
    )
    nobody: Any = lambda obs: obs  # noqa: E731 (a planner that is never asked)
    result = loop.carry_out(going, Planner(nobody, SPEC, "", 0, ""))
    assert 10.0 <= result.seconds < 12.0
    assert result.steps > 0
    assert not result.interrupted


FULL = """
import resource, signal, sys
from agentkd.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


SMALL = ["distill", "CartPole-v1", "--planner", PLANNER, "--executor", "mlp:8", "--episodes", "2"]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distil with 400 labels; return the folder."""
    out = tmp_path_factory.mktemp("distilled") / "out"
    assert main([*SMALL, "--out", str(out), "--labels", "400"]) == 0
    return out


@pytest.mark.parametrize("room", [0, 3000, 40_000])
def test_a_full_disk_loses_nothing_that_was_there(
    room: int, distilled: Path, tmp_path: Path
) -> None:
    """The earlier executor and checkpoint stay whole, and the error is a sentence."""
    out = shutil.copytree(distilled, tmp_path / "out")
    words = [*SMALL, "--out", str(out)]
    before = (out / "executor.akd").read_bytes()
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(room), *words, "--labels", "900", "--resume"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=ENOUGH,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    told = ended.stderr + ended.stdout
    if ended.returncode:
        assert ended.returncode == 2, told
        said = " ".join(told.split())
        assert "could not be written" in said or "cannot be written to" in said, told
        if room < len(before):
            assert (out / "executor.akd").read_bytes() == before
        # Where there was room for it, the newer one may be there: whole.
        read_bundle(out / "executor.akd")
    else:
        read_bundle(out / "executor.akd")
    assert main([*words, "--labels", "900", "--resume"]) == 0
    with pytest.raises(WriteError):
        prepare_out(Path("/proc/nowhere"))
