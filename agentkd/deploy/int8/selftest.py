"""The test that C in integers carries: golden vectors, and a main that checks."""

from __future__ import annotations

from agentkd.deploy.ctext import array
from agentkd.deploy.int8.reference import Quantised
from agentkd.types import Floats


def self_test(quantised: Quantised, name: str, kind: str, obs: Floats) -> str:
    """Write a `main` behind `#ifdef NAME_TEST` that checks bit by bit.

    Args:
        quantised: The executor.
        name: Begins every name in the file.
        kind: The type of an action's numbers in C.
        obs: Observations, (rows, obs); with a memory they are a sequence.
    """
    n, upper = name, name.upper()
    kept, copied, again, handed = "", "", "", ""
    if quantised.memory:
        # A sequence: each call starts from the same memory.
        kept = f"    int16_t memory[{upper}_MEMORY] = {{0}};\n"
        copied = f"\n        int16_t copy[{upper}_MEMORY];"
        copied += "\n        memcpy(copy, memory, sizeof copy);"
        again, handed = ", copy", ", memory"
    arrays = [
        array("float", f"{n}_golden_obs", obs),
        array("int32_t", f"{n}_golden_out", quantised.integers(obs)),
        array(kind, f"{n}_golden_action", quantised.actions(obs)),
    ]
    return f"""#ifdef {upper}_TEST
#include <stdio.h>

/* Observations with the integers and the actions that they must give. */
{"".join(arrays)}
int main(void)
{{
    int wrong = 0;
{kept}    for (int row = 0; row < {len(obs)}; row++) {{
        const float *obs = {n}_golden_obs + row * {upper}_OBS;
        int32_t out[{upper}_OUT] = {{0}};
        {kind} action[{upper}_ACTION] = {{0}};{copied}
        int failed = {n}_outputs(obs{again}, out);
        failed |= {n}_act(obs{handed}, action);
        failed |= memcmp(out, {n}_golden_out + row * {upper}_OUT, sizeof out) != 0;
        for (int i = 0; i < {upper}_ACTION; i++) {{
            const int at = row * {upper}_ACTION + i;
            failed |= !(action[i] >= {n}_golden_action[at] &&
                        action[i] <= {n}_golden_action[at]);
        }}
        wrong += failed != 0;
    }}
    if (wrong == 0)
        printf("{n}: {len(obs)} golden vectors, bit by bit\\n");
    else
        printf("{n}: FAILED, %d of {len(obs)} golden vectors differ\\n", wrong);
    return wrong != 0;
}}
#endif /* {upper}_TEST */
"""
