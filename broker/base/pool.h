/* Threads for work that may block: fsync, cold reads, catching up. Any thread may submit.
 *
 * Threads are made when there is work and none is free, up to the maximum, and go when they were
 * idle for a while; an idle pool costs no CPU. */
#pragma once

#include <stddef.h>

struct kq_pool;

/* One piece of work; lives in its owner's memory until RUN is called, and not after. */
struct kq_job {
    void (*run)(struct kq_job *job);
    struct kq_job *next; /* the pool's own */
};

/* NAME (at most 15 bytes) shows in ps -L. */
int kq_pool_new(const char *name, unsigned max_threads, struct kq_pool **ret);

/* Runs JOB on a thread of the pool, in order of submission as threads come free. Never fails: where
 * no thread can be made and none exists, the caller runs it. */
void kq_pool_submit(struct kq_pool *pool, struct kq_job *job);

/* Runs what is queued, joins the threads, frees. Nothing may be submitted any more. NULL is fine.
 */
void kq_pool_free(struct kq_pool *pool);
