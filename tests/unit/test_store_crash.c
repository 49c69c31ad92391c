/* tests/unit/test_store_crash.c -- the power fails at every moment of making, publishing, retaining and removing checkpoints.
 *
 * Every call that changes a file or a folder is noted (disk_watch.inc.h) and done again in a model of a disk: a file has what it is
 * and what is on disk of it (as of its last fsync), a folder has its entries, those on disk, and changes of which nobody knows whether
 * they are. After each call the disk may be in many states: data not brought to disk dropped, kept, or torn; changes of folders
 * dropped, kept, or any of them. Each is laid out as real files and opened as a job would: it has to be the checkpoint of before or
 * the one of after, whole to the last byte, and nothing else that is there may be believed and not be whole. */
#include "tests/unit/disk_watch.inc.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/map.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/store.h"
#include "tests/lib/checkpoint_bed.h"
#include "tests/lib/temp.h"

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#define SEED         17
#define MIXES        16 /* states of a moment in which each file and each change is drawn for itself */
#define NODES_MAX    1024
#define ENTRIES_MAX  64
#define CHANGES_MAX  256
#define STATES_LEAST 1000

static char *dir, *after; /* where it is done; where a state is laid out */
static const struct rt_job *const job = &checkpoint_bed_job;

/* ---- the model of a disk ---- */

struct bytes {
    uint8_t *data;
    size_t size;
};

struct entries {
    struct {
        char *name;
        int node;
    } at[ENTRIES_MAX];
    int n;
};

struct change {      /* of a folder, that may not be on disk */
    char *name, *to; /* name goes (node < 0), comes (to NULL), or becomes `to` */
    int node;
};

struct node {
    bool is_folder;
    struct bytes now, disk;
    struct entries entries, disk_entries;
    struct change change[CHANGES_MAX];
    int changes;
};

static struct node *node; /* [NODES_MAX]; 0: dir */
static int nodes;

static int new_node(bool is_folder)
{
    rt_assert(nodes < NODES_MAX);
    node[nodes] = (struct node){.is_folder = is_folder};
    return nodes++;
}

static int find_entry(const struct entries *e, const char *name)
{
    for (int i = 0; i < e->n; i++)
        if (strcmp(e->at[i].name, name) == 0)
            return i;
    return -1;
}

static void remove_entry(struct entries *e, const char *name)
{
    int i = find_entry(e, name);

    if (i >= 0)
        e->at[i] = e->at[--e->n];
}

static void set_entry(struct entries *e, char *name, int to)
{
    remove_entry(e, name);
    rt_assert(e->n < ENTRIES_MAX);
    e->at[e->n].name = name;
    e->at[e->n++].node = to;
}

static void apply_change(struct entries *e, const struct change *c)
{
    if (c->node < 0 || c->to)
        remove_entry(e, c->name);
    if (c->node >= 0)
        set_entry(e, c->to ? c->to : c->name, c->node);
}

static void make_change(int folder, char *name, char *to, int of)
{
    struct node *f = &node[folder];

    rt_assert(f->changes < CHANGES_MAX);
    f->change[f->changes] = (struct change){name, to, of};
    apply_change(&f->entries, &f->change[f->changes++]);
}

/* @last: the name at its end, part of `path`. @return the folder that it is in */
static int folder_of(char *path, char **last)
{
    int at = 0;

    rt_assert(strncmp(path, dir, strlen(dir)) == 0);
    for (char *part = path + strlen(dir) + 1, *end; (end = strchr(part, '/')); part = end + 1) {
        char name[256];

        snprintf(name, sizeof(name), "%.*s", (int)(end - part), part);
        int i = find_entry(&node[at].entries, name);
        rt_assert(i >= 0);
        at = node[at].entries.at[i].node;
    }
    *last = strrchr(path, '/') + 1;
    return at;
}

/* -1: it has no name any more. */
static int find_node(char *path)
{
    char *last;

    if (strcmp(path, dir) == 0)
        return 0;
    if (strstr(path, " (deleted)"))
        return -1;
    int folder = folder_of(path, &last), i = find_entry(&node[folder].entries, last);
    return i < 0 ? -1 : node[folder].entries.at[i].node;
}

