/* trainer/predict.c -- scores as text: rows -> 64 KiB -> PATH.partial -> PATH.
 *
 *   NONE -add, end (another number)-> OPEN -add-> OPEN -end-> ENDED (PATH is there, or err says why not)
 *
 * A batch of an evaluation before may be scored among those of this one, and only when all are here is it known which: the
 * ends of the splits tell. So it is noted where each batch lies in the file, and what does not belong there is taken out at
 * the end, by moving down what is behind it. That is hardly ever; to keep the text of all batches until then would take the
 * memory of the whole test set. */
#include "trainer/predict.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/partial.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES (64u << 10)
#define NUMBER_BYTES 32u /* of a score, a tab before it */

struct tr_predict {
    char *path;
    const struct tr_head *head; /* [n_heads] */
    uint32_t n_heads, columns;
    struct rt_partial file;
    uint64_t number; /* of the evaluation that the file is of; 0: none yet */
    bool ended;
    int err; /* the first thing that went wrong in it */
    char text[512];
    char buffer[BUFFER_BYTES];
    size_t used;
    uint64_t lines, names_end; /* bytes of the first line */
    struct placed {
        uint64_t batch_id, end; /* in the file: it begins where the one before ends */
        uint32_t samples;
    } * batch; /* [n] */
    size_t n, capacity;
};

/* ---- text ---- */

static int flush(struct tr_predict *p)
{
    int err = rt_partial_put(&p->file, p->buffer, p->used);
    p->used = 0;
    return err;
}

static int put(struct tr_predict *p, const char *text, size_t size)
{
    int err = 0;
    while (size > 0 && !err) {
        size_t room = BUFFER_BYTES - p->used, n = size < room ? size : room;
        memcpy(p->buffer + p->used, text, n);
        p->used += n;
        text += n;
        size -= n;
        if (p->used == BUFFER_BYTES)
            err = flush(p);
    }
    return err;
}

/* Runs of bytes that stand for themselves, and what stands for the others. */
static int put_key(struct tr_predict *p, const char *key, size_t size)
{
    int err = 0;
    while (size > 0 && !err) {
        size_t n = 0;
        while (n < size && key[n] != '\t' && key[n] != '\n' && key[n] != '\r' && key[n] != '\\')
            n++;
        err = put(p, key, n);
        if (err || n == size)
            return err;
        err = put(p,
                  key[n] == '\t'   ? "\\t"
                  : key[n] == '\n' ? "\\n"
                  : key[n] == '\r' ? "\\r"
                                   : "\\\\",
                  2);
        key += n + 1;
        size -= n + 1;
    }
    return err;
}

static int put_score(struct tr_predict *p, float score)
{
    char text[NUMBER_BYTES];
    int n = isnan(score) ? snprintf(text, sizeof text, "\tnan") /* of either sign */
                         : snprintf(text, sizeof text, "\t%.9g", (double)score);
    return put(p, text, (size_t)n);
}

static int put_most_probable(struct tr_predict *p, const float *score)
{
    char text[NUMBER_BYTES];
    int n = snprintf(text, sizeof text, "\t%u", (unsigned)score[TR_WIDE_CLASS]);
    int err = put(p, text, (size_t)n);
    return err ? err : put_score(p, score[TR_WIDE_MOST]);
}

static int put_row(struct tr_predict *p, const char *key, size_t size, const float *score)
{
    int err = put_key(p, key, size);
    for (uint32_t h = 0; h < p->n_heads && !err; h++) {
        const struct tr_head *head = &p->head[h];
        bool wide = tr_head_is_wide(head);
        if (wide)
            err = put_most_probable(p, score + head->first);
        for (uint32_t c = 0; c < head->columns && !wide && !err; c++)
            err = put_score(p, score[head->first + c]);
    }
    return err ? err : put(p, "\n", 1);
}

static int put_name(struct tr_predict *p, const char *head, const char *suffix)
{
    int err = put(p, "\t", 1);
    if (!err)
        err = put(p, head, strlen(head));
    return err ? err : put(p, suffix, strlen(suffix));
}

static int put_names(struct tr_predict *p)
{
    int err = put(p, "key", 3);
    for (uint32_t h = 0; h < p->n_heads && !err; h++) {
        const struct tr_head *head = &p->head[h];
        if (tr_head_is_wide(head)) {
            err = put_name(p, head->name, ".class");
            if (!err)
                err = put_name(p, head->name, ".probability");
            continue;
        }
        for (uint32_t c = 0; c < head->columns && !err; c++) {
            char suffix[16] = "";
            if (head->kind == TR_HEAD_SOFTMAX)
                snprintf(suffix, sizeof suffix, ".%u", c);
            err = put_name(p, head->name, suffix);
        }
    }
    return err ? err : put(p, "\n", 1);
}

/* ---- an evaluation ---- */

static void note(struct tr_predict *p, int err)
{
    if (!err || p->err)
        return;
    p->err = err;
    snprintf(p->text, sizeof p->text, "%s", rt_err_text());
}

