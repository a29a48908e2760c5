/* A gradient step of an executor of dense layers, compiled once on the machine it runs on
 * by agentkd.distillation.native_engine: forward, divergence, backward, clip, Adam, and the
 * average of the weights. No allocation, no I/O, no state outside the caller's arrays.
 *
 * Rows go through in pieces that stay in the nearest cache, and all three products of a
 * layer (outputs, inputs' gradient, weights' gradient) are one function, `product`. */
#include "../executors/c/akd_products.h"

/* Labels between one that is used and the one that is asked for from memory. */
#define AHEAD 16
/* Rows that go through together, and the rows that buffers are rounded up to. The caller,
 * who lays out the buffers, gives both. */
#if PIECE % TILE || MOST_TILE % TILE || AKD_BLOCK != 16
#error "PIECE and MOST_TILE have to hold whole tiles"
#endif

enum term_kind { SOFT, SHARPENED, HARD, ACTION };

struct dense {
    int32_t in, out, activation, in_stride, out_stride;
    int64_t at;              /* where its weights (out, in) lie; its bias follows */
    float *forward;          /* weights laid by input: (in, out_stride) */
    float *backward;         /* weights laid by output: (tiles of out, in_stride) */
    float *weights_gradient; /* (tiles of out, in_stride) */
    float *bias_gradient;    /* (out_stride) */
    float *input;            /* (PIECE, in_stride) */
    float *before;           /* (PIECE, out_stride), before the activation */
};

struct net {
    int32_t layers, out;
    int64_t numbers;
    float clip;
    const float *mean, *scale;
    float *weights, *gradient, *first, *second, *average;
    const struct dense *dense;
    float *outputs, *delta, *spare; /* (PIECE, the widest stride) each */
};

struct term {
    int32_t kind;
    float weight, number; /* number: temperature, or smoothing */
};

/* Labels of a batch and what is minimised on them. */
struct part {
    const float *rows; /* observation and answer, `width` floats a row */
    const int64_t *places;
    int64_t width;
    int32_t count, split;
    float weight;
    int32_t terms;
    const struct term *term;
    int32_t blocks;       /* choices beside one another; 0 for boxes */
    int32_t pairs;        /* whether each is a yes or no, its log-odds one number */
    const int32_t *sizes; /* of the choices */
    int32_t squashed_planner, squashed;
    const float *low, *high, *middle, *half; /* of the box; low and high in halves of it */
    const float *box_low, *box_high;         /* in the environment's units */
};

static void activate(int32_t activation, const float *before, float *after, int64_t n)
{
    switch (activation) {
    case AKD_RELU:
        for (int64_t i = 0; i < n; i++)
            after[i] = before[i] > 0.0f ? before[i] : 0.0f;
        break;
    case AKD_TANH:
        for (int64_t i = 0; i < n; i++)
            after[i] = quick_tanh(before[i]);
        break;
    case AKD_SILU:
        for (int64_t i = 0; i < n; i++)
            after[i] = before[i] / (1.0f + quick_exp(-before[i]));
        break;
    case AKD_ELU:
        for (int64_t i = 0; i < n; i++) {
            const float low = quick_exp(before[i]) - 1.0f;
            after[i] = before[i] > 0.0f ? before[i] : low;
        }
        break;
    default:
        memcpy(after, before, (size_t)n * sizeof *after);
        break;
    }
}

/* delta = gradient of what comes after the activation, times its slope. */
static void slope(int32_t activation, const float *before, float *delta, int64_t n)
{
    switch (activation) {
    case AKD_RELU:
        for (int64_t i = 0; i < n; i++)
            delta[i] = before[i] > 0.0f ? delta[i] : 0.0f;
        break;
    case AKD_TANH:
        for (int64_t i = 0; i < n; i++) {
            const float t = quick_tanh(before[i]);
            delta[i] *= 1.0f - t * t;
        }
        break;
    case AKD_SILU:
        for (int64_t i = 0; i < n; i++) {
            const float s = 1.0f / (1.0f + quick_exp(-before[i]));
            delta[i] *= s * (1.0f + before[i] * (1.0f - s));
        }
        break;
    case AKD_ELU:
        for (int64_t i = 0; i < n; i++) {
            const float e = quick_exp(before[i]);
            delta[i] *= before[i] > 0.0f ? 1.0f : e;
        }
        break;
    default:
        break;
    }
}

