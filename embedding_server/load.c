/* embedding_server/load.c -- see load.h. */
#include "embedding_server/load.h"
#include "embedding_server/saved.h"
#include "embedding_server/serve.h"
#include "runtime/base/err.h"
#include "runtime/job/layout.h"

static struct ebs_owner *owner_of(struct ebs_owner *const *owner, uint32_t n, uint64_t id)
{
    uint32_t shard = rt_shard_of(id);

    for (uint32_t i = 0; i < n; i++)
        if (shard >= owner[i]->shard_first && shard < owner[i]->shard_end)
            return owner[i];
    return NULL;
}

/* An owner whose table or memory is full, and may evict, has the rows that came first: of fewer owners one had more of
 * them. */
int ebs_load_piece(const struct ebs_saved_piece *piece, struct ebs_owner *const *owner, uint32_t n,
                   struct ebs_loaded *out)
{
    const struct rt_table_conf *conf = &owner[0]->conf.job->table[piece->table];
    uint32_t state = rt_state_count(&conf->optimizer, conf->dim);

    for (size_t i = 0; i < piece->n; i++) {
        struct ebs_owner *whose = owner_of(owner, n, piece->id[i]);
        int err;

        if (!whose)
            continue;
        err = ebs_table_put(whose->table[piece->table], piece->id[i], piece->weight + i * conf->dim,
                            piece->state ? piece->state + i * state : NULL);
        if (err && ((err != RT_ELIMIT && err != RT_EFULL) || conf->eviction.kind == RT_EVICT_NONE))
            return rt_fail_prefix(err, "%s: ", piece->path);
        out->left_out += err != 0;
        out->rows += err == 0;
        out->with_state += err == 0 && piece->state;
    }
    return 0;
}

int ebs_load(const char *dir, bool fresh, struct ebs_owner *const *owner, uint32_t n,
             struct ebs_loaded *out)
{
    const struct rt_job *job = owner[0]->conf.job;
    struct ebs_saved_piece piece;
    struct ebs_saved *saved = NULL;
    int more, err = ebs_saved_open(dir, job, fresh, &saved);

    *out = (struct ebs_loaded){0};
    while (!err && (more = ebs_saved_next(saved, &piece)) != 0)
        err = more < 0 ? more : ebs_load_piece(&piece, owner, n, out);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t t = 0; t < job->n_tables; t++)
            ebs_count_table(owner[i], t);
    out->files = saved ? ebs_saved_files(saved) : 0;
    ebs_saved_close(saved);
    return err;
}
