"""The C interface of an exported executor: its header and the functions in it.

An exported file defines two forms of one executor. `NAME_step` is re-entrant: all that changes lies
in a `struct NAME_state` of the caller's. `NAME_act` and `NAME_outputs` use one static buffer, and
serve one caller at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
    """What the functions of an executor take and give.

    Attributes:
        name: Begins every name in the file.
        obs: Numbers in an observation.
        out: Numbers of the last layer.
        actions: Numbers or choices in an action.
        number: The C type of the last layer's numbers.
        action: The C type of an action's numbers.
        scratch: What a decision writes on its way, and nobody reads afterwards.
        memory: What an executor remembers from tick to tick; None for most.
        action_note: What an action is, one sentence.
        out_note: What the last layer's numbers are, one sentence.
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


def header(face: Interface) -> str:
    """Write the declarations, for C99 and C++11 alike."""
    n, upper = face.name, face.name.upper()
    fields = "".join(f"    {e.kind} {e.name}[{e.length}];\n" for e in face.scratch)
    define, field, given, note = "", "", "", ""
    if face.memory:
        kind = face.memory.kind
        define = f"\n#define {upper}_MEMORY {face.memory.length}"
        field = f"    {kind} memory[{upper}_MEMORY];\n"
        given = f", {kind} memory[{upper}_MEMORY]"
        note = (
            "\n * `memory` is what the executor remembers: fill it with zeros where an "
            "episode\n * begins, and call one of the two functions once a tick."
        )
    pad = " " * (len(n) + 9)
    return f"""#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#define {upper}_OBS {face.obs}
#define {upper}_OUT {face.out}
#define {upper}_ACTION {face.actions}{define}

#ifdef __cplusplus
extern "C" {{
#endif

/* Every function that returns int returns 0, or 1 where the observation, or what the
 * network makes of it, is NaN or infinite; then no action and no output is written.
 * Observations are as the environment gives them: the normaliser is inside.
 * {face.action_note}
 * {face.out_note} */

/* What a decision writes on its way. */
struct {n}_scratch {{
{fields}}};

/* All that changes from tick to tick: one for each thread, robot or environment. */
struct {n}_state {{
{field}    struct {n}_scratch scratch;
}};

/* Begin an episode. */
void {n}_reset(struct {n}_state *state);

/* Decide for one observation. `action` takes {upper}_ACTION numbers and `out` the last
 * layer's {upper}_OUT; either may be NULL. Re-entrant: call it with a state of its own
 * from each thread. */
int {n}_step(struct {n}_state *state, const float obs[{upper}_OBS],
{pad[:-1]} {face.action} *action, {face.number} *out);

#ifndef {upper}_REENTRANT
/* The same with one static scratch buffer, for one caller at a time. Define
 * {upper}_REENTRANT to leave these out.{note} */
int {n}_act(const float obs[{upper}_OBS]{given},
{pad}{face.action} action[{upper}_ACTION]);
int {n}_outputs(const float obs[{upper}_OBS]{given},
{pad}    {face.number} out[{upper}_OUT]);
#endif

#ifdef __cplusplus
}}
#endif

#endif /* {upper}_H */
"""


def functions(face: Interface) -> str:
    """Define what `header` declares.

    The file must define, before, `static const NUMBER *NAME_forward(struct NAME_scratch *s, const
    float *obs[, MEMORY *memory])`, which gives NULL where nothing can be decided, and `static void
    NAME_decide(const NUMBER *last, ACTION *action)`.
    """
    n, upper = face.name, face.name.upper()
    pad, run = " " * (len(n) + 9), " " * (len(n) + 16)
    given, taken, handed, own, reset = "", "", "", "", "    (void)state;\n"
    if face.memory:
        given = f", {face.memory.kind} memory[{upper}_MEMORY]"
        taken = f"{face.memory.kind} *memory, "
        handed, own = ", memory", ", state->memory"
        reset = f"    for (int32_t i = 0; i < {upper}_MEMORY; i++)\n        state->memory[i] = 0;\n"
    return f"""static int {n}_run(const float *obs, {taken}{face.action} *action,
{run}{face.number} *out, struct {n}_scratch *s)
{{
    const {face.number} *const last = {n}_forward(s, obs{handed});
    if (last == NULL)
        return 1;
    if (action != NULL)
        {n}_decide(last, action);
    if (out != NULL)
        for (int32_t i = 0; i < {upper}_OUT; i++)
            out[i] = last[i];
    return 0;
}}

void {n}_reset(struct {n}_state *state)
{{
{reset}}}

int {n}_step(struct {n}_state *state, const float obs[{upper}_OBS],
{pad[:-1]} {face.action} *action, {face.number} *out)
{{
    return {n}_run(obs{own}, action, out, &state->scratch);
}}

#ifndef {upper}_REENTRANT
static struct {n}_scratch {n}_own;

int {n}_act(const float obs[{upper}_OBS]{given},
{pad}{face.action} action[{upper}_ACTION])
{{
    return {n}_run(obs{handed}, action, NULL, &{n}_own);
}}

int {n}_outputs(const float obs[{upper}_OBS]{given},
{pad}    {face.number} out[{upper}_OUT])
{{
    return {n}_run(obs{handed}, NULL, out, &{n}_own);
}}
#endif
"""


def header_of(source: str, name: str) -> str:
    """Take the header out of an exported file, for a file of its own."""
    upper = name.upper()
    end = f"#endif /* {upper}_H */\n"
    start, stop = source.index(f"#ifndef {upper}_H\n"), source.index(end)
    made = source.partition("made by:")[2].partition("\n")[0].strip()
    return f"{HEADER_MARK} {made}. Generated; do not edit. */\n" + source[start : stop + len(end)]
