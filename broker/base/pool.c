#include "broker/base/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "broker/base/mem.h"

#define IDLE_SECONDS 10
#define NAME_BYTES 16

struct kq_pool {
    pthread_mutex_t lock;
    pthread_cond_t work;  /* a job came, or it is time to stop */
    pthread_cond_t empty; /* the last thread has left */
    struct kq_job *first, **last;
    unsigned threads, idle, max_threads;
    bool stopping;
    char name[NAME_BYTES];
};

int kq_pool_new(const char *name, unsigned max_threads, struct kq_pool **ret)
{
    struct kq_pool *pool = kq_zalloc(sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, &monotonic);
    pthread_cond_init(&pool->empty, NULL);
    pthread_condattr_destroy(&monotonic);
    pool->last = &pool->first;
    pool->max_threads = max_threads ? max_threads : 1;
    strncpy(pool->name, name, NAME_BYTES - 1);
    *ret = pool;
    return 0;
}

static struct kq_job *take(struct kq_pool *pool)
{
    struct kq_job *job = pool->first;
    if (job) {
        pool->first = job->next;
        if (!pool->first)
            pool->last = &pool->first;
    }
    return job;
}

/* With the lock held: the next job, or NULL when this thread should leave. */
static struct kq_job *wait_for_job(struct kq_pool *pool)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_SECONDS;
    while (!pool->first && !pool->stopping) {
        pool->idle++;
        int r = pthread_cond_timedwait(&pool->work, &pool->lock, &until);
        pool->idle--;
        if (r == ETIMEDOUT && !pool->first)
            return NULL;
    }
    return take(pool);
}

static void *work(void *argument)
{
    struct kq_pool *pool = argument;
    pthread_setname_np(pthread_self(), pool->name);
    pthread_mutex_lock(&pool->lock);
    for (struct kq_job *job; (job = wait_for_job(pool));) {
        pthread_mutex_unlock(&pool->lock);
        job->run(job);
        pthread_mutex_lock(&pool->lock);
    }
    if (--pool->threads == 0)
        pthread_cond_broadcast(&pool->empty);
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Threads of a library take no signals: they belong to the main thread. */
static bool start_thread(struct kq_pool *pool)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGSYS); /* of a system call that is refused: broker/seccomp.c */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&thread, &attributes, work, pool) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

void kq_pool_submit(struct kq_pool *pool, struct kq_job *job)
{
    job->next = NULL;
    pthread_mutex_lock(&pool->lock);
    *pool->last = job;
    pool->last = &job->next;
    if (pool->idle > 0) {
        pthread_cond_signal(&pool->work);
    } else if (pool->threads < pool->max_threads) {
        pool->threads++;
        if (!start_thread(pool))
            pool->threads--;
    }
    struct kq_job *own = pool->threads == 0 ? take(pool) : NULL;
    pthread_mutex_unlock(&pool->lock);
    if (own)
        own->run(own);
}

void kq_pool_free(struct kq_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->work);
    while (pool->threads > 0)
        pthread_cond_wait(&pool->empty, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->empty);
    free(pool);
}
