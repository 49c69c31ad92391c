/* tests/unit/spec_text.h -- models in one line of text, for tables of tests. */
#ifndef SPEC_TEXT_H
#define SPEC_TEXT_H

struct tr_spec;

/* "l mlp c0 sizes=8,1; loss bce l": layers with inputs and options, the k-th of them in line k of "t.yml".
 * "activation=relu," is a list of one word. */
struct tr_spec *spec_of(const char *text);

#endif
