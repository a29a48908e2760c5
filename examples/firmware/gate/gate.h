/* Lets executors in `model.akx` onto a microcontroller while another one acts, tries them,
 * and goes back by itself: the state machine of `agentkd device`, in two flash slots.
 *
 *   FETCHED    gate_begin, gate_put: the bytes are in the slot in which nothing acts
 *   VERIFIED   gate_finish: checksum, signature, contract, and the golden vectors here
 *   STAGED     the state in flash names it
 *   TRIAL      it decides beside the one that acts, then acts under a watch
 *   CONFIRMED, REFUSED or ROLLED_BACK and blacklisted
 *
 * The state is a record that is written whole, with a checksum, in one of two sectors in
 * turn: whenever power is lost, the former state or the next one is found, and each names
 * an executor that is whole. C99: no malloc, no stdio, no recursion, no static state.
 * One context calls: the functions share buffers. Build gate.c, store.c and package.c
 * with akx.c. */
#ifndef GATE_H
#define GATE_H

#include <stddef.h>
#include <stdint.h>

#include "akx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The largest executor: numbers in an observation, of the last layer, and in an action;
 * floats of scratch and memory. A larger one is refused as unfit. */
#ifndef GATE_OBS
#define GATE_OBS 256
#define GATE_OUT 64
#define GATE_ACTIONS 64
#define GATE_SCRATCH 2048
#define GATE_MEMORY 512
#endif

#define GATE_ALIGN 32u     /* what is programmed begins and ends on multiples of it */
#define GATE_SIGNATURE 64u /* bytes at the end of a package: Ed25519, or zeros */
#define GATE_BLACKLIST 8u  /* executors that are remembered; the oldest is forgotten */

enum gate_reason {
    GATE_OK,
    GATE_UNSIGNED,    /* its signature does not hold */
    GATE_DAMAGED,     /* it is not a whole package */
    GATE_GOLDEN,      /* its golden vectors give something else on this device */
    GATE_UNFIT,       /* it is for another robot, or too large for this program */
    GATE_OLD,         /* it was signed before the one that acts */
    GATE_BLACKLISTED, /* it failed here before */
    GATE_BUSY,        /* another one is on its way */
    GATE_SLOW,        /* it takes too long */
    GATE_NUMBERS,     /* it gives NaN or infinity */
    GATE_DISAGREES,   /* it acts otherwise than the one that acts */
    GATE_CRASHES,     /* the program started too often without confirming it */
    GATE_ASKED,       /* rolled back by hand */
    GATE_UNWRITTEN,   /* the flash cannot be written */
    GATE_EMPTY        /* there is none */
};

enum gate_stage {
    GATE_NONE,
    GATE_STAGED,
    GATE_TRIAL,
    GATE_CONFIRMED,
    GATE_REFUSED,
    GATE_ROLLED_BACK
};

enum gate_phase { GATE_IDLE, GATE_SHADOW, GATE_ACTING };

/* Flash with sectors of one size. Offsets count from `mapped`. The functions return 0, or
 * another number for a failure. Each place is programmed once after an erase, in multiples
 * of GATE_ALIGN bytes. */
struct gate_flash {
    const uint8_t *mapped; /* where the processor reads it; a multiple of 4 */
    uint32_t sector;       /* bytes that an erase takes; a multiple of GATE_ALIGN */
    uint32_t state;        /* two sectors */
    uint32_t slot[2];      /* whole sectors each */
    uint32_t room;         /* bytes in a slot */
    void *context;         /* handed to the functions */
    int32_t (*erase)(void *context, uint32_t offset);
    int32_t (*program)(void *context, uint32_t offset, const uint8_t *data, uint32_t length);
    /* Fails where a cut has left what cannot be read (ECC). */
    int32_t (*read)(void *context, uint32_t offset, uint8_t *data, uint32_t length);
};

