/* ctl/checkpoints.h -- what the commands over checkpoints share: which they are about, what they look like, how far reading is.
 *
 * A folder on a command line is that of all checkpoints of a job, or one checkpoint's own. Touch: main thread. */
#ifndef CTL_CHECKPOINTS_H
#define CTL_CHECKPOINTS_H

#include "runtime/checkpoint/store.h"

#include <argp.h>

/* ---- the command line ---- */

/* The words of a command: its argp, or a child of one, with this as input. It says what is missing, and exits 2. */
#define CTL_WORDS_MAX 2u
struct ctl_words {
    const char *expected; /* "DIR [NAME]" */
    unsigned least, most; /* <= CTL_WORDS_MAX */
    unsigned n;
    const char *word[CTL_WORDS_MAX]; /* NULL: not given */
};
extern const struct argp ctl_words_argp;
/* A command that has no options of its own. */
void ctl_words_parse(int argc, char **argv, const char *doc, struct ctl_words *words);

/* ---- a folder of them ---- */

#define CTL_ALL SIZE_MAX

struct ctl_checkpoints {
    char *dir;                 /* of all of them */
    struct rt_store_list list; /* the newest first; at least one */
    size_t which;              /* the one that was named; CTL_ALL: none was */
};
/* @name: NULL: all, or the one whose folder `dir` is. RT_EUSAGE where there is none, or none of that name; RT_EFILE, RT_ELIMIT. */
int ctl_checkpoints_open(const char *dir, const char *name, struct ctl_checkpoints *out);
void ctl_checkpoints_close(struct ctl_checkpoints *from);
/* The one that was named, or the newest. RT_EDATA: its manifest cannot be believed. */
int ctl_checkpoints_one(const struct ctl_checkpoints *from, size_t *which);

/* Is it all there, with what it goes on from, as far as manifests and the sizes of files tell? RT_EDATA, RT_EFILE: what is not. */
int ctl_checkpoints_look(const struct ctl_checkpoints *from, size_t which);

/* Is a file that was read the one that its manifest means? RT_EDATA. */
int ctl_checkpoints_match(const char *path, const struct rt_manifest_file *file, uint64_t bytes,
                          uint64_t digest);
/* Of a name, as "dense.safetensors"; NULL: the checkpoint has none. */
const struct rt_manifest_file *ctl_checkpoint_file(const struct rt_manifest *manifest,
                                                   const char *name);

struct ctl_checkpoint_sum {
    uint64_t rows, removed, live, bytes; /* of all tables; of all files but the manifest */
};
struct ctl_checkpoint_sum ctl_checkpoint_sum(const struct rt_manifest *manifest);
/* "2026-11-23 10:56:45", local time. Returns out. */
#define CTL_TIME_BYTES 24
const char *ctl_checkpoint_time(uint64_t wall_ms, char out[CTL_TIME_BYTES]);

/* ---- how far reading is, on standard error if that is a terminal ---- */

struct ctl_reading {
    bool terminal, drawn;
    const char *what;
    uint64_t total, before, now; /* bytes: of all; of parts that are done; of this part */
    uint64_t next_ns;            /* when the line is drawn again */
};
/* @what: stays. */
void ctl_reading_begin(struct ctl_reading *reading, const char *what, uint64_t total);
void ctl_reading_at(void *reading, uint64_t bytes); /* of this part: an rt_store_read_fn */
void ctl_reading_part_done(struct ctl_reading *reading);
void ctl_reading_end(struct ctl_reading *reading); /* nothing is left of the line */

#endif
