"""Every command of the README, and every other with live progress, in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.waiting import ENOUGH

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    agentkd (.+)$", README, re.MULTILINE)
EXECUTOR = "runs/distill-LunarLander-v3/executor.akd"
FAST = {
    "distill": "--seconds 1 --episodes 1",
    "distill auto": "--labels 400 --steps 20 --episodes 2 --candidates linear mlp:4 "
    "--out runs/auto",
    "distill gru": "--seconds 1 --episodes 1 --environments 4 --out runs/gru",
    "distill transformer": "--labels 300 --episodes 1 --out runs/slopes",
    "run": "--learn-ticks 100 --ticks 60 --episodes 1 --log --overwrite",
    "run wall": "--learn-ticks 40 --seconds 1 --overwrite",
    "eval": "--episodes 2",
    "latency": "--rounds 1 --seconds 0.01",
    "record": "--labels 200 --episodes 1",
    "practise": "--ticks 2000 --restarts 1 --copies 8 --threads 1 --episodes 1",
    "reinforce": "--steps 256 --rollout 32 --environments 2 --episodes 1",
    "fleet": "--landers 4",
    "bench": "--dry-run",
    "inspect": "",
    "verify": "",
    "export": "",
    "footprint": "",
}
"""What makes each of the README's commands short: options that come again count."""
ELSEWHERE = ("pull", "keys", "device")
"""Commands without a live display that need the network, or write keys for the user."""


def kind_of(command: str) -> str:
    """Which entry of FAST a command is shortened by."""
    for mark, more in (
        ("--executor auto", "distill auto"),
        ("--executor gru", "distill gru"),
        ("transformer", "distill transformer"),
        ("--hz 50 --seconds", "run wall"),
    ):
        if mark in command:
            return more
    return command.split(maxsplit=1)[0]


def short(command: str) -> list[str]:
    """Give a command's words with the options that make it short."""
    kept = re.sub(r'"([^"]*)"', lambda found: found[1].replace(" ", "\0"), command)
    more = FAST[kind_of(command)].split()
    for option in (each for each in more if each.startswith("--")):
        kept = re.sub(rf"{option} \S+", "", kept)
    if "--steps" in more or kind_of(command) == "distill auto":
        kept = re.sub(r"--seconds \S+", "", kept)
    return [word.replace("\0", " ") for word in kept.split()] + more


def in_terminal(
    words: Sequence[str],
    folder: Path,
    columns: int = 80,
    program: str = "agentkd",
    **environment: str,
) -> tuple[int, str]:
    """Run a command in a pseudo-terminal; its status and all that it showed."""
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    known = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-m", program, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
        start_new_session=True,
        cwd=folder,
        env={**known, "TERM": "xterm", "PYTHONPATH": str(ROOT), **environment},
    )
    os.close(theirs)
    heard = []
    try:
        while data := os.read(ours, 65536):
            heard.append(data)
    except OSError:  # the terminal is gone with the child
        pass
    finally:
        os.close(ours)
    return child.wait(), b"".join(heard).decode(errors="replace")


def fine(ended: tuple[int, str]) -> str:
    """What a command showed, which succeeded without a traceback."""
    status, shown = ended
    assert status == 0, shown
    assert "Traceback" not in shown
    assert shown.strip()
    return shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with the policies of the checkout."""
    made = tmp_path_factory.mktemp("terminal")
    for name in ("benchmarks", "policies", "envs", "tests"):
        (made / name).symlink_to(ROOT / name)
    (made / "mine.toml").write_text((ROOT / "benchmarks" / "suites" / "quick.toml").read_text())
    (made / "mine").mkdir()
    (made / "mine" / "training.py").write_text("def method(task, **options): ...\n")
    planners = made / "planners"
    planners.mkdir()
    (planners / "ppo-LunarLander-v3").symlink_to(ROOT / "policies" / "lunarlander")
    return made


@pytest.fixture(scope="module")
def executor(folder: Path) -> Path:
    """The executor that the README's first command leaves."""
    file = folder / EXECUTOR
    if not file.exists():
        fine(in_terminal(short(COMMANDS[0]), folder))
    return file


