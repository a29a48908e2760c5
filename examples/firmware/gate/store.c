/* The gate's state in flash: records in two sectors, each with a number and a checksum.
 *
 * The newest whole record counts. The first one after a start goes into the other sector,
 * erased anew, and so does each that finds its sector full: so nothing is programmed where a
 * former cut may have left half a word, nothing is taken for erased because it looks so, and
 * the newest record is never in the sector that is erased. */
#include <string.h>

#include "gate.h"

#define MAGIC 0x31534B41u /* "AKS1" */
#define STATE_WORDS (sizeof(struct gate_state) / 4u)
#define RECORD_WORDS 24u
#define RECORD (4u * RECORD_WORDS)

/* Whole units, and the state fits between its number and its checksum. */
typedef char record_is_aligned[RECORD % GATE_ALIGN == 0u ? 1 : -1];
typedef char state_fits[STATE_WORDS + 3u <= RECORD_WORDS ? 1 : -1];

uint32_t gate_crc(uint32_t crc, const uint8_t *data, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (int32_t bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1u) != 0u ? 0xEDB88320u : 0u);
    }
    return crc;
}

static uint32_t checksum(const uint32_t *record)
{
    return ~gate_crc(0xFFFFFFFFu, (const uint8_t *)record, RECORD - 4u);
}

/* Whether a state can be meant, whatever its checksum says. */
static int32_t sound(const struct gate_state *state)
{
    if (state->active > 2u || state->former > 2u || state->stage > GATE_TRIAL)
        return 0;
    if (state->former != 0u && (state->active == 0u || state->former == state->active))
        return 0;
    /* A former executor lies where one on its way would. */
    if (state->stage != GATE_NONE && (state->active == 0u || state->former != 0u))
        return 0;
    return state->last_stage <= GATE_ROLLED_BACK && state->last_reason <= GATE_EMPTY;
}

static uint32_t place_of(const struct gate_flash *flash, uint32_t sector, uint32_t place)
{
    return flash->state + sector * flash->sector + place * RECORD;
}

void gate_read_state(struct gate *gate)
{
    const struct gate_flash *flash = gate->flash;
    int32_t found = 0;
    memset(&gate->state, 0, sizeof gate->state);
    gate->sequence = 0u;
    gate->newest = 0u;
    gate->place = UINT32_MAX;
    for (uint32_t sector = 0; sector < 2u; sector++)
        for (uint32_t place = 0; place < flash->sector / RECORD; place++) {
            uint32_t record[RECORD_WORDS];
            struct gate_state state;
            if (flash->read(flash->context, place_of(flash, sector, place), (uint8_t *)record,
                            RECORD) != 0)
                continue;
            if (record[0] != MAGIC || record[RECORD_WORDS - 1u] != checksum(record))
                continue;
            memcpy(&state, record + 2, sizeof state);
            if (sound(&state) == 0)
                continue;
            if (found != 0 && (int32_t)(record[1] - gate->sequence) <= 0)
                continue;
            found = 1;
            gate->state = state;
            gate->sequence = record[1];
            gate->newest = sector;
        }
}

int32_t gate_write_state(struct gate *gate, const struct gate_state *next)
{
    const struct gate_flash *flash = gate->flash;
    const int32_t fresh = gate->place >= flash->sector / RECORD;
    const uint32_t sector = fresh != 0 ? 1u - gate->newest : gate->newest;
    const uint32_t place = place_of(flash, sector, fresh != 0 ? 0u : gate->place);
    uint32_t record[RECORD_WORDS] = {0}, seen[RECORD_WORDS];
    /* A number is used once, also where the flash says that it failed. */
    gate->sequence++;
    record[0] = MAGIC;
    record[1] = gate->sequence;
    memcpy(record + 2, next, sizeof *next);
    record[RECORD_WORDS - 1u] = checksum(record);
    if ((fresh != 0 && flash->erase(flash->context, place) != 0) ||
        flash->program(flash->context, place, (const uint8_t *)record, RECORD) != 0 ||
        flash->read(flash->context, place, (uint8_t *)seen, RECORD) != 0 ||
        memcmp(record, seen, RECORD) != 0) {
        gate->place = UINT32_MAX;
        return GATE_UNWRITTEN;
    }
    gate->place = fresh != 0 ? 1u : gate->place + 1u;
    gate->newest = sector;
    gate->state = *next;
    return GATE_OK;
}
