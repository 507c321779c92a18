#include "broker/compact.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/compactclean.h"

/* --- What there is to do --- */

/* Kafka's cleanableOffsets: a record that does not fit the log counts for nothing. */
static int64_t first_dirty_of(struct kq_log *log, int64_t recorded)
{
    int64_t start = atomic_load_explicit(&log->start, memory_order_acquire);
    int64_t end = atomic_load_explicit(&log->end, memory_order_acquire);
    if (recorded > end)
        kq_diag(LOG_WARNING,
                "%s: was recorded as compacted up to offset %" PRId64 ", but ends at %" PRId64
                ": compacting all of it",
                log->name, recorded, end);
    return recorded < start || recorded > end ? start : recorded;
}

/* The largest timestamp of the first batch; -1 where it has none. */
static int first_timestamp(struct kq_segment *segment, int64_t *ret)
{
    struct kq_batch_header header = {.max_timestamp = -1};
    struct kq_walk walk;
    int fd;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    kq_walk_begin(&walk, fd, segment->base, 0, segment->size, KQ_BATCH_HEADER, true);
    r = kq_walk_header(&walk, &header);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    *ret = header.max_timestamp;
    return r < 0 && r != -EBADMSG ? r : 0;
}

struct look {
    struct kq_log *log;
    const struct kq_compact_config *config;
    int64_t now_ms;
    int64_t oldest; /* timestamp of the first batch of a dirty segment, the smallest; INT64_MAX */
    struct kq_compact_state *state;
};

/* May SEGMENT, a sealed one with dirty messages, be cleaned? KQ_END: not yet. */
static int look_at_dirty(struct look *look, struct kq_segment *segment)
{
    const struct kq_compact_config *config = look->config;
    int64_t timestamp;
    int r = 0;
    if (segment->size == 0)
        return 0;
    if (config->max_lag_ms < INT64_MAX) {
        r = first_timestamp(segment, &timestamp);
        if (r == 0 && timestamp > 0)
            look->oldest = kq_min64(look->oldest, timestamp);
    }
    if (r == 0 && config->min_lag_ms > 0) {
        r = kq_log_largest_timestamp(look->log, segment, &timestamp);
        if (r == 0 && timestamp > look->now_ms - config->min_lag_ms) {
            if (timestamp < INT64_MAX - config->min_lag_ms)
                look->state->next_ms =
                    kq_min64(look->state->next_ms, timestamp + config->min_lag_ms);
            return KQ_END;
        }
    }
    return r;
}

/* Sums up the sealed segments, from the first on. */
static int look_at_segments(struct look *look)
{
    struct kq_compact_state *state = look->state;
    struct kq_log_bounds bounds;
    kq_log_bounds(look->log, &bounds);
    struct kq_segment *segment = kq_log_first_segment(look->log);
    int r = 0;
    while (segment && r == 0) {
        struct kq_segment *next = kq_log_segment_after(look->log, segment);
        bool dirty = segment->next_offset > state->first_dirty;
        if (!next || segment->next_offset > bounds.last_stable)
            r = KQ_END;
        else if (dirty)
            r = look_at_dirty(look, segment);
        if (r == 0) {
            state->until = segment->next_offset;
            *(dirty ? &state->dirty_bytes : &state->clean_bytes) += segment->size;
        }
        kq_segment_unref(segment);
        segment = next;
    }
    kq_segment_unref(segment);
    return r == KQ_END ? 0 : r;
}

int kq_log_compact_look(struct kq_log *log, const struct kq_compact_config *config,
                        int64_t first_dirty, int64_t now_ms, struct kq_compact_state *ret)
{
    struct kq_compact_state state = {.next_ms = INT64_MAX};
    struct look look = {
        .log = log, .config = config, .now_ms = now_ms, .oldest = INT64_MAX, .state = &state};
    state.first_dirty = first_dirty_of(log, first_dirty);
    int r = look_at_segments(&look);
    if (r < 0)
        return r;
    state.until = kq_max64(state.until, state.first_dirty);
    if (look.oldest < INT64_MAX) {
        state.overdue = look.oldest < now_ms - config->max_lag_ms;
        if (!state.overdue && look.oldest < INT64_MAX - config->max_lag_ms)
            state.next_ms = kq_min64(state.next_ms, look.oldest + config->max_lag_ms + 1);
    }
    state.due = state.dirty_bytes > 0 &&
                (state.overdue || kq_compact_dirty_ratio(&state) > config->min_dirty_ratio);
    *ret = state;
    return 0;
}

