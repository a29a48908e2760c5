/* The gate on flash that is simulated: bits only go from 1 to 0, an erase takes a sector, and
 * the power is lost after each single operation in turn. Built with sanitisers by
 * tests/test_firmware_gate.py, which gives packages: the first one, a good update, one that
 * overflows on observations of ones. */
#include <sanitizer/asan_interface.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include "store.c" /* for its records */

#define SECTOR 512u
#define ROOM (8u * SECTOR)
#define BYTES (2u * SECTOR + 2u * ROOM)
#define MUST(what)                                                                            \
    do {                                                                                      \
        if (!(what)) {                                                                        \
            fprintf(stderr, "line %d: %s (operation %ld, way %d)\n", __LINE__, #what, cut_at, way); \
            exit(1);                                                                          \
        }                                                                                     \
    } while (0)

/* How an operation ends at which the power is lost. */
enum way { NOTHING, SOME, ALL, UNREADABLE, WAYS };

static uint8_t *memory;          /* exactly so large that what is read behind it is noticed */
static uint8_t programmed[BYTES]; /* since a whole erase */
static uint8_t unreadable[BYTES];
static long done, cut_at, fail_at;
static int way;
static jmp_buf lost;
static uint32_t noise = 1u, clock_now, cost;
static long cuts, refused;

static uint32_t draw(void)
{
    noise = noise * 1664525u + 1013904223u;
    return noise >> 8;
}

static void spoil(uint32_t offset, uint32_t length)
{
    memset(unreadable + offset, 1, length);
    ASAN_POISON_MEMORY_REGION(memory + offset, length);
}

static int is_cut(void)
{
    done++;
    cuts += done == cut_at;
    return done == cut_at;
}

static int32_t sim_erase(void *context, uint32_t offset)
{
    (void)context;
    MUST(offset % SECTOR == 0u && offset < BYTES);
    const int cut = is_cut(), how = cut ? way : ALL;
    if (done == fail_at)
        return 1;
    if (how != NOTHING) {
        /* What was cut is not erased, whatever it looks like. */
        memset(programmed + offset, 1, SECTOR);
        memset(unreadable + offset, 0, SECTOR);
        ASAN_UNPOISON_MEMORY_REGION(memory + offset, SECTOR);
    }
    for (uint32_t i = 0; i < SECTOR && how != NOTHING; i++)
        memory[offset + i] = how == ALL ? 0xFFu : (uint8_t)(memory[offset + i] | draw());
    if (how == ALL && !cut)
        memset(programmed + offset, 0, SECTOR);
    if (how == UNREADABLE)
        spoil(offset, SECTOR);
    if (cut)
        longjmp(lost, 1);
    return 0;
}

static int32_t sim_program(void *context, uint32_t offset, const uint8_t *data, uint32_t length)
{
    (void)context;
    MUST(offset % GATE_ALIGN == 0u && length % GATE_ALIGN == 0u && offset + length <= BYTES);
    for (uint32_t i = 0; i < length; i += 8u) {
        uint8_t *const to = memory + offset + i;
        const int cut = is_cut(), how = cut ? way : ALL;
        if (done == fail_at)
            return 1;
        for (uint32_t j = 0; j < 8u && how != NOTHING; j++) {
            MUST(programmed[offset + i + j] == 0);
            programmed[offset + i + j] = 1;
            to[j] &= (uint8_t)(data[i + j] | (how == ALL ? 0u : draw()));
        }
        if (how == UNREADABLE)
            spoil(offset + i, 8u);
        if (cut)
            longjmp(lost, 1);
    }
    return 0;
}

static int32_t sim_read(void *context, uint32_t offset, uint8_t *data, uint32_t length)
{
    (void)context;
    MUST(offset + length <= BYTES);
    for (uint32_t i = 0; i < length; i++)
        if (unreadable[offset + i])
            return 1;
    memcpy(data, memory + offset, length);
    return 0;
}

static uint32_t ticks(void)
{
    clock_now += cost;
    return clock_now;
}

static uint8_t package[4][ROOM];
static uint32_t length[4], id[4];

static int32_t genuine(const uint8_t *data, size_t size, const uint8_t *signature)
{
    /* Stands in: the last byte of a signature sums up the others and what is signed. */
    uint8_t sum = 1u;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum * 31u + data[i]);
    return signature[63] != sum;
}

