/* Keeping house: removing old segments, rolling by time, closing what is idle. */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/log_internal.h"
#include "broker/logproducer.h"

/* --- Removing segments --- */

/* Takes the first segment off the list. */
static void drop_first(struct kq_log *log)
{
    pthread_mutex_lock(&log->lock);
    pthread_mutex_lock(&log->map);
    struct kq_segment *segment = log->segments[0];
    kq_log_layout_drops(log, segment);
    log->segment_count--;
    memmove(log->segments, log->segments + 1, log->segment_count * sizeof(segment));
    pthread_mutex_unlock(&log->map);
    log->bytes -= segment->size;
    pthread_mutex_unlock(&log->lock);
    kq_segment_unref(segment);
}

static int unlink_file(struct kq_log *log, int64_t base, enum kq_file_kind kind)
{
    char path[KQ_FILE_PATH_BYTES];
    kq_file_path(&log->place, base, kind, path);
    int r = kq_io_unlink(log->place.dirfd, path, false);
    return r == -ENOENT ? 0 : r;
}

static int sync_directory(struct kq_log *log)
{
    kq_autoclose int fd =
        kq_io_open(log->place.dirfd, log->place.directory, O_RDONLY | O_DIRECTORY, 0);
    return fd < 0 ? fd : kq_io_sync_dir(fd);
}

/* Removes the segments before KEEP, the oldest first, so that what a crash leaves has no gap. First
 * from the list: who meets a missing file then sees that the start has moved. A file that cannot be
 * removed is there again when the log is opened; an index whose log is gone is swept up then. */
static int remove_before(struct kq_log *log, const struct kq_segment *keep)
{
    bool removed = false;
    int r = 0;
    for (;;) {
        struct kq_segment *first = kq_log_first_segment(log);
        int64_t base = first->base;
        kq_segment_unref(first);
        if (base >= keep->base)
            break;
        drop_first(log);
        removed = true;
        for (int kind = KQ_FILE_LOG; kind < KQ_FILE_KINDS; kind++) {
            int unlinked = unlink_file(log, base, (enum kq_file_kind)kind);
            r = r == 0 ? unlinked : r;
        }
    }
    if (removed)
        kq_log_prune_snapshots(log);
    int synced = removed ? sync_directory(log) : 0;
    return r < 0 ? r : synced;
}

static void move_start(struct kq_log *log, int64_t offset, const struct kq_segment *keep)
{
    if (atomic_load_explicit(&log->start, memory_order_relaxed) < offset)
        atomic_store_explicit(&log->start, offset, memory_order_release);
    if (offset <= keep->base) {
        pthread_mutex_lock(&log->map);
        log->text_start_of = offset;
        log->text_start = keep->text_base;
        pthread_mutex_unlock(&log->map);
    }
}

/* Where all that there is shall go, the active segment goes too. */
static int roll_for_removal(struct kq_log *log, int64_t offset)
{
    int r = 0;
    pthread_mutex_lock(&log->lock);
    if (offset == log->end && !log->failed)
        r = kq_log_roll(log);
    pthread_mutex_unlock(&log->lock);
    return r;
}

/* SYNC: what goes may be what nobody has synced. */
static int delete_before(struct kq_log *log, int64_t offset, bool sync)
{
    log->deleting = offset;
    int rolled = roll_for_removal(log, offset);
    struct kq_segment *keep = kq_log_segment_at(log, offset);
    struct kq_segment *first = kq_log_first_segment(log);
    /* Text positions outlive the segments from which they were counted. What those hold is durable
     * before that: a power loss in between would leave the position of text that is not there. */
    sync &= first != keep && !log->failed;
    int r = sync ? kq_log_sync_up_to(log, keep->base) : 0;
    if (r == 0 && first != keep)
        r = kq_log_fix_text(log, keep);
    kq_segment_unref(first);
    if (r == 0) {
        move_start(log, offset, keep);
        r = remove_before(log, keep);
        kq_log_drop_undecided(log);
    }
    kq_segment_unref(keep);
    return r < 0 ? r : rolled;
}

