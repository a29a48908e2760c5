/* See link.h. */
#include "link.h"

#include <stddef.h>
#include <string.h>

#include "board.h"
#include "model.h"

#define EXTRA 6u                               /* type, number, CRC */
#define BARE (4u * MODEL_OBS_MOST + EXTRA)     /* the longest frame before stuffing */
#define STUFFED (BARE + BARE / 254u + 1u)

static uint8_t incoming[STUFFED];
static uint32_t filled;
static int32_t too_long;

static uint32_t crc32_step(uint32_t crc, uint8_t byte)
{
    crc ^= byte;
    for (int32_t bit = 0; bit < 8; bit++)
        crc = (crc >> 1) ^ ((crc & 1u) != 0u ? 0xEDB88320u : 0u);
    return crc;
}

/* Takes the stuffing out, in place. Gives the bytes left, or -1 where it is none. */
static int32_t unstuff(uint8_t *data, uint32_t length)
{
    uint32_t from = 0, to = 0;
    while (from < length) {
        const uint32_t run = data[from++];
        if (run == 0u || from + run - 1u > length)
            return -1;
        for (uint32_t i = 1; i < run; i++)
            data[to++] = data[from++];
        if (run < 255u && from < length)
            data[to++] = 0u;
    }
    return (int32_t)to;
}

static int32_t take(struct frame *frame)
{
    const int32_t length = unstuff(incoming, filled);
    uint32_t crc = 0xFFFFFFFFu, sent = 0u;
    if (length < (int32_t)EXTRA) {
        link_refuse(0u, LINK_CRC);
        return 0;
    }
    for (int32_t i = 0; i < length - 4; i++)
        crc = crc32_step(crc, incoming[i]);
    for (int32_t i = 0; i < 4; i++)
        sent |= (uint32_t)incoming[length - 4 + i] << (8 * i);
    if (sent != ~crc) {
        link_refuse(0u, LINK_CRC);
        return 0;
    }
    frame->type = incoming[0];
    frame->number = incoming[1];
    frame->length = (uint32_t)length - EXTRA;
    frame->payload = incoming + 2;
    return 1;
}

int32_t link_receive(struct frame *frame)
{
    for (int32_t byte = board_get(); byte >= 0; byte = board_get()) {
        int32_t whole = 0;
        if (byte != 0) {
            if (filled < STUFFED)
                incoming[filled++] = (uint8_t)byte;
            else
                too_long = 1;
            continue;
        }
        if (too_long != 0)
            link_refuse(0u, LINK_LONG);
        else if (filled > 0u)
            whole = take(frame);
        filled = 0u;
        too_long = 0;
        if (whole != 0)
            return 1;
    }
    return 0;
}

/* Stuffs as it sends: bytes wait here until a zero, or 254 of them, end their run. */
struct sender {
    uint8_t run[254];
    uint32_t length, crc;
};

static void end_run(struct sender *to)
{
    board_put((uint8_t)(to->length + 1u));
    for (uint32_t i = 0; i < to->length; i++)
        board_put(to->run[i]);
    to->length = 0u;
}

static void stuff(struct sender *to, const uint8_t *data, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) {
        to->crc = crc32_step(to->crc, data[i]);
        if (data[i] != 0u)
            to->run[to->length++] = data[i];
        if (data[i] == 0u || to->length == 254u)
            end_run(to);
    }
}

void link_send(uint8_t type, uint8_t number, const void *payload, uint32_t length)
{
    static struct sender to;
    const uint8_t head[2] = {type, number};
    uint8_t tail[4];
    to.length = 0u;
    to.crc = 0xFFFFFFFFu;
    board_put(0u);
    stuff(&to, head, sizeof head);
    stuff(&to, payload, length);
    for (int32_t i = 0; i < 4; i++)
        tail[i] = (uint8_t)(~to.crc >> (8 * i));
    for (int32_t i = 0; i < 4; i++) {
        if (tail[i] != 0u)
            to.run[to.length++] = tail[i];
        if (tail[i] == 0u || to.length == 254u)
            end_run(&to);
    }
    end_run(&to);
    board_put(0u);
}

void link_refuse(uint8_t number, enum link_error why)
{
    const uint8_t reason = (uint8_t)why;
    link_send('e', number, &reason, sizeof reason);
}

void link_fault(uint32_t place, uint32_t cause)
{
    const uint32_t words[2] = {place, cause};
    link_send('f', 0u, words, sizeof words);
}