static void sign(uint8_t *data, uint32_t whole)
{
    const uint32_t size = whole - GATE_SIGNATURE;
    const uint32_t crc = ~gate_crc(0xFFFFFFFFu, data + 16, size - 16u);
    uint8_t sum = 1u;
    memcpy(data + 12, &crc, sizeof crc);
    for (uint32_t i = 0; i < size; i++)
        sum = (uint8_t)(sum * 31u + data[i]);
    data[whole - 1u] = sum;
}

static struct gate_flash flash = {.sector = SECTOR, .state = 2u * ROOM, .slot = {ROOM, 0u},
    .room = ROOM, .erase = sim_erase, .program = sim_program, .read = sim_read};
static struct gate_options options = {.shadow = 3u, .acting = 3u, .budget = 5u, .starts = 3u,
    .ticks = ticks, .genuine = genuine};
static struct gate gate;
static int before; /* the package that acts before an update */

static int32_t send(int which)
{
    int32_t reason = gate_begin(&gate, length[which]);
    for (uint32_t at = 0; reason == GATE_OK && at < length[which]; at += 96u) {
        const uint32_t left = length[which] - at;
        reason = gate_put(&gate, at, package[which] + at, left < 96u ? left : 96u);
    }
    return reason == GATE_OK ? gate_finish(&gate) : reason;
}

static void tick(float value)
{
    float obs[GATE_OBS];
    uint32_t action[GATE_ACTIONS];
    for (int i = 0; i < GATE_OBS; i++)
        obs[i] = value;
    MUST(gate_act(&gate, obs, action) == AKX_OK);
    const uint32_t who = gate_acts(&gate)->id;
    MUST(who == id[0] || who == id[1] || who == id[2]);
    gate_tick(&gate, obs);
}

/* Bring a device with the first executor to an update's end, whatever it finds. */
static void bring(int which, uint32_t stage)
{
    const int32_t opened = gate_open(&gate, &flash, &options);
    MUST(opened == GATE_OK);
    for (int i = 0; i < 40; i++) {
        if (gate.state.last_stage == stage && gate.state.last_id == id[which])
            break;
        if (gate.state.stage == GATE_NONE) {
            const int32_t reason = send(which);
            MUST(reason == GATE_OK);
        }
        /* A bad one shows itself when it acts. */
        tick(gate.phase == GATE_ACTING ? 1.0f : 0.0f);
    }
    MUST(gate.state.last_stage == stage && gate.state.last_id == id[which]);
    MUST(gate_acts(&gate)->id == id[stage == GATE_CONFIRMED ? which : before]);
    tick(1.0f);
}

static void wipe(void)
{
    ASAN_UNPOISON_MEMORY_REGION(memory, BYTES);
    for (uint32_t i = 0; i < BYTES; i++)
        memory[i] = (uint8_t)draw(); /* as it comes: nothing is erased */
    memset(programmed, 1, sizeof programmed);
    memset(unreadable, 0, sizeof unreadable);
}

static void provision(void)
{
    const int32_t opened = gate_open(&gate, &flash, &options);
    MUST(opened == (gate.state.active == 0u ? GATE_EMPTY : GATE_OK));
    if (opened == GATE_EMPTY)
        MUST(send(0) == GATE_OK);
    MUST(gate_acts(&gate)->id == id[0]);
}

static uint8_t kept[3][BYTES];

static void keep(void)
{
    memcpy(kept[0], memory, BYTES);
    memcpy(kept[1], programmed, BYTES);
}

static void restore(void)
{
    ASAN_UNPOISON_MEMORY_REGION(memory, BYTES);
    memcpy(memory, kept[0], BYTES);
    memcpy(programmed, kept[1], BYTES);
    memset(unreadable, 0, sizeof unreadable);
}

static int run(int which, uint32_t stage, long at)
{
    done = 0;
    cut_at = at;
    if (setjmp(lost) != 0) {
        cut_at = 0;
        return 1;
    }
    if (which == 0)
        provision();
    else
        bring(which, stage);
    return 0;
}

/* Cut at each operation, in each way; then go on, cut again at each `stride`th, and end. */
static long each_cut(int which, uint32_t stage, long stride)
{
    long operations = 0;
    for (way = 0; way < WAYS; way++)
        for (long at = 1;; at++) {
            restore();
            if (run(which, stage, at) == 0) {
                operations = at - 1;
                break;
            }
            MUST(run(which, stage, 0) == 0);
            for (long second = 1 + at % stride;; second += stride) {
                restore();
                MUST(run(which, stage, at) == 1);
                if (run(which, stage, second) == 0)
                    break;
                MUST(run(which, stage, 0) == 0);
            }
        }
    return operations;
}

