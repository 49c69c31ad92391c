/* runtime/checkpoint/manifest.c -- a manifest as text.
 *
 * DESIGN: what is a number, a text or a list of them stands in tables of fields, by which one is written and read: the two cannot
 * differ. A reader first looks whether the text ends in its own digest; so what is damaged is told as that, and what comes after it
 * - keys that are missing, or more than there are - can only be another program's, or a forgery, and is refused as strictly. */
#include "runtime/checkpoint/manifest.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/checkpoint/fields.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/wire/member.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DIGEST_HEAD "  \"digest\": \""
#define DIGEST_TAIL "\"\n}\n"
#define HEX_DIGITS  16
#define HEAD_BYTES  (sizeof(DIGEST_HEAD) - 1)
#define END_BYTES   (HEAD_BYTES + HEX_DIGITS + sizeof(DIGEST_TAIL) - 1)
#define LISTS       4u /* ledger, statistics, tables, files */
#define THREADS_MAX 65536u

#define AT(member) offsetof(struct rt_manifest, member)
static const struct rt_field scalars[] = {
    {"name", RT_FIELD_TEXT, AT(name), 1, RT_JOB_NAME_MAX, 0},
    {"attempt", RT_FIELD_COUNT, AT(attempt), 1, RT_COUNT_MAX, 0},
    {"base", RT_FIELD_COUNT, AT(base), 0, RT_COUNT_MAX, 0},
    {"base_name", RT_FIELD_TEXT, AT(base_name), 0, RT_JOB_NAME_MAX, 0},
    {"made_ms", RT_FIELD_COUNT, AT(made_ms), 0, RT_COUNT_MAX, 0},
    {"job", RT_FIELD_TEXT, AT(job), 1, WIRE_TEXT_MAX, 0},
    {"program", RT_FIELD_TEXT, AT(version), 0, WIRE_TEXT_MAX, 0},
    {"config_hash", RT_FIELD_HEX, AT(config_hash), 0, 0, 0},
    {"plan_hash", RT_FIELD_HEX, AT(plan_hash), 0, 0, 0},
    {"hash_of_global", RT_FIELD_HEX, AT(part_hash[WIRE_PART_GLOBAL]), 0, 0, 0},
    {"hash_of_embedding", RT_FIELD_HEX, AT(part_hash[WIRE_PART_EMBEDDING]), 0, 0, 0},
    {"hash_of_data", RT_FIELD_HEX, AT(part_hash[WIRE_PART_DATA]), 0, 0, 0},
    {"hash_of_files", RT_FIELD_HEX, AT(part_hash[WIRE_PART_FILES]), 0, 0, 0},
    {"hash_of_model", RT_FIELD_HEX, AT(part_hash[WIRE_PART_MODEL]), 0, 0, 0},
    {"row_job", RT_FIELD_HEX, AT(row_job), 0, 0, 0},
    {"seed", RT_FIELD_HEX, AT(seed), 0, 0, 0},
    {"mode", RT_FIELD_TEXT, AT(mode), 1, WIRE_TEXT_MAX, 0},
    {"exact", RT_FIELD_FLAG, AT(exact), 0, 0, 0},
    {"cpu", RT_FIELD_TEXT, AT(cpu), 0, WIRE_TEXT_MAX, 0},
    {"world", RT_FIELD_U32, AT(world), 1, WIRE_WORLD_MAX, 0},
    {"splits", RT_FIELD_U32, AT(splits), 1, WIRE_SPLITS_MAX, 0},
    {"threads", RT_FIELD_U32, AT(threads), 0, THREADS_MAX, 0},
    {"owners", RT_FIELD_U32, AT(owners), 1, RT_OWNERS_MAX, 0},
    {"generation", RT_FIELD_COUNT, AT(generation), 0, RT_COUNT_MAX, 0},
    {"step", RT_FIELD_COUNT, AT(step), 0, RT_COUNT_MAX, 0},
    {"age", RT_FIELD_COUNT, AT(age), 0, RT_COUNT_MAX, 0},
    {"imports", RT_FIELD_COUNT, AT(imports), 0, RT_COUNT_MAX, 0},
    {"epoch", RT_FIELD_COUNT, AT(epoch), 0, RT_COUNT_MAX, 0},
    {"pass", RT_FIELD_COUNT, AT(pass), 0, RT_COUNT_MAX, 0},
    {"phase", RT_FIELD_COUNT, AT(phase), 0, RT_COUNT_MAX, 0},
    {"learning_factor", RT_FIELD_REAL, AT(learning_factor), 0, 0, 0},
    {"samples_trained", RT_FIELD_COUNT, AT(samples_trained), 0, RT_COUNT_MAX, 0},
    {"samples_dropped", RT_FIELD_COUNT, AT(samples_dropped), 0, RT_COUNT_MAX, 0},
    {"batches_trained", RT_FIELD_COUNT, AT(batches_trained), 0, RT_COUNT_MAX, 0},
    {"batches_dropped", RT_FIELD_COUNT, AT(batches_dropped), 0, RT_COUNT_MAX, 0},
    {"epoch_loss_sum", RT_FIELD_LOSS, AT(epoch_loss_sum), 0, 0, 0},
    {"epoch_samples", RT_FIELD_COUNT, AT(epoch_samples), 0, RT_COUNT_MAX, 0},
};
/* Since version 2. */
static const struct rt_field later[] = {
    {"run", RT_FIELD_HEX, AT(run), 0, 0, 0},
    {"anew", RT_FIELD_FLAG, AT(anew), 0, 0, 0},
    {"named", RT_FIELD_FLAG, AT(named), 0, 0, 0},
    {"train_ms", RT_FIELD_COUNT, AT(train_ms), 0, RT_COUNT_MAX, 0},
    {"suspect", RT_FIELD_FLAG, AT(suspect), 0, 0, 0},
};
#undef AT
_Static_assert(WIRE_PART_COUNT == 5, "each part's hash is a field");