struct gate_options {
    uint32_t shadow;      /* ticks at which it decides beside the one that acts */
    uint32_t acting;      /* ticks at which it acts before it is confirmed */
    uint32_t budget;      /* of `ticks`, for 99 of 100 of its decisions */
    float agreement;      /* least mean agreement with what was done, 0 to 1 */
    uint32_t starts;      /* of the program, without confirming it */
    uint32_t contract[2]; /* what the first executor has to be for; zeros for anything */
    uint32_t (*ticks)(void); /* a counter; NULL: decisions are not timed */
    /* Returns 0 for a good signature. NULL: what is unsigned is taken. */
    int32_t (*genuine)(const uint8_t *data, size_t length, const uint8_t *signature);
};

/* The state in flash. A slot is given by its number plus 1; 0 is none. */
struct gate_state {
    uint32_t active, former;
    uint32_t stage;  /* of what lies in the slot that is free: NONE, STAGED or TRIAL */
    uint32_t starts; /* with it, and without a clean end */
    uint32_t id[2];  /* of each slot's executor: the checksum in its model.akx */
    uint32_t last_stage, last_reason, last_id; /* how the last update ended */
    uint32_t blacklist[GATE_BLACKLIST];
};

/* What was opened of a slot. */
struct gate_executor {
    struct akx net;
    float memory[GATE_MEMORY];
    uint32_t id, serial, contract[2];
};

struct gate {
    const struct gate_flash *flash;
    const struct gate_options *options;
    struct gate_state state;
    uint32_t sequence, newest, place; /* of records: the last one's, its sector, the next */
    struct gate_executor executors[2];
    uint32_t usable; /* bits: which of the two is opened */
    int32_t phase;
    uint32_t size, filled; /* of what is fetched */
    int32_t fault;         /* found as it decided; carried out by gate_tick */
    int32_t decided;       /* whether the last gate_act wrote an action */
    int32_t stuck;         /* the flash failed: no trial until the next start */
    uint32_t ticks, over;  /* of the trial's half */
    float agreed;
    uint32_t action[GATE_ACTIONS], other[GATE_ACTIONS];
    float out[GATE_OUT], scratch[GATE_SCRATCH];
};

/* Read the state and open what acts, as the program starts. Returns GATE_OK, or GATE_EMPTY
 * where there is no executor. */
int32_t gate_open(struct gate *gate, const struct gate_flash *flash,
                  const struct gate_options *options);

/* The executor that the next gate_act asks, NULL for none. */
const struct gate_executor *gate_acts(const struct gate *gate);

/* Decide. `action` holds 32-bit words: choices as int32_t, numbers as float. Returns an
 * akx_status; AKX_SHORT where there is no executor. Writes no flash. */
int32_t gate_act(struct gate *gate, const float *obs, uint32_t *action);

/* Carry the trial on, after the action was sent. It may write a record, and erase for it a
 * sector. */
void gate_tick(struct gate *gate, const float *obs);

/* Forget, where an episode begins. */
void gate_reset(struct gate *gate);

/* Take a package of `size` bytes, piece by piece in their order; pieces are multiples of
 * GATE_ALIGN. What was there before counts as taken. Returns a gate_reason. */
int32_t gate_begin(struct gate *gate, uint32_t size);
int32_t gate_put(struct gate *gate, uint32_t offset, const uint8_t *data, uint32_t length);

/* Verify what was taken, and stage it. The first executor of a device is confirmed at once.
 * Returns a gate_reason. */
int32_t gate_finish(struct gate *gate);

/* Decide by hand: confirm what is staged or on trial; roll it back, or else return to the
 * executor before the confirmed one. Returns a gate_reason. */
int32_t gate_confirm(struct gate *gate);
int32_t gate_rollback(struct gate *gate);

/* End cleanly, before the board is switched off on purpose: the start does not count. */
int32_t gate_pause(struct gate *gate);

/* A reason in a word, such as "golden". */
const char *gate_word(int32_t reason);

/* Between the files. */
uint32_t gate_crc(uint32_t crc, const uint8_t *data, uint32_t length);
void gate_read_state(struct gate *gate);
int32_t gate_write_state(struct gate *gate, const struct gate_state *next);
int32_t gate_examine(struct gate *gate, uint32_t slot, int32_t fresh);

#ifdef __cplusplus
}
#endif

#endif
