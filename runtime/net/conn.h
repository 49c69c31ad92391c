/* runtime/net/conn.h -- links of an rt_loop: framed connections on uv_stream (TCP and Unix sockets).
 *
 * The functions behind the link part of rt_io_ops; loop.c puts them into the table. */
#ifndef RT_CONN_H
#define RT_CONN_H

#include "runtime/net/io.h"

struct rt_loop;

int rt_conn_listen(struct rt_io *io, const char *address, rt_accept_fn accept, void *arg,
                   char bound[RT_ADDRESS_MAX], struct rt_listener **out);
void rt_conn_unlisten(struct rt_listener *listener);
int rt_conn_connect(struct rt_io *io, const char *address, const struct rt_link_events *events,
                    void *arg, struct rt_link **out);
void rt_conn_set(struct rt_link *link, const struct rt_link_events *events, void *arg);
int rt_conn_send(struct rt_link *link, struct rt_header *header, const void *message,
                 size_t message_size, const struct rt_piece *pieces, size_t n_pieces,
                 const struct rt_maker *maker);
bool rt_conn_checks(const struct rt_link *link);
size_t rt_conn_queued(const struct rt_link *link);
void rt_conn_watch(struct rt_link *link, size_t low);
void rt_conn_pause(struct rt_link *link, bool pause);
void rt_conn_close(struct rt_link *link, int err, const char *why);
const char *rt_conn_name(const struct rt_link *link);

void rt_conns_flush(struct rt_loop *loop);     /* give what is queued to the kernel */
void rt_conns_close_all(struct rt_loop *loop); /* links and listeners; run the loop to finish it */
void rt_conns_release(struct rt_loop *loop);   /* recycled memory, after all links are gone */

#endif
