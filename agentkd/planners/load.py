"""From a reference to a planner.

A reference is one of: an SB3 save, whatever its suffix; a folder with one, and maybe its
VecNormalize statistics; a policy file of another library (ONNX, TorchScript, a checkpoint of
rsl_rl, skrl, rl_games, CleanRL or RLtools), or a run's folder with one; an executor file (.akd), or
a folder with one that is named planner.akd; "ws://host:port", where a planner is served;
"module:attribute", which names an SB3 model, a torch module, a callable, an object with `predict`,
or a function that makes one of these. Several references are an ensemble.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from agentkd.archives import opened_zip, read_entry
from agentkd.errors import (
    AgentkdError,
    ConfigError,
    LoadError,
    RefError,
    SpecError,
    StatisticsError,
)
from agentkd.fields import parse_json
from agentkd.files import digest_of, loading, regular
from agentkd.planners.adapt import from_object, is_factory, parameters_of
from agentkd.planners.ensemble import Ensemble
from agentkd.planners.files.contents import Kind, checkpoint_in, contents_of
from agentkd.planners.files.options import FLAG
from agentkd.planners.planner import Planner
from agentkd.planners.remote.wire import SCHEMES
from agentkd.planners.sb3.file import LIMIT_DATA, LIMIT_FILE, Save, read_save
from agentkd.planners.sb3.locate import (
    SAVES,
    Beside,
    find_save,
    find_statistics,
    kind_of,
    last_observations,
    listed,
    saw_normalised,
)
from agentkd.planners.sb3.policy import algorithm_of_options, describe, known_algorithm
from agentkd.planners.sb3.spaces import read_spaces
from agentkd.planners.sb3.vecnormalize import Statistics, normaliser, read_statistics
from agentkd.planners.view import viewed
from agentkd.printable import printable
from agentkd.refs import is_reference, resolve, working_directory_on_path
from agentkd.spec import Part, Spec
from agentkd.spec_json import from_json
from agentkd.types import Policy, RecurrentPolicy
from agentkd.views import Seeing, environment

_EXECUTOR = "planner.akd"
RAW = "off"
"""Instead of a file of statistics: the observations are not normalised."""


class _Access(NamedTuple):
    """How a planner is read, as `load_planner` takes it."""

    vecnormalize: str | None
    algorithm: str | None
    allow_pickle: bool
    args: Mapping[str, Any] | None


def load_planner(
    ref: str | Path | Sequence[str | Path],
    spec: Spec | None = None,
    *,
    vecnormalize: str | None = None,
    algorithm: str | None = None,
    allow_pickle: bool = False,
    args: Mapping[str, Any] | None = None,
    sees: Seeing = None,
) -> Planner:
    """Load a planner.

    Args:
        ref: A reference or path, or several for an ensemble.
        spec: The environment. It may be left out for SB3 saves and models and for executor files,
            which know theirs, and for policy files, which know how many numbers there are.
        vecnormalize: The file of VecNormalize statistics; left out, what lies beside the save and
            belongs to it is used; see `agentkd.planners.sb3.locate`. "off" if the planner takes the
            observations as they are.
        algorithm: The algorithm of an SB3 save, such as "PPO", where it is not told.
        allow_pickle: Unpickle what cannot be read otherwise. This runs whatever code the file
            holds: only for files whose maker you trust.
        args: What a policy file does not tell, such as {"activation": "elu"}; see
            `agentkd.planners.files.options.FileOptions`. Or further arguments of a function that
            "module:attribute" names and that makes a planner.
        sees: What the planner sees of the environment's observation, as `agentkd.views` reads it:
            "state,terrain", "0:2,4:5" or "module:function". It needs `spec`.

    Raises:
        RefError: If the reference leads nowhere.
        LoadError: If the file is not what it should be.
        UnsafeError: If it could only be read by running its code.
        SpecError: If the planner is for another environment.
        ConfigError: If the options do not go together.

    Warns:
        StatisticsError: If a save tells that it saw normalised observations, and no statistics
            belong to it.
        UserWarning: Of what is assumed about a policy file.
    """
    access = _Access(vecnormalize, algorithm, allow_pickle, args)

    def load(spec: Spec | None) -> Planner:
        if isinstance(ref, str | Path):
            return _single(str(ref), spec, access)
        return _ensemble([str(each) for each in ref], spec, access)

    if sees is None:
        return load(spec)
    if spec is None:
        raise ConfigError(f"The view {sees!r} is of an environment: give its spec.")
    return viewed(load, spec, sees)


def load_policy(
    ref: str | Path | Sequence[str | Path], spec: Spec | None = None, **access: Any
) -> Policy | RecurrentPolicy:
    """Load a planner with the options of `load_planner`, and give its policy alone."""
    return load_planner(ref, spec, **access).policy


def _single(ref: str, spec: Spec | None, access: _Access) -> Planner:
    if (file := _policy_file(ref)) is not None:
        if access.vecnormalize not in (None, RAW) or access.algorithm is not None:
            raise ConfigError(
                f"{ref!r} is a policy file of another library: vecnormalize and algorithm are for "
                "SB3 saves."
            )
        from agentkd.planners.files.load import load_file

        return load_file(*file, spec, access.args)
    if is_reference(ref) and not Path(ref).exists() and kind_of(Path(ref)) is None:
        return _object(ref, spec, access)
    if access.args:
        raise ConfigError(
            f"{ref!r} is neither a policy file of another library nor a function that makes a "
            f"planner: {FLAG} are for these."
        )
    if ref.startswith(SCHEMES):
        from agentkd.planners.remote.client import RemotePlanner

        there = RemotePlanner(ref, spec)
        return Planner(there, there.spec, f"{there.name} at {ref}", there.parameters, "")
    path = Path(ref)
    kind = kind_of(path)
    if kind == "executor" or (kind is None and path.suffix == ".akd"):
        return _executor(path, spec)
    saved = path.is_dir() and any((path / name).is_file() for name in SAVES)
    if (path / _EXECUTOR).is_file() and not saved:
        return _executor(path / _EXECUTOR, spec)
    save = find_save(path)
    if not save.exists() and save.suffix != ".zip":
        raise RefError(
            f"No planner {ref!r}. Give an SB3 save or a folder with one, a policy file (.onnx, "
            ".pt, .pth), an executor file (.akd), ws://host:port, or module:attribute."
        )
    return _save(save, spec, access)


def _object(ref: str, spec: Spec | None, access: _Access) -> Planner:
    """Make a planner of what "module:attribute" names."""
    if access.algorithm is not None:
        raise ConfigError(f"{ref!r} is an object: it needs no algorithm.")
    found, known = resolve(ref), None
    if access.vecnormalize == RAW:
        raise ConfigError(
            f"{ref!r} is an object, which knows its normaliser: vecnormalize={RAW!r} is for saves."
        )
    if access.vecnormalize is not None:
        known = read_statistics(Path(access.vecnormalize), allow_pickle=access.allow_pickle)
    factory = callable(found) and is_factory(found)
    if access.args and not factory:
        raise ConfigError(
            f"{ref!r} takes no arguments: {FLAG} are for functions whose first parameter is spec."
        )
    if factory and spec is not None and known is None:
        found = _made(found, ref, spec, access.args or {})
    return from_object(found, ref, spec, statistics=known)


def takes_arguments(ref: str) -> bool:
    """Whether a reference names a function that makes a planner of more than the spec."""
    found = resolve(ref)
    return callable(found) and is_factory(found) and len(parameters_of(found) or ()) > 1


def _made(factory: Any, ref: str, spec: Spec, args: Mapping[str, Any]) -> Any:
    """Call a function that makes a planner."""
    try:
        inspect.signature(factory).bind(spec, **args)
    except TypeError as error:
        raise ConfigError(f"{ref!r}: {error} ({FLAG} KEY=VALUE).") from error
    return factory(spec, **args)


def _policy_file(ref: str) -> tuple[Path, Kind] | None:
    """Find the policy file of another library that is meant, None if it is something else."""
    path = Path(ref)
    if ref.startswith(SCHEMES) or kind_of(path) is not None:
        return None
    if path.is_dir() and not (path / _EXECUTOR).is_file():
        # A save, or one that was unpacked, as repositories of the Hugging Face Hub have both.
        saved = (path / "data").is_file() or Path(f"{path}.zip").is_file()
        inside = None if saved or any(path.glob("*.zip")) else checkpoint_in(path)
        path = inside if inside is not None else path
    if not path.is_file():
        return None
    kind = contents_of(path)
    return None if kind is None else (path, kind)


def _save(save: Path, spec: Spec | None, access: _Access) -> Planner:
    allow_pickle = access.allow_pickle
    beside = Beside(None) if access.vecnormalize is not None else find_statistics(save)
    given = beside.own
    if access.vecnormalize not in (None, RAW):
        given = Path(access.vecnormalize)
    known = None
    if given is not None:
        known = read_statistics(given, allow_pickle=allow_pickle)
    digest = known.digest if known else ""
    try:
        read = read_save(save)
        if access.vecnormalize is None:
            _check_statistics(read, beside, known)
        elif known is not None and _contradicted(read, known):
            warnings.warn(
                f"{printable(str(save))} tells that its policy did not see observations that "
                f"{printable(str(given))} normalises. Those statistics are used, as you said; "
                f"leave vecnormalize (--vecnormalize) out, or give {RAW!r}, if that is wrong.",
                StatisticsError,
                stacklevel=4,
            )
        from agentkd.planners.sb3 import build as sb3

        with loading(save, keep=(AgentkdError,)):
            description = describe(read, access.algorithm)
            policy, built_for, size = sb3.build(description, spec, known)
        name = description.algorithm
    except StatisticsError:
        raise
    except LoadError:
        if not allow_pickle or not save.is_file():
            raise
        model, own = _unpickle(save, access.algorithm)
        planner = from_object(model, str(save), spec, statistics=known)
        return replace(planner, digest=_joined(own, digest))
    return Planner(policy, built_for, name, size, _joined(read.digest, digest))


def _unpickle(path: Path, algorithm: str | None) -> tuple[Any, str]:
    """Load a save with SB3's own `load`, which runs whatever code it holds."""
    import sb3_contrib
    import stable_baselines3

    working_directory_on_path()
    with regular(path, LIMIT_FILE) as stream, loading(path):
        digest = digest_of(stream)
        if algorithm is None:
            with opened_zip(stream, path) as file:
                raw = read_entry(file, "data", LIMIT_DATA, path)
            data = parse_json(raw, path, limit=LIMIT_DATA, infinite=True)
            algorithm = algorithm_of_options(data, {})
    if algorithm is None:
        raise LoadError(f"{path} does not tell its algorithm; say which it is (algorithm='PPO').")
    name = known_algorithm(algorithm)
    kind = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    try:
        return kind.load(path, device="cpu"), digest
    except Exception as error:  # the file's own code may raise anything
        raise LoadError(f"{path} could not be unpickled: {error!r}.") from error


