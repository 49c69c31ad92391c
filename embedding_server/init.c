/* embedding_server/init.c -- initial values, one draw per element, by the loops that fit the CPU. */
#include "embedding_server/init.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"

#include <float.h>
#include <math.h>

static bool usable(double value)
{
    return isfinite(value) && fabs(value) <= (double)FLT_MAX;
}

static int set_uniform(struct ebs_init *init, double low, double high, const char *table)
{
    if (!usable(low) || !usable(high) || low > high || !usable(high - low))
        return RT_FAIL(RT_EUSAGE,
                       "table %s: initializer uniform(%g, %g): expected finite low <= high", table,
                       low, high);
    init->offset = (float)low;
    init->scale = (float)high - (float)low;
    return 0;
}

static int set_normal(struct ebs_init *init, double mean, double std, const char *table)
{
    if (!usable(mean) || !usable(std) || std < 0)
        return RT_FAIL(RT_EUSAGE, "table %s: initializer normal(%g, %g): expected finite, std >= 0",
                       table, mean, std);
    init->offset = (float)mean;
    init->scale = (float)std;
    return 0;
}

static int set_xavier(struct ebs_init *init, const struct rt_table_conf *table)
{
    const struct rt_init_conf *conf = &table->init;
    double bound = conf->gain * sqrt(6.0 / ((double)table->dim + (double)conf->rows));

    if (!usable(conf->gain) || conf->gain < 0 || conf->rows == 0)
        return RT_FAIL(RT_EUSAGE,
                       "table %s: initializer xavier_uniform: expected finite gain >= 0 and rows > "
                       "0, got %g and %llu",
                       table->name, conf->gain, (unsigned long long)conf->rows);
    return set_uniform(init, -bound, bound, table->name);
}

static int set(struct ebs_init *init, const struct rt_table_conf *table)
{
    const struct rt_init_conf *conf = &table->init;

    switch ((enum rt_init_kind)conf->kind) {
    case RT_INIT_UNIFORM:
        return set_uniform(init, conf->low, conf->high, table->name);
    case RT_INIT_NORMAL:
    case RT_INIT_TRUNCATED_NORMAL:
        return set_normal(init, conf->mean, conf->std, table->name);
    case RT_INIT_XAVIER_UNIFORM:
        return set_xavier(init, table);
    case RT_INIT_CONSTANT:
        init->offset = (float)conf->value;
        if (usable(conf->value))
            return 0;
        return RT_FAIL(RT_EUSAGE, "table %s: initializer constant(%g): expected a finite value",
                       table->name, conf->value);
    }
    return RT_FAIL(RT_EUSAGE, "table %s: unknown initializer %u", table->name, conf->kind);
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

int ebs_init_prepare(struct ebs_init *init, const struct rt_table_conf *table, uint64_t seed)
{
    *init = (struct ebs_init){.kind = table->init.kind,
                              .key = rt_draw_key(seed, "init", table->name),
                              .draw = select_draw()};
    return set(init, table);
}

void ebs_init_fill(const struct ebs_init *init, uint64_t id, float *weight, size_t dim)
{
    if (init->kind != RT_INIT_CONSTANT) {
        init->draw(init, id, weight, dim);
        return;
    }
    for (size_t j = 0; j < dim; j++)
        weight[j] = init->offset;
}
