/* trainer/backend/cuda/gemm.c -- see gemm.h.
 *
 * DESIGN: cuBLASLt's matrices are column-major. A row-major d[m][n] is column-major [n][m] with the same leading dimension, so what is
 * multiplied there is b^T a^T: the library's A is our b, its B our a, and its rows (of bias, of masks) are our columns.
 * A plan is made of what a product is, but for its pointers: of those only their alignment counts. The descriptors are the plan's;
 * a product that is queued again makes nothing but sets the pointers of its epilogue.
 * The library proposes up to 8 algorithms. In the warm-up each is timed on the buffers of the product at hand, which is run once more after
 * that: it does not matter what was written before, but where d is added to; then they write to scratch, which has the algorithms'
 * workspace too. The timing differs
 * from one process to the next, and with it perhaps the choice and the order of a sum. So where bits are to be the same (cuda->pinned) it is the
 * first proposed one whose sum over k is in one piece, or in parts that are kept in float32 and added in a step of their own. */
#include "trainer/backend/cuda/gemm.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/err.h"

#define CANDIDATES 8
#define ROUNDS     5 /* of each candidate's timing, after one that does not count */
#define BUCKETS    256u

/* All that an algorithm depends on; compared as bytes. */
struct key {
    uint64_t m, n, k, lda, ldb, ldd, mask_ld;
    uint32_t ta, tb, add, half, half_out, tf32, epilogue;
    uint32_t align_a, align_b, align_d, align_vector;
    uint32_t spare; /* so that there are no gaps */
};

struct plan {
    struct key key;
    bool exists; /* else the library has no such product */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d; /* the library's sides */
    cublasLtMatmulAlgo_t algo;
    size_t workspace; /* bytes that it wants */
    struct plan *next;
};

struct tr_gemms {
    struct tr_cuda *cuda;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    uint64_t workspace_most;
    cudaEvent_t from, to;
    struct plan *plan[BUCKETS];
};

static int check(struct tr_gemms *gemms, cublasStatus_t status, const char *what)
{
    return status == CUBLAS_STATUS_SUCCESS
               ? 0
               : tr_cuda_fail(gemms->cuda, RT_EBACKEND, "cuBLASLt: %s: %s (status %d)", what,
                              cublasLtGetStatusString(status), (int)status);
}

/* ---- making and letting go ---- */

static void plan_destroy(struct plan *plan)
{
    cublasLtMatrixLayout_t layout[] = {plan->a, plan->b, plan->d};
    for (size_t i = 0; i < sizeof layout / sizeof *layout; i++)
        if (layout[i])
            cublasLtMatrixLayoutDestroy(layout[i]);
    if (plan->desc)
        cublasLtMatmulDescDestroy(plan->desc);
    free(plan);
}

void tr_gemms_destroy(struct tr_gemms *gemms)
{
    if (!gemms)
        return;
    for (uint32_t i = 0; i < BUCKETS; i++) {
        while (gemms->plan[i]) {
            struct plan *plan = gemms->plan[i];
            gemms->plan[i] = plan->next;
            plan_destroy(plan);
        }
    }
    if (gemms->from)
        cudaEventDestroy(gemms->from);
    if (gemms->to)
        cudaEventDestroy(gemms->to);
    if (gemms->preference)
        cublasLtMatmulPreferenceDestroy(gemms->preference);
    if (gemms->handle)
        cublasLtDestroy(gemms->handle);
    free(gemms);
}

static int fill(struct tr_gemms *gemms)
{
    struct tr_cuda *cuda = gemms->cuda;
    int major = 0;
    int err = tr_cuda_check(
        cuda, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, cuda->device),
        "compute capability");
    gemms->workspace_most = (uint64_t)(major >= 9 ? 32 : 4) << 20; /* NVIDIA's advice */
    if (!err)
        err = check(gemms, cublasLtCreate(&gemms->handle), "handle");
    if (!err)
        err = check(gemms, cublasLtMatmulPreferenceCreate(&gemms->preference), "preference");
    if (!err)
        err = tr_cuda_check(cuda, cudaEventCreate(&gemms->from), "event");
    if (!err)
        err = tr_cuda_check(cuda, cudaEventCreate(&gemms->to), "event");
    return err;
}

int tr_gemms_create(struct tr_cuda *cuda, struct tr_gemms **out)
{
    struct tr_gemms *gemms = calloc(1, sizeof *gemms);
    if (!gemms)
        return tr_cuda_fail(cuda, RT_ENOMEM, "no memory for products");
    gemms->cuda = cuda;
    int err = fill(gemms);
    if (err) {
        tr_gemms_destroy(gemms);
        return err;
    }
    *out = gemms;
    return 0;
}

/* ---- what a product is ---- */