def test_the_readme_s_commands_are_known() -> None:
    """A command that is new in the README has to be made short here."""
    assert len(COMMANDS) >= 11
    assert {kind_of(command) for command in COMMANDS} <= {*FAST, *ELSEWHERE}


@pytest.mark.parametrize(
    "command",
    [each for each in COMMANDS[1:] if not each.startswith(ELSEWHERE)],
    ids=lambda text: text[:40],
)
def test_each_command_of_the_readme_works_in_a_terminal(
    command: str, folder: Path, executor: Path
) -> None:
    """It ends with status 0, and nothing in its live display fails."""
    if command.startswith("footprint") and not shutil.which("arm-none-eabi-gcc"):
        pytest.skip("needs arm-none-eabi-gcc, not found on the PATH")
    if command.startswith("practise"):
        pytest.importorskip("mujoco", reason="needs mujoco")
    out = "--out" not in (words := short(command))
    if out and words[0] in ("distill", "reinforce", "record"):
        shutil.rmtree(folder / "runs" / f"distill-{words[1]}-again", True)
        words += ["--out", f"runs/{words[0]}-{abs(hash(command))}"]
    fine(in_terminal(words, folder))


OTHERS = (
    "freeze planners/ppo-LunarLander-v3/planner.zip --out executor.akd --overwrite",
    "distill --data labels --seconds 1 --episodes 1 --out runs/data --overwrite",
)


@pytest.fixture(scope="module")
def cart(folder: Path) -> Path:
    """Labels and an executor of a cart."""
    planner = ["--planner", "tests.cli_planners:balance"]
    record = ["record", "CartPole-v1", *planner, "--labels", "200", "--episodes", "1"]
    fine(in_terminal([*record, "--out", "labels"], folder))
    distil = ["distill", "CartPole-v1", *planner, "--executor", "mlp:4"]
    more = ["--seconds", "1", "--episodes", "1", "--out", "cart"]
    fine(in_terminal([*distil, *more], folder))
    return folder / "cart" / "executor.akd"


@pytest.mark.parametrize("command", OTHERS, ids=lambda text: text[:24])
def test_every_other_command_with_progress_works_in_a_terminal(
    command: str, folder: Path, cart: Path
) -> None:
    """It ends with status 0, and nothing in its live display fails."""
    words = command.replace("EXECUTOR", str(cart)).split()
    fine(in_terminal(words, folder))


CART = "CartPole-v1=tests.cli_planners:balance"
TABLE = "--env CartPole-v1 --planner tests.cli_planners:balance --latencies 1"
PPO = "planners/ppo-LunarLander-v3"
BENCHMARKS = (
    f"retention --pairs {CART} --seconds 1 --seeds 1 --episodes 1",
    "mechanisms --planners planners --mechanisms soft --labels 99 --episodes 1",
    "int8 --planners planners --labels 300 --episodes 2",
    f"libraries LunarLander-v3 --planner {PPO} --methods ppd --episodes 1 --target 0",
    "delay --planners planners --delays 1 --episodes 1 --distil-seconds 1",
    f"late_planner {TABLE} --executor EXECUTOR --episodes 1",
    "faults --hz 100 --seconds 1 --faults none",
    "seams --seconds 3",
    "practice --env Pendulum-v1 --ticks 4000 --restarts 1 --seeds 1 --labels 64 --out practice",
    "ticks --hz 50 --seconds 1 --rounds 1 --chunks",
)


@pytest.mark.parametrize("command", BENCHMARKS, ids=lambda text: text[:24])
def test_every_benchmark_works_in_a_terminal(command: str, folder: Path, cart: Path) -> None:
    """It ends with status 0, and nothing in its live display fails."""
    words = command.replace("EXECUTOR", str(cart)).split()
    fine(in_terminal(words, folder, program="benchmarks"))


