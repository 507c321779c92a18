/* Counting text: where the bytes of messages that were appended without a length belong.
 *
 * The cursor (log->counted_*) moves from the newest segment whose text position is recorded to the
 * end; a log that was just opened has none yet. Who moves it holds log->counting. */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/log_internal.h"
#include "broker/texthole.h"
#include "broker/textindex.h"

#define NEAR_BYTES (256 * 1024) /* so much is counted by a caller who may not block, if cached */
#define ROUNDS 8                /* of catching up with writers before they are held up */

/* Nobody knows yet which text follows from here on. */
static int64_t text_limit(struct kq_log *log)
{
    int64_t unstable = atomic_load_explicit(&log->unstable, memory_order_acquire);
    if (kq_likely(unstable == INT64_MAX))
        return unstable;
    unstable = kq_max64(unstable, atomic_load_explicit(&log->start, memory_order_acquire));
    return kq_max64(unstable, atomic_load(&log->deleting));
}

int kq_log_measure(struct kq_log *log, const uint8_t *bytes, const struct kq_batch_header *header,
                   int64_t from, int64_t to, struct kq_buf *scratch, int64_t *ret)
{
    bool aborted = false;
    if (kq_unlikely(header->attributes & KQ_ATTRIBUTE_TRANSACTIONAL)) {
        int found = kq_aborted_has(log, header, true, &aborted);
        if (found < 0)
            return found;
    }
    if (aborted) {
        *ret = 0;
        return 0;
    }
    pthread_rwlock_rdlock(&log->renderings_lock);
    int r = kq_text_length_of_batch(log->renderings, bytes, header, from, to,
                                    (size_t)log->max_batch_bytes, scratch, ret);
    pthread_rwlock_unlock(&log->renderings_lock);
    if (r == -EBADMSG || r == -EFBIG || r == -EINVAL) {
        kq_diag_limited(60000, LOG_ERR, "%s: the batch at offset %" PRId64 " cannot be read: %s",
                        log->name, header->base_offset, strerror(-r));
        *ret = 0;
        r = 0;
    }
    return r;
}

/* Of a segment that was compacted another file says it too. 0; KQ_END; KQ_WOULD_BLOCK; -errno. */
static int load_from_holes(struct kq_segment *segment, bool may_block)
{
    struct kq_holes holes;
    if (!segment->holes)
        return KQ_END;
    int r = kq_segment_read_holes(segment, may_block, &holes);
    if (r == 0)
        atomic_store_explicit(&segment->text_base, holes.text_base, memory_order_release);
    return r == -EBADMSG ? KQ_END : r;
}

/* Reads the text position that SEGMENT's own files record, if it is not known.
 * 0; KQ_END: they record none. */
static int load_header(struct kq_segment *segment, pthread_mutex_t *lock, bool may_block)
{
    uint8_t header[KQ_TEXT_HEADER];
    int64_t base;
    int fd;
    if (atomic_load_explicit(&segment->text_base, memory_order_acquire) >= 0)
        return 0;
    pthread_mutex_lock(lock);
    struct kq_file *file = segment->texts.file;
    kq_file_ref(file);
    pthread_mutex_unlock(lock);
    int r = kq_file_use(file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r == 0) {
        ssize_t n = kq_io_pread(fd, header, sizeof(header), 0);
        kq_file_done(file);
        r = n < 0 ? (int)n : n < KQ_TEXT_HEADER ? KQ_END : 0;
    }
    kq_file_unref(file);
    if (r == -ENOENT || r == -EINVAL ||
        (r == 0 && kq_text_header_read(header, segment->base, &base) < 0))
        r = KQ_END;
    if (r == KQ_END)
        return load_from_holes(segment, may_block);
    if (r == 0) {
        segment->text_header = true;
        atomic_store_explicit(&segment->text_base, base, memory_order_release);
    }
    return r;
}

/* --- The cursor --- */

