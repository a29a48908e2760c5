/* Runs golden vectors through an executor, counts, and reports in lines "name value".
 * data.h, written for it, names the executor's functions and holds the vectors. */
#include "target.h"

#include <math.h>

#include "data.h"

#if MEMORY > 0
#define GIVEN(memory) memory,
#define TAKES STATE *,
#define NAMED STATE *memory,
#else
#define GIVEN(memory)
#define TAKES
#define NAMED
#endif

int outputs(const float *, TAKES OUTPUT *);
int act(const float *, TAKES ACTION *);

/* Written so that NaN differs, too. */
static int differs(float got, float must)
{
    const float apart = got < must ? must - got : got - must;
    return !(apart <= TOLERANCE * (1.0f + fabsf(must)));
}

#define SPIN 100000u
#define DEEP 3072 /* bytes of stack that are painted */
#define LEAF 48   /* the painter's own */
#define PAINT 0xA5u

static void line(const char *name, uint32_t value)
{
    char digits[12];
    int at = 11;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    akd_put(name);
    akd_put(" ");
    akd_put(digits + at);
    akd_put("\n");
}

/* What the executor remembers, if it does: the caller's. */
static STATE memory[MEMORY + 1];

static void forget(void)
{
    for (int i = 0; i < MEMORY; i++)
        memory[i] = 0;
}

__attribute__((noinline)) static int nothing(const float *obs, NAMED ACTION *action)
{
    __asm__ volatile("" : : "r"(obs), "r"(action) : "memory");
    return 0;
}

typedef int function(const float *, TAKES ACTION *);

__attribute__((noinline)) static uint32_t all_rows(function *decide)
{
    ACTION action[ACTIONS];
    forget();
    const uint32_t before = akd_ticks();
    for (int row = 0; row < ROWS; row++)
        decide(observations + row * OBS, GIVEN(memory) action);
    return akd_ticks() - before;
}

/* How deep a call goes: paint the stack below, call, see what was painted over. A leaf
 * paints, so that its frame begins where that of the call will. */
static volatile uint8_t *bottom;

__attribute__((noinline)) static void paint(void)
{
    volatile uint8_t *const here = (volatile uint8_t *)__builtin_frame_address(0);
    bottom = here - DEEP;
    for (uint32_t i = 0; i < DEEP - LEAF; i++)
        bottom[i] = PAINT;
}

__attribute__((noinline)) static uint32_t depth(void)
{
    ACTION action[ACTIONS];
    uint32_t clean = 0;
    paint();
    act(observations, GIVEN(memory) action);
    while (clean < DEEP - LEAF && bottom[clean] == PAINT)
        clean++;
    return DEEP - clean;
}

static uint32_t wrong_rows(void)
{
    uint32_t wrong = 0;
    forget();
    for (int row = 0; row < ROWS; row++) {
        static STATE copy[MEMORY + 1];
        OUTPUT out[OUT];
        ACTION action[ACTIONS];
        for (int i = 0; i < MEMORY; i++)
            copy[i] = memory[i];
        int failed = outputs(observations + row * OBS, GIVEN(copy) out);
        failed |= act(observations + row * OBS, GIVEN(memory) action);
        for (int i = 0; i < OUT; i++)
            failed |= differs((float)out[i], (float)wanted[row * OUT + i]);
        for (int i = 0; i < ACTIONS; i++)
            failed |= differs((float)action[i], (float)actions[row * ACTIONS + i]);
        wrong += failed != 0;
    }
    return wrong;
}

int main(void)
{
    const uint32_t wrong = wrong_rows();
    uint32_t before = akd_ticks();
    akd_spin(SPIN);
    line("spin", akd_ticks() - before);
    line("empty", all_rows(nothing));
    line("ticks", all_rows(act));
    line("deep", depth());
    line("wrong", wrong);
    return wrong != 0;
}
