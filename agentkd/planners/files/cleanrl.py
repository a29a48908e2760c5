"""Models of CleanRL, *.cleanrl_model: the agents of its scripts ppo, sac, td3, ddpg and dqn.

Each script has one network, so that the names of the weights tell all but the normaliser. Others
may have the same names, so what is taken from the script is announced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentkd.errors import LoadError, SpecError
from agentkd.planners.files.network import Answer, Network, fit, layers, own_spec
from agentkd.planners.files.options import Assumptions
from agentkd.planners.files.rl_games import joined
from agentkd.planners.files.weights import Holder, Pair
from agentkd.planners.sb3.file import weights_of
from agentkd.spec import BoxSpec, Spec

_MARKS = {
    "actor_mean.0.weight": "ppo_continuous_action",
    "fc_mean.weight": "sac_continuous_action",
    "fc_mu.weight": "td3_continuous_action",
    "actor.0.weight": "ppo",
    "network.0.weight": "dqn",
}
"""The weights by which a script's agent is known."""


def script_of(found: Any) -> str | None:
    """Name the script whose agent a file of torch.save holds; None for others."""
    state = _state(found)
    return None if state is None else next((s for mark, s in _MARKS.items() if mark in state), None)


def _state(found: Any) -> Mapping[str, Any] | None:
    """The actor's weights; TD3 and DDPG keep them in a tuple with the critics'."""
    if isinstance(found, Sequence) and not isinstance(found, str) and found:
        found = found[0]
    if isinstance(found, Mapping) and isinstance(found.get("model_weights"), Mapping):
        found = found["model_weights"]
    return found if isinstance(found, Mapping) else None


def read(found: Any, spec: Spec | None, about: Assumptions) -> tuple[Network, Spec]:
    """Rebuild what acts.

    Raises:
        LoadError: If the weights are not those of such a network.
        SpecError: If it is for another environment.
    """
    script, state = script_of(found), _state(found)
    assert script is not None
    assert state is not None
    holder = Holder(weights_of(state, about.where), about.where)
    if holder.has("atoms"):
        raise LoadError(f"{about.where} is of CleanRL's c51, which is not read; dqn is.")
    about.note(f"it is of CleanRL's {script}, by its weights' names")
    usual = "tanh" if script.startswith("ppo") else "relu"
    activation = about.assume("activation", usual, f"that of CleanRL's {script}")
    if script == "ppo_continuous_action":
        pairs = holder.chain("actor_mean.")
        log_std = holder.take("actor_logstd").reshape(-1)
        size = len(pairs[-1][0])
        if log_std.shape != (size,):
            raise LoadError(f"{about.where}: {len(log_std)} deviations for {size} actions.")
        answer = Answer("point", size, "fixed", log_std)
        about.note(
            "its environment normalised observations, if at all, as it does here: CleanRL trains "
            "behind NormalizeObservation and does not save the statistics"
        )
    elif script in ("ppo", "dqn"):
        pairs = holder.chain("actor." if script == "ppo" else "network.")
        answer = Answer("qvalues" if script == "dqn" else "categorical", len(pairs[-1][0]))
    else:
        pairs, answer, box = _off_policy(holder, script)
        _check_box(box, spec, about)
        spec = spec or own_spec(pairs[0][0].shape[1], box)
    holder.check_left(("critic.",))
    network = Network(
        inputs=pairs[0][0].shape[1],
        last=layers(pairs, activation),
        answer=answer,
        name=f"CleanRL {script}",
        parameters=holder.parameters,
    )
    return fit(network, spec, about)


def _off_policy(holder: Holder, script: str) -> tuple[list[Pair], Answer, BoxSpec]:
    """SAC's actor, a squashed Gaussian, or that of TD3 and DDPG, a point; both end in tanh."""
    pairs = [holder.linear("fc1"), holder.linear("fc2")]
    sac = script.startswith("sac")
    last = holder.linear("fc_mean" if sac else "fc_mu")
    size = len(last[0])
    scale, offset = (holder.take(f"action_{name}").reshape(-1) for name in ("scale", "bias"))
    if not all(len(each) in (1, size) for each in (scale, offset)) or bool((scale <= 0).any()):
        raise LoadError(f"{holder.where}: its action_scale and action_bias are none of {size}.")
    scale, offset = scale.expand(size), offset.expand(size)
    low, high = (tuple(map(float, each)) for each in (offset - scale, offset + scale))
    box = BoxSpec(low, high, (size,))
    if not sac:
        answer = Answer("point", size, squash=True, scale=scale, offset=offset)
        return [*pairs, last], answer, box
    # What is before tanh: the box scales what comes after.
    pairs.append(joined([last, holder.linear("fc_logstd")]))
    return pairs, Answer("squashed", size, "tanh"), box


def _check_box(box: BoxSpec, spec: Spec | None, about: Assumptions) -> None:
    """Make sure that the environment's bounds are those that the actor was trained for."""
    if spec is None or not isinstance(spec.action, BoxSpec) or len(spec.action.low) != len(box.low):
        return
    theirs = spec.action.low, spec.action.high
    if not np.allclose(theirs, (box.low, box.high), atol=1e-5):
        raise SpecError(
            f"{about.where} acts from {box.low} to {box.high}; the environment's actions go from "
            f"{theirs[0]} to {theirs[1]}. Wrap it with gymnasium.wrappers.RescaleAction."
        )