#define AT(member) offsetof(struct wire_split_ledger, member)
static const struct rt_field ledger_fields[] = {
    {"split", RT_FIELD_U32, AT(split), 0, WIRE_SPLITS_MAX - 1, 0},
    {"stepped_low", RT_FIELD_COUNT, AT(stepped_low), 0, WIRE_SEQUENCE_MAX, 0},
    {"stepped", RT_FIELD_BITMAP, AT(stepped), 0, WIRE_BITMAP_MAX, AT(stepped_bytes)},
    {"finished_low", RT_FIELD_COUNT, AT(finished_low), 0, WIRE_SEQUENCE_MAX, 0},
    {"finished", RT_FIELD_BITMAP, AT(finished), 0, WIRE_BITMAP_MAX, AT(finished_bytes)},
    {"rows_read", RT_FIELD_COUNT, AT(rows_read), 0, RT_COUNT_MAX, 0},
    {"rows_quarantined", RT_FIELD_COUNT, AT(rows_quarantined), 0, RT_COUNT_MAX, 0},
    {"end_sequence", RT_FIELD_COUNT, AT(end_sequence), 0, WIRE_SEQUENCE_MAX, 0},
};
#undef AT

#define AT(member) offsetof(struct wire_statistics, member)
static const struct rt_field statistics_fields[] = {
    {"column", RT_FIELD_TEXT, AT(column), 1, WIRE_TEXT_MAX, 0},
    {"mean", RT_FIELD_REAL, AT(mean), 0, 0, 0},
    {"deviation", RT_FIELD_REAL, AT(deviation), 0, 0, 0},
    {"count", RT_FIELD_COUNT, AT(count), 0, RT_COUNT_MAX, 0},
};
#undef AT

#define AT(member) offsetof(struct rt_manifest_table, member)
static const struct rt_field table_fields[] = {
    {"name", RT_FIELD_TEXT, AT(name), 0, RT_ROWFILE_HEAD_MAX, 0},
    {"rows", RT_FIELD_COUNT, AT(rows), 0, RT_COUNT_MAX, 0},
    {"removed", RT_FIELD_COUNT, AT(removed), 0, RT_COUNT_MAX, 0},
    {"live", RT_FIELD_COUNT, AT(live), 0, RT_COUNT_MAX, 0},
    {"digest", RT_FIELD_HEX, AT(digest), 0, 0, 0},
};
#undef AT

