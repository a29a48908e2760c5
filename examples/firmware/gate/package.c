/* What lies in a slot: a header of sixteen words, golden vectors, `model.akx`, and a
 * signature. examples/firmware/package.py writes it. Nothing in it is trusted. */
#include <string.h>

#include "akd_kernels.h"
#include "gate.h"

#define WORDS 16u
#define HEADER (4u * WORDS)
#define PIECE 64u
#define TOLERANCE 1e-5f /* of 1 + |x| */

enum word {
    W_MAGIC,
    W_FORMAT,
    W_SIZE, /* bytes before the signature */
    W_CRC,  /* of those that follow this word */
    W_SERIAL,
    W_CONTRACT,
    W_CONTRACT_2,
    W_ROWS, /* golden vectors: an observation, the last layer's numbers, the action's */
    W_ROW,  /* words in each */
    W_MODEL /* bytes of model.akx */
};

/* The header, and whether all that it speaks of is there and undamaged. It is read through
 * the flash's function, which survives what a processor that reads by itself may not. */
static int32_t read_whole(const struct gate_flash *flash, uint32_t base, uint32_t *word)
{
    uint8_t piece[PIECE];
    uint32_t crc = 0xFFFFFFFFu;
    if (flash->read(flash->context, base, (uint8_t *)word, HEADER) != 0)
        return GATE_DAMAGED;
    if (word[W_MAGIC] != 0x31504B41u || word[W_FORMAT] != 1u) /* "AKP1" */
        return GATE_DAMAGED;
    if (word[W_SIZE] < HEADER || word[W_SIZE] % GATE_ALIGN != 0u ||
        flash->room < GATE_SIGNATURE || word[W_SIZE] > flash->room - GATE_SIGNATURE)
        return GATE_DAMAGED;
    for (uint32_t at = 16u; at < word[W_SIZE];) {
        const uint32_t left = word[W_SIZE] - at, length = left < PIECE ? left : PIECE;
        if (flash->read(flash->context, base + at, piece, length) != 0)
            return GATE_DAMAGED;
        crc = gate_crc(crc, piece, length);
        at += length;
    }
    return ~crc == word[W_CRC] ? GATE_OK : GATE_DAMAGED;
}

static int32_t numbers_of(const struct akx *net)
{
    return net->head > AKD_BERNOULLI ? net->actions : 0;
}

static int32_t close_to(const float *given, const float *wanted, int32_t count)
{
    if (akd_finite(wanted, count) == 0)
        return 0;
    for (int32_t i = 0; i < count; i++) {
        const float size = wanted[i] < 0.0f ? -wanted[i] : wanted[i];
        const float more = given[i] - wanted[i], apart = more < 0.0f ? -more : more;
        if (!(apart <= TOLERANCE * (1.0f + size)))
            return 0;
    }
    return 1;
}

/* Run the golden vectors; with a memory they are one sequence. First the last layer's
 * numbers, then actions: choices follow from them, numbers are compared. */
static int32_t run_golden(struct gate *gate, struct gate_executor *executor,
                          const float *golden, uint32_t rows)
{
    const struct akx *net = &executor->net;
    const int32_t numbers = numbers_of(net);
    const size_t row = (size_t)net->obs + (size_t)net->out + (size_t)numbers;
    int32_t reason = GATE_OK;
    for (int32_t pass = 0; pass < 2; pass++) {
        memset(executor->memory, 0, sizeof executor->memory);
        for (uint32_t i = 0; i < rows && reason == GATE_OK; i++) {
            const float *obs = golden + i * row, *out = obs + net->obs;
            void *const action = gate->other;
            float given[GATE_ACTIONS];
            int32_t status, same;
            if (pass == 0) {
                status = akx_outputs(net, obs, executor->memory, gate->scratch, GATE_SCRATCH,
                                     gate->out);
                same = status == AKX_OK && close_to(gate->out, out, net->out) != 0;
            } else {
                status = akx_act(net, obs, executor->memory, gate->scratch, GATE_SCRATCH,
                                 action, action);
                memcpy(given, gate->other, sizeof given);
                same = status == AKX_OK && close_to(given, out + net->out, numbers) != 0;
            }
            if (same == 0)
                reason = status == AKX_OVERFLOW ? GATE_NUMBERS : GATE_GOLDEN;
        }
    }
    memset(executor->memory, 0, sizeof executor->memory);
    return reason;
}

/* Fill in the executor of a slot. A `fresh` one has to have a signature, if they are asked
 * for. Returns a gate_reason; where it is not GATE_OK, the id is still that of the model, if
 * there is one. */
int32_t gate_examine(struct gate *gate, uint32_t slot, int32_t fresh)
{
    const struct gate_flash *flash = gate->flash;
    const uint32_t base = flash->slot[slot];
    struct gate_executor *executor = &gate->executors[slot];
    struct akx *net = &executor->net;
    uint32_t word[WORDS];
    gate->usable &= ~(1u << slot);
    memset(executor, 0, sizeof *executor);
    int32_t reason = read_whole(flash, base, word);
    if (reason != GATE_OK)
        return reason;
    const uint8_t *const data = flash->mapped + base;
    if (fresh != 0 && gate->options->genuine != NULL &&
        gate->options->genuine(data, word[W_SIZE], data + word[W_SIZE]) != 0)
        return GATE_UNSIGNED;
    const uint64_t golden = 4u * (uint64_t)word[W_ROWS] * word[W_ROW];
    if (word[W_ROW] > 0xFFFFu || golden > word[W_SIZE] - HEADER ||
        word[W_MODEL] > word[W_SIZE] - HEADER - golden)
        return GATE_DAMAGED;
    const uint8_t *const model = data + HEADER + (size_t)golden;
    if (word[W_MODEL] >= 16u)
        memcpy(&executor->id, model + 12, sizeof executor->id);
    const int32_t opened = akx_open(net, model, word[W_MODEL]);
    if (opened != AKX_OK)
        return opened == AKX_NUMBERS ? GATE_NUMBERS : GATE_DAMAGED;
    executor->serial = word[W_SERIAL];
    executor->contract[0] = word[W_CONTRACT];
    executor->contract[1] = word[W_CONTRACT_2];
    if (net->obs > GATE_OBS || net->out > GATE_OUT || net->actions > GATE_ACTIONS ||
        net->memory > GATE_MEMORY || akx_scratch(net) > GATE_SCRATCH)
        return GATE_UNFIT;
    if (word[W_ROW] != (uint32_t)(net->obs + net->out + numbers_of(net)) || word[W_ROWS] == 0u)
        return GATE_DAMAGED;
    reason = run_golden(gate, executor, (const float *)(const void *)(data + HEADER),
                        word[W_ROWS]);
    if (reason == GATE_OK)
        gate->usable |= 1u << slot;
    return reason;
}
