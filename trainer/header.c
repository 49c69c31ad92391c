/* trainer/header.c -- see header.h. Checked before a header is taken for anything: a wrong one is its rank's
 * failure, and what all ranks know stays as it is. */
#include "trainer/header.h"

#include "runtime/base/err.h"
#include "runtime/job/batch_id.h"
#include "runtime/net/frame.h"

#include <inttypes.h>

#define NEWS_MAX     2048u
#define ROUND_BYTES  64u  /* of StepHeaders without the headers, and to spare */
#define HEADER_BYTES 224u /* of one header there without its news, at most */

_Static_assert((RT_MESSAGE_MAX - ROUND_BYTES) / WIRE_GROUP_MAX >= HEADER_BYTES + sizeof(uint64_t),
               "a round of the largest group tells of one batch per rank at least");

uint32_t tr_header_news_max(uint32_t world)
{
    uint32_t bytes = (RT_MESSAGE_MAX - ROUND_BYTES) / world - HEADER_BYTES;
    uint32_t n = bytes / (uint32_t)sizeof(uint64_t);
    return n < NEWS_MAX ? n : NEWS_MAX;
}

int tr_header_check_own(const struct tr_header_rules *rules, const char *what, uint32_t rank,
                        uint64_t batch_id)
{
    uint32_t owner = rt_batch_rank(batch_id, rules->world);
    if (rt_batch_split(batch_id) >= rules->splits)
        return RT_FAIL(RT_EPROTO,
                       "%s of rank %u: batch %016" PRIx64 " is of split %u, expected below %u",
                       what, rank, batch_id, rt_batch_split(batch_id), rules->splits);
    if (owner != rank)
        return RT_FAIL(RT_EPROTO, "%s of rank %u: batch %016" PRIx64 " is rank %u's", what, rank,
                       batch_id, owner);
    if (!rt_ledger_has_room(rules->ledger, batch_id))
        return RT_FAIL(RT_EPROTO,
                       "%s of rank %u: batch %016" PRIx64 " is too far ahead of the ledger", what,
                       rank, batch_id);
    return 0;
}

int tr_header_check(const struct tr_header_rules *rules, uint32_t rank,
                    const struct wire_step_header *header)
{
    uint32_t max = tr_header_news_max(rules->world);
    int err = 0;
    if (header->n_finished > max)
        return RT_FAIL(RT_EPROTO, "StepHeader of rank %u: %u batches finished, expected at most %u",
                       rank, header->n_finished, max);
    if (header->has_batch)
        err = tr_header_check_own(rules, "StepHeader", rank, header->batch_id);
    for (uint32_t i = 0; i < header->n_finished && !err; i++)
        err = tr_header_check_own(rules, "StepHeader, finished,", rank, header->finished[i]);
    return err;
}
