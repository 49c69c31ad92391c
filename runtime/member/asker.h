/* runtime/member/asker.h -- asking over NATS and waiting for the answers, for command line programs: blocking, no loop,
 * no threads of ours. */
#ifndef RT_ASKER_H
#define RT_ASKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* RT_ENATS when there is no connection within timeout_ms. */
struct rt_asker;
int rt_asker_create(const char *url, uint32_t timeout_ms, struct rt_asker **out);
void rt_asker_destroy(struct rt_asker *asker); /* NULL is legal */
/* Publish and hand over the answers until answer() returns false, timeout_ms is over, or the server says
 * that nobody listens on the subject. */
int rt_asker_ask(struct rt_asker *asker, const char *subject, const void *data, size_t size,
                 uint32_t timeout_ms, void *ctx,
                 bool (*answer)(void *ctx, const uint8_t *data, size_t size));

#endif
