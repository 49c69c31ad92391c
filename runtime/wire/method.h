/* runtime/wire/method.h -- the methods of the data plane. Add at the end of a group; never renumber. */
#ifndef WIRE_METHOD_H
#define WIRE_METHOD_H

#include "runtime/base/role.h"

#include <stddef.h>
#include <stdint.h>

enum wire_method {
    WIRE_PUT_BATCH = 16,       /* C -> M */
    WIRE_LOOKUP_BATCH = 17,    /* T -> M */
    WIRE_PUSH_GRADIENTS = 18,  /* T -> M */
    WIRE_RELEASE_BATCH = 19,   /* T -> M */
    WIRE_TRAIN_BATCH = 32,     /* C -> T */
    WIRE_AWAIT_PHASE = 33,     /* C -> T */
    WIRE_END_OF_EPOCH = 34,    /* C -> T */
    WIRE_NOTHING_YET = 35,     /* C -> T */
    WIRE_TELL_FINISHED = 36,   /* C -> T */
    WIRE_LOOKUP_ROWS = 48,     /* M -> E */
    WIRE_APPLY_GRADIENTS = 49, /* M -> E */
    WIRE_CUT = 50,             /* T -> E */
    WIRE_AWAIT_CUT = 51,       /* T -> E */
    WIRE_END_CUT = 52,         /* T -> E */
    WIRE_TELL_LEDGER = 53,     /* T -> E */
    WIRE_GO_BACK_ROWS = 54,    /* T -> E */
    WIRE_STEP_HEADER = 64,     /* T -> T, and so are the rest */
    WIRE_JOIN_GROUP = 65,
    WIRE_FETCH_STATE = 66,
    WIRE_REDUCE_CHUNK = 67,
    WIRE_TELL_PHASE = 68,
    WIRE_SCORES = 69,
    WIRE_NOTE_FINISHED = 70, /* no message: the batch id of the frame */
    WIRE_GO_BACK = 71,
    WIRE_ASK_COMMUNICATOR = 72,
};

/* Every method that is in use, its name, and who asks whom. */
struct wire_method_info {
    uint16_t method;
    const char *name; /* as in the serving role's struct rt_method_def */
    enum rt_role from, to;
};
extern const struct wire_method_info wire_methods[];
extern const size_t wire_method_count;
const char *wire_method_name(uint16_t method); /* NULL: none */

enum wire_dtype { WIRE_F32 = 0, WIRE_F16 = 1, WIRE_BF16 = 2 };

static inline size_t wire_dtype_size(uint32_t dtype) /* 0: unknown dtype */
{
    return dtype == WIRE_F32 ? 4 : (dtype == WIRE_F16 || dtype == WIRE_BF16) ? 2 : 0;
}

/* Limits that every receiver checks. */
#define WIRE_SAMPLES_MAX   65535u
#define WIRE_IDS_MAX       (1u << 20) /* ids of one batch */
#define WIRE_FEATURES_MAX  4096u
#define WIRE_TABLES_MAX    4096u
#define WIRE_DIM_MAX       1024u
#define WIRE_SPLITS_MAX    65536u
#define WIRE_KEY_BYTES_MAX (64u << 20)
#define WIRE_TEXT_MAX      512u
#define WIRE_SEQUENCE_MAX  ((1ull << 48) - 1)
#define WIRE_BITMAP_MAX    (1u << 17) /* bytes: the largest window, 2^20 batches */
#define WIRE_WORLD_MAX     65536u     /* trainer ranks */
#define WIRE_REPLICAS_MAX  65536u     /* processes of one role */
#define WIRE_LOOPS_MAX     256u       /* event loops of one process */
#define WIRE_DENSE_MAX     4096u      /* dense columns */
#define WIRE_LABELS_MAX    256u
#define WIRE_PARTS_MAX     65536u
#define WIRE_FINISHED_MAX  65536u     /* batches finished between two step headers */
#define WIRE_OWED_MAX      65536u     /* batches stepped and not yet finished, of all ranks */
#define WIRE_GROUP_MAX     4096u      /* ranks whose headers travel in one message */
#define WIRE_BUCKETS_MAX   65536u     /* buckets of one all-reduce */
#define WIRE_CHUNK_MAX     (1u << 20) /* elements of one chunk of a bucket */
#define WIRE_NCCL_ID_BYTES 128u       /* an ncclUniqueId */
#define WIRE_SCORES_MAX    (1u << 19) /* samples of one part of an evaluation */

/* A packed message: a buffer that is used again for the next one. Zero-initialise; wire_out_release. */
struct wire_out {
    uint8_t *data;
    size_t size, capacity;
};
void wire_out_release(struct wire_out *out);

/* What the config hash is made of: hashed each for itself, so that it can be said what differs. */
enum wire_job_part {
    WIRE_PART_GLOBAL, /* seed, wire */
    WIRE_PART_EMBEDDING,
    WIRE_PART_DATA,  /* data.yml */
    WIRE_PART_FILES, /* the data files: names and sizes */
    WIRE_PART_MODEL,
    WIRE_PART_COUNT
};

#endif
