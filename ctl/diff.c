/* ctl/diff.c -- see diff.h.
 *
 * Rows are compared as the two checkpoints stand for them, increments folded (ctl/fold.h): a pass over a range of shards at a time, so
 * that both sides' rows of it fit the memory that may be used. Of a row its weights and state count, as in its digest: `touched` and
 * `frequency` are on an owner's own clock. */
#include "ctl/diff.h"
#include "ctl/amount.h"
#include "ctl/diff_dense.h"
#include "ctl/finished.h"
#include "ctl/fold.h"
#include "ctl/progress.h"
#include "ctl/target.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define STATUS_DIFFERENT 1
#define STATUS_ERROR     2

struct side {
    struct ctl_checkpoints from;
    struct ctl_fold fold;
    const struct rt_manifest *manifest;
};

struct row_diff {
    uint64_t equal, different, only_a, only_b;
};

struct diffing {
    struct ctl_words words;
    double memory; /* bytes of rows */
    struct side a, b;
    struct ctl_reading reading;
    struct row_diff *rows; /* [tables of a] */
    uint64_t n;            /* of differences, whatever they are in */
};

/* ---- rows ---- */

/* The same table of the other side; NULL: it has none of that name. */
static const struct ctl_fold_table *find_table(const struct ctl_fold *fold, const char *name)
{
    for (uint32_t t = 0; t < fold->n_tables; t++)
        if (strcmp(fold->table[t].name, name) == 0)
            return &fold->table[t];
    return NULL;
}

static bool comparable(const struct ctl_fold_table *a, const struct ctl_fold_table *b)
{
    return a->dim == b->dim && a->dtype == b->dtype && strcmp(a->optimizer, b->optimizer) == 0;
}

static void compare_rows(const struct ctl_fold_table *a, const struct ctl_fold_table *b,
                         struct row_diff *out)
{
    size_t bytes = a->layout.row_bytes - a->layout.weight;
    uint64_t in_both = 0;

    for (uint64_t i = 0; i < a->n; i++) {
        const uint8_t *row = ctl_fold_row(a, i), *other = ctl_fold_find(b, ctl_fold_id(row));

        if (!other) {
            out->only_a++;
            continue;
        }
        in_both++;
        if (memcmp(row + a->layout.weight, other + b->layout.weight, bytes) == 0)
            out->equal++;
        else
            out->different++;
    }
    out->only_b += b->n - in_both;
}

static int compare_shards(struct diffing *diffing, uint32_t first, uint32_t end)
{
    int err = ctl_fold_take(&diffing->a.fold, first, end);

    if (!err)
        err = ctl_fold_take(&diffing->b.fold, first, end);
    for (uint32_t t = 0; t < diffing->a.fold.n_tables && !err; t++) {
        const struct ctl_fold_table *a = &diffing->a.fold.table[t];
        const struct ctl_fold_table *b = find_table(&diffing->b.fold, a->name);

        if (b && comparable(a, b))
            compare_rows(a, b, &diffing->rows[t]);
    }
    return err;
}

static int compare_all_rows(struct diffing *diffing)
{
    struct ctl_fold *a = &diffing->a.fold, *b = &diffing->b.fold;
    struct rt_shard_map map;
    int err =
        ctl_fold_passes(ctl_fold_memory(a) + ctl_fold_memory(b), (uint64_t)diffing->memory, &map);

    if (err)
        return err;
    diffing->rows = rt_xcalloc((size_t)a->n_tables + 1, sizeof(*diffing->rows));
    ctl_reading_begin(&diffing->reading, "comparing",
                      ctl_fold_bytes(a, &map) + ctl_fold_bytes(b, &map));
    for (uint32_t k = 0; k < map.owners && !err; k++)
        err = compare_shards(diffing, rt_shard_first(&map, k), rt_shard_first(&map, k + 1));
    ctl_reading_end(&diffing->reading);
    return err;
}

