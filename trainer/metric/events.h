/* trainer/metric/events.h -- a file of scalars by step, as TensorBoard reads them.
 *
 * Records as TensorFlow frames them: length u64, masked CRC32C of it, bytes, masked CRC32C of those; little-endian. The bytes
 * are an Event of tensorflow/core/util/event.proto: wall_time = 1 (double), step = 2 (int64), file_version = 3 (string),
 * summary = 5 {value = 1 {tag = 1 (string), simple_value = 2 (float)}}. A record says all values of a step.
 *
 * Two sides, each of one thread: who adds (loop thread) fills a buffer and never waits; who writes (step thread, between steps)
 * empties the other one. take and given are called where neither is at work.
 *
 *     tr_events_begin(events, wall, step); tr_events_value(events, "loss", 0.5); ... tr_events_end(events);
 *     if (tr_events_take(events)) on the other thread: err = tr_events_write(events); then tr_events_given(events) */
#ifndef TR_EVENTS_H
#define TR_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#define TR_EVENTS_BYTES_MAX                                                                        \
    (1u << 20) /* that wait to be written; what is more is left out, and counted */

struct tr_events;

/* A new file DIR/events.out.tfevents.TIME.HOST.PID; the folder is made. RT_EFILE. */
int tr_events_create(const char *dir, double wall_seconds, struct tr_events **out);
void tr_events_destroy(struct tr_events *events); /* what was not written is lost; NULL is legal */

void tr_events_begin(struct tr_events *events, double wall_seconds, uint64_t step);
void tr_events_value(struct tr_events *events, const char *tag,
                     double value);                          /* NaN: there is none */
void tr_events_end(struct tr_events *events);                /* a record without values is none */
uint64_t tr_events_left_out(const struct tr_events *events); /* records */

bool tr_events_take(struct tr_events *events); /* is there anything to write, and nobody at it? */
int tr_events_write(struct tr_events *events); /* RT_EFILE: the file ends there */
void tr_events_given(struct tr_events *events);

#endif
