/* See akx.h. The format is written down in docs/reference/export.md. */
#include "akx.h"

#include <string.h>

#include "akd_kernels.h"

#define AKX_WORDS 16u   /* of the header */
#define AKX_MOST 1048576u /* numbers in a layer */
#define AKX_LAYERS 64u
#define AKX_ROW 12u    /* words of a layer in the table: kind, ten integers, a spare */
#ifdef AKX_DENSE_ONLY
#define AKX_ARRAYS 2u /* the most arrays of a layer */
#else
#define AKX_ARRAYS 12u
#endif

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
    W_VERSION,
    W_CHANNELS,
    W_APART
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

static uint64_t padded(uint64_t n)
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

static int32_t check_header(const void *data, size_t length)
{
    const uint32_t *word = (const uint32_t *)data;
    if (data == NULL || length < 4u * AKX_WORDS)
        return AKX_SHORT;
    if ((uintptr_t)data % 4u != 0u)
        return AKX_ALIGN;
    if (word[W_MAGIC] != 0x31584B41u) /* "AKX1" */
        return AKX_MAGIC;
    if (word[W_FORMAT] != 2u)
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
#ifdef AKX_DENSE_ONLY
    if (word[W_CHANNELS] != obs)
        return AKX_KIND; /* an image's */
#endif
    if (word[W_CHANNELS] == 0u || word[W_CHANNELS] > obs)
        return AKX_SHAPE;
    if (word[W_APART] == 0u || word[W_APART] > obs)
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

/* What a row of the table says about its layer. */
struct shape {
    uint64_t in, out;      /* numbers it takes and gives */
    uint64_t room, work;   /* floats it writes where it gives, and needs besides */
    uint64_t memory;       /* floats it remembers */
    uint64_t activation;
    int32_t arrays;
    uint64_t length[AKX_ARRAYS]; /* floats in each */
};

#define AKX_TOO_MANY 0x80000000u

/* The product, or AKX_TOO_MANY where it is larger; both are at most that. */
static uint64_t times(uint64_t a, uint64_t b)
{
    const uint64_t product = a * b;
    return product < AKX_TOO_MANY ? product : AKX_TOO_MANY;
}

static void add_dense(struct shape *s, uint64_t count, uint64_t in, uint64_t out)
{
    s->length[s->arrays++] = times(count, times(in, padded(out)));
    s->length[s->arrays++] = times(count, padded(out));
}

#ifndef AKX_DENSE_ONLY
static void add_norm(struct shape *s, uint64_t width)
{
    s->length[s->arrays++] = width;
    s->length[s->arrays++] = width;
}

static int32_t shape_conv(const uint32_t *d, struct shape *s)
{
    const uint64_t patch = times(times(d[3], d[3]), d[4]);
    const uint64_t row = d[5], column = d[6], channel = d[7], step = d[8];
    if (patch == 0u || row == 0u || column == 0u || channel == 0u || step == 0u)
        return AKX_SHAPE;
    s->out = times(times(d[0], d[1]), d[2]);
    s->room = s->out + padded(d[2]);
    s->work = patch;
    s->activation = d[9];
    /* The last number that a patch reaches must be there. */
    s->in = times(times(d[0] - 1u, step), row) + times(times(d[1] - 1u, step), column) +
            times(d[3] - 1u, row + column) + times(d[4] - 1u, channel) + 1u;
    add_dense(s, 1, patch, d[2]);
    return AKX_OK;
}

static int32_t shape_attention(const uint32_t *d, struct shape *s)
{
    const uint64_t tokens = d[0], width = d[1], heads = d[2], inner = d[3];
    if (heads == 0u || inner == 0u || width % heads != 0u)
        return AKX_SHAPE;
    s->in = s->out = s->room = times(tokens, width);
    s->work = times(tokens, padded(3u * width) + 1u) + 2u * padded(width) + padded(inner);
    add_norm(s, width);
    add_dense(s, 1, width, 3u * width);
    add_dense(s, 1, width, width);
    add_norm(s, width);
    add_dense(s, 1, width, inner);
    add_dense(s, 1, inner, width);
    return AKX_OK;
}

#endif

static int32_t shape_of(const uint32_t *row, struct shape *s)
{
    const uint32_t *d = row + 1;
    int32_t status = AKX_OK;
    memset(s, 0, sizeof *s);
    for (int32_t i = 0; i < 10; i++)
        if (d[i] > AKX_MOST)
            return AKX_SHAPE;
    if (d[0] == 0u || d[1] == 0u || row[AKX_ROW - 1u] != 0u)
        return AKX_SHAPE;
    switch (row[0]) {
    case AKD_DENSE:
        s->in = d[0];
        s->out = d[1];
        s->room = padded(d[1]);
        s->activation = d[2];
        add_dense(s, 1, d[0], d[1]);
        break;
#ifndef AKX_DENSE_ONLY
    case AKD_CONV:
        status = d[2] == 0u ? AKX_SHAPE : shape_conv(d, s);
        break;
    case AKD_TOKENS:
        s->in = times(d[0], d[2]);
        s->out = times(d[0], d[1]);
        s->room = s->out + padded(d[1]);
        add_dense(s, d[0], d[2], d[1]);
        break;
    case AKD_ATTENTION:
        status = shape_attention(d, s);
        break;
    case AKD_POOL:
        s->in = times(d[0], d[1]);
        s->out = s->room = d[1];
        add_norm(s, d[1]);
        break;
    case AKD_GRU:
    case AKD_LSTM: {
        const uint64_t gates = (row[0] == AKD_GRU ? 3u : 4u) * (uint64_t)d[1];
        s->in = d[0];
        s->out = s->room = d[1];
        s->work = 2u * padded(gates);
        s->memory = row[0] == AKD_GRU ? d[1] : 2u * (uint64_t)d[1];
        add_dense(s, 1, d[0], gates);
        add_dense(s, 1, d[1], gates);
        break;
    }
    case AKD_STACK:
        if (d[1] < 2u)
            return AKX_SHAPE;
        s->in = d[0];
        s->out = s->room = times(d[0], d[1]);
        s->memory = s->out - s->in;
        break;
    case AKD_PAST: {
        const uint64_t held = times(d[0], (uint64_t)d[1] + d[2] - 1u);
        const uint64_t done = times(d[3], d[4]);
        if (done == 0u || held + done > AKX_MOST)
            return AKX_SHAPE;
        s->in = (uint64_t)d[0] + d[3];
        s->out = s->room = times(d[0], d[1]) + done;
        s->memory = held + done;
        break;
    }
#endif
    default:
        status = AKX_KIND;
        break;
    }
    if (status == AKX_OK && s->activation > AKD_ELU)
        status = AKX_KIND;
    return status;
}

static const uint32_t *row_of(const struct akx *net, int32_t layer)
{
    return net->table + (size_t)AKX_ROW * (size_t)layer;
}

/* Walk through the layers: their shapes follow one another, their numbers are whole. */
static int32_t check_layers(struct akx *net, struct cursor *from)
{
    uint64_t in = (uint64_t)net->obs, width = padded(in), work = 0, memory = 0;
    net->weights = (const float *)(const void *)from->at;
    for (int32_t l = 0; l < net->layers; l++) {
        struct shape s;
        const uint32_t *row = row_of(net, l);
        const int32_t status = shape_of(row, &s);
        if (status != AKX_OK)
            return status;
        if (row[0] == AKD_CONV ? s.in > in : s.in != in)
            return AKX_SHAPE;
        for (int32_t i = 0; i < s.arrays; i++) {
            const float *array = numbers(from, s.length[i]);
            if (from->failed != 0)
                return AKX_SHAPE;
            if (akd_finite(array, (int32_t)s.length[i]) == 0)
                return AKX_NUMBERS;
        }
        if (s.out == 0u || s.room > AKX_MOST || s.work > 16u * (uint64_t)AKX_MOST)
            return AKX_SHAPE;
        width = s.room > width ? s.room : width;
        work = s.work > work ? s.work : work;
        memory += s.memory;
        in = s.out;
    }
    net->width = (int32_t)width;
    net->work = (int32_t)work;
    net->memory = (int32_t)memory;
    return in == (uint64_t)net->out && from->left == 0u ? AKX_OK : AKX_SHAPE;
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
    /* Bounds may be infinite outwards, and are never NaN; told by bits. */
    if (akd_largest(net->low, net->out) > 0xFF000000u ||
        akd_largest(net->high, net->out) > 0xFF000000u)
        return AKX_NUMBERS;
    for (int32_t i = 0; i < net->out; i++) {
        const float low = net->low[i], high = net->high[i], span = high - low;
        const int32_t endless = akd_finite(&span, 1) == 0;
        if (low > high || (akd_finite(&low, 1) == 0 && low > 0.0f) ||
            (akd_finite(&high, 1) == 0 && high < 0.0f))
            return AKX_NUMBERS;
        if (net->head == AKD_SQUASHED && endless)
            return AKX_NUMBERS;
    }
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
    net->channels = (int32_t)word[W_CHANNELS];
    net->apart = (int32_t)word[W_APART];
    net->table = words(&from, AKX_ROW * (uint64_t)word[W_LAYERS]);
    if (net->head == AKD_MULTICATEGORICAL)
        net->sizes = words(&from, word[W_ACTIONS]);
    net->mean = numbers(&from, word[W_CHANNELS]);
    net->scale = numbers(&from, word[W_CHANNELS]);
    if (net->head >= AKD_SQUASHED) {
        net->low = numbers(&from, out);
        net->high = numbers(&from, out);
    }
    if (from.failed != 0)
        return AKX_SHAPE;
    /* The clip is above 0, up to infinity. */
    if (word[W_CLIP] - 1u >= 0x7F800000u ||
        akd_finite(net->mean, (int32_t)word[W_CHANNELS]) == 0 ||
        akd_finite(net->scale, (int32_t)word[W_CHANNELS]) == 0)
        return AKX_NUMBERS;
    if (net->head == AKD_MULTICATEGORICAL)
        status = check_sizes(net);
    if (net->head >= AKD_SQUASHED)
        status = check_bounds(net);
    return status != AKX_OK ? status : check_layers(net, &from);
}

int32_t akx_open(struct akx *net, const void *data, size_t length)
{
    memset(net, 0, sizeof *net);
    int32_t status = check_header(data, length);
    if (status == AKX_OK)
        status = fill(net, (const uint32_t *)data, length);
    if (status != AKX_OK)
        memset(net, 0, sizeof *net);
    return status;
}

size_t akx_scratch(const struct akx *net)
{
    return 2u * (size_t)net->width + (size_t)net->work;
}

static int32_t forward(const struct akx *net, const float *obs, float *memory,
                       float *scratch, size_t floats, const float **out)
{
    if (scratch == NULL || net->layers == 0 || floats < akx_scratch(net))
        return AKX_SCRATCH;
    if (memory == NULL && net->memory > 0)
        return AKX_MEMORY;
    float *x = scratch, *y = scratch + net->width, *const work = y + net->width;
    const float *at = net->weights;
#ifdef AKX_DENSE_ONLY
    const int32_t sound =
        akd_normalise(obs, net->mean, net->scale, net->clip, net->obs, x);
#else
    const int32_t sound =
        net->channels == net->obs
            ? akd_normalise(obs, net->mean, net->scale, net->clip, net->obs, x)
            : akd_normalise_image(obs, net->mean, net->scale, net->clip, net->obs,
                                  net->channels, net->apart, x);
#endif
    if (sound == 0)
        return AKX_OBSERVATION;
    for (int32_t l = 0; l < net->layers; l++) {
        const uint32_t *row = row_of(net, l);
        const float *array[AKX_ARRAYS] = {NULL};
        struct shape s;
        (void)shape_of(row, &s); /* akx_open has seen that it is one */
        for (int32_t i = 0; i < s.arrays; i++) {
            array[i] = at;
            at += s.length[i];
        }
#ifdef AKX_DENSE_ONLY
        float *const given = y;
        akd_dense(array[0], array[1], (int32_t)row[1], (int32_t)padded(row[2]), x, y);
        akd_activate((int32_t)row[3], y, (int32_t)row[2]);
        (void)work;
#else
        float *const given = akd_layer((int32_t)row[0], (const int32_t *)(row + 1), array, x,
                                       y, work, memory);
#endif
        if (s.memory != 0u)
            memory += s.memory;
        y = given == y ? x : y;
        x = given;
    }
    *out = x;
    return akd_finite(x, net->out) != 0 ? AKX_OK : AKX_OVERFLOW;
}

int32_t akx_outputs(const struct akx *net, const float *obs, float *memory,
                    float *scratch, size_t floats, float *out)
{
    const float *x = NULL;
    const int32_t status = forward(net, obs, memory, scratch, floats, &x);
    if (status == AKX_OK)
        memcpy(out, x, (size_t)net->out * sizeof *out);
    return status;
}

int32_t akx_act(const struct akx *net, const float *obs, float *memory, float *scratch,
                size_t floats, int32_t *choices, float *values)
{
    const float *x = NULL;
    const int32_t status = forward(net, obs, memory, scratch, floats, &x);
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
        "ok",   "short", "align",   "magic",   "version", "size",       "crc",
        "kind", "shape", "numbers", "scratch", "memory",  "observation", "overflow"};
    const int32_t known = (int32_t)(sizeof reasons / sizeof reasons[0]);
    return status >= 0 && status < known ? reasons[status] : "unknown";
}
