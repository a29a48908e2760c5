/* See gate.h. */
#include "gate.h"

#include <string.h>

#include "akd_kernels.h"

#define NONE UINT32_MAX
#define FAR_SHARE 100u /* one decision of so many may be over the budget */

/* Where the next executor goes: not where one acts. */
static uint32_t free_slot(const struct gate_state *state)
{
    return state->active == 1u ? 1u : 0u;
}

static int32_t is_usable(const struct gate *gate, uint32_t slot)
{
    return (gate->usable >> slot & 1u) != 0u;
}

/* The slot that decides: that of an executor on trial, or the confirmed one's. */
static uint32_t acting_slot(const struct gate *gate)
{
    uint32_t slot = gate->state.active - 1u;
    if (gate->phase == GATE_ACTING && gate->fault == GATE_OK)
        slot = free_slot(&gate->state);
    return gate->state.active != 0u && is_usable(gate, slot) ? slot : NONE;
}

static void end(struct gate_state *next, uint32_t stage, int32_t reason, uint32_t id)
{
    next->stage = GATE_NONE;
    next->starts = 0u;
    next->last_stage = stage;
    next->last_reason = (uint32_t)reason;
    next->last_id = id;
}

static int32_t is_blacklisted(const struct gate_state *state, uint32_t id)
{
    int32_t found = 0;
    for (uint32_t i = 0; i < GATE_BLACKLIST; i++)
        found |= state->blacklist[i] == id;
    return id != 0u && found != 0;
}

static void blacklist(struct gate_state *next, uint32_t id)
{
    if (is_blacklisted(next, id) != 0)
        return;
    memmove(next->blacklist + 1, next->blacklist, 4u * (GATE_BLACKLIST - 1u));
    next->blacklist[0] = id;
}

static void leave(struct gate *gate)
{
    gate->phase = GATE_IDLE;
    gate->fault = GATE_OK;
}

/* Roll back what is on its way. Until the next start it is left alone, also where the flash
 * cannot be written. */
static int32_t fail(struct gate *gate, int32_t reason, int32_t blacklisted)
{
    struct gate_state next = gate->state;
    const uint32_t id = next.id[free_slot(&next)];
    leave(gate);
    end(&next, GATE_ROLLED_BACK, reason, id);
    if (blacklisted != 0)
        blacklist(&next, id);
    const int32_t written = gate_write_state(gate, &next);
    gate->stuck = written != GATE_OK;
    return written;
}

/* Programs start with what lies in the free slot. */
static int32_t confirm(struct gate *gate)
{
    struct gate_state next = gate->state;
    const uint32_t slot = free_slot(&next);
    next.former = next.active;
    next.active = slot + 1u;
    end(&next, GATE_CONFIRMED, GATE_OK, next.id[slot]);
    const int32_t written = gate_write_state(gate, &next);
    if (written == GATE_OK)
        leave(gate);
    return written;
}

/* A start with an executor on its way: it is counted before anything of it runs. */
static void resume(struct gate *gate)
{
    struct gate_state next = gate->state;
    if (next.starts >= gate->options->starts) {
        (void)fail(gate, GATE_CRASHES, 1);
        return;
    }
    next.stage = GATE_TRIAL;
    next.starts++;
    if (gate_write_state(gate, &next) != GATE_OK) {
        gate->stuck = 1;
        return;
    }
    const uint32_t slot = free_slot(&next);
    int32_t reason = gate_examine(gate, slot, 0);
    if (reason == GATE_OK && gate->executors[slot].id != next.id[slot])
        reason = GATE_DAMAGED;
    if (reason != GATE_OK)
        (void)fail(gate, reason, reason == GATE_GOLDEN);
}

static int32_t open_slot(struct gate *gate, uint32_t number)
{
    if (number == 0u)
        return GATE_EMPTY;
    const int32_t reason = gate_examine(gate, number - 1u, 0);
    if (reason == GATE_OK && gate->executors[number - 1u].id != gate->state.id[number - 1u]) {
        gate->usable &= ~(1u << (number - 1u));
        return GATE_DAMAGED;
    }
    return reason;
}

