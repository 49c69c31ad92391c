/* tests/unit/networks.inc.h -- a network of each kind and option of layer, and a batch for them; compiled for float32 and for float64.
 *
 * A row of `networks` is one whose last layer is `x`; a linear layer and the loss follow. Rows of `heads` are whole models. Sizes are odd, and the batch
 * is two slices, of which the second is short. */
#include "runtime/base/assert.h"
#include "runtime/base/rand.h"
#include "tests/unit/spec_text.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

enum { SAMPLES = 131, DENSE = 3, FEATURES = 5, LENGTH = 4, ROWS = 6, WIDTH_MAX = 7, LABELS = 4 };

/* a, b and c of width 5, d of width 7, s a sequence of up to 4 rows of width 3; dense p, q, r. */
static const char *const dense_names[] = {"p", "q", "r"}, *const labels[] = {"y", "z", "k", "v"};
static const uint32_t label_classes[] = {2, 2, 4, 0};
static const char *const names[FEATURES] = {"a", "b", "c", "d", "s"};
static const uint32_t dims[FEATURES] = {5, 5, 5, 7, 3}, lengths[FEATURES] = {0, 0, 0, 0, LENGTH};

static const char *const networks[] = {
    "x concat a d a",
    "x linear d size=3",
    "x linear d activation=sigmoid",
    "x linear d size=3 bias=false activation=tanh",
    "x mlp a sizes=4,3",
    "x mlp d sizes=5,4,3 last=relu",
    "x mlp d sizes=5,3,4 activation=gelu last=sigmoid",
    "x mlp d sizes=3,5,4,2 activation=tanh,prelu,none,prelu",
    "m mlp d sizes=5 last=prelu; n linear d size=4 activation=gelu; x concat m d n",
    "x dot_interaction a b c",
    "x dot_interaction a b a",
    "x masked_pool s s.mask",
    "x masked_pool s s.mask pooling=sum",
    "m linear a size=5; n mlp m sizes=5; x concat m n m a",
    "m linear a size=5; x add m a b m",
    "m linear s size=12; n reshape m rows=4; x add n s s",
    "x mul a b",
    "m linear a size=5; x mul m a m",
    "m linear a size=1; x mul b m c",
    "m linear a size=4; n reshape m rows=4; x mul s n",
    "x slice d first=2 count=3",
    "m slice s over=rows first=1 count=2; n slice s first=1 count=2; x concat m n",
    "m linear d size=3; n slice d count=4; x concat m n",
    "x reshape d rows=7",
    "m reshape d columns=1; n sum m over=rows; o sum m; x concat n o",
    "x sum s",
    "x sum s over=rows",
    "x mean s",
    "m mean s over=rows; n mean d; o sum d over=rows; x concat m n o",
    "x softmax d",
    "x softmax s",
    "m linear d size=4; n softmax m s.mask; o softmax m; x concat n o",
    "m linear d size=12; n reshape m columns=4; o softmax n s.mask; x add o n",
    "x layernorm d",
    "x layernorm s eps=0.1",
    "m linear d size=19; n layernorm m; x add m n",
    "x dropout d rate=0.4",
    "m linear s size=6; n dropout m rate=0.9; o dropout m rate=0; x concat n o m",
    "x activation d kind=gelu",
    "m linear d size=20; n activation m kind=prelu; o activation m kind=sigmoid; x concat n o m",
    "x activation s kind=tanh",
    "x activation dense kind=prelu",
    "x activation s kind=prelu",
    "n linear d size=12; o reshape n rows=4; t activation o kind=prelu; x concat t s",
    "x cross d",
    "x cross d layers=3",
    "x cross d rank=2",
    "m linear d size=18; n cross m layers=3 rank=5; x concat n m d",
    "x cross dense layers=2",
    "x cross dense layers=2 rank=2",
    "x cross_v1 d",
    "m linear d size=18; n cross_v1 m layers=3; x concat n m d",
    "x cross_v1 dense layers=2",
    "x fm a b c",
    "x fm a b c sum=false",
    "x fm s",
    "m fm s sum=false; n fm a b a; x concat m n s a",
    "x dot_interaction a b c self=true",
    "x dot_interaction a b c pass=true",
    "m linear d size=5; x dot_interaction m a m b self=true pass=true",
    "x dot_interaction s self=true",
    "m dot_interaction s; x concat m s",
    "m linear d size=3; x gate m a b c",
    "m linear d size=4; x gate m s",
    "e linear d size=5; g linear d size=2; m gate g e a; n gate g a e; x concat m n e",
    "x batchnorm d",
    "x batchnorm s eps=0.1 momentum=0.5",
    "m linear d size=19; n batchnorm m; x concat m n a",
    "x batchnorm dense",
    "x activation d kind=dice",
    "m linear d size=19; n activation m kind=dice; o activation s kind=dice; x concat n o m s",
    "x linear d size=3 activation=dice",
    "m mlp d sizes=5,18,3 activation=dice,relu,dice; x batchnorm m",
    "m linear d size=3; x attention m s s.mask kind=din sizes=5,4 activation=dice",
    "x attention s",
    "x attention s s.mask heads=2 size=4",
    "x attention s s.mask heads=3 size=6 bias=false scale=false residual=true",
    "x attention s heads=2 size=8 project=true residual=true",
    "m concat a b c; n reshape m rows=3; x attention n heads=5 residual=true scale=false",
    "m linear d size=12; n reshape m rows=4; y attention n s.mask; x concat n y s",
    "m concat dense dense; n reshape m rows=3; x attention n size=3",
    "m slice d count=3; x attention m s s.mask kind=din sizes=4",
    "m linear d size=3; x attention m s s.mask kind=din sizes=5,4 activation=prelu softmax=true",
    "m linear d size=3; n attention m s s.mask kind=din sizes=2; x concat n m s",
    "o linear d size=20; n reshape o rows=4; x attention a n s.mask kind=din sizes=3",
    "m linear d size=5; n linear a size=2; x gate n m a",
    "n linear d size=2; x gate n n n",
};