/* --- A run --- */

static int copy_renderings(struct kq_cleaning *cleaning)
{
    struct kq_log *log = cleaning->log;
    pthread_rwlock_rdlock(&log->renderings_lock);
    cleaning->renderings =
        kq_memdup(log->renderings,
                  sizeof(*log->renderings) + log->renderings->count * sizeof(struct kq_rendering));
    pthread_rwlock_unlock(&log->renderings_lock);
    return cleaning->renderings ? 0 : -ENOMEM;
}

static int compare_producers(const void *a, const void *b)
{
    const struct kq_compact_producer *x = a, *y = b;
    return (x->producer_id > y->producer_id) - (x->producer_id < y->producer_id);
}

static int list_producers(struct kq_cleaning *cleaning)
{
    struct kq_producers *producers = &cleaning->log->producers;
    struct kq_producer_entry *entry;
    int r = 0;
    pthread_mutex_lock(&cleaning->log->lock);
    TAILQ_FOREACH (entry, &producers->used, by_use) {
        const struct kq_compact_producer producer = {
            .producer_id = entry->id,
            .last_offset =
                entry->batch_count ? entry->batches[entry->batch_count - 1].last_offset : -1,
            .epoch = entry->epoch,
        };
        r = kq_buf_append(&cleaning->producers, &producer, sizeof(producer));
        if (r < 0)
            break;
    }
    pthread_mutex_unlock(&cleaning->log->lock);
    if (cleaning->producers.length > 0)
        qsort(cleaning->producers.data,
              cleaning->producers.length / sizeof(struct kq_compact_producer),
              sizeof(struct kq_compact_producer), compare_producers);
    return r;
}

/* All that is to be cleaned lies on disk: a segment is not put in place of one that does not. */
static int sync_first(struct kq_log *log, int64_t until)
{
    if (log->failed)
        return -EROFS;
    if (atomic_load(&log->recovery_point) >= until)
        return 0;
    kq_log_start_sync(log);
    kq_log_wait_sync(log);
    if (atomic_load(&log->recovery_point) >= until)
        return 0;
    return log->failed ? -EROFS : -EAGAIN;
}

static int make_map(struct kq_cleaning *cleaning)
{
    const struct kq_compact_work *work = cleaning->work;
    double keys = (double)(work->until - work->first_dirty) + 1;
    double enough = keys / work->map_load * KQ_COMPACT_SLOT + 2 * KQ_COMPACT_SLOT;
    size_t bytes = enough < (double)work->map_bytes ? (size_t)enough : work->map_bytes;
    return kq_compact_map_new(bytes, work->map_load, &cleaning->map);
}

