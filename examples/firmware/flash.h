/* The flash that the gate writes: flash.c, for this board. */
#ifndef FLASH_H
#define FLASH_H

#include "gate/gate.h"

extern const struct gate_flash board_flash;

#endif