/* Sets the cursor to the last entry of SEGMENT, whose text position is known, that fits the log. */
static int set_cursor(struct kq_log *log, struct kq_segment *segment)
{
    uint8_t raw[KQ_INDEX_ENTRY_MAX];
    struct kq_text_entry entry = {0};
    int64_t size;
    int r = kq_index_load(&segment->texts, &log->map, true, &size);
    if (r < 0)
        return r;
    uint32_t count = kq_index_count(&segment->texts);
    if (count > 0) {
        r = kq_index_get(&segment->texts, &log->map, count - 1, true, raw);
        if (r == 0 &&
            (kq_text_entry_read(raw, segment->base, &entry) < 0 || entry.position > segment->size))
            r = -EBADMSG;
        if (r < 0 && r != -EBADMSG)
            return r;
        if (r < 0) {
            kq_diag(LOG_WARNING,
                    "%s: the text index of segment %" PRId64 " is damaged: counting "
                    "its text anew",
                    log->name, segment->base);
            entry = (struct kq_text_entry){0};
            r = kq_index_truncate(&segment->texts, 0);
            if (r < 0)
                return r;
        }
    }
    kq_segment_unref(log->counted_in);
    kq_segment_ref(segment);
    log->counted_in = segment;
    log->counted_position = log->counted_entry = entry.position;
    log->counted_text = entry.text;
    return 0;
}

/* The segment before SEGMENT, referenced; NULL before the first. */
static struct kq_segment *segment_before(struct kq_log *log, const struct kq_segment *segment)
{
    struct kq_segment *before = kq_log_segment_at(log, segment->base - 1);
    if (before->base < segment->base)
        return before;
    kq_segment_unref(before);
    return NULL;
}

/* Finds where to begin: the newest segment that records its text position. */
static int find_cursor(struct kq_log *log)
{
    struct kq_segment *segment = kq_log_segment_at(log, INT64_MAX);
    int r;
    while ((r = load_header(segment, &log->map, true)) == KQ_END) {
        struct kq_segment *before = segment_before(log, segment);
        if (!before) {
            if (segment->base > 0)
                kq_diag(LOG_WARNING,
                        "%s: no text position is recorded: that of offset %" PRId64 " is now 0",
                        log->name, segment->base);
            r = kq_index_truncate(&segment->texts, 0);
            if (r == 0)
                atomic_store_explicit(&segment->text_base, 0, memory_order_release);
            break;
        }
        kq_segment_unref(segment);
        segment = before;
    }
    if (r == 0)
        r = set_cursor(log, segment);
    kq_segment_unref(segment);
    return r;
}

static void add_entry(struct kq_log *log, struct kq_segment *segment, int64_t offset)
{
    uint8_t raw[KQ_TEXT_ENTRY];
    struct kq_text_entry entry = {
        .text = log->counted_text,
        .position = (uint32_t)log->counted_position,
        .offset = (uint32_t)(offset - segment->base),
    };
    if (log->counted_position - log->counted_entry <= segment->interval ||
        entry.text > KQ_TEXT_POSITION_MAX)
        return;
    if (kq_index_is_full_tail(&segment->texts) && !segment->text_header &&
        kq_segment_write_text_header(segment, &log->map) < 0)
        return;
    kq_text_entry_write(raw, segment->base, &entry);
    if (kq_index_append(&segment->texts, &log->map, raw) == 0)
        log->counted_entry = log->counted_position;
}

/* Moves the cursor over one batch, or over a damaged place, which counts as empty; what follows it
 * gets an entry at once, so that its text can be placed. KQ_END at the end of what WALK covers;
 * KQ_BEYOND before what is not stable. */
static int count_batch(struct kq_log *log, struct kq_walk *walk, struct kq_buf *scratch)
{
    struct kq_batch_header header;
    const uint8_t *bytes;
    int64_t length;
    int r = kq_walk_header(walk, &header);
    if (r == 0 && header.base_offset >= text_limit(log))
        return KQ_BEYOND;
    if (r == 0)
        r = kq_walk_bytes(walk, &header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, &header);
    if (r == -EBADMSG || r == KQ_PARTIAL) {
        if (!walk->may_block)
            return KQ_WOULD_BLOCK;
        r = kq_walk_resync(walk);
        log->counted_position = r == KQ_END ? walk->end : walk->position;
        log->counted_entry = log->counted_position - log->counted_in->interval - 1;
        return r;
    }
    if (r != 0)
        return r;
    add_entry(log, log->counted_in, header.base_offset);
    r = kq_log_measure(log, bytes, &header, header.base_offset, INT64_MAX, scratch, &length);
    if (r < 0)
        return r;
    kq_walk_step(walk, &header);
    log->counted_position = walk->position;
    log->counted_text += length;
    return 0;
}

