/* tests/gpu/test_nccl.c -- the communicator's functions (trainer/backend/cuda/nccl.c) and its casts: a world of one through real NCCL; where NCCL is
 * emulated, worlds of up to four, ranks that do not come, and errors. */
#include "tests/gpu/bed.h"
#include "trainer/backend/cuda/nccl.h"

#include "runtime/base/err.h"
#include "runtime/base/half.h"

#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WORLD_MAX = 4, BUCKET = 1000, BUCKETS = 5, WAIT_S = 60 };

static const struct tr_nccl_api *api = &tr_cuda_nccl;
static char said[1024];

static int keep_text(int err, const char *text)
{
    snprintf(said, sizeof said, "%s", text);
    return err;
}

/* ---- casts ---- */

/* To the nearest, ties to even; no finite value becomes infinity. */
static uint16_t narrowed(float value)
{
    uint32_t bits, magnitude, sign;
    memcpy(&bits, &value, sizeof bits);
    magnitude = bits & 0x7fffffff;
    sign = bits >> 16 & 0x8000;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7fc0);
    if (magnitude == 0x7f800000)
        return (uint16_t)(sign | 0x7f80);
    magnitude = (magnitude + 0x7fff + (magnitude >> 16 & 1)) >> 16;
    return (uint16_t)(sign | (magnitude > 0x7f7f ? 0x7f7f : magnitude));
}