#define AT(member)  offsetof(struct rt_manifest_file, member)
#define PLAIN_FILES 3 /* fields of a file that is no owner's */
#define FIRST_FILES 6 /* of an owner's, in version 1 */
static const struct rt_field file_fields[] = {
    {"name", RT_FIELD_TEXT, AT(name), 1, RT_FOLDER_FILE_MAX, 0},
    {"bytes", RT_FIELD_COUNT, AT(bytes), 0, RT_COUNT_MAX, 0},
    {"digest", RT_FIELD_HEX, AT(digest), 0, 0, 0},
    {"owner", RT_FIELD_U32, AT(owner), 0, RT_OWNERS_MAX - 1, 0},
    {"shard_first", RT_FIELD_U32, AT(shard_first), 0, RT_SHARDS - 1, 0},
    {"shard_end", RT_FIELD_U32, AT(shard_end), 1, RT_SHARDS, 0},
    {"live", RT_FIELD_COUNT, AT(live), 0, RT_COUNT_MAX, 0},
    {"live_bytes", RT_FIELD_COUNT, AT(live_bytes), 0, RT_COUNT_MAX, 0},
};
#undef AT

/* ---- writing ---- */

/* Between two entries of a list, or what begins it. */
static void add_comma(struct rt_strbuf *out, const char *key, size_t i)
{
    if (i == 0)
        rt_strbuf_addf(out, "  \"%s\": [", key);
    rt_strbuf_addf(out, "%s\n    ", i == 0 ? "" : ",");
}

static void add_list(struct rt_strbuf *out, const char *key, const struct rt_field *field,
                     size_t n_fields, const void *base, size_t n, size_t size)
{
    if (n == 0)
        rt_strbuf_addf(out, "  \"%s\": [", key);
    for (size_t i = 0; i < n; i++) {
        add_comma(out, key, i);
        rt_fields_write(field, n_fields, (const char *)base + i * size, out);
    }
    rt_strbuf_addf(out, "],\n");
}

static size_t n_file_fields(const struct rt_manifest_file *file, json_int_t version)
{
    return !file->is_rows ? PLAIN_FILES : version > 1 ? ARRAY_LEN(file_fields) : FIRST_FILES;
}

static void add_files(struct rt_strbuf *out, const struct rt_manifest *m)
{
    if (m->n_files == 0)
        rt_strbuf_addf(out, "  \"files\": [");
    for (uint32_t i = 0; i < m->n_files; i++) {
        add_comma(out, "files", i);
        rt_fields_write(file_fields, n_file_fields(&m->file[i], RT_MANIFEST_VERSION), &m->file[i],
                        out);
    }
    rt_strbuf_addf(out, "],\n");
}

void rt_manifest_write(const struct rt_manifest *manifest, struct rt_strbuf *out)
{
    size_t from = out->len;

    rt_strbuf_addf(out, "{\n  \"format\": %u,\n", RT_MANIFEST_VERSION);
    rt_fields_write_lines(scalars, ARRAY_LEN(scalars), manifest, out);
    rt_fields_write_lines(later, ARRAY_LEN(later), manifest, out);
    add_list(out, "ledger", ledger_fields, ARRAY_LEN(ledger_fields), manifest->ledger,
             manifest->n_ledger, sizeof(*manifest->ledger));
    add_list(out, "statistics", statistics_fields, ARRAY_LEN(statistics_fields),
             manifest->statistics, manifest->n_statistics, sizeof(*manifest->statistics));
    add_list(out, "tables", table_fields, ARRAY_LEN(table_fields), manifest->table,
             manifest->n_tables, sizeof(*manifest->table));
    add_files(out, manifest);
    rt_strbuf_addf(out, "%s%016" PRIx64 "%s", DIGEST_HEAD,
                   rt_hash_bytes(out->text + from, out->len - from), DIGEST_TAIL);
}

/* ---- lists, reading ---- */

/* @return [*n] of `size` bytes, or NULL */
static void *read_list(struct rt_fields_reader *r, const json_t *root, const char *key,
                       const struct rt_field *field, size_t n_fields, size_t most, size_t size,
                       uint32_t *n)
{
    const json_t *list = json_object_get(root, key);
    size_t count = json_array_size(list);
    char where[64];
    char *out;

    if (!json_is_array(list) || count > most)
        rt_fields_refuse(r, "", key, "a list, no longer than it can be");
    out = rt_fields_memory(r, count, size);
    for (size_t i = 0; out && i < count && !r->err; i++) {
        snprintf(where, sizeof(where), "%s[%zu].", key, i);
        rt_fields_read(r, json_array_get(list, i), where, field, n_fields, 0, out + i * size);
    }
    *n = (uint32_t)count;
    return out;
}

