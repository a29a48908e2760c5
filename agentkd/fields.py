"""JSON with limits, and objects whose fields are read by type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from agentkd.errors import LoadError
from agentkd.files import loading

MOST_DEPTH = 64
"""Objects and lists inside each other."""
MOST_VALUES = 1 << 20
"""Values in a document."""
MOST_BYTES = 1 << 26
"""Bytes of a document, unless the caller says otherwise."""
_DIGITS = 40
"""The most digits of a whole number."""
_MARKS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
"""A whole text, or a mark of structure outside texts."""
_MISSING: Any = object()


def parse_json(
    text: bytes | str, what: object, *, limit: int = MOST_BYTES, infinite: bool = False
) -> Any:
    """Parse JSON, in UTF-8, of bounded size, depth and number of values.

    `infinite` allows NaN and infinities, which are not JSON but which other programs write.

    Raises:
        LoadError: If it is not JSON, exceeds a limit, names a key twice, or holds a number or text
            that cannot be represented.
    """

    def number(word: str) -> float:
        value = float(word)
        if not math.isfinite(value):
            raise LoadError(f"{word[:_DIGITS]} is too large a number")
        return value

    def whole(word: str) -> int:
        if len(word) > _DIGITS:
            raise LoadError(f"{word[:_DIGITS]}… is too large a number")
        return int(word)

    def constant(word: str) -> float:
        if not infinite:
            raise LoadError(f"{word} is not a number")
        return float(word)

    with loading(what):
        raw = text.encode() if isinstance(text, str) else text
        if len(raw) > limit:
            raise LoadError(f"{len(raw):,} bytes of JSON; at most {limit:,} are read.")
        _check_structure(raw)
        try:
            value = json.loads(
                raw,
                parse_float=number,
                parse_int=whole,
                parse_constant=constant,
                object_pairs_hook=_object,
            )
        except ValueError as error:
            raise LoadError(f"it is not JSON: {error}") from error
        if b"\\u" in raw:
            # Half of a surrogate pair could be read, and never be printed.
            json.dumps(value, ensure_ascii=False).encode()
        return value


def _check_structure(raw: bytes) -> None:
    """Bound depth and number of values before anything is built."""
    if len(raw) < MOST_VALUES and raw.count(b"[") + raw.count(b"{") <= MOST_DEPTH:
        return
    depth = 0
    # One by one: a list of millions of marks would take more memory than the document.
    for count, found in enumerate(_MARKS.finditer(raw)):
        mark = raw[found.start()]
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
        if depth > MOST_DEPTH:
            raise LoadError(f"more than {MOST_DEPTH} objects or lists in each other")
        if count >= 3 * MOST_VALUES:
            raise LoadError(f"more than {MOST_VALUES:,} values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise LoadError(f"{twice[:80]!r} stands twice in an object")
    return found


@final
class Fields:
    """A JSON object whose fields are read by type.

    Each method takes a field's name and, if the field may be missing, a default.

    Raises:
        LoadError: If `value` is not an object; by every method, if the field is missing without a
            default, or of another type. The message begins with `where`.
    """

    __slots__ = ("_found", "_where")

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise LoadError(f"{where}: {_short(value)} is not an object.")
        self._found, self._where = value, where

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def get(self, name: str, default: Any = _MISSING) -> Any:
        """Give a field of any type.

        Raises:
            LoadError: If it is missing and there is no default.
        """
        found = self._found.get(name, default)
        if found is _MISSING:
            raise LoadError(f"{self._where}: {name!r} is missing.")
        return found

    def text(self, name: str, default: Any = _MISSING) -> str:
        """Give a text."""
        return _text(self.get(name, default), self._at(name))

    def flag(self, name: str, default: Any = _MISSING) -> bool:
        """Give true or false."""
        found = self.get(name, default)
        if not isinstance(found, bool):
            raise self._other(name, found, "true or false")
        return found

    def whole(
        self, name: str, default: Any = _MISSING, *, least: int = 0, most: int = 2**63 - 1
    ) -> int:
        """Give a whole number from `least` to `most`."""
        return _whole(self.get(name, default), self._at(name), least, most)

    def number(self, name: str, default: Any = _MISSING) -> float:
        """Give a finite number."""
        return _number(self.get(name, default), self._at(name))

    def choice(self, name: str, known: Iterable[str]) -> str:
        """Give a text that is one of `known`."""
        found, names = self.text(name), tuple(known)
        if found not in names:
            raise self._other(name, found, f"one of {', '.join(names)}")
        return found

    def fields(self, name: str, default: Any = _MISSING) -> Fields:
        """Give an object."""
        return Fields(self.get(name, default), self._at(name))

    def items(self, name: str, default: Any = _MISSING) -> list[Any]:
        """Give a list of anything."""
        found = self.get(name, default)
        if not isinstance(found, (list, tuple)):
            raise self._other(name, found, "a list")
        return list(found)

    def objects(self, name: str, default: Any = _MISSING) -> Iterator[Fields]:
        """Give a list of objects."""
        for index, each in enumerate(self.items(name, default)):
            yield Fields(each, f"{self._at(name)}[{index}]")

    def texts(self, name: str, default: Any = _MISSING) -> tuple[str, ...]:
        """Give a list of texts."""
        at = self._at(name)
        return tuple(_text(each, at) for each in self.items(name, default))

    def wholes(
        self, name: str, default: Any = _MISSING, *, least: int = 0, most: int = 2**63 - 1
    ) -> tuple[int, ...]:
        """Give a list of whole numbers from `least` to `most`."""
        at = self._at(name)
        found = self.items(name, default)
        return tuple(_whole(each, at, least, most) for each in found)

    def numbers(self, name: str, default: Any = _MISSING) -> tuple[float, ...]:
        """Give a list of finite numbers."""
        at = self._at(name)
        return tuple(_number(each, at) for each in self.items(name, default))

    def _at(self, name: str) -> str:
        return f"{self._where}: {name!r}"

    def _other(self, name: str, found: Any, wanted: str) -> LoadError:
        return LoadError(f"{self._at(name)} is {_short(found)}, not {wanted}.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise LoadError(f"{where} is {_short(value)}, not text.")
    return value


def _whole(value: Any, where: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise LoadError(f"{where} is {_short(value)}, not a whole number.")
    if not least <= value <= most:
        raise LoadError(f"{where} is {value}; it has to be {least} to {most}.")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LoadError(f"{where} is {_short(value)}, not a number.")
    number = float(value)
    if not math.isfinite(number):
        raise LoadError(f"{where} is {number}, not a finite number.")
    return number


def _short(value: Any) -> str:
    """Name a value: short text and numbers as they are, else the type."""
    if value is None or isinstance(value, (str, int, float)):
        return repr(value[:40] if isinstance(value, str) else value)
    return {"dict": "an object", "list": "a list"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
