/* tests/lib/bench.c -- see the header. */
#include "tests/lib/bench.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/cpu.h"
#include "runtime/base/mem.h"

#define BENCH_DIR "build/bench"

struct bench {
    const char *name;
    json_t *entries;
    unsigned demanded, met;
};

struct bench *bench_create(const char *name)
{
    struct bench *bench = rt_xcalloc(1, sizeof *bench);
    bench->name = name;
    bench->entries = json_array();
    printf("%-40s %12s %-12s %12s %6s\n", name, "value", "unit", "limit", "ratio");
    return bench;
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static void add(struct bench *bench, const char *name, double value, const char *unit, double limit,
                const char *limit_name, double ratio)
{
    json_t *entry = json_object();
    json_object_set_new(entry, "name", json_string(name));
    json_object_set_new(entry, "value", number(value));
    json_object_set_new(entry, "unit", json_string(unit));
    json_object_set_new(entry, "limit", number(limit));
    json_object_set_new(entry, "limit_name", limit_name ? json_string(limit_name) : json_null());
    json_object_set_new(entry, "ratio", number(ratio));
    json_array_append_new(bench->entries, entry);
    printf("%-40s %12.4g %-12s", name, value, unit);
    if (isfinite(ratio))
        printf(" %12.4g %6.2f  %s", limit, ratio, limit_name);
    printf("\n");
}

void bench_more(struct bench *bench, const char *name, double value, const char *unit, double limit,
                const char *limit_name)
{
    add(bench, name, value, unit, limit, limit_name, value / limit);
}

void bench_less(struct bench *bench, const char *name, double value, const char *unit, double limit,
                const char *limit_name)
{
    add(bench, name, value, unit, limit, limit_name, limit / value);
}

void bench_demand(struct bench *bench, double ratio)
{
    json_t *entry = json_array_get(bench->entries, json_array_size(bench->entries) - 1);
    double got = json_number_value(json_object_get(entry, "ratio"));
    json_object_set_new(entry, "demanded", json_real(ratio));
    bench->demanded++;
    if (got >= ratio)
        bench->met++;
    else
        printf("  %s: SHORT, a ratio of %.3g is demanded\n",
               json_string_value(json_object_get(entry, "name")), ratio);
}

static json_t *cpu_model(void)
{
    char line[256], *colon;
    json_t *model = NULL;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && !model && fgets(line, sizeof line, file))
        if (strncmp(line, "model name", 10) == 0 && (colon = strchr(line, ':')) != NULL)
            model = json_stringn(colon + 2, strcspn(colon + 2, "\n"));
    if (file)
        fclose(file);
    return model ? model : json_null();
}

static json_t *machine(void)
{
    double load = 0;
    json_t *out = json_object();
    json_object_set_new(out, "cpu", cpu_model());
    json_object_set_new(out, "cores", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(out, "instruction_set", json_string(rt_isa_name(rt_cpu_isa())));
    json_object_set_new(out, "load", getloadavg(&load, 1) == 1 ? json_real(load) : json_null());
    return out;
}

int bench_finish(struct bench *bench)
{
    char path[256];
    snprintf(path, sizeof path, BENCH_DIR "/%s.json", bench->name);
    json_t *root = json_object();
    json_object_set_new(root, "machine", machine());
    json_object_set_new(root, "entries", bench->entries);
    mkdir("build", 0777);
    mkdir(BENCH_DIR, 0777);
    int err = json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    if (err)
        fprintf(stderr, "%s: cannot write: %s\n", path, strerror(errno));
    else
        printf("%s\n", path);
    if (bench->demanded)
        printf("%u of %u demanded figures are met\n", bench->met, bench->demanded);
    json_decref(root);
    rt_free(bench);
    return err ? 1 : 0;
}

uint64_t bench_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