static const char *const heads[] = {
    "l linear d size=1; loss mse l label=v",
    "loss mse r label=v; l linear d size=1; m bce l label=y",
    "l linear d size=4; loss softmax_ce l label=k weight=2",
    "l linear a size=1; m linear b size=1; loss bce l m label=y",
    "l linear a size=1; m linear b size=1; n linear d size=1; loss bce n l m l label=y",
    "m mlp d sizes=5 last=tanh; l linear m size=1; n linear m size=1; ctr bce l label=y "
    "weight=0.5; "
    "ctcvr bce l n label=z weight=2",
    "m linear d size=6 activation=gelu; k linear m size=4; v linear m size=1; y linear a size=1; "
    "e softmax_ce k label=k weight=0.5; f mse v label=v weight=3; g bce y v label=z",
    "l linear d size=1; e bce l label=y; f bce l label=z weight=0.1; t concat l a; m linear t "
    "size=1; "
    "n mse m label=v",
    "l linear d size=1; t concat l a; m linear t size=4; e softmax_ce m label=k; f mse l label=v",
    "l linear d size=1; m linear a size=1; e bce l label=y weight=0; f bce m label=z",
};

struct bed {
    tr_real dense[SAMPLES * DENSE], label[SAMPLES * LABELS], weight[SAMPLES];
    tr_real feature[FEATURES][SAMPLES * WIDTH_MAX], grad[FEATURES][SAMPLES * WIDTH_MAX];
    uint32_t index[SAMPLES * LENGTH], length[SAMPLES];
    struct tr_sequence_view sequence[FEATURES];
    struct tr_model *model;
};

static void bed_init(struct bed *bed)
{
    uint64_t draw = 0;
    uint32_t places = 0;
    for (size_t i = 0; i < ARRAY_LEN(bed->dense); i++)
        bed->dense[i] = rt_normal_f32(rt_draw(3, draw++));
    for (uint32_t f = 0; f < FEATURES; f++)
        for (size_t i = 0; i < ARRAY_LEN(bed->feature[f]); i++)
            bed->feature[f][i] = rt_normal_f32(rt_draw(3, draw++));
    for (uint32_t s = 0; s < SAMPLES; s++) {
        bed->label[s * LABELS] = (tr_real)(rt_draw(3, draw++) & 1);
        bed->label[s * LABELS + 1] = (tr_real)(s % 5 == 0);
        bed->label[s * LABELS + 2] = (tr_real)(s % 4);
        bed->label[s * LABELS + 3] = (tr_real)0.01 * (tr_real)s - 1;
        bed->weight[s] = (tr_real)0.5 + (tr_real)(s % 3);
        bed->length[s] = (uint32_t)rt_below(rt_draw(3, draw++), LENGTH + 1);
        for (uint32_t i = 0; i < bed->length[s]; i++)
            bed->index[places++] = (uint32_t)rt_below(rt_draw(3, draw++), ROWS);
    }
    bed->sequence[4] = (struct tr_sequence_view){bed->index, bed->length, ROWS};
}

static const struct tr_model_inputs bed_inputs = {.dense = dense_names,
                                                  .n_dense = DENSE,
                                                  .feature = names,
                                                  .feature_dim = dims,
                                                  .feature_length = lengths,
                                                  .n_features = FEATURES,
                                                  .label = labels,
                                                  .label_classes = label_classes,
                                                  .n_labels = LABELS};

/* Initial zeros and ones hide much. */
static void bed_move_params(struct tr_model *model)
{
    tr_real *param = tr_model_params(model);
    for (size_t i = 0; i < tr_model_count(model); i++)
        param[i] += (tr_real)0.1 * rt_normal_f32(rt_draw(11, i));
}
