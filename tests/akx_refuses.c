/* Tries every truncation, every flipped bit and many hostile headers of a model.akx on
 * the runtime. Built with sanitisers by tests/test_deploy_akx.py. */
#include <stdio.h>
#include <stdlib.h>

#include "akx.c"

static uint32_t seed = 1u;
static long tried, opened;

static uint32_t draw(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

/* Open a copy that ends where the data ends; if that succeeds, it has to run too. */
static int32_t attempt(const uint8_t *data, size_t length)
{
    struct akx net;
    uint8_t *copy = malloc(length > 0 ? length : 1);
    memcpy(copy, data, length);
    const int32_t status = akx_open(&net, copy, length);
    tried++;
    if (status == AKX_OK) {
        const size_t floats = akx_scratch(&net);
        float *obs = calloc((size_t)net.obs, sizeof *obs);
        float *memory = calloc((size_t)net.memory + 1u, sizeof *memory);
        float *scratch = malloc(floats * sizeof *scratch);
        float *values = malloc((size_t)net.out * sizeof *values);
        int32_t *choices = malloc((size_t)net.out * sizeof *choices);
        opened++;
        if (akx_act(&net, obs, memory, scratch, floats - 1, choices, values) != AKX_SCRATCH)
            abort();
        /* Hostile weights are finite, and what they make may not be. */
        const int32_t acted = akx_act(&net, obs, memory, scratch, floats, choices, values);
        if (acted != AKX_OK && acted != AKX_OVERFLOW)
            abort();
        const int32_t gave = akx_outputs(&net, obs, memory, scratch, floats, values);
        if (gave != AKX_OK && gave != AKX_OVERFLOW)
            abort();
        if (net.memory > 0 && akx_act(&net, obs, NULL, scratch, floats, choices, values) !=
                                  AKX_MEMORY)
            abort();
        free(obs);
        free(memory);
        free(scratch);
        free(values);
        free(choices);
    }
    free(copy);
    return status;
}

static void put(uint8_t *data, size_t word, uint32_t value)
{
    memcpy(data + 4 * word, &value, sizeof value);
}

int main(int argc, char **argv)
{
    static const uint32_t hostile[] = {0u,          1u,          2u,         3u,
                                       64u,         65u,         65535u,     65536u,
                                       65537u,      0x3FFFFFFFu, 0x40000000u, 0x7FFFFFFFu,
                                       0x80000000u, 0xFFFFFFFCu, 0xFFFFFFFFu, 0x7FC00000u,
                                       0x7F800000u};
    static uint8_t data[1 << 16], changed[1 << 16];
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    const size_t length = file != NULL ? fread(data, 1, sizeof data, file) : 0;
    long reasons[16] = {0};
    if (file != NULL)
        fclose(file);
    if (attempt(data, length) != AKX_OK)
        return 2;
    for (size_t cut = 0; cut < length; cut++) {
        const int32_t status = attempt(data, cut);
        if (status != (cut < 64 ? AKX_SHORT : AKX_SIZE))
            return 3;
    }
    for (size_t bit = 0; bit < 8 * length; bit++) {
        memcpy(changed, data, length);
        changed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        const int32_t status = attempt(changed, length);
        if (status == AKX_OK)
            return 4;
        reasons[status]++;
    }
    /* With a checksum that fits, the checksum protects nothing. */
    opened = 0;
    for (size_t word = 4; word < length / 4; word++)
        for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
            memcpy(changed, data, length);
            put(changed, word, hostile[i]);
            put(changed, W_CRC, crc32_of(changed + 16, length - 16));
            reasons[attempt(changed, length)]++;
        }
    for (int i = 0; i < 20000; i++) {
        memcpy(changed, data, length);
        for (int j = 0; j < 3; j++)
            put(changed, 4 + draw() % 36, draw() % 2 ? hostile[draw() % 17] : draw() % 9);
        put(changed, W_CRC, crc32_of(changed + 16, length - 16));
        reasons[attempt(changed, length)]++;
    }
    for (int i = 0; i < 13; i++)
        printf("%s %ld\n", akx_reason(i), reasons[i]);
    printf("tried %ld\nopened %ld\n", tried, opened);
    return 0;
}
