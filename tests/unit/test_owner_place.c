/* tests/unit/test_owner_place.c -- lists of cores, places on machines of many shapes, and threads that go there. */
#include "embedding_server/place.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

static void lists_of_cores(void **test)
{
    static const struct {
        const char *text;
        uint32_t n, first, last;
    } row[] = {{"0", 1, 0, 0},
               {"0-3\n", 4, 0, 3},
               {"0-3,8,10-11\n", 7, 0, 11},
               {"5-5", 1, 5, 5},
               {"8191\n", 1, 8191, 8191},
               {"0-8191", 8192, 0, 8191},
               {"3,1,2-3", 3, 1, 3},
               {"", 0, 0, 0},
               {"\n", 0, 0, 0}};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ebs_cores cores;

        if (ebs_cores_parse(row[i].text, &cores) != 0)
            fail_msg("'%s': %s", row[i].text, rt_err_text());
        assert_int_equal(ebs_cores_count(&cores), row[i].n);
        if (row[i].n > 0) {
            assert_true(cores.bit[row[i].first / 64] >> (row[i].first % 64) & 1);
            assert_true(cores.bit[row[i].last / 64] >> (row[i].last % 64) & 1);
        }
    }
}

static void bad_lists(void **test)
{
    static const char *const text[] = {"a",
                                       "0-",
                                       "-3",
                                       "3-1",
                                       "0,",
                                       ",",
                                       "8192",
                                       "0-8192",
                                       "0 1",
                                       "0x3",
                                       "1-2-3",
                                       " 0",
                                       "99999999999999999999",
                                       "0-3;5",
                                       "0,,1",
                                       "00000001"};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(text); i++) {
        struct ebs_cores cores;

        if (ebs_cores_parse(text[i], &cores) != RT_EDATA)
            fail_msg("'%s' was taken", text[i]);
        assert_non_null(strstr(rt_err_text(), "0-3,8"));
    }
}

/* A machine of up to four nodes: their cpulist files, NULL where there is none. */
static void make_nodes(const char *dir, const char *const list[4])
{
    for (int node = 0; node < 4; node++) {
        char *folder, *file;

        if (!list[node])
            continue;
        folder = rt_xasprintf("%s/node%d", dir, node);
        file = rt_xasprintf("%s/cpulist", folder);
        assert_int_equal(rt_mkdir_all(folder), 0);
        assert_int_equal(rt_file_write(file, list[node], strlen(list[node])), 0);
        rt_free(folder);
        rt_free(file);
    }
}

#define NONE EBS_NODE_NONE

static void places(void **test)
{
    static const struct {
        const char *name, *node[4], *allowed;
        uint32_t first, n;
        uint32_t core[6], on[6];
    } row[] = {
        {"one node", {"0-3\n"}, "0-3", 0, 3, {0, 1, 2}, {0, 0, 0}},
        {"the second server", {"0-3\n"}, "0-3", 2, 2, {2, 3}, {0, 0}},
        {"the third meets the first", {"0-3\n"}, "0-3", 4, 2, {0, 1}, {0, 0}},
        {"two nodes in turn", {"0-3\n", "4-7\n"}, "0-7", 0, 4, {0, 4, 1, 5}, {0, 1, 0, 1}},
        {"interleaved numbers", {"0,2,4,6\n", "1,3,5,7\n"}, "0-7", 1, 3, {1, 2, 3}, {1, 0, 1}},
        {"allowed ones only", {"0-3\n", "4-7\n"}, "2-3,6", 0, 3, {2, 6, 3}, {0, 1, 0}},
        {"a node of memory only",
         {"0-1\n", "\n", "2-3\n"},
         "0-3",
         0,
         4,
         {0, 2, 1, 3},
         {0, 2, 0, 2}},
        {"uneven", {"0-3\n", "4\n"}, "0-4", 0, 5, {0, 4, 1, 2, 3}, {0, 1, 0, 0, 0}},
        {"a core that no node has", {"0\n"}, "0-1", 0, 2, {0, 1}, {0, NONE}},
        {"no nodes to read", {NULL}, "1,3", 0, 2, {1, 3}, {NONE, NONE}},
        {"nodes that say nonsense", {"0-1\n", "oops\n"}, "0-1", 0, 2, {0, 1}, {NONE, NONE}},
        {"a node that says too much", {"0-99999\n"}, "0", 0, 1, {0}, {NONE}},
    };

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ebs_place got[6];
        struct ebs_cores allowed;
        char dir[TEMP_PATH_MAX];

        temp_folder(dir);
        make_nodes(dir, row[i].node);
        assert_int_equal(ebs_cores_parse(row[i].allowed, &allowed), 0);
        if (ebs_place_plan(dir, &allowed, row[i].first, row[i].n, got) != 0)
            fail_msg("%s: %s", row[i].name, rt_err_text());
        for (uint32_t w = 0; w < row[i].n; w++) {
            if (got[w].core != row[i].core[w] || got[w].node != row[i].on[w])
                fail_msg("%s: worker %u: core %u of node %u", row[i].name, w, got[w].core,
                         got[w].node);
        }
    }
}

