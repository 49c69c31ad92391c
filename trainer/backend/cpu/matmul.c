/* trainer/backend/cpu/matmul.c -- see matmul.h.
 *
 * DESIGN: a primitive knows its sizes, so there is one for each shape (a batch's short last slice is another one); data
 * is bound when it runs. How a kept side is best laid out is the primitive's to say (format_tag any), so it is asked, and
 * two primitives that want the same layout share the copy. Rows have no gaps because oneDNN 2.6 takes its
 * AMX kernels for plain dense layouts only.
 *
 * Threads: oneDNN runs on libgomp, whose thread count belongs to the calling thread; it is set at
 * each call because the step may run on another thread than the one that created the model. How its threads wait
 * is decided by OMP_WAIT_POLICY when the program is loaded (launch.sh). */
#include "trainer/backend/cpu/matmul.h"

#include <dnnl.h>
#include <omp.h>
#include <string.h>

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#define PLANS_MAX 1024u /* shapes; with one more, all are forgotten */

static const char *status_name(dnnl_status_t status)
{
    switch (status) {
    case dnnl_out_of_memory:
        return "out of memory";
    case dnnl_invalid_arguments:
        return "invalid arguments";
    case dnnl_unimplemented:
        return "unimplemented";
    case dnnl_runtime_error:
        return "run-time error";
    default:
        return "failed";
    }
}

static int product_fail(const struct tr_product *p, dnnl_status_t status)
{
    return RT_FAIL(RT_EBACKEND, "oneDNN product [%lld][%lld] over %lld: %s (status %d)",
                   (long long)p->m, (long long)p->n, (long long)p->k, status_name(status),
                   (int)status);
}

int tr_sgemm(int threads, const struct tr_product *p)
{
    omp_set_num_threads(threads);
    dnnl_status_t status = dnnl_sgemm(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', p->m, p->n, p->k, 1.0f,
                                      p->a, (dnnl_dim_t)p->lda, p->b, (dnnl_dim_t)p->ldb,
                                      p->add ? 1.0f : 0.0f, p->c, (dnnl_dim_t)p->ldc);
    return status == dnnl_success ? 0 : product_fail(p, status);
}

/* ---- primitives ---- */

/* A right side in the layout that some primitives want. */
struct kept {
    const void *b;
    dnnl_memory_desc_t from_desc, desc;
    dnnl_primitive_t reorder;
    dnnl_memory_t from, memory;
    void *data;
    uint64_t version;
    struct kept *next;
};

/* A primitive, and what it was made for. */
struct plan {
    bool ta, tb, add, bf16, is_kept;
    int threads;
    int64_t m, n, k;
    const void *kept_b; /* NULL: any */
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, scratch;
    size_t scratch_bytes;
    struct kept *kept; /* NULL: b as it is */
};

struct tr_matmul {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    struct plan *plan; /* [n_plans], room for PLANS_MAX */
    uint32_t n_plans;
    struct kept *kept;
    void *scratch; /* the primitives': one runs at a time */
    size_t scratch_bytes;
};

static void plan_release(struct plan *plan)
{
    dnnl_memory_t memory[] = {plan->a, plan->b, plan->c, plan->scratch};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            dnnl_memory_destroy(memory[i]);
    if (plan->primitive)
        dnnl_primitive_destroy(plan->primitive);
    memset(plan, 0, sizeof *plan);
}

static void kept_destroy(struct kept *kept)
{
    if (kept->reorder)
        dnnl_primitive_destroy(kept->reorder);
    if (kept->from)
        dnnl_memory_destroy(kept->from);
    if (kept->memory)
        dnnl_memory_destroy(kept->memory);
    rt_free(kept->data);
    rt_free(kept);
}

static void forget(struct tr_matmul *matmul)
{
    for (uint32_t i = 0; i < matmul->n_plans; i++)
        plan_release(&matmul->plan[i]);
    matmul->n_plans = 0;
    while (matmul->kept) {
        struct kept *kept = matmul->kept;
        matmul->kept = kept->next;
        kept_destroy(kept);
    }
}

