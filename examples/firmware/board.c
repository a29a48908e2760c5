/* Arm's MPS2 board with a Cortex-M3 (an385), M4 (an386) or M7 (an500): start-up, clock and
 * the first serial line, a CMSDK UART. For another board, this file and board.ld change. */
#include "board.h"

#include "link.h"

#define REG(address) (*(volatile uint32_t *)(address))

#define UART_DATA REG(0x40004000u)
#define UART_STATE REG(0x40004004u) /* 1: no room to send, 2: a byte is there */
#define UART_CONTROL REG(0x40004008u)
#define UART_INTERRUPT REG(0x4000400Cu)
#define UART_DIVIDER REG(0x40004010u)
#define NVIC_ENABLE REG(0xE000E100u)
#define SYSTICK_CONTROL REG(0xE000E010u)
#define SYSTICK_RELOAD REG(0xE000E014u)
#define SYSTICK_VALUE REG(0xE000E018u)
#define CPACR REG(0xE000ED88u)
#define CFSR REG(0xE000ED28u)

#define RING 256u /* a power of two; a frame that does not fit is lost, and asked for again */

static volatile uint8_t ring[RING];
static volatile uint32_t written, taken;

int main(void);
extern uint32_t board_stack_top[], board_data[], board_data_end[], board_data_from[];
extern uint32_t board_bss[], board_bss_end[];

void board_begin(void)
{
    UART_DIVIDER = BOARD_HZ / 115200u;
    UART_CONTROL = 1u | 2u | 8u; /* send, receive, interrupt on a received byte */
    NVIC_ENABLE = 1u;            /* interrupt 0: the first line received */
    SYSTICK_RELOAD = 0xFFFFFFu;
    SYSTICK_VALUE = 0u;
    SYSTICK_CONTROL = 5u; /* counts at the processor's clock, without interrupts */
}

static void received(void)
{
    UART_INTERRUPT = 2u;
    while ((UART_STATE & 2u) != 0u) {
        const uint8_t byte = (uint8_t)UART_DATA;
        if (written - taken < RING) {
            ring[written % RING] = byte;
            written++;
        }
    }
}

int32_t board_get(void)
{
    int32_t byte = -1;
    if (taken != written) {
        byte = ring[taken % RING];
        taken++;
    }
    return byte;
}

void board_put(uint8_t byte)
{
    while ((UART_STATE & 1u) != 0u) {
    }
    UART_DATA = byte;
}

/* A byte that comes between the question and the sleep still ends the sleep: interrupts are
 * held back meanwhile, and wfi wakes for one that waits. */
void board_sleep(void)
{
    __asm__ volatile("cpsid i" ::: "memory");
    if (taken == written)
        __asm__ volatile("wfi");
    __asm__ volatile("cpsie i" ::: "memory");
}

uint32_t board_ticks(void)
{
    static uint32_t before, total;
    const uint32_t now = 0xFFFFFFu - SYSTICK_VALUE;
    total += (now - before) & 0xFFFFFFu;
    before = now;
    return total;
}

/* Says where it happened, and stops; a board with a watchdog starts again. */
__attribute__((used)) static void fault(const uint32_t *pushed)
{
    link_fault(pushed[6], CFSR);
    for (;;) {
    }
}

__attribute__((naked)) static void faulted(void)
{
    __asm__ volatile("mrs r0, msp\n b fault");
}

static void reset(void)
{
    const uint32_t *from = board_data_from;
    for (uint32_t *to = board_data; to < board_data_end; to++, from++)
        *to = *from;
    for (uint32_t *to = board_bss; to < board_bss_end; to++)
        *to = 0u;
#if defined(__ARM_FP)
    CPACR |= 0xFu << 20; /* the FPU is on */
    __asm__ volatile("dsb\n isb");
#endif
    main();
    for (;;) {
    }
}

/* The processor's: from 1 on reset and faults; from 16 on interrupts, the line's first. */
static const struct {
    void *stack;
    void (*handlers[16])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    board_stack_top,
    {reset, faulted, faulted, faulted, faulted, faulted, [15] = received},
};
