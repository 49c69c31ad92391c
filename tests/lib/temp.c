/* tests/lib/temp.c -- see temp.h. */
#include "tests/lib/temp.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

const char *temp_root(void)
{
    const char *root = getenv("TMPDIR");

    return root && root[0] ? root : "/tmp";
}

static void template_of(char path[TEMP_PATH_MAX])
{
    int n = snprintf(path, TEMP_PATH_MAX, "%s/saffron-test-XXXXXX", temp_root());

    if (n >= TEMP_PATH_MAX)
        fail_msg("TMPDIR is too long: %d bytes with a name in it, at most %d", n, TEMP_PATH_MAX);
}

void temp_folder(char path[TEMP_PATH_MAX])
{
    template_of(path);
    if (!mkdtemp(path))
        fail_msg("%s: no folder can be made there", path);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

void temp_remove(const char *path)
{
    if (nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS) != 0)
        fail_msg("%s: not all of it can be removed", path);
}

int temp_file(char path[TEMP_PATH_MAX])
{
    template_of(path);
    int fd = mkstemp(path);
    if (fd < 0)
        fail_msg("%s: no file can be made there", path);
    return fd;
}
