/* Opening a log: what is on disk, what of it is whole, and what to do about the rest.
 *
 * Segments that lie before the recovery point are trusted unread: the time this takes depends on
 * the bytes behind it. In the others every batch is checked. The last segment is cut off before its
 * first damaged batch. An earlier one keeps what is behind the damage, if anything whole is there;
 * whoever reads the damaged place learns of it then. */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/listing.h"
#include "broker/log_internal.h"
#include "broker/logproducer.h"
#include "broker/textindex.h"

#define COPY_BYTES (64 * 1024)
#define FORCE_ENTRY (INT64_MAX / 2)

struct recovery {
    struct kq_log *log;
    const struct kq_log_checkpoint *checkpoint;
    struct kq_log_recovery *report;
    int dirfd; /* the log's directory */
};

/* --- Where to begin --- */

/* Keeps the entries of the indexes up to NUMBER of the offset index, which ends with LAST. */
static int cut_indexes(struct kq_segment *segment, pthread_mutex_t *lock, uint32_t number,
                       int64_t last)
{
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    uint32_t times;
    int r =
        kq_index_search(&segment->times, lock, kq_index_time_offset_key, last, true, entry, &times);
    if (r == KQ_END)
        return -EBADMSG;
    if (r == 0)
        r = kq_segment_verify_time(segment, lock, entry, true);
    if (r != 0)
        return r;
    r = kq_index_truncate(&segment->times, times + 1);
    if (r == 0)
        r = kq_index_truncate(&segment->offsets, number);
    if (r == 0) {
        segment->max_timestamp = kq_index_time_key(entry);
        segment->max_timestamp_offset = segment->base + kq_index_time_offset_key(entry);
    }
    return r;
}

/* Is the batch whole to which ENTRY points? */
static int check_entry(struct kq_segment *segment, int fd, const uint8_t *entry)
{
    struct kq_batch_header header;
    struct kq_walk walk;
    const uint8_t *bytes;
    kq_walk_begin(&walk, fd, segment->base, kq_index_position_key(entry), segment->size,
                  KQ_WALK_NEAR, true);
    int r = kq_walk_header(&walk, &header);
    if (r == 0 && kq_batch_next_offset(&header) - 1 != segment->base + kq_index_offset_key(entry))
        r = -EBADMSG;
    if (r == 0)
        r = kq_walk_bytes(&walk, &header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, &header);
    kq_walk_end(&walk);
    return r > 0 ? -EBADMSG : r;
}

/* The index entry from which SEGMENT is to be walked, when all before TRUSTED is known to be whole.
 * After an unclean stop one buffer of entries back: those before were in both indexes when the
 * recovery point was set, the ones behind may have reached the disk in one index only.
 * 0; KQ_END: from the start; -EBADMSG: an index is damaged; -errno. */
static int choose_entry(struct recovery *recovery, struct kq_segment *segment, int fd,
                        int64_t trusted, int64_t *ret_position)
{
    pthread_mutex_t *lock = &recovery->log->map;
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    uint32_t number;
    int64_t offsets_size, times_size;
    int r = kq_index_load(&segment->offsets, lock, true, &offsets_size);
    if (r == 0)
        r = kq_index_load(&segment->times, lock, true, &times_size);
    if (r != 0)
        return r;
    if (offsets_size % KQ_OFFSET_ENTRY > 0 || times_size % KQ_TIME_ENTRY > 0)
        return -EBADMSG;
    if (kq_index_count(&segment->offsets) == 0)
        return KQ_END;
    r = kq_index_search(&segment->offsets, lock, kq_index_offset_key, trusted - 1 - segment->base,
                        true, entry, &number);
    if (r == 0 && !recovery->checkpoint->clean) {
        if (number < KQ_INDEX_TAIL)
            return KQ_END;
        number -= KQ_INDEX_TAIL;
        r = kq_index_get(&segment->offsets, lock, number, true, entry);
    }
    if (r == 0)
        r = check_entry(segment, fd, entry);
    if (r == 0)
        r = cut_indexes(segment, lock, number, kq_index_offset_key(entry));
    if (r == 0)
        *ret_position = kq_index_position_key(entry);
    return r;
}