static int delete_up_to(struct kq_log *log, int64_t offset, bool sync)
{
    if (offset > atomic_load_explicit(&log->end, memory_order_acquire))
        return KQ_BEYOND;
    pthread_mutex_lock(&log->removing);
    offset = kq_max64(offset, atomic_load(&log->start));
    int r = delete_before(log, offset, sync);
    pthread_mutex_unlock(&log->removing);
    return r;
}

int kq_log_delete_before(struct kq_log *log, int64_t offset)
{
    return delete_up_to(log, offset, true);
}

/* --- Retention --- */

int kq_log_largest_timestamp(struct kq_log *log, struct kq_segment *segment, int64_t *ret)
{
    struct stat st;
    int fd;
    int r = kq_segment_max_timestamp(segment, &log->map, true, ret);
    if (r != 0 || *ret >= 0)
        return r;
    r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    r = fstat(fd, &st) < 0 ? -errno : 0;
    kq_file_done(segment->file);
    if (r == 0)
        *ret = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
    return r;
}

/* May SEGMENT, the oldest of TOTAL bytes, go? Lowers *NEXT_MS to when it may. */
static int is_old(struct kq_log *log, struct kq_segment *segment,
                  const struct kq_log_config *config, int64_t total, int64_t now_ms,
                  int64_t *next_ms, bool *ret)
{
    int64_t largest;
    int64_t size = segment->size;
    *ret = config->retention_bytes >= 0 && total - size >= config->retention_bytes;
    if (*ret || config->retention_ms < 0)
        return 0;
    int r = kq_log_largest_timestamp(log, segment, &largest);
    if (r != 0)
        return r;
    *ret = largest < now_ms && now_ms - largest > config->retention_ms;
    if (!*ret && largest < INT64_MAX - 1 - config->retention_ms)
        *next_ms = kq_min64(*next_ms, largest + config->retention_ms + 1);
    return 0;
}

