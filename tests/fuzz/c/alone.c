/* Runs a libFuzzer target without libFuzzer: the files given, then changes of them.
 * Usage: alone SEED COUNT FILE...   Where it aborts, the input is in "failing". */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM 65536u
#define FILES 64

extern long accepted;
extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static const uint8_t *now;
static size_t now_length;

/* Keep the input that is run when a sanitizer, or the target, aborts. */
static void keep(int number)
{
    FILE *file = fopen("failing", "wb");
    if (file != NULL) {
        fwrite(now, 1, now_length, file);
        fclose(file);
    }
    (void)number;
}

static void run(const uint8_t *data, size_t length)
{
    now = data;
    now_length = length;
    (void)LLVMFuzzerTestOneInput(data, length);
}

/* Change a word near the beginning, where lengths are, or anywhere; or the length. */
static size_t change(uint8_t *data, size_t length)
{
    static const uint32_t odd[] = {0u,          1u,          2u,          3u,
                                   4u,          7u,          8u,          63u,
                                   64u,         65u,         65535u,      65536u,
                                   0xFFFFFu,    0x100000u,   0x100001u,   0x3FFFFFFFu,
                                   0x40000000u, 0x7FFFFFFFu, 0x80000000u, 0xFFFFFFFFu,
                                   0x7F800000u, 0x7FC00000u, 0x7F7FFFFFu, 0x00000001u};
    const uint32_t words = (uint32_t)(length / 4u);
    if (words < 5u || draw(24) == 0)
        return length - draw((uint32_t)length + 1u) % 64u % (length + 1u);
    const uint32_t near = draw(4) != 0 && words > 48u ? 48u : words;
    uint32_t at = 4u + draw(near - 4u), word;
    memcpy(&word, data + 4u * at, 4);
    switch (draw(4)) {
    case 0:
        word += draw(5) - 2u;
        break;
    case 1:
        word ^= 1u << draw(32);
        break;
    case 2:
        word = draw(9);
        break;
    default:
        word = odd[draw(sizeof odd / sizeof odd[0])];
    }
    memcpy(data + 4u * at, &word, 4);
    return length;
}

int main(int argc, char **argv)
{
    static uint8_t seeds[FILES][ROOM], data[ROOM];
    static size_t lengths[FILES];
    const int count = argc - 3;
    if (count < 1 || count > FILES)
        return 2;
    signal(SIGABRT, keep);
    state = strtoull(argv[1], NULL, 10);
    for (int i = 0; i < count; i++) {
        FILE *file = fopen(argv[i + 3], "rb");
        if (file == NULL)
            return 2;
        lengths[i] = fread(seeds[i], 1, ROOM, file);
        fclose(file);
        run(seeds[i], lengths[i]);
    }
    const long rounds = strtol(argv[2], NULL, 10);
    for (long round = 0; round < rounds; round++) {
        const uint32_t from = draw((uint32_t)count);
        size_t length = lengths[from];
        memcpy(data, seeds[from], length);
        for (uint32_t changes = 1u + draw(4); changes > 0u; changes--)
            length = change(data, length);
        run(data, length);
    }
    printf("%ld %ld\n", rounds + count, accepted);
    return 0;
}
