/* Which partition a message goes to: as Kafka's Java client picks. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Kafka's murmur2 (32 bits, seed 0x9747b28c) of KEY. Any thread. */
uint32_t kq_murmur2(const void *key, size_t length);

/* The partition, of COUNT > 0, of messages with that key. Any thread. */
int32_t kq_partition_of_key(const void *key, size_t length, int32_t count);

/* For messages without key: one partition until KQ_STICKY_BYTES went there, then another by
 * chance. One an open file; zero-initialised has not chosen yet. */
#define KQ_STICKY_BYTES 16384

struct kq_sticky {
    int32_t chosen;     /* partition + 1; 0: none */
    int64_t bytes_left; /* before it changes */
    uint64_t random;    /* partitioner.c's own */
};

/* The partition, of COUNT > 0, for a batch of BYTES. MAY says whether the file's owner may append
 * to a partition; only such are chosen, each equally likely. Keeps the choice (MAY is asked for it
 * again) until it has had its bytes. 0; -EACCES if there is none. Takes O(COUNT) only where many
 * are not allowed. */
int kq_sticky_choose(struct kq_sticky *sticky, int32_t count, size_t bytes,
                     bool (*may)(void *context, int32_t partition), void *context, int32_t *ret);
