/* The arithmetic of an executor in C99: normalise, dense layers, activations, heads.
 * The native form, the generated C and the fixed runtime all compile this file. It
 * allocates nothing, does no I/O, keeps no state, and needs <math.h>, <stdint.h> and
 * <string.h>.
 *
 * Weights lie transposed, (inputs, stride), where the stride is the number of outputs
 * rounded up to AKD_BLOCK and the rest zeros: sums run side by side over outputs, and
 * none has to be reordered to be vectorised. What a layer writes has room for that.
 *
 * Layers other than dense ones take small integers `d`, arrays `a`, and work space `w`;
 * each says above itself which. Its sizes are those of agentkd/executors/plan.py. */
#ifndef AKD_KERNELS_H
#define AKD_KERNELS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Outputs that are summed side by side: 4, or 16 on hosts whose compiler has GNU C's
 * vector types and was asked to use them. */
#ifdef AKD_VECTOR
#define AKD_BLOCK 16
/* As wide as the machine's registers: sums in wider types would lie in memory. */
#if defined(__AVX512F__)
#define AKD_LANES 16
#elif defined(__AVX__)
#define AKD_LANES 8
#else
#define AKD_LANES 4
#endif
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
enum akd_kind {
    AKD_DENSE,
    AKD_CONV,
    AKD_TOKENS,
    AKD_ATTENTION,
    AKD_POOL,
    AKD_GRU,
    AKD_LSTM,
    AKD_STACK,
    AKD_PAST
};

/* Twice the bits of the largest magnitude among n numbers: above 0xFF000000 one is NaN,
 * at it one is infinite. With -ffast-math a compiler takes it that no float is either, and
 * removes every test of floats for them; of the volatile word it can know nothing. */
static inline uint32_t akd_largest(const float *x, int32_t n)
{
    volatile uint32_t found;
    uint32_t most = 0u;
    for (int32_t i = 0; i < n; i++) {
        const float number = x[i];
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        bits <<= 1; /* the sign is gone */
        most = bits > most ? bits : most;
    }
    found = most;
    return found;
}

/* Returns 0 where one of n numbers is NaN or infinite, else 1. */
static inline int32_t akd_finite(const float *x, int32_t n)
{
    return akd_largest(x, n) < 0xFF000000u;
}

static inline float akd_bound(float x, float low, float high)
{
    x = x < high ? x : high;
    return x > low ? x : low;
}

/* Returns 0 where the observation holds NaN or infinity and nothing is written, else 1. */
static inline int32_t akd_normalise(const float *obs, const float *mean,
                                    const float *scale, float clip, int32_t n, float *x)
{
    if (akd_finite(obs, n) == 0)
        return 0;
    for (int32_t i = 0; i < n; i++) {
        const float v = (obs[i] - mean[i]) * scale[i];
        x[i] = akd_bound(v, -clip, clip);
    }
    return 1;
}

/* The same for an image, whose pixels share the mean and scale of their channel: number i
 * has those of place (i / apart) % channels. */