static struct rt_manifest_file *read_files(struct rt_fields_reader *r, const json_t *root,
                                           json_int_t version, uint32_t *n)
{
    const json_t *list = json_object_get(root, "files");
    size_t count = json_array_size(list);
    struct rt_manifest_file *file;
    char where[64];

    if (!json_is_array(list) || count > RT_OWNERS_MAX + RT_MANIFEST_OTHERS_MAX)
        rt_fields_refuse(r, "", "files", "a list, no longer than it can be");
    file = rt_fields_memory(r, count, sizeof(*file));
    for (size_t i = 0; file && i < count && !r->err; i++) {
        const json_t *entry = json_array_get(list, i);

        snprintf(where, sizeof(where), "files[%zu].", i);
        file[i].is_rows = json_object_get(entry, "owner") != NULL;
        file[i].knows_live = file[i].is_rows && version > 1;
        rt_fields_read(r, entry, where, file_fields, n_file_fields(&file[i], version), 0, &file[i]);
    }
    *n = (uint32_t)count;
    return file;
}

/* ---- what it must be ---- */

static bool is_mode(const char *name)
{
    return strcmp(name, rt_mode_name(RT_MODE_FULL)) == 0 ||
           strcmp(name, rt_mode_name(RT_MODE_HYBRID)) == 0 ||
           strcmp(name, rt_mode_name(RT_MODE_ASYNC)) == 0;
}

static void check_scalars(struct rt_fields_reader *r, const struct rt_manifest *m)
{
    if (!wire_is_token(m->name))
        rt_fields_refuse(r, "", "name", "1 to 63 of A-Z a-z 0-9 _ -");
    if (m->base >= m->attempt)
        rt_fields_refuse(r, "", "base", "an attempt before its own");
    if (m->base == 0 ? m->base_name[0] != '\0' : !wire_is_token(m->base_name))
        rt_fields_refuse(r, "", "base_name", "the name of its base, if it has one");
    if (!is_mode(m->mode))
        rt_fields_refuse(r, "", "mode", "full, hybrid or async");
    if (m->age < m->step)
        rt_fields_refuse(r, "", "age", "at least the step");
    if (m->learning_factor < 0)
        rt_fields_refuse(r, "", "learning_factor", "0 or more");
}

static void check_lists(struct rt_fields_reader *r, const struct rt_manifest *m)
{
    for (uint32_t i = 0; i < m->n_ledger; i++) {
        if (i > 0 && m->ledger[i].split <= m->ledger[i - 1].split)
            rt_fields_refuse(r, "ledger.", "split", "more than the one before");
        if (m->ledger[i].rows_quarantined > m->ledger[i].rows_read)
            rt_fields_refuse(r, "ledger.", "rows_quarantined", "at most rows_read");
    }
    for (uint32_t i = 0; i < m->n_statistics; i++)
        if (m->statistics[i].deviation < 0)
            rt_fields_refuse(r, "statistics.", "deviation", "0 or more");
    if (m->n_tables == 0)
        rt_fields_refuse(r, "", "tables", "at least one");
    for (uint32_t i = 0; i < m->n_tables; i++) {
        const struct rt_manifest_table *t = &m->table[i];

        if (m->base == 0 ? t->rows != t->live || t->removed > 0 : t->rows > t->live)
            rt_fields_refuse(r, "tables.", "live", "the rows of a full checkpoint, or more rows");
    }
}

/* Where owners tell of their rows they have those of the tables together. */
static void check_live(struct rt_fields_reader *r, const struct rt_manifest *m)
{
    uint64_t of_owners = 0, of_tables = 0;

    for (uint32_t i = 0; i < m->owners; i++)
        of_owners += m->file[i].live;
    for (uint32_t t = 0; t < m->n_tables; t++)
        of_tables += m->table[t].live;
    if (m->file[0].knows_live && of_owners != of_tables)
        rt_fields_refuse(r, "files: ", "live", "the live rows of all tables together");
}