static int empty_indexes(struct kq_segment *segment)
{
    int r = kq_index_truncate(&segment->times, 0);
    if (r == 0)
        r = kq_index_truncate(&segment->offsets, 0);
    segment->max_timestamp = KQ_NO_TIME;
    return r;
}

static int begin_at(struct recovery *recovery, struct kq_segment *segment, int fd, int64_t trusted,
                    int64_t *ret_position)
{
    *ret_position = 0;
    int r = choose_entry(recovery, segment, fd, trusted, ret_position);
    if (r == 0) {
        segment->since_index = FORCE_ENTRY;
        return 0;
    }
    if (r != KQ_END && r != -EBADMSG && r != -EINVAL && r != -ENOENT)
        return r;
    if (r < 0) {
        recovery->report->rebuilt_indexes++;
        kq_diag(LOG_WARNING, "%s: the indexes of segment %" PRId64 " are damaged: rebuilding them",
                recovery->log->name, segment->base);
    }
    return empty_indexes(segment);
}

/* --- Walking and cutting --- */

static bool is_damage(int error)
{
    return error == -EBADMSG || error == KQ_PARTIAL;
}

/* As kq_walk_resync, to the next batch that was synced. */
static int resync_before_point(const struct recovery *recovery, struct kq_walk *walk)
{
    int64_t most = walk->most;
    if (walk->least >= recovery->checkpoint->recovery_point)
        return KQ_END;
    walk->most = recovery->checkpoint->recovery_point - 1;
    int r = kq_walk_resync(walk);
    walk->most = most;
    return r;
}

/* HEADER is the current batch's, of the last segment. Those that were synced lie side by side
 * before the recovery point: one that leaps over it is not what was written there. 0; -EBADMSG;
 * -ENOMEM; -errno. */
static int check_leap(const struct recovery *recovery, struct kq_walk *walk,
                      const struct kq_batch_header *header)
{
    struct kq_batch_header behind;
    int64_t here = walk->position, synced = recovery->checkpoint->recovery_point;
    if (walk->placed || walk->least >= synced || kq_batch_next_offset(header) <= synced)
        return 0;
    if (header->base_offset >= synced)
        return -EBADMSG;
    /* Kafka moves the point into the midst of a batch when it deletes what is before: then nothing
     * behind that batch is older. The next one tells, mostly. */
    walk->position += header->size;
    int r = kq_walk_header(walk, &behind);
    walk->position = here;
    if (r == KQ_END || (r == 0 && behind.base_offset == kq_batch_next_offset(header)))
        return 0;
    if (r < 0 && r != -EBADMSG)
        return r;
    walk->position = here + header->size - 1;
    r = resync_before_point(recovery, walk);
    walk->position = here;
    return r == 0 ? -EBADMSG : r == KQ_END ? 0 : r;
}

/* Walks whole batches; returns KQ_END at the end of the file, else why it stopped. */
static int walk_checked(struct recovery *recovery, struct kq_segment *segment, struct kq_walk *walk,
                        struct kq_published *state)
{
    struct kq_batch_header header;
    const uint8_t *bytes;
    int r;
    while ((r = kq_walk_header(walk, &header)) == 0) {
        if (!segment->sealed)
            r = check_leap(recovery, walk, &header);
        if (r == 0)
            r = kq_walk_bytes(walk, &header, &bytes);
        if (r == 0)
            r = kq_batch_check_crc(bytes, &header);
        if (r != 0)
            return r;
        kq_segment_index(segment, &recovery->log->map, &header, walk->position, -1);
        *state = (struct kq_published){
            .next_offset = kq_batch_next_offset(&header),
            .size = walk->position + header.size,
            .last_base = header.base_offset,
            .last_position = walk->position,
        };
        kq_walk_step(walk, &header);
    }
    return r;
}

/* A damaged place with synced messages behind it is no torn tail, and not a reason to lose these:
 * goes on behind it. 0; KQ_END: the log ends here; -errno. */
