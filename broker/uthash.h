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
