/* uthash with memory through the seam: an insertion that finds none leaves the table as it was and
 * sets kq_uthash_failed. */
#pragma once

#include <stdbool.h>

#include "broker/base/mem.h"

extern _Thread_local bool kq_uthash_failed;

#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(element) (kq_uthash_failed = true)
#define uthash_malloc(size) kq_alloc(size)
#include <uthash.h>

/* What uthash does with its links is beyond the static analyzer: to that, any bytes have any hash,
 * and a deletion may leave any table. */
#ifdef __clang_analyzer__
void *kq_any_table(void *table, struct UT_hash_handle *deleted);
unsigned kq_any_hash(const void *key, unsigned long length);
#undef HASH_DELETE_HH
#define HASH_DELETE_HH(hh, head, deleted) ((head) = kq_any_table((head), (deleted)))
#undef HASH_JEN
#define HASH_JEN(key, length, hash) ((hash) = kq_any_hash((key), (length)))
#endif
