/* Decides for whoever asks over the line. A frame with
 *   'h'  asks who is there
 *   'o'  brings an observation, float32, and asks for an action
 *   'r'  begins an episode
 * and is answered by the same letter as a capital. */
#include <string.h>

#include "board.h"
#include "link.h"
#include "model.h"

/* Given where nothing can be decided, each word of the action: 0 is choice 0 and 0.0. */
#ifndef SAFE_ACTION
#define SAFE_ACTION 0u
#endif

enum status { DECIDED, OBSERVATION, NO_MODEL };

struct hello {
    uint32_t protocol, status, obs, actions, version, id, hz;
};

struct answer {
    uint32_t status, ticks;
    uint32_t action[MODEL_ACTIONS_MOST];
};

static struct model model;
static struct answer answer;
static float obs[MODEL_OBS_MOST];
static int32_t answered = -1; /* the number of the last observation */

static void hello(uint8_t number)
{
#ifdef MODEL_GATE
    model_open(&model); /* another one may act by now */
#endif
    const struct hello said = {
        .protocol = LINK_PROTOCOL,
        .status = (uint32_t)model.status,
        .obs = model.obs,
        .actions = model.actions,
        .version = model.version,
        .id = model.id,
        .hz = BOARD_HZ,
    };
    link_send('H', number, &said, sizeof said);
}

static void decide(const uint8_t *payload)
{
    int32_t failed = 1;
    answer.status = NO_MODEL;
    answer.ticks = 0u;
    if (model.status == 0) {
        memcpy(obs, payload, 4u * model.obs);
        const uint32_t before = board_ticks();
        failed = model_act(obs, answer.action);
        answer.ticks = board_ticks() - before;
        answer.status = failed != 0 ? OBSERVATION : DECIDED;
    }
    for (uint32_t i = 0; failed != 0 && i < MODEL_ACTIONS_MOST; i++)
        answer.action[i] = SAFE_ACTION;
}

static void observed(const struct frame *frame)
{
    if (model.status == 0 && frame->length != 4u * model.obs) {
        link_refuse(frame->number, LINK_LENGTH);
        return;
    }
    const int32_t again = frame->number == answered;
    if (again == 0)
        decide(frame->payload);
    answered = frame->number;
    const uint32_t words = model.status == 0 ? model.actions : 1u;
    link_send('O', frame->number, &answer, 8u + 4u * words);
#ifdef MODEL_GATE
    /* Flash is written once the action is on its way. */
    if (again == 0 && model.status == 0)
        model_sent(obs);
#endif
}

int main(void)
{
    board_begin();
    model_open(&model);
    model_reset();
    for (;;) {
        struct frame frame;
        if (link_receive(&frame) == 0) {
            board_sleep();
            continue;
        }
        switch (frame.type) {
        case 'h':
            hello(frame.number);
            break;
        case 'o':
            observed(&frame);
            break;
        case 'r':
            model_reset();
            answered = -1;
            link_send('R', frame.number, &answer, 0u);
            break;
        default:
#ifdef MODEL_GATE
            if (model_told(&frame) != 0) {
                model_open(&model); /* the first one may be there now */
                break;
            }
#endif
            link_refuse(frame.number, LINK_TYPE);
            break;
        }
    }
}
