/* runtime/wire/codec.h -- what the codecs of this folder share; nobody else includes it.
 *
 * A codec is three functions: check (limits, the same for both sides), pack (assert the check, hand a
 * generated struct to wire_encode), unpack (wire_decode, copy, check). */
#ifndef WIRE_CODEC_H
#define WIRE_CODEC_H

#include "runtime/base/mem.h"
#include "runtime/wire/method.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* Most memory that one message may unpack to, whatever room the caller's arena has. */
#define WIRE_UNPACK_MAX ((size_t)32 << 20)

/* Pack into `out`, growing it where needed. RT_ELIMIT over RT_MESSAGE_MAX, RT_ENOMEM. */
int wire_encode(const ProtobufCMessage *message, struct wire_out *out);

/* Unpack into `arena`: the generated struct of `descriptor`, or NULL and *err (RT_EPROTO: malformed, NUL in
 * a text, too much memory; RT_ENOMEM: the arena has no room). Texts are never NULL afterwards. */
void *wire_decode(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t size,
                  struct rt_arena *arena, int *err);

/* The sender's side of a check: a message that the receiver would refuse is a bug of ours. */
void wire_assert_ok(int err);

/* Checks. Each gives 0, or RT_EPROTO with a text like "PutBatch: samples is 0, expected 1..65535". */
int wire_range(const char *message, const char *field, uint64_t value, uint64_t min, uint64_t max);
int wire_same_count(const char *message, const char *field, size_t n, const char *other,
                    size_t n_other);
int wire_real(const char *message, const char *field, double value,
              double min); /* finite, >= min */
int wire_text(const char *message, const char *field, const char *text, size_t max);
int wire_dtype(const char *message, uint32_t dtype);
int wire_rank(const char *message, uint32_t rank, uint32_t world);
int wire_dims(const char *message, const uint32_t *dim, size_t n);
/* Each a power of two whose inverse is a normal number too. @scale: [n], or NULL. */
int wire_scales(const char *message, const float *scale, size_t n);
/* Each at least `min`, and the sum at most WIRE_IDS_MAX. `field` is their name. */
int wire_ids(const char *message, const char *field, const uint32_t *n_ids, size_t n, uint32_t min);

#endif
