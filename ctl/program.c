/* ctl/program.c -- find our own files. */
#include "ctl/program.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/job/job.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder that this very program lies in, "." when the kernel does not tell. */
static void own_folder(char out[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    char *slash;

    out[n > 0 ? n : 0] = '\0';
    slash = strrchr(out, '/');
    if (slash && slash != out)
        *slash = '\0';
    else
        memcpy(out, ".", 2);
}

char *ctl_program_path(enum rt_role role)
{
    char folder[PATH_MAX], *path;

    own_folder(folder);
    path = rt_xasprintf("%s/saffron-%s", folder, rt_role_name(role));
    for (char *p = strrchr(path, '/'); *p; p++) {
        if (*p == '_')
            *p = '-';
    }
    return path;
}

void ctl_program_find_models(void)
{
    char folder[PATH_MAX], shown[PATH_MAX], *path;

    if (getenv("SAFFRON_MODELS_DIR"))
        return;
    own_folder(folder);
    path = rt_xasprintf("%s/../../configs/models", folder);
    if (realpath(path, shown)) /* it will stand in messages */
        setenv("SAFFRON_MODELS_DIR", shown, 0);
    rt_free(path);
}

void ctl_program_job_paths(const char *path[4])
{
    path[RT_FILE_GLOBAL] = getenv("SAFFRON_GLOBAL_CONFIG");
    path[RT_FILE_EMBEDDING] = getenv("SAFFRON_EMBEDDING_CONFIG");
    path[RT_FILE_DATA] = getenv("SAFFRON_DATA_CONFIG");
    path[RT_FILE_MODEL] = getenv("SAFFRON_MODEL_CONFIG");
}
