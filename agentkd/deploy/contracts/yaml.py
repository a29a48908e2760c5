"""The part of YAML that simulators and robots write, read with limits, and written.

Blocks and flows of mappings and lists, plain and quoted scalars over several lines, anchors and
aliases. Tags are dropped: nothing is built but dictionaries, lists, texts and numbers.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from agentkd.errors import LoadError

MOST_BYTES = 1 << 20
_MOST_VALUES = 1 << 17
_MOST_DEPTH = 32

_PROPERTY = re.compile(r"[&!][^\s,\[\]{}]*[ \t]*")
_ALIAS = re.compile(r"\*([\w-]+)")
_SINGLE = re.compile(r"'((?:[^']++|'')*+)'")
_DOUBLE = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
# Bounded, so that no line is looked at again and again.
_KEY = re.compile(
    r"([^\s#&*!|>'\"%@`\[\]{},?:-](?:[^:\n]|:(?=\S)){0,200}?|-[^\s:][^:\n]{0,200}?)"
    r"[ \t]{0,8}:(?=\s|$)"
)
_QUOTED_KEY = re.compile(r"""("(?:[^"\\\n]|\\.)*+"|'(?:[^'\n]|'')*+')[ \t]*:(?=\s|$)""")
_IN_FLOW = re.compile(r"(?:[^\s,\[\]{}:#]|:(?=[^\s,\[\]{}])|(?<=\S)#|\s++(?![#,\[\]{}:]))+")
_SPACE = re.compile(r"(?:\s++|#[^\n]*+)*+")
_COMMENT = re.compile(r"[ \t]*+(?:#[^\n]*+)?(?=\n|\Z)")
_PLAIN = re.compile(r"(?:[^\n#]|(?<=\S)#)*+")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES = {
    **dict(zip('0abtnvfre"/\\ N_LP', '\0\a\b\t\n\v\f\r\x1b"/\\ \x85\xa0\u2028\u2029', strict=True)),
    "\t": "\t",
}
_FOLD = re.compile(r"(?<![ \t])[ \t]*+\n\s*+")
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,38})")
# A whole number that begins with 0 is octal to some readers and decimal to others: it stays text.
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|0|[1-9][0-9]*)(?:[eE][-+]?[0-9]{1,4})?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **{each: True for word in ("true", "yes", "on") for each in (word, word.title(), word.upper())},
    **{
        each: False
        for word in ("false", "no", "off")
        for each in (word, word.title(), word.upper())
    },
}


def read_yaml(data: bytes, what: object) -> Any:
    """Read a document of dictionaries, lists, texts, numbers, booleans and None.

    Raises:
        LoadError: If it exceeds a limit, or is not in the part of YAML that is read.
    """
    if len(data) > MOST_BYTES:
        raise LoadError(f"{what}: {len(data):,} bytes of YAML; at most {MOST_BYTES:,} are read.")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise LoadError(f"{what} is no text: {error}.") from error
    return _Reader(text, what).document()


