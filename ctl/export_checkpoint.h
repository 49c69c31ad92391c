/* ctl/export_checkpoint.h -- `saffron export CHECKPOINT FOLDER`: a checkpoint as a saved model (runtime/job/save.h). */
#ifndef CTL_EXPORT_CHECKPOINT_H
#define CTL_EXPORT_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

struct ctl_export_checkpoint {
    const char *checkpoint; /* its folder; or that of all, for the newest */
    const char *folder;     /* new, or empty */
    bool with_state;        /* of the optimizers */
    double memory;          /* bytes of rows at a time; parts come on top (RT_SAVE_PART_BYTES) */
};
/* Says what it wrote. Rows first, dense.safetensors last: a folder without it is no saved model. RT_EUSAGE, RT_EDATA, RT_EFILE,
 * RT_ENOMEM. */
int ctl_export_checkpoint(const struct ctl_export_checkpoint *what);

#endif
