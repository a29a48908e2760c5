"""From a policy file to a planner, by what the file holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentkd.errors import AgentkdError, LoadError, UnsafeError
from agentkd.files import digest_of, loading, read_file, regular
from agentkd.planners.files import cleanrl, onnx, rl_games, rltools, rsl_rl, skrl, torchscript
from agentkd.planners.files.choices import check_logits
from agentkd.planners.files.contents import LIMIT, REFUSED, Kind
from agentkd.planners.files.network import Network, policy_of
from agentkd.planners.files.options import Assumptions, options_of
from agentkd.planners.files.run_settings import beside
from agentkd.planners.files.tensors import load_checkpoint
from agentkd.planners.files.weights import REMEDY
from agentkd.planners.planner import Planner, probe
from agentkd.printable import printable
from agentkd.spec import Spec
from agentkd.testing import example_observations

_OF_SB3 = (
    "mlp_extractor.policy_net.0.weight",
    "actor.latent_pi.0.weight",
    "actor.mu.0.weight",
    "q_net.q_net.0.weight",
)
_CLIPS = ("clip_actions", "models.policy.clip_actions", "params.env.clip_actions")
"""Where the settings of a run say that an action is clipped: rsl_rl, skrl, rl_games."""


def load_file(
    path: Path, kind: Kind, spec: Spec | None, args: Mapping[str, Any] | None = None
) -> Planner:
    """Make a planner of a policy file.

    Args:
        path: The file.
        kind: What it is, by `agentkd.planners.files.contents.contents_of`.
        spec: The environment; left out, one with as many numbers as the file tells.
        args: What the file does not tell; see `agentkd.planners.files.options.FileOptions`.

    Raises:
        LoadError: If the file is damaged, or its network is none that is known.
        UnsafeError: If it could only be read by running code of its own.
        SpecError: If it is for another environment.
        ConfigError: If something that it does not tell has to be told, or an option is invalid.

    Warns:
        UserWarning: Of what was assumed because neither the file nor the options told it.
    """
    where = printable(str(path))
    about = Assumptions(where, options_of(args))
    if kind in REFUSED:
        error = UnsafeError if kind == "pickle" else LoadError
        raise error(f"{where} is {REFUSED[kind]}")
    # HDF5 is read by its own library.
    raw = b"" if kind == "hdf5" else read_file(path, LIMIT)
    with loading(where, keep=(AgentkdError,)):
        planner = _read(raw, kind, path, spec, about)
        obs = example_observations(planner.spec.obs, 2)
        answer = probe(planner.policy, planner.spec, obs, where)
        if kind in ("onnx", "torchscript"):
            check_logits(answer, about)
    about.announce()
    return planner


def _read(raw: bytes, kind: Kind, path: Path, spec: Spec | None, about: Assumptions) -> Planner:
    if kind == "onnx":
        return onnx.load(raw, path, spec, about)
    if kind == "torchscript":
        return torchscript.load(raw, path, spec, about)
    if kind == "hdf5":
        network, known = rltools.read(path, spec, about)
        with regular(path, LIMIT) as stream:
            digest = digest_of(stream)
    else:
        network, known = _checkpoint(raw, path, spec, about)
        digest = hashlib.sha256(raw).hexdigest()
    policy = policy_of(network, known.action)
    name = f"{network.name} of {path.name}"
    return Planner(policy, known, name, network.parameters, digest)


def _checkpoint(
    raw: bytes, path: Path, spec: Spec | None, about: Assumptions
) -> tuple[Network, Spec]:
    found = load_checkpoint(raw, about.where)
    settings = beside(path)
    clips = settings.promise(*_CLIPS)
    if clips is not None:
        about.note(f"the environment clips actions itself as in training; {clips} is not applied")
    for library in (rsl_rl, rl_games, skrl):
        if library.is_checkpoint(found):
            read: Callable[..., tuple[Network, Spec]] = library.read
            return read(found, settings, spec, about)
    if cleanrl.script_of(found) is not None:
        return cleanrl.read(found, spec, about)
    raise _unknown(found, about.where)


def _unknown(found: Any, where: str) -> LoadError:
    if isinstance(found, Mapping) and any(name in found for name in _OF_SB3):
        return LoadError(
            f"{where} is the policy.pth of a save of Stable-Baselines3, without what it is of: "
            "give the save, a .zip."
        )
    keys = [*found][:6] if isinstance(found, Mapping) else []
    names = [repr(k[:40]) if isinstance(k, str) else f"a {type(k).__name__}" for k in keys]
    held = f"with {', '.join(names)}" if names else f"of a {type(found).__name__}"
    return LoadError(
        f"{where} is a file of torch.save {held}. Checkpoints of rsl_rl, skrl, rl_games and "
        f"CleanRL are known by their weights. {REMEDY}"
    )
