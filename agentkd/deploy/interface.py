"""The C interface of an exported executor: its header and the functions in it.

An exported file defines two forms of one executor. `NAME_step` is re-entrant: all that changes lies
in a `struct NAME_state` of the caller's. `NAME_act` and `NAME_outputs` use one static buffer, and
serve one caller at a time. The text is in `templates/`: interface.h declares them and interface.c
defines them by `NAME_forward`, which gives NULL where nothing can be decided, and `NAME_decide`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from agentkd.errors import ConfigError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}")
_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class
compl concept const const_cast consteval constexpr constinit continue co_await
co_return co_yield decltype default delete do double dynamic_cast else enum explicit
export extern false float for friend goto if inline int long main mutable namespace
new noexcept not not_eq nullptr operator or or_eq private protected public register
reinterpret_cast requires restrict return short signed sizeof static static_assert
static_cast struct switch template this thread_local throw true try typedef typeid
typename typeof union unsigned using virtual void volatile wchar_t while xor xor_eq
"""
_OURS = ("akd", "akx")
"""What the names of the fixed runtime begin with."""
_TEMPLATES = Path(__file__).with_name("templates")
_CASE = re.compile(r"#case (.*)\n((?:(?!#case|#end).*\n)*)")
HEADER_MARK = "/* Calls an executor exported to C by"
"""How each header begins, so that no other file is overwritten by one."""


def check_name(name: str) -> None:
    """Check that `name` can begin names in C and in C++.

    Raises:
        ConfigError: If it cannot.
    """
    why = ""
    if not _NAME.fullmatch(name):
        why = "is not up to 31 letters, digits and _, beginning with a letter"
    elif name in _KEYWORDS.split():
        why = "is a keyword of C or C++"
    elif name.lower() in _OURS:
        why = "begins the names of agentkd's own runtime"
    if why:
        raise ConfigError(
            f"{name!r} cannot begin names in C: it {why}. Choose another name, such as executor."
        )


@dataclass(frozen=True, slots=True)
class Buffer:
    """A number of one C type in a row."""

    kind: str
    name: str
    length: int


@dataclass(frozen=True, slots=True)
class Interface:
    """What the functions of an executor take and give; `name` begins every name in the file.

    `obs`, `out` and `actions` count the numbers of an observation, of the last layer and of an
    action. `number` and `action` are the C types of the last two, and the notes say in a sentence
    what they are; `obs_note` may say more of observations. `scratch` is what a decision writes on
    its way, `memory` what an executor remembers from tick to tick.
    """

    name: str
    obs: int
    out: int
    actions: int
    number: str
    action: str
    scratch: tuple[Buffer, ...]
    memory: Buffer | None
    action_note: str
    out_note: str
    obs_note: str = ""

    def fill(self, template: str, case: str = "", /, **more: object) -> str:
        """Fill in a file of `templates/`: NAME, UPPER, the interface's @words@, and more.

        Of the text from "#case A B" lines to "#end", what is for `case` is kept.
        """
        upper, under = self.name.upper(), " " * (len(self.name) + 9)
        words: dict[str, object] = {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "NAME": self.name,
            "UPPER": upper,
            "scratch": "".join(f"    {e.kind} {e.name}[{e.length}];\n" for e in self.scratch),
            "under": under,
            "under_run": under + 7 * " ",
            "under_step": under[:-1],
            **dict.fromkeys(("define", "field", "given", "handed", "note", "own", "taken"), ""),
            "reset": "    (void)state;\n",
        }
        if self.memory:
            kind = self.memory.kind
            words |= {
                "define": f"\n#define {upper}_MEMORY {self.memory.length}",
                "field": f"    {kind} memory[{upper}_MEMORY];\n",
                "given": f", {kind} memory[{upper}_MEMORY]",
                "handed": ", memory",
                "note": "\n * `memory` is what the executor remembers: fill it with zeros where an "
                "episode\n * begins, and call one of the two functions once a tick.",
                "own": ", state->memory",
                "taken": f"{kind} *memory, ",
                "reset": f"    for (int32_t i = 0; i < {upper}_MEMORY; i++)\n"
                "        state->memory[i] = 0;\n",
            }
        words |= more
        text = (_TEMPLATES / template).read_text(encoding="utf-8")
        text = _CASE.sub(lambda found: found[2] * (case in found[1].split()), text)
        text = text.replace("#end\n", "")
        return re.sub(r"@(\w+)@|NAME|UPPER", lambda found: str(words[found[1] or found[0]]), text)


def header_of(source: str, name: str) -> str:
    """Take the header out of an exported file, for a file of its own."""
    upper = name.upper()
    end = f"#endif /* {upper}_H */\n"
    start, stop = source.index(f"#ifndef {upper}_H\n"), source.index(end)
    made = source.partition("made by:")[2].partition("\n")[0].strip()
    return f"{HEADER_MARK} {made}. Generated; do not edit. */\n" + source[start : stop + len(end)]
