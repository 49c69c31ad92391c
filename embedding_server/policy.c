/* embedding_server/policy.c -- see policy.h. */
#include "embedding_server/policy.h"
#include "embedding_server/table_inner.h"
#include "runtime/base/err.h"
#include "runtime/checkpoint/rowfile.h"

#include <string.h>

_Static_assert(RT_ROWFILE_LINE == sizeof(uint64_t) + EBS_ADMIT_LINE, "a number and its line");

struct head {
    uint32_t version, ages;
    uint64_t tick, sketch_bytes;
};
_Static_assert(sizeof(struct head) == 24 && sizeof(struct ebs_clock_age) == 16,
               "as the file has them");

static bool knows(const struct ebs_table *table)
{
    const uint8_t *sketch;

    return table->layout.touched || ebs_admit_sketch(table->admit, &sketch) > 0;
}

static size_t size_of(const struct head *head)
{
    return sizeof(*head) + head->ages * sizeof(struct ebs_clock_age) +
           (head->version == 1 ? (size_t)head->sketch_bytes : 0);
}

static struct head head_of(const uint8_t *policy)
{
    struct head head;

    memcpy(&head, policy, sizeof(head));
    return head;
}

static struct head head_now(const struct ebs_table *table)
{
    struct ebs_clock_age age[EBS_CLOCK_AGES];
    const uint8_t *sketch;

    return (struct head){.version = EBS_POLICY_VERSION,
                         .ages = ebs_clock_ages(&table->clock, age),
                         .tick = table->clock.tick,
                         .sketch_bytes = ebs_admit_sketch(table->admit, &sketch)};
}

size_t ebs_table_policy_size(const struct ebs_table *table)
{
    struct head head = head_now(table);

    return knows(table) ? size_of(&head) : 0;
}

void ebs_table_policy_write(const struct ebs_table *table, uint8_t *out)
{
    struct head head = head_now(table);
    struct ebs_clock_age age[EBS_CLOCK_AGES];

    (void)ebs_clock_ages(&table->clock, age);
    memcpy(out, &head, sizeof(head));
    memcpy(out + sizeof(head), age, head.ages * sizeof(age[0]));
}

int ebs_policy_check(const uint8_t *policy, size_t bytes)
{
    struct head head;
    struct ebs_clock_age age, before = {0};

    if (bytes < sizeof(head))
        return RT_FAIL(RT_EDATA, "policies: %zu bytes, expected %zu and more", bytes, sizeof(head));
    head = head_of(policy);
    if (head.version < 1 || head.version > EBS_POLICY_VERSION)
        return RT_FAIL(RT_EUSAGE, "policies: version %u, expected 1 to %u", head.version,
                       EBS_POLICY_VERSION);
    if (head.ages > EBS_CLOCK_AGES || (head.version == 1 && head.sketch_bytes > bytes) ||
        size_of(&head) != bytes)
        return RT_FAIL(RT_EDATA, "policies: %u ages and a sketch of %llu bytes in %zu bytes",
                       head.ages, (unsigned long long)head.sketch_bytes, bytes);
    for (uint32_t i = 0; i < head.ages; i++, before = age) {
        memcpy(&age, policy + sizeof(head) + i * sizeof(age), sizeof(age));
        if (age.ticks > head.tick || age.ms < before.ms || (i > 0 && age.ticks <= before.ticks))
            return RT_FAIL(RT_EDATA, "policies: age %u of the clock is not in its order", i);
    }
    return 0;
}

uint32_t ebs_policy_now(const uint8_t *policy)
{
    return (uint32_t)head_of(policy).tick;
}

bool ebs_table_policy_merge(struct ebs_table *table, const uint8_t *policy)
{
    struct head head = head_of(policy);
    struct ebs_clock_age age[EBS_CLOCK_AGES];
    const uint8_t *at = policy + sizeof(head);

    memcpy(age, at, head.ages * sizeof(age[0]));
    if (head.tick > 0)
        ebs_clock_restore(&table->clock, head.tick, age, head.ages);
    if (head.version == 1)
        return ebs_admit_merge(table->admit, at + head.ages * sizeof(age[0]), head.sketch_bytes);
    return head.sketch_bytes == ebs_admit_sketch(table->admit, &at);
}

bool ebs_table_sketch_merge(struct ebs_table *table, const uint8_t *line, size_t n)
{
    for (size_t i = 0; i < n; i++, line += RT_ROWFILE_LINE) {
        uint64_t number;

        memcpy(&number, line, sizeof(number));
        if (!ebs_admit_merge_line(table->admit, number, line + sizeof(number)))
            return false;
    }
    return true;
}

uint32_t ebs_table_now(const struct ebs_table *table)
{
    return table->clock.now;
}
