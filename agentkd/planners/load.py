"""From a reference to a planner.

A reference is one of: an SB3 save, whatever its suffix; a folder with one, and maybe its
VecNormalize statistics; an executor file (.akd), or a folder with one that is named planner.akd;
"ws://host:port", where a planner is served; "module:attribute", which names an SB3 model, a torch
module, a callable, an object with `predict`, or a function that makes one of these. Several
references are an ensemble.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.errors import (
    AgentkdError,
    ConfigError,
    LoadError,
    RefError,
    SpecError,
    StatisticsError,
)
from agentkd.files import loading
from agentkd.planners.adapt import from_object
from agentkd.planners.planner import Planner
from agentkd.planners.remote.wire import SCHEMES
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
from agentkd.printable import printable
from agentkd.refs import is_reference, resolve
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Policy, RecurrentPolicy

if TYPE_CHECKING:
    from agentkd.planners.ensemble import Boxes
    from agentkd.planners.sb3.file import Save
    from agentkd.planners.sb3.vecnormalize import Statistics

_EXECUTOR = "planner.akd"
RAW = "off"
"""Instead of a file of statistics: the observations are not normalised."""


def load_planner(
    ref: str | Sequence[str],
    spec: Spec | None = None,
    *,
    vecnormalize: str | None = None,
    algorithm: str | None = None,
    allow_pickle: bool = False,
    boxes: Boxes = "moments",
    votes: int | None = None,
    vote_noise: float = 0.0,
) -> Planner:
    """Load a planner.

    Args:
        ref: A reference, or several for an ensemble.
        spec: The environment. It may be left out for SB3 saves and models and for executor files,
            which know theirs.
        vecnormalize: The file of VecNormalize statistics; left out, what lies beside the save and
            belongs to it is used; see `agentkd.planners.sb3.locate`. "off" if the planner takes the
            observations as they are.
        algorithm: The algorithm of an SB3 save, such as "PPO", where it is not told.
        allow_pickle: Unpickle what cannot be read otherwise. This runs whatever code the file
            holds: only for files whose maker you trust.
        boxes: How the actions of an ensemble's members become one, in boxes.
        votes: Use nothing but the actions that it chooses, asked so often for each answer; see
            `agentkd.planners.votes`.
        vote_noise: How far off all but the first are asked, in units of the states' spread.

    Raises:
        RefError: If the reference leads nowhere.
        LoadError: If the file is not what it should be.
        UnsafeError: If it could only be read by running its code.
        SpecError: If the planner is for another environment.
        ConfigError: If the options do not go together.

    Warns:
        StatisticsError: If a save tells that it saw normalised observations, and no statistics
            belong to it.
    """
    if votes is None and vote_noise:
        raise ConfigError(f"vote_noise is {vote_noise}, but no votes are asked for.")
    planner = _load(
        ref,
        spec,
        vecnormalize=vecnormalize,
        algorithm=algorithm,
        allow_pickle=allow_pickle,
        boxes=boxes,
    )
    return planner if votes is None else _voted(planner, votes, vote_noise)


def _load(
    ref: str | Sequence[str],
    spec: Spec | None,
    *,
    vecnormalize: str | None,
    algorithm: str | None,
    allow_pickle: bool,
    boxes: Boxes,
) -> Planner:
    if not isinstance(ref, str):
        if vecnormalize not in (None, RAW):
            raise ConfigError(
                "One file of statistics cannot serve an ensemble; lay each member's "
                "beside it, with its name: a.zip and a_vecnormalize.pkl."
            )
        options = {
            "vecnormalize": vecnormalize,
            "algorithm": algorithm,
            "allow_pickle": allow_pickle,
        }
        return _ensemble(ref, spec, options, boxes=boxes)
    _need_several(boxes, ref)
    if ref.startswith(SCHEMES):
        return _remote(ref, spec)
    path = Path(ref)
    kind = kind_of(path)
    if kind == "executor" or (kind is None and path.suffix == ".akd"):
        return _executor(path, spec)
    saved = path.is_dir() and any((path / name).is_file() for name in SAVES)
    if (path / _EXECUTOR).is_file() and not saved:
        return _executor(path / _EXECUTOR, spec)
    if is_reference(ref) and not path.exists():
        if algorithm is not None:
            raise ConfigError(f"{ref!r} is an object: it needs no algorithm.")
        return _object(ref, spec, vecnormalize, allow_pickle=allow_pickle)
    save = find_save(path)
    if not save.exists() and save.suffix != ".zip":
        raise RefError(
            f"No planner {ref!r}. Give an SB3 save, a folder with one, an executor "
            "file (.akd), ws://host:port, or module:attribute."
        )
    return _save(save, spec, vecnormalize, algorithm, allow_pickle=allow_pickle)


def _need_several(boxes: Boxes, ref: str) -> None:
    if boxes != "moments":
        raise ConfigError(f"boxes is {boxes!r}, but {ref!r} is a single planner: name several.")


def _voted(planner: Planner, votes: int, noise: float) -> Planner:
    from agentkd.planners.votes import Votes

    policy = Votes(planner.policy, planner.spec, votes, noise=noise)  # type: ignore[arg-type]
    return replace(planner, policy=policy, name=f"votes of {planner.name}")


def load_policy(
    ref: str | Sequence[str],
    spec: Spec | None = None,
    *,
    vecnormalize: str | None = None,
    algorithm: str | None = None,
    allow_pickle: bool = False,
    boxes: Boxes = "moments",
    votes: int | None = None,
    vote_noise: float = 0.0,
) -> Policy | RecurrentPolicy:
    """Load a planner and give its policy alone; see `load_planner`."""
    return load_planner(
        ref,
        spec,
        vecnormalize=vecnormalize,
        algorithm=algorithm,
        allow_pickle=allow_pickle,
        boxes=boxes,
        votes=votes,
        vote_noise=vote_noise,
    ).policy


def _object(
    ref: str, spec: Spec | None, vecnormalize: str | None, *, allow_pickle: bool
) -> Planner:
    found = resolve(ref)
    known = None
    if vecnormalize == RAW:
        raise ConfigError(
            f"{ref!r} is an object, which knows its normaliser: vecnormalize={RAW!r} is for saves."
        )
    if vecnormalize is not None:
        from agentkd.planners.sb3.vecnormalize import read_statistics

        known = read_statistics(Path(vecnormalize), allow_pickle=allow_pickle)
    return from_object(found, ref, spec, statistics=known)


def _remote(ref: str, spec: Spec | None) -> Planner:
    from agentkd.planners.remote.client import RemotePlanner

    policy = RemotePlanner(ref, spec)
    name = f"{policy.name} at {ref}"
    return Planner(policy, policy.spec, name, policy.parameters, "")


def _save(
    save: Path,
    spec: Spec | None,
    vecnormalize: str | None,
    algorithm: str | None,
    *,
    allow_pickle: bool,
) -> Planner:
    from agentkd.planners.sb3 import build as sb3
    from agentkd.planners.sb3.file import read_save
    from agentkd.planners.sb3.policy import describe
    from agentkd.planners.sb3.vecnormalize import read_statistics

    beside = Beside(None) if vecnormalize is not None else find_statistics(save)
    given = beside.own
    if vecnormalize is not None and vecnormalize != RAW:
        given = Path(vecnormalize)
    known = None
    if given is not None:
        known = read_statistics(given, allow_pickle=allow_pickle)
    digest = known.digest if known else ""
    try:
        read = read_save(save)
        if vecnormalize is None:
            _check_statistics(read, beside, known)
        with loading(save, keep=(AgentkdError,)):
            description = describe(read, algorithm)
            policy, built_for, size = sb3.build(description, spec, known)
        name = description.algorithm
    except StatisticsError:
        raise
    except LoadError:
        if not allow_pickle or not save.is_file():
            raise
        from agentkd.planners.sb3.unpickle import unpickle

        model, own = unpickle(save, algorithm)
        planner = from_object(model, str(save), spec, statistics=known)
        return replace(planner, digest=_joined(own, digest))
    return Planner(policy, built_for, name, size, _joined(read.digest, digest))


def _contradicted(save: Save, known: Statistics) -> bool:
    """Whether a save's last observations tell that these statistics were not used."""
    from agentkd.planners.sb3.spaces import read_spaces
    from agentkd.planners.sb3.vecnormalize import normaliser

    told, pair = saw_normalised(save.data), last_observations(save.data)
    if told != "unknown" or pair is None:
        return told == "no"
    obs = read_spaces(save.data)[0].obs
    if obs.layout != "single":
        return False
    last, raw = (each.reshape(-1, obs.size).astype("float32") for each in pair)
    return bool(abs(normaliser(known, obs)(raw) - last).mean() > 1.0)