static int pass_damage(struct recovery *recovery, struct kq_segment *segment, struct kq_walk *walk)
{
    struct kq_batch_header header;
    int64_t from = walk->position;
    int r = resync_before_point(recovery, walk);
    if (r == KQ_END && walk->least < recovery->checkpoint->recovery_point)
        r = kq_walk_resync(walk); /* the point may lie within a batch */
    if (r == 0)
        r = kq_walk_header(walk, &header);
    if (r < 0)
        return r;
    if (r > 0 || header.base_offset >= recovery->checkpoint->recovery_point) {
        walk->position = from;
        return KQ_END;
    }
    recovery->report->damaged_segments++;
    segment->since_index = FORCE_ENTRY;
    kq_diag(LOG_ERR,
            "%s: segment %" PRId64 " is damaged between bytes %" PRId64 " and %" PRId64
            ": reading there fails, what is behind is served",
            recovery->log->name, segment->base, from, walk->position);
    return 0;
}

/* Copies what is behind POSITION into <base>.log.damaged, durably. */
static int keep_aside(struct recovery *recovery, struct kq_segment *segment, int fd,
                      int64_t position, int64_t end)
{
    char name[KQ_FILE_NAME_BYTES + 16];
    uint8_t buffer[COPY_BYTES];
    kq_file_name(segment->base, KQ_FILE_LOG, name);
    strcat(name, ".damaged");
    kq_autoclose int to =
        kq_io_open(recovery->dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    if (to < 0)
        return to;
    for (int64_t at = position; at < end;) {
        ssize_t n = kq_io_pread(fd, buffer, sizeof(buffer), at);
        if (n == 0)
            break;
        int r = n < 0 ? (int)n : kq_io_pwrite(to, buffer, (size_t)n, at - position);
        if (r < 0)
            return r;
        at += n;
    }
    int r = kq_io_datasync(to);
    return r < 0 ? r : kq_io_sync_dir(recovery->dirfd);
}

/* The last segment ends here. What was synced or is whole is more than a torn write. */
static int cut_tail(struct recovery *recovery, struct kq_segment *segment, struct kq_walk *walk,
                    int64_t size)
{
    int64_t end = walk->position;
    bool synced = segment->next_offset < recovery->checkpoint->recovery_point;
    int r = synced ? 0 : kq_walk_resync(walk);
    if (r < 0)
        return r;
    recovery->report->truncated_bytes += size - end;
    if (r == 0) {
        recovery->report->damaged_segments++;
        kq_diag(LOG_ERR,
                "%s: segment %" PRId64 " is damaged at byte %" PRId64
                ": the log ends there; the %" PRId64 " bytes behind are kept in %020" PRId64
                ".log.damaged",
                recovery->log->name, segment->base, end, size - end, segment->base);
        r = keep_aside(recovery, segment, walk->fd, end, size);
    } else {
        r = 0;
        kq_diag(LOG_NOTICE, "%s: %" PRId64 " bytes of an unfinished write were cut off",
                recovery->log->name, size - end);
    }
    return r < 0 ? r : kq_io_truncate(walk->fd, end);
}

/* A segment with others behind it: serve what is whole. */
static int judge_middle(struct recovery *recovery, struct kq_segment *segment, struct kq_walk *walk,
                        int64_t size)
{
    int64_t end = walk->position;
    int r = kq_walk_resync(walk);
    if (r < 0)
        return r;
    recovery->report->damaged_segments++;
    if (r == KQ_END) {
        recovery->report->truncated_bytes += size - end;
        kq_diag(LOG_ERR,
                "%s: segment %" PRId64 " is damaged from byte %" PRId64
                " on: the messages from there to %" PRId64
                " are lost; the bytes are kept in %020" PRId64 ".log.damaged",
                recovery->log->name, segment->base, end, (int64_t)segment->next_offset,
                segment->base);
        r = keep_aside(recovery, segment, walk->fd, end, size);
        return r < 0 ? r : kq_io_truncate(walk->fd, end);
    }
    kq_diag(LOG_ERR,
            "%s: segment %" PRId64 " is damaged between bytes %" PRId64 " and %" PRId64
            ": reading there fails, what is behind is served",
            recovery->log->name, segment->base, end, walk->position);
    segment->size = size;
    return 0;
}

static int scan_file(struct recovery *recovery, struct kq_segment *segment, int fd, int64_t trusted)
{
    struct kq_walk walk;
    int64_t position, size = segment->size, next = segment->next_offset;
    bool last = !segment->sealed;
    int passed = 0;
    int r = begin_at(recovery, segment, fd, trusted, &position);
    if (r < 0)
        return r;
    struct kq_published state = {.next_offset = segment->base, .size = 0, .last_base = -1};
    kq_walk_begin(&walk, fd, segment->base, position, size, KQ_WALK_FAR, true);
    if (!last)
        walk.most = kq_min64(walk.most, next - 1);
    int64_t good_from;
    do {
        good_from = walk.position;
        r = walk_checked(recovery, segment, &walk, &state);
    } while (last && is_damage(r) && (passed = pass_damage(recovery, segment, &walk)) == 0);
    recovery->report->scanned_bytes += walk.position - position;
    bool damaged = is_damage(r);
    if (last || !damaged) /* behind the damage in an earlier segment nothing was read */
        kq_verified_set_tail(segment->file->verified, good_from);
    if (passed < 0) {
        r = passed;
        damaged = false;
    }
    if (damaged || r == KQ_END) {
        if (!last) {
            state.next_offset = next;
            state.last_base = -1; /* there may be more behind the damage */
        }
        kq_segment_publish(segment, &state);
        r = !damaged ? 0
            : last   ? cut_tail(recovery, segment, &walk, size)
                     : judge_middle(recovery, segment, &walk, size);
    }
    kq_walk_end(&walk);
    if (r == 0 && !last) {
        /* What cannot be written now stays in memory and is tried again later. */
        if (damaged)
            kq_segment_rebuild(segment, &recovery->log->map);
        else
            kq_segment_flush_indexes(segment, &recovery->log->map, true);
    }
    return r;
}

static int read_first_timestamp(struct kq_segment *segment, int fd)
{
    struct kq_batch_header header;
    struct kq_walk walk;
    if (segment->size == 0)
        return 0;
    kq_walk_begin(&walk, fd, segment->base, 0, segment->size, KQ_WALK_NEAR, true);
    int r = kq_walk_header(&walk, &header);
    kq_walk_end(&walk);
    if (r == 0)
        segment->first_timestamp = header.base_timestamp;
    return r < 0 && r != -EBADMSG ? r : 0;
}

/* Text entries that point behind the end would be taken for those of messages to come. */
static int cut_text_index(struct recovery *recovery, struct kq_segment *segment)
{
    pthread_mutex_t *lock = &recovery->log->map;
    uint8_t raw[KQ_INDEX_ENTRY_MAX];
    struct kq_text_entry entry;
    uint32_t number;
    int r = kq_index_load(&segment->texts, lock, true, NULL);
    uint32_t count = kq_index_count(&segment->texts);
    if (r < 0 || count == 0)
        return r;
    r = kq_index_get(&segment->texts, lock, count - 1, true, raw);
    if (r == 0)
        r = kq_text_entry_read(raw, segment->base, &entry);
    if (r == 0 && entry.position <= segment->size)
        return 0;
    if (r == -EBADMSG)
        return kq_index_truncate(&segment->texts, 0);
    if (r == 0)
        r = kq_index_search(&segment->texts, lock, kq_text_position_key, segment->size, true, raw,
                            &number);
    if (r == KQ_END)
        return kq_index_truncate(&segment->texts, 0);
    return r != 0 ? r : kq_index_truncate(&segment->texts, number + 1);
}

/* Checks SEGMENT where it is not TRUSTED. */
static int check_segment(struct recovery *recovery, struct kq_segment *segment, int64_t trusted)
{
    int fd;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    r = scan_file(recovery, segment, fd, trusted);
    if (r == 0)
        r = read_first_timestamp(segment, fd);
    kq_file_done(segment->file);
    return r < 0 ? r : cut_text_index(recovery, segment);
}

/* --- The whole log --- */

static int add_listed(struct recovery *recovery, const struct kq_listing *listing, size_t i)
{
    struct kq_log *log = recovery->log;
    const struct kq_listed *found = kq_listing_at(listing, i);
    struct kq_segment *segment;
    bool last = i + 1 == kq_listing_count(listing);
    int r = kq_segment_new(&log->place, found->base, log->config.index_interval_bytes, &segment);
    if (r < 0)
        return r;
    if (found->holes) {
        r = kq_segment_set_holes(segment, 1);
        log->layout = 1;
    }
    if (r < 0) {
        kq_segment_unref(segment);
        return r;
    }
    segment->sealed = !last;
    segment->size = kq_min64(found->size, KQ_SEGMENT_MAX);
    segment->next_offset =
        last ? found->base + KQ_SEGMENT_MAX : kq_listing_at(listing, i + 1)->base;
    if (found->size == 0 && !last)
        kq_diag(LOG_WARNING, "%s: segment %" PRId64 " is empty: its messages are lost", log->name,
                found->base);
    return kq_log_add_segment(log, segment);
}

static int check_all(struct recovery *recovery)
{
    struct kq_log *log = recovery->log;
    int r = 0;
    for (size_t i = 0; i < log->segment_count && r == 0; i++) {
        struct kq_segment *segment = log->segments[i];
        int64_t trusted =
            recovery->checkpoint->clean ? INT64_MAX : recovery->checkpoint->recovery_point;
        segment->name_synced = segment->next_offset <= trusted;
        if (!segment->sealed || (segment->next_offset > trusted && segment->size > 0))
            r = check_segment(recovery, segment, trusted);
        log->bytes += segment->size;
    }
    return r;
}

/* Offsets that were given are never given again, even where their messages are lost. */
static int skip_lost(struct recovery *recovery, int64_t end, int64_t floor)
{
    struct kq_log *log = recovery->log;
    if (log->segment_count > 0) {
        kq_diag(LOG_ERR,
                "%s: the files end at offset %" PRId64 " but the log had reached %" PRId64
                ": what is between is lost; going on at %" PRId64,
                log->name, end, floor, floor);
        kq_log_active(log)->sealed = true;
    } else {
        kq_diag(LOG_ERR, "%s: the files are missing: all messages before %" PRId64 " are lost",
                log->name, floor);
    }
    return kq_log_create_segment(log, floor);
}

/* The file behind a compacted segment is missing: nothing is appended to that one. */
static int begin_behind_compacted(struct kq_log *log, int64_t end)
{
    kq_log_active(log)->sealed = true;
    return kq_log_create_segment(log, end);
}

static int settle(struct recovery *recovery)
{
    struct kq_log *log = recovery->log;
    const struct kq_log_checkpoint *checkpoint = recovery->checkpoint;
    int64_t end = log->segment_count ? kq_log_active(log)->next_offset : 0;
    int64_t floor = kq_max64(checkpoint->recovery_point, checkpoint->log_start);
    log->text_behind = log->segment_count > 1 || end > 0;
    log->end = end;
    int r = 0;
    if (floor > end)
        r = skip_lost(recovery, end, floor);
    else if (log->segment_count == 0)
        r = kq_log_create_segment(log, 0);
    else if (kq_log_active(log)->holes)
        r = begin_behind_compacted(log, end);
    if (r < 0)
        return r;
    struct kq_segment *active = kq_log_active(log);
    log->end = active->next_offset;
    log->start = kq_max64(log->segments[0]->base, checkpoint->log_start);
    log->recovery_point =
        checkpoint->clean ? log->end : kq_min64(kq_max64(checkpoint->recovery_point, 0), log->end);
    if (log->recovery_point < log->end)
        log->appended = recovery->report->scanned_bytes;
    if (!log->text_behind)
        active->text_base = 0;
    return 0;
}

int kq_log_recover(struct kq_log *log, const struct kq_log_checkpoint *checkpoint,
                   struct kq_log_recovery *ret)
{
    struct kq_listing listing = {0};
    struct recovery recovery = {.log = log, .checkpoint = checkpoint, .report = ret};
    bool adopted = false;
    kq_autoclose int dirfd =
        kq_io_open(log->place.dirfd, log->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (dirfd < 0)
        return dirfd;
    recovery.dirfd = dirfd;
    int r = kq_listing_read(dirfd, log->name, &listing);
    for (size_t i = 0; r == 0 && i < kq_listing_count(&listing); i++)
        r = add_listed(&recovery, &listing, i);
    if (r == 0)
        r = check_all(&recovery);
    if (r == 0)
        r = settle(&recovery);
    if (r == 0) {
        log->aborted.bases = listing.aborted;
        listing.aborted = (struct kq_buf){0};
        r = kq_log_load_producers(log, dirfd, &listing, checkpoint, &adopted);
    }
    if (r == 0)
        r = kq_log_load_epochs(log, dirfd, adopted, checkpoint->epochs_begun);
    kq_listing_release(&listing);
    return r;
}
