/* embedding_server/report.h -- what a server tells of its tables, over all of its owners: its part of /status, and
 * on /metrics what is no sum over owners.
 *
 * The numbers are those that the owners count (owner.h), read as they are: while updates go on, one may be of a
 * moment before another. Touch: the control loop's thread; the numbers' own threads go on writing. */
#ifndef EBS_REPORT_H
#define EBS_REPORT_H

#include "embedding_server/owner.h"

#include <jansson.h>

#define EBS_REPORT_TABLES_MAX 400 /* in a status: a control reply is limited; /metrics has all */

struct ebs_report;

/* Registers its metrics. `job` and the page outlive it. */
struct ebs_report *ebs_report_create(const struct rt_job *job, struct rt_metrics *metrics);
void ebs_report_destroy(struct ebs_report *report); /* NULL is legal; no page is printed any more */

/* One more owner to count in; it outlives the report's use. Before its loop runs. */
void ebs_report_add(struct ebs_report *report, const struct ebs_owner *owner);

/* Add the fields of a server's status: rows, bytes, counts, `tables`. */
void ebs_report_status(const struct ebs_report *report, json_t *object);

#endif
