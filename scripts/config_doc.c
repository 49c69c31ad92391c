/* scripts/config_doc.c -- prints docs/config.md from the option tables of all modules (`make docs`). */
#include "data_compose/synthetic.h"
#include "runtime/base/assert.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/job.h"
#include "trainer/model/parse.h"
#include "trainer/optimizer_conf.h"

#include <stdio.h>

static void data(struct rt_strbuf *out)
{
    rt_job_document_data(out);
    dc_synthetic_document(out);
}

static void model(struct rt_strbuf *out)
{
    tr_parse_document(out);
    tr_optimizer_document(out);
}

int main(void)
{
    static const struct {
        const char *file, *what;
        void (*rows)(struct rt_strbuf *out);
    } part[] = {
        {"global.yml", "how the job runs", rt_job_document_global},
        {"embedding.yml",
         "`defaults:` takes the keys of a table and holds for all of them; `tables:` and "
         "`features:` are "
         "maps from name to keys",
         rt_job_document_embedding},
        {"data.yml", "what is read; a column is `NAME: kind` or `NAME: {kind: ..., ...}`", data},
        {"model.yml", "the dense network", model},
    };
    struct rt_strbuf out;
    rt_strbuf_init(&out);
    rt_strbuf_addf(&out, "# Every key of a job's files\n\n"
                         "Made from the option tables by `make docs`; not to be edited. "
                         "`--set FILE.key.path=value` replaces any of them for one run;\n"
                         "FILE is the word before the first dot, as the keys stand here.\n");
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        rt_strbuf_addf(&out,
                       "\n## %s\n\n%s.\n\n| key | value | default | meaning |\n|---|---|---|---|\n",
                       part[i].file, part[i].what);
        part[i].rows(&out);
    }
    fputs(out.text, stdout);
    rt_strbuf_release(&out);
    return 0;
}