int tr_matmul_create(struct tr_matmul **out)
{
    struct tr_matmul *matmul = rt_xcalloc(1, sizeof *matmul);
    matmul->plan = rt_xcalloc(PLANS_MAX, sizeof *matmul->plan);
    dnnl_status_t status = dnnl_engine_create(&matmul->engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = dnnl_stream_create(&matmul->stream, matmul->engine, dnnl_stream_default_flags);
    if (status != dnnl_success) {
        tr_matmul_destroy(matmul);
        return RT_FAIL(RT_EBACKEND, "oneDNN engine: %s (status %d)", status_name(status),
                       (int)status);
    }
    *out = matmul;
    return 0;
}

void tr_matmul_destroy(struct tr_matmul *matmul)
{
    if (!matmul)
        return;
    forget(matmul);
    if (matmul->stream)
        dnnl_stream_destroy(matmul->stream);
    if (matmul->engine)
        dnnl_engine_destroy(matmul->engine);
    rt_free(matmul->scratch);
    rt_free(matmul->plan);
    rt_free(matmul);
}

/* [rows][columns] without gaps, or stored transposed. */
static dnnl_status_t describe(dnnl_memory_desc_t *desc, bool bf16, bool transposed, int64_t rows,
                              int64_t columns)
{
    dnnl_dims_t dims = {rows, columns};
    return dnnl_memory_desc_init_by_tag(desc, 2, dims, bf16 ? dnnl_bf16 : dnnl_f32,
                                        transposed ? dnnl_ba : dnnl_ab);
}

struct operands {
    dnnl_memory_desc_t a, b, c;
};

static dnnl_status_t describe_all(const struct tr_product *p, struct operands *desc)
{
    dnnl_status_t status = describe(&desc->a, p->bf16, p->ta, p->m, p->k);
    if (status == dnnl_success)
        status = describe(&desc->b, p->bf16, p->tb, p->k, p->n);
    if (status == dnnl_success)
        status = describe(&desc->c, false, false, p->m, p->n);
    return status;
}

/* What is said beside the shapes: scratch is ours; c is added to. */
static dnnl_status_t attributes(const struct tr_product *p, dnnl_primitive_attr_t *out)
{
    dnnl_post_ops_t post = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(out);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (status != dnnl_success || !p->add)
        return status;
    status = dnnl_post_ops_create(&post);
    if (status == dnnl_success)
        status = dnnl_post_ops_append_sum(post, 1.0f);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_post_ops(*out, post);
    if (post)
        dnnl_post_ops_destroy(post);
    return status;
}

static dnnl_status_t primitive_desc(const struct tr_matmul *matmul, const struct tr_product *p,
                                    const struct operands *desc, dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t b = desc->b;
    dnnl_matmul_desc_t of;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t status = dnnl_success;
    if (p->kept)
        status = dnnl_memory_desc_init_by_tag(&b, 2, desc->b.dims, desc->b.data_type,
                                              dnnl_format_tag_any);
    if (status == dnnl_success)
        status = dnnl_matmul_desc_init(&of, &desc->a, &b, NULL, &desc->c);
    if (status == dnnl_success)
        status = attributes(p, &attr);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(out, &of, attr, matmul->engine, NULL);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return status;
}

static dnnl_status_t kept_make(struct tr_matmul *matmul, struct kept *kept)
{
    dnnl_primitive_desc_t reorder = NULL;
    kept->data = rt_try_aligned(dnnl_memory_desc_get_size(&kept->desc));
    if (!kept->data)
        return dnnl_out_of_memory;
    dnnl_status_t status =
        dnnl_memory_create(&kept->memory, &kept->desc, matmul->engine, kept->data);
    if (status == dnnl_success)
        status = dnnl_memory_create(&kept->from, &kept->from_desc, matmul->engine,
                                    (void *)(uintptr_t)kept->b);
    if (status == dnnl_success)
        status = dnnl_reorder_primitive_desc_create(&reorder, &kept->from_desc, matmul->engine,
                                                    &kept->desc, matmul->engine, NULL);
    if (status == dnnl_success)
        status = dnnl_primitive_create(&kept->reorder, reorder);
    if (reorder)
        dnnl_primitive_desc_destroy(reorder);
    return status;
}

/* The copy of b in this layout, made where there is none. */
static dnnl_status_t kept_get(struct tr_matmul *matmul, const void *b,
                              const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *desc,
                              struct kept **out)
{
    for (struct kept *kept = matmul->kept; kept; kept = kept->next) {
        if (kept->b == b && dnnl_memory_desc_equal(&kept->from_desc, from) &&
            dnnl_memory_desc_equal(&kept->desc, desc)) {
            *out = kept;
            return dnnl_success;
        }
    }
    struct kept *kept = rt_xcalloc(1, sizeof *kept);
    *kept = (struct kept){.b = b, .from_desc = *from, .desc = *desc, .version = UINT64_MAX};
    dnnl_status_t status = kept_make(matmul, kept);
    if (status != dnnl_success) {
        kept_destroy(kept);
        return status;
    }
    kept->next = matmul->kept;
    matmul->kept = *out = kept;
    return dnnl_success;
}

static dnnl_status_t plan_memory(struct tr_matmul *matmul, const struct tr_product *p,
                                 const struct operands *desc, dnnl_primitive_desc_t pd,
                                 struct plan *plan)
{
    const dnnl_memory_desc_t *b = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    dnnl_engine_t engine = matmul->engine;
    dnnl_status_t status = dnnl_memory_create(&plan->a, &desc->a, engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success)
        status = dnnl_memory_create(&plan->c, &desc->c, engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success && p->kept && !dnnl_memory_desc_equal(b, &desc->b))
        status = kept_get(matmul, p->b, &desc->b, b, &plan->kept);
    if (status == dnnl_success && !plan->kept)
        status = dnnl_memory_create(&plan->b, &desc->b, engine, DNNL_MEMORY_NONE);
    plan->scratch_bytes = scratch ? dnnl_memory_desc_get_size(scratch) : 0;
    if (status == dnnl_success && plan->scratch_bytes)
        status = dnnl_memory_create(&plan->scratch, scratch, engine, DNNL_MEMORY_NONE);
    return status;
}

static dnnl_status_t grow_scratch(struct tr_matmul *matmul, size_t bytes)
{
    if (bytes <= matmul->scratch_bytes)
        return dnnl_success;
    rt_free(matmul->scratch);
    matmul->scratch = rt_try_aligned(bytes);
    matmul->scratch_bytes = matmul->scratch ? bytes : 0;
    return matmul->scratch ? dnnl_success : dnnl_out_of_memory;
}

static dnnl_status_t plan_make(struct tr_matmul *matmul, int threads, const struct tr_product *p,
                               struct plan *plan)
{
    struct operands desc;
    dnnl_primitive_desc_t pd = NULL;
    *plan = (struct plan){.ta = p->ta,
                          .tb = p->tb,
                          .add = p->add,
                          .bf16 = p->bf16,
                          .is_kept = p->kept,
                          .threads = threads,
                          .m = p->m,
                          .n = p->n,
                          .k = p->k,
                          .kept_b = p->kept ? p->b : NULL};
    dnnl_status_t status = describe_all(p, &desc);
    if (status == dnnl_success)
        status = primitive_desc(matmul, p, &desc, &pd);
    if (status == dnnl_success)
        status = dnnl_primitive_create(&plan->primitive, pd);
    if (status == dnnl_success)
        status = plan_memory(matmul, p, &desc, pd, plan);
    if (status == dnnl_success)
        status = grow_scratch(matmul, plan->scratch_bytes);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (status != dnnl_success)
        plan_release(plan);
    return status;
}

static bool made_for(const struct plan *plan, int threads, const struct tr_product *p)
{
    return plan->m == p->m && plan->n == p->n && plan->k == p->k && plan->ta == p->ta &&
           plan->tb == p->tb && plan->add == p->add && plan->bf16 == p->bf16 &&
           plan->threads == threads && plan->is_kept == p->kept &&
           plan->kept_b == (p->kept ? p->b : NULL);
}

static dnnl_status_t plan_get(struct tr_matmul *matmul, int threads, const struct tr_product *p,
                              struct plan **out)
{
    for (uint32_t i = 0; i < matmul->n_plans; i++) {
        if (made_for(&matmul->plan[i], threads, p)) {
            *out = &matmul->plan[i];
            return dnnl_success;
        }
    }
    if (matmul->n_plans == PLANS_MAX)
        forget(matmul);
    *out = &matmul->plan[matmul->n_plans];
    dnnl_status_t status = plan_make(matmul, threads, p, *out);
    matmul->n_plans += status == dnnl_success;
    return status;
}

static dnnl_status_t kept_refresh(const struct tr_matmul *matmul, struct kept *kept,
                                  uint64_t version)
{
    if (kept->version == version)
        return dnnl_success;
    dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, kept->from}, {DNNL_ARG_TO, kept->memory}};
    kept->version = version;
    return dnnl_primitive_execute(kept->reorder, matmul->stream, 2, arg);
}

