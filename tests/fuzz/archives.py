"""Hostile containers with right checksums: ZIP, safetensors, npy and pickles."""

from __future__ import annotations

import functools
import json
import math
import pickle
import pickletools
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.fuzz import mutate
from tests.fuzz.draw import Draw

Change = Callable[[Draw, bytes], bytes]
BOMB = 1 << 30
"""Bytes that a compressed entry of a few megabytes may unpack to."""
_BLOCK = 1 << 20
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_STORED, _DEFLATED = 0, 8


@functools.cache
def _bomb(blocks: int) -> tuple[bytes, int]:
    """Deflated zeros, so many MiB of them, and their CRC-32."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(_BLOCK)
    packer.compress(zeros)
    packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    check = 0
    for _ in range(blocks):
        check = zlib.crc32(zeros, check)
    return again * blocks + packer.flush(), check


def zipped(entries: Sequence[tuple[str, bytes]], draw: Draw | None = None) -> bytes:
    """Write a ZIP of stored entries; with `draw`, odd in one place or none."""
    hit = draw.below(4 * len(entries) + 4) if draw and entries else -1
    bodies, places, offset = b"", b"", 0
    for index, (name, data) in enumerate(entries):
        entry = _odd_entry(draw, name, data) if draw and hit == index else None
        raw, held, method, size, check, flags = entry or _entry(name, data)
        fields = (20, flags, method, 0, 33, check, len(held), size, len(raw), 0)
        if entry and draw and draw.chance(4):
            fields = (*fields[:6], mutate.integer(draw, size) % (1 << 32), *fields[7:])
        head = _LOCAL.pack(b"PK\x03\x04", *fields)
        bodies += head + raw + held
        tail = (0, 0, 0, 0o600 << 16, offset)
        places += _CENTRAL.pack(b"PK\x01\x02", 788, *fields, *tail) + raw
        offset = len(bodies)
    count = len(entries)
    end = [0, 0, count, count, len(places), len(bodies), 0]
    if draw and hit == len(entries):
        end[draw.below(7)] = draw.choice((0, 1, 65535, 1000))
    out = bodies + places + _END.pack(b"PK\x05\x06", *end)
    if draw and hit == len(entries) + 1:
        return mutate.octets(draw, out)
    return out


Entry = tuple[bytes, bytes, int, int, int, int]
"""A name, what is stored, its method, its size, its CRC-32 and flags."""


def _entry(name: str, data: bytes) -> Entry:
    return name.encode(), data, _STORED, len(data), zlib.crc32(data), 0


def _odd_entry(draw: Draw, name: str, data: bytes) -> Entry:
    """An entry whose header says something odd, or that is a compressed bomb."""
    raw, data, method, size, check, _ = _entry(name, data)
    match draw.below(6):
        case 0:
            blocks = draw.choice((1, 64, BOMB // _BLOCK))
            data, check = _bomb(blocks)
            method, size = _DEFLATED, blocks * _BLOCK
        case 1 | 2:
            size = mutate.integer(draw, size) % (1 << 32)
        case 3:
            method = draw.choice((1, 8, 9, 12, 14, 93, 65535))
        case 4:
            names = (b"", b"data", b"../data", b"/data", b"a" * 60000, b"\xff", b"a\0b")
            raw = draw.choice(names)
        case _:
            check ^= 1
    return raw, data, method, size, check, draw.choice((0, 0, 0, 1, 8, 64, 2048))


def tensors(draw: Draw, data: bytes) -> bytes:
    """Change a safetensors file: its header, its numbers, or both."""
    (length,) = struct.unpack_from("<Q", data)
    head, body = data[8 : 8 + length], data[8 + length :]
    if draw.chance(2):
        body = numbers(draw, body)
    if draw.chance(2):
        told = json.loads(head)
        if draw.chance(2):
            names = [name for name in told if not name.startswith("__")]
            _reshape(draw, told[draw.choice(names)])
            head = mutate.written(told, separators=(",", ":"))
        else:
            head = mutate.document(draw, told, separators=(",", ":"))
        head += b" " * (-len(head) % 8)
    size = len(head) if draw.below(20) else mutate.integer(draw, length) % (1 << 64)
    return struct.pack("<Q", size) + head + body


def _reshape(draw: Draw, tensor: dict[str, Any]) -> None:
    """Give a tensor another shape or dtype of the same size in bytes."""
    count = math.prod(tensor["shape"])
    parts = [n for n in (1, 2, 3, 4, 5, 7, 8) if count % n == 0]
    first = draw.choice(parts)
    shapes: list[list[int]] = [[count], [1, count], [count, 1], [first, count // first]]
    tensor["shape"] = draw.choice([*shapes, [1] * 70 + [count]])
    if draw.chance(2):
        widths = {"I32": 4, "U32": 4, "F16": 2, "BF16": 2, "F64": 8, "BOOL": 1}
        tensor["dtype"], width = draw.choice(list(widths.items()))
        if 4 * count % width == 0:
            tensor["shape"] = [4 * count // width]


def numbers(draw: Draw, body: bytes) -> bytes:
    """Change float32 numbers: one, or all from one place on."""
    count = len(body) // 4
    if not count:
        return body
    at = 4 * draw.below(count)
    number = max(-3.4e38, min(3.4e38, mutate.number(draw)))
    word = struct.pack("<f", number)
    if draw.chance(3):
        return body[:at] + word * (count - at // 4) + body[4 * count :]
    return body[:at] + word + body[at + 4 :]


def npy(draw: Draw, data: bytes) -> bytes:
    """Change an npy file: the text of its header, or its bytes."""
    (length,) = struct.unpack_from("<H", data, 8)
    head, body = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    match draw.below(4):
        case 0:
            return mutate.octets(draw, data)
        case 1:
            body = numbers(draw, body)
        case _:
            shape = draw.choice(
                ("()", "(0,)", "(-1,)", "(1000000000000000,)", "(3, 3)", "(1,)", "(None,)")
            )
            kind = draw.choice(("<i4", "<f4", "|O", "<f8", "|V4", "<U1000000", "<m8", ">f4"))
            before, _, _ = head.partition("{")
            told = f"'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, "
            head = f"{before}{{{told}}}\n"
            if draw.chance(6):
                head = mutate.text(draw, head)
    raw = head.encode("latin1", "replace")[:65535]
    return data[:8] + struct.pack("<H", len(raw)) + raw + body


def _dag(depth: int) -> bytes:
    """A pickle of lists that each hold the one before twice: 2**depth paths."""
    each = b"".join(b"]q%c(h%ch%ce" % (level + 1, level, level) for level in range(depth))
    return b"\x80\x02]q\x00" + each + b"."


def _shared(depth: int) -> bytes:
    """The same with tuples: each is hashed and compared through all of its paths."""
    return b"\x80\x02K\x01" + b"2\x86" * depth + b"."


@functools.cache
def bombs() -> tuple[bytes, ...]:
    """Small pickles that want much time, memory or depth."""
    big = struct.pack("<Q", 1 << 40)
    return (
        _dag(60),
        _shared(60),
        b"\x80\x02}" + _shared(60)[2:-1] + b"K\x01s.",
        b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b".",
        b"\x80\x02" + b"(" * 200000 + b".",
        b"\x80\x04\x96" + struct.pack("<Q", 1 << 30) + b".",
        b"\x80\x04\x96" + big + b".",
        b"\x80\x04\x8e" + big + b".",
        b"\x80\x04\x8d" + big + b".",
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x95" + big + b"N.",
        pickle.dumps({"a": list(range(10))}),
    )


def pickled(draw: Draw, data: bytes) -> bytes:
    """Change a pickle's opcodes and their arguments; or give a small bomb."""
    if draw.chance(10):
        return draw.choice(bombs())
    try:
        starts = [at for _, _, at in pickletools.genops(data) if at is not None]
    except Exception:
        return mutate.octets(draw, data)
    ops = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.below(len(ops))
        carries = [i for i, op in enumerate(ops) if len(op) > 2 or op[:1] in b"K"]
        if carries and draw.below(4):
            at = draw.choice(carries)
            ops[at] = _argument(draw, ops[at])
            continue
        match draw.below(6):
            case 0:
                del ops[at]
                ops = ops or [b"."]
            case 1:
                ops.insert(at, ops[at])
            case 2:
                other = draw.below(len(ops))
                ops[at], ops[other] = ops[other], ops[at]
            case 3:
                until = at + 1 + draw.below(6)
                ops[at:until] = [ops[draw.below(len(ops))]]
            case 4:
                ops.insert(at, draw.choice(bombs())[2:-1])
            case _:
                ops[at] = _argument(draw, ops[at])
    return b"".join(ops)


