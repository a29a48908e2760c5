"""Text for C: numbers, comments, arrays, and the kernels taken from their header."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from agentkd.dists import bounds
from agentkd.errors import NumbersError
from agentkd.executors.executor import Executor
from agentkd.executors.layers import sizes
from agentkd.executors.native import KERNELS
from agentkd.spec import ActionSpec, BoxSpec, MultiDiscreteSpec, Spec

_LARGEST = float(np.finfo(np.float32).max)


def literal(value: float) -> str:
    """Write a float32 in C, to nine significant digits, which give it back exactly.

    Only bounds and clips are infinite; the largest finite number bounds as well, and no compiler
    option forbids it.

    Raises:
        NumbersError: If it is NaN.
    """
    number = float(value)
    if math.isnan(number):
        raise NumbersError("NaN is not written to C; check the bounds and the clip.")
    text = f"{min(max(number, -_LARGEST), _LARGEST):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def comment(text: str) -> str:
    """Make any text safe inside a comment: one line of ASCII that cannot end it."""
    plain = text.encode("ascii", "backslashreplace").decode()
    plain = "".join(each if each.isprintable() else " " for each in plain)
    while any(bad in plain for bad in ("*/", "/*", "??")):
        for bad in ("*/", "/*", "??"):
            plain = plain.replace(bad, f"{bad[0]} {bad[1]}")
    return plain


def wrapped(words: Sequence[str], indent: str = "    ", width: int = 96) -> str:
    """Comma-separated words, in lines no longer than `width`."""
    lines, line = [], indent
    for word in words:
        if len(line) + len(word) + 2 > width and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += f"{word}, "
    lines.append(line.rstrip().rstrip(","))
    return "\n".join(lines)


def array(kind: str, name: str, values: Any) -> str:
    """Define a constant array of any numbers, flattened."""
    words = [literal(each) if kind == "float" else str(int(each)) for each in np.ravel(values)]
    return f"static const {kind} {name}[{len(words)}] = {{\n{wrapped(words)}\n}};\n"


def kernels() -> dict[str, str]:
    """The portable kernels by name, each with the comment above it."""
    # A host's vector types are not C99, and stay behind.
    text = re.sub(
        r"#ifdef AKD_VECTOR\n(?:(?!#endif|#else).*\n)*#endif\n",
        "",
        KERNELS.read_text(encoding="utf-8").partition("enum akd_head")[2],
    )
    found = re.findall(
        r"((?:^/\*[^*]*(?:\*(?!/)[^*]*)*\*/\n)?(?:#ifndef AKD_VECTOR\n)?"
        r"static inline \w+ akd_(\w+)\([^{]*\{\n.*?^\}\n)",
        text,
        re.MULTILINE | re.DOTALL,
    )
    return {name: body.replace("#ifndef AKD_VECTOR\n", "") for body, name in found}


def aligned(text: str) -> str:
    """Put a signature's further lines under its first parameter again."""

    def align(found: re.Match[str]) -> str:
        under = "\n" + " " * (found[1].index("(") + 1)
        more = (line.strip() for line in found[2].splitlines())
        return "".join([found[1], *(under + line for line in more), "\n"])

    return re.sub(r"^(static .*,)\n((?: +[^{\n]*\n)+)(?=\{)", align, text, flags=re.MULTILINE)


def bounds_of(action: ActionSpec, name: str) -> Iterator[str]:
    """Define what an action is decided by: the sizes of its choices, or its bounds."""
    if isinstance(action, MultiDiscreteSpec):
        yield array("int32_t", f"{name}_sizes", action.sizes)
    if isinstance(action, BoxSpec):
        for what, values in zip(("low", "high"), bounds(action), strict=True):
            yield array("float", f"{name}_{what}", values)


def preamble(title: str, told: Iterable[tuple[str, str]], promises: str, check: str) -> str:
    """Write the comment at the head of a generated file."""
    lines = [
        f"{title}. Generated; do not edit.",
        "",
        *(f"{key + ':':<14}{value}" for key, value in told),
        "",
        *promises.splitlines(),
        "",
        f"Check it where it runs:  {check} && ./a.out",
        "Call it from elsewhere:  include the header that was written beside it.",
    ]
    return "/*\n" + "\n".join(f" * {comment(line)}".rstrip() for line in lines) + "\n */"


def origin(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a file and its executor come from."""
    command = provenance.get("command")
    if isinstance(command, (list, tuple)):
        command = " ".join(map(str, command))
    yield "made by", f"agentkd {version('agentkd')}"
    if command:
        yield "distilled by", str(command)
    if provenance.get("env"):
        yield "environment", str(provenance["env"])


def taken_note(spec: Spec) -> str:
    """Say in a header's comment what an observation ends in, where it ends in an action."""
    taken = spec.obs.taken
    if not taken:
        return ""
    how = "in the environment's units" if isinstance(spec.action, BoxSpec) else "as 0 and 1"
    return (
        f"\n * Its last {taken} numbers are the action that was executed at the tick before,"
        f"\n * {how}; zeros where an episode begins."
    )


def facts(executor: Executor, provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a generated file says about its executor, line by line."""
    yield from origin(provenance)
    planner = provenance.get("planner")
    if isinstance(planner, Mapping):
        refs = " + ".join(map(str, planner.get("refs", ())))
        planner = f"{planner.get('name', '')}, {refs}"
    if planner:
        yield "planner", str(planner)
    if provenance.get("planner_digest"):
        yield "SHA-256", f"{provenance['planner_digest']} (the planner's)"
    if provenance.get("labels"):
        yield "labels", str(provenance["labels"])
    sizes_through = [executor.spec.obs.size, *(sizes(each)[1] for each in executor.layers)]
    yield "executor", f"{executor.architecture}, version {executor.version}"
    yield "network", f"{' - '.join(map(str, sizes_through))}, {executor.head}"
    yield "parameters", f"{executor.parameters}"
