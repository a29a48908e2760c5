"""The test that C in integers carries: golden vectors, and a main that checks."""

from __future__ import annotations

from agentkd.deploy.ctext import array
from agentkd.deploy.int8.reference import Quantised
from agentkd.deploy.interface import Interface
from agentkd.deploy.selftest import refusals
from agentkd.types import Floats


def self_test(quantised: Quantised, face: Interface, obs: Floats) -> str:
    """Write a `main` behind `#ifdef NAME_TEST` that checks bit by bit.

    Args:
        quantised: The executor.
        face: The functions of the file.
        obs: Observations, (rows, obs); with a memory they are a sequence.
    """
    n, upper = face.name, face.name.upper()
    arrays = [
        array("float", f"{n}_golden_obs", obs),
        array("int32_t", f"{n}_golden_out", quantised.integers(obs)),
        array(face.action, f"{n}_golden_action", quantised.actions(obs)),
    ]
    return f"""#ifdef {upper}_TEST
#include <stdio.h>

/* Observations with the integers and the actions that they must give. */
{"".join(arrays)}
{refusals(face)}
int main(void)
{{
    static struct {n}_state state;
    int wrong = 0;
    {n}_reset(&state);
    for (int row = 0; row < {len(obs)}; row++) {{
        int32_t out[{upper}_OUT] = {{0}};
        {face.action} action[{upper}_ACTION] = {{0}};
        int failed = {n}_step(&state, {n}_golden_obs + row * {upper}_OBS, action, out);
        failed |= memcmp(out, {n}_golden_out + row * {upper}_OUT, sizeof out) != 0;
        for (int i = 0; i < {upper}_ACTION; i++) {{
            const int at = row * {upper}_ACTION + i;
            failed |= !(action[i] >= {n}_golden_action[at] &&
                        action[i] <= {n}_golden_action[at]);
        }}
        wrong += failed != 0;
    }}
    if ({n}_refuses() == 0) {{
        printf("{n}: FAILED, it acts on NaN or infinity\\n");
        wrong = 1;
    }} else if (wrong == 0) {{
        printf("{n}: {len(obs)} golden vectors, bit by bit\\n");
    }} else {{
        printf("{n}: FAILED, %d of {len(obs)} golden vectors differ\\n", wrong);
    }}
    return wrong != 0;
}}
#endif /* {upper}_TEST */
"""
