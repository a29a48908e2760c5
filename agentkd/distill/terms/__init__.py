"""What a distiller minimises: terms, each a file of its own, and their sum."""

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
from agentkd.distill.terms.text import parse_terms, term_names, to_text

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
    "parse_terms",
    "term_names",
    "to_text",
]
