/* trainer/backend/cpu/backend.c -- the choice of a backend, and of its loops for this CPU. */
#include "trainer/backend/backend.h"

#include <string.h>

#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"

static void use_reference(struct tr_backend *backend)
{
    backend->ops = &tr_backend_reference;
    backend->loops = &tr_loops_plain;
}

#ifdef TR_REAL_DOUBLE /* of which there is no other */
static void use_onednn(struct tr_backend *backend)
{
    use_reference(backend);
}
#else
static void use_onednn(struct tr_backend *backend)
{
    enum rt_isa isa = rt_cpu_isa();
    backend->ops = &tr_backend_onednn;
    backend->loops = isa == RT_ISA_AVX512 ? &tr_loops_avx512
                     : isa == RT_ISA_AVX2 ? &tr_loops_avx2
                                          : &tr_loops_plain;
}
#endif

int tr_backend_init(struct tr_backend *backend, const char *name, int threads)
{
    backend->threads = threads < 1 ? 1 : threads;
    backend->losses = &tr_losses;
    backend->precision = RT_DTYPE_F32;
    backend->rounded = NULL;
    if (!name || strcmp(name, "onednn") == 0)
        use_onednn(backend);
    else if (strcmp(name, "reference") == 0)
        use_reference(backend);
    else
        return RT_FAIL(RT_EUSAGE, "backend '%s': expected onednn or reference", name);
    return 0;
}

int tr_backend_prepare(struct tr_backend *backend, const struct tr_space *space)
{
    backend->precision = space->precision;
    return backend->ops->prepare ? backend->ops->prepare(backend, space) : 0;
}

void tr_backend_begin(struct tr_backend *backend)
{
    if (backend->ops->begin)
        backend->ops->begin(backend);
}

void tr_backend_release(struct tr_backend *backend)
{
    if (backend->ops && backend->ops->release)
        backend->ops->release(backend);
}
