/* embedding_server/importing.h -- the control command `import` at an embedding server: all owners' parts of one import, and what
 * /status says of it, "import": {"number", "stage", "state": "working" "done" "failed", "rows", "error"}.
 *
 * CHECK: the first owner reads all of the model, for all of them. LOAD: every owner loads its rows. A stage that is asked for again
 * is the one that is there. Touch: the control loop. */
#ifndef EBS_IMPORTING_H
#define EBS_IMPORTING_H

#include "embedding_server/import.h"
#include "runtime/wire/member.h"

#include <jansson.h>

struct ebs_importing; /* the latest */

/* *out is the owners' parts [owners], each WORKING or, with nothing to do, DONE; NULL: the stage is there already. RT_EFULL: another
 * one is under way; RT_ENOTREADY: it is not checked; RT_EUSAGE. */
int ebs_importing_begin(struct ebs_importing **importing,
                        const struct wire_control_request *request, uint32_t owners,
                        struct ebs_import **out);
void ebs_importing_status(const struct ebs_importing *importing,
                          json_t *object);                   /* NULL: nothing */
void ebs_importing_destroy(struct ebs_importing *importing); /* no loop is at it; NULL is legal */

#endif
