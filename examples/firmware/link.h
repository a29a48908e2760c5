/* Frames over a line that loses and damages bytes.
 *
 * Before stuffing, a frame is: type, number, payload, CRC-32 of all that, little endian. Then
 * COBS (Cheshire and Baker 1999) takes the zeros out, and a zero ends it. Whoever is lost
 * waits for the next zero. A frame that is wrong is refused by name ('e'); the host sends it
 * again under the same number, and what was answered already is answered alike and not
 * decided anew. */
#ifndef LINK_H
#define LINK_H

#include <stdint.h>

#define LINK_PROTOCOL 1u

enum link_error { LINK_CRC = 1, LINK_LENGTH, LINK_TYPE, LINK_LONG };

struct frame {
    uint8_t type, number;
    uint32_t length;         /* bytes of the payload */
    const uint8_t *payload;  /* until the next link_receive */
};

/* Reads what has come. Gives 1 with a whole frame, else 0; refuses wrong ones itself. */
int32_t link_receive(struct frame *frame);

/* Sends a frame: `length` bytes of payload. */
void link_send(uint8_t type, uint8_t number, const void *payload, uint32_t length);

/* Refuses a frame. */
void link_refuse(uint8_t number, enum link_error why);

/* Says in which place of the program it broke. */
void link_fault(uint32_t place, uint32_t cause);

#endif
