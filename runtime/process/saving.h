/* runtime/process/saving.h -- the control command `save`: the model into a folder of the run directory, a part of it by
 * each loop that has some (runtime/job/save.h). How far it is stands in /status, "save": {"name", "state": "writing" "done"
 * "failed", "files", "bytes", "error"}. One at a time; asked again by the same name, the one that is there is meant, unless
 * it has failed. Touch: the control loop. */
#ifndef RT_SAVING_H
#define RT_SAVING_H

#include "runtime/job/save.h"
#include "runtime/wire/member.h"

#include <jansson.h>

struct rt_saving;

/* Is there something to begin? Then *part is [parts], each WRITING, for the loops to fill; NULL: the save is there already.
 * @run_dir: NULL: RT_EUSAGE, as for a name that is no token. RT_EFULL while another one is under way. */
int rt_saving_begin(struct rt_saving **saving, const char *run_dir,
                    const struct wire_control_request *request, uint32_t parts,
                    struct rt_save **part);
void rt_saving_status(const struct rt_saving *saving, json_t *object); /* NULL: adds nothing */
void rt_saving_destroy(struct rt_saving *saving); /* no loop is at it; NULL is legal */

#endif
