/* runtime/job/save.h -- the model on disk: what its files are called, and how far a loop is with its part of them.
 *
 *   DIR/dense.safetensors                     the dense network's tensors by name, as torch.nn has them       trainer/0
 *   DIR/dense_state.safetensors               the optimizer's state, if asked for: NAME.SLOT of each of them   trainer/0
 *   DIR/model.yml                             the layers, parameters filled in, usable as a job's              trainer/0
 *   DIR/table.NAME.OWNER.PART.safetensors     `ids` [n] I64, `rows` [n][dim] in the table's dtype; with state  that owner's
 *                                             `state.SLOT` [n][floats] F32 (runtime/job/layout.h)              loop
 *
 * OWNER counts all owners (event loops) of the embedding servers, PART the files of one owner and table, both from 0. Each
 * tells in its notes how many owners there are and whether it is the last part, so a reader that begins with owner 0, part 0
 * knows all names. An id is 64 bits without a sign; the files say I64, which has the same bits, since PyTorch has no
 * unsigned type of that size. */
#ifndef RT_SAVE_H
#define RT_SAVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RT_SAVE_NAME       "model" /* of the folder that a job leaves in its run directory */
#define RT_SAVE_PART_BYTES ((size_t)64 << 20) /* of ids and rows in one file, at most */
#define RT_SAVE_IDS        "ids"
#define RT_SAVE_ROWS       "rows"
#define RT_SAVE_NOTE                                                                               \
    "save" /* a note: which save it is, the same in all its files, and in no other's */
#define RT_SAVE_OPTIMIZER                                                                          \
    "optimizer"                /* a note: whose state is there too; none: there is no state */
#define RT_SAVE_STATE "state." /* before the name of a slot: a tensor [n][floats of a row] */

char *rt_save_dense_path(const char *dir); /* caller frees (rt_free), as all of these */
char *rt_save_dense_state_path(const char *dir);
char *rt_save_model_path(const char *dir);
/* Of a table's name, bytes other than A-Z a-z 0-9 _ - stand as %XX; a long one is cut, and ends in its hash. */
char *rt_save_table_path(const char *dir, const char *table, uint32_t owner, uint32_t part);

enum rt_save_state { RT_SAVE_WRITING, RT_SAVE_DONE, RT_SAVE_FAILED };

/* One loop's part. Touched by: the loop and its worker while it is WRITING, which write it; any thread reads the
 * counts, and the error once the state is FAILED. It stays until the state is no longer WRITING, or the loop has ended. */
struct rt_save {
    const char *dir; /* is there */
    const char *id;  /* for the notes; NULL: none */
    bool with_state; /* the optimizers' too */
    _Atomic int state;
    _Atomic uint64_t files, bytes;
    char error[1024];
};
void rt_save_count(struct rt_save *save, uint64_t bytes); /* one more file */
/* The end, with an error or 0; the error's text is the current rt_err_text(). */
void rt_save_end(struct rt_save *save, int err);

#endif
