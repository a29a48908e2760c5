"""The test that a generated C file carries: golden vectors, and a main that checks."""

from __future__ import annotations

from agentkd.deploy.ctext import array
from agentkd.deploy.golden import golden
from agentkd.deploy.layout import ctype
from agentkd.executors.frozen import Frozen


def self_test(frozen: Frozen, name: str) -> str:
    """Write a `main` behind `#ifdef NAME_TEST` that checks the golden vectors."""
    n, upper = name, name.upper()
    obs, outputs, taken = golden(frozen)
    kind = ctype(frozen)
    memory, whole, given = "", "", ""
    if frozen.memory:
        # A sequence: each call starts from the same memory.
        memory = f"    float memory[{upper}_MEMORY] = {{0.0f}};\n"
        whole = f"\n        float copy[{upper}_MEMORY];"
        whole += "\n        memcpy(copy, memory, sizeof copy);"
        given = ", memory"
    again = ", copy" if frozen.memory else ""
    apart = (
        f"{n}_apart(action[i], {n}_golden_action[row * {upper}_ACTION + i])"
        if kind == "float"
        else f"action[i] == {n}_golden_action[row * {upper}_ACTION + i] ? 0.0f : 1.0f"
    )
    arrays = "\n".join(
        [
            array("float", f"{n}_golden_obs", obs),
            array("float", f"{n}_golden_out", outputs),
            array(kind, f"{n}_golden_action", taken),
        ]
    )
    return f"""#ifdef {upper}_TEST
#include <stdio.h>
{"#include <string.h>" if frozen.memory else ""}
/* Observations with what they gave where the executor was made. */
{arrays}
static float {n}_apart(float got, float wanted)
{{
    return fabsf(got - wanted) / (1.0f + fabsf(wanted));
}}

int main(void)
{{
    float worst = 0.0f;
    int failed = 0;
{memory}    for (int32_t row = 0; row < {len(obs)}; row++) {{
        const float *obs = {n}_golden_obs + row * {upper}_OBS;
        float out[{upper}_OUT] = {{0.0f}};
        {kind} action[{upper}_ACTION] = {{0}};{whole}
        failed |= {n}_outputs(obs{again}, out);
        failed |= {n}_act(obs{given}, action);
        for (int32_t i = 0; failed == 0 && i < {upper}_OUT; i++) {{
            const float d = {n}_apart(out[i], {n}_golden_out[row * {upper}_OUT + i]);
            worst = d <= worst ? worst : d;
        }}
        for (int32_t i = 0; failed == 0 && i < {upper}_ACTION; i++) {{
            const float d = {apart};
            worst = d <= worst ? worst : d;
        }}
    }}
    if (failed == 0 && worst <= 1e-5f) {{
        printf("{n}: {len(obs)} golden vectors, worst difference %g\\n", (double)worst);
    }} else {{
        printf("{n}: FAILED, worst difference %g\\n", (double)worst);
        failed = 1;
    }}
    return failed;
}}
#endif /* {upper}_TEST */
"""