/* The power of two that divides an address, at most 256. */
static uint32_t alignment(const void *at)
{
    uintptr_t bits = (uintptr_t)at | 256;
    return (uint32_t)(bits & -bits);
}

static struct key key_of(const struct tr_gemms *gemms, const struct tr_gemm *gemm)
{
    struct key key;
    memset(&key, 0, sizeof key);
    key.m = gemm->m, key.n = gemm->n, key.k = gemm->k;
    key.lda = gemm->lda, key.ldb = gemm->ldb, key.ldd = gemm->ldd, key.mask_ld = gemm->mask_ld;
    key.ta = gemm->ta, key.tb = gemm->tb, key.add = gemm->add;
    key.half = gemm->half, key.half_out = gemm->half_out;
    key.tf32 = gemms->cuda->tf32 && !gemm->half;
    key.epilogue = (uint32_t)gemm->epilogue;
    key.align_a = alignment(gemm->a), key.align_b = alignment(gemm->b);
    key.align_d = alignment(gemm->d), key.align_vector = alignment(gemm->vector);
    return key;
}

static uint32_t bucket_of(const struct key *key)
{
    const unsigned char *byte = (const void *)key;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < sizeof *key; i++)
        hash = (hash ^ byte[i]) * 16777619u;
    return hash % BUCKETS;
}

static cublasStatus_t set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what,
                          const void *value, size_t bytes)
{
    return cublasLtMatmulDescSetAttribute(desc, what, value, bytes);
}

/* What an epilogue reads or writes: the one thing of a descriptor that changes from product to product. */
static cublasStatus_t point(const struct plan *plan, const struct tr_gemm *gemm)
{
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (gemm->vector)
        status =
            set(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &gemm->vector, sizeof gemm->vector);
    if (!status && gemm->mask)
        status = set(plan->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &gemm->mask,
                     sizeof gemm->mask);
    return status;
}

static cublasStatus_t describe(struct plan *plan, const struct tr_gemm *gemm)
{
    cublasOperation_t op_a = gemm->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_b = gemm->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasComputeType_t compute =
        plan->key.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    int64_t mask_ld = (int64_t)gemm->mask_ld;
    cublasStatus_t status = cublasLtMatmulDescCreate(&plan->desc, compute, CUDA_R_32F);
    if (!status)
        status = set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a);
    if (!status)
        status = set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b);
    if (!status)
        status =
            set(plan->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &gemm->epilogue, sizeof gemm->epilogue);
    if (!status && gemm->mask)
        status = set(plan->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &mask_ld, sizeof mask_ld);
    return status ? status : point(plan, gemm);
}

static cublasStatus_t lay_out(struct plan *plan, const struct tr_gemm *gemm)
{
    cudaDataType_t in = gemm->half ? CUDA_R_16BF : CUDA_R_32F;
    cudaDataType_t out = gemm->half_out ? CUDA_R_16BF : CUDA_R_32F;
    cublasStatus_t status =
        cublasLtMatrixLayoutCreate(&plan->a, in, gemm->tb ? gemm->k : gemm->n,
                                   gemm->tb ? gemm->n : gemm->k, (int64_t)gemm->ldb);
    if (!status)
        status = cublasLtMatrixLayoutCreate(&plan->b, in, gemm->ta ? gemm->m : gemm->k,
                                            gemm->ta ? gemm->k : gemm->m, (int64_t)gemm->lda);
    if (!status)
        status = cublasLtMatrixLayoutCreate(&plan->d, out, gemm->n, gemm->m, (int64_t)gemm->ldd);
    return status;
}

/* ---- its algorithm ---- */

static cublasStatus_t multiply(const struct tr_gemms *gemms, const struct plan *plan,
                               const struct tr_gemm *gemm, const cublasLtMatmulAlgo_t *algo,
                               void *workspace, size_t bytes, void *d)
{
    float one = 1, beta = gemm->add ? 1 : 0;
    return cublasLtMatmul(gemms->handle, plan->desc, &one, gemm->b, plan->a, gemm->a, plan->b,
                          &beta, gemm->d, plan->d, d, plan->d, algo, workspace, bytes,
                          gemms->cuda->compute);
}

