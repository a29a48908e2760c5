"""Environments by name: a Gymnasium id, "module:Id-v0", or "module:attribute".

Where a name is taken, so is a function that makes an environment. What it returns is checked
against what it declares (`environment_checks`).

A name may end in keyword arguments as a JSON object: `LunarLander-v3{"gravity": -5}`. So reports,
executor files and worker processes carry them with the name.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from agentkd.errors import AgentkdError, ConfigError, EpisodeError, RefError, did_you_mean
from agentkd.printable import logger
from agentkd.refs import is_reference, resolve, working_directory_on_path
from agentkd.spec import Spec, env_spec, flatten_one
from agentkd.types import Floats

log = logger(__name__)

Environment = str | Callable[[], Any]
"""A name, or a function that makes an environment."""


def make(env: Environment, *, finite: bool = False, **options: Any) -> Any:
    """Make an environment.

    Args:
        env: A Gymnasium id such as "LunarLander-v3"; "module:Id-v0", where importing the module
            registers the id; or "module:attribute", a class or function that makes an environment.
            Arguments may follow as a JSON object. Or a function that makes one.
        finite: Whether NaN or infinity in an observation is an error.
        options: Keyword arguments for it, before those in the name.

    Returns:
        A `gymnasium.Env` that checks what it returns; see `environment_checks.Checked`.

    Raises:
        RefError: If nothing goes by that name, or a package that it needs is missing.
        EpisodeError: If it cannot be built.
        SpecError: If its spaces are not supported.
    """
    from agentkd.environment_checks import Checked

    made = _of_any_number(env, 1, options)
    if hasattr(made, "num_envs"):
        from agentkd.vector_checks import OneOf

        made = OneOf(made, label(env))
    return Checked(made, label(env), finite=finite)


def make_many(env: Environment, count: int) -> Any:
    """Make `count` environments that step as one, where such are to be made; one otherwise.

    A function that takes `num_envs` makes a `gymnasium.vector.VectorEnv`, and so may one without
    it, of as many as it has. Of a Gymnasium id more than 32 are made so, if it registers a
    vectorised form of its own.

    Returns:
        A `VectorEnv`, or what `make` returns.

    Raises:
        As `make`.
    """
    if isinstance(env, str) and count > _FEW:
        found = _vectorised(env)
        if found is not None:
            import gymnasium as gym

            base, arguments = split(env)
            mode = "vector_entry_point"
            try:
                return gym.make_vec(base, count, vectorization_mode=mode, **arguments)
            except Exception as error:
                raise _unbuilt(base, error, found, arguments) from error
    from agentkd.environment_checks import Checked

    made = _of_any_number(env, count, {})
    return made if hasattr(made, "num_envs") else Checked(made, label(env))


_FEW = 32


def _vectorised(name: str) -> Any:
    """Give the Gymnasium spec of a name that has a vectorised form of its own, else None."""
    found = _find(split(name)[0])
    return found if getattr(found, "vector_entry_point", None) is not None else None


def _of_any_number(env: Environment, count: int, options: dict[str, Any]) -> Any:
    """Make an environment, or a `VectorEnv` of `count` where a function takes their number."""
    if not isinstance(env, str):
        return _called(env, _sized(env, count, options))
    base, arguments = split(env)
    options = {**options, **arguments}
    if is_reference(base) and not _names_an_id(base):
        working_directory_on_path()
        options = _sized(resolve(base), count, options)
    return _made(base, options)


def _sized(function: Any, count: int, options: dict[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(TypeError, ValueError):
        if "num_envs" in inspect.signature(function).parameters:
            return {"num_envs": count, **options}
    return options


def label(env: Environment) -> str:
    """Give an environment's name, or what a function that makes it is called."""
    if isinstance(env, str):
        return env
    return getattr(env, "__name__", type(env).__name__)


def look_at(env: Environment) -> tuple[Spec, Floats]:
    """Give an environment's spec, and an observation that it begins with, (1, obs)."""
    probe = make(env)
    try:
        spec = env_spec(probe)
        obs, _ = probe.reset(seed=0)
        return spec, flatten_one(spec.obs, obs)[None]
    finally:
        probe.close()


def split(name: str) -> tuple[str, dict[str, Any]]:
    """Give a name without its arguments, and these; `RefError` if they are not a JSON object."""
    base, brace, rest = name.partition("{")
    if not brace:
        return name, {}
    try:
        arguments = json.loads(brace + rest)
    except (ValueError, RecursionError) as error:
        raise RefError(
            f"The arguments of the environment {name!r} are not a JSON object: {error}. "
            'Write for example LunarLander-v3{"gravity": -5}.'
        ) from error
    return base.strip(), arguments


def with_arguments(name: str, words: Sequence[str]) -> str:
    """Add arguments to a name: JSON objects, or KEY=VALUE with a JSON value or plain text.

    Raises:
        ConfigError: If a word is neither.
    """
    if not words:
        return name
    if not name:
        raise ConfigError("--env-args are for an environment: name one.")
    base, given = split(name)
    return base + json.dumps(given | read_arguments(words, "--env-args"), sort_keys=True)


