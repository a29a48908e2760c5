/* An executor in integers: int8 weights, int16 activations, int32 sums. The law is
 * docs/int8.md; NumPy (agentkd.deploy.int8.reference) and this give the same bits on
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
    int16_t pairs, blocks, shift;
};

/* One observation in integers. Gives 1 if it holds NaN or infinity, else 0. No sum
 * follows a product, so that nothing can be fused and rounded otherwise. */
static int akd_i8_input(const float *obs, const float *mean, const float *gain,
                        int32_t limit, int n, int16_t *x)
{
    const float most = (float)(limit * 256);
    int bad = 0;
    for (int i = 0; i < n; i++) {
        const float from_mean = obs[i] - mean[i];
        float v = from_mean * gain[i];
        bad |= !(obs[i] - obs[i] == 0.0f);
        v = v < most ? v : most;
        v = v > -most ? v : -most;
        x[i] = (int16_t)(((int32_t)v + 128) >> 8);
    }
    return bad;
}

static int32_t akd_i8_lookup(const int16_t *table, int32_t x)
{
    const int32_t place = x + 32768;
    const int16_t *entry = table + (place >> 8);
    return entry[0] + (((entry[1] - entry[0]) * (place & 255) + 128) >> 8);
}

/* y = activation(requantise(weight x + bias)). One of y and last is NULL: hidden layers
 * give int16, the last one int32. */
static void akd_i8_dense(const struct akd_i8_layer *layer, const int16_t *x, int16_t *y,
                         int32_t *last)
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

/* All layers. `here` holds the input and, like `there`, room for the widest layer. */
static void akd_i8_network(const struct akd_i8_layer *layer, int count, int16_t *here,
                           int16_t *there, int32_t *last)
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