static uint64_t end_of_text(const struct tr_predict *p)
{
    return p->file.bytes + p->used;
}

/* The file that create made is empty: the first evaluation takes it as it is. */
static void begin(struct tr_predict *p, uint64_t number)
{
    if (number == p->number)
        return;
    bool fresh = p->number == 0;
    p->number = number;
    p->ended = false;
    p->err = 0;
    p->used = p->n = 0;
    p->lines = 0;
    if (!fresh) {
        rt_partial_drop(&p->file);
        note(p, rt_partial_open(&p->file, p->path));
    }
    if (!p->err)
        note(p, put_names(p));
    p->names_end = end_of_text(p);
}

int tr_predict_create(const char *path, const struct tr_head *head, uint32_t n_heads,
                      struct tr_predict **out)
{
    struct tr_predict *p = rt_xcalloc(1, sizeof *p);
    const struct tr_head *last = &head[n_heads - 1];
    p->path = rt_xstrdup(path);
    p->head = head;
    p->n_heads = n_heads;
    p->columns = last->first + last->columns;
    int err = rt_partial_open(&p->file, path);
    if (err) {
        tr_predict_destroy(p);
        p = NULL;
    }
    *out = p;
    return err;
}

void tr_predict_destroy(struct tr_predict *predict)
{
    if (!predict)
        return;
    rt_partial_drop(&predict->file);
    rt_free(predict->batch);
    rt_free(predict->path);
    rt_free(predict);
}

static int make_place(struct tr_predict *p)
{
    size_t capacity = p->capacity ? 2 * p->capacity : 256;
    if (p->n < p->capacity)
        return 0;
    struct placed *grown = rt_try_realloc(p->batch, capacity * sizeof *grown);
    if (!grown)
        return RT_FAIL(RT_ENOMEM, "%s: no memory for %zu batches", p->path, capacity);
    p->batch = grown;
    p->capacity = capacity;
    return 0;
}

void tr_predict_add(struct tr_predict *predict, uint64_t number, const struct tr_predict_rows *rows)
{
    struct tr_predict *p = predict;
    const char *key = rows->key;
    begin(p, number);
    if (p->err || p->ended)
        return;
    int err = make_place(p);
    for (uint32_t s = 0; s < rows->samples && !err; s++) {
        size_t size = rows->key_length ? rows->key_length[s] : 0;
        err = put_row(p, key, size, rows->score + (size_t)s * p->columns);
        key = size ? key + size : key;
    }
    note(p, err);
    if (err)
        return;
    p->batch[p->n++] = (struct placed){rows->batch_id, end_of_text(p), rows->samples};
    p->lines += rows->samples;
}

/* ---- its end ---- */

/* Bytes [from, from + size) of the file, which are flushed, to `to`, which is not behind. */
static int move_down(struct tr_predict *p, uint64_t to, uint64_t from, uint64_t size)
{
    while (size > 0) {
        size_t most = size < BUFFER_BYTES ? (size_t)size : BUFFER_BYTES;
        ssize_t n = pread(p->file.fd, p->buffer, most, (off_t)from);
        if (n > 0)
            n = pwrite(p->file.fd, p->buffer, (size_t)n, (off_t)to);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return RT_FAIL(RT_EFILE, "%s: cannot be put in order at byte %" PRIu64 ": %s",
                           p->file.name, from, n < 0 ? strerror(errno) : "it is shorter");
        to += (uint64_t)n;
        from += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return 0;
}

static int take_out(struct tr_predict *p, bool (*wanted)(void *arg, uint64_t batch_id), void *arg)
{
    uint64_t to = p->names_end, from = p->names_end;
    int err = 0;
    for (size_t b = 0; b < p->n && !err; b++) {
        uint64_t size = p->batch[b].end - from;
        if (!wanted(arg, p->batch[b].batch_id)) {
            p->lines -= p->batch[b].samples;
        } else {
            if (to != from)
                err = move_down(p, to, from, size);
            to += size;
        }
        from += size;
    }
    if (!err && to != from && ftruncate(p->file.fd, (off_t)to) != 0)
        err = RT_FAIL(RT_EFILE, "%s: cannot be cut to %" PRIu64 " bytes: %s", p->file.name, to,
                      strerror(errno));
    return err;
}

int tr_predict_end(struct tr_predict *predict, uint64_t number,
                   bool (*wanted)(void *arg, uint64_t batch_id), void *arg, uint64_t *lines)
{
    struct tr_predict *p = predict;
    begin(p, number); /* no batch is ours: a file of no lines */
    if (!p->err && !p->ended)
        note(p, flush(p));
    if (!p->err && !p->ended)
        note(p, take_out(p, wanted, arg));
    if (!p->err && !p->ended)
        note(p, rt_partial_finish(&p->file));
    p->ended = true;
    *lines = p->lines;
    if (!p->err)
        return 0;
    rt_partial_drop(&p->file);
    return RT_FAIL(p->err, "%s", p->text);
}