static int apply_retention(struct kq_log *log, const struct kq_log_config *config, int64_t now_ms,
                           int64_t *next_ms)
{
    int64_t until = atomic_load(&log->start);
    int64_t total = atomic_load(&log->bytes);
    struct kq_segment *segment = kq_log_first_segment(log);
    bool old = config->delete_old;
    int r = 0;
    while (segment && old) {
        int64_t size = segment->size, next_offset = segment->next_offset;
        if (next_offset > until || size == 0) {
            if (size > 0)
                r = is_old(log, segment, config, total, now_ms, next_ms, &old);
            else
                old = segment->sealed;
            if (r != 0 || !old)
                break;
            until = next_offset;
        }
        total -= size;
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
    kq_segment_unref(segment);
    struct kq_segment *first = kq_log_first_segment(log);
    bool due = until > atomic_load(&log->start) || (first->sealed && first->next_offset <= until);
    kq_segment_unref(first);
    /* What it takes has long been on disk, or else comes back with a power loss and goes again. */
    int removed = due ? delete_up_to(log, until, false) : 0;
    return r != 0 ? r : removed;
}

/* --- Rolling and syncing by time --- */

static int roll_by_time(struct kq_log *log, int64_t now_ms, int64_t *next_ms)
{
    struct kq_segment *active = kq_log_active(log);
    if (log->failed || active->size == 0 || log->config.segment_ms < 0 ||
        active->first_timestamp < 0 ||
        active->first_timestamp > INT64_MAX - 1 - log->config.segment_ms)
        return 0;
    int64_t due = active->first_timestamp + log->config.segment_ms;
    if (now_ms > due)
        return kq_log_roll(log);
    *next_ms = kq_min64(*next_ms, due + 1);
    return 0;
}

static bool is_sync_due(struct kq_log *log, int64_t now_ms, int64_t *next_ms)
{
    if (log->failed || log->unsynced_since_ms == 0 ||
        log->config.flush_ms >= INT64_MAX - log->unsynced_since_ms)
        return false;
    int64_t due = log->unsynced_since_ms + log->config.flush_ms;
    if (now_ms < due)
        *next_ms = kq_min64(*next_ms, due);
    return now_ms >= due;
}

int kq_log_housekeep(struct kq_log *log, int64_t now_ms, int64_t *ret_next_ms)
{
    int64_t next_ms = INT64_MAX;
    pthread_mutex_lock(&log->lock);
    struct kq_log_config config = log->config;
    int rolled = roll_by_time(log, now_ms, &next_ms);
    bool sync = is_sync_due(log, now_ms, &next_ms);
    kq_log_expire_producers(log, now_ms, &next_ms);
    pthread_mutex_unlock(&log->lock);
    if (sync)
        kq_log_start_sync(log);
    int r = apply_retention(log, &config, now_ms, &next_ms);
    *ret_next_ms = next_ms;
    return r != 0 ? r : rolled;
}

/* --- Idle logs --- */

/* Writes and frees what an idle segment holds in memory. */
static void tidy(struct kq_log *log, struct kq_segment *segment, bool idle)
{
    pthread_mutex_lock(&log->lock);
    if (!log->failed && (idle || segment->sealed)) {
        if (kq_index_has_tail(&segment->offsets, &log->map) ||
            kq_index_has_tail(&segment->times, &log->map))
            kq_segment_flush_indexes(segment, &log->map, segment->sealed);
        if (!log->text_behind && kq_index_has_tail(&segment->texts, &log->map))
            kq_segment_flush_text(segment, &log->map);
        kq_index_trim(&segment->offsets, &log->map);
        kq_index_trim(&segment->times, &log->map);
        if (!log->text_behind)
            kq_index_trim(&segment->texts, &log->map);
    }
    if (!log->failed && log->reserved == 0)
        kq_log_release_reserve(log, segment);
    pthread_mutex_unlock(&log->lock);
}

static void trim_index(struct kq_log *log, struct kq_index *index)
{
    pthread_mutex_lock(&log->map);
    struct kq_file *file = index->file;
    kq_file_ref(file);
    pthread_mutex_unlock(&log->map);
    kq_file_trim(file);
    kq_file_unref(file);
}

void kq_log_trim(struct kq_log *log)
{
    int64_t appended = atomic_load(&log->appended);
    bool idle = log->trimmed == appended;
    log->trimmed = appended;
    /* A file with bytes that were not synced stays open; so sync it. */
    if (idle && !log->failed && log->recovery_point < log->end)
        kq_log_start_sync(log);
    struct kq_segment *segment = kq_log_first_segment(log);
    while (segment) {
        tidy(log, segment, idle);
        kq_file_trim(segment->file);
        trim_index(log, &segment->offsets);
        trim_index(log, &segment->times);
        trim_index(log, &segment->texts);
        if (segment->holes)
            trim_index(log, segment->holes);
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
}

/* --- The end of a log --- */

static int remove_files(int dirfd)
{
    int copy = kq_io_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *directory = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;
    int r = copy < 0 ? copy : directory ? 0 : -errno;
    while (r == 0 && directory && (errno = 0, entry = readdir(directory))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            r = kq_io_unlink(dirfd, entry->d_name, false);
    }
    if (r == 0 && errno)
        r = -errno;
    if (directory)
        closedir(directory);
    else if (copy >= 0)
        close(copy);
    return r;
}

int kq_log_remove(const struct kq_log_shared *shared, const char *name)
{
    kq_autoclose int dirfd =
        kq_io_open(shared->dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    int r = dirfd < 0 ? dirfd : remove_files(dirfd);
    if (r == 0)
        r = kq_io_unlink(shared->dirfd, name, true);
    return r < 0 ? r : kq_io_sync_dir(shared->dirfd);
}
