/* runtime/process/push.c -- metrics to a push gateway, by libcurl.
 *
 *   caller  --page-->  one slot, behind a lock  --thread-->  PUT, within its limit
 *
 * The thread sleeps on the slot. A transfer is driven by curl's multi interface though there is never more than one,
 * because its wait can be woken: at the end of the process the last page does not wait for one that is stuck. All
 * pages go to one group of the gateway, named after job, role and index, and a PUT replaces the group: so it shows
 * what this process said last, also after its end.
 *
 * The gateway's answer comes from outside: its first 160 bytes are kept for the log, the rest is not. */
#include "runtime/process/push.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_NS    (2 * RT_S)
#define ANSWER_MAX  160
#define HOST_MAX    255
#define SCHEME      "http://"
#define HOST_LETTER "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"

struct rt_push {
    char *url;
    uint64_t limit_ns;
    pthread_t thread;
    struct rt_push_stats stats;

    /* Touched by: the thread. */
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    char answer[ANSWER_MAX + 1], trouble[CURL_ERROR_SIZE];
    size_t answer_size;
    bool is_away; /* the latest page did not get there */

    pthread_mutex_t lock; /* guards the two below, and what `come` tells */
    pthread_cond_t come;
    struct rt_strbuf page; /* text NULL: none waits */
    uint64_t end_ns;       /* of the last page */

    atomic_bool closing; /* no page comes after the one in the slot. Touched by: any */
};

/* ---- addresses ---- */

/* Length of a host at the beginning of text; 0: there is none. */
static size_t host_length(const char *text)
{
    size_t n;

    if (text[0] != '[')
        n = strspn(text, HOST_LETTER);
    else {
        n = 1 + strspn(text + 1, "0123456789abcdefABCDEF:.");
        n = n > 1 && text[n] == ']' ? n + 1 : 0;
    }
    return n <= HOST_MAX ? n : 0;
}

int rt_push_check(const char *address)
{
    const char *text = address;
    unsigned long port = 0;
    char shown[128], *end;
    size_t n;

    if (strncmp(text, SCHEME, strlen(SCHEME)) == 0)
        text += strlen(SCHEME);
    n = host_length(text);
    if (n > 0 && text[n] == ':' && text[n + 1] >= '0' && text[n + 1] <= '9') {
        port = strtoul(text + n + 1, &end, 10);
        if (strcmp(end, "") != 0 && strcmp(end, "/") != 0)
            port = 0;
    }
    if (port < 1 || port > UINT16_MAX)
        return RT_FAIL(RT_EUSAGE, "expected HOST:PORT or http://HOST:PORT, got '%s'",
                       rt_log_escape(address, shown, sizeof(shown)));
    return 0;
}

static char *make_url(const struct rt_push_conf *conf)
{
    const char *address = conf->address;
    size_t n;

    if (strncmp(address, SCHEME, strlen(SCHEME)) == 0)
        address += strlen(SCHEME);
    n = strcspn(address, "/");
    return rt_xasprintf(SCHEME "%.*s/metrics/job/%s/role/%s/index/%u", (int)n, address, conf->job,
                        conf->role, conf->index);
}

/* ---- one page ---- */

static size_t on_answer(char *data, size_t one, size_t n, void *arg)
{
    struct rt_push *push = arg;
    size_t room = ANSWER_MAX - push->answer_size, take = one * n < room ? one * n : room;

    memcpy(push->answer + push->answer_size, data, take);
    push->answer_size += take;
    return one * n;
}

/* Whether what was under way has to give way to the last page. */
static bool is_overtaken(struct rt_push *push, bool last)
{
    return !last && atomic_load(&push->closing);
}

/* Until it is done, its time is over, or it was overtaken. RT_ECANCELED, RT_EDEADLINE or RT_EPEER. */
static int transfer(struct rt_push *push, uint64_t end_ns, bool last)
{
    int running = 1, queued = 0;
    const CURLMsg *message;
    long status = 0;

    while (curl_multi_perform(push->multi, &running) == CURLM_OK && running) {
        uint64_t now = rt_now_ns();

        if (is_overtaken(push, last))
            return RT_FAIL(RT_ECANCELED, "overtaken by the last page");
        if (now >= end_ns)
            return RT_FAIL(RT_EDEADLINE, "no answer within %llu ms",
                           (unsigned long long)(push->limit_ns / RT_MS));
        curl_multi_poll(push->multi, NULL, 0, (int)((end_ns - now) / RT_MS + 1), NULL);
    }
    message = curl_multi_info_read(push->multi, &queued);
    if (!message || message->data.result != CURLE_OK)
        return RT_FAIL(RT_EPEER, "%s", push->trouble[0] ? push->trouble : "the transfer failed");
    curl_easy_getinfo(push->easy, CURLINFO_RESPONSE_CODE, &status);
    push->answer[push->answer_size] = '\0';
    if (status < 200 || status > 299)
        return RT_FAIL(RT_EPEER, "HTTP %ld: %s", status, push->answer);
    return 0;
}

