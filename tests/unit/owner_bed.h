/* tests/unit/owner_bed.h -- an embedding server's owner on a loopback connection, and the middlewares that ask it.
 *
 * All calls must succeed: what fails, fails the test. Thread: the test's, which also runs `loop`. */
#ifndef TESTS_OWNER_BED_H
#define TESTS_OWNER_BED_H

#include "embedding_server/owner.h"
#include "runtime/net/loop.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/rows.h"

#define OWNER_ASKERS 2u

struct owner_bed {
    struct rt_loop *loop;       /* of those who ask */
    struct rt_loop *owner_loop; /* the same, or the owner's own */
    struct rt_shard_map shards;
    struct ebs_owner *owner;
    struct owner_asker {
        struct rt_rpc *rpc;
        struct rt_peer *peer;
    } asker[OWNER_ASKERS];
    bool running; /* the owner's thread */
};

struct owner_bed_conf {
    const struct rt_job *job; /* outlives the bed */
    uint32_t owners;          /* 0: one; the bed's is owner 0 of them */
    bool thread;              /* the owner has a loop of its own, for owner_bed_run() */
    uint32_t slice_rows;      /* as in struct ebs_owner_conf */
    size_t parts_bytes;       /* likewise */
    uint64_t memory;
    uint64_t cut_still_ns; /* likewise */
    const char *checkpoint_dir;
};

void owner_bed_open(struct owner_bed *bed, const struct owner_bed_conf *conf);

/* The owner's thread: begins, ends. owner_bed_close() ends it too. */
void owner_bed_run(struct owner_bed *bed);
void owner_bed_halt(struct owner_bed *bed);

/* Middleware k, a new one in the place of any other; returns when its connection is up. */
void owner_bed_connect(struct owner_bed *bed, uint32_t k);
/* The same of another role, in the place of middleware k. */
void owner_bed_connect_as(struct owner_bed *bed, uint32_t k, enum rt_role role);
void owner_bed_close(struct owner_bed *bed);

/* Return: a buffer of the bed's pool with a copy of the data. */
struct rt_piece owner_bed_piece(struct owner_bed *bed, const void *data, size_t size);

/* Send as asker k; the message and the pieces are taken. `done` is called in rt_loop_run(bed->loop). */
void owner_bed_ask(struct owner_bed *bed, uint32_t k, uint16_t method, uint64_t batch_id,
                   struct wire_out *message, const struct rt_piece *pieces, size_t n_pieces,
                   rt_reply_fn done, void *arg);

#endif
