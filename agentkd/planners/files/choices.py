"""What the numbers of an exported policy are for choices: its file does not tell."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from agentkd.errors import ConfigError
from agentkd.planners.files.options import FLAG, Assumptions
from agentkd.planners.sb3.tensors import plain_kind
from agentkd.spec import ActionSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import ActionDist, Bernoulli, Categorical, Floats, Kind, MultiCategorical

_NAMED = (
    (r"q|q_?values?|action_?values?", "q-values"),
    (r"(action_)?prob(s|abilit(y|ies))?", "probabilities"),
)
"""Names of outputs that tell what they are."""
_CLOSE = 1e-4


def output_of(name: str, action: ActionSpec, about: Assumptions) -> tuple[Kind, bool]:
    """Say what kind of answer the output of this name is, and whether it is of probabilities.

    Raises:
        ConfigError: If --planner-args output is not for such actions.
    """
    found = about.given("output")
    told = next((v for each, v in _NAMED if re.fullmatch(each, name, re.IGNORECASE)), None)
    if found is None and told is not None:
        found = about.assume("output", told, f"it is called {name!r}")
    if found in ("tanh", "none"):
        raise ConfigError(f"{about.where}: {FLAG} output={found} is not for choices.")
    if found == "q-values" and not isinstance(action, DiscreteSpec):
        raise ConfigError(f"{about.where}: {FLAG} output=q-values is for one choice.")
    if found == "probabilities" and not isinstance(action, (DiscreteSpec, MultiDiscreteSpec)):
        raise ConfigError(f"{about.where}: {FLAG} output=probabilities is for choices out of many.")
    return "qvalues" if found == "q-values" else plain_kind(action), found == "probabilities"


def check_logits(answer: ActionDist, about: Assumptions) -> None:
    """Announce that the numbers of an answer are taken for logits.

    Raises:
        ConfigError: If they look like probabilities, and the user did not tell.
    """
    sizes: Sequence[int]
    if isinstance(answer, Bernoulli):
        sizes = ()
    elif isinstance(answer, Categorical):
        sizes = (answer.logits.shape[1],)
    elif isinstance(answer, MultiCategorical):
        sizes = answer.sizes
    else:
        return
    parts: list[Floats] = np.split(answer.logits, np.cumsum(sizes)[:-1], 1) if sizes else []
    if parts and all(bool((each >= 0).all()) and _one(each) for each in parts):
        why = "its numbers for each choice are not below 0 and sum to 1, as probabilities do."
        about.ask("output", "probabilities (or logits)", why)
    elif not parts or not all(_one(np.exp(each)) for each in parts):
        # Logarithms of probabilities are logits, whatever their file calls them.
        about.assume("output", "logits", "nothing tells logits and action values apart")


def _one(rows: Floats) -> bool:
    return bool(np.allclose(rows.sum(1), 1.0, atol=_CLOSE))
