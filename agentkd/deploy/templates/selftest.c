#ifdef UPPER_TEST
#include <stdio.h>

/* Observations with what they gave where the executor was made. */
@arrays@
/* How far apart two numbers are, relative to their size or that of their range. */
static float NAME_apart(float got, float wanted, float span)
{
    const float size = 1.0f + fabsf(wanted);
    return fabsf(got - wanted) / (size > span ? size : span);
}

@refusals@
int main(void)
{
    static struct NAME_state state;
    float worst = 0.0f;
    int failed = 0;
    NAME_reset(&state);
    for (int32_t row = 0; row < @rows@; row++) {
        const float *obs = NAME_golden_obs + row * UPPER_OBS;
        float out[UPPER_OUT] = {0.0f};
        @action@ action[UPPER_ACTION] = {0};
        failed |= NAME_step(&state, obs, action, out);
        for (int32_t i = 0; failed == 0 && i < UPPER_OUT; i++) {
            const float wanted = NAME_golden_out[row * UPPER_OUT + i];
            const float d = NAME_apart(out[i], wanted, 0.0f);
            worst = d > worst ? d : worst;
        }
        for (int32_t i = 0; failed == 0 && i < UPPER_ACTION; i++) {
            const float d = @apart@;
            worst = d > worst ? d : worst;
        }
    }
    if (NAME_refuses() == 0) {
        printf("NAME: FAILED, it acts on NaN or infinity\n");
        failed = 1;
    } else if (failed == 0 && worst <= 1e-5f) {
        printf("NAME: @rows@ golden vectors, worst difference %g\n", (double)worst);
    } else {
        printf("NAME: FAILED, worst difference %g\n", (double)worst);
        failed = 1;
    }
    return failed;
}
#endif /* UPPER_TEST */
