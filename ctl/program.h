/* ctl/program.h -- where our own things lie: the roles' programs beside `saffron`, the models of the tree it
 * was built in, the four files that the environment may name. */
#ifndef CTL_PROGRAM_H
#define CTL_PROGRAM_H

#include "runtime/base/role.h"

char *ctl_program_path(enum rt_role role); /* ".../saffron-data-compose"; caller frees */
/* Unless it is set: SAFFRON_MODELS_DIR, for us and for the roles, when configs/models lies two folders above. */
void ctl_program_find_models(void);
/* SAFFRON_{GLOBAL,EMBEDDING,DATA,MODEL}_CONFIG, in the order of struct rt_job_source. */
void ctl_program_job_paths(const char *path[4]);

#endif
