#include "broker/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/log_internal.h"
#include "broker/logproducer.h"
#include "broker/textindex.h"

#define DIRECTORY_MODE 0700
#define SYNCED_IN_A_ROW 4 /* appends, and the next is expected to be synced at once as well */

/* --- The list of segments --- */

int kq_log_add_segment(struct kq_log *log, struct kq_segment *segment)
{
    if (log->segment_count == log->segment_capacity) {
        size_t capacity = log->segment_capacity ? log->segment_capacity * 2 : 2;
        struct kq_segment **larger = kq_alloc(capacity * sizeof(struct kq_segment *));
        if (!larger) {
            kq_segment_unref(segment);
            return -ENOMEM;
        }
        if (log->segment_count)
            memcpy(larger, log->segments, log->segment_count * sizeof(struct kq_segment *));
        pthread_mutex_lock(&log->map);
        struct kq_segment **old = log->segments;
        log->segments = larger;
        log->segment_capacity = capacity;
        pthread_mutex_unlock(&log->map);
        free(old);
    }
    pthread_mutex_lock(&log->map);
    log->segments[log->segment_count++] = segment;
    pthread_mutex_unlock(&log->map);
    return 0;
}

/* With map held: the index of the last segment that begins at or before OFFSET; 0 where none does.
 */