/* One file of each owner in their order, whose shards tile all; then some others. */
static void check_files(struct rt_fields_reader *r, const struct rt_manifest *m)
{
    char name[32];
    uint32_t at = 0;

    if (m->n_files < m->owners || m->n_files > m->owners + RT_MANIFEST_OTHERS_MAX)
        rt_fields_refuse(r, "", "files", "one of each owner, and few others");
    for (uint32_t i = 0; i < m->owners && !r->err; i++) {
        const struct rt_manifest_file *f = &m->file[i];

        snprintf(name, sizeof(name), RT_ROWFILE_NAME, i);
        if (!f->is_rows || f->owner != i || strcmp(f->name, name) != 0)
            rt_fields_refuse(r, "files: ", name, "the rows of each owner, in their order");
        if (f->shard_first != at || f->shard_end <= at)
            rt_fields_refuse(r, "files: ", name, "shards that begin where the ones before end");
        at = f->shard_end;
    }
    if (at != RT_SHARDS)
        rt_fields_refuse(r, "", "files", "shards up to 65536");
    if (!r->err)
        check_live(r, m);
    for (uint32_t i = m->owners; i < m->n_files && !r->err; i++) {
        const char *other = m->file[i].name;

        if (m->file[i].is_rows || !rt_folder_is_file_name(other) ||
            strncmp(other, "rows.", 5) == 0 || strcmp(other, RT_MANIFEST_NAME) == 0)
            rt_fields_refuse(r, "files: ", other, "the name of a file that is no owner's");
        for (uint32_t k = m->owners; k < i; k++)
            if (strcmp(other, m->file[k].name) == 0)
                rt_fields_refuse(r, "files: ", other, "each file once");
    }
}

/* ---- reading ---- */

/* Does the text end in the digest of what is before? */
static int check_digest(const char *path, const char *text, size_t size)
{
    const char *end = text + size - END_BYTES;
    uint64_t says = 0, is;

    if (size < END_BYTES || memcmp(end, DIGEST_HEAD, HEAD_BYTES) != 0 ||
        !rt_hex_read(end + HEAD_BYTES, HEX_DIGITS, &says) ||
        memcmp(end + HEAD_BYTES + HEX_DIGITS, DIGEST_TAIL, sizeof(DIGEST_TAIL) - 1) != 0)
        return RT_FAIL(RT_EDATA, "%s: damaged manifest: it does not end in a digest", path);
    is = rt_hash_bytes(text, size - END_BYTES);
    if (is != says)
        return RT_FAIL(RT_EDATA,
                       "%s: damaged manifest: its digest is %016" PRIx64 ", it says %016" PRIx64,
                       path, is, says);
    return 0;
}

static json_int_t version_of(const json_t *root)
{
    return json_integer_value(json_object_get(root, "format"));
}

static int check_version(const char *path, const json_t *root)
{
    json_int_t version = version_of(root);

    if (!json_is_integer(json_object_get(root, "format")))
        return RT_FAIL(RT_EDATA, "%s: damaged manifest: format: expected a number", path);
    if (version < 1 || version > RT_MANIFEST_VERSION)
        return RT_FAIL(RT_EUSAGE,
                       "%s: manifest of version %lld, this program reads versions 1 to %u", path,
                       (long long)version, RT_MANIFEST_VERSION);
    return 0;
}

/* Into the manifest, whose memory is the reader's arena. */
static int take(struct rt_fields_reader *r, const json_t *root, struct rt_manifest *m)
{
    json_int_t version = version_of(root);
    size_t n_later = version > 1 ? ARRAY_LEN(later) : 0;

    rt_fields_read(r, root, "", scalars, ARRAY_LEN(scalars),
                   json_object_size(root) - ARRAY_LEN(scalars), m);
    /* beside both: format, digest, and the lists */
    rt_fields_read(r, root, "", later, n_later, ARRAY_LEN(scalars) + 2 + LISTS, m);
    m->ledger = read_list(r, root, "ledger", ledger_fields, ARRAY_LEN(ledger_fields),
                          WIRE_SPLITS_MAX, sizeof(*m->ledger), &m->n_ledger);
    m->statistics =
        read_list(r, root, "statistics", statistics_fields, ARRAY_LEN(statistics_fields),
                  WIRE_DENSE_MAX, sizeof(*m->statistics), &m->n_statistics);
    m->table = read_list(r, root, "tables", table_fields, ARRAY_LEN(table_fields), WIRE_TABLES_MAX,
                         sizeof(*m->table), &m->n_tables);
    m->file = read_files(r, root, version, &m->n_files);
    if (!r->err)
        check_scalars(r, m);
    if (!r->err)
        check_lists(r, m);
    if (!r->err)
        check_files(r, m);
    return r->err;
}

static int load(const char *path, const char *text, size_t size, json_t **root)
{
    json_error_t why;

    *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (*root)
        return 0;
    /* Where its first piece of memory is missing it says nothing at all; later it may call it an error of the text. */
    if (json_error_code(&why) == json_error_out_of_memory || why.text[0] == '\0')
        return RT_FAIL(RT_ENOMEM, "%s: out of memory", path);
    return RT_FAIL(RT_EDATA, "%s: damaged manifest: line %d: %s", path, why.line, why.text);
}

