/* The arithmetic of an executor in C99: normalise, dense layers, activations, heads.
 * The native form, the generated C and the fixed runtime all compile this file. It
 * allocates nothing, does no I/O, keeps no state, and needs <math.h> and <stdint.h>.
 *
 * Weights lie transposed, (inputs, stride), where the stride is the number of outputs
 * rounded up to AKD_BLOCK and the rest zeros: sums run side by side over outputs, and
 * none has to be reordered to be vectorised. Every buffer is as long as the stride. */
#ifndef AKD_KERNELS_H
#define AKD_KERNELS_H

#include <math.h>
#include <stdint.h>

/* Outputs that are summed side by side: 4, or 16 on hosts whose compiler has GNU C's
 * vector types and was asked to use them. */
#ifdef AKD_VECTOR
#include <string.h>
#define AKD_BLOCK 16
#else
#define AKD_BLOCK 4
#endif

enum akd_activation { AKD_NONE, AKD_RELU, AKD_TANH, AKD_SILU, AKD_ELU };
enum akd_head {
    AKD_CATEGORICAL,
    AKD_MULTICATEGORICAL,
    AKD_BERNOULLI,
    AKD_SQUASHED,
    AKD_CLIPPED
};

/* Returns 0 where the observation holds NaN or infinity, else 1. */
static inline int32_t akd_normalise(const float *obs, const float *mean,
                                    const float *scale, float clip, int32_t n, float *x)
{
    int32_t finite = 1;
    for (int32_t i = 0; i < n; i++) {
        const float from = obs[i];
        float v = (from - mean[i]) * scale[i];
        finite &= (from - from == 0.0f);
        v = v < clip ? v : clip;
        x[i] = v > -clip ? v : -clip;
    }
    return finite;
}

/* y = bias + x W. `stride` is a whole number of blocks. */
#ifndef AKD_VECTOR
static inline void akd_dense(const float *weight, const float *bias, int32_t in,
                             int32_t stride, const float *x, float *y)
{
    for (int32_t o = 0; o < stride; o += 4) {
        const float *w = weight + o;
        float s0 = bias[o], s1 = bias[o + 1], s2 = bias[o + 2], s3 = bias[o + 3];
        for (int32_t i = 0; i < in; i++, w += stride) {
            const float v = x[i];
            s0 += v * w[0];
            s1 += v * w[1];
            s2 += v * w[2];
            s3 += v * w[3];
        }
        y[o] = s0;
        y[o + 1] = s1;
        y[o + 2] = s2;
        y[o + 3] = s3;
    }
}
#endif

#ifdef AKD_VECTOR
typedef float akd_block __attribute__((vector_size(4 * AKD_BLOCK)));

static inline akd_block akd_load(const float *from)
{
    akd_block value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void akd_store(float *to, akd_block value)
{
    memcpy(to, &value, sizeof value);
}

static inline void akd_dense(const float *weight, const float *bias, int32_t in,
                             int32_t stride, const float *x, float *y)
{
    int32_t o = 0;
    for (; o + 4 * AKD_BLOCK <= stride; o += 4 * AKD_BLOCK) {
        const float *w = weight + o;
        const float *b = bias + o;
        akd_block s0 = akd_load(b), s1 = akd_load(b + AKD_BLOCK);
        akd_block s2 = akd_load(b + 2 * AKD_BLOCK), s3 = akd_load(b + 3 * AKD_BLOCK);
        for (int32_t i = 0; i < in; i++, w += stride) {
            s0 += x[i] * akd_load(w);
            s1 += x[i] * akd_load(w + AKD_BLOCK);
            s2 += x[i] * akd_load(w + 2 * AKD_BLOCK);
            s3 += x[i] * akd_load(w + 3 * AKD_BLOCK);
        }
        akd_store(y + o, s0);
        akd_store(y + o + AKD_BLOCK, s1);
        akd_store(y + o + 2 * AKD_BLOCK, s2);
        akd_store(y + o + 3 * AKD_BLOCK, s3);
    }
    /* Two sums a block: one would wait for each addition to end. */
    for (; o < stride; o += AKD_BLOCK) {
        const float *w = weight + o;
        akd_block even = akd_load(bias + o), odd = {0};
        int32_t i = 0;
        for (; i + 2 <= in; i += 2, w += 2 * stride) {
            even += x[i] * akd_load(w);
            odd += x[i + 1] * akd_load(w + stride);
        }
        if (i < in)
            even += x[i] * akd_load(w);
        akd_store(y + o, even + odd);
    }
}
#endif

static inline void akd_relu(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        x[i] = x[i] > 0.0f ? x[i] : 0.0f;
}

static inline void akd_tanh(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        x[i] = tanhf(x[i]);
}

/* Below -80 the exponential leaves float; the result is 0 there anyway. */
static inline void akd_silu(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        x[i] = x[i] / (1.0f + expf(-(x[i] > -80.0f ? x[i] : -80.0f)));
}

static inline void akd_elu(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        x[i] = x[i] > 0.0f ? x[i] : expm1f(x[i]);
}

static inline void akd_activate(int32_t activation, float *x, int32_t n)
{
    switch (activation) {
    case AKD_RELU:
        akd_relu(x, n);
        break;
    case AKD_TANH:
        akd_tanh(x, n);
        break;
    case AKD_SILU:
        akd_silu(x, n);
        break;
    case AKD_ELU:
        akd_elu(x, n);
        break;
    default:
        break;
    }
}

/* The place of the greatest number; of equal ones the first. */
static inline int32_t akd_best(const float *x, int32_t n)
{
    int32_t found = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[found])
            found = i;
    return found;
}

/* tanh, then from [-1, 1] to the bounds. */
static inline float akd_squash(float x, float low, float high)
{
    return low + 0.5f * (tanhf(x) + 1.0f) * (high - low);
}

static inline float akd_bound(float x, float low, float high)
{
    x = x < high ? x : high;
    return x > low ? x : low;
}

#endif
