"""The test that a generated C file carries: golden vectors, and a main that checks."""

from __future__ import annotations

import numpy as np

from agentkd.deploy.ctext import array
from agentkd.deploy.golden import golden
from agentkd.deploy.interface import Interface
from agentkd.errors import NumbersError
from agentkd.executors.executor import Executor


def self_test(executor: Executor, face: Interface) -> str:
    """Write a `main` behind `#ifdef NAME_TEST` that checks the golden vectors.

    It also checks that NaN and infinity are refused, in case the compiler was told that there are
    none. With a memory the vectors are one sequence.

    Raises:
        NumbersError: If the executor's numbers overflow.
    """
    n, upper = face.name, face.name.upper()
    obs, outputs, taken = golden(executor)
    if not np.isfinite(outputs).all():
        raise NumbersError(
            "The executor's numbers overflow for usual observations, so that it would "
            "decide nothing; check its weights."
        )
    wanted = f"{n}_golden_action[row * {upper}_ACTION + i]"
    # Squashed actions are rounded in units of their bounds' distance.
    span = f"{n}_high[i] - {n}_low[i]" if executor.head == "squashed" else "0.0f"
    apart = (
        f"{n}_apart(action[i], {wanted}, {span})"
        if face.action == "float"
        else f"action[i] == {wanted} ? 0.0f : 1.0f"
    )
    arrays = "\n".join(
        [
            array("float", f"{n}_golden_obs", obs),
            array("float", f"{n}_golden_out", outputs),
            array(face.action, f"{n}_golden_action", taken),
        ]
    )
    return f"""#ifdef {upper}_TEST
#include <stdio.h>

/* Observations with what they gave where the executor was made. */
{arrays}
/* How far apart two numbers are, relative to their size or that of their range. */
static float {n}_apart(float got, float wanted, float span)
{{
    const float size = 1.0f + fabsf(wanted);
    return fabsf(got - wanted) / (size > span ? size : span);
}}

{refusals(face)}
int main(void)
{{
    static struct {n}_state state;
    float worst = 0.0f;
    int failed = 0;
    {n}_reset(&state);
    for (int32_t row = 0; row < {len(obs)}; row++) {{
        const float *obs = {n}_golden_obs + row * {upper}_OBS;
        float out[{upper}_OUT] = {{0.0f}};
        {face.action} action[{upper}_ACTION] = {{0}};
        failed |= {n}_step(&state, obs, action, out);
        for (int32_t i = 0; failed == 0 && i < {upper}_OUT; i++) {{
            const float wanted = {n}_golden_out[row * {upper}_OUT + i];
            const float d = {n}_apart(out[i], wanted, 0.0f);
            worst = d > worst ? d : worst;
        }}
        for (int32_t i = 0; failed == 0 && i < {upper}_ACTION; i++) {{
            const float d = {apart};
            worst = d > worst ? d : worst;
        }}
    }}
    if ({n}_refuses() == 0) {{
        printf("{n}: FAILED, it acts on NaN or infinity\\n");
        failed = 1;
    }} else if (failed == 0 && worst <= 1e-5f) {{
        printf("{n}: {len(obs)} golden vectors, worst difference %g\\n", (double)worst);
    }} else {{
        printf("{n}: FAILED, worst difference %g\\n", (double)worst);
        failed = 1;
    }}
    return failed;
}}
#endif /* {upper}_TEST */
"""


def refusals(face: Interface) -> str:
    """Write `NAME_refuses`, which tries NaN and infinity at up to 128 places."""
    n, upper = face.name, face.name.upper()
    return f"""/* 1 if an observation is refused for NaN or infinity in one place. */
static int {n}_refuses(void)
{{
    static const uint32_t bad[] = {{
        0x7FC00000u, 0x7F800001u, 0x7F800000u, 0xFF800000u}};
    static struct {n}_state state;
    static float obs[{upper}_OBS];
    int refused = 1;
    {n}_reset(&state);
    for (int32_t i = 4 * {upper}_OBS - 1; i >= 0; i -= 1 + {upper}_OBS / 32) {{
        {face.action} action[{upper}_ACTION] = {{0}};
        memcpy(obs + i / 4, bad + i % 4, sizeof *obs);
        refused &= {n}_step(&state, obs, action, NULL) == 1;
        obs[i / 4] = 0.0f;
    }}
    return refused;
}}
"""
