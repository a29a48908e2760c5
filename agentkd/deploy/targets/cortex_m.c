/* Cortex-M under qemu-system-arm: vectors, SysTick as the clock, semihosting. The ELF
 * file is loaded where it is linked, so that nothing is copied at the start. */
#include "target.h"

#define REG(address) (*(volatile uint32_t *)(address))

extern uint32_t akd_stack_top[];
int main(void);

static int semihost(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void akd_put(const char *text)
{
    semihost(0x04, text);
}

void akd_exit(int status)
{
    /* SYS_EXIT_EXTENDED with ADP_Stopped_ApplicationExit */
    const uint32_t block[2] = {0x20026, (uint32_t)status};
    semihost(0x20, block);
    for (;;) {
    }
}

/* SysTick counts down 24 bits. */
uint32_t akd_ticks(void)
{
    static uint32_t before, total;
    const uint32_t now = 0xFFFFFF - REG(0xE000E018);
    total += (now - before) & 0xFFFFFF;
    before = now;
    return total;
}

void akd_spin(uint32_t rounds)
{
    __asm__ volatile(".syntax unified\n1: subs %0, %0, #1\n   bne 1b"
                     : "+l"(rounds)
                     :
                     : "cc");
}

static void reset(void)
{
#if defined(__ARM_FP)
    REG(0xE000ED88) |= 0xF << 20; /* CPACR: the FPU is on */
    __asm__ volatile("dsb\n isb");
#endif
    REG(0xE000E014) = 0xFFFFFF;
    REG(0xE000E018) = 0;
    REG(0xE000E010) = 5;
    akd_exit(main());
}

static void fault(void)
{
    akd_put("fault\n");
    akd_exit(70);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    akd_stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault,
};
