/* An executor in integers: int8 weights, int16 activations, int32 sums. The law is
 * docs/reference/int8.md; NumPy (agentkd.deploy.int8.reference) and this give the same bits on
 * every target. C99, no allocation, no I/O, no floats but the observation's own.
 * Signed numbers are two's complement and >> keeps the sign, as with every compiler
 * that matters here. */
#ifndef AKD_INT8_H
#define AKD_INT8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_SIMD32) && __ARM_FEATURE_SIMD32 && !defined(AKD_PORTABLE)
#define AKD_I8_SIMD 1
#include <arm_acle.h>
#else
#define AKD_I8_SIMD 0
#endif

#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "floats are computed in a wider type here; on x86 compile with -msse2 -mfpmath=sse"
#endif

/* Weights lie by blocks of 4 outputs; in a block, for each pair of inputs (a, b), the
 * 8 bytes 0a 1a 0b 1b 2a 3a 2b 3b (output, input). Both counts are padded with 0. */
struct akd_i8_layer {
    const int8_t *weight;
    const int32_t *bias;       /* by output, padded */
    const int32_t *multiplier; /* by output, padded */
    const int16_t *table;      /* 257 entries, or NULL */
    int32_t low, high;
    uint16_t pairs, blocks, shift;
};

/* Returns 0 where one of n floats is NaN or infinite, else 1. With -ffast-math a compiler
 * takes it that none is, and removes every test of floats for it; of bits in a volatile
 * word it can know nothing. */
static inline int akd_i8_finite(const float *x, int n)
{
    for (int i = 0; i < n; i++) {
        volatile uint32_t word;
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        word = bits;
        if (word << 1 >= 0xFF000000u)
            return 0;
    }
    return 1;
}

/* One finite number in integers. No sum follows a product, so that nothing can be fused
 * and rounded otherwise. */
static inline int16_t akd_i8_number(float obs, float mean, float gain, int32_t limit)
{
    const float most = (float)(limit * 256);
    const float from_mean = obs - mean;
    float v = from_mean * gain;
    v = v < most ? v : most;
    v = v > -most ? v : -most;
    return (int16_t)(((int32_t)v + 128) >> 8);
}

/* One observation in integers. Returns 1 if it holds NaN or infinity, and then writes
 * nothing; else 0. */
static inline int akd_i8_input(const float *obs, const float *mean, const float *gain,
                               int32_t limit, int n, int16_t *x)
{
    if (!akd_i8_finite(obs, n))
        return 1;
    for (int i = 0; i < n; i++)
        x[i] = akd_i8_number(obs[i], mean[i], gain[i], limit);
    return 0;
}

/* The same for an image, whose pixels share the mean and gain of their channel: number i
 * has those of place (i / apart) % channels. */
static inline int akd_i8_input_image(const float *obs, const float *mean, const float *gain,
                                     int32_t limit, int n, int channels, int apart,
                                     int16_t *x)
{
    if (!akd_i8_finite(obs, n))
        return 1;
    for (int i = 0; i < n; i++) {
        const int at = i / apart % channels;
        x[i] = akd_i8_number(obs[i], mean[at], gain[at], limit);
    }
    return 0;
}

/* A table at a place within int16, with straight lines between its entries. */
static inline int32_t akd_i8_lookup(const int16_t *table, int32_t x)
{
    const int32_t place = x + 32768;
    const int16_t *entry = table + (place >> 8);
    return entry[0] + (((entry[1] - entry[0]) * (place & 255) + 128) >> 8);
}

/* y = activation(requantise(weight x + bias)). One of y and last is NULL: hidden layers
 * give int16, the last one int32. */
static inline void akd_i8_dense(const struct akd_i8_layer *layer, const int16_t *x,
                                int16_t *y, int32_t *last)
{
    const int8_t *w = layer->weight;
    const int32_t *bias = layer->bias, *multiplier = layer->multiplier;
    const int16_t *const table = layer->table;
    const int32_t low = layer->low, high = layer->high;
    const int64_t half = (int64_t)1 << (layer->shift - 1);
    for (int block = layer->blocks; block > 0; block--) {
        int32_t sum[4];
        int32_t s0 = bias[0], s1 = bias[1], s2 = bias[2], s3 = bias[3];
        const int16_t *in = x;
        const int16_t *const end = x + 2 * layer->pairs;
        while (in != end) {
#if AKD_I8_SIMD
            int32_t two, left, right;
            memcpy(&two, in, sizeof two);
            memcpy(&left, w, sizeof left);
            memcpy(&right, w + 4, sizeof right);
            s0 = __smlad(__sxtb16(left), two, s0);
            s1 = __smlad(__sxtb16((int32_t)((uint32_t)left >> 8)), two, s1);
            s2 = __smlad(__sxtb16(right), two, s2);
            s3 = __smlad(__sxtb16((int32_t)((uint32_t)right >> 8)), two, s3);
#else
            const int32_t a = in[0], b = in[1];
            s0 += w[0] * a + w[2] * b;
            s1 += w[1] * a + w[3] * b;
            s2 += w[4] * a + w[6] * b;
            s3 += w[5] * a + w[7] * b;
#endif
            in += 2;
            w += 8;
        }
        sum[0] = s0;
        sum[1] = s1;
        sum[2] = s2;
        sum[3] = s3;
        for (int k = 0; k < 4; k++) {
            const int64_t wide = (int64_t)sum[k] * multiplier[k] + half;
            int32_t v = (int32_t)(wide >> 32) >> (layer->shift - 32);
            v = v < high ? v : high;
            v = v > low ? v : low;
            if (table)
                v = akd_i8_lookup(table, v);
            if (last)
                *last++ = v;
            else
                *y++ = (int16_t)v;
        }
        bias += 4;
        multiplier += 4;
    }
}

