/* The executor of agentkd: normalise, a few dense layers, an action. C99 with the vector
 * types of GCC and Clang. No allocation, no I/O, no state outside the caller's buffers.
 * Compiled once on the machine it runs on by agentkd.executors.native, which lays the
 * weights out: transposed, (in, stride), each row padded with zeros to whole blocks. */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 16 };
typedef float block __attribute__((vector_size(4 * BLOCK)));

enum activation { ACT_NONE, ACT_RELU, ACT_TANH, ACT_SILU, ACT_ELU };
enum head { HEAD_CATEGORICAL, HEAD_MULTI, HEAD_BERNOULLI, HEAD_SQUASHED, HEAD_CLIPPED };

struct layer {
    const float *weight;
    const float *bias;
    int32_t in, out, stride, activation;
};

struct net {
    int32_t obs, layer_count, head, out, size_count, start;
    float clip;
    const float *mean, *scale, *low, *high;
    const int32_t *sizes;
    const struct layer *layers;
    float *scratch; /* two buffers of `width` floats */
    int32_t width;
};

static block load(const float *from)
{
    block value;
    memcpy(&value, from, sizeof value);
    return value;
}

static void store(float *to, block value)
{
    memcpy(to, &value, sizeof value);
}

static void dense(const struct layer *layer, const float *x, float *y)
{
    const int stride = layer->stride;
    int o = 0;
    for (; o + 4 * BLOCK <= stride; o += 4 * BLOCK) {
        const float *w = layer->weight + o;
        const float *b = layer->bias + o;
        block s0 = load(b), s1 = load(b + BLOCK);
        block s2 = load(b + 2 * BLOCK), s3 = load(b + 3 * BLOCK);
        for (int i = 0; i < layer->in; i++, w += stride) {
            s0 += x[i] * load(w);
            s1 += x[i] * load(w + BLOCK);
            s2 += x[i] * load(w + 2 * BLOCK);
            s3 += x[i] * load(w + 3 * BLOCK);
        }
        store(y + o, s0);
        store(y + o + BLOCK, s1);
        store(y + o + 2 * BLOCK, s2);
        store(y + o + 3 * BLOCK, s3);
    }
    for (; o < stride; o += BLOCK) {
        const float *w = layer->weight + o;
        block even = load(layer->bias + o), odd = {0};
        int i = 0;
        for (; i + 2 <= layer->in; i += 2, w += 2 * stride) {
            even += x[i] * load(w);
            odd += x[i + 1] * load(w + stride);
        }
        if (i < layer->in)
            even += x[i] * load(w);
        store(y + o, even + odd);
    }
}

static void activate(int32_t kind, float *x, int n)
{
    switch (kind) {
    case ACT_RELU:
        for (int i = 0; i < n; i++)
            x[i] = x[i] > 0.0f ? x[i] : 0.0f;
        break;
    case ACT_TANH:
        for (int i = 0; i < n; i++)
            x[i] = tanhf(x[i]);
        break;
    case ACT_SILU:
        for (int i = 0; i < n; i++)
            x[i] = x[i] / (1.0f + expf(-(x[i] > -80.0f ? x[i] : -80.0f)));
        break;
    case ACT_ELU:
        for (int i = 0; i < n; i++)
            x[i] = x[i] > 0.0f ? x[i] : expm1f(x[i]);
        break;
    default:
        break;
    }
}

/* The last layer's numbers for one observation; NULL where it holds NaN or infinity. */
static const float *outputs(const struct net *net, const float *obs)
{
    float *x = net->scratch, *y = net->scratch + net->width;
    int finite = 1;
    for (int i = 0; i < net->obs; i++) {
        finite &= obs[i] - obs[i] == 0.0f;
        float v = (obs[i] - net->mean[i]) * net->scale[i];
        v = v < net->clip ? v : net->clip;
        x[i] = v > -net->clip ? v : -net->clip;
    }
    if (!finite)
        return NULL;
    for (int l = 0; l < net->layer_count; l++) {
        dense(&net->layers[l], x, y);
        activate(net->layers[l].activation, y, net->layers[l].out);
        float *spare = x;
        x = y;
        y = spare;
    }
    return x;
}

static int32_t best(const float *x, int n)
{
    int32_t found = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[found])
            found = i;
    return found;
}

/* Decide for one observation. Choices go to `choices`, numbers to `values`.
 * Returns 0, or 1 where the observation holds NaN or infinity and nothing is decided. */
int32_t akd_act(const struct net *net, const float *obs, float *values, int64_t *choices)
{
    const float *x = outputs(net, obs);
    if (!x)
        return 1;
    switch (net->head) {
    case HEAD_CATEGORICAL:
        choices[0] = best(x, net->out) + net->start;
        break;
    case HEAD_MULTI:
        for (int i = 0; i < net->size_count; x += net->sizes[i], i++)
            choices[i] = best(x, net->sizes[i]);
        break;
    case HEAD_BERNOULLI:
        for (int i = 0; i < net->out; i++)
            choices[i] = x[i] > 0.0f;
        break;
    default:
        for (int i = 0; i < net->out; i++) {
            float low = net->low[i], high = net->high[i], v = x[i];
            if (net->head == HEAD_SQUASHED)
                v = low + 0.5f * (tanhf(v) + 1.0f) * (high - low);
            v = v < high ? v : high;
            values[i] = v > low ? v : low;
        }
        break;
    }
    return 0;
}

/* The last layer's numbers for `count` observations, both row by row. Returns how many
 * observations were whole; the rows of the others are filled with NaN. */
int32_t akd_outputs(const struct net *net, const float *obs, int32_t count, float *out)
{
    int32_t whole = 0;
    for (int32_t n = 0; n < count; n++, obs += net->obs, out += net->out) {
        const float *x = outputs(net, obs);
        whole += x != NULL;
        for (int i = 0; i < net->out; i++)
            out[i] = x ? x[i] : NAN;
    }
    return whole;
}
