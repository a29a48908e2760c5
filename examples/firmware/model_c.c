/* The executor as generated C: `agentkd export FILE --to c` or `--to c-int8`. */
#include "executor.c"

#include <string.h>

#include "model.h"

#ifndef MODEL_ID
#define MODEL_ID 0
#endif
#ifndef MODEL_VERSION
#define MODEL_VERSION 0
#endif

#ifdef EXECUTOR_MEMORY
static float memory[EXECUTOR_MEMORY];
#endif

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
#ifdef EXECUTOR_MEMORY
    memset(memory, 0, sizeof memory);
#endif
}

/* The words are handed on as what the executor writes: choices or numbers. */
int32_t model_act(const float *obs, uint32_t *action)
{
    void *const words = action;
#ifdef EXECUTOR_MEMORY
    return executor_act(obs, memory, words);
#else
    return executor_act(obs, words);
#endif
}
