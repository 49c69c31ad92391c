/* runtime/checkpoint/store.h -- the checkpoint folder that trainers and embedding servers share.
 *
 *   DIR/NAME/rows.00000 ...  dense.safetensors  dense_state.safetensors  model.yml   manifest.json (last, by rename)
 *
 * A folder without a manifest is a checkpoint that never came to be: nobody reads it, and sweep takes it away. A checkpoint with a base
 * is an increment: it needs the one before, up to a full one (chain). Names are tokens (wire_is_token), never paths; links are
 * not followed. Only trainer/0 begins, publishes, sweeps and retains; anybody reads. Any thread. */
#ifndef RT_STORE_H
#define RT_STORE_H

#include "runtime/checkpoint/manifest.h"

struct rt_rowfile;

#define RT_STORE_MAX       (2 * RT_CHECKPOINTS_MAX) /* checkpoints in a folder */
#define RT_STORE_CHAIN_MAX 1024u

/* Make DIR/NAME. What is left there of an attempt without a manifest is removed. RT_EUSAGE: a checkpoint of this name is there, or
 * something that is no checkpoint's, or it is no token or `latest`; RT_EFILE. */
int rt_store_begin(const char *dir, const char *name);
/* What was begun as DIR/FROM, and is not published yet, is DIR/TO from here on. RT_EUSAGE: something is there by that name; RT_EFILE */
int rt_store_rename(const char *dir, const char *from, const char *to);
/* All files of the manifest are there and on disk (looked at: there, and as long as it says): publish it. RT_EDATA: they are not, or
 * the manifest could not be read again; RT_EFILE. fsync of the folder, manifest (temporary, fsync, rename, fsync of the
 * folder), fsync of DIR. After an error the checkpoint is not there, or is: read it again to know. */
int rt_store_publish(const char *dir, const struct rt_manifest *manifest);
/* Remove a checkpoint: its manifest first. One that is not there is gone already. RT_EFILE. */
int rt_store_remove(const char *dir, const char *name);
/* Remove folders without a manifest, but for `but` (NULL: all) and those in which there is anything that is no checkpoint's.
 * @return how many, or RT_EFILE */
int rt_store_sweep(const char *dir, const char *but);
/* Keep the newest `keep` full checkpoints and what goes on from them; and those that an operator named, which are none of the
 * `keep`, with what they need. @return how many were removed, or RT_EFILE */
int rt_store_retain(const char *dir, uint32_t keep);

/* The job goes back to `name`: what is newer is set aside, as DIR/NAME.abandoned, which nobody lists or sweeps; and so is what
 * cannot be believed, for it may be newer. @return how many were, or RT_EUSAGE, RT_EFILE */
int rt_store_roll_back(const char *dir, const char *name);

/* Whoever cannot go on from `name`, and can from an older one, has it set aside, as DIR/NAME.damaged: then nobody goes on from it, and
 * all of a job go on from the same. One that is not there any more is set aside already. RT_EFILE, RT_EUSAGE */
int rt_store_set_aside(const char *dir, const char *name);

/* All checkpoints, the newest (by attempt) first. One whose manifest cannot be believed has none and says why; it
 * stands behind all others. */
struct rt_stored {
    char *name;
    struct rt_manifest *manifest; /* NULL: */
    char *why; /* a reader may put one beside a manifest whose files are damaged (rt_free) */
};
struct rt_store_list {
    struct rt_stored *at; /* [n] */
    size_t n;
};
/* RT_EFILE, RT_ENOMEM: also where a single manifest could not be read, for it may be the newest; RT_ELIMIT. */
int rt_store_list(const char *dir, struct rt_store_list *out);
void rt_store_list_release(struct rt_store_list *list);
/* Is this one still there? 1: yes; 0: it is gone, or another is in its place; RT_EFILE, RT_ENOMEM: nobody knows. */
int rt_store_is_there(const char *dir, const struct rt_manifest *manifest);
/* The checkpoint list->at[which] and all that it needs: indices, the full one first; *n of at most RT_STORE_CHAIN_MAX.
 * RT_EDATA says which is missing. */
int rt_store_chain(const struct rt_store_list *list, size_t which, size_t *chain, size_t *n);
/* Is checkpoint `name`, as of that attempt, there with all that it needs: manifests that can be believed, files as long as those say? No
 * others are looked at. RT_EDATA and RT_EFILE name what is not; RT_EUSAGE: a manifest of another version; RT_ENOMEM */
int rt_store_check_whole(const char *dir, const char *name, uint64_t attempt);

/* Is list->at[which] of the run that the newest one is of, as far as both know? Older ones of another run are those of a job that
 * was begun anew since: nobody goes on from them by himself. */
bool rt_store_same_run(const struct rt_store_list *list, size_t which);
/* The run of the newest one began by --restore=none: that was obeyed then. 1, 0, or RT_EFILE, RT_ENOMEM, RT_ELIMIT */
int rt_store_begun_anew(const char *dir);

/* Read everything of one checkpoint (not of its base): sizes, digests, blocks, that files are those of the manifest, that owners' shards
 * tile all. RT_EDATA, RT_EFILE: file, offset, reason; RT_EUSAGE. @read: called with bytes read so far; may be NULL. */
typedef void (*rt_store_read_fn)(void *ctx, uint64_t bytes);
int rt_store_verify(const char *dir, const struct rt_manifest *manifest, const struct rt_job *job,
                    rt_store_read_fn read, void *ctx);
/* The same of one of its files. */
int rt_store_verify_file(const char *dir, const struct rt_manifest *manifest, size_t file,
                         const struct rt_job *job, rt_store_read_fn read, void *ctx);

/* Are all files of one checkpoint there, and as long as its manifest says? RT_EDATA, RT_EFILE. Quick: nothing is read. */
int rt_store_check_there(const char *dir, const struct rt_manifest *manifest);
/* For who reads a row file himself. It is open: is it the part that the manifest has it for? Its last block was read: is it all of
 * that? @path: for the text. RT_EDATA. */
int rt_store_check_head(const struct rt_manifest *manifest, const char *path,
                        const struct rt_manifest_file *file, const struct rt_rowfile *rows);
int rt_store_check_end(const char *path, const struct rt_manifest_file *file,
                       const struct rt_rowfile *rows);

/* The file of a checkpoint, for reading: under DIR/NAME. Caller frees (rt_free). RT_EFILE: there is none, or nobody knows; RT_EDATA: it
 * is a link, or else no file; RT_EUSAGE: that is no name. */
int rt_store_path(const char *dir, const char *name, const char *file, char **out);

/* Which checkpoint is meant: `latest`, the newest that is whole by its manifest (its files are there, as long as it says) and of this
 * job, with the chain it needs; or that name. What was passed over, and why, is logged as a warning. RT_EUSAGE: there is none at all
 * (of that name), or that one is of another job; RT_EDATA: there are, but `latest` finds none that can be used, or that one cannot;
 * RT_EFILE, RT_ENOMEM. */
int rt_store_choose(const char *dir, const char *which, const struct rt_job *job, char **name);

#endif
