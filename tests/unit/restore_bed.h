/* tests/unit/restore_bed.h -- the owners of some embedding servers, and checkpoints of their tables as of any moment.
 *
 * What changed and went since the checkpoint before is found by comparing all rows, so that nothing is taken from the code under
 * test but the files' format. Calls must succeed: what fails, fails the test. Thread: the test's. */
#ifndef TESTS_RESTORE_BED_H
#define TESTS_RESTORE_BED_H

#include "embedding_server/owner.h"
#include "embedding_server/restore.h"
#include "runtime/net/io.h"
#include "tests/lib/temp.h"

#define RESTORE_OWNERS_MAX 8u

struct restore_bed {
    const struct rt_job *job;
    char dir[TEMP_PATH_MAX];
    struct rt_loop *loop;
    struct rt_shard_map shards;
    struct ebs_owner *owner[RESTORE_OWNERS_MAX];
    uint32_t owners;
    struct restore_rows *before; /* as the latest checkpoint has them; NULL: none */
    uint64_t attempt;            /* of it */
    struct rt_timer look;
    char name[64];
    uint64_t begun_ms; /* of the tables' time: that of the owners' upkeep, by which rows expire */
};

/* A new folder. @job: named, with tables; outlives the bed. */
void restore_bed_begin(struct restore_bed *bed, const struct rt_job *job);
void restore_bed_end(struct restore_bed *bed);

/* Owners with nothing, in the place of those that are there. */
void restore_bed_open(struct restore_bed *bed, uint32_t owners);
void restore_bed_close(struct restore_bed *bed);

/* One update of some ids of a table, each by the owner that has it: gradients drawn by `seed`. One tick for all of an owner. */
void restore_bed_update(struct restore_bed *bed, uint32_t table, const uint64_t *id, size_t n,
                        uint64_t seed);
struct ebs_table *restore_bed_table(const struct restore_bed *bed, uint32_t table, uint64_t id);

/* Write and publish one, whose ledger has `low` batches of split 0 finished, and low + 2. @full: else what changed since the one
 * before. Rows that have not changed but whose ids are `again` (may be NULL) stand in it as removed and as rows. */
void restore_bed_write(struct restore_bed *bed, const char *name, bool full, uint64_t low,
                       const uint64_t *again, size_t n_again);

/* The same by the owners' own cuts (cut.h), with an empty ledger. */
void restore_bed_cut(struct restore_bed *bed, const char *name, bool full);

/* The owners' loop runs for so long. */
void restore_bed_pass(struct restore_bed *bed, uint64_t ms);

/* As a server with all of the owners, or with those of [first, first + n), would. */
int restore_bed_restore(struct restore_bed *bed, uint32_t first, uint32_t n,
                        struct ebs_restored *out);

/* Sums over owners and tables, of all bytes of all rows (ticks as ages), and as their digests. */
uint64_t restore_bed_sum(const struct restore_bed *bed);
uint64_t restore_bed_digest(const struct restore_bed *bed);
uint64_t restore_bed_rows(const struct restore_bed *bed);

/* A byte of DIR/NAME/FILE becomes another; at < 0: from the end. */
void restore_bed_damage(const struct restore_bed *bed, const char *name, const char *file, long at);

#endif
