/* The executor as data: `agentkd export FILE --to akx`, written to the board's place for a
 * model. An update exchanges that, and this program stays. */
#include <stddef.h>
#include <string.h>

#include "akx.h"
#include "board.h"
#include "model.h"

#define SCRATCH 2048 /* floats */
#define MEMORY 512

static struct akx net;
static float scratch[SCRATCH], memory[MEMORY];

void model_open(struct model *model)
{
    /* How long it is stands in its third word. Where that cannot be, akx_open sees its
     * whole place, and says what is wrong. */
    const size_t room = (size_t)board_model_size;
    uint32_t words[4];
    memcpy(words, board_model, sizeof words);
    memset(model, 0, sizeof *model);
    const int32_t likely = words[2] >= 64u && words[2] <= room;
    model->status = akx_open(&net, board_model, likely != 0 ? words[2] : room);
    if (model->status == AKX_OK &&
        (net.obs > MODEL_OBS_MOST || net.actions > MODEL_ACTIONS_MOST ||
         net.memory > MEMORY || akx_scratch(&net) > SCRATCH))
        model->status = AKX_SCRATCH;
    if (model->status != AKX_OK)
        return;
    model->obs = (uint32_t)net.obs;
    model->actions = (uint32_t)net.actions;
    model->version = (uint32_t)net.version;
    model->id = words[3];
}

void model_reset(void)
{
    memset(memory, 0, sizeof memory);
}

int32_t model_act(const float *obs, uint32_t *action)
{
    /* Choices or numbers: the head says which of the two it writes. */
    void *const words = action;
    return akx_act(&net, obs, memory, scratch, SCRATCH, words, words) != AKX_OK;
}
