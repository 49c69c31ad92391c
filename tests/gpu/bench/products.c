/* tests/gpu/bench/products.c -- the ceiling of matrix products: a large one through cuBLASLt, which chooses, by type.
 *
 * c = a^T b of 8,192 x 8,192 x 8,192, both operands along their inner dimension, which libraries like best; sums are float32. What the
 * library names as its four best algorithms are timed, and the best counts: a ceiling is not to be lowered by a bad guess. */
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/gpu/bench/lab.h"

enum { SIDE = 8192, ALGORITHMS = 4 };
static const size_t workspace_bytes = 64 << 20;

const char *const lab_product_name[LAB_PRODUCTS] = {"bfloat16", "TF32", "float32"};

struct product {
    struct lab *lab;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t side; /* of a and b */
    cublasLtMatrixLayout_t c_side;
    void *a, *b, *c, *workspace;
    const cublasLtMatmulAlgo_t *algo;
};

static void right(cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return;
    fprintf(stderr, "bench: cuBLASLt: %s: status %d\n", what, (int)status);
    exit(1);
}

static int multiply(void *arg)
{
    struct product *p = arg;
    const float one = 1, zero = 0;
    right(cublasLtMatmul(p->handle, p->desc, &one, p->a, p->side, p->b, p->side, &zero, p->c,
                         p->c_side, p->c, p->c_side, p->algo, p->workspace, workspace_bytes,
                         p->lab->cuda->compute),
          "multiply");
    return 0;
}

static double best_of(struct product *p, double flops)
{
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found[ALGORITHMS];
    int n = 0;
    double best = 0;
    right(cublasLtMatmulPreferenceCreate(&wish), "preference");
    right(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace_bytes, sizeof workspace_bytes),
          "workspace");
    right(cublasLtMatmulAlgoGetHeuristic(p->handle, p->desc, p->side, p->side, p->c_side, p->c_side,
                                         wish, ALGORITHMS, found, &n),
          "algorithms");
    for (int i = 0; i < n; i++) {
        p->algo = &found[i].algo;
        double rate = flops / lab_time(p->lab, multiply, p, 5) * 1e6;
        best = rate > best ? rate : best;
    }
    right(cublasLtMatmulPreferenceDestroy(wish), "preference");
    return best;
}

double lab_products(struct lab *lab, enum lab_product kind)
{
    uint64_t side = lab->tiny ? 32 : SIDE;
    size_t bytes = side * side * sizeof(float);
    cudaDataType_t type = kind == LAB_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    cublasOperation_t turned = CUBLAS_OP_T;
    struct product p = {.lab = lab};
    p.a = lab_memory(lab, bytes), p.b = lab_memory(lab, bytes), p.c = lab_memory(lab, bytes);
    p.workspace = lab_memory(lab, workspace_bytes);
    if (kind ==
        LAB_BF16) { /* as bfloat16 some of the floats' lower halves are no numbers; and a product of those is as fast */
        lab_check(cudaMemset(p.a, 0x3c, bytes), "operand");
        lab_check(cudaMemset(p.b, 0x3d, bytes), "operand");
    }
    right(cublasLtCreate(&p.handle), "create");
    right(cublasLtMatmulDescCreate(
              &p.desc, kind == LAB_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
              CUDA_R_32F),
          "product");
    right(
        cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned),
        "transposition");
    right(cublasLtMatrixLayoutCreate(&p.side, type, side, side, (int64_t)side), "layout");
    right(cublasLtMatrixLayoutCreate(&p.c_side, type, side, side, (int64_t)side), "layout");
    double rate = best_of(&p, 2.0 * (double)side * (double)side * (double)side);
    right(cublasLtMatrixLayoutDestroy(p.side), "layout");
    right(cublasLtMatrixLayoutDestroy(p.c_side), "layout");
    right(cublasLtMatmulDescDestroy(p.desc), "product");
    right(cublasLtDestroy(p.handle), "destroy");
    void *memory[] = {p.a, p.b, p.c, p.workspace};
    for (uint32_t i = 0; i < 4; i++)
        lab_check(cudaFree(memory[i]), "free");
    return rate;
}
