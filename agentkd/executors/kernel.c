/* The executor of agentkd as a shared library: compiled once on the machine it runs on by
 * agentkd.executors.native. The arithmetic is akd_kernels.h's, with the vector types of
 * GCC and Clang. No allocation, no I/O, no state outside the caller's buffers. */
#define AKD_VECTOR
#include "c/akd_kernels.h"

struct layer {
    int32_t kind, memory;
    const int32_t *dims;
    const float *const *arrays;
};

struct net {
    int32_t obs, layer_count, head, out, size_count, start;
    float clip;
    const float *mean, *scale, *low, *high;
    const int32_t *sizes;
    const struct layer *layers;
    float *scratch; /* two buffers of `width` floats, then what layers need besides */
    int32_t width;
};

/* The last layer's numbers for one observation; NULL where it holds NaN or infinity.
 * `memory` is what the executor remembers, and is brought up to date. */
static const float *outputs(const struct net *net, const float *obs, float *memory)
{
    float *x = net->scratch, *y = x + net->width, *const work = y + net->width;
    if (!akd_normalise(obs, net->mean, net->scale, net->clip, net->obs, x))
        return NULL;
    for (int32_t l = 0; l < net->layer_count; l++) {
        const struct layer *layer = &net->layers[l];
        float *const given =
            akd_layer(layer->kind, layer->dims, layer->arrays, x, y, work, memory);
        memory += layer->memory;
        y = given == y ? x : y;
        x = given;
    }
    return x;
}

/* Decide for one observation. Choices go to `choices`, numbers to `values`.
 * Returns 0, or 1 where the observation or the last layer's numbers hold NaN or infinity
 * and nothing is decided. */
int32_t akd_act(const struct net *net, const float *obs, float *memory, float *values,
                int64_t *choices)
{
    const float *x = outputs(net, obs, memory);
    if (!x || !akd_finite(x, net->out))
        return 1;
    switch (net->head) {
    case AKD_CATEGORICAL:
        choices[0] = akd_best(x, net->out) + net->start;
        break;
    case AKD_MULTICATEGORICAL:
        for (int32_t i = 0; i < net->size_count; x += net->sizes[i], i++)
            choices[i] = akd_best(x, net->sizes[i]);
        break;
    case AKD_BERNOULLI:
        for (int32_t i = 0; i < net->out; i++)
            choices[i] = x[i] > 0.0f;
        break;
    default:
        for (int32_t i = 0; i < net->out; i++) {
            const float low = net->low[i], high = net->high[i];
            const float v =
                net->head == AKD_SQUASHED ? akd_squash(x[i], low, high) : x[i];
            values[i] = akd_bound(v, low, high);
        }
        break;
    }
    return 0;
}

/* The last layer's numbers for `count` observations, both row by row. With a memory, row
 * n's lies `apart` * n floats into `memory`: 0 apart, the rows are ticks one after another.
 * Returns how many observations were whole; the rows of the others are filled with NaN. */
int32_t akd_outputs(const struct net *net, const float *obs, int32_t count, float *memory,
                    int32_t apart, float *out)
{
    int32_t whole = 0;
    for (int32_t n = 0; n < count; n++, obs += net->obs, out += net->out) {
        const float *x = outputs(net, obs, memory + (int64_t)n * apart);
        whole += x != NULL;
        for (int32_t i = 0; i < net->out; i++)
            out[i] = x ? x[i] : NAN;
    }
    return whole;
}

/* The same with everything bound in advance: from Python, one argument costs less. */
struct call {
    const struct net *net;
    const float *obs;
    float *memory, *values;
    int64_t *choices;
};

int32_t akd_call(const struct call *call)
{
    return akd_act(call->net, call->obs, call->memory, call->values,
                   call->choices);
}
