/* runtime/process/saving.h -- the control command `save`: the model into a folder of the run directory, a part of it by
 * each loop that has some (runtime/job/save.h). How far it is stands in /status, "save": {"name", "state": "writing" "done"
 * "failed", "files", "bytes", "error"}, and in "saves_before" those that ended earlier, the newest first, RT_SAVING_KEPT of
 * them. One at a time. A name means the save that is there, failed or not: asked again, nothing is begun. Touch: the control
 * loop. */
#ifndef RT_SAVING_H
#define RT_SAVING_H

#include "runtime/job/save.h"
#include "runtime/wire/member.h"

#include <jansson.h>

#define RT_SAVING_KEPT 8

struct rt_saving; /* the latest, and what became of those before */

/* Is there something to begin? Then *part is [parts], each WRITING, for the loops to fill; NULL: a save of this name is
 * there, ended or not. @run_dir: NULL: RT_EUSAGE, as for a name that is no token. RT_EFULL names the other one that is under
 * way. RT_EFILE: no folder can be made; the save has failed then. */
int rt_saving_begin(struct rt_saving **saving, const char *run_dir,
                    const struct wire_control_request *request, uint32_t parts,
                    struct rt_save **part);
void rt_saving_status(const struct rt_saving *saving, json_t *object); /* NULL: adds nothing */
void rt_saving_destroy(struct rt_saving *saving); /* no loop is at it; NULL is legal */

#endif
