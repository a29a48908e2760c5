/* What the program needs of the board under it: board.c, board.ld, and nothing else. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#define BOARD_HZ 25000000u /* of the clock that board_ticks counts */

void board_begin(void);
int32_t board_get(void);          /* the next byte from the line, or -1 */
void board_put(uint8_t byte);     /* a byte onto the line; waits while it is full */
void board_sleep(void);           /* until there may be a byte */
uint32_t board_ticks(void);       /* counts up; called at least every 0.6 s while timing */

/* Where a model lies that is exchanged by itself. */
extern const uint8_t board_model[];
extern const uint8_t board_model_size[]; /* its address is the number */

#endif