static int send_page(struct rt_push *push, const struct rt_strbuf *page, uint64_t end_ns, bool last)
{
    int err;

    push->answer_size = 0;
    push->trouble[0] = '\0';
    curl_easy_setopt(push->easy, CURLOPT_POSTFIELDS, page->text);
    curl_easy_setopt(push->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)page->len);
    if (curl_multi_add_handle(push->multi, push->easy) != CURLM_OK)
        return RT_FAIL(RT_ENOMEM, "out of memory");
    err = transfer(push, end_ns, last);
    curl_multi_remove_handle(push->multi, push->easy);
    return err;
}

/* Good news and bad news once each, however long they last. */
static void report(struct rt_push *push, int err)
{
    char clean[4 * ANSWER_MAX];
    bool was_away = push->is_away;

    if (err == RT_ECANCELED)
        return;
    atomic_fetch_add_explicit(err ? &push->stats.failed : &push->stats.taken, 1,
                              memory_order_relaxed);
    push->is_away = err != 0;
    if (err && !was_away)
        rt_log(RT_LOG_WARN, "metrics_gateway_away url=%s reason=\"%s\"", push->url,
               rt_log_escape(rt_err_text(), clean, sizeof(clean)));
    if (!err && was_away)
        rt_log(RT_LOG_INFO, "metrics_gateway_back url=%s", push->url);
}

static void *push_main(void *arg)
{
    struct rt_push *push = arg;

    pthread_setname_np(pthread_self(), "push");
    pthread_mutex_lock(&push->lock);
    for (;;) {
        struct rt_strbuf page = push->page;
        bool last = atomic_load(&push->closing);
        uint64_t end_ns = last ? push->end_ns : rt_now_ns() + push->limit_ns;

        if (!page.text && last)
            break;
        if (!page.text) {
            pthread_cond_wait(&push->come, &push->lock);
            continue;
        }
        rt_strbuf_init(&push->page);
        pthread_mutex_unlock(&push->lock);
        report(push, send_page(push, &page, end_ns, last));
        rt_strbuf_release(&page);
        pthread_mutex_lock(&push->lock);
    }
    pthread_mutex_unlock(&push->lock);
    return NULL;
}

/* ---- life ---- */

/* What does not change from page to page. No proxy: the gateway is of our cluster, and an environment that names
 * one for the world outside must not lead away from it. */
static bool set_options(struct rt_push *push)
{
    CURL *easy = push->easy;

    push->headers = curl_slist_append(NULL, "Content-Type: text/plain; version=0.0.4");
    if (!push->headers || !curl_slist_append(push->headers, "Expect:"))
        return false;
    return curl_easy_setopt(easy, CURLOPT_URL, push->url) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, "PUT") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, push->headers) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK && /* no wait for DNS */
           curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, push->trouble) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_answer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, push) == CURLE_OK;
}

static void release(struct rt_push *push)
{
    curl_easy_cleanup(push->easy);
    curl_multi_cleanup(push->multi);
    curl_slist_free_all(push->headers);
    curl_global_cleanup();
    pthread_mutex_destroy(&push->lock);
    pthread_cond_destroy(&push->come);
    rt_strbuf_release(&push->page);
    rt_free(push->url);
    rt_free(push);
}

int rt_push_create(const struct rt_push_conf *conf, struct rt_push **out)
{
    struct rt_push *push = rt_xcalloc(1, sizeof(*push));
    int err = pthread_mutex_init(&push->lock, NULL) | pthread_cond_init(&push->come, NULL);

    rt_assert(err == 0);
    push->url = make_url(conf);
    push->limit_ns = conf->limit_ns ? conf->limit_ns : LIMIT_NS;
    rt_strbuf_init(&push->page);
    curl_global_init(CURL_GLOBAL_NOTHING);
    push->multi = curl_multi_init();
    push->easy = curl_easy_init();
    if (!push->multi || !push->easy || !set_options(push))
        err = RT_FAIL(RT_ENOMEM, "metrics gateway: libcurl could not be set up");
    else if (pthread_create(&push->thread, NULL, push_main, push) != 0)
        err = RT_FAIL(RT_ENOMEM, "metrics gateway: no thread");
    if (err) {
        release(push);
        return err;
    }
    *out = push;
    return 0;
}

static void give(struct rt_push *push, struct rt_strbuf *page, bool last)
{
    pthread_mutex_lock(&push->lock);
    rt_strbuf_release(&push->page);
    push->page = *page;
    rt_strbuf_init(page);
    push->end_ns = rt_now_ns() + push->limit_ns;
    if (last)
        atomic_store(&push->closing, true);
    pthread_cond_signal(&push->come);
    pthread_mutex_unlock(&push->lock);
    if (last)
        curl_multi_wakeup(push->multi);
}

void rt_push_give(struct rt_push *push, struct rt_strbuf *page)
{
    rt_assert(!atomic_load(&push->closing));
    give(push, page, false);
}

void rt_push_last(struct rt_push *push, struct rt_strbuf *page)
{
    rt_assert(!atomic_load(&push->closing));
    give(push, page, true);
}

void rt_push_destroy(struct rt_push *push)
{
    struct rt_strbuf none;

    if (!push)
        return;
    rt_strbuf_init(&none);
    if (!atomic_load(&push->closing))
        give(push, &none, true);
    pthread_join(push->thread, NULL);
    release(push);
}

const struct rt_push_stats *rt_push_stats(const struct rt_push *push)
{
    return &push->stats;
}
