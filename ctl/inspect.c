/* ctl/inspect.c -- see inspect.h. Everything is the manifest's, but the shapes of tables, which stand in the head of a row file. */
#include "ctl/inspect.h"
#include "ctl/amount.h"
#include "ctl/checkpoints.h"
#include "ctl/finished.h"
#include "ctl/fold.h"
#include "ctl/progress.h"
#include "ctl/target.h"
#include "runtime/base/err.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

struct inspected {
    const struct rt_manifest *manifest;
    struct ctl_fold fold; /* its chain and the shapes of its tables; no rows */
    struct ctl_finished finished;
    uint64_t rows_read, rows_quarantined;
};

/* ---- as a page ---- */

static void print_page_head(const struct inspected *it)
{
    const struct rt_manifest *manifest = it->manifest;
    char made[CTL_TIME_BYTES], step[32], age[32];

    printf("checkpoint  %s, %s%s\n", manifest->name, manifest->base ? "goes on from " : "full",
           manifest->base ? manifest->base_name : "");
    if (manifest->suspect)
        printf("suspect     made while the loss or the gradients stood above what was usual\n");
    printf("job         %s, %s%s, seed %" PRIu64 "; saffron %s\n", manifest->job, manifest->mode,
           manifest->exact ? ", exact" : "", manifest->seed, manifest->version);
    printf("made        %s, attempt %" PRIu64 ", generation %" PRIu64 "%s\n",
           ctl_checkpoint_time(manifest->made_ms, made), manifest->attempt, manifest->generation,
           manifest->named ? "; asked for: it stays" : "");
    printf("run         %016" PRIx64 "%s\n", manifest->run,
           manifest->anew ? ", begun by --restore=none" : "");
    printf("step        %s, age %s, epoch %" PRIu64 ", learning factor %g\n",
           ctl_thousands((double)manifest->step, step, sizeof(step)),
           ctl_thousands((double)manifest->age, age, sizeof(age)), manifest->epoch,
           manifest->learning_factor);
    printf("trainers    %u, of %u threads, on %s\n", manifest->world, manifest->threads,
           manifest->cpu);
    printf("hashes      config %016" PRIx64 ", data plan %016" PRIx64 ", tables %016" PRIx64 "\n",
           manifest->config_hash, manifest->plan_hash, manifest->row_job);
}

static void print_ledger(const struct inspected *it)
{
    char done[32], holes[32], read[32], bad[32], samples[32], dropped[32];

    printf("ledger      %u of %u splits, %s batches finished, holes %s\n", it->manifest->n_ledger,
           it->manifest->splits, ctl_thousands((double)it->finished.batches, done, sizeof(done)),
           ctl_thousands((double)it->finished.holes, holes, sizeof(holes)));
    printf(
        "data        %s samples trained, %s dropped, in %.0f s; of splits that have ended %s rows "
        "read, %s quarantined\n",
        ctl_thousands((double)it->manifest->samples_trained, samples, sizeof(samples)),
        ctl_thousands((double)it->manifest->samples_dropped, dropped, sizeof(dropped)),
        (double)it->manifest->train_ms * 1e-3,
        ctl_thousands((double)it->rows_read, read, sizeof(read)),
        ctl_thousands((double)it->rows_quarantined, bad, sizeof(bad)));
}

static void print_tables(const struct inspected *it)
{
    printf("\n%-20s %5s %-16s %13s %11s %13s %8s  %s\n", "TABLE", "DIM", "OPTIMIZER", "ROWS",
           "REMOVED", "LIVE", "BYTES", "DIGEST");
    for (uint32_t t = 0; t < it->manifest->n_tables && t < it->fold.n_tables; t++) {
        const struct rt_manifest_table *table = &it->manifest->table[t];
        const struct ctl_fold_table *shape = &it->fold.table[t];
        char rows[32], removed[32], live[32], bytes[CTL_AMOUNT_MAX];

        printf("%-20s %5u %-16s %13s %11s %13s %8s  %016" PRIx64 "\n", table->name, shape->dim,
               shape->optimizer, ctl_thousands((double)table->rows, rows, sizeof(rows)),
               ctl_thousands((double)table->removed, removed, sizeof(removed)),
               ctl_thousands((double)table->live, live, sizeof(live)),
               ctl_amount((double)table->rows * shape->layout.row_bytes, "B", bytes),
               table->digest);
    }
}

