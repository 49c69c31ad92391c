/* trainer/model/settle.h -- gradients that are complete: are they finite, and who wants to hear of them? Private to
 * trainer/model/.
 *
 * Layers have their parameters in the flat vectors in their own order, and backward goes through them in reverse: in the batch's last
 * slice, what lies behind the parameters of the layer that it was at last is complete. */
#ifndef TR_SETTLE_H
#define TR_SETTLE_H

#include "trainer/model/layer.h"

/* Of one batch: begins at the end of the vector. */
struct tr_settling {
    const struct tr_model *model;
    const struct tr_settled *settled; /* who hears of it; or NULL */
    size_t from;                      /* gradients from here on are complete */
    bool finite;                      /* within the model's limits, as far as they are */
};

/* Those from `from` on are: checked while they are still in the cache, then told, when they may be changed. */
void tr_settle(struct tr_settling *settling, size_t from);

/* Are the gradients of all features in this slice within the model's limit? Those that are not are marked. */
bool tr_finite_features(struct tr_model *model, uint32_t samples);

#endif