def _contradicted(save: Save, known: Statistics) -> bool:
    """Whether a save's last observations tell that these statistics were not used."""
    told, pair = saw_normalised(save.data), last_observations(save.data)
    if told != "unknown" or pair is None:
        return told == "no"
    obs = read_spaces(save.data)[0].obs
    if obs.layout != "single":
        return False
    last, raw = (each.reshape(-1, obs.size).astype("float32") for each in pair)
    return bool(abs(normaliser(known, obs)(raw) - last).mean() > 1.0)


def _check_statistics(save: Save, beside: Beside, known: Statistics | None) -> None:
    """Compare the statistics that were found with what the save tells of itself."""
    told = saw_normalised(save.data)
    own, path = beside.own, printable(str(save.path))
    if known is not None and _contradicted(save, known):
        raise ConfigError(
            f"{own} lies beside {path}, but the save tells that its policy saw the "
            f"observations as they are. Say which is right: vecnormalize={RAW!r} "
            f"(--vecnormalize {RAW}), or the file's name."
        )
    near = f" Near it are {listed(beside.near)}." if beside.near else ""
    suspected = told == "probably" or (told == "unknown" and beside.unclear)
    if own is None and (told == "yes" or suspected):
        verb = "was trained" if told == "yes" else "may have been trained"
        warnings.warn(
            f"{path} {verb} behind VecNormalize, and no statistics belong to it by "
            f"their name.{near} Unless only rewards were normalised, it will act badly "
            "without them: give their file (vecnormalize=…, --vecnormalize), or "
            f"{RAW!r} if it takes the observations as they are.",
            StatisticsError if told == "yes" else UserWarning,
            stacklevel=5,
        )
    if known is not None and beside.late:
        warnings.warn(
            f"{path} has no VecNormalize statistics of its own step: those of "
            f"{printable(str(own))} are used. Give others by vecnormalize=… "
            f"(--vecnormalize).{near}",
            UserWarning,
            stacklevel=5,
        )


