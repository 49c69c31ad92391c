/* trainer/backend/cuda/dropout.cu -- dropout, with the CPU's bits: an element's draw follows from the key, its sample and its column alone.
 *
 * One pass, 8 bytes an element (12 where it adds); a draw is two 64-bit products beside it, computed again in the backward pass instead of
 * kept. A step that is recorded once and played again has its key in the device's memory. */
#include "trainer/backend/cuda/rows.h"

namespace
{
struct dropout {
    uint32_t first, width;
    uint64_t limit, key;
    const uint64_t *key_at;
    float scale;
    const float *x;
    size_t x_stride, y_stride;
    float *y;
    bool add;

    /* rt_draw(key, counter) of runtime/base/rand.h. */
    static __device__ uint64_t draw(uint64_t key, uint64_t counter)
    {
        uint64_t z = key + (counter + 1) * 0x9e3779b97f4a7c15ULL;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        uint64_t drawn_by = key_at ? *key_at : key;
        tr_quad x4 = places.load(x, x_stride, 0), y4 = tr_load_if(add, places, y, y_stride, 0);
        for (uint32_t k = 0; k < TR_QUAD; k++) {
            uint64_t at = ((uint64_t)first + places.sample(k)) * width + places.column(k);
            float kept = draw(drawn_by, at) >> 11 >= limit ? __fmul_rn(x4.v[k], scale) : 0;
            y4.v[k] = add ? y4.v[k] + kept : kept;
        }
        places.store(y, y_stride, 0, y4);
    }
};
} // namespace

extern "C" int tr_cuda_dropout(struct tr_backend *backend, const struct tr_dropout *op)
{
    struct dropout of = {};
    of.first = op->first;
    of.width = op->width;
    of.limit = (uint64_t)(op->rate * 0x1p53);
    of.key = op->key;
    of.key_at = op->key_at;
    of.scale = (float)(1 / (1 - op->rate));
    of.x = op->x;
    of.x_stride = op->x_stride;
    of.y_stride = op->y_stride;
    of.y = op->y;
    of.add = op->add;
    bool aligned = tr_aligned(op->x, op->x_stride, 0) && tr_aligned(op->y, op->y_stride, 0);
    return tr_each(backend, "dropout", op->samples, 1, op->width, aligned, of);
}
