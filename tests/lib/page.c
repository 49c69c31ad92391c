/* tests/lib/page.c -- series looked up on the printed page. */
#include "tests/lib/page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The sum of the lines that begin with `name`; whole: and have no labels beyond it. */
static double add_up(const struct rt_metrics *metrics, const char *name, bool whole)
{
    size_t size = strlen(name), found = 0;
    struct rt_strbuf page;
    double sum = 0;

    rt_strbuf_init(&page);
    rt_metrics_print(metrics, &page);
    for (const char *line = page.text; line && *line; line = strchr(line, '\n') + 1) {
        const char *value = strncmp(line, name, size) == 0 ? line + size : NULL;

        if (value && !whole && *value == '{')
            value = strstr(value, "} ") + 1;
        if (!value || *value != ' ')
            continue;
        sum += strtod(value, NULL);
        found++;
    }
    if (found == 0)
        fail_msg("no series %s in\n%s", name, page.text ? page.text : "(nothing)");
    rt_strbuf_release(&page);
    return sum;
}

double page_value(const struct rt_metrics *metrics, const char *series)
{
    return add_up(metrics, series, true);
}

double page_sum(const struct rt_metrics *metrics, const char *name)
{
    return add_up(metrics, name, false);
}