static void print_files(const struct rt_manifest *manifest)
{
    printf("\n%-26s %-7s %-14s %8s %13s %8s  %s\n", "FILE", "OWNER", "SHARDS", "BYTES", "LIVE",
           "OF BYTES", "DIGEST");
    for (uint32_t k = 0; k < manifest->n_files; k++) {
        const struct rt_manifest_file *file = &manifest->file[k];
        char owner[16] = "-", shards[32] = "-", bytes[CTL_AMOUNT_MAX], live[32] = "-",
             of[CTL_AMOUNT_MAX];

        if (file->is_rows) {
            snprintf(owner, sizeof(owner), "%u", file->owner);
            snprintf(shards, sizeof(shards), "%u..%u", file->shard_first, file->shard_end - 1);
        }
        if (file->knows_live)
            ctl_thousands((double)file->live, live, sizeof(live));
        printf("%-26s %-7s %-14s %8s %13s %8s  %016" PRIx64 "\n", file->name, owner, shards,
               ctl_amount((double)file->bytes, "B", bytes), live,
               file->knows_live ? ctl_amount((double)file->live_bytes, "B", of) : "-",
               file->digest);
    }
}

static void print_page(const struct inspected *it)
{
    print_page_head(it);
    print_ledger(it);
    print_tables(it);
    print_files(it->manifest);
}

/* ---- as JSON: what may have 64 bits is a text of 16 hex digits, as in the manifest ---- */

static json_t *hex(uint64_t value)
{
    char text[17];

    snprintf(text, sizeof(text), "%016" PRIx64, value);
    return json_string(text);
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *json_tables(const struct inspected *it)
{
    json_t *list = json_array();

    for (uint32_t t = 0; t < it->manifest->n_tables && t < it->fold.n_tables; t++) {
        const struct rt_manifest_table *table = &it->manifest->table[t];
        const struct ctl_fold_table *shape = &it->fold.table[t];

        json_array_append_new(
            list,
            json_pack("{s:s, s:i, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "name", table->name, "dim",
                      (int)shape->dim, "dtype", rt_dtype_name(shape->dtype), "optimizer",
                      shape->optimizer, "rows", number(table->rows), "removed",
                      number(table->removed), "live", number(table->live), "bytes",
                      number(table->rows * shape->layout.row_bytes), "digest", hex(table->digest)));
    }
    return list;
}

static json_t *json_files(const struct rt_manifest *manifest)
{
    json_t *list = json_array();

    for (uint32_t k = 0; k < manifest->n_files; k++) {
        const struct rt_manifest_file *file = &manifest->file[k];
        json_t *entry = json_pack("{s:s, s:o, s:o}", "name", file->name, "bytes",
                                  number(file->bytes), "digest", hex(file->digest));

        if (file->is_rows) {
            json_object_set_new(entry, "owner", number(file->owner));
            json_object_set_new(entry, "shard_first", number(file->shard_first));
            json_object_set_new(entry, "shard_end", number(file->shard_end));
        }
        if (file->knows_live) {
            json_object_set_new(entry, "live", number(file->live));
            json_object_set_new(entry, "live_bytes", number(file->live_bytes));
        }
        json_array_append_new(list, entry);
    }
    return list;
}

static json_t *json_chain(const struct ctl_fold *fold)
{
    json_t *list = json_array();

    for (size_t i = 0; i < fold->n_chain; i++)
        json_array_append_new(list, json_string(fold->from->list.at[fold->chain[i]].name));
    return list;
}

static json_t *json_parts(const struct rt_manifest *manifest)
{
    static const char *const name[WIRE_PART_COUNT] = {[WIRE_PART_GLOBAL] = "global",
                                                      [WIRE_PART_EMBEDDING] = "embedding",
                                                      [WIRE_PART_DATA] = "data",
                                                      [WIRE_PART_FILES] = "files",
                                                      [WIRE_PART_MODEL] = "model"};
    json_t *parts = json_object();

    for (int part = 0; part < WIRE_PART_COUNT; part++)
        json_object_set_new(parts, name[part], hex(manifest->part_hash[part]));
    return parts;
}

static json_t *json_of(const struct inspected *it)
{
    const struct rt_manifest *m = it->manifest;
    json_t *out =
        json_pack("{s:s, s:o, s:s, s:o, s:o, s:s, s:s, s:o, s:s, s:b, s:s, s:i, s:i, s:i, s:i}",
                  "name", m->name, "attempt", number(m->attempt), "goes_on_from", m->base_name,
                  "chain", json_chain(&it->fold), "made_ms", number(m->made_ms), "job", m->job,
                  "version", m->version, "seed", hex(m->seed), "mode", m->mode, "exact",
                  (int)m->exact, "cpu", m->cpu, "world", (int)m->world, "threads", (int)m->threads,
                  "splits", (int)m->splits, "owners", (int)m->owners);
    json_t *rest =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:o, s:o, s:o, s:o, s:b}", "generation",
                  number(m->generation), "step", number(m->step), "age", number(m->age), "imports",
                  number(m->imports), "epoch", number(m->epoch), "pass", number(m->pass), "phase",
                  number(m->phase), "learning_factor", m->learning_factor, "samples_trained",
                  number(m->samples_trained), "samples_dropped", number(m->samples_dropped),
                  "batches_trained", number(m->batches_trained), "batches_dropped",
                  number(m->batches_dropped), "suspect", (int)m->suspect);

    json_object_update(out, rest);
    json_decref(rest);
    json_object_set_new(out, "run", hex(m->run));
    json_object_set_new(out, "anew", json_boolean(m->anew));
    json_object_set_new(out, "named", json_boolean(m->named));
    json_object_set_new(out, "train_seconds", json_real((double)m->train_ms * 1e-3));
    json_object_set_new(out, "ledger",
                        json_pack("{s:o, s:o, s:o, s:o, s:o}", "splits", number(m->n_ledger),
                                  "batches_finished", number(it->finished.batches), "holes",
                                  number(it->finished.holes), "rows_read", number(it->rows_read),
                                  "rows_quarantined", number(it->rows_quarantined)));
    json_object_set_new(out, "hashes",
                        json_pack("{s:o, s:o, s:o, s:o}", "config", hex(m->config_hash), "plan",
                                  hex(m->plan_hash), "tables", hex(m->row_job), "parts",
                                  json_parts(m)));
    json_object_set_new(out, "tables", json_tables(it));
    json_object_set_new(out, "files", json_files(m));
    return out;
}

