"""What a distiller minimises: terms, and their sum.

Here are the functions on their text, which need no torch. `term` says what a term is, `objective`
adds terms up, and the other modules hold one or two each.
"""

from agentkd.distillation.terms.text import check_terms, parse_terms, term_names, to_text

__all__ = ["check_terms", "parse_terms", "term_names", "to_text"]
