/* runtime/process/limit.c -- the memory limit, as cgroups tell it.
 *
 * /proc/self/cgroup has lines `number:controllers:path`; version 2 is the one with number 0 and no controllers, and
 * the path is below where that hierarchy is mounted. In a container the path is often the host's and the mount the
 * container's own: what is not there is passed over on the way up, and the way ends at the mount itself. */
#include "runtime/process/limit.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The number in a file; UINT64_MAX for `max`, and where there is none. */
static uint64_t number_in(const char *path)
{
    FILE *file = fopen(path, "re");
    uint64_t number;

    if (!file)
        return UINT64_MAX;
    if (fscanf(file, "%20" SCNu64, &number) != 1)
        number = UINT64_MAX;
    fclose(file);
    return number;
}

/* Is `memory` in a list like `cpu,memory`? */
static bool has_memory(const char *controllers)
{
    static const char name[] = "memory";
    const char *at = controllers;

    for (; (at = strstr(at, name)); at++)
        if ((at == controllers || at[-1] == ',') && strchr(",", at[sizeof(name) - 1]))
            return true;
    return false;
}

/* The least limit from `path` up to the mount; cuts path. */
static uint64_t least_above(const char *mount, char *path, const char *file)
{
    char name[PATH_MAX];
    uint64_t least = UINT64_MAX;

    for (;;) {
        char *slash = strrchr(path, '/');
        if (snprintf(name, sizeof(name), "%s%s/%s", mount, path, file) < (int)sizeof(name)) {
            uint64_t limit = number_in(name);
            least = limit < least ? limit : least;
        }
        if (!slash)
            return least;
        *slash = '\0';
    }
}

/* The limit that one line of /proc/self/cgroup leads to; cuts line. */
static uint64_t limit_of(const char *root, char *line)
{
    char mount[PATH_MAX], *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;

    if (!path)
        return UINT64_MAX;
    *controllers++ = '\0';
    *path++ = '\0';
    path[strcspn(path, "\n")] = '\0';
    bool is_v2 = strcmp(line, "0") == 0 && *controllers == '\0';
    if (!is_v2 && !has_memory(controllers))
        return UINT64_MAX;
    if (snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup%s", root, is_v2 ? "" : "/memory") >=
        (int)sizeof(mount))
        return UINT64_MAX;
    return least_above(mount, path, is_v2 ? "memory.max" : "memory.limit_in_bytes");
}

uint64_t rt_memory_limit(const char *root)
{
    uint64_t least = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    char name[PATH_MAX], *line = NULL;
    size_t capacity = 0;
    FILE *file;

    snprintf(name, sizeof(name), "%s/proc/self/cgroup", root);
    file = fopen(name, "re");
    if (!file)
        return least;
    while (getline(&line, &capacity, file) > 0) {
        uint64_t limit = limit_of(root, line);
        least = limit < least ? limit : least;
    }
    free(line);
    fclose(file);
    return least;
}