/* The flash says at each operation that it failed: the device acts on, and a later start ends
 * what was begun. */
static long each_failure(void)
{
    for (long at = 1;; at++) {
        restore();
        MUST(gate_open(&gate, &flash, &options) == GATE_OK);
        done = 0;
        fail_at = at;
        const int32_t sent = send(1);
        MUST(sent == GATE_OK || sent == GATE_UNWRITTEN);
        for (int i = 0; i < 10; i++)
            tick(0.0f);
        const int reached = done >= at;
        fail_at = 0;
        MUST(run(1, GATE_CONFIRMED, 0) == 0);
        if (!reached)
            return at - 1;
    }
}

static void refuses(uint8_t *data, uint32_t whole)
{
    const uint32_t real = length[3];
    memcpy(package[3], data, ROOM);
    length[3] = whole;
    const int32_t reason = send(3);
    refused += reason != GATE_OK;
    MUST(gate_acts(&gate)->id == id[0]);
    for (int i = 0; i < 3; i++)
        tick(0.0f);
    if (gate.state.stage != GATE_NONE)
        (void)gate_rollback(&gate);
    memset(gate.state.blacklist, 0, sizeof gate.state.blacklist);
    length[3] = real;
}

static void hostile(void)
{
    static const uint32_t values[] = {0u, 1u, 31u, 64u, 0xFFFFu, 0x40000000u, 0x7FC00000u,
        0x7F800000u, 0x80000000u, 0xFFFFFFE0u, 0xFFFFFFFFu};
    uint8_t data[ROOM];
    restore();
    MUST(gate_open(&gate, &flash, &options) == GATE_OK);
    for (uint32_t bit = 0; bit < 8u * length[1]; bit += 5u) {
        memcpy(data, package[1], ROOM);
        data[bit / 8u] ^= (uint8_t)(1u << bit % 8u);
        const long so_far = refused;
        refuses(data, length[1]);
        /* Of the signature, what stands in looks at the last byte alone. */
        if (bit / 8u < length[1] - GATE_SIGNATURE)
            MUST(refused == so_far + 1);
    }
    for (uint32_t cut = 0; cut < length[1]; cut += GATE_ALIGN) {
        const long so_far = refused;
        refuses(package[1], cut);
        MUST(refused == so_far + 1);
    }
    /* With checksum and signature, they protect nothing. */
    for (uint32_t word = 1; word < (length[1] - GATE_SIGNATURE) / 4u; word++)
        for (uint32_t i = 0; word != 3u && i < sizeof values / 4u; i++) {
            memcpy(data, package[1], ROOM);
            memcpy(data + 4u * word, values + i, 4u);
            sign(data, length[1]);
            refuses(data, length[1]);
        }
}

/* Records that are damaged, or hostile with a checksum that fits. */
static void records(void)
{
    for (int i = 0; i < 20000; i++) {
        uint32_t record[RECORD_WORDS];
        restore();
        const uint32_t place = 2u * ROOM + (draw() % 2u) * SECTOR + draw() % 5u * RECORD;
        memcpy(record, memory + place, RECORD);
        for (uint32_t j = draw() % 4u; j < 4u; j++)
            record[1u + draw() % 22u] = draw() % 3u ? draw() % 4u : draw() << 8;
        record[0] = MAGIC;
        record[RECORD_WORDS - 1u] = checksum(record);
        memcpy(memory + place, record, RECORD);
        const int32_t opened = gate_open(&gate, &flash, &options);
        MUST(opened == GATE_OK || opened == GATE_EMPTY);
        if (opened == GATE_OK)
            tick(0.0f);
        MUST(opened == GATE_OK || gate_acts(&gate) == NULL);
    }
    /* One flipped bit of the newest record: the one before it counts. */
    restore();
    MUST(gate_open(&gate, &flash, &options) == GATE_OK);
    MUST(gate_write_state(&gate, &gate.state) == GATE_OK && gate.place == 1u);
    const uint32_t newest = 2u * ROOM + gate.newest * SECTOR;
    for (uint32_t bit = 0; bit < 8u * RECORD; bit++) {
        memory[newest + bit / 8u] ^= (uint8_t)(1u << bit % 8u);
        MUST(gate_open(&gate, &flash, &options) == GATE_OK);
        MUST(gate_acts(&gate)->id == id[0]);
        memory[newest + bit / 8u] ^= (uint8_t)(1u << bit % 8u);
    }
}

