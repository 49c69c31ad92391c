/* tests/unit/test_limit.c -- the memory limit, from files as the kernel has them. */
#include "runtime/base/assert.h"
#include "runtime/process/limit.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX 4
#define MB        (1ull << 20)

/* Write root/path, its folders too. */
static void put(const char *root, const char *path, const char *text)
{
    char name[2 * TEMP_PATH_MAX + 64];
    size_t from = strlen(root) + 1;

    snprintf(name, sizeof(name), "%s/%s", root, path);
    for (char *slash = strchr(name + from, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(name, 0700);
        *slash = '/';
    }
    FILE *file = fopen(name, "w");
    if (!file)
        fail_msg("cannot write %s", name);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void limits(void **state)
{
    (void)state;
    static const struct {
        const char *name, *cgroup; /* /proc/self/cgroup; NULL: none */
        struct {
            const char *path, *text; /* below /sys/fs/cgroup */
        } file[FILES_MAX];
        uint64_t want; /* 0: the machine's memory */
    } row[] = {
        {"nothing there", NULL, {{0}}, 0},
        {"an empty file", "", {{0}}, 0},
        {"version 2, a container's own mount", "0::/\n", {{"memory.max", "1048576\n"}}, MB},
        {"version 2, unlimited", "0::/\n", {{"memory.max", "max\n"}}, 0},
        {"version 2, a group", "0::/a/b\n", {{"a/b/memory.max", "2097152\n"}}, 2 * MB},
        {"the least on the way up",
         "0::/a/b\n",
         {{"a/b/memory.max", "4194304\n"}, {"a/memory.max", "3145728\n"}, {"memory.max", "max\n"}},
         3 * MB},
        {"the host's path, the container's mount", "0::/kubepods/x\n", {{"memory.max", "7\n"}}, 7},
        {"version 1",
         "9:name=systemd:/\n4:cpu,memory:/c\n0::/\n",
         {{"memory/c/memory.limit_in_bytes", "1048576\n"}},
         MB},
        {"version 1, no limit",
         "4:memory:/c\n",
         {{"memory/c/memory.limit_in_bytes", "9223372036854771712\n"}},
         0},
        {"another controller with such a name",
         "4:memory2,xmemory:/c\n",
         {{"memory/c/memory.limit_in_bytes", "5\n"}},
         0},
        {"and memory after it",
         "4:memory2,memory:/\n",
         {{"memory/memory.limit_in_bytes", "5\n"}},
         5},
        {"no number", "0::/\n", {{"memory.max", "much\n"}}, 0},
        {"no such line", "hello\n0:\n:::\n", {{"memory.max", "5\n"}}, 0},
        {"more than the machine has", "0::/\n", {{"memory.max", "18446744073709551615\n"}}, 0},
    };
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        char root[TEMP_PATH_MAX], path[TEMP_PATH_MAX];
        temp_folder(root);
        if (row[i].cgroup)
            put(root, "proc/self/cgroup", row[i].cgroup);
        for (int f = 0; f < FILES_MAX && row[i].file[f].path; f++) {
            snprintf(path, sizeof(path), "sys/fs/cgroup/%s", row[i].file[f].path);
            put(root, path, row[i].file[f].text);
        }
        uint64_t got = rt_memory_limit(root), want = row[i].want ? row[i].want : machine;
        if (got != want)
            fail_msg("%s: %llu, expected %llu", row[i].name, (unsigned long long)got,
                     (unsigned long long)want);
    }
}

static void of_this_process(void **state)
{
    (void)state;
    uint64_t limit = rt_memory_limit("");
    assert_true(limit >= 16 * MB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(limits), cmocka_unit_test(of_this_process)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
