/* See akx.h. The format is written down in docs/export.md. */
#include "akx.h"

#include <string.h>

#include "akd_kernels.h"

#define AKX_WORDS 16u   /* of the header */
#define AKX_MOST 65536u /* numbers in a layer */
#define AKX_LAYERS 64u

enum akx_word {
    W_MAGIC,
    W_FORMAT,
    W_SIZE,
    W_CRC, /* of all that follows */
    W_KIND,
    W_OBS,
    W_OUT,
    W_LAYERS,
    W_HEAD,
    W_ACTIONS,
    W_START,
    W_CLIP,
    W_VERSION
};

static uint32_t crc32_of(const uint8_t *data, size_t length)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1u) != 0u ? 0xEDB88320u : 0u);
    }
    return ~crc;
}

static uint32_t padded(uint32_t n)
{
    return (n + 3u) / 4u * 4u;
}

static int32_t as_int(uint32_t word)
{
    int32_t value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* What has been handed out of the file; a count that does not fit ends it for good. */
struct cursor {
    const uint32_t *at;
    uint64_t left; /* words */
    int32_t failed;
};

static const uint32_t *words(struct cursor *from, uint64_t count)
{
    const uint32_t *found = from->at;
    if (from->failed != 0 || count > from->left) {
        from->failed = 1;
    } else {
        from->at += count;
        from->left -= count;
    }
    return found;
}

static const float *numbers(struct cursor *from, uint64_t count)
{
    return (const float *)(const void *)words(from, count);
}

static int32_t whole(const float *x, uint64_t count)
{
    int32_t finite = 1;
    for (uint64_t i = 0; i < count; i++)
        finite &= (x[i] - x[i] == 0.0f);
    return finite;
}

static int32_t check_header(const void *data, size_t length)
{
    const uint32_t *word = data;
    if (data == NULL || length < 4u * AKX_WORDS)
        return AKX_SHORT;
    if ((uintptr_t)data % 4u != 0u)
        return AKX_ALIGN;
    if (word[W_MAGIC] != 0x31584B41u) /* "AKX1" */
        return AKX_MAGIC;
    if (word[W_FORMAT] != 1u)
        return AKX_VERSION;
    if (word[W_SIZE] != length || length % 4u != 0u)
        return AKX_SIZE;
    if (word[W_CRC] != crc32_of((const uint8_t *)data + 16, length - 16u))
        return AKX_CRC;
    if (word[W_KIND] != 0u || word[W_HEAD] > AKD_CLIPPED)
        return AKX_KIND;
    return AKX_OK;
}

/* The lengths that the header gives, before anything is reached through them. */
static int32_t check_lengths(const uint32_t *word)
{
    const uint32_t obs = word[W_OBS], out = word[W_OUT], actions = word[W_ACTIONS];
    const uint32_t layers = word[W_LAYERS], head = word[W_HEAD];
    const int32_t start = as_int(word[W_START]);
    if (obs == 0u || obs > AKX_MOST || out == 0u || out > AKX_MOST)
        return AKX_SHAPE;
    if (layers == 0u || layers > AKX_LAYERS || actions == 0u || actions > out)
        return AKX_SHAPE;
    if (head == AKD_CATEGORICAL && actions != 1u)
        return AKX_SHAPE;
    if (head != AKD_CATEGORICAL && start != 0)
        return AKX_SHAPE;
    if (head > AKD_MULTICATEGORICAL && actions != out)
        return AKX_SHAPE;
    /* start + choice must not overflow. */
    if (start > INT32_MAX - (int32_t)AKX_MOST)
        return AKX_SHAPE;
    return AKX_OK;
}

/* Walk through the layers: their shapes follow one another, their numbers are whole. */
static int32_t check_layers(struct akx *net, struct cursor *from)
{
    uint32_t in = (uint32_t)net->obs, width = padded(in);
    net->weights = (const float *)(const void *)from->at;
    for (int32_t l = 0; l < net->layers; l++) {
        const uint32_t out = net->table[2 * l], activation = net->table[2 * l + 1];
        if (out == 0u || out > AKX_MOST)
            return AKX_SHAPE;
        if (activation > AKD_ELU)
            return AKX_KIND;
        const uint64_t count = (uint64_t)padded(out) * ((uint64_t)in + 1u);
        const float *layer = numbers(from, count);
        if (from->failed != 0)
            return AKX_SHAPE;
        if (whole(layer, count) == 0)
            return AKX_NUMBERS;
        width = padded(out) > width ? padded(out) : width;
        in = out;
    }
    net->width = (int32_t)width;
    return in == (uint32_t)net->out && from->left == 0u ? AKX_OK : AKX_SHAPE;
}

static int32_t check_sizes(const struct akx *net)
{
    uint32_t sum = 0;
    for (int32_t i = 0; i < net->actions; i++) {
        if (net->sizes[i] == 0u || net->sizes[i] > (uint32_t)net->out)
            return AKX_SHAPE;
        sum += net->sizes[i];
        if (sum > (uint32_t)net->out)
            return AKX_SHAPE;
    }
    return sum == (uint32_t)net->out ? AKX_OK : AKX_SHAPE;
}

static int32_t check_bounds(const struct akx *net)
{
    for (int32_t i = 0; i < net->out; i++)
        if (!(net->low[i] <= net->high[i]))
            return AKX_NUMBERS;
    return AKX_OK;
}

static int32_t fill(struct akx *net, const uint32_t *word, size_t length)
{
    struct cursor from = {word + AKX_WORDS, length / 4u - AKX_WORDS, 0};
    const uint32_t obs = word[W_OBS], out = word[W_OUT];
    int32_t status = check_lengths(word);
    if (status != AKX_OK)
        return status;
    net->obs = (int32_t)obs;
    net->out = (int32_t)out;
    net->actions = (int32_t)word[W_ACTIONS];
    net->layers = (int32_t)word[W_LAYERS];
    net->head = (int32_t)word[W_HEAD];
    net->start = as_int(word[W_START]);
    net->version = as_int(word[W_VERSION]);
    memcpy(&net->clip, &word[W_CLIP], sizeof net->clip);
    net->table = words(&from, 2u * (uint64_t)word[W_LAYERS]);
    if (net->head == AKD_MULTICATEGORICAL)
        net->sizes = words(&from, word[W_ACTIONS]);
    net->mean = numbers(&from, obs);
    net->scale = numbers(&from, obs);
    if (net->head >= AKD_SQUASHED) {
        net->low = numbers(&from, out);
        net->high = numbers(&from, out);
    }
    if (from.failed != 0)
        return AKX_SHAPE;
    if (!(net->clip > 0.0f) || whole(net->mean, obs) == 0 || whole(net->scale, obs) == 0)
        return AKX_NUMBERS;
    if (net->head == AKD_MULTICATEGORICAL)
        status = check_sizes(net);
    if (net->head >= AKD_SQUASHED)
        status = check_bounds(net);
    return status != AKX_OK ? status : check_layers(net, &from);
}

int32_t akx_open(struct akx *net, const void *data, size_t length)
{
    static const struct akx nothing;
    *net = nothing;
    int32_t status = check_header(data, length);
    if (status == AKX_OK)
        status = fill(net, data, length);
    if (status != AKX_OK)
        *net = nothing;
    return status;
}

size_t akx_scratch(const struct akx *net)
{
    return 2u * (size_t)net->width;
}

static int32_t forward(const struct akx *net, const float *obs, float *scratch,
                       size_t floats, const float **out)
{
    if (scratch == NULL || net->layers == 0 || floats < akx_scratch(net))
        return AKX_SCRATCH;
    float *x = scratch, *y = scratch + net->width;
    const float *at = net->weights;
    int32_t in = net->obs;
    if (akd_normalise(obs, net->mean, net->scale, net->clip, in, x) == 0)
        return AKX_OBSERVATION;
    for (int32_t l = 0; l < net->layers; l++) {
        const int32_t outs = (int32_t)net->table[2 * l];
        const int32_t stride = (int32_t)padded((uint32_t)outs);
        float *spare = x;
        akd_dense(at + stride, at, in, stride, x, y);
        akd_activate((int32_t)net->table[2 * l + 1], y, outs);
        at += (size_t)stride * ((size_t)in + 1u);
        in = outs;
        x = y;
        y = spare;
    }
    *out = x;
    return AKX_OK;
}

int32_t akx_outputs(const struct akx *net, const float *obs, float *scratch,
                    size_t floats, float *out)
{
    const float *x = NULL;
    const int32_t status = forward(net, obs, scratch, floats, &x);
    if (status == AKX_OK)
        memcpy(out, x, (size_t)net->out * sizeof *out);
    return status;
}

int32_t akx_act(const struct akx *net, const float *obs, float *scratch, size_t floats,
                int32_t *choices, float *values)
{
    const float *x = NULL;
    const int32_t status = forward(net, obs, scratch, floats, &x);
    if (status != AKX_OK)
        return status;
    if (net->head == AKD_CATEGORICAL)
        choices[0] = akd_best(x, net->out) + net->start;
    for (int32_t i = 0; net->head != AKD_CATEGORICAL && i < net->actions; i++) {
        if (net->head == AKD_MULTICATEGORICAL) {
            choices[i] = akd_best(x, (int32_t)net->sizes[i]);
            x += net->sizes[i];
        } else if (net->head == AKD_BERNOULLI) {
            choices[i] = x[i] > 0.0f ? 1 : 0;
        } else {
            const float low = net->low[i], high = net->high[i];
            const float v =
                net->head == AKD_SQUASHED ? akd_squash(x[i], low, high) : x[i];
            values[i] = akd_bound(v, low, high);
        }
    }
    return AKX_OK;
}

const char *akx_reason(int32_t status)
{
    static const char *const reasons[] = {
        "ok",   "short", "align", "magic",   "version", "size",
        "crc",  "kind",  "shape", "numbers", "scratch", "observation"};
    const int32_t known = (int32_t)(sizeof reasons / sizeof reasons[0]);
    return status >= 0 && status < known ? reasons[status] : "unknown";
}
