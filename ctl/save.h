/* ctl/save.h -- having the roles save the model, and how far they are with it, from their status (runtime/process/saving.h). */
#ifndef CTL_SAVE_H
#define CTL_SAVE_H

#include "ctl/poll.h"

#define CTL_SAVE_STILL_MS 60000 /* without a byte more of the model: it has failed */

struct ctl_save {
    const char *name;
    uint64_t number;  /* of this save, the same all the time */
    uint32_t servers; /* embedding servers that save too: all, or 0 */
    bool with_state;  /* of the optimizers */
};
/* Ask trainer/0 and the servers to save the model; who refuses is in snapshot->save. Blocking, a second
 * at most. Asking again does no harm, so an answer that is lost, or a role that is busy with another save or has just started, is none. */
void ctl_save_ask(struct rt_control_client *client, const char *job, const struct ctl_save *save,
                  struct ctl_snapshot *snapshot);

struct ctl_saved {
    uint32_t writing;      /* processes that are not done with it */
    uint64_t files, bytes; /* so far; bytes also of another save that they are at */
    char silent[64];       /* "embedding_server/1": the first that did not answer; "": all did */
    char error[1200];      /* "embedding_server/1: why"; "": nobody has failed */
};
/* Of trainer/0, and of all embedding servers if `rows`. Who has not answered is writing. */
void ctl_save_read(const struct ctl_snapshot *snapshot, const char *name, bool rows,
                   struct ctl_saved *out);

#endif
