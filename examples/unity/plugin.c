/* A native plugin for Unity, or any host with P/Invoke: an executor exported to C, with the state on
 * the heap and actions as floats, also choices. AgentkdExecutor.cs calls it. */
#include <stdlib.h>

#include "executor.h"

#ifdef _WIN32
#define SHOWN __declspec(dllexport)
#else
#define SHOWN __attribute__((visibility("default")))
#endif

/* Numbers of an observation and of an action. */
SHOWN int32_t agentkd_obs(void)
{
    return EXECUTOR_OBS;
}

SHOWN int32_t agentkd_actions(void)
{
    return EXECUTOR_ACTION;
}

/* One executor with a memory of its own; NULL where there is no space. */
SHOWN void *agentkd_open(void)
{
    struct executor_state *const state = (struct executor_state *)malloc(sizeof *state);
    if (state != NULL)
        executor_reset(state);
    return state;
}

SHOWN void agentkd_close(void *state)
{
    free(state);
}

/* Begins an episode. */
SHOWN void agentkd_reset(void *state)
{
    executor_reset((struct executor_state *)state);
}

/* Decides. Returns 0; 1 where the observation, or what the network makes of it, is NaN or
 * infinite; 2 where there is no state or a length is another. Then no action is written. */
SHOWN int32_t agentkd_act(void *state, const float *obs, int32_t obs_length, float *action,
                          int32_t action_length)
{
    executor_number taken[EXECUTOR_ACTION];
    if (state == NULL || obs_length != EXECUTOR_OBS || action_length != EXECUTOR_ACTION)
        return 2;
    if (executor_step((struct executor_state *)state, obs, taken, NULL) != 0)
        return 1;
    for (int32_t i = 0; i < EXECUTOR_ACTION; i++)
        action[i] = (float)taken[i];
    return 0;
}
