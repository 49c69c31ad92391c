/* tests/gpu/emulated/nccl.cpp -- NCCL among communicators of one process.
 *
 * Those of one unique id meet; all have come when as many have as the id is for. An all-reduce is work of the caller's stream, as it is in NCCL: the
 * stream waits in it until the sum is made, and that is when all ranks' streams have come to it. So a rank that never comes holds the others' streams for
 * ever, or until they abort. Communicators are non-blocking, and each call may be in progress for some polls, drawn at random: until then
 * the stream has nothing of it, and who asks for more is wrong. */
#include "tests/gpu/emulated/emulator.h"

#include <nccl.h>

#include <stdio.h>
#include <string.h>

#include <map>

struct sum {
    size_t count = 0;
    ncclDataType_t type = ncclFloat32;
    std::vector<const void *> from;
    std::vector<void *> to;
    std::vector<std::shared_ptr<emulated_event>> here,
        made; /* [rank]: its stream has come; may go on */
    size_t asked = 0;
    bool broken = false; /* a rank has gone */
};

struct meeting {
    std::vector<ncclComm *> comm; /* [rank], NULL: not here, or gone */
    std::vector<int> device;
    std::vector<std::shared_ptr<sum>> sums;
    size_t came = 0;
};

struct ncclComm {
    std::shared_ptr<meeting> of;
    int rank = 0;
    size_t next = 0;                /* sum */
    unsigned polls = 0;             /* that what was asked last is in progress for */
    std::function<void()> accepted; /* what it does then */
    ncclResult_t state = ncclSuccess;
};

static std::map<unsigned, std::shared_ptr<meeting>> meetings;
static unsigned ids;
static cudaStream_t maker; /* where sums are made */
static char last_error[256];
static struct {
    int rank;
    ncclResult_t status;
} failing = {-1, ncclSuccess};

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t status)
{
    static const char *const text[] = {"no error",
                                       "unhandled cuda error",
                                       "unhandled system error",
                                       "internal error",
                                       "invalid argument",
                                       "invalid usage",
                                       "remote process exited or there was a network error",
                                       "NCCL operation in progress"};
    return text[status];
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error;
}

void emulated_nccl_fail(int rank, ncclResult_t status, const char *text)
{
    emulated_guard guard(emulated_lock);
    failing.rank = rank;
    failing.status = status;
    snprintf(last_error, sizeof last_error, "%s", text);
}

/* ---- meeting ---- */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    emulated_guard guard(emulated_lock);
    unsigned number = ++ids;
    memset(id, 0, sizeof *id);
    memcpy(id->internal, &number, sizeof number);
    meetings[number] = std::make_shared<meeting>();
    return ncclSuccess;
}

/* NCCL compares the devices once all are known. */
static void check_devices(meeting &of)
{
    for (size_t a = 0; a < of.comm.size(); a++)
        for (size_t b = 0; b < a; b++)
            if (of.device[a] == of.device[b]) {
                snprintf(last_error, sizeof last_error,
                         "Duplicate GPU detected : rank %zu and rank %zu both on CUDA device %x", a,
                         b, of.device[a]);
                of.comm[a]->state = of.comm[b]->state = ncclInvalidUsage;
            }
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int nranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    int device = 0;
    unsigned number;
    if (cudaGetDevice(&device) != cudaSuccess)
        return ncclUnhandledCudaError;
    memcpy(&number, id.internal, sizeof number);
    emulated_guard guard(emulated_lock);
    if (config->blocking)
        emulated_die("nccl: this emulation has non-blocking communicators only");
    if (!meetings.count(number) || rank < 0 || rank >= nranks)
        return ncclInvalidArgument;
    std::shared_ptr<meeting> of = meetings[number];
    if (of->comm.empty()) {
        of->comm.resize((size_t)nranks);
        of->device.resize((size_t)nranks);
    }
    if (of->comm.size() != (size_t)nranks || of->comm[(size_t)rank])
        return ncclInvalidUsage;
    ncclComm *comm = new ncclComm();
    comm->of = of;
    comm->rank = rank;
    of->comm[(size_t)rank] = comm;
    of->device[(size_t)rank] = device;
    if (++of->came == of->comm.size())
        check_devices(*of);
    *out = comm;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *status)
{
    std::function<void()> accepted;
    {
        emulated_guard guard(emulated_lock);
        *status = comm->rank == failing.rank && failing.status != ncclSuccess ? failing.status
                                                                              : comm->state;
        if (*status == ncclSuccess && (comm->of->came < comm->of->comm.size() || comm->polls > 0))
            *status = ncclInProgress;
        if (*status == ncclInProgress && comm->polls > 0 && --comm->polls == 0)
            accepted.swap(comm->accepted);
    }
    if (accepted)
        accepted();
    return ncclSuccess;
}

