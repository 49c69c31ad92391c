/* middleware/service.h -- the loops of one process, as its control loop sees them.
 *
 * Hellos of embedding servers come on the control loop and are handed to every data loop as a copy.
 * Touch: the control loop, in all functions. */
#ifndef MW_SERVICE_H
#define MW_SERVICE_H

#include "runtime/process/process.h"

struct mw_service;

struct mw_service *mw_service_create(void); /* no loops yet */
/* `middleware.loops` loops, each with its thread and listener; then says hello. */
int mw_service_start(struct mw_service *service, struct rt_process *process);
void mw_service_destroy(struct mw_service *service); /* joins the threads */

/* For struct rt_process_role; ctx is the service. */
void mw_service_on_hello(void *ctx, const struct wire_hello *hello);
int mw_service_ready(void *ctx); /* all loops reach all owners */
void mw_service_status(void *ctx, json_t *object);

#endif