class _Reader:
    """Walks through a text; `_at` is where its next content begins."""

    def __init__(self, text: str, what: object) -> None:
        self._text, self._what, self._at = text, what, 0
        self._starts = [0, *(each.end() for each in re.finditer("\n", text))]
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = self._depth = 0

    def document(self) -> Any:
        self._skip()
        if self._text.startswith("---", self._at) and not self._column():
            self._at += 3
            self._skip()
        value = self._block(-1)
        self._skip()
        if self._at < len(self._text) and not self._text.startswith("...", self._at):
            self._refuse("is not indented as what stands above it")
        return value

    def _refuse(self, why: str) -> NoReturn:
        line = bisect_right(self._starts, self._at)
        shown = self._text[self._at :].partition("\n")[0][:40]
        raise LoadError(f"{self._what}, line {line}: {shown!r} {why}.")

    def _skip(self) -> None:
        """Go to the next content: past spaces, empty lines and comments."""
        found = _SPACE.match(self._text, self._at)
        assert found
        self._at = found.end()

    def _line(self) -> int:
        """Where the line begins."""
        return self._starts[bisect_right(self._starts, self._at) - 1]

    def _column(self) -> int:
        """How far the content is indented; a tab does not indent."""
        start = self._line()
        if "\t" in self._text[start : self._at]:
            self._refuse("is indented by a tab")
        return self._at - start

    def _inside(self, read: Callable[[int], Any], column: int) -> Any:
        """Read one level deeper."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            self._refuse(f"lies more than {_MOST_DEPTH} levels deep")
        value = read(column)
        self._depth -= 1
        return value

    def _count(self, values: int = 1) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            self._refuse(f"is value number {_MOST_VALUES:,}; no more are read")

    def _block(self, above: int) -> Any:
        """Read what is indented further than `above`; None if nothing is."""
        self._skip()
        if self._at >= len(self._text) or (column := self._column()) <= above:
            return None
        if self._is_item():
            return self._inside(self._list, column)
        if self._key(peek=True) is not None:
            return self._inside(self._mapping, column)
        return self._value(above)

    def _is_item(self) -> bool:
        return re.compile(r"-(?=\s|\Z)").match(self._text, self._at) is not None

    def _list(self, column: int) -> list[Any]:
        found: list[Any] = []
        while self._at < len(self._text) and self._column() == column and self._is_item():
            self._count()
            line = self._line()
            self._at += 1
            self._skip()
            same = self._at < len(self._text) and self._line() == line
            found.append(self._value(column) if same else self._block(column))
            self._skip()
        return found

    def _mapping(self, column: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._at < len(self._text) and self._column() == column and not self._is_item():
            key = self._key()
            if key is None:
                self._refuse("is not KEY: VALUE")
            if key in found:
                self._refuse(f"comes after the key {key!r}, which stands twice")
            self._count()
            found[key] = self._value(column, in_mapping=True)
            self._skip()
        return found

    def _key(self, *, peek: bool = False) -> str | None:
        """Read a key with its colon; None if there is none."""
        for pattern in (_KEY, _QUOTED_KEY):
            if match := pattern.match(self._text, self._at):
                if not peek:
                    self._check_key(match[1])
                    self._at = match.end()
                return self._unquoted(match[1]) if pattern is _QUOTED_KEY else match[1]
        return None

    def _check_key(self, key: object) -> None:
        """Refuse what other readers replace by the entries of another mapping."""
        if key == "<<":
            self._refuse("merges another mapping in; write its entries out")

    def _unquoted(self, text: str) -> str:
        if text[0] != '"':
            return text[1:-1].replace("''", "'")
        found = _ESCAPE.sub(lambda escape: self._escaped(escape[1]), text[1:-1])
        if not found.isascii() and any("\ud800" <= each <= "\udfff" for each in found):
            self._refuse("holds half a character")
        return found

    def _escaped(self, mark: str) -> str:
        if mark in _ESCAPES:
            return _ESCAPES[mark]
        try:
            return chr(int(mark[1:], 16))
        except (ValueError, OverflowError):
            self._refuse("holds an escape that is not read")

    def _value(self, column: int, *, in_mapping: bool = False) -> Any:
        """Read what stands after a key, a dash or nothing; `column` is that of key or dash."""
        anchors, before = [], self._values
        at = re.compile(r"[ \t]*").match(self._text, self._at)
        assert at
        self._at = at.end()
        while match := _PROPERTY.match(self._text, self._at):
            anchors.append(match[0].strip())
            self._at = match.end()
        rest = self._text[self._at : self._at + 1]
        if rest in ("", "\n") or _COMMENT.match(self._text, self._at):
            self._skip()
            # A list may stand in its key's own column.
            level = in_mapping and self._at < len(self._text) and self._is_item()
            value = self._block(column - 1 if level and self._column() == column else column)
        elif not in_mapping and (self._is_item() or self._key(peek=True) is not None):
            value = self._inside(self._list if self._is_item() else self._mapping, self._column())
        elif rest in "[{'\"*":
            value = self._flow()
            if not _COMMENT.match(self._text, self._at):
                self._refuse("stands after a value that has ended")
        elif rest in "|>":
            value = self._raw(column)
        else:
            value = self._plain(column)
        for each in anchors:
            if each.startswith("&"):
                self._anchors[each[1:]] = value, self._values - before
        return value

    def _plain(self, column: int) -> Any:
        """Read a scalar without quotes, over the lines that are indented further."""
        if self._text[self._at] in "%@`" or self._text.startswith("? ", self._at):
            self._refuse("begins with a character that YAML reserves")
        words: list[str] = []
        while True:
            match = _PLAIN.match(self._text, self._at)
            assert match
            words.append(match[0].strip())
            if re.search(r":(?=\s|\Z)", words[-1]):
                self._refuse("holds a colon, which begins a mapping; quote it")
            self._at = match.end()
            here = self._at
            self._skip()
            ended = self._text[here : here + 1] == "#" or self._at >= len(self._text)
            if ended or self._column() <= column or self._ends_document():
                break
            if self._key(peek=True) is not None:
                self._refuse("is indented, and what stands above it has a value")
        return _resolved(" ".join(words))

    def _ends_document(self) -> bool:
        return self._text.startswith(("...", "---"), self._at) and not self._column()

    def _raw(self, column: int) -> str:
        """Read the lines of a literal, which are indented further."""
        self._at = self._text.find("\n", self._at) + 1 or len(self._text)
        lines: list[str] = []
        while self._at < len(self._text):
            end = self._text.find("\n", self._at)
            line = self._text[self._at : end if end >= 0 else None]
            if line.strip() and len(line) - len(line.lstrip(" ")) <= column:
                break
            lines.append(line.strip())
            self._at += len(line) + 1
        self._at = min(self._at, len(self._text))
        return "\n".join(lines).strip()

    def _flow(self, _: int = 0) -> Any:
        """Read a value that brackets, quotes or commas end."""
        self._count()
        while match := _PROPERTY.match(self._text, self._at):
            self._at = match.end()
        mark = self._text[self._at : self._at + 1]
        if mark == "[":
            return self._inside(self._flow_list, 0)
        if mark == "{":
            return self._inside(self._flow_mapping, 0)
        if mark in ("'", '"'):
            match = (_SINGLE if mark == "'" else _DOUBLE).match(self._text, self._at)
            if not match:
                self._refuse("begins a text that does not end")
            text = _FOLD.sub(" ", re.sub(r"\\\n\s*", "", match[0]) if mark == '"' else match[0])
            whole = self._unquoted(text)
            self._at = match.end()
            return whole
        if match := _ALIAS.match(self._text, self._at):
            if match[1] not in self._anchors:
                self._refuse("refers to nothing above it")
            value, size = self._anchors[match[1]]
            # What is repeated counts each time: it is gone through each time.
            self._count(size)
            self._at = match.end()
            return value
        match = _IN_FLOW.match(self._text, self._at)
        if not match:
            self._refuse("is not a value")
        self._at = match.end()
        return _resolved(_FOLD.sub(" ", match[0].strip()))

    def _flow_list(self, _: int) -> list[Any]:
        found: list[Any] = []
        self._at += 1
        while not self._ends("]"):
            found.append(self._flow())
            self._comma("]")
        return found

    def _flow_mapping(self, _: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._at += 1
        while not self._ends("}"):
            key = self._flow()
            self._skip()
            if not isinstance(key, str | int | float) or self._text[self._at : self._at + 1] != ":":
                self._refuse("is not KEY: VALUE")
            self._check_key(key)
            self._at += 1
            self._skip()
            if str(key) in found:
                self._refuse(f"is of the key {key!r}, which stands twice")
            empty = self._text[self._at : self._at + 1] in (",", "}")
            found[str(key)] = None if empty else self._flow()
            self._comma("}")
        return found

    def _ends(self, mark: str) -> bool:
        self._skip()
        if self._text[self._at : self._at + 1] == mark:
            self._at += 1
            return True
        if self._at >= len(self._text):
            self._refuse(f"is the end, and {mark!r} is missing")
        return False

    def _comma(self, mark: str) -> None:
        self._skip()
        here = self._text[self._at : self._at + 1]
        if here == ",":
            self._at += 1
        elif here and here != mark:
            self._refuse(f"is neither ',' nor {mark!r}")


def _resolved(text: str) -> Any:
    """Return what a plain scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def write_yaml(value: Mapping[str, Any], comment: str = "") -> bytes:
    """Write a dictionary of dictionaries, lists and scalars; lists of scalars on one line."""
    lines = [f"# {each}" for each in comment.splitlines()]
    _add_mapping(lines, value, 0)
    return ("\n".join(lines) + "\n").encode()


def _add_mapping(lines: list[str], value: Mapping[str, Any], indent: int, begin: str = "") -> None:
    for key, each in value.items():
        head = f"{begin or ' ' * indent}{_scalar(key)}:"
        begin = ""
        if isinstance(each, Mapping) and each:
            lines.append(head)
            _add_mapping(lines, each, indent + 2)
        elif isinstance(each, list) and each and all(isinstance(e, dict) and e for e in each):
            lines.append(head)
            for one in each:
                _add_mapping(lines, one, indent + 2, f"{' ' * indent}- ")
        else:
            lines.append(f"{head} {_flow_text(each)}")


def _flow_text(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_scalar(k)}: {_flow_text(v)}" for k, v in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_flow_text, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        # YAML 1.1 takes a number for a text if it has an exponent and no point.
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII):
        return value if _resolved(value) == value else f'"{value}"'
    return json.dumps(value)