static void print_table(struct diffing *diffing, uint32_t t)
{
    const struct ctl_fold_table *a = &diffing->a.fold.table[t];
    const struct ctl_fold_table *b = find_table(&diffing->b.fold, a->name);
    const struct row_diff *rows = &diffing->rows[t];
    char equal[32], different[32], only_a[32], only_b[32];

    if (!b || !comparable(a, b)) {
        printf("%-24s %s\n", a->name, b ? "is another in B: dim, dtype or optimizer" : "only in A");
        diffing->n++;
        return;
    }
    diffing->n += rows->different + rows->only_a + rows->only_b;
    printf("%-24s %13s %13s %13s %13s\n", a->name,
           ctl_thousands((double)rows->equal, equal, sizeof(equal)),
           ctl_thousands((double)rows->different, different, sizeof(different)),
           ctl_thousands((double)rows->only_a, only_a, sizeof(only_a)),
           ctl_thousands((double)rows->only_b, only_b, sizeof(only_b)));
}

static void print_tables(struct diffing *diffing)
{
    printf("\n%-24s %13s %13s %13s %13s\n", "TABLE", "EQUAL ROWS", "DIFFERENT", "ONLY IN A",
           "ONLY IN B");
    for (uint32_t t = 0; t < diffing->a.fold.n_tables; t++)
        print_table(diffing, t);
    for (uint32_t t = 0; t < diffing->b.fold.n_tables; t++) {
        if (find_table(&diffing->a.fold, diffing->b.fold.table[t].name))
            continue;
        printf("%-24s only in B\n", diffing->b.fold.table[t].name);
        diffing->n++;
    }
}

/* ---- tensors ---- */

static void print_tensor(void *ctx, const struct ctl_tensor_diff *diff)
{
    char values[32], different[32], largest[32];

    (void)ctx;
    ctl_thousands((double)diff->values, values, sizeof(values));
    if (diff->only_a || diff->only_b || diff->other_shape) {
        printf("%-40s %11s  %s\n", diff->name, values,
               diff->other_shape ? "is of another shape in B"
               : diff->only_a    ? "only in A"
                                 : "only in B");
        return;
    }
    snprintf(largest, sizeof(largest), "%.3g", diff->largest);
    printf("%-40s %11s %13s %s\n", diff->name, values,
           ctl_thousands((double)diff->different, different, sizeof(different)),
           diff->different > 0 ? largest : "-");
}

/* @return 1: it is in the manifest, and good; 0: it has none of that name */
static int open_dense(const struct side *side, const char *name, struct rt_safetensors **out)
{
    const struct rt_manifest *manifest = side->manifest;
    const struct rt_manifest_file *file = ctl_checkpoint_file(manifest, name);
    char *path = NULL;
    int err;

    if (!file)
        return 0;
    err = rt_store_verify_file(side->from.dir, manifest, (size_t)(file - manifest->file), NULL,
                               NULL, NULL);
    if (!err)
        err = rt_store_path(side->from.dir, manifest->name, name, &path);
    if (!err)
        err = rt_safetensors_open(path, out);
    rt_free(path);
    return err ? err : 1;
}

static int compare_dense(struct diffing *diffing, const char *name)
{
    struct rt_safetensors *a = NULL, *b = NULL;
    int in_a = open_dense(&diffing->a, name, &a);
    int in_b = in_a < 0 ? in_a : open_dense(&diffing->b, name, &b);
    int64_t n = 0;

    if (in_b < 0) {
        n = in_b;
    } else if (in_a != in_b) {
        printf("\n%s: only in %s\n", name, in_a ? "A" : "B");
        n = 1;
    } else if (in_a) {
        printf("\n%-40s %11s %13s %s\n", name, "VALUES", "DIFFERENT", "BY AT MOST");
        n = ctl_diff_tensors(a, b, print_tensor, NULL);
    }
    rt_safetensors_close(a);
    rt_safetensors_close(b);
    diffing->n += n > 0 ? (uint64_t)n : 0;
    return n < 0 ? (int)n : 0;
}

/* ---- where training is ---- */

