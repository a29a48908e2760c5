/* What learning computes with: products of matrices in the processor's own vectors, and e^x
 * and tanh(x) without branches. Compiled on the machine it runs on; nothing of it is exported. */
#ifndef AKD_PRODUCTS_H
#define AKD_PRODUCTS_H
#define AKD_VECTOR
#include "akd_kernels.h"

/* The processor's own vectors. A tile of a product, TILE rows of 16 floats, is summed in
 * registers; buffers have room for whole tiles. */
#if defined(__AVX512F__)
#define LANES 16
#define TILE 12
#elif defined(__AVX__)
#define LANES 8
#define TILE 6
#elif defined(__aarch64__)
#define LANES 4
#define TILE 6
#else
#define LANES 4
#define TILE 2
#endif
#define VECTORS (AKD_BLOCK / LANES)
typedef float lanes __attribute__((vector_size(4 * LANES)));
/* e^x, within 2 units in the last place, without branches, so that loops become vectors.
 * Cody and Waite's reduction with the polynomial of Cephes' expf. */
static inline float quick_exp(float x)
{
    x = x < 88.0f ? x : 88.0f;
    x = x > -87.0f ? x : -87.0f;
    const float shifted = x * 1.44269504088896341f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const union {
        int32_t whole;
        float number;
    } power = {((int32_t)n + 127) << 23};
    return p * power.number;
}

/* tanh within 2e-7. */
static inline float quick_tanh(float x)
{
    const float e = quick_exp(2.0f * (x < 10.0f ? x : 10.0f));
    return (e - 1.0f) / (e + 1.0f);
}

/* A tile of C = start + A B, or of C + A B: TILE rows of A, `row` floats apart, its columns
 * `step` apart; B is (depth, stride), and C has the same stride. */
static inline void tile(const float *a, int64_t row, int64_t step, const float *b,
                        int64_t stride, int32_t depth, const float *start, int32_t add,
                        float *c)
{
    lanes sum[TILE][VECTORS], line[VECTORS];
#pragma GCC unroll 12
    for (int32_t r = 0; r < TILE; r++)
#pragma GCC unroll 4
        for (int32_t v = 0; v < VECTORS; v++)
            memcpy(&sum[r][v], (add ? c + r * stride : start) + v * LANES, sizeof(lanes));
    for (int32_t k = 0; k < depth; k++, a += step, b += stride) {
#pragma GCC unroll 4
        for (int32_t v = 0; v < VECTORS; v++)
            memcpy(&line[v], b + v * LANES, sizeof(lanes));
#pragma GCC unroll 12
        for (int32_t r = 0; r < TILE; r++)
#pragma GCC unroll 4
            for (int32_t v = 0; v < VECTORS; v++)
                sum[r][v] += a[r * row] * line[v];
    }
#pragma GCC unroll 12
    for (int32_t r = 0; r < TILE; r++)
#pragma GCC unroll 4
        for (int32_t v = 0; v < VECTORS; v++)
            memcpy(c + r * stride + v * LANES, &sum[r][v], sizeof(lanes));
}

/* C = start + A B, or C + A B where `add`; `rows` are made whole tiles. */
static void product(const float *a, int64_t row, int64_t step, const float *b,
                    int64_t stride, int32_t rows, int32_t depth, const float *start,
                    int32_t add, float *c)
{
    static const float zeros[AKD_BLOCK];
    for (int32_t r = 0; r < rows; r += TILE)
        for (int64_t o = 0; o < stride; o += AKD_BLOCK)
            tile(a + r * row, row, step, b + o, stride, depth, start ? start + o : zeros,
                 add, c + r * stride + o);
}

#endif
