/* embedding_server/admit.h -- which ids get a row at all: every one, those seen k times, or by lot.
 *
 * Asked where a row would be created, once per occurrence of an id without row in an applied gradient.
 *
 *   always        yes. There is no object: *out is NULL, which every function here takes.
 *   probability   yes if the draw of (seed, "admit", table, id, draw) is below p: the same answer on any server,
 *                 and again for a retried batch.
 *   count         yes from the k-th occurrence on. Occurrences are counted in a sketch: lines of 64 bytes,
 *                 each 21 entries of {16 bits of the id's hash | count, 8 bits}, those counted last in front.
 *                 An id belongs to one line, so asking costs one cache miss.
 *
 * Errors of the sketch (N bytes = L = N / 64 lines; ids are spread by a 64-bit hash, so lines fill as by chance):
 *   Too early: a new id is taken for another one of its line with the same 16 bits, and inherits its count. 21 stand
 *     there at most, so it happens to at most 21 / 65,536 = 0.032 % of new ids (the union bound, as for the
 *     fingerprints of a cuckoo filter: Fan et al., CoNEXT 2014, section 5.1).
 *   Too late: a line keeps the 21 ids that were counted last, so an id is forgotten, and begins at zero, when 21
 *     others of its line were counted since. With x others counted since in the whole sketch its chance is
 *     P(Poisson(x / L) >= 21): 1.5e-6 at x = 6 L, 0.16 % at 10 L (N / 6.4), 44 % at 20 L, 99.96 % at 40 L. This is
 *     the sketch's aging: ids that come rarely do not add up for ever, and no pass over the memory is made. For
 *     k > 2 it holds of each gap between two occurrences. For no other reason is an id late, but for the one
 *     whose entry went with the id that was taken for it (0.032 % likewise).
 * 16 MiB (the default) remember the last 2.6 million ids with 0.16 % forgotten. Touch: owner thread only. */
#ifndef EBS_ADMIT_H
#define EBS_ADMIT_H

#include "runtime/job/job.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EBS_ADMIT_ENTRIES 21 /* of a line of the sketch */

struct ebs_admit;

/* @shards: of the 65,536, the owner's: it has that share of `sketch_bytes`, at least one line.
 * RT_EUSAGE names the table; RT_ENOMEM. */
int ebs_admit_create(const struct rt_table_conf *table, uint64_t seed, uint32_t shards,
                     struct ebs_admit **out);
void ebs_admit_destroy(struct ebs_admit *admit); /* NULL is legal */
size_t ebs_admit_bytes(const struct ebs_admit *admit);

/* ebs_admit_ask() - one more occurrence of an id without row: may it have one?
 * @draw: of the update (struct ebs_update). An id that was told yes and got no row (the table was full) is told
 * yes again; once it has its row, tell ebs_admit_forget(). */
bool ebs_admit_ask(struct ebs_admit *admit, uint64_t id, uint64_t draw);

/* The id has its row: its count is not needed any more, and begins at zero should it lose the row. */
void ebs_admit_forget(struct ebs_admit *admit, uint64_t id);

/* The sketch as it stands; 0 bytes: there is none. */
size_t ebs_admit_sketch(const struct ebs_admit *admit, const uint8_t **out);
/* Count what another sketch of the same key and size has counted: of what both have the larger number, so no id's becomes smaller; of
 * a line's entries that have no room those counted last here stay. false: it is of another size, and nothing has changed. */
bool ebs_admit_merge(struct ebs_admit *admit, const uint8_t *sketch, size_t bytes);
/* The same of one line. false: there is no line of that number. */
bool ebs_admit_merge_line(struct ebs_admit *admit, uint64_t number, const uint8_t *line);
void ebs_admit_clear(struct ebs_admit *admit); /* nothing was counted */

/* ---- a cut: the sketch as it is at one instant ----
 *
 * As of rows (slab.h): made in no time, and passed 64 lines after the other; a line ahead of it is copied before an ask() changes it.
 * A line that has counted nothing is not part of it. forget() changes no line for which ask() was not called since the instant. */

#define EBS_ADMIT_LINE 64u /* bytes */

void ebs_admit_cut(struct ebs_admit *admit); /* begin; none is under way */
/* Pass the 64 lines from *first on. Return: a bit for each that is to be copied now. Only if it is under way. */
uint64_t ebs_admit_cut_pass(struct ebs_admit *admit, uint64_t *first);
void ebs_admit_cut_drop(struct ebs_admit *admit);     /* over, whatever is left */
bool ebs_admit_is_cut(const struct ebs_admit *admit); /* lines are ahead of it */
/* The id's line is about to change. true: *number is one that has to be copied now. */
bool ebs_admit_keep(struct ebs_admit *admit, uint64_t id, uint64_t *number);
const uint8_t *ebs_admit_line(const struct ebs_admit *admit, uint64_t number);

/* Ask for the memory that ask() and forget() will want. */
void ebs_admit_prefetch(const struct ebs_admit *admit, uint64_t id);

#endif
