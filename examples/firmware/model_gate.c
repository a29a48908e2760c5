/* The executor as data that is exchanged while it acts: gate/gate.h. Frames with
 *   'b'  begin an update: how many bytes it has
 *   'p'  bring a piece: where it begins, and bytes
 *   'v'  have it verified and staged
 *   'c'  confirm, 'k' go back, 'd' the power goes off on purpose
 *   's'  ask how it stands
 * and are answered by the same letter as a capital, a gate_reason, and for 's' the rest. */
#include <string.h>

#include "board.h"
#include "flash.h"
#include "link.h"
#include "model.h"
#include "signature.h"

#ifndef GATE_SHADOW_TICKS
#define GATE_SHADOW_TICKS 500u
#define GATE_ACTING_TICKS 500u
#endif
/* Half of a period of 20 ms. */
#ifndef GATE_BUDGET
#define GATE_BUDGET (BOARD_HZ / 100u)
#endif

static const struct gate_options options = {
    .shadow = GATE_SHADOW_TICKS,
    .acting = GATE_ACTING_TICKS,
    .budget = GATE_BUDGET,
    .agreement = 0.5f,
    .starts = 3u,
    .ticks = board_ticks,
#ifdef GATE_KEY
    .genuine = signature_is_genuine,
#endif
};

static struct gate gate;

void model_open(struct model *model)
{
    if (gate.flash == NULL)
        (void)gate_open(&gate, &board_flash, &options);
    const struct gate_executor *const acts = gate_acts(&gate);
    memset(model, 0, sizeof *model);
    model->status = acts != NULL ? AKX_OK : AKX_SHORT;
    if (acts == NULL)
        return;
    model->obs = (uint32_t)acts->net.obs;
    model->actions = (uint32_t)acts->net.actions;
    model->version = (uint32_t)acts->net.version;
    model->id = acts->id;
}

void model_reset(void)
{
    gate_reset(&gate);
}

int32_t model_act(const float *obs, uint32_t *action)
{
    return gate_act(&gate, obs, action) != AKX_OK;
}

void model_sent(const float *obs)
{
    gate_tick(&gate, obs);
}

int32_t model_told(const struct frame *frame)
{
    uint32_t said[6] = {GATE_OK}, words = 1u, first = 0u;
    if (frame->length >= 4u)
        memcpy(&first, frame->payload, sizeof first);
    if ((frame->type == 'b' && frame->length != 4u) ||
        (frame->type == 'p' && frame->length <= 4u)) {
        link_refuse(frame->number, LINK_LENGTH);
        return 1;
    }
    switch (frame->type) {
    case 'b':
        said[0] = (uint32_t)gate_begin(&gate, first);
        break;
    case 'p':
        said[0] = (uint32_t)gate_put(&gate, first, frame->payload + 4, frame->length - 4u);
        break;
    case 'v':
        said[0] = (uint32_t)gate_finish(&gate);
        break;
    case 'c':
        said[0] = (uint32_t)gate_confirm(&gate);
        break;
    case 'k':
        said[0] = (uint32_t)gate_rollback(&gate);
        break;
    case 'd':
        said[0] = (uint32_t)gate_pause(&gate);
        break;
    case 's':
        said[words++] = gate.state.stage;
        said[words++] = (uint32_t)gate.phase;
        said[words++] = gate.state.last_stage;
        said[words++] = gate.state.last_reason;
        said[words++] = gate.state.last_id;
        break;
    default:
        return 0;
    }
    link_send((uint8_t)(frame->type - 'a' + 'A'), frame->number, said, 4u * words);
    return 1;
}