def _check_statistics(save: Save, beside: Beside, known: Statistics | None) -> None:
    """Compare the statistics that were found with what the save tells of itself.

    Raises:
        ConfigError: If statistics were found for a policy that saw raw observations.
    """
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
    if spec is not None and not _alike(executor.spec, spec):
        raise SpecError(f"{path} is an executor for {executor.spec}; the environment is {spec}.")
    name = f"executor {executor.architecture}"
    return Planner(executor.policy, executor.spec, name, executor.parameters, bundle.digest)


def _alike(left: Spec, right: Spec) -> bool:
    """Whether two specs lay observations out alike; one may be flattened."""

    def parts(obs: ObsSpec) -> list[Part]:
        return [replace(part, dtype="float32") for part in obs.parts]

    flat = [Part("", "box", (left.obs.size,), "float32")]
    both = (parts(left.obs), parts(right.obs))
    alike = both[0] == both[1] or flat in both
    return alike and left.obs.size == right.obs.size and left.action == right.action


def _ensemble(
    refs: Sequence[str], spec: Spec | None, options: dict[str, Any], *, boxes: Boxes
) -> Planner:
    from agentkd.planners.ensemble import Ensemble

    members: list[Planner] = []
    for ref in refs:
        member = load_planner(ref, spec, **options)
        spec = spec or member.spec
        members.append(member)
    if len(members) == 1:
        _need_several(boxes, refs[0])
        return members[0]
    if not members or spec is None:
        raise ConfigError("An ensemble needs at least one planner.")
    if boxes != "moments" and not isinstance(spec.action, BoxSpec):
        raise ConfigError(
            f"boxes is {boxes!r}, but {spec.action} is none: of choices the mean of "
            "the probabilities is a mixture already."
        )
    policy = Ensemble(
        tuple(member.policy for member in members),  # type: ignore[misc]
        spec,
        boxes=boxes,
    )
    return Planner(
        policy,
        spec,
        " + ".join(member.name for member in members),
        sum(member.parameters for member in members),
        _joined(*(member.digest for member in members)),
    )