def _joined(*digests: str) -> str:
    real = [digest for digest in digests if digest]
    if len(real) < 2:
        return real[0] if real else ""
    return hashlib.sha256("".join(real).encode()).hexdigest()


def _executor(path: Path, spec: Spec | None) -> Planner:
    from agentkd.deploy.bundle import read_bundle

    bundle = read_bundle(path)
    executor = bundle.executor
    known = environment(executor.spec)
    if spec is not None and not _alike(known, spec):
        if [part.name for part in known.obs.parts[-2:]] == ["goal", "age"]:
            raise SpecError(
                f"{path} follows goals of {known.obs.parts[-2].size} numbers, which only its "
                f"planner gives. Run both: agentkd run ENV --planner PLANNER --executor {path}."
            )
        raise SpecError(f"{path} is an executor for {executor.spec}; the environment is {spec}.")
    name = f"executor {executor.architecture}"
    return Planner(executor.policy, known, name, executor.parameters, bundle.digest)


def _alike(left: Spec, right: Spec) -> bool:
    """Whether two specs lay observations out alike; one may be flattened."""
    both = [[replace(part, dtype="float32") for part in each.obs.parts] for each in (left, right)]
    flat = [Part("", "box", (left.obs.size,), "float32")]
    alike = both[0] == both[1] or flat in both
    return alike and left.obs.size == right.obs.size and left.action == right.action


