/* The executor behind the line: generated C (model_c.c), data in flash (model_akx.c), or data
 * that is exchanged while it acts (model_gate.c). */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#if defined(MODEL_GATE)
#include "gate/gate.h"
#define MODEL_OBS_MOST GATE_OBS
#define MODEL_ACTIONS_MOST GATE_ACTIONS
#elif defined(MODEL_AKX)
#define MODEL_OBS_MOST 256
#define MODEL_ACTIONS_MOST 64
#else
#include "executor.h"
#define MODEL_OBS_MOST EXECUTOR_OBS
#define MODEL_ACTIONS_MOST EXECUTOR_ACTION
#endif

struct model {
    int32_t status;  /* 0, or why there is none: an akx_status */
    uint32_t obs, actions, version;
    uint32_t id; /* which executor it is: the host compares */
};

void model_open(struct model *model);

/* Forgets, where an episode begins. */
void model_reset(void);

/* Decides. `action` holds 32-bit words: choices as int32_t, numbers as float.
 * Gives 0, or 1 where nothing was decided. */
int32_t model_act(const float *obs, uint32_t *action);

#ifdef MODEL_GATE
/* An observation's action was sent: there is time for the rest. */
void model_sent(const float *obs);

/* Answers a frame of the gate's. Gives 0 for another one. */
struct frame;
int32_t model_told(const struct frame *frame);
#endif

#endif