int rt_manifest_parse(const char *path, const char *text, size_t size, struct rt_manifest **out)
{
    struct rt_fields_reader r = {.path = path};
    struct rt_manifest *m = NULL;
    json_t *root = NULL;
    int err = size <= RT_MANIFEST_BYTES_MAX
                  ? check_digest(path, text, size)
                  : RT_FAIL(RT_EDATA, "%s: damaged manifest: %zu bytes, at most %zu are read", path,
                            size, RT_MANIFEST_BYTES_MAX);

    if (!err)
        err = load(path, text, size, &root);
    if (!err)
        err = check_version(path, root);
    if (!err) /* texts, and entries of lists, each of which takes more characters than bytes here */
        err = rt_arena_create(4 * size + (1 << 20), &r.arena);
    if (!err) {
        m = rt_fields_memory(&r, 1, sizeof(*m));
        err = m ? take(&r, root, m) : r.err;
    }
    json_decref(root);
    if (err) {
        rt_arena_destroy(r.arena);
        return err;
    }
    m->arena = r.arena;
    *out = m;
    return 0;
}

void rt_manifest_destroy(struct rt_manifest *manifest)
{
    if (manifest)
        rt_arena_destroy(manifest->arena);
}

int rt_manifest_read(const char *dir, const char *name, struct rt_manifest **out)
{
    char *path = rt_xasprintf("%s/%s/" RT_MANIFEST_NAME, dir, name), *text = NULL;
    struct rt_manifest *m = NULL;
    int folder = -1;
    int err = rt_folder_open(dir, name, &folder);

    if (!err && folder < 0)
        err = RT_FAIL(RT_EFILE, "%s: there is no checkpoint '%s'", dir, name);
    size_t size = 0;
    if (!err)
        err = rt_folder_read(folder, path, RT_MANIFEST_NAME, RT_MANIFEST_BYTES_MAX, &text, &size);
    if (!err)
        err = rt_manifest_parse(path, text, size, &m);
    if (!err && strcmp(m->name, name) != 0)
        err = RT_FAIL(RT_EDATA, "%s: the manifest of checkpoint '%s'; a folder keeps its name",
                      path, m->name);
    if (err)
        rt_manifest_destroy(m);
    else
        *out = m;
    rt_folder_close(folder);
    rt_free(text);
    rt_free(path);
    return err;
}

/* ---- of which job? ---- */

/* "embedding.yml, model.yml": what it was made with that differs from what the job has. */
static void add_parts(const struct rt_manifest *m, const struct rt_job *job, struct rt_strbuf *out)
{
    for (uint32_t i = 0; i < WIRE_PART_COUNT; i++)
        if (m->part_hash[i] != job->part_hash[i])
            rt_strbuf_addf(out, "%s%s", out->len > 0 ? ", " : "",
                           wire_job_part_name((enum wire_job_part)i));
    if (out->len == 0)
        rt_strbuf_addf(out, "configuration");
}

int rt_manifest_check_job(const struct rt_manifest *manifest, const struct rt_job *job)
{
    struct rt_strbuf parts;
    int err = 0;

    if (strcmp(manifest->job, job->name) != 0)
        return RT_FAIL(RT_EUSAGE, "checkpoint '%s' is of the job '%s', this is '%s'",
                       manifest->name, manifest->job, job->name);
    rt_strbuf_init(&parts);
    if (manifest->config_hash != job->config_hash || manifest->plan_hash != job->plan_hash) {
        add_parts(manifest, job, &parts);
        err = RT_FAIL(RT_EUSAGE,
                      "checkpoint '%s' was made with other files, these differ: %s; config hash "
                      "%016" PRIx64 " there, %016" PRIx64 " here",
                      manifest->name, parts.text, manifest->config_hash, job->config_hash);
    } else if (manifest->row_job != rt_rowfile_job(job)) {
        err = RT_FAIL(RT_EUSAGE, "checkpoint '%s' has rows of other tables than embedding.yml",
                      manifest->name);
    } else if (job->global.exact && !manifest->exact) {
        err = RT_FAIL(RT_EUSAGE, "checkpoint '%s' was not made with global.exact, this job has it",
                      manifest->name);
    }
    rt_strbuf_release(&parts);
    return err;
}