static void print_json(const struct inspected *it)
{
    json_t *out = json_of(it);
    char *text = json_dumps(out, JSON_INDENT(2));

    puts(text ? text : "{}");
    free(text); /* jansson's, from its allocator */
    json_decref(out);
}

/* ---- the command ---- */

enum option_key { KEY_JSON = 512 };

struct inspecting {
    struct ctl_words words;
    bool json;
};

static const struct argp_option option[] = {
    {"json", KEY_JSON, NULL, 0, "for programs: the same and more, as JSON", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct inspecting *inspecting = state->input;

    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &inspecting->words;
        return 0;
    case KEY_JSON:
        inspecting->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int inspect(const struct inspecting *inspecting, const struct ctl_checkpoints *from)
{
    struct inspected it = {0};
    size_t which;
    int err = ctl_checkpoints_one(from, &which);

    if (!err)
        err = ctl_fold_open(from, which, NULL, &it.fold);
    if (!err) {
        it.manifest = ctl_fold_manifest(&it.fold);
        it.finished = ctl_finished_count(it.manifest->ledger, it.manifest->n_ledger);
        for (uint32_t s = 0; s < it.manifest->n_ledger; s++) {
            it.rows_read += it.manifest->ledger[s].rows_read;
            it.rows_quarantined += it.manifest->ledger[s].rows_quarantined;
        }
        (inspecting->json ? print_json : print_page)(&it);
    }
    ctl_fold_close(&it.fold);
    return err;
}

int ctl_inspect(int argc, char **argv)
{
    static const struct argp_child child[] = {{.argp = &ctl_words_argp}, {0}};
    static const struct argp argp = {
        .options = option,
        .parser = parse,
        .args_doc = "DIR [NAME]",
        .children = child,
        .doc = "What a checkpoint is: its job, its step, which batches are in it, its tables and "
               "files. Without NAME the newest of the folder.\vRows are not read: that is `saffron "
               "verify`."};
    struct inspecting inspecting = {.words = {.expected = "DIR [NAME]", .least = 1, .most = 2}};
    struct ctl_checkpoints from;
    int err;

    argp_parse(&argp, argc, argv, 0, NULL, &inspecting);
    err = ctl_checkpoints_open(inspecting.words.word[0], inspecting.words.word[1], &from);
    if (err)
        return ctl_target_complain(err);
    err = inspect(&inspecting, &from);
    ctl_checkpoints_close(&from);
    return err ? ctl_target_complain(err) : 0;
}
