/* embedding_server/init.c -- initial values, one draw per element, by the loops that fit the CPU. */
#include "embedding_server/init.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"

#include <math.h>

static int check(const struct ebs_init_conf *conf, const char *table)
{
    switch (conf->kind) {
    case EBS_INIT_UNIFORM:
        if (isfinite(conf->low) && isfinite(conf->high) && conf->low <= conf->high)
            return 0;
        return RT_FAIL(RT_EUSAGE,
                       "table %s: initializer uniform(%g, %g): expected finite low <= high", table,
                       (double)conf->low, (double)conf->high);
    case EBS_INIT_NORMAL:
        if (isfinite(conf->mean) && isfinite(conf->std) && conf->std >= 0.0f)
            return 0;
        return RT_FAIL(RT_EUSAGE, "table %s: initializer normal(%g, %g): expected finite, std >= 0",
                       table, (double)conf->mean, (double)conf->std);
    case EBS_INIT_CONSTANT:
        if (isfinite(conf->value))
            return 0;
        return RT_FAIL(RT_EUSAGE, "table %s: initializer constant(%g): expected a finite value",
                       table, (double)conf->value);
    }
    return RT_FAIL(RT_EUSAGE, "table %s: unknown initializer %d", table, (int)conf->kind);
}

static ebs_init_draw_fn select_draw(void)
{
    switch (rt_cpu_isa()) {
    case RT_ISA_AVX512:
        return ebs_init_avx512;
    case RT_ISA_AVX2:
        return ebs_init_avx2;
    case RT_ISA_PLAIN:
        break;
    }
    return ebs_init_plain;
}

int ebs_init_prepare(struct ebs_init *init, const struct ebs_init_conf *conf, uint64_t seed,
                     const char *table)
{
    int err = check(conf, table);

    if (err)
        return err;
    init->conf = *conf;
    init->draw = select_draw();
    init->key = rt_draw_key(seed, "init", table);
    return 0;
}

void ebs_init_fill(const struct ebs_init *init, uint64_t id, float *weight, size_t dim)
{
    if (init->conf.kind != EBS_INIT_CONSTANT) {
        init->draw(init, id, weight, dim);
        return;
    }
    for (size_t j = 0; j < dim; j++)
        weight[j] = init->conf.value;
}
