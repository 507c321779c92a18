#include "fs/partitioner.h"

#include <errno.h>

#include "broker/base/clock.h"
#include "broker/base/endian.h"

#define SEED 0x9747b28cu
#define FACTOR 0x5bd1e995u

uint32_t kq_murmur2(const void *key, size_t length)
{
    const uint8_t *at = key, *end = at + length;
    uint32_t hash = SEED ^ (uint32_t)length;
    for (; end - at >= 4; at += 4) {
        uint32_t word = kq_load_le32(at) * FACTOR;
        hash = hash * FACTOR ^ (word ^ word >> 24) * FACTOR;
    }
    if (at < end) {
        uint32_t word = 0;
        for (int shift = 0; at < end; shift += 8)
            word |= (uint32_t)*at++ << shift;
        hash = (hash ^ word) * FACTOR;
    }
    hash = (hash ^ hash >> 13) * FACTOR;
    return hash ^ hash >> 15;
}

int32_t kq_partition_of_key(const void *key, size_t length, int32_t count)
{
    return (int32_t)(kq_murmur2(key, length) & INT32_MAX) % count;
}

/* splitmix64, seeded by the time and the place: it spreads load, no more. */
static uint64_t next_random(struct kq_sticky *sticky)
{
    if (sticky->random == 0)
        sticky->random = (uint64_t)kq_clock_mono_ns() ^ (uint64_t)(uintptr_t)sticky << 16;
    uint64_t word = sticky->random += 0x9e3779b97f4a7c15u;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return word ^ word >> 31;
}

/* The INDEXth partition that MAY allows, -1 behind the last; RET_COUNT: how many there were. */
static int32_t find_allowed(int32_t count, int32_t index,
                            bool (*may)(void *context, int32_t partition), void *context,
                            int32_t *ret_count)
{
    *ret_count = 0;
    for (int32_t partition = 0; partition < count; partition++)
        if (may(context, partition) && (*ret_count)++ == index)
            return partition;
    return -1;
}

/* A few throws of the dice first: most often all are allowed. */
static int32_t choose(struct kq_sticky *sticky, int32_t count,
                      bool (*may)(void *context, int32_t partition), void *context)
{
    int32_t allowed;
    for (int throws = 0; throws < 4; throws++) {
        int32_t partition = (int32_t)(next_random(sticky) % (uint64_t)count);
        if (may(context, partition))
            return partition;
    }
    find_allowed(count, INT32_MAX, may, context, &allowed);
    if (allowed == 0)
        return -1;
    int32_t index = (int32_t)(next_random(sticky) % (uint64_t)allowed);
    return find_allowed(count, index, may, context, &allowed);
}

int kq_sticky_choose(struct kq_sticky *sticky, int32_t count, size_t bytes,
                     bool (*may)(void *context, int32_t partition), void *context, int32_t *ret)
{
    int32_t partition = sticky->chosen - 1;
    if (partition < 0 || partition >= count || sticky->bytes_left <= 0 ||
        !may(context, partition)) {
        partition = choose(sticky, count, may, context);
        if (partition < 0)
            return -EACCES;
        sticky->chosen = partition + 1;
        sticky->bytes_left = KQ_STICKY_BYTES;
    }
    sticky->bytes_left -= bytes < KQ_STICKY_BYTES ? (int64_t)bytes : KQ_STICKY_BYTES;
    *ret = partition;
    return 0;
}
