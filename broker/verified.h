/* Which bytes of a .log file are known to be good in this process: so that a batch's checksum is
 * computed once, and not at all for what this process wrote.
 *
 * Good are the bytes of batches that it appended or that recovery checked, which reach to the end
 * of the file, and two runs of what readers checked since the file was opened. A third run takes
 * the place of the shorter one: two readers on their way, or one and those who look up single
 * messages, do not forget for each other. What is forgotten is checked again.
 *
 * It outlives the closing of the file: bytes that the page cache gave up are not checked a second
 * time when they come back from the disk.
 *
 * Any thread, without locks: every run tells the truth by itself, so that nothing has to agree. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/batch.h"

#define KQ_VERIFIED_NOTHING UINT32_MAX /* no segment reaches this far */
#define KQ_VERIFIED_RUNS 2

struct kq_verified {
    _Atomic uint64_t runs[KQ_VERIFIED_RUNS]; /* first byte << 32 | behind the last; 0: empty */
    _Atomic uint32_t tail;                   /* from here on all is good */
};

/* Nothing is known. */
void kq_verified_init(struct kq_verified *verified);

/* All batches at POSITION or behind it are good, and those to come: this process writes them. */
void kq_verified_set_tail(struct kq_verified *verified, int64_t position);

/* Is the batch of SIZE bytes at POSITION, below 2^31 as any in a segment, known to be good? */
static inline bool kq_verified_has(const struct kq_verified *verified, int64_t position,
                                   uint32_t size)
{
    if (kq_likely(position >= atomic_load_explicit(&verified->tail, memory_order_relaxed)))
        return true;
    for (int i = 0; i < KQ_VERIFIED_RUNS; i++) {
        uint64_t run = atomic_load_explicit(&verified->runs[i], memory_order_relaxed);
        if (position >= (int64_t)(run >> 32) && position + size <= (int64_t)(uint32_t)run)
            return true;
    }
    return false;
}

/* Somebody computed CRC over the batch of HEADER at POSITION, all behind the field of that name. If
 * it is right, the batch is good from now on. 0 or -EBADMSG. */
int kq_verified_conclude(struct kq_verified *verified, int64_t position,
                         const struct kq_batch_header *header, uint32_t crc);

/* The batch of HEADER, whole at BYTES, lies at POSITION: computes its checksum unless it is known
 * to be good. 0 or -EBADMSG. */
int kq_verified_check(struct kq_verified *verified, int64_t position,
                      const struct kq_batch_header *header, const void *bytes);

/* Counts of checksums that were computed for readers. */
void kq_verified_register_metrics(void);