static int prepare(struct kq_cleaning *cleaning)
{
    struct kq_log *log = cleaning->log;
    const struct kq_compact_work *work = cleaning->work;
    cleaning->filter.limit = (size_t)log->max_batch_bytes;
    int r = sync_first(log, work->until);
    if (r == 0) {
        cleaning->dirfd =
            kq_io_open(log->place.dirfd, log->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
        r = cleaning->dirfd < 0 ? cleaning->dirfd : 0;
    }
    if (r == 0)
        r = copy_renderings(cleaning);
    if (r == 0)
        r = list_producers(cleaning);
    if (r == 0)
        r = kq_aborted_find(log, 0, work->until, true, &cleaning->aborted);
    return r == 0 ? make_map(cleaning) : r;
}

static void release(struct kq_cleaning *cleaning)
{
    if (cleaning->dirfd >= 0)
        close(cleaning->dirfd);
    kq_compact_map_free(cleaning->map);
    kq_compact_txns_release(&cleaning->txns);
    kq_compact_filter_release(&cleaning->filter);
    kq_buf_release(&cleaning->aborted);
    kq_buf_release(&cleaning->producers);
    kq_buf_release(&cleaning->holes.bytes);
    kq_buf_release(&cleaning->out);
    free(cleaning->renderings);
}

/* --- Groups --- */

/* The segments that begin before END, referenced; the active one is not among them. */
static int list_segments(struct kq_log *log, int64_t end, struct kq_segment ***ret,
                         size_t *ret_count)
{
    size_t count = 0;
    pthread_mutex_lock(&log->map);
    struct kq_segment **segments = kq_alloc(log->segment_count * sizeof(struct kq_segment *));
    while (segments && count + 1 < log->segment_count && log->segments[count]->base < end) {
        segments[count] = log->segments[count];
        kq_segment_ref(segments[count++]);
    }
    pthread_mutex_unlock(&log->map);
    if (!segments)
        return -ENOMEM;
    *ret = segments;
    *ret_count = count;
    return 0;
}

struct sizes {
    int64_t log, offsets, times;
};

static int measure(struct kq_log *log, struct kq_segment *segment, struct sizes *sizes)
{
    int r = kq_index_load(&segment->offsets, &log->map, true, NULL);
    if (r == 0)
        r = kq_index_load(&segment->times, &log->map, true, NULL);
    if (r != 0)
        return r;
    sizes->log += segment->size;
    sizes->offsets += (int64_t)kq_index_count(&segment->offsets) * KQ_OFFSET_ENTRY;
    sizes->times += (int64_t)kq_index_count(&segment->times) * KQ_TIME_ENTRY;
    return 0;
}

/* Kafka's groupSegmentsBySize: how many of COUNT segments, one or more, fit into one. */
static int group_size(struct kq_log *log, const struct kq_log_config *config,
                      struct kq_segment *const *segments, size_t count, size_t *ret)
{
    struct sizes sum = {0};
    size_t fit = 0;
    int r = 0;
    while (fit < count && (r = measure(log, segments[fit], &sum)) == 0) {
        if (fit > 0 &&
            (sum.log > config->segment_bytes || sum.offsets > config->segment_index_bytes ||
             sum.times > config->segment_index_bytes ||
             segments[fit]->next_offset - 1 - segments[0]->base > KQ_SEGMENT_MAX))
            break;
        fit++;
    }
    *ret = fit;
    return r;
}

static int clean_groups(struct kq_cleaning *cleaning, struct kq_segment *const *segments,
                        size_t count)
{
    struct kq_log *log = cleaning->log;
    pthread_mutex_lock(&log->lock);
    struct kq_log_config config = log->config;
    pthread_mutex_unlock(&log->lock);
    int r = kq_compact_begin_groups(cleaning);
    for (size_t at = 0, size = 0; at < count && r == 0; at += size) {
        r = group_size(log, &config, segments + at, count - at, &size);
        /* What has no batches is nobody's last segment: it is left as it is. */
        size_t used = size;
        while (used > 0 && segments[at + used - 1]->size == 0)
            used--;
        if (r == 0 && used > 0)
            r = kq_compact_clean_group(cleaning, segments + at, used);
    }
    return r;
}

static int run(struct kq_cleaning *cleaning)
{
    struct kq_segment **segments = NULL;
    size_t count = 0;
    int r = prepare(cleaning);
    if (r == 0)
        r = kq_compact_build_map(cleaning);
    if (r == 0)
        r = list_segments(cleaning->log, cleaning->map_end, &segments, &count);
    if (r == 0)
        r = clean_groups(cleaning, segments, count);
    for (size_t i = 0; i < count; i++)
        kq_segment_unref(segments[i]);
    free(segments);
    return r;
}

int kq_log_compact(struct kq_log *log, const struct kq_compact_work *work,
                   struct kq_compact_done *ret)
{
    struct kq_compact_done done = {.first_dirty = work->first_dirty};
    struct kq_cleaning cleaning = {.log = log, .work = work, .done = &done, .dirfd = -1};
    int r = work->first_dirty < work->until ? run(&cleaning) : 0;
    if (r == 0)
        done.first_dirty = kq_max64(cleaning.map_end, work->first_dirty);
    release(&cleaning);
    *ret = done;
    return r;
}
