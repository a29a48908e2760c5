"""What can be known to be wrong with the options before torch is imported."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentkd.cli.options import Planned
from agentkd.environments import check_name
from agentkd.errors import ConfigError, LoadError, RefError
from agentkd.refs import is_reference, working_directory_on_path

_SCHEMES = ("ws://", "wss://")


def first_look(command: str, options: Any) -> None:
    """Check the options that several commands have, the quick ones first.

    By their names it is known what they are.

    Raises:
        AgentkdError: If one is invalid.
    """
    for text in _texts(options, "executor", "architecture", "candidates"):
        _check_executor(text)
    for text in _texts(options, "terms", "compare"):
        from agentkd.distillation.terms import check_terms

        check_terms(text)
    for text in _texts(options, "planner", "policies", "reference"):
        check_planner(text)
    planners = getattr(options, "planners", None)
    if planners is not None and not Path(planners).is_dir():
        raise ConfigError(f"--planners {planners} is not a folder.")
    for text in _texts(getattr(options, "saves", None), "vecnormalize"):
        from agentkd.planners.load import RAW

        if text != RAW and not Path(text).is_file():
            raise LoadError(f"--vecnormalize {text} is not a file, and not {RAW!r}.")
    data = getattr(options, "data", None)
    if data and not data.startswith("minari:") and not Path(data).exists():
        raise LoadError(f"--data {data} is not a dataset: nothing is there.")
    _check_out(command, options)
    for text in _texts(options, "env"):
        if text:
            check_name(text)


def check_planner(ref: str) -> None:
    """Check that a planner's reference leads to a file, a folder or a module.

    Raises:
        RefError: If it does not.
    """
    path = Path(ref)
    if ref.startswith(_SCHEMES) or path.exists():
        return
    if path.suffix in (".akd", ".zip") or not is_reference(ref):
        raise RefError(
            f"No planner {ref!r}. Give an SB3 save (.zip) or a folder with one, a policy file "
            "(.onnx, .pt, .pth), an executor file (.akd), ws://host:port, or module:attribute."
        )
    working_directory_on_path()
    module = ref.partition(":")[0]
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise RefError(
            f"{ref!r}: no module {module!r} on the path, which begins with "
            f"{Path.cwd()}. Install it, or run from the folder that holds it."
        )


def _check_executor(text: str) -> None:
    from agentkd.executors.architecture import parse

    if text.endswith(".akd"):
        if not Path(text).is_file():
            raise LoadError(f"No executor file {text}.")
    elif text != "auto":
        parse(text)


def _check_out(command: str, options: Any) -> None:
    out = getattr(options, "out", None)
    # `freeze` writes a file, a dry run nothing.
    dry = getattr(options, "dry_run", False)
    if command == "freeze" or dry or not hasattr(options, "overwrite"):
        return
    if isinstance(options, Planned) and options.env:
        out = options.place
    if out is not None:
        from agentkd.report.write import check_out

        check_out(out, overwrite=options.overwrite, resume=getattr(options, "resume", False))


def _texts(options: Any, *names: str) -> Iterator[str]:
    """Give the options of these names as texts, one or several each."""
    for name in names:
        value = getattr(options, name, None)
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from value