static cublasStatus_t prefer(const struct tr_gemms *gemms, const struct key *key)
{
    static const cublasLtMatmulPreferenceAttributes_t side[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    uint32_t aligned[] = {key->align_b, key->align_a, key->align_d, key->align_d};
    cublasStatus_t status = cublasLtMatmulPreferenceSetAttribute(
        gemms->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &gemms->workspace_most,
        sizeof gemms->workspace_most);
    for (size_t i = 0; !status && i < sizeof side / sizeof *side; i++)
        status = cublasLtMatmulPreferenceSetAttribute(gemms->preference, side[i], &aligned[i],
                                                      sizeof aligned[i]);
    return status;
}

static bool has_one_order(const cublasLtMatmulAlgo_t *algo)
{
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_MASK;
    size_t written = 0;
    cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(
        algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, &written);
    return status == CUBLAS_STATUS_SUCCESS && (scheme == CUBLASLT_REDUCTION_SCHEME_NONE ||
                                               scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
}

/* Milliseconds of ROUNDS products; below 0: it cannot be had. */
static float time_of(const struct tr_gemms *gemms, const struct plan *plan,
                     const struct tr_gemm *gemm, const cublasLtMatmulHeuristicResult_t *found,
                     void *workspace, void *d)
{
    cudaStream_t stream = gemms->cuda->compute;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    float ms = -1;
    for (uint32_t i = 0; !status && i <= ROUNDS; i++) {
        status = multiply(gemms, plan, gemm, &found->algo, workspace, found->workspaceSize, d);
        if (i == 0 && cudaEventRecord(gemms->from, stream))
            return -1;
    }
    if (status || cudaEventRecord(gemms->to, stream) || cudaEventSynchronize(gemms->to) ||
        cudaEventElapsedTime(&ms, gemms->from, gemms->to))
        return -1;
    return ms;
}

static size_t fastest(const struct tr_gemms *gemms, const struct plan *plan,
                      const struct tr_gemm *gemm, const cublasLtMatmulHeuristicResult_t *found,
                      size_t n)
{
    size_t bytes = (size_t)gemm->m * gemm->ldd * (gemm->half_out ? 2 : 4), best = 0, most = 0;
    for (size_t i = 0; i < n; i++)
        most = found[i].workspaceSize > most ? found[i].workspaceSize : most;
    most = (most + 255) / 256 * 256;
    char *room = tr_cuda_scratch(gemms->cuda, most + (gemm->add ? bytes : 1));
    float least = -1;
    for (size_t i = 0; room && i < n; i++) {
        float ms = time_of(gemms, plan, gemm, &found[i], room, gemm->add ? room + most : gemm->d);
        if (ms >= 0 && (least < 0 || ms < least)) {
            least = ms;
            best = i;
        }
    }
    return best;
}

static size_t first_pinned(const cublasLtMatmulHeuristicResult_t *found, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (has_one_order(&found[i].algo))
            return i;
    return n;
}

/* Good ones come to the front. */
static size_t usable(cublasLtMatmulHeuristicResult_t *found, int n)
{
    size_t kept = 0;
    for (int i = 0; i < n; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS)
            found[kept++] = found[i];
    return kept;
}

static void choose(const struct tr_gemms *gemms, struct plan *plan, const struct tr_gemm *gemm)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int proposed = 0;
    if (prefer(gemms, &plan->key) ||
        cublasLtMatmulAlgoGetHeuristic(gemms->handle, plan->desc, plan->a, plan->b, plan->d,
                                       plan->d, gemms->preference, CANDIDATES, found, &proposed))
        return;
    size_t n = usable(found, proposed), best = 0;
    if (gemms->cuda->pinned)
        best = first_pinned(found, n);
    else if (n > 1 && !gemms->cuda->capturing)
        best = fastest(gemms, plan, gemm, found, n);
    plan->exists = best < n;
    if (!plan->exists)
        return;
    plan->algo = found[best].algo;
    plan->workspace = found[best].workspaceSize;
}

static struct plan *plan_of(struct tr_gemms *gemms, const struct tr_gemm *gemm)
{
    struct key key = key_of(gemms, gemm);
    struct plan **head = &gemms->plan[bucket_of(&key)];
    for (struct plan *plan = *head; plan; plan = plan->next)
        if (memcmp(&plan->key, &key, sizeof key) == 0)
            return plan;
    struct plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return NULL;
    plan->key = key;
    plan->next = *head;
    *head = plan;
    if (!describe(plan, gemm) && !lay_out(plan, gemm))
        choose(gemms, plan, gemm);
    return plan;
}

int tr_gemm_run(struct tr_gemms *gemms, const struct tr_gemm *gemm)
{
    struct plan *plan = plan_of(gemms, gemm);
    if (!plan)
        return tr_cuda_fail(gemms->cuda, RT_ENOMEM, "no memory for a product");
    if (!plan->exists)
        return TR_GEMM_NONE;
    void *workspace = plan->workspace ? tr_cuda_scratch(gemms->cuda, plan->workspace) : NULL;
    if (plan->workspace && !workspace)
        return RT_EBACKEND;
    cublasStatus_t status = point(plan, gemm);
    if (!status)
        status = multiply(gemms, plan, gemm, &plan->algo, workspace, plan->workspace, gemm->d);
    return status ? tr_cuda_fail(gemms->cuda, RT_EBACKEND,
                                 "cuBLASLt product [%u][%u] over %u: %s (status %d)", gemm->m,
                                 gemm->n, gemm->k, cublasLtGetStatusString(status), (int)status)
                  : 0;
}
