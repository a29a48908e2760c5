"""Walks over the protobuf of an ONNX model, as far as to see what it is and refers to."""

from __future__ import annotations

from collections.abc import Iterator

from agentkd.errors import LoadError

_DEEPEST = 24
_MOST_FIELDS = 1 << 20
"""Fields that are walked over: each takes microseconds, and two bytes of a file."""
_LONGEST_ENTRY = 1 << 16
"""Bytes in which a tensor tells where its numbers are."""
_LONGEST_TAG = 5
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""The fields of a ModelProto and their wire types (onnx/onnx.proto)."""
_GRAPH, _FUNCTIONS, _NODE = 7, 25, 1
_INSIDE = {
    "model": {_GRAPH: "graph", _FUNCTIONS: "function"},
    "graph": {_NODE: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Which messages lie in which, by the number of the field."""
_EXTERNAL_DATA = 13
_METADATA = 14


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a number, and give where the next thing begins."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise LoadError("a number in it is cut short")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _tag(data: memoryview, at: int) -> tuple[int, int, int]:
    """Read a field's number and wire type; a tag that protobuf in C++ would cut off is refused."""
    key, after = varint(data, at)
    if key >> 32 or after - at > _LONGEST_TAG:
        raise LoadError(f"a field's tag in it, {key}, is longer than 32 bits")
    return key >> 3, key & 7, after


def fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Give each field's number, wire type and bytes; of a number its varint."""
    at = 0
    while at < len(data):
        number, wire, at = _tag(data, at)
        start = at
        if wire == 0:
            _, at = varint(data, at)
        elif wire == 2:
            size, start = varint(data, at)
            at = start + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise LoadError(f"a field of wire type {wire}")
        if at > len(data):
            raise LoadError("a field in it is longer than the file")
        yield number, wire, data[start:at]


def is_onnx(head: bytes) -> bool:
    """Whether a file that begins so is an ONNX model: its first fields are those of one."""
    data, seen, at = memoryview(head), set[int](), 0
    try:
        while at < len(data) and _GRAPH not in seen:
            number, wire, at = _tag(data, at)
            if _MODEL_FIELDS.get(number) != wire:
                return False
            seen.add(number)
            size, at = varint(data, at)
            at += size if wire == 2 else 0
    except LoadError:
        return False
    return _GRAPH in seen


def external_files(model: bytes) -> set[str]:
    """Name the other files in which an ONNX model keeps weights, as it calls them.

    Raises:
        LoadError: If it is damaged, nested too deep, or has too many fields.
    """
    waiting, found, seen = [("model", memoryview(model), 0)], set[str](), 0
    while waiting:
        kind, data, depth = waiting.pop()
        if depth > _DEEPEST:
            raise LoadError(f"graphs in it are nested more than {_DEEPEST} deep")
        for number, wire, inner in fields(data):
            seen += 1
            if seen > _MOST_FIELDS:
                raise LoadError(f"it has more than {_MOST_FIELDS:,} fields")
            if kind == "tensor" and number == _EXTERNAL_DATA and wire == 2:
                if len(inner) > _LONGEST_ENTRY:
                    raise LoadError("it tells at too great length where its weights are")
                held = {field: bytes(value) for field, _, value in fields(inner)}
                if held.get(1) == b"location":
                    found.add(held.get(2, b"").decode("utf-8", "replace"))
            elif kind != "tensor" and wire == 2 and number in _INSIDE[kind]:
                waiting.append((_INSIDE[kind][number], inner, depth + 1))
    return found


def metadata(model: bytes, limit: int) -> dict[str, str]:
    """Read the texts that an ONNX model tells about itself, by key (metadata_props).

    Raises:
        LoadError: If it is damaged, or they are longer than `limit` bytes.
    """
    found: dict[str, str] = {}
    size = 0
    for count, (number, wire, inner) in enumerate(fields(memoryview(model))):
        if count > _MOST_FIELDS:
            raise LoadError(f"it has more than {_MOST_FIELDS:,} fields")
        if number != _METADATA or wire != 2:
            continue
        size += len(inner)
        if size > limit:
            raise LoadError(f"its metadata is longer than {limit:,} bytes")
        held = {field: bytes(value) for field, _, value in fields(inner)}
        key, value = (held.get(each, b"").decode("utf-8", "replace") for each in (1, 2))
        found[key] = value
    return found
