#ifdef UPPER_TEST
#include <stdio.h>

/* Observations with the integers and the actions that they must give. */
@arrays@
@refusals@
int main(void)
{
    static struct NAME_state state;
    int wrong = 0;
    NAME_reset(&state);
    for (int row = 0; row < @rows@; row++) {
        int32_t out[UPPER_OUT] = {0};
        @action@ action[UPPER_ACTION] = {0};
        int failed = NAME_step(&state, NAME_golden_obs + row * UPPER_OBS, action, out);
        failed |= memcmp(out, NAME_golden_out + row * UPPER_OUT, sizeof out) != 0;
        for (int i = 0; i < UPPER_ACTION; i++) {
            const int at = row * UPPER_ACTION + i;
            failed |= !(action[i] >= NAME_golden_action[at] &&
                        action[i] <= NAME_golden_action[at]);
        }
        wrong += failed != 0;
    }
    if (NAME_refuses() == 0) {
        printf("NAME: FAILED, it acts on NaN or infinity\n");
        wrong = 1;
    } else if (wrong == 0) {
        printf("NAME: @rows@ golden vectors, bit by bit\n");
    } else {
        printf("NAME: FAILED, %d of @rows@ golden vectors differ\n", wrong);
    }
    return wrong != 0;
}
#endif /* UPPER_TEST */