def read_arguments(words: Sequence[str], flag: str) -> dict[str, Any]:
    """Read a flag's words: JSON objects, or KEY=VALUE with a JSON value or plain text.

    Raises:
        ConfigError: If a word is neither.
    """
    found: dict[str, Any] = {}
    for word in words:
        found |= _arguments(word, flag)
    return found


def _arguments(word: str, flag: str) -> dict[str, Any]:
    if word.lstrip().startswith("{"):
        try:
            return dict(json.loads(word))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{flag} {word}: no JSON object: {error}.") from error
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        raise ConfigError(
            f"{flag} {word}: neither KEY=VALUE, such as scale=0.5, nor a JSON object, such as "
            "'{\"scale\": 0.5}'."
        )
    python = {"True": True, "False": False, "None": None}
    if value in python:
        return {key: python[value]}
    try:
        return {key: json.loads(value)}
    except (ValueError, RecursionError):
        return {key: value}


def folder_name(name: str) -> str:
    """Give a name in a form that serves as a folder's."""
    base, arguments = split(name)
    words = [base.replace(":", ".")]
    words += [f"{key}={value}" for key, value in sorted(arguments.items())]
    return re.sub(r"[^\w.+=-]+", "-", "-".join(words)).strip("-")[:100]


def named_by_file(name: str) -> str:
    """Check a name that comes from a file, whose maker may be hostile.

    Raises:
        RefError: If it would import a module of the standard library, or call anything but what is
            registered as an environment or a class of `gymnasium.Env`; the latter only without
            arguments.
    """
    base, arguments = split(name)
    module, colon, _ = base.partition(":")
    refused = bool(colon) and module.partition(".")[0] in sys.stdlib_module_names
    if not refused and is_reference(base) and not _names_an_id(base):
        refused = bool(arguments) or not _is_class_of_gymnasium(base)
    if refused:
        raise RefError(
            f"The file names the environment {name!r:.200}. Functions that a file "
            "names are not called: name the environment yourself."
        )
    return name


def _is_class_of_gymnasium(name: str) -> bool:
    import gymnasium as gym

    check_name(name)
    found = resolve(name)
    return isinstance(found, type) and issubclass(found, gym.Env)


def check_name(name: str) -> None:
    """Check that something goes by a name, as `make` does, without making it."""
    base, _ = split(name)
    try:
        _find(base)
    except AgentkdError:
        raise
    except Exception as error:
        raise _unbuilt(name, error) from error


def _find(base: str) -> Any:
    """Give what makes the environment: a function, or a Gymnasium spec."""
    import gymnasium as gym

    working_directory_on_path()
    if is_reference(base) and not _names_an_id(base):
        return resolve(base)
    try:
        if ":" in base:
            module, _, base = base.partition(":")
            importlib.import_module(module)
        return gym.spec(_with_version(base))
    except gym.error.UnregisteredEnv as error:
        hint = did_you_mean(base, gym.registry)
        hint = hint if "mean" in hint else ""
        raise RefError(f"No environment {base!r}: {error}.{hint}") from error
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise RefError(f"No environment {base!r}: {error}") from error


def _with_version(base: str) -> str:
    """Add the newest version to a Gymnasium id that has none, as `gym.make` does."""
    from gymnasium.envs import registration

    space, name, version = registration.parse_env_id(base)
    if version is None and base not in registration.registry:
        version = registration.find_highest_version(space, name)
    return registration.get_env_id(space, name, version)


def _called(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    try:
        return function(**options)
    except AgentkdError:
        raise
    except (Exception, SystemExit) as error:
        raise _unbuilt(label(function), error) from error


def _made(base: str, options: dict[str, Any]) -> Any:
    import gymnasium as gym

    found: Any = None
    try:
        found = _find(base)
        if not isinstance(found, gym.envs.registration.EnvSpec):
            return found(**options)
        _quiet_mujoco(found.id)
        return gym.make(base, **options)
    except AgentkdError:
        raise
    except gym.error.DependencyNotInstalled as error:
        raise RefError(f"{base} needs a package that is missing: {error}") from error
    except (gym.error.UnregisteredEnv, gym.error.NameNotFound) as error:
        raise RefError(f"No environment {base!r}: {error}") from error
    except (Exception, SystemExit) as error:  # which would end the command without a word
        raise _unbuilt(base, error, found, options) from error


def _unbuilt(
    name: str, error: BaseException, found: Any = None, options: Any = None
) -> EpisodeError:
    from agentkd.environment_checks import told

    given = f" with {options}" if options else ""
    hint = "AGENTKD_DEBUG=1 shows the traceback."
    if isinstance(error, TypeError) and found is not None:
        hint = f"{_takes(found)}Give arguments with --env-args KEY=VALUE. {hint}"
    return EpisodeError(f"The environment {name}{given} could not be built: {told(error)}. {hint}")


def _takes(found: Any) -> str:
    """Say which arguments an environment takes, where that can be known."""
    entry = getattr(found, "entry_point", found)
    with contextlib.suppress(Exception):
        if isinstance(entry, str):
            entry = resolve(entry)
        names = [each for each in inspect.signature(entry).parameters if each != "self"]
        return f"It takes {', '.join(names) or 'no arguments'}. "
    return ""


@cache
def _quiet_mujoco(name: str) -> None:
    """Send MuJoCo's warnings to the log, each once.

    It would print them for every copy of an environment, and leave a file in the working directory.
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
