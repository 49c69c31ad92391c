/* runtime/member/service.c -- $SRV answers. */
#include "runtime/member/service.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum verb { PING, INFO, STATS, VERB_COUNT };

static const struct {
    const char *subject, *type;
} verbs[VERB_COUNT] = {
    [PING] = {"$SRV.PING", "io.nats.micro.v1.ping_response"},
    [INFO] = {"$SRV.INFO", "io.nats.micro.v1.info_response"},
    [STATS] = {"$SRV.STATS", "io.nats.micro.v1.stats_response"},
};

/* Is `subject` the verb for all services, for those of our name, or for us alone? */
static bool is_meant(const struct rt_service *service, const char *verb, const char *subject)
{
    size_t verb_len = strlen(verb), name_len = strlen(service->name);

    if (strncmp(subject, verb, verb_len) != 0)
        return false;
    subject += verb_len;
    if (*subject == '\0')
        return true;
    if (*subject != '.' || strncmp(subject + 1, service->name, name_len) != 0)
        return false;
    subject += 1 + name_len;
    return *subject == '\0' || (*subject == '.' && strcmp(subject + 1, service->id) == 0);
}

static json_t *endpoint(const struct rt_service *service, enum verb verb)
{
    json_t *e = json_pack("{s:s, s:s, s:s}", "name", "control", "subject", service->subject,
                          "queue_group", "");

    rt_assert(e);
    if (verb == INFO) {
        json_object_set_new(e, "metadata", json_object());
        return e;
    }
    json_object_set_new(e, "num_requests", json_integer((json_int_t)service->requests));
    json_object_set_new(e, "num_errors", json_integer((json_int_t)service->errors));
    json_object_set_new(e, "last_error", json_string(service->last_error));
    json_object_set_new(e, "processing_time", json_integer((json_int_t)service->busy_ns));
    json_object_set_new(
        e, "average_processing_time",
        json_integer((json_int_t)(service->requests ? service->busy_ns / service->requests : 0)));
    return e;
}

static json_t *started(const struct rt_service *service)
{
    time_t seconds = (time_t)(service->started_ms / 1000);
    struct tm utc;
    char text[64], all[96];

    gmtime_r(&seconds, &utc);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(all, sizeof(all), "%s.%03uZ", text, (unsigned)(service->started_ms % 1000));
    return json_string(all);
}

bool rt_service_answer(const struct rt_service *service, const char *subject,
                       struct rt_strbuf *json)
{
    int verb = PING;
    json_t *o;
    char *text;

    while (verb < VERB_COUNT && !is_meant(service, verbs[verb].subject, subject))
        verb++;
    if (verb == VERB_COUNT)
        return false;
    o = json_pack("{s:s, s:s, s:s, s:s, s:{}}", "type", verbs[verb].type, "name", service->name,
                  "id", service->id, "version", service->version, "metadata");
    rt_assert(o);
    if (verb == INFO)
        json_object_set_new(o, "description", json_string(service->description));
    if (verb == STATS)
        json_object_set_new(o, "started", started(service));
    if (verb != PING)
        json_object_set_new(o, "endpoints", json_pack("[o]", endpoint(service, (enum verb)verb)));
    text = json_dumps(o, JSON_COMPACT);
    rt_assert(text);
    rt_strbuf_add(json, text, strlen(text));
    free(text); /* jansson's, from its allocator */
    json_decref(o);
    return true;
}