def _argument(draw: Draw, op: bytes) -> bytes:
    """Change what an opcode carries: a number, a word, a name or an array's bytes."""
    code = op[:1]
    if code in b"KMJ" and draw.chance(2):
        return b"K" + draw.raw(1)
    if code in b"KMJIL\x8a\x8b":
        value = mutate.integer(draw) % (1 << 32)
        return draw.choice((b"N", b"J" + struct.pack("<I", value), b"K\x00"))
    if code == b"G":
        return b"G" + struct.pack(">d", mutate.number(draw))
    head = 2 if code in b"\x8cUC" else 5
    if code in b"BC" and len(op) >= head + 8:
        at = head + 8 * draw.below((len(op) - head) // 8)
        return op[:at] + struct.pack("<d", mutate.number(draw)) + op[at + 8 :]
    if code in b"X\x8cUTCB" and len(op) > 2:
        words = ("<f4", "O", "V8", "f8", "latin1", "", "Box", "mean", "<", "float128")
        word = draw.choice(words).encode()
        size = bytes((len(word),)) if head == 2 else struct.pack("<I", len(word))
        return op[:1] + size + word
    if code == b"c":
        names = ("numpy dtype", "numpy ndarray", "os system", "builtins object")
        return b"c" + draw.choice(names).replace(" ", "\n").encode() + b"\n"
    return mutate.octets(draw, op)


def repacked(
    draw: Draw, entries: Mapping[str, bytes], changes: Mapping[str, Change]
) -> list[tuple[str, bytes]]:
    """Change one or two entries by the function that their name's end calls for."""
    held = list(entries.items())
    for at in {draw.below(len(held)) for _ in range(1 + draw.below(2))}:
        name, data = held[at]
        change = next((f for end, f in changes.items() if name.endswith(end)), mutate.octets)
        held[at] = name, change(draw, data)
    match draw.below(24):
        case 0:
            del held[draw.below(len(held))]
        case 1:
            held.append(held[draw.below(len(held))])
        case 2:
            held.append((f"extra/{draw.below(9)}", b"x"))
    return held
