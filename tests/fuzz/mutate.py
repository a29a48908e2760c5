"""Mutations of bytes, text, numbers and JSON trees."""

from __future__ import annotations

import copy
import json
import math
import struct
from collections.abc import Iterator
from typing import Any, final

from tests.fuzz.draw import Draw

_INTEGERS = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 64, 127, 128, 255, 256, 1000, 4096, 65535, 65536),
    *(2**20, 2**24, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**33, 2**53),
    *(2**62, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30, 10**400),
)
_NUMBERS: tuple[float, ...] = (
    0.0,
    -0.0,
    0.5,
    -1.5,
    1e-45,
    1e-300,
    1e30,
    3.4e38,
    1e39,
    1e308,
    -1e308,
)
_NUMBERS += (math.nan, math.inf, -math.inf)
_WORDS = (
    *("", " ", "0", "1", "-1", "nan", "inf", "-inf", "1e999", "None", "true"),
    *("float32", "<f4", ">f4", "float16", "int64", "uint8", "O", "V8", "U9999", "M8"),
    *("box", "discrete", "multidiscrete", "multibinary", "single", "dict", "tuple"),
    *("dense", "conv", "gru", "lstm", "tokens", "attention", "pool", "relu", "tanh"),
    *("categorical", "squashed", "clipped", "bernoulli", "multicategorical"),
    *("../x", "/etc/passwd", "a" * 3000, "*/ int x; /*", "\\", '"', "%s%n", "{0}"),
    *("\x00", "\x1b[31m", "\r\n", "\u202e", "\u0660", "💥", "\ud800", "é"),
)
_RAW: tuple[str, ...] = (
    "[" * 200 + "]" * 200,
    "[" * 5000 + "]" * 5000,
    '{"a":' * 3000 + "1" + "}" * 3000,
)
_RAW += ("9" * 5000, "1e400", "-Infinity", "0.1e-9999", "[1,]", "'x'", "1.0E+2")
_SPOT = "\ue000{}\ue001"
"""Stands in a tree for text that `json.dumps` would not write."""


@final
class Twice(dict[str, Any]):
    """An object that `json.dumps` writes with its last key a second time."""

    def items(self) -> Any:
        """Give the items, and the last of them again."""
        found = list(super().items())
        return found + found[-1:]


_MOST = 1 << 18
"""Parts of a document, about what readers take."""


def integer(draw: Draw, near: int = 0) -> int:
    """Draw an odd whole number, or one near another."""
    if draw.chance(3):
        return near + draw.choice((-1, 1, -near - near, near, 2, 1000))
    return draw.choice(_INTEGERS)


def number(draw: Draw) -> float:
    """Draw an odd number."""
    return draw.choice(_NUMBERS)


def odd(draw: Draw) -> Any:
    """Draw a JSON value that nobody would write there."""
    match draw.below(8):
        case 0 | 1:
            return integer(draw)
        case 2:
            return number(draw)
        case 3 | 4:
            return draw.choice(_WORDS)
        case 5:
            return draw.choice((None, True, False, [], {}, [[]], [None], {"": 0}))
        case 6:
            return [integer(draw) for _ in range(draw.below(5))]
        case _:
            return _SPOT.format(draw.below(len(_RAW)))


def text(draw: Draw, value: str) -> str:
    """Change a piece of text."""
    at = draw.below(len(value) + 1)
    until = at + draw.below(4)
    match draw.below(5):
        case 0:
            return value[:at] + draw.choice(_WORDS) + value[at:]
        case 1:
            return value[:at] + value[until:]
        case 2:
            return value[:at] + chr(draw.below(256)) + value[until:]
        case 3:
            return value[:at] + value[at:until] * (1 + draw.below(6)) + value[until:]
        case _:
            return value[:at] + str(integer(draw)) + value[until:]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key in a tree."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield tree, key
            yield from _places(value)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield tree, index
            yield from _places(value)


def _replaced(draw: Draw, value: Any, others: list[tuple[Any, Any]]) -> Any:
    """Another value in the place of one; mostly of its type, which readers check."""
    if draw.chance(3):
        match draw.below(4):
            case 0:
                held, key = draw.choice(others)
                return copy.deepcopy(held[key])
            case 1:
                return [value] if draw.chance(2) else {"value": value}
            case _:
                return odd(draw)
    match value:
        case bool():
            return not value
        case int():
            return integer(draw, value)
        case float():
            return draw.choice((number(draw), -value, 2 * value, 1e30 * value))
        case str() if draw.chance(2):
            return text(draw, value)
        case str():
            return draw.choice(_WORDS)
        case list() if value:
            size = draw.choice((0, 1, len(value) - 1, len(value) + 1, 3, 70, 2000))
            return (value * (1 + size // len(value)))[:size]
    return odd(draw)


def tree(draw: Draw, value: Any) -> Any:
    """Change a JSON value in one to three places; the original stays as it is."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3))):
        places = list(_places(value))
        if not places or draw.chance(64):
            return odd(draw)
        held, key = draw.choice(places)
        match draw.below(16):
            case 0:
                del held[key]
            case 1 if isinstance(held, list):
                held.insert(key, held[key])
            case 1:
                held[draw.choice(_WORDS)] = held.pop(key)
            case 2 if isinstance(held[key], dict):
                held[key] = Twice(held[key])
            case _:
                held[key] = _replaced(draw, held[key], places)
    return value


def written(value: Any, **style: Any) -> bytes:
    """Write a tree as JSON, with what `json.dumps` would refuse to write."""
    out = json.dumps(value, **style)
    for index, raw in enumerate(_RAW):
        spot = json.dumps(_SPOT.format(index))
        if spot in out:
            out = out.replace(spot, raw)
    return out.encode("utf-8", "surrogatepass")


def document(draw: Draw, value: Any, **style: Any) -> bytes:
    """Change a JSON value and write it; now and then change its bytes instead."""
    if draw.chance(12):
        return octets(draw, written(value, **style))
    changed = tree(draw, value)
    # A part that was put into itself again and again would take all memory once it is written.
    return written(changed if _within(changed, _MOST) else value, **style)


def _within(value: Any, most: int) -> bool:
    """Say whether a JSON value, written out, has at most so many parts."""
    waiting, count = [value], 0
    while waiting and count <= most:
        part = waiting.pop()
        count += 1
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return count <= most


def octets(draw: Draw, data: bytes, other: bytes = b"") -> bytes:
    """Change bytes in one to three places, or join them to another input's end."""
    for _ in range(1 + draw.below(3)):
        at = draw.below(len(data) + 1)
        length = 1 << draw.below(8)
        match draw.below(9):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + draw.raw(1 + draw.below(8)) + data[at:]
            case 2:
                data = data[:at] + data[at + length :]
            case 3:
                data = data[:at] + data[at : at + length] + data[at:]
            case 4:
                data = data[:at] + other[draw.below(len(other) + 1) :]
            case 5 | 6:
                wide = draw.choice(["<I", ">I", "<Q", ">Q", "<H", "<f", "<d"])
                data = _over(data, at, _word(draw, wide))
            case _:
                flipped = data[at : at + 1]
                change = bytes(byte ^ 1 << draw.below(8) for byte in flipped)
                data = _over(data, at, change)
    return data


def _word(draw: Draw, wide: str) -> bytes:
    if wide[1] in "fd":
        value = number(draw)
        if wide[1] == "f" and math.isfinite(value):
            value = max(-3.4e38, min(3.4e38, value))
        return struct.pack(wide, value)
    return struct.pack(wide, integer(draw) % (1 << 8 * struct.calcsize(wide)))


def _over(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at + len(piece) :]