int32_t gate_open(struct gate *gate, const struct gate_flash *flash,
                  const struct gate_options *options)
{
    memset(gate, 0, sizeof *gate);
    gate->flash = flash;
    gate->options = options;
    gate_read_state(gate);
    const struct gate_state *const state = &gate->state;
    if (state->active == 0u)
        return GATE_EMPTY;
    if (state->stage != GATE_NONE)
        resume(gate);
    if (open_slot(gate, state->active) == GATE_OK)
        return GATE_OK;
    /* Its place in flash went bad. What else is whole acts, for good. */
    const uint32_t slot = free_slot(state);
    if (state->stage == GATE_TRIAL && is_usable(gate, slot) != 0) {
        gate->stuck = confirm(gate) != GATE_OK;
        gate->phase = gate->stuck != 0 ? GATE_ACTING : GATE_IDLE;
    } else if (open_slot(gate, state->former) == GATE_OK) {
        struct gate_state next = *state;
        next.active = state->former;
        next.former = 0u;
        end(&next, GATE_ROLLED_BACK, GATE_DAMAGED, state->id[state->active - 1u]);
        if (gate_write_state(gate, &next) != GATE_OK)
            gate->state = next;
    }
    return acting_slot(gate) != NONE ? GATE_OK : GATE_EMPTY;
}

const struct gate_executor *gate_acts(const struct gate *gate)
{
    const uint32_t slot = acting_slot(gate);
    return slot != NONE ? &gate->executors[slot] : NULL;
}

/* Let an executor decide, and say whether it took longer than it may. */
static int32_t decide(struct gate *gate, uint32_t slot, const float *obs, uint32_t *action,
                      int32_t *late)
{
    struct gate_executor *executor = &gate->executors[slot];
    uint32_t (*const ticks)(void) = gate->options->ticks;
    void *const words = action;
    const uint32_t before = ticks != NULL ? ticks() : 0u;
    const int32_t status = akx_act(&executor->net, obs, executor->memory, gate->scratch,
                                   GATE_SCRATCH, words, words);
    *late = ticks != NULL && ticks() - before > gate->options->budget;
    return status;
}

/* Count a decision of an executor on trial; say what is wrong with it. A slow one is better
 * than none. */
static int32_t count(struct gate *gate, int32_t status, int32_t late, uint32_t asked)
{
    if (status != AKX_OK)
        return status == AKX_OBSERVATION ? GATE_OK : GATE_NUMBERS;
    gate->ticks++;
    gate->over += late != 0 && is_usable(gate, gate->state.active - 1u) != 0;
    return gate->over * FAR_SHARE > asked ? GATE_SLOW : GATE_OK;
}

int32_t gate_act(struct gate *gate, const float *obs, uint32_t *action)
{
    uint32_t slot = acting_slot(gate), decider = slot;
    int32_t late = 0, status = AKX_SHORT;
    if (slot != NONE && gate->phase == GATE_ACTING && gate->fault == GATE_OK) {
        status = decide(gate, slot, obs, action, &late);
        gate->fault = count(gate, status, late, gate->options->acting);
        /* The one that acted before decides, at this tick too. */
        slot = status != AKX_OK && status != AKX_OBSERVATION ? acting_slot(gate) : NONE;
    }
    if (slot != NONE) {
        status = decide(gate, slot, obs, action, &late);
        decider = slot;
    }
    gate->decided = status == AKX_OK;
    if (gate->decided != 0)
        memcpy(gate->action, action, 4u * (size_t)gate->executors[decider].net.actions);
    return status;
}

/* How far two actions agree, 0 to 1: choices that are equal, or one minus the distance in
 * units of the bounds'. */
static float agreement(const struct akx *net, const uint32_t *left, const uint32_t *right)
{
    float sum = 0.0f;
    for (int32_t i = 0; i < net->actions; i++) {
        if (net->head <= AKD_BERNOULLI) {
            sum += left[i] == right[i] ? 1.0f : 0.0f;
            continue;
        }
        float a, b, span = net->high[i] - net->low[i];
        memcpy(&a, left + i, sizeof a);
        memcpy(&b, right + i, sizeof b);
        if (akd_finite(&span, 1) == 0 || span <= 0.0f)
            span = 2.0f;
        sum += 1.0f - (a < b ? b - a : a - b) / span;
    }
    sum /= (float)net->actions;
    return sum > 0.0f ? sum : 0.0f;
}

static void begin_half(struct gate *gate, int32_t phase)
{
    gate->phase = phase;
    gate->ticks = gate->over = 0u;
    gate->agreed = 0.0f;
}

