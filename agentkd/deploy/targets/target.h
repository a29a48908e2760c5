/* What a program on an emulated core needs of the machine under it. */
#ifndef AKD_TARGET_H
#define AKD_TARGET_H

#include <stdint.h>

void akd_put(const char *text); /* to the console */
uint32_t akd_ticks(void);       /* counts up, in a unit that akd_spin tells */
void akd_spin(uint32_t rounds); /* two instructions a round; three on RISC-V and hosts */
void akd_exit(int status);      /* does not return */

#endif