static void start(void)
{
    restore();
    MUST(gate_open(&gate, &flash, &options) == GATE_OK);
}

/* What is said of it at each end. */
static void ends(void)
{
    /* Programs that die in a trial: the third one is the last. */
    start();
    MUST(send(1) == GATE_OK && gate.state.stage == GATE_STAGED);
    for (int i = 1; i <= 3; i++) {
        tick(0.0f);
        MUST(gate.state.stage == GATE_TRIAL && gate.state.starts == (uint32_t)i);
        MUST(gate_open(&gate, &flash, &options) == GATE_OK);
    }
    MUST(gate.state.last_stage == GATE_ROLLED_BACK && gate.state.last_reason == GATE_CRASHES);
    MUST(send(1) == GATE_BLACKLISTED && gate_acts(&gate)->id == id[0]);
    /* Also where there is one that acted before the one that acts. */
    start();
    MUST(run(1, GATE_CONFIRMED, 0) == 0 && gate.state.former != 0u && send(2) == GATE_OK);
    for (int i = 1; i <= 3; i++) {
        tick(0.0f);
        MUST(gate_open(&gate, &flash, &options) == GATE_OK && gate_acts(&gate)->id == id[1]);
    }
    MUST(gate.state.last_reason == GATE_CRASHES && gate.state.last_id == id[2]);
    /* A clean end does not count. */
    start();
    MUST(send(1) == GATE_OK);
    for (int i = 0; i < 9; i++) {
        tick(0.0f);
        MUST(gate.state.starts == 1u && gate_pause(&gate) == GATE_OK);
        MUST(gate_open(&gate, &flash, &options) == GATE_OK);
    }
    MUST(gate.state.stage == GATE_TRIAL);
    /* Too slow beside the one that acts, and not counted where it was once. */
    start();
    MUST(send(1) == GATE_OK);
    tick(0.0f);
    cost = 6u;
    tick(0.0f);
    cost = 0u;
    MUST(gate.state.last_reason == GATE_SLOW && gate.state.last_stage == GATE_ROLLED_BACK);
    /* Other actions than are asked for. */
    options.agreement = 0.9999f;
    start();
    MUST(send(1) == GATE_OK);
    for (int i = 0; i < 4; i++)
        tick(0.0f);
    options.agreement = 0.0f;
    MUST(gate.state.last_reason == GATE_DISAGREES);
    /* Infinity on a finite observation: the one before acts at the same tick. */
    start();
    MUST(send(2) == GATE_OK);
    for (int i = 0; i < 4; i++)
        tick(0.0f);
    MUST(gate.phase == GATE_ACTING && gate_acts(&gate)->id == id[2]);
    tick(1.0f);
    MUST(gate.state.last_reason == GATE_NUMBERS && gate_acts(&gate)->id == id[0]);
    /* NaN that is seen is nobody's fault. */
    start();
    MUST(send(1) == GATE_OK);
    for (int i = 0; i < 20; i++) {
        float obs[GATE_OBS] = {0.0f};
        uint32_t action[GATE_ACTIONS];
        memset(obs, 0xFF, sizeof *obs);
        MUST(gate_act(&gate, obs, action) == AKX_OBSERVATION);
        gate_tick(&gate, obs);
    }
    MUST(gate.state.stage == GATE_TRIAL && gate.phase == GATE_SHADOW && gate.ticks == 0u);
    /* By hand: while one is on its way no other comes; confirmed, and back. */
    MUST(gate_begin(&gate, length[2]) == GATE_BUSY);
    MUST(gate_confirm(&gate) == GATE_OK && gate_acts(&gate)->id == id[1]);
    MUST(gate_confirm(&gate) == GATE_EMPTY);
    MUST(gate_open(&gate, &flash, &options) == GATE_OK && gate_acts(&gate)->id == id[1]);
    MUST(gate_rollback(&gate) == GATE_OK && gate_acts(&gate)->id == id[0]);
    MUST(gate_rollback(&gate) == GATE_EMPTY && send(1) == GATE_BLACKLISTED);
    MUST(gate_open(&gate, &flash, &options) == GATE_OK && gate_acts(&gate)->id == id[0]);
    /* Older, unsigned, for another robot. */
    start();
    MUST(run(1, GATE_CONFIRMED, 0) == 0);
    MUST(send(0) == GATE_OLD && gate.state.last_stage == GATE_REFUSED);
    start();
    memcpy(package[3], package[1], ROOM);
    length[3] = length[1];
    package[3][length[3] - 1u] ^= 1u;
    const struct gate_state same = gate.state;
    MUST(send(3) == GATE_UNSIGNED && memcmp(&same, &gate.state, sizeof same) == 0);
    package[3][20] ^= 1u;
    sign(package[3], length[3]);
    MUST(send(3) == GATE_UNFIT && gate.state.last_reason == GATE_UNFIT);
    /* Golden vectors that give something else: not tried again either. */
    memcpy(package[3], package[1], ROOM);
    package[3][64 + 3] ^= 0x40u;
    sign(package[3], length[3]);
    MUST(send(3) == GATE_GOLDEN && send(1) == GATE_BLACKLISTED);
    /* The place of the confirmed one goes bad: the former one acts, or the one on trial. */
    start();
    MUST(run(1, GATE_CONFIRMED, 0) == 0);
    memory[flash.slot[gate.state.active - 1u] + 100u] ^= 4u;
    MUST(gate_open(&gate, &flash, &options) == GATE_OK && gate_acts(&gate)->id == id[0]);
    MUST(gate.state.last_reason == GATE_DAMAGED && gate.state.former == 0u);
    MUST(gate_open(&gate, &flash, &options) == GATE_OK && gate_acts(&gate)->id == id[0]);
    start();
    MUST(send(1) == GATE_OK);
    memory[flash.slot[gate.state.active - 1u] + 100u] ^= 4u;
    MUST(gate_open(&gate, &flash, &options) == GATE_OK && gate_acts(&gate)->id == id[1]);
    MUST(gate.state.last_stage == GATE_CONFIRMED);
    /* Nor can that be written: there is no other, and it acts on, however slowly. */
    start();
    for (long at = 1; gate.phase != GATE_ACTING; at++) {
        start();
        MUST(at < 1000 && send(1) == GATE_OK);
        memory[flash.slot[gate.state.active - 1u] + 100u] ^= 4u;
        done = 0;
        fail_at = at;
        const int32_t opened = gate_open(&gate, &flash, &options);
        fail_at = 0;
        MUST(opened == GATE_OK || gate.phase == GATE_IDLE);
    }
    MUST(gate.stuck != 0);
    cost = 6u;
    for (int i = 0; i < 9; i++)
        tick(0.0f);
    cost = 0u;
    MUST(gate.phase == GATE_ACTING && gate_acts(&gate)->id == id[1]);
}