static void print_pair(struct diffing *diffing, const char *what, uint64_t a, uint64_t b)
{
    char of_a[32], of_b[32];

    printf("%-20s %-30s %s\n", what, ctl_thousands((double)a, of_a, sizeof(of_a)),
           ctl_thousands((double)b, of_b, sizeof(of_b)));
    diffing->n += a != b;
}

static void print_state(struct diffing *diffing)
{
    const struct rt_manifest *a = diffing->a.manifest, *b = diffing->b.manifest;
    uint64_t both = ctl_finished_both(a->ledger, a->n_ledger, b->ledger, b->n_ledger);
    uint64_t only_a = ctl_finished_count(a->ledger, a->n_ledger).batches - both;
    uint64_t only_b = ctl_finished_count(b->ledger, b->n_ledger).batches - both;
    char of_a[32], of_b[32];

    printf("%-20s %-30s %s\n", "", "A", "B");
    printf("%-20s %-30s %s\n", "checkpoint", a->name, b->name);
    print_pair(diffing, "step", a->step, b->step);
    print_pair(diffing, "age", a->age, b->age);
    print_pair(diffing, "epoch", a->epoch, b->epoch);
    printf("%-20s %-30s %s\n", "finished, only here",
           ctl_thousands((double)only_a, of_a, sizeof(of_a)),
           ctl_thousands((double)only_b, of_b, sizeof(of_b)));
    diffing->n += only_a + only_b;
}

/* ---- the command ---- */

static int open_side(struct diffing *diffing, const char *dir, struct side *side)
{
    size_t which;
    int err = ctl_checkpoints_open(dir, NULL, &side->from);

    if (!err)
        err = ctl_checkpoints_one(&side->from, &which);
    if (!err)
        err = ctl_fold_open(&side->from, which, &diffing->reading, &side->fold);
    if (!err)
        side->manifest = ctl_fold_manifest(&side->fold);
    return err;
}

static void close_side(struct side *side)
{
    ctl_fold_close(&side->fold);
    if (side->from.dir)
        ctl_checkpoints_close(&side->from);
}

static int compare(struct diffing *diffing)
{
    int err = open_side(diffing, diffing->words.word[0], &diffing->a);

    if (!err)
        err = open_side(diffing, diffing->words.word[1], &diffing->b);
    if (!err)
        err = compare_all_rows(diffing);
    if (err)
        return err;
    print_state(diffing);
    print_tables(diffing);
    err = compare_dense(diffing, "dense.safetensors");
    return err ? err : compare_dense(diffing, "dense_state.safetensors");
}

enum option_key { KEY_MEMORY = 512 };

static const struct argp_option option[] = {
    {"memory", KEY_MEMORY, "BYTES", 0,
     "of rows at a time, of both together (default " CTL_FOLD_MEMORY
     "): with less the files are read more often",
     0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct diffing *diffing = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &diffing->words;
        return 0;
    case KEY_MEMORY:
        ctl_fold_memory_option(state, arg, &diffing->memory);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int ctl_diff(int argc, char **argv)
{
    static const struct argp_child child[] = {{.argp = &ctl_words_argp}, {0}};
    static const struct argp argp = {
        .options = option,
        .parser = parse,
        .args_doc = "A B",
        .children = child,
        .doc = "What two checkpoints differ in: rows, dense weights and state, finished batches. A "
               "and B are their folders; of a folder of checkpoints, the newest. Increments count "
               "for all that they stand for.\vExit status: 0 equal, 1 different, 2 an error."};
    struct diffing diffing = {.words = {.expected = "A B", .least = 2, .most = 2},
                              .memory = CTL_FOLD_MEMORY_BYTES};
    int err;

    argp_parse(&argp, argc, argv, 0, NULL, &diffing);
    err = compare(&diffing);
    if (err)
        ctl_target_complain(err);
    else
        puts(diffing.n == 0 ? "\nequal" : "\ndifferent");
    close_side(&diffing.a);
    close_side(&diffing.b);
    rt_free(diffing.rows);
    if (err)
        return STATUS_ERROR;
    return diffing.n > 0 ? STATUS_DIFFERENT : 0;
}
