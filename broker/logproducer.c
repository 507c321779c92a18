/* The producers of a log, and what of them is on disk.
 *
 * `<offset>.snapshot` has them as they were before the batch at that offset. One is written where a
 * segment begins, and, synced, before a recovery point is recorded that lies behind a change which
 * none has yet. So what is recorded as being on disk is in a snapshot, and what comes behind is
 * read anyway when the log is opened: a batch that was acknowledged is known for ever, and opening
 * takes no longer. A snapshot that Kafka wrote promises less: from that all batches are read.
 *
 * Failure modes: a damaged snapshot is reported and removed, an older one or the log itself stands
 * in; one that cannot be written holds the recorded recovery point back. */
#include "broker/logproducer.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/replay.h"

#define SUFFIX ".snapshot"
#define NAME_BYTES 40
#define LARGEST_FILE ((size_t)256 << 20)
#define TEMPORARY "kqfs-tmp.producers" /* swept up when the log is opened */

/* --- Appending --- */

int kq_log_check_producer(struct kq_log *log, const struct kq_batch_header *header,
                          struct kq_log_appended *ret)
{
    struct kq_producer_batch batch;
    int r = kq_producers_check(&log->producers, header, &batch);
    if (r != KQ_READY)
        return r;
    *ret = (struct kq_log_appended){
        .base_offset = batch.last_offset - batch.offset_delta,
        .next_offset = batch.last_offset + 1,
        .timestamp = batch.timestamp,
        .duplicate = true,
    };
    return log->unsynced_messages >= log->config.flush_messages &&
                   log->recovery_point < ret->next_offset
               ? KQ_MUST_SYNC
               : 0;
}

static void publish_unstable(struct kq_log *log)
{
    atomic_store_explicit(&log->unstable, kq_producers_unstable(&log->producers),
                          memory_order_release);
}

void kq_log_note_producer(struct kq_log *log, const struct kq_batch_header *header)
{
    kq_producers_note(&log->producers, header, kq_clock_wall_ms());
    log->producers_changed = true;
    log->uncovered = kq_min64(log->uncovered, header->base_offset);
    if (header->attributes & KQ_ATTRIBUTE_TRANSACTIONAL)
        publish_unstable(log);
}

void kq_log_drop_undecided(struct kq_log *log)
{
    int64_t start = atomic_load_explicit(&log->start, memory_order_acquire);
    if (kq_likely(atomic_load_explicit(&log->unstable, memory_order_acquire) == INT64_MAX))
        return;
    pthread_mutex_lock(&log->lock);
    if (kq_producers_drop_open(&log->producers, start))
        log->producers_changed = true;
    publish_unstable(log);
    pthread_mutex_unlock(&log->lock);
}

void kq_log_expire_producers(struct kq_log *log, int64_t now_ms, int64_t *next_ms)
{
    int64_t oldest_ms, expiry_ms = log->shared->producer_expiry_ms;
    if (log->producers.count == 0)
        return;
    kq_producers_expire(&log->producers, now_ms - expiry_ms, &oldest_ms);
    if (oldest_ms < INT64_MAX - 1 - expiry_ms)
        *next_ms = kq_min64(*next_ms, kq_max64(oldest_ms + expiry_ms + 1, now_ms + 1));
}

/* --- The list of snapshots --- */

static size_t snapshot_count(const struct kq_log *log)
{
    return log->snapshots.length / sizeof(int64_t);
}

static int64_t snapshot_at(const struct kq_log *log, size_t i)
{
    int64_t offset;
    memcpy(&offset, log->snapshots.data + i * sizeof(offset), sizeof(offset));
    return offset;
}

static void remove_at(struct kq_log *log, size_t i)
{
    uint8_t *at = log->snapshots.data + i * sizeof(int64_t);
    memmove(at, at + sizeof(int64_t), log->snapshots.length - (i + 1) * sizeof(int64_t));
    log->snapshots.length -= sizeof(int64_t);
}

/* Room was made before the file was written; one that is not listed stays until the log is opened
 * anew. */
static void add_snapshot(struct kq_log *log, int64_t offset)
{
    size_t at = snapshot_count(log);
    while (at > 0 && snapshot_at(log, at - 1) > offset)
        at--;
    if ((at > 0 && snapshot_at(log, at - 1) == offset) ||
        kq_buf_reserve(&log->snapshots, sizeof(offset)) < 0)
        return;
    uint8_t *to = log->snapshots.data + at * sizeof(offset);
    memmove(to + sizeof(offset), to, log->snapshots.length - at * sizeof(offset));
    memcpy(to, &offset, sizeof(offset));
    log->snapshots.length += sizeof(offset);
}

