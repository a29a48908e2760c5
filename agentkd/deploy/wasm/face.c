/* What WebAssembly exports of an executor: places in memory, and functions without arguments.
 * ACTION, the type of an action's numbers, is defined by the compiler's options. */
#define EXECUTOR_REENTRANT
#include "executor.c"

#define EXPORT(name) __attribute__((export_name(#name)))

static struct executor_state state;
static float obs[EXECUTOR_OBS], outputs[EXECUTOR_OUT];
static ACTION action[EXECUTOR_ACTION];

EXPORT(obs) float *place_of_obs(void)
{
    return obs;
}

EXPORT(outputs) float *place_of_outputs(void)
{
    return outputs;
}

EXPORT(action) ACTION *place_of_action(void)
{
    return action;
}

EXPORT(reset) void reset(void)
{
    executor_reset(&state);
}

EXPORT(step) int step(void)
{
    return executor_step(&state, obs, action, outputs);
}