/* A dense layer on every patch of an image; images lie by row, column and channel.
 * d: patches down and across, outputs, kernel, channels, how far apart rows, columns and
 * channels of the input lie, stride. `patch` has room for one, of an even count. */
static inline void akd_i8_conv(const struct akd_i8_layer *layer, const int32_t *d,
                               const int16_t *x, int16_t *y, int16_t *patch)
{
    const int32_t kernel = d[3], channels = d[4], row = d[5], column = d[6];
    const int32_t channel = d[7], step = d[8];
    for (int32_t i = 0; i < d[0]; i++) {
        for (int32_t j = 0; j < d[1]; j++, y += d[2]) {
            const int16_t *const corner = x + i * step * row + j * step * column;
            int16_t *to = patch;
            for (int32_t r = 0; r < kernel; r++)
                for (int32_t c = 0; c < kernel; c++)
                    for (int32_t k = 0; k < channels; k++)
                        *to++ = corner[r * row + c * column + k * channel];
            akd_i8_dense(layer, patch, y, NULL);
        }
    }
}

/* Gates r, z, n of the input, then of the memory, and the tables that they end in. */
struct akd_i8_unit {
    const struct akd_i8_layer *gates; /* two */
    const int16_t *sigmoid, *tanh;
    int32_t width;
};

static inline int32_t akd_i8_within(int32_t x)
{
    x = x < 32767 ? x : 32767;
    return x > -32768 ? x : -32768;
}

/* Gated recurrent unit. `memory` has an even count, and so has what follows y; `w` has
 * room for twice 3 width, in whole blocks. */
static inline void akd_i8_gru(const struct akd_i8_unit *unit, const int16_t *x, int16_t *y,
                              int32_t *w, int16_t *memory)
{
    const int32_t n = unit->width;
    const int32_t *const given = w, *const kept = w + 4 * unit->gates->blocks;
    akd_i8_dense(unit->gates, x, NULL, w);
    akd_i8_dense(unit->gates + 1, memory, NULL, w + 4 * unit->gates->blocks);
    for (int32_t i = 0; i < n; i++) {
        const int32_t r = akd_i8_within(given[i] + kept[i]);
        const int32_t z = akd_i8_within(given[n + i] + kept[n + i]);
        const int32_t reset = akd_i8_lookup(unit->sigmoid, r);
        const int32_t update = akd_i8_lookup(unit->sigmoid, z);
        const int64_t product = (int64_t)reset * kept[2 * n + i];
        const int32_t let = (int32_t)((product + 16384) >> 15);
        const int32_t sum = akd_i8_within(given[2 * n + i] + let);
        const int32_t fresh = akd_i8_lookup(unit->tanh, sum);
        const int32_t back = update * (memory[i] - fresh);
        memory[i] = (int16_t)(fresh + ((back + 16384) >> 15));
        y[i] = memory[i];
    }
}

/* The last `count` rows of `size` integers, oldest first; memory holds all but the newest. */
static inline void akd_i8_stack(int32_t size, int32_t count, const int16_t *x, int16_t *y,
                                int16_t *memory)
{
    const int32_t before = size * (count - 1);
    for (int32_t i = 0; i < before; i++)
        y[i] = memory[i];
    for (int32_t i = 0; i < size; i++)
        y[before + i] = x[i];
    for (int32_t i = 0; i < before; i++)
        memory[i] = y[size + i];
}

/* Old observations, then the last actions, each oldest first; x is an observation of `size`
 * integers and the action before it, of `width`. The newest observation is `lag` ticks old. */
static inline void akd_i8_past(int32_t size, int32_t count, int32_t lag, int32_t width,
                               int32_t actions, const int16_t *x, int16_t *y,
                               int16_t *memory)
{
    const int32_t held = size * (count + lag - 1), seen = size * count, done = width * actions;
    int16_t *const acts = memory + held;
    for (int32_t i = 0; i < seen; i++)
        y[i] = i < held ? memory[i] : x[i - held];
    for (int32_t i = 0; i < done - width; i++)
        y[seen + i] = acts[width + i];
    for (int32_t i = 0; i < width; i++)
        y[seen + done - width + i] = x[size + i];
    for (int32_t i = 0; i < held; i++)
        memory[i] = i < held - size ? memory[size + i] : x[i - held + size];
    for (int32_t i = 0; i < done; i++)
        acts[i] = y[seen + i];
}

/* Dense layers alone. `here` holds the input and, like `there`, room for the widest. */
static inline void akd_i8_network(const struct akd_i8_layer *layer, int count,
                                  int16_t *here, int16_t *there, int32_t *last)
{
    for (; count > 1; count--, layer++) {
        int16_t *const swap = here;
        akd_i8_dense(layer, here, there, NULL);
        here = there;
        there = swap;
    }
    akd_i8_dense(layer, here, NULL, last);
}

#endif
