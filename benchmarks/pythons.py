"""Pythons that other libraries need: each an environment of its own, with pinned versions.

What `imitation`, rtgym, openpi-client and ExecuTorch install cannot lie beside agentkd's packages.
`python -m benchmarks pythons` builds an environment for each, and the studies find them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError, LoadError, WorkerError, WriteError
from agentkd.fields import parse_json
from agentkd.files import read_file, write_atomic
from agentkd.printable import printable
from agentkd.report.console import show_table
from agentkd.report.model import Column, Table

Name = Literal["imitation", "loops", "executorch"]
"""An environment."""
NAMES: tuple[Name, ...] = get_args(Name)
FOLDER = Path(__file__).parents[1] / ".pythons"
"""Where they are by default."""
_CONSTRAINTS = Path(__file__).with_name("constraints")
_LARGEST = 1 << 20
"""Bytes of what is noted about an environment."""
_PATIENCE = 300
"""Seconds for a Python to start and import."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an environment is made of.

    Attributes:
        serves: What it is for, and which study asks for it.
        packages: What pip installs; all that comes with it has its version in constraints/.
        imports: Modules that have to import.
        newest: The newest minor version of Python that these versions are built for.
    """

    serves: str
    packages: tuple[str, ...]
    imports: tuple[str, ...]
    newest: tuple[int, int] = (3, 13)


RECIPES: dict[Name, Recipe] = {
    "imitation": Recipe(
        "libraries: DAgger and BC of imitation",
        (
            *("imitation==1.0.1", "gymnasium==0.29.1", "stable-baselines3==2.2.1"),
            *("numpy==1.26.4", "torch==2.13.0", "box2d==2.3.10", "pygame", "mujoco==2.3.7"),
            "imageio",
        ),
        ("imitation.algorithms.bc", "imitation.algorithms.dagger", "Box2D", "mujoco"),
        (3, 12),
    ),
    "loops": Recipe(
        "ticks: the loops of rtgym and openpi-client",
        ("rtgym==0.16", "openpi-client==0.1.2"),
        ("rtgym", "openpi_client.runtime.runtime"),
        (3, 12),
    ),
    "executorch": Recipe(
        "latency: ExecuTorch, lowered to XNNPACK",
        ("executorch==1.5.1", "torch==2.13.0", "safetensors"),
        ("executorch.exir", "executorch.runtime", "safetensors"),
    ),
}
"""All environments."""


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """For the options of a study that runs other libraries."""

    pythons: Path = FOLDER
    """The folder that `python -m benchmarks pythons` filled: the Pythons of other libraries."""

    def find(self, name: Name) -> Path | None:
        """Return the Python of an environment that was built; None if it was not.

        Raises:
            ConfigError: If a folder was given that is not there.
        """
        if self.pythons != FOLDER and not self.pythons.is_dir():
            raise ConfigError(f"--pythons {self.pythons}: no such folder. {self.remedy(name)}")
        built = _noted(self.pythons, name) == note(name, done=True)
        return _python(self.pythons, name) if built else None

    def remedy(self, name: Name) -> str:
        """Say how an environment that is missing is made."""
        at = "" if self.pythons == FOLDER else f" --at {self.pythons}"
        return f"Build the Python that it needs: python -m benchmarks pythons {name}{at}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Build the Pythons that other libraries need, for the studies that compare with them.

    Each is a virtual environment with pinned versions, in a folder of its own. What is there
    already is left as it is; what a kill or an error left unfinished is begun anew, and pip's cache
    has what was downloaded. Beside each lies what pip said, NAME.log, and what it installed,
    NAME.txt. Where torch comes from is pip's configuration (PIP_EXTRA_INDEX_URL): see "A small
    torch" in docs/dependencies.md.

    Example: python -m benchmarks pythons imitation loops
    """

    names: tyro.conf.Positional[tuple[Name, ...]] = NAMES
    """Which to build."""
    at: Path = FOLDER
    """The folder to build them in."""
    python: Path = Path(sys.executable)
    """The Python to make them with: 3.11 or 3.12, for the versions that they pin."""


