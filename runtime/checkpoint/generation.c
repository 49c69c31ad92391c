/* runtime/checkpoint/generation.c -- see generation.h. */
#include "runtime/checkpoint/generation.h"

#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <inttypes.h>
#include <stdio.h>

#define NAME       ".generation"
#define BYTES_MAX  256
#define FORMAT_OUT "generation %" PRIu64 "\nwent_back %" PRIu64 "\nsteps_again %" PRIu64 "\n"
#define FORMAT_IN  "generation %" SCNu64 " went_back %" SCNu64 " steps_again %" SCNu64

void rt_generation_read(const char *dir, struct rt_generation *out)
{
    char *path = rt_path_join(dir, NAME), *text = NULL;
    size_t size;

    if (!rt_file_exists(path) || rt_file_read(path, BYTES_MAX, &text, &size) != 0 ||
        sscanf(text, FORMAT_IN, &out->number, &out->went_back, &out->steps_again) != 3)
        *out = (struct rt_generation){0};
    rt_free(text);
    rt_free(path);
}

int rt_generation_write(const char *dir, const struct rt_generation *generation)
{
    char *path = rt_path_join(dir, NAME), text[BYTES_MAX];
    int n = snprintf(text, sizeof(text), FORMAT_OUT, generation->number, generation->went_back,
                     generation->steps_again);
    int err = rt_file_write(path, text, (size_t)n);

    rt_free(path);
    return err;
}
