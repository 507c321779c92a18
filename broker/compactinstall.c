/* A compacted segment comes in the place of others, under live readers.
 *
 * The files of the old ones stay open as long as somebody looks at them, so that no reader ever
 * meets the new bytes under old positions. On disk first, then in memory: whoever finds the new
 * segment finds its files under their names. */
#include <inttypes.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/compactclean.h"
#include "broker/compactswap.h"

/* With map held: where SEGMENTS are in the list, one behind the other; -1: not any more. */
static ssize_t find_in_list(const struct kq_log *log, struct kq_segment *const *segments,
                            size_t count)
{
    for (size_t i = 0; i + count < log->segment_count; i++) /* the last is the active one */
        if (log->segments[i] == segments[0])
            return memcmp(&log->segments[i], segments, count * sizeof(segments[0])) == 0
                       ? (ssize_t)i
                       : -1;
    return -1;
}

static bool are_listed(struct kq_log *log, struct kq_segment *const *segments, size_t count)
{
    pthread_mutex_lock(&log->map);
    bool listed = find_in_list(log, segments, count) >= 0;
    pthread_mutex_unlock(&log->map);
    return listed;
}

static int retire_all(struct kq_log *log, struct kq_segment *const *segments, size_t count)
{
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        r = kq_segment_retire(segments[i], &log->map);
        while (r < 0 && i > 0)
            kq_segment_unretire(segments[--i], &log->map);
    }
    return r;
}

/* With names held. */
static int replace_files(struct kq_log *log, int dirfd, struct kq_segment *const *segments,
                         size_t count)
{
    int64_t base = segments[0]->base, end = segments[count - 1]->next_offset;
    int r = retire_all(log, segments, count);
    if (r < 0)
        return r;
    r = kq_swap_decide(dirfd, base);
    if (r < 0) {
        for (size_t i = 0; i < count; i++)
            kq_segment_unretire(segments[i], &log->map);
        return r;
    }
    r = kq_swap_finish(dirfd, base, end);
    if (r < 0)
        r = kq_swap_finish(dirfd, base, end); /* it cannot be taken back */
    if (r < 0)
        kq_diag(LOG_ERR,
                "%s: compacted segment %" PRId64 " could not be put in place (%s): the next start "
                "of the broker does it; until then the old ones are read",
                log->name, base, strerror(-r));
    return r;
}

static int64_t holes_in(const struct kq_segment *segment)
{
    return segment->holes ? segment->text_span - segment->text_length : 0;
}

/* With lock and map held. */
static void replace_in_list(struct kq_log *log, struct kq_segment *const *segments, size_t count,
                            struct kq_segment *fresh, bool *ret_text_changed)
{
    size_t at = (size_t)find_in_list(log, segments, count);
    int64_t holes = -holes_in(fresh), bytes = fresh->size;
    for (size_t i = 0; i < count; i++) {
        holes += holes_in(segments[i]);
        bytes -= segments[i]->size;
    }
    kq_segment_ref(fresh);
    log->segments[at] = fresh;
    memmove(&log->segments[at + 1], &log->segments[at + count],
            (log->segment_count - at - count) * sizeof(fresh));
    log->segment_count -= count - 1;
    log->bytes += bytes;
    log->text_start_of = -1; /* the first message may be another one */
    kq_log_forget_layout(log);
    if (holes != 0) {
        fresh->layout = log->layout + 1;
        atomic_store_explicit(&log->layout, fresh->layout, memory_order_release);
        *ret_text_changed = true;
    } else {
        fresh->layout = segments[0]->layout;
    }
}

/* With counting and lock held, for it may be the writer's: the cursor goes on from what is
 * recorded. */
static void leave_segments(struct kq_log *log, struct kq_segment *const *segments, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (log->counted_in == segments[i]) {
            kq_segment_unref(log->counted_in);
            log->counted_in = NULL;
        }
    }
}

int kq_log_replace_segments(struct kq_log *log, int dirfd, struct kq_segment *const *segments,
                            size_t count, struct kq_segment *fresh, bool *ret_text_changed)
{
    pthread_mutex_lock(&log->removing);
    pthread_mutex_lock(&log->counting);
    pthread_mutex_lock(&log->names);
    int r = are_listed(log, segments, count) ? replace_files(log, dirfd, segments, count) : -ESTALE;
    if (r == 0) {
        pthread_mutex_lock(&log->lock);
        leave_segments(log, segments, count);
        pthread_mutex_lock(&log->map);
        replace_in_list(log, segments, count, fresh, ret_text_changed);
        pthread_mutex_unlock(&log->map);
        pthread_mutex_unlock(&log->lock);
    }
    pthread_mutex_unlock(&log->names);
    pthread_mutex_unlock(&log->counting);
    pthread_mutex_unlock(&log->removing);
    for (size_t i = 0; i < count && r == 0; i++)
        kq_segment_unref(segments[i]); /* the list's */
    return r;
}
