/* ctl/save.h -- how far the roles are with the model that they save, from their status (runtime/process/saving.h). */
#ifndef CTL_SAVE_H
#define CTL_SAVE_H

#include "ctl/poll.h"

struct ctl_saved {
    uint32_t writing; /* processes that are not done with it */
    uint64_t files, bytes;
    char error[1200]; /* "embedding_server/1: why"; "": nobody has failed */
};
/* Of trainer/0, and of all embedding servers if `rows`. Who has not answered is writing. */
void ctl_save_read(const struct ctl_snapshot *snapshot, bool rows, struct ctl_saved *out);

#endif
