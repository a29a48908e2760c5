"""What a distiller minimises: terms, and their sum.

Here are the functions on their text, which need no torch. `term` says what a term is and adds them
up, and the other modules hold one or two each.
"""

from agentkd.distillation.terms.text import (
    Terms,
    Weighted,
    check_terms,
    parse_terms,
    term_names,
    to_text,
)

__all__ = ["Terms", "Weighted", "check_terms", "parse_terms", "term_names", "to_text"]