static size_t position_of(const struct kq_log *log, int64_t offset)
{
    size_t low = 0, high = log->segment_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (log->segments[middle]->base <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct kq_segment *kq_log_segment_at(struct kq_log *log, int64_t offset)
{
    pthread_mutex_lock(&log->map);
    struct kq_segment *segment = log->segments[position_of(log, offset)];
    kq_segment_ref(segment);
    pthread_mutex_unlock(&log->map);
    return segment;
}

struct kq_segment *kq_log_segment_after(struct kq_log *log, const struct kq_segment *segment)
{
    struct kq_segment *next = NULL;
    pthread_mutex_lock(&log->map);
    size_t at = position_of(log, segment->base);
    if (log->segments[at]->base <= segment->base)
        at++;
    if (at < log->segment_count) {
        next = log->segments[at];
        kq_segment_ref(next);
    }
    pthread_mutex_unlock(&log->map);
    return next;
}

struct kq_segment *kq_log_first_segment(struct kq_log *log)
{
    return kq_log_segment_at(log, INT64_MIN);
}

/* --- Rolling --- */

static int open_new_file(struct kq_log *log, struct kq_segment *segment)
{
    struct stat st;
    int fd;
    int r = kq_file_use(segment->file, KQ_FILE_CREATE, &fd);
    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        r = -errno;
    else if (st.st_size > 0)
        r = -EEXIST; /* a file that was not there when the log was opened: not ours to overwrite */
    if (r == 0 && log->reserved > 0 && !log->cannot_reserve) {
        r = kq_io_reserve(fd, 0, log->reserved);
        if (r == 0)
            segment->allocated = log->reserved;
        else if (r == -EOPNOTSUPP)
            r = 0;
    }
    kq_file_done(segment->file);
    return r;
}

int kq_log_create_segment(struct kq_log *log, int64_t base)
{
    struct kq_segment *segment;
    char path[KQ_FILE_PATH_BYTES];
    int r = kq_segment_new(&log->place, base, log->config.index_interval_bytes, &segment);
    if (r < 0)
        return r;
    kq_index_set_empty(&segment->offsets);
    kq_index_set_empty(&segment->times);
    kq_index_set_empty(&segment->texts);
    kq_verified_set_tail(segment->file->verified, 0);
    r = open_new_file(log, segment);
    if (r < 0) {
        kq_segment_unref(segment);
    } else {
        if (!log->text_behind)
            segment->text_base = log->text_end;
        r = kq_log_add_segment(log, segment);
    }
    if (r < 0 && r != -EEXIST) {
        kq_file_path(&log->place, base, KQ_FILE_LOG, path);
        kq_io_unlink(log->place.dirfd, path, false);
    }
    return r;
}

/* Cuts off what a write that failed may have left behind the published end. */
static int repair_tail(struct kq_log *log, struct kq_segment *segment)
{
    if (!segment->torn)
        return 0;
    int r = kq_io_truncate(segment->file->fd, segment->size);
    if (r < 0)
        return r;
    segment->torn = false;
    segment->allocated = 0;
    if (log->reserved > 0 && kq_log_ensure_reserved(log, 0, log->reserved) < 0)
        kq_diag_limited(60000, LOG_WARNING, "%s: disk that was set aside is lost: free some space",
                        log->name);
    return 0;
}

int kq_log_roll(struct kq_log *log)
{
    struct kq_segment *old = kq_log_active(log);
    if (old->size == 0)
        return 0;
    int r = repair_tail(log, old);
    if (r == 0)
        r = kq_log_create_segment(log, log->end);
    if (r < 0)
        return r;
    kq_log_release_reserve(log, old);
    r = kq_segment_flush_indexes(old, &log->map, true);
    if (r == 0 && !log->text_behind)
        r = kq_segment_flush_text(old, &log->map);
    if (r == 0 && !log->text_behind)
        r = kq_segment_write_text_header(kq_log_active(log), &log->map);
    if (r < 0)
        kq_diag_limited(60000, LOG_WARNING, "%s: cannot write an index: %s", log->name,
                        strerror(-r));
    old->sealed = true;
    kq_log_snapshot_producers(log);
    return 0;
}

/* --- Opening and closing --- */

static int make_directory(struct kq_log *log)
{
    int r = kq_io_mkdir(log->place.dirfd, log->name, DIRECTORY_MODE);
    if (r == -EEXIST)
        return 0;
    return r < 0 ? r : kq_io_sync_dir(log->place.dirfd);
}

static void free_log(struct kq_log *log)
{
    for (size_t i = 0; i < log->segment_count; i++)
        kq_segment_unref(log->segments[i]);
    kq_segment_unref(log->counted_in);
    kq_log_forget_layout(log);
    kq_producers_clear(&log->producers, -1);
    kq_buf_release(&log->snapshots);
    kq_aborted_destroy(&log->aborted);
    free(log->epochs.at);
    free(log->segments);
    free(log->name);
    pthread_mutex_destroy(&log->removing);
    pthread_mutex_destroy(&log->names);
    pthread_mutex_destroy(&log->lock);
    pthread_mutex_destroy(&log->map);
    pthread_mutex_destroy(&log->counting);
    pthread_rwlock_destroy(&log->renderings_lock);
    pthread_mutex_destroy(&log->sync_lock);
    pthread_cond_destroy(&log->sync_idle);
    free(log);
}

static struct kq_log *new_log(const struct kq_log_shared *shared, const char *name,
                              const struct kq_log_config *config,
                              const struct kq_renderings *renderings)
{
    struct kq_log *log = kq_zalloc(sizeof(*log));
    char *copy = log ? kq_strdup(name) : NULL;
    if (!copy) {
        free(log);
        return NULL;
    }
    log->shared = shared;
    log->name = copy;
    log->place = (struct kq_file_place){
        .dirfd = shared->dirfd,
        .max_open = shared->max_open_files,
        .directory = copy,
        .names = &log->names,
    };
    log->config = *config;
    log->max_batch_bytes = config->max_batch_bytes;
    log->renderings = renderings;
    log->text_start = log->text_start_of = -1;
    log->last_waiting = &log->waiting;
    log->sync_job.run = kq_log_run_sync;
    log->uncovered = INT64_MAX;
    log->unstable = INT64_MAX;
    log->text_held = -1;
    kq_producers_init(&log->producers, shared->max_producers, -1);
    kq_aborted_init(&log->aborted);
    pthread_mutex_init(&log->removing, NULL);
    pthread_mutex_init(&log->names, NULL);
    pthread_mutex_init(&log->lock, NULL);
    pthread_mutex_init(&log->map, NULL);
    pthread_mutex_init(&log->counting, NULL);
    pthread_rwlock_init(&log->renderings_lock, NULL);
    pthread_mutex_init(&log->sync_lock, NULL);
    pthread_cond_init(&log->sync_idle, NULL);
    return log;
}

/* When the log was appended to last, by the newest file; 0 where it cannot be said. */
static int64_t modified_before(struct kq_log *log)
{
    char path[512];
    struct stat st;
    int n =
        snprintf(path, sizeof(path), "%s/%020" PRId64 ".log", log->name, kq_log_active(log)->base);
    if (n >= (int)sizeof(path) || fstatat(log->shared->dirfd, path, &st, 0) < 0)
        return 0;
    return (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
}

int kq_log_open(const struct kq_log_shared *shared, const char *name,
                const struct kq_log_config *config, const struct kq_renderings *renderings,
                const struct kq_log_checkpoint *checkpoint, struct kq_log_recovery *ret_recovery,
                struct kq_log **ret)
{
    struct kq_log_recovery recovery = {0};
    struct kq_log *log = new_log(shared, name, config, renderings);
    int r = log ? make_directory(log) : -ENOMEM;
    if (r == 0)
        r = kq_log_recover(log, checkpoint, &recovery);
    if (r < 0) {
        kq_diag(LOG_ERR, "cannot open the log %s: %s", name, strerror(-r));
        if (log)
            free_log(log);
        return r;
    }
    log->modified_ms = modified_before(log);
    *ret_recovery = recovery;
    *ret = log;
    return 0;
}

/* So that the next opening need not count from the last entry. */
static void index_text_end(struct kq_log *log, struct kq_segment *active)
{
    uint8_t entry[KQ_TEXT_ENTRY];
    if (log->text_behind || active->size == 0 || active->texts.tail_count == KQ_INDEX_TAIL)
        return;
    struct kq_text_entry end = {
        .text = log->text_end - active->text_base,
        .position = (uint32_t)active->size,
        .offset = (uint32_t)(log->end - active->base),
    };
    if (end.text > KQ_TEXT_POSITION_MAX)
        return;
    kq_text_entry_write(entry, active->base, &end);
    kq_index_append(&active->texts, &log->map, entry);
}

void kq_log_close(struct kq_log *log)
{
    struct kq_segment *active = kq_log_active(log);
    kq_log_wait_sync(log);
    pthread_mutex_lock(&log->lock);
    if (!log->failed) {
        repair_tail(log, active);
        log->reserved = 0;
        kq_log_release_reserve(log, active);
        if (active->pinned || active->offsets.tail_count > 0)
            index_text_end(log, active);
        if (active->size > 0 || log->shared->for_kafka)
            kq_segment_flush_indexes(active, &log->map, active->size > 0);
        if (active->size > 0 && !log->text_behind)
            kq_segment_flush_text(active, &log->map);
    }
    pthread_mutex_unlock(&log->lock);
    if (!log->failed && log->recovery_point < log->end) {
        kq_log_start_sync(log);
        kq_log_wait_sync(log);
    }
    if (!log->failed)
        kq_log_checkpoint(log);
    free_log(log);
}

void kq_log_set_config(struct kq_log *log, const struct kq_log_config *config)
{
    pthread_mutex_lock(&log->lock);
    log->config = *config;
    log->max_batch_bytes = config->max_batch_bytes;
    kq_log_active(log)->interval = config->index_interval_bytes;
    pthread_mutex_unlock(&log->lock);
}

void kq_log_set_renderings(struct kq_log *log, const struct kq_renderings *renderings)
{
    pthread_mutex_lock(&log->lock);
    pthread_rwlock_wrlock(&log->renderings_lock);
    log->renderings = renderings;
    pthread_rwlock_unlock(&log->renderings_lock);
    pthread_mutex_unlock(&log->lock);
}

/* --- Appending --- */

static int pin(struct kq_segment *segment)
{
    int fd;
    if (segment->pinned)
        return 0;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r == 0)
        segment->pinned = true;
    return r;
}

static int roll_if_due(struct kq_log *log, const struct kq_batch_header *header)
{
    bool forced;
    if (!kq_segment_is_full(kq_log_active(log), &log->config, header->size,
                            log->end + header->last_offset_delta, header->max_timestamp, &forced))
        return 0;
    int r = kq_log_roll(log);
    if (r < 0 && !forced) {
        /* The old segment still has room: better a long segment than a refused message. */
        kq_diag_limited(60000, LOG_WARNING, "%s: cannot begin a new segment: %s", log->name,
                        strerror(-r));
        return 0;
    }
    return r;
}

static int make_room(struct kq_log *log, const struct kq_log_append *append,
                     const struct kq_batch_header *header)
{
    int r = roll_if_due(log, header);
    struct kq_segment *segment = kq_log_active(log);
    if (r == 0)
        r = pin(segment);
    if (r == 0)
        r = repair_tail(log, segment);
    int64_t others = log->reserved - append->unreserve;
    if (r == 0 && kq_unlikely(others > 0))
        r = kq_log_ensure_reserved(log, (int64_t)append->length, others);
    return r;
}

static bool same_text(const struct kq_rendering *a, const struct kq_rendering *b)
{
    return a->delimiter_length == b->delimiter_length &&
           a->separator_length == b->separator_length &&
           memcmp(a->delimiter, b->delimiter, a->delimiter_length) == 0 &&
           memcmp(a->separator, b->separator, a->separator_length) == 0;
}

/* Where the text of the batch begins, relative to SEGMENT; -1 where text is left for later. */
static int64_t place_text(struct kq_log *log, struct kq_segment *segment,
                          const struct kq_log_append *append)
{
    if (atomic_load_explicit(&log->text_behind, memory_order_relaxed))
        return -1;
    int64_t text = log->text_end - segment->text_base;
    if (kq_likely(append->text_length >= 0) &&
        (!append->rendering ||
         same_text(append->rendering, kq_rendering_at(log->renderings, log->end, NULL))))
        return text;
    kq_segment_ref(segment);
    kq_segment_unref(log->counted_in);
    log->counted_in = segment;
    log->counted_position = segment->size;
    log->counted_text = text;
    log->counted_entry = kq_max64(0, segment->size - segment->since_index);
    atomic_store_explicit(&log->text_behind, true, memory_order_release);
    return -1;
}

static void publish(struct kq_log *log, struct kq_segment *segment,
                    const struct kq_log_append *append, const struct kq_batch_header *header)
{
    int64_t position = segment->size;
    int64_t text = place_text(log, segment, append);
    kq_segment_index(segment, &log->map, header, position, text);
    atomic_store_explicit(&log->bytes, log->bytes + header->size, memory_order_relaxed);
    atomic_store_explicit(&log->appended, log->appended + header->size, memory_order_relaxed);
    atomic_store_explicit(&log->modified_ms, kq_clock_wall_ms(), memory_order_relaxed);
    /* A reader that got the batch and comes back for the next one must not be beyond the end. */
    kq_segment_begin_publish(segment, &(struct kq_published){
                                          .next_offset = kq_batch_next_offset(header),
                                          .size = position + header->size,
                                          .last_base = header->base_offset,
                                          .last_position = position,
                                      });
    atomic_store_explicit(&log->end, kq_batch_next_offset(header), memory_order_release);
    if (text >= 0)
        atomic_store_explicit(&log->text_end, log->text_end + append->text_length,
                              memory_order_release);
    kq_segment_end_publish(segment);
}

/* Who asked for a sync of each of the last appends before the next will ask for one of this too: it
 * begins while the writer is told that it has written, and asks. */
static void expect_sync(struct kq_log *log)
{
    if (atomic_load_explicit(&log->recovery_point, memory_order_relaxed) != log->end ||
        atomic_load_explicit(&log->sync_asked, memory_order_relaxed) != log->end)
        log->synced_in_a_row = 0;
    else if (log->synced_in_a_row < SYNCED_IN_A_ROW)
        log->synced_in_a_row++;
}

static int append_locked(struct kq_log *log, const struct kq_log_append *append,
                         struct kq_batch_header *header, struct kq_log_appended *ret)
{
    if (atomic_load_explicit(&log->failed, memory_order_relaxed))
        return -EROFS;
    bool has_producer = kq_unlikely(header->producer_id >= 0);
    int r = has_producer ? kq_log_check_producer(log, header, ret) : 0;
    if (r != 0 || (has_producer && ret->duplicate))
        return r;
    r = make_room(log, append, header);
    if (r == 0 && has_producer)
        r = kq_producers_reserve(&log->producers, header->producer_id);
    if (r < 0)
        return r;
    struct kq_segment *segment = kq_log_active(log);
    header->base_offset = log->end;
    kq_batch_patch(append->bytes, header->base_offset, kq_log_epoch(log));
    r = kq_io_pwrite(segment->file->fd, append->bytes, append->length, segment->size);
    if (r < 0) {
        segment->torn = true;
        repair_tail(log, segment);
        if (has_producer)
            kq_producers_unreserve(&log->producers, header->producer_id);
        return r;
    }
    log->reserved = kq_max64(0, log->reserved - append->unreserve);
    expect_sync(log);
    if (has_producer)
        kq_log_note_producer(log, header);
    publish(log, segment, append, header);
    if (log->unsynced_since_ms == 0)
        log->unsynced_since_ms = kq_clock_wall_ms();
    log->unsynced_messages += header->record_count;
    *ret = (struct kq_log_appended){
        .base_offset = header->base_offset,
        .next_offset = kq_batch_next_offset(header),
        .timestamp = header->max_timestamp,
    };
    return log->unsynced_messages >= log->config.flush_messages ? KQ_MUST_SYNC : 0;
}

int kq_log_append(struct kq_log *log, const struct kq_log_append *append,
                  struct kq_log_appended *ret)
{
    struct kq_batch_header header;
    struct kq_log_appended appended = {0};
    if (kq_batch_header_read(append->bytes, append->length, &header) != 0 ||
        header.size != append->length || header.size > KQ_SEGMENT_MAX)
        return -EINVAL;
    pthread_mutex_lock(&log->lock);
    int r = append_locked(log, append, &header, &appended);
    int64_t unsynced = log->appended - atomic_load_explicit(&log->synced, memory_order_relaxed);
    bool expected = log->synced_in_a_row == SYNCED_IN_A_ROW;
    pthread_mutex_unlock(&log->lock);
    if (r < 0)
        return r;
    if (kq_unlikely(expected || unsynced > log->shared->trail_bytes / 2))
        kq_log_start_sync(log);
    if (r == 0 || r == KQ_MUST_SYNC)
        *ret = appended;
    return r;
}

void kq_log_bounds(struct kq_log *log, struct kq_log_bounds *ret)
{
    ret->start = atomic_load_explicit(&log->start, memory_order_acquire);
    ret->recovery_point = atomic_load_explicit(&log->recovery_point, memory_order_acquire);
    ret->end = atomic_load_explicit(&log->end, memory_order_acquire);
    ret->last_stable = kq_min64(
        ret->end, kq_max64(ret->start, atomic_load_explicit(&log->unstable, memory_order_acquire)));
    ret->bytes = atomic_load_explicit(&log->bytes, memory_order_relaxed);
    ret->modified_ms = atomic_load_explicit(&log->modified_ms, memory_order_relaxed);
    ret->layout = atomic_load_explicit(&log->layout, memory_order_acquire);
}
