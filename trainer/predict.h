/* trainer/predict.h -- the file of --predict: the scores of the test rows that this rank has scored, one line each.
 *
 *     key <TAB> COLUMN <TAB> ...          names: HEAD of bce and mse; of softmax_ce HEAD.0, HEAD.1, ... for its classes, where
 *     KEY <TAB> SCORE  <TAB> ...          they are more than 64 HEAD.class and HEAD.probability of the most probable one
 *
 * Scores are written with nine digits, of which a float32 is read back to the last bit; nan, inf and -inf as such. In a key a
 * tab is \t, the ends of lines \n and \r, a backslash \\. The order of rows is that in which batches were scored.
 * Each evaluation writes the file anew, as PATH.partial; it takes the place of PATH when it is whole and on disk. Memory: 64 KiB,
 * and 24 bytes a batch.
 * Touch: the step thread; create and destroy: any one thread, no step running. */
#ifndef TR_PREDICT_H
#define TR_PREDICT_H

#include <stdbool.h>

#include "trainer/model/model.h"

struct tr_predict;

/* Rows of a batch; all memory the caller's. */
struct tr_predict_rows {
    uint64_t batch_id;
    uint32_t samples;
    const float *score; /* [samples][tr_model_score_columns()] */
    const uint32_t *
        key_length; /* [samples] of the keys, which lie one behind the other; NULL: all are empty */
    const char *key;
};

/* Makes PATH.partial: RT_EFILE. Heads are the model's. */
int tr_predict_create(const char *path, const struct tr_head *head, uint32_t n_heads,
                      struct tr_predict **out);
void tr_predict_destroy(struct tr_predict *predict); /* NULL is legal; removes what is not whole */

/* Of evaluation `number`, which is not 0: the first batch of another one begins the file anew, and after its end no more are
 * taken. What goes wrong is told at the end. */
void tr_predict_add(struct tr_predict *predict, uint64_t number,
                    const struct tr_predict_rows *rows);
/* All batches of evaluation `number` were added; those that are not `wanted` are taken out again. *lines: of the file, but for
 * the first. RT_EFILE, RT_ENOMEM: PATH is as it was before. */
int tr_predict_end(struct tr_predict *predict, uint64_t number,
                   bool (*wanted)(void *arg, uint64_t batch_id), void *arg, uint64_t *lines);

#endif
