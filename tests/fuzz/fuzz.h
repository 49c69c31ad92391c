/* tests/fuzz/fuzz.h -- one function per parser that reads bytes from outside.
 *
 * Each takes any bytes, leaves nothing behind, returns 0, and aborts (rt_assert) when what the parser said
 * contradicts itself. Called by libFuzzer (`make fuzz`, entry.c) and, over tests/fuzz/corpus/NAME/, by
 * tests/unit/test_corpus.c. A new one: fuzz_NAME.c, a line here, a folder with seeds. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* clang-format off */
#define FUZZ_TARGETS(X)                                                                            \
    X(frame)    /* runtime/net/frame.h: header, checksum */                                        \
    X(segments) /* runtime/net/frame.h: cursor over a payload */                                   \
    X(link)     /* runtime/net: an rpc that hears any bytes, behind a handshake or not */           \
    X(lz)       /* runtime/net/lz.h: a packed payload in pieces */                                 \
    X(wire)     /* runtime/wire: the first byte chooses the codec */                               \
    X(yaml)     /* runtime/conf: a document, written and read back */                              \
    X(job)      /* runtime/job: the four files and --set lines, between lines of "====" */         \
    X(rows)     /* data_compose/parse.h: the first byte chooses format and columns */              \
    X(source)   /* data_compose/source.h: plain and gzip files, reads of any length */             \
    X(block)    /* data_compose/block.h: the binary form, checksums made good by an odd first byte */ \
    X(model)    /* trainer/model/parse.h: a model file and overrides, between "====" */            \
    X(safetensors) /* runtime/job/safetensors.h: a file, or a header whose length is made good */  \
    X(rowfile)  /* runtime/checkpoint/rowfile.h: checksums made good by an odd first byte */       \
    X(manifest) /* runtime/checkpoint/manifest.h: the digest made good by an odd first byte */
/* clang-format on */

#define X(name) int fuzz_##name(const uint8_t *data, size_t size);
FUZZ_TARGETS(X)
#undef X

/* The next part of a text that lines of "====" separate, as a copy with a NUL behind it (rt_free); NULL
 * after the last. *at begins at 0. */
char *fuzz_part(const uint8_t *data, size_t size, size_t *at, size_t *part_size);

#endif