static int32_t beside(struct gate *gate, const float *obs)
{
    const uint32_t slot = free_slot(&gate->state);
    const struct akx *const net = &gate->executors[slot].net;
    int32_t late = 0;
    const int32_t status = decide(gate, slot, obs, gate->other, &late);
    /* A tick at which nothing was done is not one to compare with. */
    const int32_t reason = count(gate, status, late, gate->options->shadow);
    if (reason != GATE_OK || status != AKX_OK)
        return reason;
    gate->agreed += agreement(net, gate->action, gate->other);
    if (gate->ticks < gate->options->shadow)
        return GATE_OK;
    if (!(gate->agreed >= gate->options->agreement * (float)gate->ticks))
        return GATE_DISAGREES;
    /* If the other one comes back, it has forgotten what it does not see from here on. */
    struct gate_executor *const former = &gate->executors[gate->state.active - 1u];
    memset(former->memory, 0, sizeof former->memory);
    begin_half(gate, GATE_ACTING);
    return GATE_OK;
}

/* Begin the trial of what this program has staged; gate_finish has examined it. */
static void begin(struct gate *gate)
{
    struct gate_state next = gate->state;
    if (next.stage == GATE_STAGED) {
        next.stage = GATE_TRIAL;
        next.starts++;
        if (gate_write_state(gate, &next) != GATE_OK) {
            gate->stuck = 1;
            return;
        }
    }
    begin_half(gate, GATE_SHADOW);
}

void gate_tick(struct gate *gate, const float *obs)
{
    if (gate->fault == GATE_OK && gate->phase == GATE_SHADOW && gate->decided != 0)
        gate->fault = beside(gate, obs);
    if (gate->fault != GATE_OK)
        (void)fail(gate, gate->fault, 1);
    else if (gate->stuck != 0)
        return;
    else if (gate->phase == GATE_ACTING && gate->ticks >= gate->options->acting)
        gate->stuck = confirm(gate) != GATE_OK;
    else if (gate->phase == GATE_IDLE && gate->state.stage != GATE_NONE)
        begin(gate);
}

void gate_reset(struct gate *gate)
{
    for (uint32_t i = 0; i < 2u; i++)
        memset(gate->executors[i].memory, 0, sizeof gate->executors[i].memory);
}

int32_t gate_begin(struct gate *gate, uint32_t size)
{
    struct gate_state next = gate->state;
    if (next.stage != GATE_NONE)
        return GATE_BUSY;
    gate->size = gate->filled = 0u;
    if (size == 0u || size > gate->flash->room || size % GATE_ALIGN != 0u)
        return GATE_DAMAGED;
    /* The other slot is about to be erased: what it held is gone from here on. */
    if (next.former != 0u) {
        next.former = 0u;
        if (gate_write_state(gate, &next) != GATE_OK)
            return GATE_UNWRITTEN;
    }
    gate->usable &= ~(1u << free_slot(&next));
    gate->size = size;
    return GATE_OK;
}

int32_t gate_put(struct gate *gate, uint32_t offset, const uint8_t *data, uint32_t length)
{
    const struct gate_flash *flash = gate->flash;
    const uint32_t base = flash->slot[free_slot(&gate->state)];
    if (offset > gate->filled || length > gate->size || offset > gate->size - length ||
        offset % GATE_ALIGN != 0u || length % GATE_ALIGN != 0u)
        return GATE_DAMAGED;
    if (offset + length <= gate->filled)
        return GATE_OK;
    const uint32_t known = gate->filled - offset;
    data += known;
    length -= known;
    while (length > 0u) {
        const uint32_t at = base + gate->filled, room = flash->sector - gate->filled % flash->sector;
        const uint32_t part = length < room ? length : room;
        /* A sector is erased when it is reached, so that no call takes longer than one. */
        if ((room == flash->sector && flash->erase(flash->context, at) != 0) ||
            flash->program(flash->context, at, data, part) != 0) {
            gate->size = 0u;
            return GATE_UNWRITTEN;
        }
        gate->filled += part;
        data += part;
        length -= part;
    }
    return GATE_OK;
}

