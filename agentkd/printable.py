"""Text of unknown origin, made safe to print: in a terminal, a log or a report.

A name in a file, the words of a peer, or the message of an exception may hold control characters.
Printed as they are they move the cursor, rewrite lines, change the terminal's title, or turn the
order of what is read around. Here they are shown as Python's escapes instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Controls, formats (the bidirectional ones too), surrogates, separators of lines."""


def printable(text: str, *, lines: bool = False) -> str:
    r"""Show control characters as escapes, such as `\x1b`; `lines` keeps line feeds and tabs."""
    if text.isprintable():
        return text
    # Importing the library does without it.
    from unicodedata import category

    kept = "\n\t" if lines else ""
    return "".join(
        each if each in kept or category(each) not in _INVISIBLE else repr(each)[1:-1]
        for each in text
    )


def logger(name: str) -> logging.Logger:
    """Return a module's logger; control characters in its records are escaped."""
    import logging

    def escape(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        shown = printable(text, lines=True)
        if shown != text:
            record.msg, record.args = shown, None
        if record.exc_info and not record.exc_text:
            told = logging.Formatter().formatException(record.exc_info)
            record.exc_text = printable(told, lines=True)
        return True

    found = logging.getLogger(name)
    found.addFilter(escape)
    return found
