"""The command line itself: help, exit statuses, errors without a traceback."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import fields
from inspect import getsource
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentkd.cli import main as cli
from agentkd.cli.main import _COMMANDS, main
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import BundleError, ConfigError
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from tests.waiting import ENOUGH

COMMANDS = tuple(_COMMANDS)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command, or asked for help, it lists them, each with an example."""
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(f"agentkd {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_each_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` ends with status 0, and no option goes without a sentence."""
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code in (0, None)
    assert "usage: agentkd " + name in capsys.readouterr().out
    options = importlib.import_module(_COMMANDS[name][0]).Options
    text = "\n".join(getsource(each) for each in options.__mro__[:-1])
    for field in fields(options):
        at = text.index(f"    {field.name}: ")
        assert text[at:].split("\n", 1)[1].lstrip(" ").startswith('"""'), field.name


def test_an_unknown_command_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error ends in status 2 and a suggestion."""
    assert main(["distil", "CartPole-v1"]) == 2
    assert "Did you mean 'distill'?" in capsys.readouterr().err


def test_an_unknown_option_ends_in_2(capsys: pytest.CaptureFixture[str]) -> None:
    """An option that nobody knows is refused, with its name."""
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "x.akd", "--colour", "red"])
    assert ended.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_an_error_is_a_sentence_and_not_a_traceback(tmp_path: Path) -> None:
    """A file that is missing ends the process in status 2 with one line."""
    ended = subprocess.run(
        [sys.executable, "-m", "agentkd", "inspect", str(tmp_path / "no.akd")],
        capture_output=True,
        text=True,
        check=False,
        timeout=ENOUGH,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert "no.akd" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_traceback_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AGENTKD_DEBUG=1 lets the error through."""
    monkeypatch.setenv("AGENTKD_DEBUG", "1")
    with pytest.raises(BundleError):
        main(["inspect", str(tmp_path / "no.akd")])


def test_square_brackets_in_an_error_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    """What a user wrote is shown as it is, not taken for colours."""
    assert main(["inspect", "[red]odd[/red].akd"]) == 2
    assert "[red]odd[/red].akd" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without torch, a command that needs it says what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["eval", "CartPole-v1", "tests.cli_planners:balance"]) == 2
    said = capsys.readouterr().err
    assert "'torch'" in said
    assert 'pip install "agentkd[train]"' in said


def test_a_base_install_names_the_extra_of_the_command_line(tmp_path: Path) -> None:
    """Without rich and tyro there is one line and status 2; acting needs neither."""
    spec = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))
    write_bundle(tmp_path / "e.akd", initial("mlp:4", spec))
    code = """
import sys
for name in ("rich", "tyro", "torch", "gymnasium", "scipy"):
    sys.modules[name] = None
import numpy as np
from agentkd.deploy.bundle import read_bundle
from agentkd.runtime import Agent
with Agent(read_bundle(sys.argv[1]).executor) as agent:
    agent.act(np.zeros(3, np.float32))
from agentkd.cli.main import main
assert main(["--help"]) == 0
sys.exit(main(["inspect", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "e.akd")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "agentkd[cli]"' in done.stderr


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("websockets", "agentkd.planners.remote.client", "remote"),
        ("websockets", "agentkd.planners.remote.server", "remote"),
        ("prometheus_client", "agentkd.runtime.exposition", "metrics"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    package: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever imports what needs it is told what to install."""
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    for name in (module, "agentkd.planners.remote.line"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ConfigError, match=rf"'{package}'.*agentkd\[{extra}\]"):
        importlib.import_module(module)


def test_ctrl_c_ends_in_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interruption that no command handles is no traceback either."""

    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    inspect = importlib.import_module("agentkd.cli.inspect")
    fake = SimpleNamespace(Options=inspect.Options, run=interrupted)
    monkeypatch.setattr(cli, "import_module", lambda _: fake)
    assert main(["inspect", "x.akd"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` gives what is installed."""
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"agentkd {version('agentkd')}\n"


@pytest.mark.parametrize("place", ["x" * 300, "", "."])
@pytest.mark.parametrize(
    "words",
    [
        ["log"],
        ["inspect"],
        ["freeze"],
        ["eval", "CartPole-v1"],
        ["distill", "CartPole-v1", "--planner"],
        ["distill", "CartPole-v1", "--data"],
    ],
    ids=" ".join,
)
def test_a_path_that_is_none_is_told_in_a_line(
    words: list[str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A name that is too long, empty or a folder's ends in status 2."""
    monkeypatch.chdir(tmp_path)
    assert main([*words, place]) == 2
    assert "error: " in capsys.readouterr().err