def run(options: Options) -> int:
    """Build what is missing, one after the other.

    Returns:
        0; 1 if one could not be built.

    Raises:
        ConfigError: If the Python cannot make them, or files of others are in the way.
        WriteError: If the folder cannot be written to.
    """
    names = tuple(dict.fromkeys(options.names))
    version = _version(options.python)
    for name in names:
        if version > RECIPES[name].newest:
            newest = ".".join(map(str, RECIPES[name].newest))
            raise ConfigError(
                f"--python {options.python} is {version[0]}.{version[1]}, and {name} needs "
                f"{newest} or older. Name another."
            )
    try:
        options.at.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"--at {options.at} cannot be made: {error.strerror}.") from error
    console, rows = Console(), []
    for number, name in enumerate(names, 1):
        recipe, began, said = RECIPES[name], time.monotonic(), "was there"
        packages = " ".join(recipe.packages)
        console.print(f"{name} ({number} of {len(names)}): {packages}", soft_wrap=True)
        with _held(options.at, name):
            if _noted(options.at, name) != note(name, done=True):
                try:
                    with console.status(name) as status:
                        _build(options, name, lambda text: status.update(printable(text)[:100]))
                    said = f"built in {time.monotonic() - began:.0f} s"
                except WorkerError as error:
                    console.print(Text(str(error), "red"), soft_wrap=True)
                    said = "failed"
        rows.append([name, said, recipe.serves, str(_python(options.at, name))])
    show_table(console, Table([Column("environment"), "state", "for", "python"], rows))
    return int(any(row[1] == "failed" for row in rows))


def _build(options: Options, name: Name, show: Callable[[str], None]) -> None:
    """Make an environment from nothing; it counts only once all of it is there."""
    at, recipe = options.at, RECIPES[name]
    home = at / name
    if home.exists() and _noted(at, name) is None:
        raise ConfigError(
            f"{home} is there, and was not built here. Move it, or give another folder with --at."
        )
    log = at / f"{name}.log"
    # Noted first: what a kill leaves is known as ours.
    write_atomic(at / f"{name}.json", note(name, done=False))
    log.write_text("", encoding="utf-8")
    _follow([str(options.python), "-m", "venv", "--clear", str(home)], log, name, show)
    python = str(_python(at, name))
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    exact = ["--progress-bar", "off", "--constraint", str(_CONSTRAINTS / f"{name}.txt")]
    _follow([*pip, "install", *exact, *recipe.packages], log, name, show)
    code = "; ".join(f"import {each}" for each in recipe.imports)
    _follow([python, "-I", "-c", code], log, name, show)
    _follow([*pip, "freeze"], at / f"{name}.txt", name, show)
    write_atomic(at / f"{name}.json", note(name, done=True))


def _follow(words: list[str], log: Path, name: Name, show: Callable[[str], None]) -> None:
    """Run a program, show its lines and keep them.

    Raises:
        WorkerError: If it fails.
    """
    last = ""
    with (
        log.open("a" if log.suffix == ".log" else "w", encoding="utf-8") as kept,
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                kept.write(line)
                last = line.strip() or last
                show(f"{name}: {last}")
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise WorkerError(
            f"{name}: {Path(words[0]).name} ended with status {child.returncode}: "
            f"{printable(last)[:300]} All it said is in {log}; call again to try again."
        )


def _python(at: Path, name: Name) -> Path:
    return at / name / "bin" / "python"


def note(name: Name, *, done: bool) -> str:
    """Return what is noted beside an environment of today's recipe, as JSON."""
    exact = hashlib.sha256((_CONSTRAINTS / f"{name}.txt").read_bytes()).hexdigest()
    told = {"packages": RECIPES[name].packages, "constraints": exact, "done": done}
    return json.dumps(told, indent=1) + "\n"


def _noted(at: Path, name: Name) -> str | None:
    """Return what stands beside an environment; None if it is not ours."""
    path = at / f"{name}.json"
    try:
        text = read_file(path, _LARGEST)
        told = parse_json(text, path)
        return text.decode() if isinstance(told, dict) and "packages" in told else None
    except LoadError:
        return None


def _version(python: Path) -> tuple[int, int]:
    """Ask a Python for its version.

    Raises:
        ConfigError: If it does not start, or cannot make environments.
    """
    code = "import sys, ensurepip, venv; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"--python {python} does not start: {error}. Name another.") from error
    if done.returncode or len(done.stdout.split()) != 2:
        last = (done.stderr.strip().splitlines() or ["it said nothing of its version"])[-1]
        raise ConfigError(
            f"--python {python} cannot make environments: {printable(last)}. Name another; "
            "Debian's needs the package python3-venv."
        )
    major, minor = map(int, done.stdout.split())
    return major, minor


@contextlib.contextmanager
def _held(at: Path, name: Name) -> Iterator[None]:
    """Let one process at a time build an environment."""
    with (at / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{at / name} is being built by another process.") from error
        yield
