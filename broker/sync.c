/* Group commit: one fdatasync(2) for all who ask while the one before is under way. */
#include <fcntl.h>
#include <inttypes.h>
#include <semaphore.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/log_internal.h"

#define ROUNDS 16 /* before other logs get their turn on this thread */

static int fail(struct kq_log *log, int error)
{
    if (!atomic_exchange(&log->failed, true))
        kq_diag(LOG_ERR,
                "%s: the disk did not take what was written (%s): read-only until the broker is "
                "started anew; check the disk first",
                log->name, strerror(-error));
    return error;
}

static void sync_index(struct kq_log *log, struct kq_index *index)
{
    int fd;
    if (!atomic_exchange(&index->dirty, false))
        return;
    pthread_mutex_lock(&log->map);
    struct kq_file *file = index->file;
    kq_file_ref(file);
    pthread_mutex_unlock(&log->map);
    int r = kq_file_use(file, 0, &fd);
    if (r == 0) {
        r = kq_io_datasync(fd);
        kq_file_done(file);
    }
    if (r < 0) {
        index->dirty = true;
        kq_diag_limited(60000, LOG_WARNING, "%s: cannot sync an index: %s", log->name,
                        strerror(-r));
    }
    kq_file_unref(file);
}

static int sync_segment(struct kq_log *log, struct kq_segment *segment)
{
    int fd;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    r = kq_io_datasync(fd);
    kq_file_done(segment->file);
    if (r < 0)
        return fail(log, r);
    sync_index(log, &segment->times);
    sync_index(log, &segment->offsets);
    sync_index(log, &segment->texts);
    return 0;
}