/* The logarithm of softmax(x / temperature), n numbers. */
static void log_softmax(const float *x, int32_t n, float temperature, float *log)
{
    float most = x[0], sum = 0.0f;
    for (int32_t i = 1; i < n; i++)
        most = x[i] > most ? x[i] : most;
    for (int32_t i = 0; i < n; i++) {
        log[i] = (x[i] - most) / temperature;
        sum += quick_exp(log[i]);
    }
    const float rest = logf(sum);
    for (int32_t i = 0; i < n; i++)
        log[i] -= rest;
}

/* One choice of n: the divergence, and its gradient times `factor`, added to `delta`.
 * `work` has room for 2 n floats. */
static float choice(const struct term *term, const float *mine, const float *said,
                    int32_t n, float factor, float *delta, float *work)
{
    float *const answer = work, *const target = work + n;
    const float tau = term->number;
    float value = 0.0f;
    if (term->kind == HARD) {
        const int32_t best = akd_best(said, n);
        const float even = tau / (float)n;
        log_softmax(mine, n, 1.0f, answer);
        for (int32_t i = 0; i < n; i++) {
            const float wanted = even + (i == best ? 1.0f - tau : 0.0f);
            value -= wanted * answer[i];
            delta[i] += factor * (quick_exp(answer[i]) - wanted);
        }
        return value;
    }
    const float own = term->kind == SOFT ? tau : 1.0f;
    const float gain = term->kind == SOFT ? tau : 1.0f;
    log_softmax(said, n, tau, target);
    log_softmax(mine, n, own, answer);
    for (int32_t i = 0; i < n; i++) {
        const float wanted = quick_exp(target[i]);
        value += wanted * (target[i] - answer[i]);
        delta[i] += factor * gain * (quick_exp(answer[i]) - wanted);
    }
    return term->kind == SOFT ? value * tau * tau : value;
}

static float choices(const struct part *part, const struct term *term, const float *mine,
                     const float *said, float factor, float *delta, float *work)
{
    float value = 0.0f;
    for (int32_t b = 0; b < part->blocks; b++) {
        if (part->pairs) {
            const float own[2] = {0.0f, mine[b]}, other[2] = {0.0f, said[b]};
            float both[2] = {0.0f, 0.0f};
            value += choice(term, own, other, 2, factor, both, work);
            delta[b] += both[1];
            continue;
        }
        const int32_t n = part->sizes[b];
        value += choice(term, mine, said, n, factor, delta, work);
        mine += n;
        said += n;
        delta += n;
    }
    return value;
}

/* A label of the batch: its observation, and `split` floats later its answer. */
static const float *label(const struct part *part, int32_t n)
{
    return part->rows + part->places[n] * part->width;
}

/* Squared errors of actions in a box, for the outputs of labels from `first` on, and their
 * gradient in `net->delta`: `agentkd.distillation.terms.answers` has the formula. */
static float boxes(const struct net *net, const struct part *part, int32_t first, int32_t rows,
                   int64_t stride, float factor)
{
    float *const answers = net->outputs, *const targets = net->spare, value = 0.0f;
    memset(targets, 0, (size_t)(rows * stride) * sizeof *targets);
    for (int32_t n = 0; n < rows; n++)
        memcpy(targets + n * stride, label(part, first + n) + part->split,
               (size_t)net->out * sizeof *targets);
    if (part->squashed_planner)
        activate(AKD_TANH, targets, targets, rows * stride);
    if (part->squashed)
        activate(AKD_TANH, answers, answers, rows * stride);
    for (int32_t n = 0; n < rows; n++)
        for (int32_t i = 0; i < net->out; i++) {
            const float half = part->half[i], middle = part->middle[i];
            float target = targets[n * stride + i], own = answers[n * stride + i];
            float gain = 1.0f - own * own;
            if (!part->squashed_planner)
                target = (akd_bound(target, part->box_low[i], part->box_high[i]) - middle) / half;
            if (!part->squashed) {
                own = (own - middle) / half;
                gain = 1.0f / half;
            }
            float error = own - target;
            /* Both want more than the box allows: the clip makes them equal. */
            if (!part->squashed && ((target >= part->high[i] && error > 0.0f) ||
                                    (target <= part->low[i] && error < 0.0f)))
                error = 0.0f;
            value += error * error;
            net->delta[n * stride + i] = factor * gain * 2.0f * error;
        }
    return value;
}

