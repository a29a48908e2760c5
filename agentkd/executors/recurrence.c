/* A GRU along sequences, and back along them for gradients: what torch's own loop does, without
 * an operator for each tick. Compiled once on the machine it runs on by
 * agentkd.executors.recurrence. No allocation, no I/O, no state outside the caller's arrays.
 *
 * Widths are multiples of AKD_BLOCK. Products go through whole tiles of rows, so that arrays
 * that say so have MOST_TILE rows more than are used. */
#include "c/akd_products.h"

#if MOST_TILE % TILE
#error "MOST_TILE has to hold whole tiles"
#endif

/* Both gates, `wide` numbers: the logistic function of a + b. */
static void open_gates(const float *a, const float *b, float *gates, int64_t wide)
{
    for (int64_t i = 0; i < wide; i++)
        gates[i] = 1.0f / (1.0f + quick_exp(-(a[i] + b[i])));
}

/* What the state becomes where the update gate is shut. */
static void renew(const float *inputs, const float *held, const float *reset, float *fresh,
                  int64_t width)
{
    for (int64_t i = 0; i < width; i++)
        fresh[i] = quick_tanh(inputs[i] + reset[i] * held[i]);
}

/* hidden: (ticks + 1, batch, width) and rows more; the first tick holds the start.
 * inputs: (ticks, batch, 3 width), W x + b of the reset gate, the update gate and the new state.
 * weight: (width, 3 width), laid by input; bias: (3 width).
 * gates: (ticks, batch, 4 width), takes reset, update, new, and what the reset gate multiplies.
 * sums: (batch, 3 width) and rows more. */
void akd_gru_forward(int32_t ticks, int32_t batch, int32_t width, float *hidden,
                     const float *inputs, const float *weight, const float *bias, float *gates,
                     float *sums)
{
    const int64_t row = width, wide = 3 * row;
    for (int32_t t = 0; t < ticks; t++) {
        product(hidden, width, 1, weight, wide, batch, width, bias, 0, sums);
        for (int32_t n = 0; n < batch; n++) {
            const float *sum = sums + n * wide;
            float *reset = gates, *update = gates + width, *fresh = gates + 2 * row;
            float *held = gates + wide, *after = hidden + batch * row;
            open_gates(inputs, sum, reset, 2 * row);
            memcpy(held, sum + 2 * row, (size_t)row * sizeof *held);
            renew(inputs + 2 * row, held, reset, fresh, row);
            for (int64_t i = 0; i < row; i++)
                after[i] = fresh[i] + update[i] * (hidden[i] - fresh[i]);
            inputs += wide;
            gates += 4 * row;
            hidden += row;
        }
    }
}

/* hidden, gates: what akd_gru_forward left.
 * weight: (3 width, width), laid by output.
 * given: (ticks, batch, width), the gradient of each tick's state.
 * inputs: (ticks, batch, 3 width), takes the gradient of what was `inputs`.
 * sums: (ticks, batch, 3 width) and rows more, takes that of the products with the state.
 * carry: (batch, width) and rows more, zeros; takes the gradient of the start. */
void akd_gru_backward(int32_t ticks, int32_t batch, int32_t width, const float *hidden,
                      const float *gates, const float *weight, const float *given, float *inputs,
                      float *sums, float *carry)
{
    const int64_t row = width, wide = 3 * row;
    for (int64_t t = ticks - 1; t >= 0; t--) {
        for (int64_t n = 0; n < batch; n++) {
            const int64_t at = t * batch + n;
            const float *restrict before = hidden + at * row, *restrict wanted = given + at * row;
            const float *restrict reset = gates + at * 4 * row, *restrict update = reset + row;
            const float *restrict fresh = update + row, *restrict held = fresh + row;
            float *restrict in = inputs + at * wide, *restrict sum = sums + at * wide;
            float *restrict left = carry + n * row;
            for (int32_t i = 0; i < width; i++) {
                const float delta = left[i] + wanted[i];
                const float r = reset[i], z = update[i], c = fresh[i];
                const float of_fresh = delta * (1.0f - z) * (1.0f - c * c);
                const float of_update = delta * (before[i] - c) * z * (1.0f - z);
                const float of_reset = of_fresh * held[i] * r * (1.0f - r);
                in[i] = sum[i] = of_reset;
                in[width + i] = sum[width + i] = of_update;
                in[2 * width + i] = of_fresh;
                sum[2 * width + i] = of_fresh * r;
                left[i] = delta * z;
            }
        }
        product(sums + t * batch * wide, wide, 1, weight, row, batch, (int32_t)wide, NULL, 1,
                carry);
    }
}