/* Its kernels end, whatever they waited for; the others' never do. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    emulated_guard guard(emulated_lock);
    size_t rank = (size_t)comm->rank;
    for (auto &sum : comm->of->sums) {
        sum->broken = sum->broken || sum->made[rank]->done == 0;
        sum->made[rank]->done = 1;
    }
    comm->of->comm[rank] = NULL;
    delete comm;
    return ncclSuccess;
}

/* ---- sums ---- */

static float wide(const void *from, ncclDataType_t type, size_t i)
{
    uint32_t bits;
    float value;
    if (type == ncclFloat32)
        return ((const float *)from)[i];
    bits = (uint32_t)((const uint16_t *)from)[i] << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void put(void *to, ncclDataType_t type, size_t i, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == ncclFloat32)
        ((float *)to)[i] = value;
    else if (value != value)
        ((uint16_t *)to)[i] = 0x7fc0;
    else
        ((uint16_t *)to)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* All ranks' streams have come to it. */
static void make_sum(sum &sum)
{
    {
        emulated_guard guard(emulated_lock);
        if (sum.broken)
            return;
    }
    for (size_t i = 0; i < sum.count; i++) {
        float value = 0;
        for (const void *from : sum.from)
            value += wide(from, sum.type, i);
        for (void *to : sum.to)
            put(to, sum.type, i, value);
    }
    emulated_guard guard(emulated_lock);
    for (auto &made : sum.made)
        made->done = 1;
}

static std::shared_ptr<sum> sum_number(meeting &of, size_t number)
{
    while (of.sums.size() <= number) {
        auto next = std::make_shared<sum>();
        next->from.resize(of.comm.size());
        next->to.resize(of.comm.size());
        for (size_t r = 0; r < of.comm.size(); r++) {
            next->here.push_back(std::make_shared<emulated_event>());
            next->made.push_back(std::make_shared<emulated_event>());
        }
        of.sums.push_back(next);
    }
    return of.sums[number];
}

static emulated_work waiting_for(const std::shared_ptr<emulated_event> &event)
{
    emulated_work work;
    work.wait = event;
    work.version = event->recorded = 1;
    return work;
}

/* Under the lock: the rank's part of it goes to its stream; with the last one, the sum to the stream of sums. */
static void queue_sum(ncclComm *comm, const std::shared_ptr<sum> &sum, cudaStream_t stream)
{
    size_t rank = (size_t)comm->rank;
    emulated_work come;
    come.record = sum->here[rank];
    come.version = 1;
    emulated_add(emulated_stream(stream), come);
    emulated_add(emulated_stream(stream), waiting_for(sum->made[rank]));
    if (++sum->asked < sum->from.size())
        return;
    for (auto &here : sum->here)
        emulated_add(maker, waiting_for(here));
    emulated_work make;
    make.run = [sum] { make_sum(*sum); };
    emulated_add(maker, make);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    (void)op;
    if (!maker) {
        cudaStreamCreate(&maker);
        maker->device = -1;
    }
    emulated_guard guard(emulated_lock);
    size_t bytes = count * (type == ncclFloat32 ? 4 : 2), rank = (size_t)comm->rank;
    if (comm->polls > 0 || comm->of->came < comm->of->comm.size())
        emulated_die("nccl: rank %zu asks for a sum while another call is in progress", rank);
    if (!emulated_inside(from, bytes, false) || !emulated_inside(to, bytes, false))
        emulated_die("nccl: rank %zu: %zu bytes are not of the device's memory", rank, bytes);
    std::shared_ptr<sum> sum = sum_number(*comm->of, comm->next++);
    if (sum->asked > 0 && (sum->count != count || sum->type != type))
        emulated_die("nccl: rank %zu sums %zu elements, another rank %zu", rank, count, sum->count);
    sum->count = count;
    sum->type = type;
    sum->from[rank] = from;
    sum->to[rank] = to;
    comm->polls = (unsigned)emulated_random(3);
    if (comm->polls == 0) {
        queue_sum(comm, sum, stream);
        return ncclSuccess;
    }
    comm->accepted = [=] {
        emulated_guard again(emulated_lock);
        queue_sum(comm, sum, stream);
    };
    return ncclInProgress;
}
