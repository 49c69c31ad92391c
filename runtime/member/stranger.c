/* runtime/member/stranger.c -- two processes of one job that were given different files. */
#include "runtime/member/stranger.h"
#include "runtime/base/log.h"
#include "runtime/base/strbuf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool rt_is_of_our_job(const struct wire_hello *self, const struct wire_hello *hello)
{
    return hello->wire_version == self->wire_version && hello->config_hash == self->config_hash &&
           hello->plan_hash == self->plan_hash;
}

/* "embedding.yml, model.yml differ"; "configuration" when it does not tell its parts. */
static void add_parts(const struct wire_hello *self, const struct wire_hello *hello,
                      struct rt_strbuf *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < WIRE_PART_COUNT; i++) {
        if (!hello->part_hash[i] || hello->part_hash[i] == self->part_hash[i])
            continue;
        rt_strbuf_addf(out, "%s%s", n ? ", " : "", wire_job_part_name((enum wire_job_part)i));
        n++;
    }
    if (n == 0)
        rt_strbuf_addf(out, "configuration");
    rt_strbuf_addf(out, " differ%s", n > 1 ? "" : "s");
}

static void add_hash(struct rt_strbuf *out, const char *what, uint64_t there, uint64_t here)
{
    if (there != here)
        rt_strbuf_addf(out, "; %s hash %016" PRIx64 " there, %016" PRIx64 " here", what, there,
                       here);
}

void rt_stranger_text(const struct wire_hello *self, const struct wire_hello *hello,
                      char out[RT_STRANGER_TEXT])
{
    char host[128];
    struct rt_strbuf text;

    rt_strbuf_init(&text);
    rt_strbuf_addf(&text, "%s/%u on host %s runs the job '%s' with ", rt_role_name(hello->role),
                   hello->index, rt_log_escape(hello->host, host, sizeof(host)), self->job);
    if (hello->wire_version != self->wire_version) {
        rt_strbuf_addf(&text, "another version of Saffron: wire version %u there, %u here",
                       hello->wire_version, self->wire_version);
    } else {
        rt_strbuf_addf(&text, "other files: ");
        add_parts(self, hello, &text);
        add_hash(&text, "config", hello->config_hash, self->config_hash);
        add_hash(&text, "data plan", hello->plan_hash, self->plan_hash);
    }
    snprintf(out, RT_STRANGER_TEXT, "%s", text.text);
    rt_strbuf_release(&text);
}
