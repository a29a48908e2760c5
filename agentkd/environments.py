"""Environments by name: a Gymnasium id, "module:Id-v0", or "module:attribute"."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

from agentkd.errors import RefError, did_you_mean
from agentkd.printable import logger
from agentkd.refs import is_reference, resolve, working_directory_on_path

log = logger(__name__)


def make(name: str, **options: Any) -> Any:
    """Make an environment.

    Args:
        name: A Gymnasium id such as "LunarLander-v3"; "module:Id-v0", where importing
            the module registers the id; or "module:attribute", a class or function
            that makes an environment.
        options: Keyword arguments for it.

    Returns:
        A `gymnasium.Env`.

    Raises:
        RefError: If nothing goes by that name, or a package that it needs is missing.
    """
    import gymnasium as gym

    working_directory_on_path()
    _quiet_mujoco(name)
    if is_reference(name) and not _names_an_id(name):
        return resolve(name)(**options)
    try:
        return gym.make(name, **options)
    except gym.error.DependencyNotInstalled as error:
        raise RefError(f"{name} needs a package that is missing: {error}") from error
    except gym.error.UnregisteredEnv as error:
        hint = did_you_mean(name, gym.registry) if ":" not in name else ""
        hint = hint if "mean" in hint else ""
        raise RefError(f"No environment {name!r}: {error}.{hint}") from error
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise RefError(f"No environment {name!r}: {error}") from error


@cache
def _quiet_mujoco(name: str) -> None:
    """Send MuJoCo's warnings to the log, each once.

    It would print them for every copy of an environment, in the middle of whatever is
    shown, and leave a file in the working directory.
    """
    import gymnasium as gym

    known = gym.registry.get(name)
    if known is None or "mujoco" not in str(known.entry_point):
        return
    with contextlib.suppress(ImportError):
        import mujoco

        mujoco.set_mju_user_warning(_warn_once)


@cache
def _warn_once(text: str) -> None:
    log.info("MuJoCo: %s", text)


def _names_an_id(name: str) -> bool:
    """Whether "module:X" is a Gymnasium id, which ends in a version."""
    _, _, version = name.rpartition("-v")
    return version.isdigit()