static dnnl_status_t plan_bind(const struct tr_matmul *matmul, const struct plan *plan,
                               const struct tr_product *p)
{
    dnnl_status_t status = dnnl_memory_set_data_handle(plan->a, (void *)(uintptr_t)p->a);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(plan->c, p->c);
    if (status == dnnl_success && plan->kept)
        status = kept_refresh(matmul, plan->kept, p->version);
    if (status == dnnl_success && !plan->kept)
        status = dnnl_memory_set_data_handle(plan->b, (void *)(uintptr_t)p->b);
    if (status == dnnl_success && plan->scratch)
        status = dnnl_memory_set_data_handle(plan->scratch, matmul->scratch);
    return status;
}

static dnnl_status_t plan_run(const struct tr_matmul *matmul, const struct plan *plan,
                              const struct tr_product *p)
{
    dnnl_exec_arg_t arg[] = {{DNNL_ARG_SRC, plan->a},
                             {DNNL_ARG_WEIGHTS, plan->kept ? plan->kept->memory : plan->b},
                             {DNNL_ARG_DST, plan->c},
                             {DNNL_ARG_SCRATCHPAD, plan->scratch}};
    dnnl_status_t status = plan_bind(matmul, plan, p);
    if (status == dnnl_success)
        status =
            dnnl_primitive_execute(plan->primitive, matmul->stream, plan->scratch ? 4 : 3, arg);
    return status == dnnl_success ? dnnl_stream_wait(matmul->stream) : status;
}

int tr_matmul_run(struct tr_matmul *matmul, int threads, const struct tr_product *p)
{
    struct plan *plan;
    omp_set_num_threads(threads);
    dnnl_status_t status = plan_get(matmul, threads, p, &plan);
    if (status == dnnl_success)
        status = plan_run(matmul, plan, p);
    return status == dnnl_success ? 0 : product_fail(p, status);
}

bool tr_matmul_has_bf16(struct tr_matmul *matmul)
{
    struct tr_product small = {.bf16 = true, .m = 64, .n = 64, .k = 64};
    struct operands desc;
    dnnl_primitive_desc_t pd = NULL;
    if ((dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) !=
        dnnl_cpu_isa_avx512_core_bf16)
        return false;
    dnnl_status_t status = describe_all(&small, &desc);
    if (status == dnnl_success)
        status = primitive_desc(matmul, &small, &desc, &pd);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return status == dnnl_success;
}