static int sync_directory(struct kq_log *log)
{
    kq_autoclose int fd =
        kq_io_open(log->place.dirfd, log->place.directory, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    int r = kq_io_sync_dir(fd);
    return r < 0 ? fail(log, r) : 0;
}

/* A file whose bytes are all on disk may be closed. */
static void unpin(struct kq_log *log, struct kq_segment *segment, int64_t synced)
{
    pthread_mutex_lock(&log->lock);
    if (segment->pinned && segment->next_offset <= synced) {
        segment->pinned = false;
        kq_file_done(segment->file);
    }
    pthread_mutex_unlock(&log->lock);
}

/* Calls WORK for each segment that has messages in [FROM, TO). */
static int for_segments(struct kq_log *log, int64_t from, int64_t to,
                        int (*work)(struct kq_log *, struct kq_segment *, int64_t))
{
    int r = 0;
    struct kq_segment *segment = kq_log_segment_at(log, from);
    while (segment && segment->base < to && r == 0) {
        if (segment->next_offset > from)
            r = work(log, segment, to);
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
    kq_segment_unref(segment);
    return r;
}

static int sync_one(struct kq_log *log, struct kq_segment *segment, int64_t to)
{
    return sync_segment(log, segment);
}

static int sync_name(struct kq_log *log, struct kq_segment *segment, int64_t to)
{
    if (segment->name_synced)
        return 0;
    int r = sync_directory(log);
    if (r == 0)
        segment->name_synced = true;
    return r;
}

static int unpin_one(struct kq_log *log, struct kq_segment *segment, int64_t to)
{
    unpin(log, segment, to);
    return 0;
}

static int sync_to(struct kq_log *log, int64_t to)
{
    int64_t from = atomic_load(&log->recovery_point);
    int64_t appended = atomic_load(&log->appended);
    if (from >= to)
        return 0;
    if (log->failed)
        return -EROFS;
    int r = for_segments(log, from, to, sync_one);
    if (r == 0)
        r = for_segments(log, from, to, sync_name);
    if (r < 0)
        return r;
    int64_t bytes = appended - log->synced;
    atomic_store(&log->synced, appended);
    atomic_store(&log->recovery_point, to);
    for_segments(log, from, to, unpin_one);
    pthread_mutex_lock(&log->lock);
    log->unsynced_messages = log->end - to;
    log->unsynced_since_ms = log->end > to ? kq_clock_wall_ms() : 0;
    pthread_mutex_unlock(&log->lock);
    if (log->shared->synced)
        log->shared->synced(log->shared->context, bytes);
    return 0;
}

/* Takes those out of the queue who are served by a sync up to TO, or all. */
static struct kq_sync *take_served(struct kq_log *log, int64_t to, bool all)
{
    struct kq_sync *served = NULL, **last = &served;
    struct kq_sync **at = &log->waiting;
    while (*at) {
        if (all || (*at)->offset <= to) {
            *last = *at;
            last = &(*at)->next;
            *at = (*at)->next;
        } else {
            at = &(*at)->next;
        }
    }
    *last = NULL;
    log->last_waiting = at;
    return served;
}

static void finish(struct kq_sync *served, int error)
{
    while (served) {
        struct kq_sync *next = served->next;
        served->done(served, error);
        served = next;
    }
}

void kq_log_run_sync(struct kq_job *job)
{
    struct kq_log *log = (struct kq_log *)((char *)job - offsetof(struct kq_log, sync_job));
    for (int round = 0; round < ROUNDS; round++) {
        pthread_mutex_lock(&log->sync_lock);
        if (!log->waiting && !log->sync_wanted) {
            log->sync_running = false;
            pthread_cond_broadcast(&log->sync_idle);
            pthread_mutex_unlock(&log->sync_lock);
            return;
        }
        log->sync_wanted = false;
        pthread_mutex_unlock(&log->sync_lock);
        int64_t to = atomic_load_explicit(&log->end, memory_order_acquire);
        int r = sync_to(log, to);
        pthread_mutex_lock(&log->sync_lock);
        struct kq_sync *served = take_served(log, to, r < 0);
        pthread_mutex_unlock(&log->sync_lock);
        finish(served, r);
    }
    kq_pool_submit(log->shared->syncer, job);
}

int kq_log_sync(struct kq_log *log, struct kq_sync *sync)
{
    int64_t end = atomic_load_explicit(&log->end, memory_order_acquire);
    atomic_store_explicit(&log->sync_asked, end, memory_order_relaxed);
    if (atomic_load_explicit(&log->recovery_point, memory_order_acquire) >= end)
        return KQ_READY;
    sync->offset = end;
    sync->next = NULL;
    pthread_mutex_lock(&log->sync_lock);
    *log->last_waiting = sync;
    log->last_waiting = &sync->next;
    bool start = !log->sync_running;
    log->sync_running = true;
    pthread_mutex_unlock(&log->sync_lock);
    if (start)
        kq_pool_submit(log->shared->syncer, &log->sync_job);
    return 0;
}

struct awaited {
    struct kq_sync sync;
    sem_t done;
    int error;
};

static void end_wait(struct kq_sync *sync, int error)
{
    struct awaited *awaited = (struct awaited *)sync;
    awaited->error = error;
    sem_post(&awaited->done);
}

int kq_log_sync_up_to(struct kq_log *log, int64_t offset)
{
    struct awaited awaited = {.sync.done = end_wait};
    if (atomic_load_explicit(&log->recovery_point, memory_order_acquire) >= offset)
        return 0;
    sem_init(&awaited.done, 0, 0);
    int r = kq_log_sync(log, &awaited.sync);
    if (r == 0) {
        while (sem_wait(&awaited.done) < 0)
            ;
        r = awaited.error;
    }
    sem_destroy(&awaited.done);
    return r < 0 ? r : 0;
}

void kq_log_start_sync(struct kq_log *log)
{
    pthread_mutex_lock(&log->sync_lock);
    bool start = !log->sync_running;
    if (start)
        log->sync_running = log->sync_wanted = true;
    pthread_mutex_unlock(&log->sync_lock);
    if (start)
        kq_pool_submit(log->shared->syncer, &log->sync_job);
}

void kq_log_wait_sync(struct kq_log *log)
{
    pthread_mutex_lock(&log->sync_lock);
    while (log->sync_running)
        pthread_cond_wait(&log->sync_idle, &log->sync_lock);
    pthread_mutex_unlock(&log->sync_lock);
}
