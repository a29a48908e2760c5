/* Fuzzes the runtime of model.akx: what it opens has to run inside its own buffers.
 * The length and the checksum are put right first, so that the rest is reached. Built by
 * tests/fuzz/native.py beside the runtime's sources, for libFuzzer or with alone.c. */
#include <stdio.h>
#include <stdlib.h>

#include "akx.c"

/* Larger executors only take longer. */
#define MOST_OBS 512
#define MOST_WIDTH 65536

extern long accepted;
long accepted;
extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void *exactly(size_t count, size_t size)
{
    void *room = calloc(count + (count == 0u), size);
    if (room == NULL)
        abort();
    return room;
}

static void check(int sound, const char *what)
{
    if (!sound) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

/* An action is a choice that there is, or a number between its bounds. */
static void check_action(const struct akx *net, const int32_t *choices, const float *values)
{
    for (int32_t i = 0; i < net->actions; i++) {
        if (net->head == AKD_CATEGORICAL)
            check(choices[i] >= net->start && choices[i] - net->start < net->out, "choice");
        else if (net->head == AKD_MULTICATEGORICAL)
            check(choices[i] >= 0 && (uint32_t)choices[i] < net->sizes[i], "choice");
        else if (net->head == AKD_BERNOULLI)
            check(choices[i] == 0 || choices[i] == 1, "choice");
        else
            check(values[i] >= net->low[i] && values[i] <= net->high[i], "bounds");
    }
}

static void use(const struct akx *net)
{
    const size_t floats = akx_scratch(net), actions = (size_t)net->actions;
    if (net->obs > MOST_OBS || net->width > MOST_WIDTH)
        return;
    float *obs = exactly((size_t)net->obs, sizeof *obs);
    float *memory = exactly((size_t)net->memory, sizeof *memory);
    float *scratch = exactly(floats, sizeof *scratch);
    float *out = exactly((size_t)net->out, sizeof *out);
    const int chooses = net->head <= AKD_BERNOULLI;
    int32_t *choices = chooses ? exactly(actions, sizeof *choices) : NULL;
    float *values = chooses ? NULL : exactly(actions, sizeof *values);
    check(akx_act(net, obs, memory, scratch, floats - 1u, choices, values) == AKX_SCRATCH,
          "scratch");
    for (int round = 0; round < 2; round++) {
        for (int32_t i = 0; i < net->obs; i++)
            obs[i] = round == 0 ? 0.0f : (float)(i % 7) - 3.0f;
        /* Weights are finite, but their sums may overflow: then nothing is decided. */
        int32_t status = akx_outputs(net, obs, memory, scratch, floats, out);
        check(status == AKX_OK || status == AKX_OVERFLOW, "outputs");
        check(status != AKX_OK || akd_finite(out, net->out), "finite");
        status = akx_act(net, obs, memory, scratch, floats, choices, values);
        check(status == AKX_OK || status == AKX_OVERFLOW, "act");
        if (status == AKX_OK)
            check_action(net, choices, values);
    }
    free(obs);
    free(memory);
    free(scratch);
    free(out);
    free(choices);
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct akx net;
    const uint32_t size = (uint32_t)length;
    uint8_t *copy = exactly(length, 1);
    if (length > 0u)
        memcpy(copy, data, length);
    if (length >= 64u) {
        memcpy(copy + 8, &size, sizeof size);
        const uint32_t crc = crc32_of(copy + 16, length - 16u);
        memcpy(copy + 12, &crc, sizeof crc);
    }
    const int32_t status = akx_open(&net, copy, length);
    check(akx_reason(status) != NULL, "reason");
    if (status == AKX_OK)
        use(&net);
    accepted += status == AKX_OK;
    free(copy);
    return 0;
}