static void resize(struct bytes *b, size_t size)
{
    b->data = rt_xrealloc(b->data, size);
    if (size > b->size)
        memset(b->data + b->size, 0, size - b->size);
    b->size = size;
}

static void bring_to_disk(struct node *n)
{
    n->disk_entries = n->entries;
    n->changes = 0;
    resize(&n->disk, n->now.size);
    if (n->now.size)
        memcpy(n->disk.data, n->now.data, n->now.size);
}

static void do_again(const struct disk_op *op)
{
    char *last = NULL, *to = NULL;
    int folder =
        op->call == DISK_FSYNC && strcmp(op->path, dir) == 0 ? 0 : folder_of(op->path, &last);
    int at = find_node(op->path);

    if (at < 0 && op->call != DISK_CREATE && op->call != DISK_MKDIR)
        return; /* of a file that has no name any more */
    switch (op->call) {
    case DISK_CREATE:
    case DISK_MKDIR:
        make_change(folder, last, NULL, new_node(op->call == DISK_MKDIR));
        break;
    case DISK_WRITE:
        if (op->at + op->size > node[at].now.size)
            resize(&node[at].now, (size_t)op->at + op->size);
        memcpy(node[at].now.data + op->at, op->data, op->size);
        break;
    case DISK_TRUNCATE:
        resize(&node[at].now, op->size);
        break;
    case DISK_FSYNC:
        bring_to_disk(&node[at]);
        break;
    case DISK_RENAME:
        rt_assert(folder_of(op->to, &to) == folder);
        make_change(folder, last, to, at);
        break;
    case DISK_UNLINK:
    case DISK_RMDIR:
        make_change(folder, last, NULL, -1);
        break;
    }
}

/* What is in a real folder, all of it on disk. */
static void take_folder(int to, const char *path)
{
    DIR *entries = opendir(path);

    assert_non_null(entries);
    for (struct dirent *e; (e = readdir(entries));) {
        struct stat st;

        if (e->d_name[0] == '.')
            continue;
        char *inner = rt_path_join(path, e->d_name);
        assert_int_equal(stat(inner, &st), 0);
        int n = new_node(S_ISDIR(st.st_mode));
        /* The name lies in a note, so that it goes with the others. */
        disk_root = dir;
        disk_note(DISK_FSYNC, rt_xstrdup(inner), NULL, NULL, 0, 0);
        disk_root = NULL;
        set_entry(&node[to].entries, strrchr(disk_op[disk_ops - 1].path, '/') + 1, n);
        if (node[n].is_folder) {
            take_folder(n, inner);
        } else {
            char *text;

            assert_int_equal(rt_file_read(inner, (size_t)1 << 30, &text, &node[n].now.size), 0);
            node[n].now.data = (uint8_t *)text;
        }
        bring_to_disk(&node[n]);
        rt_free(inner);
    }
    closedir(entries);
    bring_to_disk(&node[to]);
}

static void forget_model(void)
{
    for (int i = 0; i < nodes; i++) {
        rt_free(node[i].now.data);
        rt_free(node[i].disk.data);
    }
    rt_free(node);
    node = NULL;
    nodes = 0;
}

/* ---- a state after the power failed ---- */

enum fate { DROPPED, KEPT, DRAWN, FATES };

struct state {
    enum fate data, changes;
    uint64_t draw;
    uint64_t hash; /* of all names and bytes */
    bool lay_out;
};

/* What is found of a file. */
static struct bytes data_of(const struct state *s, int n)
{
    const struct node *f = &node[n];
    uint64_t draw = rt_draw(s->draw, (uint64_t)n);
    bool differs = f->now.size != f->disk.size ||
                   (f->now.size && memcmp(f->now.data, f->disk.data, f->now.size) != 0);
    struct bytes out = s->data == KEPT || (s->data == DRAWN && draw % 2) ? f->now : f->disk;

    if (s->data != DRAWN || !differs || draw % 3 == 0)
        return out;
    /* Its length grew first, or some of its pages came. */
    out.size = draw % 5 ? (size_t)rt_below(rt_draw(draw, 1), f->now.size + 1) : f->now.size;
    out.data = rt_xcalloc(1, out.size);
    if (out.size && draw % 7)
        memcpy(out.data, f->now.data, out.size);
    return out;
}

