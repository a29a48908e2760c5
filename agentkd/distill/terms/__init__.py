"""What a distiller minimises: terms, each a file of its own, and their sum.

Names are imported when they are first used: a line of terms is checked without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.distill.terms.action import Action
    from agentkd.distill.terms.adversarial import Adversarial
    from agentkd.distill.terms.attention import Attention
    from agentkd.distill.terms.hard import Hard
    from agentkd.distill.terms.match import Match
    from agentkd.distill.terms.objective import Objective
    from agentkd.distill.terms.robust import Robust
    from agentkd.distill.terms.similar import Similar
    from agentkd.distill.terms.slopes import Slopes
    from agentkd.distill.terms.smooth import Smooth
    from agentkd.distill.terms.soft import Soft
    from agentkd.distill.terms.term import (
        Batch,
        Divergence,
        DivergenceTerm,
        Ground,
        Loss,
        Term,
        Terms,
        Weighted,
    )
    from agentkd.distill.terms.text import check_terms, parse_terms, term_names, to_text

_HOMES = {
    "Action": "agentkd.distill.terms.action",
    "Adversarial": "agentkd.distill.terms.adversarial",
    "Attention": "agentkd.distill.terms.attention",
    "Batch": "agentkd.distill.terms.term",
    "Divergence": "agentkd.distill.terms.term",
    "DivergenceTerm": "agentkd.distill.terms.term",
    "Ground": "agentkd.distill.terms.term",
    "Hard": "agentkd.distill.terms.hard",
    "Loss": "agentkd.distill.terms.term",
    "Match": "agentkd.distill.terms.match",
    "Objective": "agentkd.distill.terms.objective",
    "Robust": "agentkd.distill.terms.robust",
    "Similar": "agentkd.distill.terms.similar",
    "Slopes": "agentkd.distill.terms.slopes",
    "Smooth": "agentkd.distill.terms.smooth",
    "Soft": "agentkd.distill.terms.soft",
    "Term": "agentkd.distill.terms.term",
    "Terms": "agentkd.distill.terms.term",
    "Weighted": "agentkd.distill.terms.term",
    "check_terms": "agentkd.distill.terms.text",
    "parse_terms": "agentkd.distill.terms.text",
    "term_names": "agentkd.distill.terms.text",
    "to_text": "agentkd.distill.terms.text",
}

__all__ = [
    "Action",
    "Adversarial",
    "Attention",
    "Batch",
    "Divergence",
    "DivergenceTerm",
    "Ground",
    "Hard",
    "Loss",
    "Match",
    "Objective",
    "Robust",
    "Similar",
    "Slopes",
    "Smooth",
    "Soft",
    "Term",
    "Terms",
    "Weighted",
    "check_terms",
    "parse_terms",
    "term_names",
    "to_text",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(
            f"module 'agentkd.distill.terms' has no attribute {name!r}"
        )
    return getattr(import_module(_HOMES[name]), name)
