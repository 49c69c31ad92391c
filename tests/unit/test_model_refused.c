/* tests/unit/test_model_refused.c -- descriptions of models that are refused, and the words; beside them some that are not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "tests/unit/model_bed.h"
#include "tests/unit/spec_text.h"

/* Two dense columns (age, income) and features c0, c1 of dim 4, c2 of dim 2. */
static const struct {
    const char *what, *layers;
    const char *want; /* in the error text; NULL: accepted */
} refused[] = {
    {"plain", "l mlp c0 sizes=1; loss bce l", NULL},
    {"one dense column", "x concat age c0; l mlp x sizes=1; loss bce l", NULL},
    {"the same input twice", "d dot_interaction c0 c0; l mlp d sizes=1; loss bce l", NULL},
    {"empty", "", "t.yml: expected a loss (bce, mse or softmax_ce), got 0 layers"},
    {"no loss", "l mlp c0 sizes=1", "expected a loss (bce, mse or softmax_ce), got 1 layers"},
    {"unknown type", "l concatt c0",
     "t.yml:1: layer 'l': type: no layer type is called 'concatt' (did you mean 'concat'?)"},
    {"unknown input", "l mlp feature sizes=1", "(did you mean 'features'?)"},
    {"no input", "l mlp", "inputs: expected at least one name"},
    {"later layer", "l mlp m sizes=1; m concat c0", "t.yml:1: layer 'l': input 'm': no earlier"},
    {"unknown key", "l mlp c0 size=1", "unknown key 'size' for type mlp (did you mean 'sizes'?)"},
    {"no sizes", "l mlp c0", "sizes: expected a list of sizes, got nothing"},
    {"size 0", "l mlp c0 sizes=0", "expected an integer in 1..1048576, got '0'"},
    {"size 8x", "l mlp c0 sizes=4,8x", "got '8x'"},
    {"size -1", "l mlp c0 sizes=-1", "got '-1'"},
    {"last", "l mlp c0 sizes=1 last=thanh",
     "last: expected none|relu|gelu|sigmoid|tanh|prelu|dice, got 'thanh'"},
    {"two words", "l mlp c0 sizes=1 last=none,relu", "last: expected 1..1 words, got 2"},
    {"activations", "l mlp c0 sizes=4,3,1 activation=relu,tanh",
     "activation: expected one word, or one for each of 3 sizes, got 2"},
    {"activation and last", "l mlp c0 sizes=4,1 activation=relu,tanh last=relu",
     "last: activation says already what follows each layer"},
    {"a list of one and last", "l mlp c0 sizes=1 activation=relu, last=relu",
     "last: activation says already what follows each layer"},
    {"one word and last", "l mlp c0 sizes=1 activation=relu last=none; loss bce l", NULL},
    {"linear size", "l linear c0 size=0", "t.yml:1: layer 'l': size: expected an integer in 1.."},
    {"linear bias", "l linear c0 size=1 bias=no", "bias: expected false|true, got 'no'"},
    {"linear of two", "l linear c0 c1 size=1", "put a concat before it"},
    {"two tensors", "l mlp c0 c1 sizes=1", "put a concat before it"},
    {"dot of unequal", "d dot_interaction c0 c2",
     "t.yml:1: layer 'd': input 'c2': expected [samples][4] as 'c0' has, got [samples][2]"},
    {"dot of one", "d dot_interaction c0",
     "layer 'd': expected 2..1024 tensors as inputs, or one of so many rows, got 1"},
    {"dot itself", "d dot_interaction c0 c1 self=yes", "self: expected false|true, got 'yes'"},
    {"fm of unequal", "f fm c0 c2",
     "t.yml:1: layer 'f': input 'c2': expected [samples][4] as 'c0' has, got [samples][2]"},
    {"fm of one row", "f fm c0", "or one of so many rows, got 1"},
    {"add of unequal", "a add c0 c1 c2",
     "t.yml:1: layer 'a': input 'c2': expected [samples][4] as 'c0' has, got [samples][2]"},
    {"add of other rows", "r reshape c0 rows=2; a add r c0",
     "t.yml:2: layer 'a': input 'c0': expected [samples][2][2] as 'r' has, got [samples][4]"},
    {"mul of one", "m mul c0", "expected 2..64 tensors as inputs, got 1"},
    {"mul of unequal", "m mul c2 c0",
     "input 'c2': expected [samples][4] as 'c0' has, or a column for each of its rows, got "
     "[samples][2]"},
    {"mul of other rows", "r reshape c0 rows=2; m mul r age", "input 'age': expected [samples][2]"},
    {"slice of nothing", "s slice c0", "count: expected how many columns to take"},
    {"slice too far", "s slice c0 first=2 count=3",
     "t.yml:1: layer 's': input 'c0': expected at least 5 columns, got [samples][4]"},
    {"slice rows", "s slice c0 over=rows count=2", "expected at least 2 rows, got [samples][4]"},
    {"slice first", "s slice c0 first=x count=3", "first: expected an integer in 0..1048576"},
    {"slice over", "s slice c0 over=row count=1", "over: expected columns|rows, got 'row'"},
    {"reshape", "r reshape c0", "expected rows or columns, one of them"},
    {"reshape both", "r reshape c0 rows=2 columns=2", "expected rows or columns, one of them"},
    {"reshape rest", "r reshape c0 columns=3",
     "input 'c0': expected a width that is a multiple of 3, got [samples][4]"},
    {"sum of two", "s sum c0 c1", "layer 's': expected one tensor as input, got 2"},
    {"mean over", "s mean c0 over=samples", "over: expected columns|rows, got 'samples'"},
    {"softmax of three", "s softmax c0 c1 c2",
     "expected one tensor and perhaps its mask as inputs, got 3"},
    {"softmax by a feature", "s softmax c0 c1", "input 'c1': expected a mask"},
    {"softmax by others", "s softmax c0 dense",
     "input 'dense': expected the 4 columns that 'c0' has, got [samples][2]"},
    {"layernorm of two", "n layernorm c0 c1", "layer 'n': expected one tensor as input, got 2"},
    {"layernorm eps", "n layernorm c0 eps=0", "eps: expected a number in 1e-12..1, got '0'"},
    {"batchnorm of two", "n batchnorm c0 c1", "layer 'n': expected one tensor as input, got 2"},
    {"batchnorm eps", "n batchnorm c0 eps=0", "eps: expected a number in 1e-12..1, got '0'"},
    {"batchnorm momentum", "n batchnorm c0 momentum=0",
     "momentum: expected a number in 1e-06..1, got '0'"},
    {"batchnorm affine", "n batchnorm c0 affine=false", "unknown key 'affine' for type batchnorm"},
    {"dropout", "d dropout c0", "rate: expected the share of elements to drop, got nothing"},
    {"dropout all", "d dropout c0 rate=1", "rate: expected a number in 0..0.99, got '1'"},
    {"dropout nan", "d dropout c0 rate=nan", "rate: expected a number in 0..0.99, got 'nan'"},
    {"activation", "a activation c0", "kind: expected the name of an activation, got nothing"},
    {"activation kind", "a activation c0 kind=swish", "got 'swish'"},
    {"attention of one row", "a attention c0",
     "input 'c0': expected 2..1024 rows, got [samples][4]"},
    {"attention kind", "a attention c0 kind=dim", "kind: expected self|din, got 'dim'"},
    {"attention of three", "r reshape c0 rows=2; a attention r c1 c2",
     "expected one tensor and perhaps its mask as inputs, got 3"},
    {"attention heads", "r reshape c0 rows=2; a attention r heads=3",
     "size: expected a multiple of 3 heads, got 2"},
    {"attention no heads", "r reshape c0 rows=2; a attention r heads=0",
     "heads: expected an integer in 1..64, got '0'"},
    {"attention mask", "r reshape c0 rows=4; a attention r dense",
     "input 'dense': expected [samples][4], a mask of the rows of 'r', got [samples][2]"},
    {"attention mask of ids", "r reshape c0 rows=2; a attention r c2",
     "input 'c2': expected a mask, NAME.mask of a sequence"},
    {"attention other kind's", "r reshape c0 rows=2; a attention r sizes=4",
     "unknown key 'sizes' for type attention self (did you mean 'size'?)"},
    {"attention heads of din", "r reshape c0 rows=2; a attention c2 r dense kind=din heads=2",
     "unknown key 'heads' for type attention din"},
    {"din of two", "r reshape c0 rows=2; a attention c2 r kind=din sizes=4",
     "expected a target, a sequence and its mask as inputs, got 2"},
    {"din of one row", "a attention c0 c1 dense kind=din sizes=4",
     "expected 2..1024 tensors as inputs, or one of so many rows, got 1"},
    {"din target", "r reshape c0 rows=2; a attention c1 r dense kind=din sizes=4",
     "input 'c1': expected the 2 columns that 'r' has, got [samples][4]"},
    {"din mask", "r reshape c0 rows=4; a attention age r dense kind=din sizes=4",
     "input 'dense': expected [samples][4], a mask of the rows of 'r', got [samples][2]"},
    {"din sizes", "r reshape c0 rows=2; a attention c2 r dense kind=din",
     "sizes: expected a list of sizes, got nothing"},
    {"gate alone", "g gate c2", "expected a gate's logits and then experts as inputs, got 1"},
    {"gate of one expert", "g gate age c0",
     "expected 2..1024 tensors as inputs, or one of so many rows, got 1"},
    {"gate of unequal", "g gate c2 c0 c2",
     "input 'c2': expected [samples][4] as 'c0' has, got [samples][2]"},
    {"gate of two for three", "g gate c2 c0 c1 c0",
     "input 'c2': expected [samples][3], a logit for each expert, got [samples][2]"},
    {"gate option", "g gate c2 c0 c1 experts=2", "unknown key 'experts' for type gate"},
    {"cross of two", "x cross c0 c1", "layer 'x': expected one tensor as input, got 2"},
    {"cross layers", "x cross c0 layers=17", "layers: expected an integer in 1..16, got '17'"},
    {"cross rank", "x cross c0 rank=0", "rank: expected an integer in 1..1048576, got '0'"},
    {"cross_v1 layers", "x cross_v1 c0 layers=0", "layers: expected an integer in 1..16"},
    {"cross_v1 of two", "x cross_v1 c0 c1", "layer 'x': expected one tensor as input, got 2"},
    {"wide logit", "loss bce c0", "input 'c0': expected [samples][1], got [samples][4]"},
    {"wrong label", "l mlp c0 sizes=1; loss bce l label=clack", "no label is called 'clack'"},
    {"same name", "l concat c0; l concat c0",
     "t.yml:2: layer 'l': name: already that of an earlier layer"},
    {"name of a feature", "c0 concat c1", "already that of a feature"},
    {"name of a column", "age concat c1", "already that of a dense column"},
    {"name of a whole", "dense concat c1", "already that of a whole"},
    {"unused", "u concat c1; l mlp c0 sizes=1; loss bce l",
     "layer 'u': its output is used by no layer"},
    {"after the loss", "l mlp c0 sizes=1; loss bce l; m concat c0",
     "t.yml: layer 'm': its output is used by no layer"},
    {"of the loss", "l mlp c0 sizes=1; loss bce l; m bce loss",
     "t.yml:3: layer 'm': input 'loss': a loss, whose output no layer can take"},
    {"two losses", "l mlp c0 sizes=1; loss bce l weight=0.5; m mlp c1 sizes=1; n mse m", NULL},
    {"a product", "l mlp c0 sizes=1; m mlp c1 sizes=1; loss bce l m", NULL},
    {"a wide product", "l mlp c0 sizes=1; loss bce l c1",
     "input 'c1': expected [samples][1], got [samples][4]"},
    {"too long a product", "l mlp c0 sizes=1; loss bce l l l l l l l l l l l l l l l l l",
     "layer 'loss': expected 1..16 logits as inputs, got 17 tensors"},
    {"weight", "l mlp c0 sizes=1; loss bce l weight=-1",
     "t.yml:2: layer 'loss': weight: expected a number in 0..1e+06, got '-1'"},
    {"mse of two", "loss mse c0 c1", "layer 'loss': expected one tensor as input, got 2"},
    {"wide mse", "loss mse c0", "input 'c0': expected [samples][1], got [samples][4]"},
    {"softmax_ce of one", "l mlp c0 sizes=1; loss softmax_ce l",
     "input 'l': expected a logit for each class, got [samples][1]"},
    {"softmax_ce of others", "loss softmax_ce c0",
     "t.yml:1: layer 'loss': label 'click': expected 4 classes, in data.yml it has 2"},
    {"17 losses",
     "a mse age; b mse age; c mse age; d mse age; e mse age; f mse age; g mse age; h mse age; "
     "i mse age; j mse age; k mse age; l mse age; m mse age; n mse age; o mse age; p mse age; "
     "q mse age",
     "t.yml:17: layer 'q': expected at most 16 losses"},
    {"too many parameters", "l mlp c0 sizes=1000000,1000000",
     "expected at most 2147483648 parameters"},
};

