/* A program under an operating system, or an emulator of its calls: no counting. */
#include "target.h"

#include <stdio.h>
#include <stdlib.h>

void akd_put(const char *text)
{
    fputs(text, stdout);
}

void akd_exit(int status)
{
    exit(status);
}

uint32_t akd_ticks(void)
{
    return 0;
}

void akd_spin(uint32_t rounds)
{
    (void)rounds;
}
