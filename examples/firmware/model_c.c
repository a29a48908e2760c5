/* The executor as generated C: `agentkd export FILE --to c` or `--to c-int8`. */
#include "executor.c"

#include "model.h"

#ifndef MODEL_ID
#define MODEL_ID 0
#endif
#ifndef MODEL_VERSION
#define MODEL_VERSION 0
#endif

static struct executor_state state;

void model_open(struct model *model)
{
    model->status = 0;
    model->obs = EXECUTOR_OBS;
    model->actions = EXECUTOR_ACTION;
    model->version = MODEL_VERSION;
    model->id = MODEL_ID;
}

void model_reset(void)
{
    executor_reset(&state);
}

/* The words are handed on as what the executor writes: choices or numbers. */
int32_t model_act(const float *obs, uint32_t *action)
{
    void *const words = action;
    return executor_step(&state, obs, words, NULL);
}
