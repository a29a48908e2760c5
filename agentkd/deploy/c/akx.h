/* Runs an executor of agentkd from a file of data, `model.akx`: an update ships numbers
 * and never code. C99; no malloc, no stdio, no recursion, no static state; needs
 * <math.h>, <stddef.h>, <stdint.h> and <string.h>. Build akx.c beside akd_kernels.h;
 * with -DAKX_DENSE_ONLY it is half as large, and refuses what has other layers.
 *
 * Nothing in the file is trusted: akx_open checks its checksum, every length and every
 * number, and what it refuses it names. The weights stay where the file is, in flash or
 * in a mapped page; the file has to stay there too, and begin on a multiple of 4. */
#ifndef AKX_H
#define AKX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum akx_status {
    AKX_OK,
    AKX_SHORT,       /* fewer bytes than a header, or no data at all */
    AKX_ALIGN,       /* the data does not begin on a multiple of 4 */
    AKX_MAGIC,       /* not such a file, or a machine of the other byte order */
    AKX_VERSION,     /* a format that this runtime does not read */
    AKX_SIZE,        /* not as long as its header says */
    AKX_CRC,         /* damaged */
    AKX_KIND,        /* weights or a head that this runtime does not know */
    AKX_SHAPE,       /* lengths that contradict each other, or are too large */
    AKX_NUMBERS,     /* a weight that is NaN or infinite */
    AKX_SCRATCH,     /* the scratch buffer is too short */
    AKX_MEMORY,      /* the executor has a memory, and none was given */
    AKX_OBSERVATION, /* the observation holds NaN or infinity; nothing was decided */
    AKX_OVERFLOW     /* the last layer's numbers are NaN or infinite; nothing was decided */
};

/* What akx_open found. Read it freely; let nobody but akx_open write it. */
struct akx {
    int32_t obs;        /* numbers in an observation */
    int32_t out;        /* numbers of the last layer */
    int32_t actions;    /* numbers or choices in an action */
    int32_t layers;
    int32_t head;       /* enum akd_head: up to AKD_BERNOULLI choices, then numbers */
    int32_t start;      /* the first choice's number */
    int32_t version;    /* the executor's own: counts its swaps */
    int32_t memory;     /* floats that it remembers from tick to tick; 0 for most */
    int32_t width;      /* floats in each of the two buffers in scratch */
    int32_t work;       /* floats in scratch besides */
    int32_t channels;   /* pairs of mean and scale; for images, one a channel */
    int32_t apart;      /* how far apart an image's channels lie */
    float clip;
    const uint32_t *table; /* per layer: its kind and what its kernel takes */
    const uint32_t *sizes; /* of several choices */
    const float *mean, *scale, *low, *high;
    const float *weights;  /* the layers' arrays, one after another */
};

/* Check `length` bytes at `data` and fill `net`. Returns an akx_status. */
int32_t akx_open(struct akx *net, const void *data, size_t length);

/* How many floats akx_act and akx_outputs need as scratch. */
size_t akx_scratch(const struct akx *net);

/* Decide for `obs`, net->obs numbers as the environment gives them. Choices go to
 * `choices`, numbers to `values`, net->actions of them; the other may be NULL.
 * `memory` is net->memory floats of the caller's, zeros where an episode begins, and is
 * brought up to date; NULL where there is none. Returns an akx_status. */
int32_t akx_act(const struct akx *net, const float *obs, float *memory, float *scratch,
                size_t floats, int32_t *choices, float *values);

/* The last layer's numbers, net->out of them; memory as above: call one of the two, once a
 * tick. Returns an akx_status. */
int32_t akx_outputs(const struct akx *net, const float *obs, float *memory,
                    float *scratch, size_t floats, float *out);

/* A status in a word, such as "crc". */
const char *akx_reason(int32_t status);

#ifdef __cplusplus
}
#endif

#endif