static inline int32_t akd_normalise_image(const float *obs, const float *mean,
                                          const float *scale, float clip, int32_t n,
                                          int32_t channels, int32_t apart, float *x)
{
    if (akd_finite(obs, n) == 0)
        return 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t at = i / apart % channels;
        const float v = (obs[i] - mean[at]) * scale[at];
        x[i] = akd_bound(v, -clip, clip);
    }
    return 1;
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
typedef float akd_block __attribute__((vector_size(4 * AKD_LANES)));

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
    for (; o + 4 * AKD_LANES <= stride; o += 4 * AKD_LANES) {
        const float *w = weight + o;
        const float *b = bias + o;
        akd_block s0 = akd_load(b), s1 = akd_load(b + AKD_LANES);
        akd_block s2 = akd_load(b + 2 * AKD_LANES), s3 = akd_load(b + 3 * AKD_LANES);
        for (int32_t i = 0; i < in; i++, w += stride) {
            s0 += x[i] * akd_load(w);
            s1 += x[i] * akd_load(w + AKD_LANES);
            s2 += x[i] * akd_load(w + 2 * AKD_LANES);
            s3 += x[i] * akd_load(w + 3 * AKD_LANES);
        }
        akd_store(y + o, s0);
        akd_store(y + o + AKD_LANES, s1);
        akd_store(y + o + 2 * AKD_LANES, s2);
        akd_store(y + o + 3 * AKD_LANES, s3);
    }
    /* Two sums a block: one would wait for each addition to end. */
    for (; o < stride; o += AKD_LANES) {
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

/* The length of a row of weights for n outputs. */
static inline int32_t akd_up(int32_t n)
{
    return (n + AKD_BLOCK - 1) / AKD_BLOCK * AKD_BLOCK;
}

/* Without overflow on either side. */
static inline float akd_sigmoid(float x)
{
    return 0.5f * tanhf(0.5f * x) + 0.5f;
}

/* A dense layer on every patch of an image; images lie by row, column and channel.
 * d: patches down and across, outputs, kernel, channels, how far apart rows, columns and
 * channels of the input lie, stride; its activation is the caller's to apply. a: weight,
 * bias. w: a patch. */
static inline void akd_conv(const int32_t *d, const float *const *a, const float *x,
                            float *y, float *w)
{
    const int32_t out = d[2], kernel = d[3], channels = d[4], stride = akd_up(out);
    const int32_t row = d[5], column = d[6], channel = d[7], step = d[8];
    float *to = y;
    for (int32_t i = 0; i < d[0]; i++) {
        for (int32_t j = 0; j < d[1]; j++, to += out) {
            const float *corner = x + i * step * row + j * step * column;
            float *patch = w;
            for (int32_t r = 0; r < kernel; r++)
                for (int32_t c = 0; c < kernel; c++)
                    for (int32_t k = 0; k < channels; k++)
                        *patch++ = corner[r * row + c * column + k * channel];
            akd_dense(a[0], a[1], kernel * kernel * channels, stride, w, to);
        }
    }
}

/* Equal pieces of x, each made a token by weights of its own.
 * d: tokens, width, numbers in a piece. a: weights and biases, token by token. */
static inline void akd_tokens(const int32_t *d, const float *const *a, const float *x,
                              float *y)
{
    const int32_t width = d[1], piece = d[2], stride = akd_up(width);
    for (int32_t t = 0; t < d[0]; t++)
        akd_dense(a[0] + t * piece * stride, a[1] + t * stride, piece, stride,
                  x + t * piece, y + t * width);
}

/* Layer normalisation of n numbers. */
static inline void akd_norm(const float *gain, const float *bias, int32_t n,
                            const float *x, float *y)
{
    float mean = 0.0f, square = 0.0f;
    for (int32_t i = 0; i < n; i++)
        mean += x[i];
    mean /= (float)n;
    for (int32_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / sqrtf(square / (float)n + 1e-5f);
    for (int32_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * scale * gain[i] + bias[i];
}

/* What one head finds for one token, added up in `found`: the values of all tokens,
 * weighted by the softmax of query times key. `qkv` lies token by token, `row` apart, with
 * n numbers of a head each; values lie `value` behind keys. w: a number a token. */
static inline void akd_head(const float *query, const float *keys, int32_t value,
                            int32_t tokens, int32_t row, int32_t n, float *w, float *found)
{
    const float scale = 1.0f / sqrtf((float)n);
    float most = 0.0f, sum = 0.0f;
    for (int32_t t = 0; t < tokens; t++) {
        float score = 0.0f;
        for (int32_t i = 0; i < n; i++)
            score += query[i] * keys[t * row + i];
        w[t] = score * scale;
        most = t == 0 || w[t] > most ? w[t] : most;
    }
    for (int32_t t = 0; t < tokens; t++) {
        w[t] = expf(w[t] - most);
        sum += w[t];
    }
    for (int32_t i = 0; i < n; i++)
        found[i] = 0.0f;
    for (int32_t t = 0; t < tokens; t++) {
        const float share = w[t] / sum;
        for (int32_t i = 0; i < n; i++)
            found[i] += share * keys[t * row + value + i];
    }
}

/* A block of a Transformer, in place: attention, then a dense pair with relu, both of
 * normalised tokens and added to them. d: tokens, width, heads, inner width. a: norm gain
 * and bias; weight and bias of queries, keys and values, and of the way back; norm gain
 * and bias; weight and bias up and down. w: tokens (3 width and a score), 2 width, inner;
 * widths in whole blocks. */
static inline void akd_attention(const int32_t *d, const float *const *a, float *x, float *w)
{
    const int32_t tokens = d[0], width = d[1], heads = d[2], inner = d[3];
    const int32_t row = akd_up(3 * width), wide = akd_up(width), n = width / heads;
    float *const scores = w + tokens * row, *const one = scores + tokens;
    float *const two = one + wide, *const up = two + wide;
    for (int32_t t = 0; t < tokens; t++) {
        akd_norm(a[0], a[1], width, x + t * width, one);
        akd_dense(a[2], a[3], width, row, one, w + t * row);
    }
    for (int32_t t = 0; t < tokens; t++) {
        float *const token = x + t * width;
        for (int32_t h = 0; h < heads; h++)
            akd_head(w + t * row + h * n, w + width + h * n, width, tokens, row, n, scores,
                     one + h * n);
        akd_dense(a[4], a[5], width, wide, one, two);
        for (int32_t i = 0; i < width; i++)
            token[i] += two[i];
        akd_norm(a[6], a[7], width, token, one);
        akd_dense(a[8], a[9], width, akd_up(inner), one, up);
        akd_relu(up, inner);
        akd_dense(a[10], a[11], inner, wide, up, two);
        for (int32_t i = 0; i < width; i++)
            token[i] += two[i];
    }
}

/* The mean of normalised tokens. d: tokens, width. a: gain, bias. */
static inline void akd_pool(const int32_t *d, const float *const *a, float *x, float *y)
{
    const int32_t tokens = d[0], width = d[1];
    for (int32_t i = 0; i < width; i++)
        y[i] = 0.0f;
    for (int32_t t = 0; t < tokens; t++) {
        float *const token = x + t * width;
        akd_norm(a[0], a[1], width, token, token);
        for (int32_t i = 0; i < width; i++)
            y[i] += token[i] / (float)tokens;
    }
}

/* Gated recurrent unit, gates r, z, n. d: inputs, width. a: weight and bias of the input,
 * then of the memory. w: twice 3 width, in whole blocks. */
static inline void akd_gru(const int32_t *d, const float *const *a, const float *x,
                           float *y, float *w, float *memory)
{
    const int32_t n = d[1], row = akd_up(3 * n);
    const float *const given = w, *const kept = w + row;
    akd_dense(a[0], a[1], d[0], row, x, w);
    akd_dense(a[2], a[3], n, row, memory, w + row);
    for (int32_t i = 0; i < n; i++) {
        const float reset = akd_sigmoid(given[i] + kept[i]);
        const float update = akd_sigmoid(given[n + i] + kept[n + i]);
        const float fresh = tanhf(given[2 * n + i] + reset * kept[2 * n + i]);
        memory[i] = fresh + update * (memory[i] - fresh);
        y[i] = memory[i];
    }
}

/* Long short-term memory, gates i, f, g, o; memory is h, then c. Else as akd_gru, with
 * 4 width. */
static inline void akd_lstm(const int32_t *d, const float *const *a, const float *x,
                            float *y, float *w, float *memory)
{
    const int32_t n = d[1], row = akd_up(4 * n);
    float *const cell = memory + n;
    akd_dense(a[0], a[1], d[0], row, x, w);
    akd_dense(a[2], a[3], n, row, memory, w + row);
    for (int32_t i = 0; i < row; i++)
        w[i] += w[row + i];
    for (int32_t i = 0; i < n; i++) {
        const float fresh = akd_sigmoid(w[i]) * tanhf(w[2 * n + i]);
        cell[i] = akd_sigmoid(w[n + i]) * cell[i] + fresh;
        memory[i] = akd_sigmoid(w[3 * n + i]) * tanhf(cell[i]);
        y[i] = memory[i];
    }
}

/* The last rows, oldest first, the newest at the end; memory holds all but that. d: numbers in
 * a row, rows. */
static inline void akd_stack(const int32_t *d, const float *const *a, const float *x, float *y,
                             float *memory)
{
    const int32_t size = d[0], before = size * (d[1] - 1);
    (void)a;
    for (int32_t i = 0; i < before; i++)
        y[i] = memory[i];
    for (int32_t i = 0; i < size; i++)
        y[before + i] = x[i];
    for (int32_t i = 0; i < before; i++)
        memory[i] = y[size + i];
}

/* Old observations, then the last actions, each oldest first; x is an observation and the
 * action before it. memory holds observations, then all those actions. d: numbers in an
 * observation, observations given, how many ticks old the newest is, numbers in an action,
 * actions. */
static inline void akd_past(const int32_t *d, const float *const *a, const float *x, float *y,
                            float *memory)
{
    const int32_t size = d[0], held = size * (d[1] + d[2] - 1), seen = size * d[1];
    const int32_t width = d[3], done = width * d[4];
    float *const acts = memory + held;
    (void)a;
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

/* One layer of any kind. Reads x and leaves what it gives in y, or, being a block of
 * attention, in x; gives which. `memory` is the layer's own. */
static inline float *akd_layer(int32_t kind, const int32_t *d, const float *const *a,
                               float *x, float *y, float *w, float *memory)
{
    switch (kind) {
    case AKD_CONV:
        akd_conv(d, a, x, y, w);
        akd_activate(d[9], y, d[0] * d[1] * d[2]);
        return y;
    case AKD_TOKENS:
        akd_tokens(d, a, x, y);
        return y;
    case AKD_ATTENTION:
        akd_attention(d, a, x, w);
        return x;
    case AKD_POOL:
        akd_pool(d, a, x, y);
        return y;
    case AKD_GRU:
        akd_gru(d, a, x, y, w, memory);
        return y;
    case AKD_LSTM:
        akd_lstm(d, a, x, y, w, memory);
        return y;
    case AKD_STACK:
        akd_stack(d, a, x, y, memory);
        return y;
    case AKD_PAST:
        akd_past(d, a, x, y, memory);
        return y;
    default:
        akd_dense(a[0], a[1], d[0], akd_up(d[1]), x, y);
        akd_activate(d[2], y, d[1]);
        return y;
    }
}

#endif