/* Lay the weights out for the products. */
static void lay_out(const struct net *net)
{
    for (int32_t l = 0; l < net->layers; l++) {
        const struct dense *d = &net->dense[l];
        const float *w = net->weights + d->at;
        for (int32_t o = 0; o < d->out; o++, w += d->in) {
            memcpy(d->backward + (int64_t)o * d->in_stride, w, (size_t)d->in * sizeof *w);
            for (int32_t i = 0; i < d->in; i++)
                d->forward[(int64_t)i * d->out_stride + o] = w[i];
        }
    }
}

/* Forward to `net->outputs`, for the rows in the first layer's input. */
static void forward(const struct net *net, int32_t rows)
{
    for (int32_t l = 0; l < net->layers; l++) {
        const struct dense *d = &net->dense[l];
        const float *bias = net->weights + d->at + (int64_t)d->in * d->out;
        float *start = net->spare;
        memset(start, 0, (size_t)d->out_stride * sizeof *start);
        memcpy(start, bias, (size_t)d->out * sizeof *start);
        product(d->input, d->in_stride, 1, d->forward, d->out_stride, rows, d->in, start, 0,
                d->before);
        float *after = l + 1 < net->layers ? net->dense[l + 1].input : net->outputs;
        activate(d->activation, d->before, after, (int64_t)rows * d->out_stride);
    }
}

/* Backward from `net->delta`, which is changed; adds to the gradients. */
static void backward(const struct net *net, int32_t rows)
{
    float *delta = net->delta, *other = net->spare;
    for (int32_t l = net->layers - 1; l >= 0; l--) {
        const struct dense *d = &net->dense[l];
        slope(d->activation, d->before, delta, (int64_t)rows * d->out_stride);
        for (int32_t n = 0; n < rows; n++)
            for (int32_t o = 0; o < d->out_stride; o++)
                d->bias_gradient[o] += delta[(int64_t)n * d->out_stride + o];
        product(delta, 1, d->out_stride, d->input, d->in_stride, d->out, rows, NULL, 1,
                d->weights_gradient);
        if (l == 0)
            break;
        product(delta, d->out_stride, 1, d->backward, d->in_stride, rows, d->out, NULL, 0,
                other);
        float *const held = delta;
        delta = other;
        other = held;
    }
}

/* Take the observations of labels from `first` on, normalised, as the first layer's input. */
static void take(const struct net *net, const struct part *part, int32_t first, int32_t rows)
{
    const struct dense *d = net->dense;
    for (int32_t n = 0; n < rows; n++) {
        /* Labels lie anywhere in memory: ask for one some rows before it is needed. */
        if (first + n + AHEAD < part->count)
            for (int64_t at = 0; at < part->width; at += AKD_BLOCK)
                __builtin_prefetch(label(part, first + n + AHEAD) + at);
        const float *obs = label(part, first + n);
        float *x = d->input + (int64_t)n * d->in_stride;
        for (int32_t i = 0; i < d->in; i++)
            x[i] = akd_bound((obs[i] - net->mean[i]) * net->scale[i], -net->clip, net->clip);
    }
}

/* Add a part's gradient; returns the mean of what is minimised on it. */
static double learn(const struct net *net, const struct part *part)
{
    const int32_t stride = net->dense[net->layers - 1].out_stride;
    const float factor = part->weight / (float)part->count;
    double sum = 0.0;
    for (int32_t first = 0; first < part->count; first += PIECE) {
        const int32_t left = part->count - first, rows = left < PIECE ? left : PIECE;
        take(net, part, first, rows);
        forward(net, rows);
        memset(net->delta, 0, (size_t)rows * (size_t)stride * sizeof *net->delta);
        if (!part->blocks) {
            float weight = 0.0f;
            for (int32_t t = 0; t < part->terms; t++)
                weight += part->term[t].weight;
            sum += (double)(weight * boxes(net, part, first, rows, stride, factor * weight));
        }
        for (int32_t n = 0; n < rows && part->blocks; n++) {
            const float *mine = net->outputs + (int64_t)n * stride;
            for (int32_t t = 0; t < part->terms; t++) {
                const float weight = part->term[t].weight;
                sum += (double)(weight * choices(part, &part->term[t], mine,
                                                 label(part, first + n) + part->split,
                                                 factor * weight,
                                                 net->delta + (int64_t)n * stride, net->spare));
            }
        }
        backward(net, rows);
    }
    return sum / part->count;
}