/* Whether what was taken may be tried on this device. */
static int32_t verify(struct gate *gate, uint32_t slot)
{
    const struct gate_executor *const mine = &gate->executors[slot];
    const struct gate_executor *const acts = gate_acts(gate);
    const uint32_t *wanted = acts != NULL ? acts->contract : gate->options->contract;
    int32_t reason = gate_examine(gate, slot, 1);
    const int32_t read = reason == GATE_OK || reason == GATE_GOLDEN || reason == GATE_NUMBERS;
    if (read != 0 && is_blacklisted(&gate->state, mine->id) != 0)
        return GATE_BLACKLISTED;
    if (reason != GATE_OK)
        return reason;
    if (acts != NULL && gate->options->genuine != NULL && mine->serial < acts->serial)
        return GATE_OLD;
    if ((wanted[0] | wanted[1]) != 0u &&
        (mine->contract[0] != wanted[0] || mine->contract[1] != wanted[1]))
        return GATE_UNFIT;
    const int32_t numbers = mine->net.head > AKD_BERNOULLI;
    if (acts != NULL &&
        (mine->net.obs != acts->net.obs || mine->net.actions != acts->net.actions ||
         numbers != (acts->net.head > AKD_BERNOULLI)))
        return GATE_UNFIT;
    return GATE_OK;
}

int32_t gate_finish(struct gate *gate)
{
    struct gate_state next = gate->state;
    const uint32_t slot = free_slot(&next), size = gate->size;
    const struct gate_executor *const mine = &gate->executors[slot];
    gate->size = 0u;
    if (next.stage != GATE_NONE)
        return GATE_BUSY;
    if (size == 0u || gate->filled != size)
        return GATE_DAMAGED;
    const int32_t reason = verify(gate, slot);
    if (reason == GATE_UNSIGNED || reason == GATE_DAMAGED)
        return reason; /* what may be anyone's leaves no trace */
    if (reason != GATE_OK) {
        end(&next, GATE_REFUSED, reason, mine->id);
        if (reason == GATE_GOLDEN || reason == GATE_NUMBERS)
            blacklist(&next, mine->id);
        const int32_t same = memcmp(&next, &gate->state, sizeof next) == 0;
        return same != 0 || gate_write_state(gate, &next) == GATE_OK ? reason : GATE_UNWRITTEN;
    }
    if (gate_acts(gate) != NULL && next.id[next.active - 1u] == mine->id)
        return GATE_OK; /* it acts already */
    next.id[slot] = mine->id;
    next.starts = 0u;
    next.stage = GATE_STAGED;
    if (gate_acts(gate) == NULL) {
        /* There is none to compare it with. */
        next.active = slot + 1u;
        next.former = 0u;
        end(&next, GATE_CONFIRMED, GATE_OK, mine->id);
    }
    gate->stuck = 0;
    return gate_write_state(gate, &next);
}

int32_t gate_confirm(struct gate *gate)
{
    if (gate->state.stage == GATE_NONE)
        return GATE_EMPTY;
    if (is_usable(gate, free_slot(&gate->state)) == 0)
        return GATE_DAMAGED;
    return confirm(gate);
}

int32_t gate_rollback(struct gate *gate)
{
    struct gate_state next = gate->state;
    if (next.stage != GATE_NONE)
        return fail(gate, GATE_ASKED, 1);
    if (next.active == 0u || next.former == 0u)
        return GATE_EMPTY;
    const int32_t reason = open_slot(gate, next.former);
    if (reason != GATE_OK)
        return reason;
    const uint32_t id = next.id[next.active - 1u];
    next.active = next.former;
    next.former = 0u;
    end(&next, GATE_ROLLED_BACK, GATE_ASKED, id);
    blacklist(&next, id);
    return gate_write_state(gate, &next);
}

int32_t gate_pause(struct gate *gate)
{
    struct gate_state next = gate->state;
    if (next.stage != GATE_TRIAL || next.starts == 0u)
        return GATE_OK;
    next.starts--;
    leave(gate);
    gate->stuck = 1;
    return gate_write_state(gate, &next);
}

const char *gate_word(int32_t reason)
{
    static const char *const words[] = {
        "ok",   "unsigned", "damaged", "golden",    "unfit",   "old",   "blacklisted", "busy",
        "slow", "numbers",  "disagrees", "crashes", "asked", "unwritten", "empty"};
    const int32_t known = (int32_t)(sizeof words / sizeof words[0]);
    return reason >= 0 && reason < known ? words[reason] : "unknown";
}