/* Counts to the published end of the cursor's segment, or as count_batch says. */
static int count_segment(struct kq_log *log, bool may_block)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_segment *segment = log->counted_in;
    struct kq_published state;
    struct kq_walk walk;
    int64_t from = log->counted_position;
    int fd;
    kq_segment_published(segment, &state);
    if (from >= state.size)
        return 0;
    int r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r;
    kq_walk_begin(&walk, fd, segment->base, from, state.size,
                  may_block ? KQ_WALK_FAR : KQ_WALK_NEAR, may_block);
    while ((r = count_batch(log, &walk, &scratch)) == 0)
        ;
    atomic_fetch_add_explicit(&log->counted_bytes, walk.position - from, memory_order_relaxed);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    return r == KQ_END ? 0 : r;
}

/* The cursor's segment is sealed and counted: on to the next. */
static int next_segment(struct kq_log *log, struct kq_segment *next)
{
    struct kq_segment *segment = log->counted_in;
    struct kq_holes holes = {.span = log->counted_text};
    int r = kq_segment_flush_text(segment, &log->map);
    if (r == 0 && segment->holes)
        r = kq_segment_read_holes(segment, true, &holes);
    if (r < 0 && r != -EBADMSG)
        return r;
    int64_t base = segment->text_base + holes.span;
    r = load_header(next, &log->map, true);
    if (r < 0)
        return r;
    if (r == KQ_END) {
        r = kq_index_truncate(&next->texts, 0);
        if (r < 0)
            return r;
        atomic_store_explicit(&next->text_base, base, memory_order_release);
        r = kq_segment_write_text_header(next, &log->map);
        if (r < 0)
            return r;
    } else if (next->text_base != base) {
        kq_diag(LOG_WARNING,
                "%s: the text before segment %" PRId64 " ends at %" PRId64
                " but is recorded to end at %" PRId64 ", which holds",
                log->name, next->base, base, (int64_t)next->text_base);
    }
    return set_cursor(log, next);
}

/* One round: counts what is published now. */
static int count_round(struct kq_log *log, bool may_block)
{
    for (;;) {
        /* Whoever sees a next segment sees all that this one will ever have. */
        struct kq_segment *next = kq_log_segment_after(log, log->counted_in);
        int r = next && !may_block ? KQ_WOULD_BLOCK : count_segment(log, may_block);
        if (r == 0 && next)
            r = next_segment(log, next);
        kq_segment_unref(next);
        if (r != 0 || !next)
            return r;
    }
}

/* The last round, with writers held up: text is no longer behind. */
static int count_last(struct kq_log *log, bool may_block)
{
    pthread_mutex_lock(&log->lock);
    int r = count_round(log, may_block);
    if (r == 0) {
        struct kq_segment *segment = log->counted_in;
        segment->since_index =
            kq_max64(segment->since_index, log->counted_position - log->counted_entry);
        atomic_store_explicit(&log->text_end, segment->text_base + log->counted_text,
                              memory_order_release);
        atomic_store_explicit(&log->text_behind, false, memory_order_release);
        log->counted_in = NULL;
        kq_segment_unref(segment);
    }
    pthread_mutex_unlock(&log->lock);
    return r;
}

static int64_t uncounted_bytes(struct kq_log *log)
{
    return atomic_load(&log->counted_in->size) - log->counted_position;
}

/* Retention may have taken the segment in which the cursor stood. */
static void forget_removed(struct kq_log *log)
{
    struct kq_segment *first = kq_log_first_segment(log);
    if (log->counted_in && log->counted_in->base < first->base) {
        kq_segment_unref(log->counted_in);
        log->counted_in = NULL;
    }
    kq_segment_unref(first);
}

/* The text ends where a transaction is open, until it is decided. */
static int end_before(struct kq_log *log, int64_t limit)
{
    atomic_store_explicit(&log->text_end, log->counted_in->text_base + log->counted_text,
                          memory_order_release);
    atomic_store_explicit(&log->text_held, limit, memory_order_release);
    return 0;
}