static struct entries entries_of(const struct state *s, int n)
{
    const struct node *f = &node[n];
    struct entries out = f->disk_entries;

    for (int i = 0; i < f->changes; i++)
        if (s->changes == KEPT ||
            (s->changes == DRAWN && rt_draw(s->draw + 1, (uint64_t)n << 16 | (uint64_t)i) % 2))
            apply_change(&out, &f->change[i]);
    return out;
}

static void put_state(struct state *s, int folder, const char *path)
{
    struct entries e = entries_of(s, folder);

    for (int i = 0; i < e.n; i++) {
        char *inner = rt_path_join(path, e.at[i].name);
        int n = e.at[i].node;

        /* However entries are ordered. */
        if (node[n].is_folder) {
            s->hash += rt_hash_bytes(inner, strlen(inner));
            if (s->lay_out)
                assert_int_equal(mkdir(inner, 0755), 0);
            put_state(s, n, inner);
        } else {
            struct bytes b = data_of(s, n);

            s->hash += rt_hash_bytes_seed(b.data, b.size, rt_hash_bytes(inner, strlen(inner)));
            if (s->lay_out) {
                int fd = open(inner, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
                assert_true(fd >= 0 && write(fd, b.data, b.size) == (ssize_t)b.size);
                close(fd);
            }
            if (b.data != node[n].now.data && b.data != node[n].disk.data)
                rt_free(b.data);
        }
        rt_free(inner);
    }
}

static int remove_path(const char *name, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    return at->level > 0 ? remove(name) : 0;
}

static void clear(const char *folder)
{
    assert_int_equal(nftw(folder, remove_path, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* ---- what must be so ---- */

struct scenario {
    const char *name;
    void (*before)(void);
    void (*act)(void);
    uint64_t old, between,
        new; /* attempts; old 0: none is there; between: or this one while it is done */
};

static size_t decided,
    done; /* before note number `decided` it is the old one; from `done` on the new one */

static char wrong[2048]; /* why the state is none that may be */

static bool is_wrong(const char *what, const char *why)
{
    snprintf(wrong, sizeof(wrong), "%s: %s", what, why);
    return false;
}

static bool all_whole(const struct rt_store_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct rt_manifest *m = list->at[i].manifest;

        if (!m || rt_store_verify(after, m, job, NULL, NULL) != 0)
            return is_wrong(list->at[i].name, m ? rt_err_text() : list->at[i].why);
    }
    return true;
}

/* The attempt that a job would go on from; 0: none. */
static bool choose(const struct rt_store_list *list, uint64_t *attempt)
{
    size_t chain[RT_STORE_CHAIN_MAX], n;
    char *name = NULL;
    int err = rt_store_choose(after, "latest", job, &name);

    *attempt = 0;
    if (err)
        return (err == RT_EUSAGE && list->n == 0) || is_wrong("choose", rt_err_text());
    for (size_t i = 0; i < list->n && !err; i++) {
        if (strcmp(list->at[i].name, name) != 0)
            continue;
        err = rt_store_chain(list, i, chain, &n);
        *attempt = list->at[i].manifest->attempt;
    }
    rt_free(name);
    return !err || is_wrong("its chain", rt_err_text());
}

static bool may_be(const struct scenario *s, size_t at, uint64_t is)
{
    return at < decided ? is == s->old
           : at >= done ? is == s->new
                        : is == s->old || is == s->between || is == s->new;
}

/* Then once more when it was swept, as trainer/0 does at its start. */
static bool is_good(const struct scenario *s, size_t at)
{
    struct rt_store_list list;
    bool good = true;

    for (int swept = 0; swept < 2 && good; swept++) {
        uint64_t is = 0;

        if (rt_store_list(after, &list) != 0)
            return is_wrong("list", rt_err_text());
        good = all_whole(&list) && choose(&list, &is);
        if (good && !may_be(s, at, is))
            good = is_wrong("chosen", is == 0 ? "none" : is == s->old ? "the old one" : "another");
        rt_store_list_release(&list);
        if (good && rt_store_sweep(after, NULL) < 0)
            good = is_wrong("sweep", rt_err_text());
    }
    return good;
}

/* All states of the disk after `at` calls that were not seen before. @bad: adds up those that may not be; NULL: none may. */
static size_t check_moment(const struct scenario *s, size_t at, struct rt_map *seen, size_t *bad)
{
    size_t fresh = 0;

    for (int i = 0; i < FATES * FATES + MIXES; i++) {
        int mix = i < FATES * FATES ? i : FATES * FATES - 1;
        struct state state = {.data = (enum fate)(mix % FATES),
                              .changes = (enum fate)(mix / FATES),
                              .draw = rt_draw(SEED, at << 8 | (size_t)i)};

        put_state(&state, 0, after);
        uint64_t key = state.hash + (at < decided ? 0 : at >= done ? 2 : 1);
        if (rt_map_get(seen, key, NULL))
            continue;
        assert_int_equal(rt_map_put(seen, key, 1), 0);
        state.lay_out = true;
        put_state(&state, 0, after);
        bool good = is_good(s, at);
        clear(after);
        if (!good && !bad)
            fail_msg("%s: after %zu calls of %zu, state %d: %s", s->name, at, disk_ops, i, wrong);
        if (!good)
            ++*bad;
        fresh++;
    }
    return fresh;
}

/* ---- what is done ---- */

static void write_one(const char *name, uint64_t attempt, uint64_t base, const char *base_name)
{
    struct checkpoint_spec spec = {.name = name,
                                   .attempt = attempt,
                                   .base = base,
                                   .base_name = base_name,
                                   .owners = 2,
                                   .rows = 500,
                                   .removed = base ? 5 : 0,
                                   .dense = 3000};

    if (checkpoint_bed_write(dir, &spec) != 0)
        fail_msg("%s: %s", name, rt_err_text());
}

/* From here on a job must go on from what was just published. */
static void is_done(void)
{
    done = disk_ops;
}

static void nothing_before(void)
{
}

static void write_first(void)
{
    write_one("a", 1, 0, NULL);
    is_done();
    assert_int_equal(rt_store_retain(dir, 1), 0);
}

static void full_and_increment(void)
{
    write_one("a", 1, 0, NULL);
    write_one("b", 2, 1, "a");
}

static void write_full_retain_it(void)
{
    write_one("c", 3, 0, NULL);
    is_done();
    assert_int_equal(rt_store_retain(dir, 1), 2);
}

static void write_increment(void)
{
    write_one("c", 3, 2, "b");
    is_done();
    assert_int_equal(rt_store_retain(dir, 1), 0);
}

/* An attempt of the same name was killed. */
static void full_and_remains(void)
{
    write_one("a", 1, 0, NULL);
    write_one("c", 2, 0, NULL);
    char *manifest = rt_xasprintf("%s/c/%s", dir, RT_MANIFEST_NAME);
    assert_int_equal(unlink(manifest), 0);
    rt_free(manifest);
}

static void write_over_remains(void)
{
    write_one("c", 3, 0, NULL);
    is_done();
    assert_int_equal(rt_store_retain(dir, 1), 1);
}

static void sweep_remains(void)
{
    assert_int_equal(rt_store_sweep(dir, NULL), 1);
    is_done();
}

/* Steps were made between its beginning and its cut. */
static void write_renamed(void)
{
    const struct checkpoint_spec spec = {.name = "c",
                                         .begun_as = "b-to-be",
                                         .attempt = 3,
                                         .base = 2,
                                         .base_name = "b",
                                         .owners = 2,
                                         .rows = 500,
                                         .removed = 5,
                                         .dense = 3000};

    if (checkpoint_bed_write(dir, &spec) != 0)
        fail_msg("%s", rt_err_text());
    is_done();
}

static void remove_newest(void)
{
    assert_int_equal(rt_store_remove(dir, "b"), 0);
    is_done();
}

static void three(void)
{
    full_and_increment();
    write_one("c", 3, 0, NULL);
}

static void go_back(void)
{
    assert_int_equal(rt_store_roll_back(dir, "a"), 2);
    is_done();
}

static const struct scenario scenarios[] = {
    {"the first one", nothing_before, write_first, 0, 0, 1},
    {"a full one, the others go", full_and_increment, write_full_retain_it, 2, 2, 3},
    {"an increment", full_and_increment, write_increment, 2, 2, 3},
    {"over what was left", full_and_remains, write_over_remains, 1, 1, 3},
    {"what was left is swept", full_and_remains, sweep_remains, 1, 1, 1},
    {"the newest is removed", full_and_increment, remove_newest, 2, 2, 1},
    {"the job goes back", three, go_back, 3, 2, 1},
    {"under another name", full_and_increment, write_renamed, 2, 2, 3},
};

static bool ends_in(const char *path, const char *end)
{
    size_t len = strlen(path), n = strlen(end);

    return len >= n && strcmp(path + len - n, end) == 0;
}

/* The call by which the old one may cease to be the newest. */
static size_t first_decision(size_t from)
{
    for (size_t i = from; i < disk_ops; i++) {
        const struct disk_op *op = &disk_op[i];

        if ((op->call == DISK_RENAME &&
             (ends_in(op->to, "/" RT_MANIFEST_NAME) || ends_in(op->to, ".abandoned"))) ||
            (op->call == DISK_UNLINK && ends_in(op->path, "/" RT_MANIFEST_NAME)))
            return i + 1;
    }
    return disk_ops;
}

/* @careless: fsync() of what has this in its name does nothing ("/x": of the folder x, "": of the checkpoint folder); NULL: of all it
 * does. */
static bool is_left_out(const struct disk_op *op, const char *careless)
{
    const char *below = op->path + strlen(dir);

    if (!careless || op->call != DISK_FSYNC)
        return false;
    if (careless[0] == '\0' || careless[0] == '/')
        return strcmp(below, careless) == 0;
    return strstr(below, careless) != NULL;
}

static size_t run_scenario(const struct scenario *s, const char *careless, size_t *bad)
{
    struct rt_map seen;
    size_t states = 0, from;

    rt_map_init(&seen);
    s->before();
    node = rt_xcalloc(NODES_MAX, sizeof(*node));
    new_node(true);
    take_folder(0, dir);
    from = disk_ops;
    disk_root = dir;
    done = SIZE_MAX;
    s->act();
    disk_root = NULL;
    decided = first_decision(from);
    assert_in_range(done, decided, disk_ops);
    for (size_t at = from;; at++) {
        states += check_moment(s, at, &seen, bad);
        if (at == disk_ops)
            break;
        if (!is_left_out(&disk_op[at], careless))
            do_again(&disk_op[at]);
    }
    if (!careless)
        print_message("%s: %zu calls, %zu states\n", s->name, disk_ops - from, states);
    rt_map_release(&seen);
    forget_model();
    disk_forget();
    clear(dir);
    return states;
}

static void old_or_new_at_every_moment(void **state)
{
    size_t states = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(scenarios); i++)
        states += run_scenario(&scenarios[i], NULL, NULL);
    print_message("%zu states in all, each the old or the new\n", states);
    assert_true(states >= STATES_LEAST);
}

/* Each fsync is needed: without it there are states that may not be, and they are seen. */
static void a_careless_writer_is_seen(void **state)
{
    static const struct {
        int scenario;
        const char *careless;
    } row[] = {
        {0, "rows.00001"}, {0, "dense.safetensors"},
        {0, "model.yml"},  {0, "manifest.json"},
        {0, "/a"},         {0, ""},
        {1, "/a"},         {6, ""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        size_t bad = 0;

        run_scenario(&scenarios[row[i].scenario], row[i].careless, &bad);
        if (bad == 0)
            fail_msg("%s without fsync of '%s': nothing was seen", scenarios[row[i].scenario].name,
                     row[i].careless);
    }
}

static int set_up(void **state)
{
    char folder[TEMP_PATH_MAX], *real;

    (void)state;
    rt_log_set_level(RT_LOG_ERROR); /* choosing tells what it passed over */
    temp_folder(folder);
    real = realpath(folder, NULL); /* as /proc tells paths */
    assert_non_null(real);
    dir = rt_path_join(real, "job");
    after = rt_path_join(real, "after");
    free(real);
    return mkdir(dir, 0755) | mkdir(after, 0755);
}

static int tear_down(void **state)
{
    int err = rmdir(after) | rmdir(dir);

    (void)state;
    *strrchr(dir, '/') = '\0';
    err |= rmdir(dir);
    rt_free(after);
    rt_free(dir);
    return err;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_or_new_at_every_moment),
        cmocka_unit_test(a_careless_writer_is_seen),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
