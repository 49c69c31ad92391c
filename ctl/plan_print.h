/* ctl/plan_print.h -- a plan as a page to read, and as JSON. */
#ifndef CTL_PLAN_PRINT_H
#define CTL_PLAN_PRINT_H

#include "ctl/plan_sum.h"

#include <jansson.h>
#include <stdio.h>

void ctl_plan_print(const struct ctl_question *question, const struct ctl_plan *plan, FILE *out);
json_t *ctl_plan_json(const struct ctl_question *question, const struct ctl_plan *plan);

#endif