static bool is_held(struct kq_log *log)
{
    int64_t limit = text_limit(log);
    return limit != INT64_MAX &&
           limit == atomic_load_explicit(&log->text_held, memory_order_acquire);
}

static int count_all(struct kq_log *log, bool may_block)
{
    if (!atomic_load_explicit(&log->text_behind, memory_order_acquire) || is_held(log))
        return 0;
    int64_t limit = text_limit(log);
    forget_removed(log);
    int r = kq_aborted_load(log, may_block); /* it must not be read with `lock` held */
    if (r == 0 && !log->counted_in)
        r = may_block ? find_cursor(log) : KQ_WOULD_BLOCK;
    if (r == 0 && !may_block && uncounted_bytes(log) > NEAR_BYTES)
        r = KQ_WOULD_BLOCK;
    for (int round = 0; r == 0 && round < ROUNDS; round++) {
        r = count_round(log, may_block);
        if (r == 0 && uncounted_bytes(log) <= NEAR_BYTES)
            break;
    }
    if (r == 0)
        r = count_last(log, may_block);
    return r == KQ_BEYOND ? end_before(log, limit) : r;
}

int kq_log_count_text(struct kq_log *log, bool may_block)
{
    if (kq_likely(!atomic_load_explicit(&log->text_behind, memory_order_acquire)) || is_held(log))
        return 0;
    if (may_block)
        pthread_mutex_lock(&log->counting);
    else if (pthread_mutex_trylock(&log->counting) != 0)
        return KQ_WOULD_BLOCK;
    int r = count_all(log, may_block);
    pthread_mutex_unlock(&log->counting);
    return r;
}

/* --- Text positions of segments --- */

/* With counting held: the recorded position of SEGMENT is lost; goes back from the next one's. */
static int restore_base(struct kq_log *log, struct kq_segment *segment)
{
    int r = KQ_END;
    struct kq_segment *known = kq_log_segment_after(log, segment);
    while (known && (r = load_header(known, &log->map, true)) == KQ_END) {
        struct kq_segment *next = kq_log_segment_after(log, known);
        kq_segment_unref(known);
        known = next;
    }
    while (known && r == 0 && known->base > segment->base) {
        struct kq_segment *before = segment_before(log, known);
        if (before && before->text_base < 0)
            r = kq_log_rebuild_text(log, before, -1, known->text_base);
        kq_segment_unref(known);
        known = before;
    }
    kq_segment_unref(known);
    return r == KQ_END ? -EBADMSG : r;
}

int kq_log_text_base(struct kq_log *log, struct kq_segment *segment, bool may_block, int64_t *ret)
{
    int r = load_header(segment, &log->map, may_block);
    if (r == KQ_END) {
        r = kq_log_count_text(log, may_block);
        if (r == 0 && segment->text_base < 0 && segment->base > text_limit(log))
            return KQ_END;
        if (r == 0 && segment->text_base < 0) {
            if (!may_block)
                return KQ_WOULD_BLOCK;
            pthread_mutex_lock(&log->counting);
            if (segment->text_base < 0)
                r = restore_base(log, segment);
            pthread_mutex_unlock(&log->counting);
        }
    }
    if (r == 0)
        *ret = atomic_load_explicit(&segment->text_base, memory_order_acquire);
    return r;
}

int kq_log_fix_text(struct kq_log *log, struct kq_segment *segment)
{
    int64_t base;
    int fd;
    int r = kq_log_text_base(log, segment, true, &base);
    if (r < 0)
        return r;
    pthread_mutex_lock(&log->counting);
    if (!segment->text_header)
        r = kq_segment_write_text_header(segment, &log->map);
    if (r == 0)
        r = kq_file_use(segment->texts.file, 0, &fd);
    if (r == 0) {
        r = kq_io_datasync(fd);
        kq_file_done(segment->texts.file);
    }
    pthread_mutex_unlock(&log->counting);
    if (r < 0)
        return r;
    kq_autoclose int dirfd =
        kq_io_open(log->place.dirfd, log->place.directory, O_RDONLY | O_DIRECTORY, 0);
    return dirfd < 0 ? dirfd : kq_io_sync_dir(dirfd);
}