/* The sum of squares. */
static double squared(const float *x, int64_t n)
{
    double sum[AKD_BLOCK] = {0.0}, all = 0.0;
    int64_t i = 0;
    for (; i + AKD_BLOCK <= n; i += AKD_BLOCK)
        for (int32_t k = 0; k < AKD_BLOCK; k++)
            sum[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < n; i++)
        all += (double)x[i] * (double)x[i];
    for (int32_t k = 0; k < AKD_BLOCK; k++)
        all += sum[k];
    return all;
}

/* Make the gradient one vector, clip it by its norm, and let Adam move the weights. */
static int32_t move(const struct net *net, float rate, float most, float share, int64_t step)
{
    for (int32_t l = 0; l < net->layers; l++) {
        const struct dense *d = &net->dense[l];
        float *g = net->gradient + d->at;
        for (int32_t o = 0; o < d->out; o++, g += d->in)
            memcpy(g, d->weights_gradient + (int64_t)o * d->in_stride,
                   (size_t)d->in * sizeof *g);
        memcpy(g, d->bias_gradient, (size_t)d->out * sizeof *g);
    }
    const float norm = (float)sqrt(squared(net->gradient, net->numbers));
    if (!akd_finite(&norm, 1))
        return 0;
    const float cut = most / (norm + 1e-6f), kept = cut < 1.0f ? cut : 1.0f;
    const float size = (float)(rate / (1.0 - pow(0.9, (double)step)));
    const float unit = (float)sqrt(1.0 - pow(0.999, (double)step));
    float *w = net->weights, *a = net->average, *m = net->first, *v = net->second;
    for (int64_t i = 0; i < net->numbers; i++) {
        const float g = net->gradient[i] * kept;
        m[i] += 0.1f * (g - m[i]);
        v[i] = 0.999f * v[i] + 0.001f * (g * g);
        w[i] -= size * m[i] / (sqrtf(v[i]) / unit + 1e-8f);
        a[i] += share * (w[i] - a[i]);
    }
    return akd_finite(w, (int32_t)net->numbers);
}

/* The gradient of all parts together, in `net->gradient`; `values` takes the mean of what is
 * minimised on each part. */
static void gradients(const struct net *net, const struct part *parts, int32_t count,
                      double *values)
{
    lay_out(net);
    for (int32_t l = 0; l < net->layers; l++) {
        const struct dense *d = &net->dense[l];
        const int64_t rows = (d->out + TILE - 1) / TILE * TILE;
        memset(d->weights_gradient, 0, (size_t)(rows * d->in_stride) * sizeof(float));
        memset(d->bias_gradient, 0, (size_t)d->out_stride * sizeof(float));
    }
    for (int32_t p = 0; p < count; p++)
        values[p] = learn(net, &parts[p]);
}

/* One step of Adam on the labels of `parts`. The `step`-th since Adam began; `share` is the
 * weight of the new weights in the average. Returns 1, or 0 where a value or the gradient is
 * NaN or infinite and nothing is changed, or the new weights are. */
int32_t akd_learn(const struct net *net, const struct part *parts, int32_t count,
                  float rate, float most, float share, int64_t step, double *values)
{
    /* Maxima and minima below would make numbers of weights that are none. */
    for (int32_t p = 0; p < count; p++)
        values[p] = NAN;
    if (!akd_finite(net->weights, (int32_t)net->numbers))
        return 0;
    gradients(net, parts, count, values);
    for (int32_t p = 0; p < count; p++)
        if (!(values[p] - values[p] == 0.0))
            return 0;
    return move(net, rate, most, share, step);
}
