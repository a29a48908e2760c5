/* RISC-V, machine mode, under qemu-system-riscv32/64 -M virt: UART, minstret, and the
 * test device that ends the emulator. */
#include "target.h"

int main(void);

void akd_put(const char *text)
{
    for (; *text; text++)
        *(volatile uint8_t *)0x10000000 = (uint8_t)*text;
}

void akd_exit(int status)
{
    const uint32_t failed = (uint32_t)status << 16 | 0x3333;
    *(volatile uint32_t *)0x100000 = status ? failed : 0x5555;
    for (;;) {
    }
}

uint32_t akd_ticks(void)
{
    unsigned long count;
    __asm__ volatile(".option push\n.option arch, +zicsr\n"
                     "csrr %0, minstret\n.option pop"
                     : "=r"(count));
    return (uint32_t)count;
}

void akd_spin(uint32_t rounds)
{
    __asm__ volatile("1: addi %0, %0, -1\n   nop\n   bnez %0, 1b" : "+r"(rounds));
}

__attribute__((used)) void akd_begin(void)
{
    akd_exit(main());
}

/* mstatus.FS turns the FPU on; tp points at room for the C library's errno. */
__asm__(".section .vectors, \"ax\"\n"
        ".option arch, +zicsr\n"
        ".globl _start\n"
        "_start:\n"
        "   la sp, akd_stack_top\n"
        "   la tp, akd_thread\n"
        "   li t0, 0x2000\n"
        "   csrs mstatus, t0\n"
        "   la t0, akd_trap\n"
        "   csrw mtvec, t0\n"
        "   call akd_begin\n"
        "   .balign 4\n"
        "akd_trap:\n"
        "   li a0, 70\n"
        "   call akd_exit\n"
        ".text\n");
__attribute__((used, aligned(16))) char akd_thread[128];