static void snapshot_name(int64_t offset, char ret[NAME_BYTES])
{
    snprintf(ret, NAME_BYTES, "%020" PRId64 SUFFIX, offset);
}

static int open_directory(struct kq_log *log)
{
    return kq_io_open(log->place.dirfd, log->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
}

static void unlink_snapshot(int dirfd, int64_t offset)
{
    char name[NAME_BYTES];
    snapshot_name(offset, name);
    kq_io_unlink(dirfd, name, false);
}

/* With `lock`: is there a segment that begins at OFFSET? */
static bool is_base(struct kq_log *log, int64_t offset)
{
    struct kq_segment *segment = kq_log_segment_at(log, offset);
    bool is = segment->base == offset;
    kq_segment_unref(segment);
    return is;
}

/* Those at the beginning of a segment stay with it. Of the others two do: the newest, and the one
 * before, behind which the log may end when the system has died. */
void kq_log_prune_snapshots(struct kq_log *log)
{
    kq_autobuf struct kq_buf gone = {0};
    int others = 0;
    pthread_mutex_lock(&log->lock);
    for (size_t i = snapshot_count(log); i-- > 0;) {
        int64_t offset = snapshot_at(log, i);
        if (i + 1 == snapshot_count(log) && others == 0)
            others += !is_base(log, offset);
        else if (!is_base(log, offset) && ++others > 2 &&
                 kq_buf_append(&gone, &offset, sizeof(offset)) == 0)
            remove_at(log, i);
    }
    pthread_mutex_unlock(&log->lock);
    if (gone.length == 0)
        return;
    kq_autoclose int dirfd = open_directory(log);
    for (size_t at = 0; dirfd >= 0 && at < gone.length; at += sizeof(int64_t)) {
        int64_t offset;
        memcpy(&offset, gone.data + at, sizeof(offset));
        unlink_snapshot(dirfd, offset);
    }
}

/* --- Writing --- */

/* Not synced: nothing relies on it before kq_log_checkpoint wrote a later one. */
static int write_unsynced(int dirfd, const char *name, const struct kq_buf *bytes)
{
    kq_autoclose int fd =
        kq_io_open(dirfd, TEMPORARY, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    int r = fd < 0 ? fd : kq_io_pwrite(fd, bytes->data, bytes->length, 0);
    if (r == 0)
        r = kq_io_rename(dirfd, TEMPORARY, dirfd, name);
    if (r < 0 && fd >= 0)
        kq_io_unlink(dirfd, TEMPORARY, false);
    return r;
}

static int write_snapshot(struct kq_log *log, int dirfd, int64_t offset, const struct kq_buf *bytes,
                          bool synced)
{
    char name[NAME_BYTES];
    snapshot_name(offset, name);
    int r = dirfd < 0 ? dirfd
            : synced  ? kq_io_replace(dirfd, name, bytes->data, bytes->length, 0600)
                      : write_unsynced(dirfd, name, bytes);
    if (r < 0)
        kq_diag_limited(60000, LOG_WARNING,
                        "%s: cannot write what is known of its producers: %s; the next start reads "
                        "more of the log",
                        log->name, strerror(-r));
    return r;
}

void kq_log_snapshot_producers(struct kq_log *log)
{
    kq_autobuf struct kq_buf bytes = {0};
    if (!log->producers_changed)
        return;
    kq_autoclose int dirfd = open_directory(log);
    int r = kq_buf_reserve(&log->snapshots, sizeof(int64_t));
    if (r == 0)
        r = kq_producers_write(&log->producers, &bytes);
    if (r == 0 && write_snapshot(log, dirfd, log->end, &bytes, false) == 0) {
        add_snapshot(log, log->end);
        log->producers_changed = false;
    }
}

/* What is to be covered, as bytes. While they are written new changes begin a new count. */
static int begin_cover(struct kq_log *log, struct kq_buf *ret_bytes, int64_t *ret_offset,
                       int64_t *ret_uncovered)
{
    pthread_mutex_lock(&log->lock);
    int r = kq_buf_reserve(&log->snapshots, sizeof(int64_t));
    if (r == 0)
        r = kq_producers_write(&log->producers, ret_bytes);
    *ret_offset = log->end;
    *ret_uncovered = log->uncovered;
    if (r == 0)
        log->uncovered = INT64_MAX;
    pthread_mutex_unlock(&log->lock);
    return r;
}

static int cover(struct kq_log *log)
{
    kq_autobuf struct kq_buf bytes = {0};
    int64_t offset, uncovered;
    kq_autoclose int dirfd = open_directory(log);
    int r = begin_cover(log, &bytes, &offset, &uncovered);
    if (r < 0)
        return r;
    r = write_snapshot(log, dirfd, offset, &bytes, true);
    pthread_mutex_lock(&log->lock);
    if (r < 0)
        log->uncovered = kq_min64(log->uncovered, uncovered);
    else
        add_snapshot(log, offset);
    if (r == 0 && log->end == offset)
        log->producers_changed = false;
    pthread_mutex_unlock(&log->lock);
    if (r == 0)
        kq_log_prune_snapshots(log);
    return r;
}

int64_t kq_log_checkpoint(struct kq_log *log)
{
    int64_t point = atomic_load_explicit(&log->recovery_point, memory_order_acquire);
    pthread_mutex_lock(&log->lock);
    int64_t uncovered = log->uncovered;
    pthread_mutex_unlock(&log->lock);
    return point <= uncovered || cover(log) == 0 ? point : uncovered;
}

/* --- Opening --- */

/* What is known of the producers when a log is opened, and from where it is to be read on. */
struct loading {
    struct kq_log *log;
    int dirfd;
    int64_t now_ms;
    int64_t synced;    /* a synced snapshot covers everything before */
    bool ours;         /* of the snapshot that was taken: this broker wrote it */
    bool unsynced;     /* it may be lost with the power yet */
    struct kq_buf bad; /* int64_t each: those behind it, which could not be taken */
};

static int read_snapshot(struct kq_log *log, int dirfd, int64_t offset,
                         struct kq_producers *producers, bool *ret_ours)
{
    kq_autobuf struct kq_buf bytes = {0};
    char name[NAME_BYTES];
    snapshot_name(offset, name);
    int r = kq_io_slurp(dirfd, name, LARGEST_FILE, &bytes);
    if (r == 0)
        r = kq_producers_read(producers, bytes.data, bytes.length, kq_clock_wall_ms(), ret_ours);
    return r;
}

/* Takes the newest one that is whole and not behind the log's end. 0; KQ_END: there is none;
 * -ENOMEM. */
static int take_snapshot(struct loading *loading, int64_t *ret_offset)
{
    struct kq_log *log = loading->log;
    for (size_t i = snapshot_count(log); i-- > 0; remove_at(log, i)) {
        int64_t offset = snapshot_at(log, i);
        int r = offset > log->end
                    ? KQ_BEYOND
                    : read_snapshot(log, loading->dirfd, offset, &log->producers, &loading->ours);
        if (r == 0) {
            *ret_offset = offset;
            return 0;
        }
        if (r < 0 && r != -ENOMEM)
            kq_diag(LOG_WARNING,
                    "%s: what was known of its producers at offset %" PRId64
                    " cannot be read (%s): reading it from the log instead",
                    log->name, offset, strerror(-r));
        if (r != -ENOMEM)
            r = kq_buf_append(&loading->bad, &offset, sizeof(offset));
        if (r < 0)
            return r;
    }
    return KQ_END;
}

/* Where the log is to be read from. Behind a snapshot that is ours and the last, nothing changed up
 * to the recovery point, or that would not have been recorded. */
static int find_start(struct loading *loading, int64_t *ret)
{
    struct kq_log *log = loading->log;
    int64_t offset = log->segments[0]->base;
    int r = take_snapshot(loading, &offset);
    loading->unsynced = r == 0 && offset > loading->synced;
    r = r == KQ_END ? 0 : r;
    if (r == 0)
        *ret =
            loading->ours && loading->bad.length == 0 ? kq_max64(offset, loading->synced) : offset;
    return r;
}

/* The first snapshot of a log, which says that it is this broker's. */
static void found(struct kq_log *log)
{
    log->producers_changed = true;
    kq_log_snapshot_producers(log);
}

/* So that one behind the end is not taken for true when the log has grown. */
static int spoil(int dirfd, int64_t offset)
{
    char name[NAME_BYTES];
    snapshot_name(offset, name);
    kq_autoclose int fd = kq_io_open(dirfd, name, O_WRONLY | O_NOFOLLOW, 0);
    return fd < 0 ? fd : kq_io_truncate(fd, 0);
}

/* What was read from the log instead of a snapshot is written down before that goes: until then it
 * says that the older ones are not enough. */
static int replace_bad(struct loading *loading)
{
    struct kq_log *log = loading->log;
    bool covered = cover(log) == 0;
    int r = 0;
    for (size_t at = 0; at < loading->bad.length && r == 0; at += sizeof(int64_t)) {
        int64_t offset;
        memcpy(&offset, loading->bad.data + at, sizeof(offset));
        if (covered && offset != log->end)
            unlink_snapshot(loading->dirfd, offset);
        else if (!covered && offset > log->end)
            r = spoil(loading->dirfd, offset);
    }
    return r;
}

static void note_ids(struct kq_log *log)
{
    const struct kq_producer_entry *entry;
    if (log->shared->producer_ids)
        TAILQ_FOREACH (entry, &log->producers.used, by_use)
            kq_producer_ids_met(log->shared->producer_ids, entry->id);
}

static int replay(struct loading *loading, int64_t from)
{
    struct kq_log *log = loading->log;
    struct kq_replay replay = {
        .producers = &log->producers, .from = from, .to = log->end, .now_ms = loading->now_ms};
    int r = from < log->end ? kq_log_replay(log, &replay) : 0;
    if (r == 0)
        r = kq_aborted_settle(log, loading->dirfd, from, &replay.aborted);
    kq_buf_release(&replay.aborted);
    log->producers_changed = replay.met;
    if (replay.met || loading->unsynced)
        log->uncovered = kq_min64(loading->synced, log->end);
    return r;
}

static void say_unstable(struct kq_log *log)
{
    const struct kq_producer_entry *entry = TAILQ_FIRST(&log->producers.open);
    if (entry)
        kq_diag(LOG_WARNING,
                "%s: the transaction that producer %" PRId64 " began at offset %" PRId64
                " was never ended: who reads committed messages, as the mount does, sees nothing "
                "from there on until the messages up to offset %" PRId64 " are deleted",
                log->name, entry->id, entry->transaction, kq_producer_last_offset(entry));
}

int kq_log_load_producers(struct kq_log *log, int dirfd, struct kq_listing *listing,
                          const struct kq_log_checkpoint *checkpoint, bool *ret_adopted)
{
    bool foreign = checkpoint->epochs_begun > 0;
    struct loading loading = {
        .log = log,
        .dirfd = dirfd,
        .now_ms = kq_clock_wall_ms(),
        /* Kafka's recovery point promises nothing of what is known of producers. */
        .synced = foreign             ? 0
                  : checkpoint->clean ? log->end
                                      : kq_min64(log->recovery_point, log->end),
    };
    int64_t from, oldest_ms;
    bool is_new = kq_listing_count(listing) == 0 && listing->snapshots.length == 0;
    const struct kq_producer_ids *ids = log->shared->producer_ids;
    kq_producers_clear(&log->producers, ids ? kq_producer_ids_given(ids) : -1);
    log->snapshots = listing->snapshots;
    listing->snapshots = (struct kq_buf){0};
    int r = find_start(&loading, &from);
    if (r == 0)
        r = replay(&loading, from);
    if (r == 0 && !is_new && (!loading.ours || loading.bad.length > 0))
        r = replace_bad(&loading);
    kq_buf_release(&loading.bad);
    if (r < 0)
        return r;
    *ret_adopted = (!loading.ours || foreign) && !is_new;
    if (*ret_adopted)
        note_ids(log);
    kq_producers_expire(&log->producers, loading.now_ms - log->shared->producer_expiry_ms,
                        &oldest_ms);
    kq_producers_drop_open(&log->producers, log->start);
    publish_unstable(log);
    say_unstable(log);
    if (is_new)
        found(log);
    return 0;
}

int kq_log_producers_before(struct kq_log *log, int dirfd, int64_t offset,
                            struct kq_producers *producers, int64_t *ret)
{
    kq_autobuf struct kq_buf offsets = {0};
    bool ours;
    pthread_mutex_lock(&log->lock);
    int r = kq_buf_append(&offsets, log->snapshots.data, log->snapshots.length);
    pthread_mutex_unlock(&log->lock);
    for (size_t at = offsets.length; r == 0 && at > 0; at -= sizeof(int64_t)) {
        int64_t snapshot;
        memcpy(&snapshot, offsets.data + at - sizeof(snapshot), sizeof(snapshot));
        if (snapshot > offset)
            continue;
        r = read_snapshot(log, dirfd, snapshot, producers, &ours);
        if (r == 0) {
            *ret = snapshot;
            return 0;
        }
        r = r == -ENOMEM ? r : 0;
    }
    struct kq_segment *first = kq_log_first_segment(log);
    *ret = first->base;
    kq_segment_unref(first);
    return r;
}