int main(int argc, char **argv)
{
    memory = malloc(BYTES);
    flash.mapped = memory;
    for (int i = 0; i < 3 && i + 1 < argc; i++) {
        FILE *file = fopen(argv[i + 1], "rb");
        MUST(file != NULL);
        length[i] = (uint32_t)fread(package[i], 1, ROOM, file);
        fclose(file);
        sign(package[i], length[i]);
        wipe();
        MUST(gate_open(&gate, &flash, &options) == GATE_EMPTY && send(i) == GATE_OK);
        id[i] = gate_acts(&gate)->id;
    }
    wipe();
    keep();
    printf("first %ld\n", each_cut(0, GATE_CONFIRMED, 19));
    restore();
    MUST(run(0, GATE_CONFIRMED, 0) == 0);
    keep();
    printf("good %ld\n", each_cut(1, GATE_CONFIRMED, 13));
    printf("bad %ld\n", each_cut(2, GATE_ROLLED_BACK, 19));
    way = 0;
    printf("failures %ld\n", each_failure());
    ends();
    records();
    hostile();
    /* One that has a former executor, whose slot the next one takes. */
    restore();
    MUST(run(1, GATE_CONFIRMED, 0) == 0 && gate.state.former != 0u);
    keep();
    before = 1;
    printf("third %ld\n", each_cut(2, GATE_ROLLED_BACK, 19));
    printf("cuts %ld\nrefused %ld\n", cuts, refused);
    free(memory);
    return 0;
}
