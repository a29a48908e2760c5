/* Flash for the emulated board, which has none that a program writes: 256 KB of its RAM, kept
 * in a file by the emulator, and treated as NOR flash. Bits only go from 1 to 0, an erase
 * takes a sector, and a cut of the power may come amid a word. For another board, this file
 * changes. */
#include "flash.h"

#include <string.h>

#define BASE 0x21000000u
#define SECTOR 4096u
#define ROOM (64u * 1024u)

/* The host sets how many operations are left until the power is lost; 0 for never. It lies
 * behind all sectors. */
#define LEFT (*(volatile uint32_t *)(BASE + 0x00FFFFF0u))

static int32_t is_last(void)
{
    const uint32_t left = LEFT;
    if (left != 0u)
        LEFT = left - 1u;
    return left == 1u;
}

static void lose_power(void)
{
    for (;;)
        __asm__ volatile("cpsid i\n wfi");
}

static int32_t erase(void *context, uint32_t offset)
{
    uint8_t *const to = (uint8_t *)(BASE + offset);
    (void)context;
    if (is_last() != 0) {
        memset(to, 0xFF, SECTOR / 2u);
        lose_power();
    }
    memset(to, 0xFF, SECTOR);
    return 0;
}

static int32_t program(void *context, uint32_t offset, const uint8_t *data, uint32_t length)
{
    uint8_t *const to = (uint8_t *)(BASE + offset);
    (void)context;
    for (uint32_t i = 0; i < length; i += 4u) {
        uint32_t word, old;
        memcpy(&word, data + i, sizeof word);
        memcpy(&old, to + i, sizeof old);
        word &= old;
        if (is_last() != 0) {
            word |= old & 0x55AA3CC3u; /* some of its bits are not there yet */
            memcpy(to + i, &word, sizeof word);
            lose_power();
        }
        memcpy(to + i, &word, sizeof word);
    }
    return memcmp(to, data, length) != 0;
}

static int32_t read(void *context, uint32_t offset, uint8_t *data, uint32_t length)
{
    (void)context;
    memcpy(data, (const uint8_t *)(BASE + offset), length);
    return 0;
}

const struct gate_flash board_flash = {
    .mapped = (const uint8_t *)BASE,
    .sector = SECTOR,
    .state = 0u,
    .slot = {2u * SECTOR, 2u * SECTOR + ROOM},
    .room = ROOM,
    .erase = erase,
    .program = program,
    .read = read,
};