@pytest.mark.parametrize(
    ("columns", "environment"),
    [
        (20, {}),
        (1, {}),
        (80, {"TERM": "dumb"}),
        (80, {"NO_COLOR": "1"}),
        (80, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        (80, {"PYTHONIOENCODING": "latin-1"}),
    ],
)
def test_any_terminal_will_do(
    columns: int, environment: dict[str, str], folder: Path, cart: Path
) -> None:
    """Narrow ones, dumb ones, those without colour or with few characters."""
    words = ["eval", "CartPole-v1", str(cart), "--episodes", "2"]
    shown = fine(in_terminal(words, folder, columns, **environment))
    if "TERM" in environment:
        assert "\x1b[" not in shown
    distil = ["distill", "CartPole-v1", "--planner", "tests.cli_planners:balance"]
    distil += ["--executor", "mlp:4", "--seconds", "1", "--episodes", "1"]
    distil += ["--out", "any", "--overwrite"]
    fine(in_terminal(distil, folder, columns, **environment))


@pytest.mark.parametrize("both", [False, True])
def test_output_that_is_closed_early_ends_no_work(both: bool, tmp_path: Path, folder: Path) -> None:
    """With `| head -1` the executor and the report are written all the same."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "agentkd", "distill", "CartPole-v1"]
    command += ["--planner", "tests.cli_planners:balance", "--executor", "mlp:4"]
    command += ["--seconds", "1", "--episodes", "1", "--out", str(out)]
    errors = subprocess.STDOUT if both else subprocess.PIPE
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    said = b""
    if child.stderr is not None:
        with child.stderr:
            said = child.stderr.read()
    assert child.wait() == 0, said
    assert said == b""
    assert (out / "executor.akd").exists()
    assert (out / "report.json").exists()


@pytest.mark.parametrize("words", [["--help"], ["inspect", "EXECUTOR"]])
def test_standard_output_may_be_closed_or_full(words: list[str], folder: Path, cart: Path) -> None:
    """Closed from the start it is nobody's; a full disk is told, with status 1."""
    words = [str(cart) if word == "EXECUTOR" else word for word in words]
    command = [sys.executable, "-m", "agentkd", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    closed = subprocess.run(
        shell, stderr=subprocess.PIPE, env=environment, check=False, timeout=ENOUGH
    )
    assert (closed.returncode, closed.stderr) == (0, b"")
    if Path("/dev/full").exists():
        shell = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *command]
        full = subprocess.run(
            shell, stderr=subprocess.PIPE, env=environment, check=False, timeout=ENOUGH
        )
        assert full.returncode == 1
        assert b"No space left" in full.stderr


def steps(checkpoint: Path) -> int:
    """Return how many gradient steps a checkpoint is of; 0 where there is none."""
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, weights_only=True)["steps"])


def test_a_terminal_that_hangs_up_loses_nothing(folder: Path, tmp_path: Path) -> None:
    """The terminal goes, with SIGHUP: executor and report are left."""
    ours, theirs = pty.openpty()
    out = tmp_path / "out"
    command = [sys.executable, "-m", "agentkd", "distill", "CartPole-v1"]
    command += ["--planner", "tests.cli_planners:balance", "--executor", "mlp:4"]
    command += ["--seconds", "10000", "--episodes", "1", "--out", str(out)]
    child = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
    )
    os.close(theirs)
    # Before the first gradient step there is no executor to leave.
    while not steps(out / "checkpoint" / "distiller.pt"):
        assert child.poll() is None
        os.read(ours, 65536)
        time.sleep(0.01)
    os.close(ours)
    child.send_signal(signal.SIGHUP)
    assert child.wait() == 128 + signal.SIGHUP
    assert (out / "executor.akd").exists()
    assert (out / "report.json").exists()
