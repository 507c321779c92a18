/* The settings of the cleaner; Kafka's names and meanings. Plain data. */
#pragma once

#include <stdint.h>

struct kq_cleaner_options {
    unsigned threads;     /* log.cleaner.threads; 0: nothing is compacted */
    int64_t dedupe_bytes; /* log.cleaner.dedupe.buffer.size: of all threads together */
    int64_t io_bytes;     /* log.cleaner.io.buffer.size: of all threads together */
    int64_t io_rate;      /* log.cleaner.io.max.bytes.per.second, of all threads together */
    int64_t backoff_ms;   /* log.cleaner.backoff.ms */
};
