/* runtime/job/read.h -- the readers of the four files; used by job.c only. Each fills its part of the
 * job from the root of its file, or fails with RT_EUSAGE and file:line. */
#ifndef RT_JOB_READ_H
#define RT_JOB_READ_H

#include "runtime/job/job.h"

struct rt_strbuf;

int rt_job_read_global(const struct rt_node *root, struct rt_job *job);
/* After global: what `exact` and the memory cap mean for the tables. */
int rt_job_read_embedding(const struct rt_node *root, struct rt_job *job);
/* After embedding: columns name features. `base`: what relative globs are relative to; NULL: no files are looked for. */
int rt_job_read_data(const struct rt_node *root, struct rt_job *job, const char *base);

/* files.c: a list of globs (NULL: none) -> readable files, sorted by path, each once; in the job's arena. A glob
 * without a file, and what is no readable file, is RT_EUSAGE. */
int rt_job_read_files(const struct rt_node *list, const char *base, struct rt_job *job,
                      const char *const **out, uint32_t *n_out);

/* policy.c: keys of a table that are wrong together, RT_EUSAGE where the key was said. */
struct rt_table_keys {
    const struct rt_node *table,
        *defaults; /* `tables.NAME:` (may be null) and `defaults:` or NULL */
};
int rt_job_check_table(const struct rt_table_keys *keys, const struct rt_table_conf *table,
                       const struct rt_global_conf *global);

/* column.c: the columns of data.yml, or Criteo's own. After the rest of `job->data` is filled. */
int rt_job_read_columns(const struct rt_node *columns, struct rt_job *job);
int rt_job_criteo_columns(struct rt_job *job);
void rt_job_document_columns(struct rt_strbuf *out);

/* What may not change between the parts of a job, as text to hash. */
void rt_job_describe_tables(const struct rt_job *job, struct rt_strbuf *out);
void rt_job_describe_data(const struct rt_job *job, struct rt_strbuf *out); /* without its files */
void rt_job_describe_files(const struct rt_job *job, struct rt_strbuf *out);
void rt_job_describe_columns(const struct rt_job *job, struct rt_strbuf *out); /* part of data */

#endif