static void no_folder_of_nodes(void **test)
{
    struct ebs_cores allowed;
    struct ebs_place place;
    uint64_t before = atomic_load(rt_log_count(RT_LOG_WARN));

    (void)test;
    assert_int_equal(ebs_cores_parse("7", &allowed), 0);
    assert_int_equal(ebs_place_plan("/nowhere/at/all", &allowed, 3, 1, &place), 0);
    assert_int_equal(place.core, 7);
    assert_int_equal(place.node, NONE);
    assert_int_equal(atomic_load(rt_log_count(RT_LOG_WARN)), before + 1);
}

static void too_many_workers(void **test)
{
    struct ebs_cores allowed;
    struct ebs_place place[3];

    (void)test;
    assert_int_equal(ebs_cores_parse("4-5", &allowed), 0);
    assert_int_equal(ebs_place_plan(NULL, &allowed, 0, 3, place), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "the 2 cores"));
    assert_non_null(strstr(rt_err_text(), "got 3"));
}

/* ---- threads of this process ---- */

struct thread {
    struct ebs_place place;
    bool local;
    int err, mode;
    char allowed[64]; /* Cpus_allowed_list as the kernel has it */
    unsigned long mask[EBS_NODES_MAX / 64];
};

static void read_status(struct thread *thread)
{
    char *path = rt_xasprintf("/proc/self/task/%ld/status", (long)syscall(SYS_gettid)), line[256];
    FILE *file = fopen(path, "r");

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "Cpus_allowed_list: %63s", thread->allowed) == 1)
            break;
    if (file)
        fclose(file);
    rt_free(path);
}

static void *run(void *arg)
{
    struct thread *thread = arg;

    thread->err = ebs_place_take(&thread->place, thread->local);
    read_status(thread);
    thread->mode = -1;
    syscall(SYS_get_mempolicy, &thread->mode, thread->mask, EBS_NODES_MAX + 1ul, NULL, 0);
    return NULL;
}

static void threads_stay_where_they_go(void **test)
{
    struct ebs_cores allowed, after;
    struct ebs_place place[64];
    uint32_t n;

    (void)test;
    assert_int_equal(ebs_cores_allowed(&allowed), 0);
    n = ebs_cores_count(&allowed) < 64 ? ebs_cores_count(&allowed) : 64;
    assert_true(n > 0);
    assert_int_equal(ebs_place_plan(NULL, &allowed, 0, n, place), 0);
    for (uint32_t w = 0; w < n; w++) {
        struct thread thread = {.place = place[w], .local = w % 2 == 0};
        char want[16];
        pthread_t id;

        for (uint32_t v = 0; v < w; v++)
            assert_int_not_equal(place[v].core, place[w].core);
        assert_int_equal(pthread_create(&id, NULL, run, &thread), 0);
        assert_int_equal(pthread_join(id, NULL), 0);
        snprintf(want, sizeof(want), "%u", place[w].core);
        assert_string_equal(thread.allowed, want);
        if (thread.err != 0) /* a container may forbid the memory's half */
            print_message("worker %u: %s\n", w, rt_err_name(thread.err));
        else if (thread.local && thread.mode >= 0)
            assert_true(thread.mode == 1 && /* MPOL_PREFERRED */
                        thread.mask[place[w].node / 64] == 1ul << (place[w].node % 64));
    }
    assert_int_equal(ebs_cores_allowed(&after), 0); /* this thread is where it was */
    assert_memory_equal(&allowed, &after, sizeof(allowed));
}

static void places_that_are_not(void **test)
{
    struct thread thread = {.place = {.core = EBS_CORES_MAX - 1}};
    pthread_t id;

    (void)test;
    assert_int_equal(pthread_create(&id, NULL, run, &thread), 0);
    assert_int_equal(pthread_join(id, NULL), 0);
    assert_int_equal(thread.err, -22); /* EINVAL: no such core */

    thread = (struct thread){.local = true};
    assert_int_equal(ebs_place_plan(NULL, &(struct ebs_cores){.bit = {1}}, 0, 1, &thread.place), 0);
    thread.place.node = NONE;
    assert_int_equal(pthread_create(&id, NULL, run, &thread), 0);
    assert_int_equal(pthread_join(id, NULL), 0);
    assert_true(thread.err < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_cores),
        cmocka_unit_test(bad_lists),
        cmocka_unit_test(places),
        cmocka_unit_test(no_folder_of_nodes),
        cmocka_unit_test(too_many_workers),
        cmocka_unit_test(threads_stay_where_they_go),
        cmocka_unit_test(places_that_are_not),
    };

    return cmocka_run_group_tests_name("owner_place", tests, NULL, NULL);
}