static float widened(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static const uint32_t special[] = {0,          0x80000000, 1,          0x7f800000, 0xff800000,
                                   0x7fc00000, 0x7f800001, 0xffffffff, 0x7f7fffff, 0xff7fffff,
                                   0x7f7f8000, 0x3f808000, 0x3f818000, 0x00008000, 0x00018000};

static void test_casts(struct bed *bed)
{
    static const size_t sizes[] = {1, 3, 4, 15, 1000, 70001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t from = 0; from < 2; from++) { /* at 1 nothing is aligned */
            size_t n = sizes[i];
            struct bed_tensor x = bed_random(bed, n + from, -3, 3),
                              y = bed_poison(bed, n + from + 1);
            for (size_t k = 0; k < n && k < sizeof special / sizeof *special; k++)
                memcpy(&x.host[from + k], &special[k], sizeof(float));
            bed_upload(bed, x);
            uint16_t *poison = malloc((n + 2) * sizeof *poison),
                     *got = malloc((n + 2) * sizeof *got);
            void *half;
            memset(poison, 0x5a, (n + 2) * sizeof *poison);
            bed_bytes(bed, poison, (n + 2) * sizeof *poison, &half);
            bed_ok(bed, tr_cuda_reduce_narrow(&bed->cuda, bed->cuda.compute, x.device + from,
                                              (uint16_t *)half + from, n));
            bed_download(bed, got, half, (n + 2) * sizeof *got);
            for (size_t k = 0; k < n; k++)
                bed_check(bed, got[from + k] == narrowed(x.host[from + k]),
                          "n %zu from %zu: %zu is %04x", n, from, k, got[from + k]);
            bed_check(bed, got[from + n] == 0x5a5a, "written behind the end");
            bed_ok(bed, tr_cuda_reduce_widen(&bed->cuda, bed->cuda.compute, (uint16_t *)half + from,
                                             y.device + from, n));
            for (size_t k = 0; k < n; k++)
                y.host[from + k] = widened(got[from + k]);
            bed_compare(bed, "widened", y, 0, 0);
            free(poison);
            free(got);
        }
}

/* ---- communicators ---- */

struct rank {
    struct tr_cuda cuda; /* of its own: bed's, with another number and stream */
    struct tr_nccl_link *link;
    int woken;
};

static void wake(void *arg)
{
    ((struct rank *)arg)->woken++;
}

static void open_rank(struct bed *bed, struct rank *rank, const uint8_t *id, uint32_t world,
                      uint32_t r, int device)
{
    struct tr_nccl_open open = {.world = world, .rank = r, .bucket = BUCKET, .n_buckets = BUCKETS};
    memset(rank, 0, sizeof *rank);
    memcpy(open.id, id, sizeof open.id);
    rank->cuda = bed->cuda;
    rank->cuda.device = device;
    rank->cuda.fail = keep_text;
    int err = api->open(&rank->cuda, &open, &rank->link);
    bed_check(bed, !err, "open: %s", said);
}

/* Polls all until each is free, and has made `summed`; what the first error is, or 1 if that takes too long. */
static int poll_all(struct rank *rank, uint32_t world, uint64_t summed)
{
    time_t end = time(NULL) + WAIT_S;
    for (uint32_t left = world; left > 0;) {
        left = 0;
        for (uint32_t r = 0; r < world; r++) {
            uint64_t made = 0;
            int now = api->poll(rank[r].link, &made);
            if (now < 0)
                return now;
            left += now == TR_NCCL_BUSY || made < summed;
        }
        if (time(NULL) > end)
            return 1;
    }
    return 0;
}

static void open_all(struct bed *bed, struct rank *rank, uint32_t world)
{
    uint8_t id[TR_NCCL_ID_BYTES];
    bed_ok(bed, api->make_id(&bed->cuda, id));
    for (uint32_t r = 0; r < world; r++)
        open_rank(bed, &rank[r], id, world, r, (int)r);
    int err = poll_all(rank, world, 0);
    bed_check(bed, !err, "joining: %d %s", err, said);
}

static void close_all(struct rank *rank, uint32_t world)
{
    for (uint32_t r = 0; r < world; r++)
        api->close(rank[r].link);
}

/* One operation over buckets of value[n], from the last one, and the flags of which rank 1, or the only one, raises its own. Integers: their sums
 * are exact, in bfloat16 too. What was in value is what the compute stream is still to write: the sum waits for it. */
static void sum_once(struct bed *bed, struct rank *rank, uint32_t world, size_t n, uint32_t dtype)
{
    struct bed_tensor value[WORLD_MAX], from[WORLD_MAX];
    size_t buckets = (n + BUCKET - 1) / BUCKET;
    for (uint32_t r = 0; r < world; r++) {
        value[r] = bed_poison(bed, n + 1);
        from[r] = bed_fill(bed, n, 0);
        for (size_t i = 0; i < n; i++)
            from[r].host[i] = (float)bed_below(bed, 41) - 20;
        bed_upload(bed, from[r]);
        cudaMemcpyAsync(value[r].device, from[r].device, n * sizeof(float),
                        cudaMemcpyDeviceToDevice, bed->cuda.compute);
        api->begin(rank[r].link);
    }
    for (size_t b = buckets + 1; b-- > 0;) { /* 0: the flags, after all buckets */
        for (uint32_t r = 0; r < world; r++) {
            size_t at = b ? (b - 1) * BUCKET : 0, left = n - at;
            int err = b ? api->sum(rank[r].link, value[r].device + at,
                                   left < BUCKET ? left : BUCKET, dtype, NULL)
                        : api->sum_flags(rank[r].link, world == 1 || r == 1, wake, &rank[r]);
            bed_check(bed, !err, "sum: %s", said);
            uint64_t made;
            while ((err = api->poll(rank[r].link, &made)) == TR_NCCL_BUSY) {
            }
            bed_check(bed, err == TR_NCCL_FREE, "poll: %s", said);
        }
    }
    int err = poll_all(rank, world, buckets + 1);
    bed_check(bed, !err, "the sum: %d %s", err, said);
    for (uint32_t r = 0; r < world; r++) {
        for (size_t i = 0; i < n; i++) {
            value[r].host[i] = 0;
            for (uint32_t q = 0; q < world; q++)
                value[r].host[i] += from[q].host[i];
        }
        bed_compare(bed, "sum", value[r], 0, 0);
        for (uint32_t q = 0; q < world; q++)
            bed_check(bed, api->flags(rank[r].link)[q] == (world == 1 || q == 1 ? 1 : 0),
                      "flag %u at %u", q, r);
        cudaStreamSynchronize(bed->cuda.compute);
    }
}

static void sums(struct bed *bed, uint32_t world)
{
    static const size_t sizes[] = {1, BUCKET, 2 * BUCKET + 3, BUCKETS * BUCKET};
    struct rank rank[WORLD_MAX];
    open_all(bed, rank, world);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        sum_once(bed, rank, world, sizes[i], RT_DTYPE_F32);
        sum_once(bed, rank, world, sizes[i], RT_DTYPE_BF16);
    }
    close_all(rank, world); /* waits until all is told */
    for (uint32_t r = 0; r < world; r++)
        bed_check(bed, rank[r].woken == 2 * sizeof sizes / sizeof *sizes,
                  "rank %u was woken %d times", r, rank[r].woken);
}

static void test_one(struct bed *bed)
{
    bed_check(bed, api->version() >= 21800, "version %u", api->version());
    sums(bed, 1);
}