def _ensemble(refs: Sequence[str], spec: Spec | None, access: _Access) -> Planner:
    if access.vecnormalize not in (None, RAW):
        raise ConfigError(
            "One file of statistics cannot serve an ensemble; lay each member's "
            "beside it, with its name: a.zip and a_vecnormalize.pkl."
        )
    if len(refs) == 1:
        return _single(refs[0], spec, access)
    members: list[Planner] = []
    for ref in refs:
        members.append(_single(ref, spec, access))
        spec = spec or members[-1].spec
    if spec is None:
        raise ConfigError("An ensemble needs at least one planner.")
    policies: Any = tuple(member.policy for member in members)
    return Planner(
        Ensemble(policies, spec),
        spec,
        " + ".join(member.name for member in members),
        sum(member.parameters for member in members),
        _joined(*(member.digest for member in members)),
    )


def build(
    ref: str | Sequence[str], spec: Mapping[str, Any], access: Mapping[str, Any] | None = None
) -> Policy | RecurrentPolicy:
    """Load a policy of JSON values: a spec of `to_json`, and the options of `load_planner`."""
    return load_policy(ref, from_json(spec), **(access or {}))


_OWN = ("initial_state", "episode", "improve", "disagreement", "interrupt", "resume")
"""What a callable has that speaks to the runtime by itself; it is not wrapped."""


def open_planner(
    ref: str | Sequence[str],
    spec: Mapping[str, Any] | None = None,
    sees: Any = None,
    args: Mapping[str, Any] | None = None,
) -> Any:
    """Load the planner that `Agent(planner="…")` names, as `build` does.

    "module:attribute" may also name a class or a function without parameters, which makes it.
    """
    known = None if spec is None else from_json(spec)
    if not isinstance(ref, str) or not is_reference(ref) or Path(ref).exists() or args:
        return load_policy(ref, known, sees=sees, args=args)
    if known is None or sees is None:
        return _opened(ref, known)
    return viewed(lambda own: Planner(_opened(ref, own), own, ref, 0, ""), known, sees).policy


def _opened(ref: str, spec: Spec | None) -> Any:
    found = resolve(ref)
    if callable(found) and is_factory(found) and spec is not None:
        found = found(spec)
    elif isinstance(found, type) or (inspect.isfunction(found) and parameters_of(found) == ()):
        found = found()
    if callable(found) and any(hasattr(found, name) for name in _OWN):
        return found
    return from_object(found, ref, spec).policy
