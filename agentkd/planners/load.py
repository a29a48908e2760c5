"""From a reference to a planner.

A reference is one of: an SB3 save (.zip); a folder with one, and maybe its
VecNormalize statistics; an executor file (.akd), or a folder with one that is named
planner.akd; "tcp://host:port", where a planner is served; "module:attribute", which
names an SB3 model, a torch module, a callable, an object with `predict`, or a function
that makes one of these. Several references are an ensemble.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.errors import AgentkdError, ConfigError, LoadError, RefError, SpecError
from agentkd.files import loading
from agentkd.planners.objects import from_object
from agentkd.planners.planner import Planner
from agentkd.planners.wire import SCHEME
from agentkd.printable import printable
from agentkd.refs import is_reference, resolve
from agentkd.spec import BoxSpec, Spec
from agentkd.types import Policy, RecurrentPolicy

if TYPE_CHECKING:
    from agentkd.planners.ensemble import Boxes
    from agentkd.planners.sb3_file import Save

_STATISTICS = "vecnormalize.pkl"
_EXECUTOR = "planner.akd"
_SAVES = ("planner.zip", "best_model.zip", "model.zip")


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
        spec: The environment. It may be left out for SB3 saves and models and for
            executor files, which know theirs.
        vecnormalize: The file of VecNormalize statistics; left out, a
            `vecnormalize.pkl` beside the save is used.
        algorithm: The algorithm of an SB3 save, such as "PPO", where it is not told.
        allow_pickle: Unpickle what cannot be read otherwise. This runs whatever code
            the file holds: only for files whose maker you trust.
        boxes: How the actions of an ensemble's members become one, in boxes.
        votes: Use nothing but the actions that it chooses, asked so often for each
            answer; see `agentkd.planners.votes`.
        vote_noise: How far off all but the first are asked, in units of the states'
            spread.

    Raises:
        RefError: If the reference leads nowhere.
        LoadError: If the file is not what it should be.
        UnsafeError: If it could only be read by running its code.
        SpecError: If the planner is for another environment.
        ConfigError: If the options do not go together.
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
        if vecnormalize is not None:
            raise ConfigError(
                "One file of statistics cannot serve an ensemble; lay each member's "
                f"beside it as {_STATISTICS}."
            )
        return _ensemble(
            ref, spec, algorithm=algorithm, allow_pickle=allow_pickle, boxes=boxes
        )
    _need_several(boxes, ref)
    if ref.startswith(SCHEME):
        return _remote(ref, spec)
    path = Path(ref)
    if path.suffix == ".akd":
        return _executor(path, spec)
    saved = path.is_dir() and any((path / name).is_file() for name in _SAVES)
    if (path / _EXECUTOR).is_file() and not saved:
        return _executor(path / _EXECUTOR, spec)
    if path.is_dir() or path.suffix == ".zip":
        return _save(path, spec, vecnormalize, algorithm, allow_pickle=allow_pickle)
    if is_reference(ref):
        if algorithm is not None:
            raise ConfigError(f"{ref!r} is an object: it needs no algorithm.")
        return _object(ref, spec, vecnormalize, allow_pickle=allow_pickle)
    raise RefError(
        f"No planner {ref!r}. Give an SB3 save (.zip), a folder with one, an executor "
        "file (.akd), tcp://host:port, or module:attribute."
    )


def _need_several(boxes: Boxes, ref: str) -> None:
    if boxes != "moments":
        raise ConfigError(
            f"boxes is {boxes!r}, but {ref!r} is a single planner: name several."
        )


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
    if vecnormalize is not None:
        from agentkd.planners.vecnormalize import read_statistics

        known = read_statistics(Path(vecnormalize), allow_pickle=allow_pickle)
    return from_object(found, ref, spec, statistics=known)


def _remote(ref: str, spec: Spec | None) -> Planner:
    from agentkd.planners.remote import RemotePlanner

    policy = RemotePlanner(ref, spec)
    name = f"{policy.name} at {ref}"
    return Planner(policy, policy.spec, name, policy.parameters, "")


def _found(folder: Path) -> tuple[Path, Path | None]:
    """Find the save in a folder, and its statistics.

    Laid out as ours, planner.zip and vecnormalize.pkl, or as rl-baselines3-zoo does,
    ENV.zip and ENV/vecnormalize.pkl.
    """
    saves = sorted(folder.glob("*.zip"))
    named = [folder / name for name in _SAVES if (folder / name).is_file()]
    if not saves:
        raise LoadError(f"No .zip in {folder}; it should hold the SB3 save.")
    if len(saves) > 1 and not named:
        names = ", ".join(save.name for save in saves[:6])
        raise LoadError(f"{folder} holds {len(saves)} saves ({names}); name one.")
    save = named[0] if named else saves[0]
    return save, _beside(save)


def _beside(save: Path) -> Path | None:
    places = (save.parent / _STATISTICS, save.with_suffix("") / _STATISTICS)
    return next((place for place in places if place.is_file()), None)


def _save(
    path: Path,
    spec: Spec | None,
    vecnormalize: str | None,
    algorithm: str | None,
    *,
    allow_pickle: bool,
) -> Planner:
    from agentkd.planners import sb3
    from agentkd.planners.sb3_file import read_save
    from agentkd.planners.sb3_policy import describe
    from agentkd.planners.vecnormalize import read_statistics

    save, beside = _found(path) if path.is_dir() else (path, _beside(path))
    if vecnormalize is not None:
        beside = Path(vecnormalize)
    known = None
    if beside is not None:
        known = read_statistics(beside, allow_pickle=allow_pickle)
    digest = known.digest if known else ""
    try:
        read = read_save(save)
        with loading(save, keep=(AgentkdError,)):
            description = describe(read, algorithm)
            policy, built_for, size = sb3.build(description, spec, known)
        name = description.algorithm
    except LoadError:
        if not allow_pickle or not save.is_file():
            raise
        from agentkd.planners.sb3_unpickle import unpickle

        model, own = unpickle(save, algorithm)
        planner = from_object(model, str(save), spec, statistics=known)
        return replace(planner, digest=_joined(own, digest))
    if known is None and beside is None:
        _warn_of_statistics(read, save)
    return Planner(policy, built_for, name, size, _joined(read.digest, digest))


def _warn_of_statistics(read: Save, save: Path) -> None:
    """Say so where an on-policy save tells that it saw normalised observations."""
    normalised = read.data.get("_last_original_obs") is not None
    if normalised and "n_steps" in read.data and "gae_lambda" in read.data:
        warnings.warn(
            f"{printable(str(save))} was trained behind VecNormalize, but there is no "
            f"{_STATISTICS} beside it. Unless only rewards were normalised, it will "
            "act badly; give its statistics (vecnormalize=…).",
            stacklevel=4,
        )


def _joined(*digests: str) -> str:
    real = [digest for digest in digests if digest]
    if len(real) < 2:
        return real[0] if real else ""
    return hashlib.sha256("".join(real).encode()).hexdigest()


def _executor(path: Path, spec: Spec | None) -> Planner:
    from agentkd.deploy.bundle import read_bundle

    bundle = read_bundle(path)
    frozen = bundle.frozen
    if spec is not None and not _alike(frozen.spec, spec):
        raise SpecError(
            f"{path} is an executor for {frozen.spec}; the environment is {spec}."
        )
    name = f"executor {frozen.architecture}"
    return Planner(frozen.policy, frozen.spec, name, frozen.parameters, bundle.digest)


def _alike(left: Spec, right: Spec) -> bool:
    return left.obs.size == right.obs.size and left.action == right.action


def _ensemble(
    refs: Sequence[str],
    spec: Spec | None,
    *,
    algorithm: str | None,
    allow_pickle: bool,
    boxes: Boxes,
) -> Planner:
    from agentkd.planners.ensemble import Ensemble

    members: list[Planner] = []
    for ref in refs:
        member = load_planner(ref, spec, algorithm=algorithm, allow_pickle=allow_pickle)
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