/* Given up as soon as it is opened, and with a sum under way; and made anew. */
static void test_close(struct bed *bed)
{
    for (unsigned far = 0; far < 3; far++) {
        struct rank rank;
        uint8_t id[TR_NCCL_ID_BYTES];
        struct bed_tensor value = bed_random(bed, BUCKET, -1, 1);
        bed_ok(bed, api->make_id(&bed->cuda, id));
        open_rank(bed, &rank, id, 1, 0, 0);
        if (far > 0) {
            bed_check(bed, poll_all(&rank, 1, 0) == 0, "joining: %s", said);
            api->begin(rank.link);
            bed_check(bed, api->sum(rank.link, value.device, BUCKET, RT_DTYPE_BF16, NULL) == 0,
                      "%s", said);
        }
        if (far > 1)
            bed_check(bed, poll_all(&rank, 1, 1) == 0, "the sum: %s", said);
        api->close(rank.link);
    }
    sums(bed, 1);
}

/* Two ranks on one GPU: NCCL refuses, in the words that trainer/collective/nccl.c knows. */
static void test_same_gpu(struct bed *bed)
{
    struct rank rank[2];
    uint8_t id[TR_NCCL_ID_BYTES];
    bed_ok(bed, api->make_id(&bed->cuda, id));
    for (uint32_t r = 0; r < 2; r++)
        open_rank(bed, &rank[r], id, 2, r, 0);
    int err = poll_all(rank, 2, 0);
    bed_check(bed, err == RT_EUSAGE && strstr(said, "Duplicate GPU"), "got %d: %s", err, said);
    close_all(rank, 2);
}

#ifdef TR_EMULATED
static void test_worlds(struct bed *bed)
{
    for (uint32_t world = 2; world <= WORLD_MAX; world++)
        sums(bed, world);
}

/* One waits for the other, which does not come: not free of it until it gives up; and what it says is not lost on the way. */
static void test_alone(struct bed *bed)
{
    struct rank rank[2];
    uint64_t made = 0;
    struct bed_tensor value = bed_random(bed, BUCKET, -1, 1);
    open_all(bed, rank, 2);
    api->begin(rank[0].link);
    bed_check(bed, api->sum(rank[0].link, value.device, BUCKET, RT_DTYPE_F32, NULL) == 0, "%s",
              said);
    for (int i = 0; i < 100; i++)
        bed_check(bed, api->poll(rank[0].link, &made) >= 0 && made == 0, "made %d", (int)made);
    close_all(rank, 2);
    open_all(bed, rank, 2);
    sum_once(bed, rank, 2, 2500, RT_DTYPE_F32);
    close_all(rank, 2);
}

/* One of a world has not been opened: the others are busy, and can be closed. */
static void test_absent(struct bed *bed)
{
    struct rank rank;
    uint8_t id[TR_NCCL_ID_BYTES];
    uint64_t made;
    bed_ok(bed, api->make_id(&bed->cuda, id));
    open_rank(bed, &rank, id, 2, 1, 1);
    for (int i = 0; i < 100; i++)
        bed_check(bed, api->poll(rank.link, &made) == TR_NCCL_BUSY, "it is not busy");
    api->close(rank.link);
}

/* What each of NCCL's errors is to the trainer, with NCCL's words. */
static void test_errors(struct bed *bed)
{
    static const struct {
        ncclResult_t status;
        int err;
    } row[] = {{ncclRemoteError, RT_EPEER},      {ncclSystemError, RT_EPEER},
               {ncclInternalError, RT_EPEER},    {ncclInvalidUsage, RT_EUSAGE},
               {ncclInvalidArgument, RT_EUSAGE}, {ncclUnhandledCudaError, RT_EBACKEND}};
    struct rank rank[2];
    uint64_t made;
    open_all(bed, rank, 2);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        emulated_nccl_fail(1, row[i].status, "what NCCL warned of");
        int err = api->poll(rank[1].link, &made);
        bed_check(bed,
                  err == row[i].err && strstr(said, "what NCCL warned of") &&
                      strstr(said, ncclGetErrorString(row[i].status)),
                  "row %zu: got %d: %s", i, err, said);
        bed_check(bed, api->poll(rank[0].link, &made) == TR_NCCL_FREE, "the other one fails too");
    }
    emulated_nccl_fail(1, ncclSuccess, "");
    close_all(rank, 2);
}
#endif

int main(void)
{
    static const struct bed_test tests[] = {
        {"casts", test_casts},   {"one", test_one},
        {"close", test_close},   {"same_gpu", test_same_gpu},
#ifdef TR_EMULATED
        {"worlds", test_worlds}, {"alone", test_alone},
        {"absent", test_absent}, {"errors", test_errors},
#endif
    };
#ifdef TR_EMULATED
    setenv("SAFFRON_EMULATED_GPUS", "4", 1);
#endif
    return bed_main("nccl", tests, sizeof tests / sizeof *tests);
}
