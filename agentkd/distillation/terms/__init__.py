"""What a distiller minimises: terms, each a file of its own, and their sum.

Names are imported when they are first used: a line of terms is checked without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.distillation.terms.action import Action
    from agentkd.distillation.terms.adversarial import Adversarial
    from agentkd.distillation.terms.attention import Attention
    from agentkd.distillation.terms.hard import Hard
    from agentkd.distillation.terms.match import Match
    from agentkd.distillation.terms.objective import Objective
    from agentkd.distillation.terms.robust import Robust
    from agentkd.distillation.terms.similar import Similar
    from agentkd.distillation.terms.slopes import Slopes
    from agentkd.distillation.terms.smooth import Smooth
    from agentkd.distillation.terms.soft import Soft
    from agentkd.distillation.terms.term import (
        Batch,
        Divergence,
        DivergenceTerm,
        Ground,
        Loss,
        Term,
        Terms,
        Weighted,
    )
    from agentkd.distillation.terms.text import check_terms, parse_terms, term_names, to_text

_HOMES = {
    "Action": "agentkd.distillation.terms.action",
    "Adversarial": "agentkd.distillation.terms.adversarial",
    "Attention": "agentkd.distillation.terms.attention",
    "Batch": "agentkd.distillation.terms.term",
    "Divergence": "agentkd.distillation.terms.term",
    "DivergenceTerm": "agentkd.distillation.terms.term",
    "Ground": "agentkd.distillation.terms.term",
    "Hard": "agentkd.distillation.terms.hard",
    "Loss": "agentkd.distillation.terms.term",
    "Match": "agentkd.distillation.terms.match",
    "Objective": "agentkd.distillation.terms.objective",
    "Robust": "agentkd.distillation.terms.robust",
    "Similar": "agentkd.distillation.terms.similar",
    "Slopes": "agentkd.distillation.terms.slopes",
    "Smooth": "agentkd.distillation.terms.smooth",
    "Soft": "agentkd.distillation.terms.soft",
    "Term": "agentkd.distillation.terms.term",
    "Terms": "agentkd.distillation.terms.term",
    "Weighted": "agentkd.distillation.terms.term",
    "check_terms": "agentkd.distillation.terms.text",
    "parse_terms": "agentkd.distillation.terms.text",
    "term_names": "agentkd.distillation.terms.text",
    "to_text": "agentkd.distillation.terms.text",
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
        raise AttributeError(f"module 'agentkd.distillation.terms' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