static void test_refused(void **state)
{
    (void)state;
    const uint32_t dim[] = {4, 4, 2};
    struct model_bed f;
    model_bed_init(&f, 4, 2, 3, dim, 1);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct tr_spec *spec = spec_of(refused[i].layers);
        struct tr_model *model = NULL;
        int err = model_bed_create(&f, spec, NULL, 4, &model);
        if (!refused[i].want && err)
            fail_msg("%s: refused: %s", refused[i].what, rt_err_text());
        if (refused[i].want && (err != RT_EUSAGE || !strstr(rt_err_text(), refused[i].want)))
            fail_msg("%s: got %d '%s'", refused[i].what, err, rt_err_text());
        if (!err)
            model_bed_step(&f, model);
        tr_model_destroy(model);
        tr_spec_destroy(spec);
    }
    model_bed_release(&f);
}

static void test_bad_names(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "a b", "a.b", "$x", "0123456789012345678901234567890123456789012345678901234567890123"};
    static const char *const in[] = {"dense"};
    struct tr_spec *spec = NULL;
    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(tr_spec_layer(spec, bad[i], "mlp", in, 1, "t.yml:9"), RT_EUSAGE);
    assert_int_equal(spec->n_layers, 0);
    tr_spec_destroy(spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_names),
    };

    return cmocka_run_group_tests_name("model refused", tests, NULL, NULL);
}
