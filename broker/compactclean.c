#include "broker/compactclean.h"

#include <inttypes.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/texthole.h"

#define HOLES_AT_ONCE 512

/* --- Reading batches --- */

struct reading {
    struct kq_cleaning *cleaning;
    struct kq_segment *segment;
    struct kq_walk walk;
    struct kq_batch_header header; /* of the batch at the position */
    const uint8_t *bytes;
};

static int begin_reading(struct reading *reading, struct kq_cleaning *cleaning,
                         struct kq_segment *segment, int64_t position)
{
    struct kq_published state;
    int fd;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    kq_segment_published(segment, &state);
    *reading = (struct reading){.cleaning = cleaning, .segment = segment};
    kq_walk_begin(&reading->walk, fd, segment->base, position, state.size, cleaning->work->io_bytes,
                  true);
    reading->walk.most = kq_min64(reading->walk.most, state.next_offset - 1);
    return 0;
}

static void end_reading(struct reading *reading)
{
    kq_walk_end(&reading->walk);
    kq_file_done(reading->segment->file);
}

/* The next batch, whole and good. KQ_END; -EBADMSG, reported. */
static int read_batch(struct reading *reading)
{
    const struct kq_compact_work *work = reading->cleaning->work;
    int r = kq_walk_header(&reading->walk, &reading->header);
    if (r == 0)
        r = work->pace(work->context, reading->header.size);
    if (r == 0)
        r = kq_walk_bytes(&reading->walk, &reading->header, &reading->bytes);
    if (r == 0)
        r = kq_verified_check(reading->segment->file->verified, reading->walk.position,
                              &reading->header, reading->bytes);
    if (r == 0)
        reading->cleaning->done->bytes_read += reading->header.size;
    return r == KQ_PARTIAL ? -EBADMSG : r;
}

static int blame(const struct reading *reading, int r)
{
    if (r == -EBADMSG || r == -EFBIG)
        kq_diag(LOG_ERR,
                "%s: segment %" PRId64 " cannot be compacted: the batch at byte %" PRId64
                " is damaged",
                reading->cleaning->log->name, reading->segment->base, reading->walk.position);
    return r == -EFBIG ? -EBADMSG : r;
}

/* --- The map --- */

/* KQ_END: the map is full; what begins with the message at hand is not in it. */
static int map_batch(struct kq_cleaning *cleaning, const struct reading *reading)
{
    const struct kq_compact_work *work = cleaning->work;
    struct kq_record_reader records = {0};
    struct kq_record record;
    int r = kq_record_reader_open(&records, reading->bytes, &reading->header,
                                  cleaning->filter.limit, &cleaning->filter.inflated);
    while (r == 0 && (r = kq_record_next(&records, &record)) == 0) {
        if (record.key && record.offset >= work->first_dirty &&
            !kq_compact_map_put(cleaning->map, record.key, (size_t)record.key_length,
                                record.offset)) {
            cleaning->map_end = record.offset;
            return KQ_END;
        }
    }
    if (r != KQ_END)
        return r;
    cleaning->map_end = kq_max64(cleaning->map_end, kq_batch_next_offset(&reading->header));
    return 0;
}

static int look_at_batch(struct kq_cleaning *cleaning, const struct reading *reading)
{
    const struct kq_batch_header *header = &reading->header;
    struct kq_compact_aborted aborted;
    enum kq_compact_marker marker;
    bool discard = false;
    int r;
    if (header->attributes & KQ_ATTRIBUTE_CONTROL) {
        r = kq_compact_marker_read(reading->bytes, header, &marker);
        return r < 0 ? r
                     : kq_compact_txns_marker(&cleaning->txns, header, marker, &discard, &aborted);
    }
    r = kq_compact_txns_batch(&cleaning->txns, header, &discard);
    return r < 0 || discard ? r : map_batch(cleaning, reading);
}

/* KQ_END: the map is full. */
static int map_segment(struct kq_cleaning *cleaning, struct kq_segment *segment)
{
    struct kq_found found = {0};
    struct reading reading;
    int64_t first_dirty = cleaning->work->first_dirty;
    int r = first_dirty > segment->base
                ? kq_segment_find(segment, &cleaning->log->map, first_dirty, true, &found)
                : 0;
    if (r == 0)
        r = begin_reading(&reading, cleaning, segment, found.position);
    if (r != 0)
        return r == KQ_END ? 0 : r; /* there is nothing behind that offset */
    bool full = false;
    while (!full && (r = read_batch(&reading)) == 0) {
        r = look_at_batch(cleaning, &reading);
        full = r == KQ_END;
        if (r < 0)
            break;
        kq_walk_step(&reading.walk, &reading.header);
    }
    r = blame(&reading, r);
    end_reading(&reading);
    return r < 0 ? r : full ? KQ_END : 0;
}

static int expect_aborted(struct kq_cleaning *cleaning)
{
    kq_compact_txns_release(&cleaning->txns);
    return kq_compact_txns_expect(&cleaning->txns,
                                  (const struct kq_compact_aborted *)(void *)cleaning->aborted.data,
                                  cleaning->aborted.length / sizeof(struct kq_compact_aborted));
}

int kq_compact_build_map(struct kq_cleaning *cleaning)
{
    const struct kq_compact_work *work = cleaning->work;
    struct kq_segment *segment = kq_log_segment_at(cleaning->log, work->first_dirty);
    cleaning->map_end = work->first_dirty;
    int r = expect_aborted(cleaning);
    while (segment && segment->base < work->until && r == 0) {
        r = map_segment(cleaning, segment);
        if (r == 0) /* behind the last batch there may be a gap */
            cleaning->map_end = kq_max64(cleaning->map_end, segment->next_offset);
        struct kq_segment *next = kq_log_segment_after(cleaning->log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
    kq_segment_unref(segment);
    cleaning->done->map_use =
        (double)kq_compact_map_count(cleaning->map) / (double)kq_compact_map_limit(cleaning->map);
    return r == KQ_END ? 0 : r;
}

/* --- Where text stood --- */

static int next_hole(struct kq_hole_feed *feed)
{
    struct kq_hole hole;
    int fd;
    feed->text = INT64_MAX;
    if (!feed->segment || feed->segment->holes_lost)
        return 0;
    if (feed->at == feed->bytes.length) {
        feed->bytes.length = feed->at = 0;
        int r = kq_buf_reserve(&feed->bytes, HOLES_AT_ONCE * KQ_HOLE_ENTRY);
        if (r == 0)
            r = kq_file_use(feed->segment->holes->file, 0, &fd);
        if (r < 0)
            return r;
        ssize_t n =
            kq_io_pread(fd, feed->bytes.data, HOLES_AT_ONCE * KQ_HOLE_ENTRY, feed->position);
        kq_file_done(feed->segment->holes->file);
        if (n < 0)
            return (int)n;
        feed->bytes.length = (size_t)n / KQ_HOLE_ENTRY * KQ_HOLE_ENTRY;
        feed->position += (int64_t)feed->bytes.length;
    }
    /* Of a damaged one the rest counts as none: what follows moves to the front of its hole. */
    if (feed->bytes.length == 0 ||
        kq_hole_read(feed->bytes.data + feed->at, feed->segment->base, &hole) < 0)
        return 0;
    feed->at += KQ_HOLE_ENTRY;
    feed->text = hole.text;
    feed->removed = hole.removed;
    return 0;
}

static int note_message(void *context, const struct kq_record *record, bool kept)
{
    struct kq_cleaning *cleaning = context;
    const struct kq_rendering *rendering =
        kq_rendering_at(cleaning->renderings, record->offset, NULL);
    int64_t length = cleaning->textless ? 0 : kq_text_length(rendering, record);
    int r = 0;
    while (r == 0 && cleaning->holes.text <= cleaning->packed) {
        cleaning->removed = cleaning->holes.removed;
        r = next_hole(&cleaning->holes);
    }
    int64_t place = cleaning->place + cleaning->packed + cleaning->removed;
    cleaning->packed += length;
    return r == 0 && kept ? kq_compact_writer_message(&cleaning->writer, place, length) : r;
}

/* What is stable has its place. Where nobody asked for text before, the log is read for it, which
 * counts as I/O of this run. */
static int text_base(struct kq_cleaning *cleaning, struct kq_segment *segment, int64_t *ret)
{
    const struct kq_compact_work *work = cleaning->work;
    struct kq_log *log = cleaning->log;
    int64_t before = atomic_load_explicit(&log->counted_bytes, memory_order_relaxed);
    int r = kq_log_text_base(log, segment, true, ret);
    int64_t counted = atomic_load_explicit(&log->counted_bytes, memory_order_relaxed) - before;
    int paced = counted > 0 ? work->pace(work->context, counted) : 0;
    return r > 0 ? -EAGAIN : r < 0 ? r : paced;
}

static int begin_text(struct kq_cleaning *cleaning, struct kq_segment *segment)
{
    int64_t base;
    int r = text_base(cleaning, segment, &base);
    if (r == 0 && segment->holes)
        r = kq_log_load_holes(cleaning->log, segment, true);
    if (r != 0)
        return r;
    cleaning->place = base - cleaning->writer.text_base;
    cleaning->packed = cleaning->removed = 0;
    cleaning->holes.segment = segment->holes ? segment : NULL;
    cleaning->holes.position = KQ_HOLES_HEADER;
    cleaning->holes.bytes.length = cleaning->holes.at = 0;
    return next_hole(&cleaning->holes);
}

/* --- A group --- */

static int clean_batch(struct kq_cleaning *cleaning, const struct reading *reading, bool last)
{
    const struct kq_compact_work *work = cleaning->work;
    struct kq_compact_filtered filtered;
    struct kq_batch_header header;
    bool keep_empty = last || kq_batch_next_offset(&reading->header) == work->until;
    int r = 0;
    cleaning->out.length = 0;
    cleaning->textless = false; /* as the text was counted: what was aborted has none */
    if (reading->header.attributes & KQ_ATTRIBUTE_TRANSACTIONAL)
        r = kq_aborted_has(cleaning->log, &reading->header, true, &cleaning->textless);
    if (r == 0)
        r = kq_compact_batch(&cleaning->filter, reading->bytes, &reading->header, keep_empty,
                             &cleaning->out, &filtered);
    if (r < 0)
        return r;
    struct kq_compact_done *done = cleaning->done;
    done->messages_read += filtered.messages_in;
    done->messages_kept += filtered.messages_out;
    done->keyless += filtered.keyless;
    cleaning->changed |= filtered.changed;
    if (filtered.aborted.first_offset >= 0)
        r = kq_compact_writer_aborted(&cleaning->writer, &filtered.aborted);
    if (r < 0 || filtered.length == 0)
        return r;
    r = kq_batch_header_read(cleaning->out.data, cleaning->out.length, &header);
    if (r == 0)
        r = work->pace(work->context, header.size);
    if (r == 0)
        r = kq_compact_writer_batch(&cleaning->writer, &header, cleaning->out.data);
    done->bytes_written += header.size;
    return r;
}

static int clean_segment(struct kq_cleaning *cleaning, struct kq_segment *segment, bool last)
{
    struct reading reading;
    int r = begin_text(cleaning, segment);
    if (r == 0)
        r = begin_reading(&reading, cleaning, segment, 0);
    if (r != 0)
        return r;
    while ((r = read_batch(&reading)) == 0) {
        bool ends = reading.walk.position + reading.header.size == reading.walk.end;
        r = clean_batch(cleaning, &reading, last && ends);
        if (r < 0)
            break;
        kq_walk_step(&reading.walk, &reading.header);
    }
    r = blame(&reading, r);
    end_reading(&reading);
    return r == KQ_END ? 0 : r;
}

/* Where the text of the group begins, and how far it is to that of the segment behind. */
static int find_text(struct kq_cleaning *cleaning, struct kq_segment *const *segments, size_t count,
                     int64_t *ret_base, int64_t *ret_span)
{
    struct kq_segment *next = kq_log_segment_after(cleaning->log, segments[count - 1]);
    int64_t end;
    int r = next ? text_base(cleaning, next, &end) : -ESTALE;
    kq_segment_unref(next);
    if (r == 0)
        r = text_base(cleaning, segments[0], ret_base);
    if (r == 0)
        *ret_span = end - *ret_base;
    return r;
}

/* The segment that takes the place of the group, in memory. */
static int make_segment(struct kq_cleaning *cleaning, int64_t end, int64_t span,
                        struct kq_segment **ret)
{
    const struct kq_compact_writer *writer = &cleaning->writer;
    struct kq_segment *segment;
    int r = kq_segment_new(&cleaning->log->place, writer->base, writer->interval, &segment);
    if (r < 0)
        return r;
    r = kq_segment_set_holes(segment, 0);
    if (r < 0) {
        kq_segment_unref(segment);
        return r;
    }
    /* Behind the last batch there may be a gap: offsets there are not in it. */
    kq_segment_publish(segment, &(struct kq_published){.next_offset = end,
                                                       .size = writer->size,
                                                       .last_base = -1,
                                                       .last_position = -1});
    kq_verified_set_tail(segment->file->verified, 0);
    segment->sealed = segment->name_synced = segment->text_header = true;
    segment->first_timestamp = writer->first_timestamp;
    segment->max_timestamp = writer->max_timestamp;
    segment->max_timestamp_offset = writer->max_offset;
    segment->text_base = writer->text_base;
    segment->text_span = kq_max64(span, writer->text);
    segment->text_length = writer->text;
    *ret = segment;
    return 0;
}

/* As old as what it was made from, where its messages have no time of their own. */
static void keep_time(struct kq_cleaning *cleaning, struct kq_segment *from)
{
    struct stat st;
    int fd;
    if (kq_file_use(from->file, 0, &fd) < 0)
        return;
    if (fstat(fd, &st) == 0) {
        struct timespec times[2] = {st.st_atim, st.st_mtim};
        futimens(cleaning->writer.files[KQ_COMPACT_LOG].fd, times);
    }
    kq_file_done(from->file);
}

static int put_in_place(struct kq_cleaning *cleaning, struct kq_segment *const *segments,
                        size_t count, int64_t span)
{
    struct kq_segment *segment = NULL;
    int64_t end = segments[count - 1]->next_offset;
    int r = kq_compact_writer_finish(&cleaning->writer, kq_max64(span, cleaning->writer.text));
    if (r == 0)
        r = make_segment(cleaning, end, span, &segment);
    if (r < 0)
        return r;
    keep_time(cleaning, segments[count - 1]);
    r = kq_log_replace_segments(cleaning->log, cleaning->dirfd, segments, count, segment,
                                &cleaning->done->text_changed);
    kq_segment_unref(segment);
    return r;
}

int kq_compact_clean_group(struct kq_cleaning *cleaning, struct kq_segment *const *segments,
                           size_t count)
{
    int64_t base = 0, span = 0;
    cleaning->changed = count > 1;
    int r = find_text(cleaning, segments, count, &base, &span);
    if (r < 0)
        return r;
    r = kq_compact_writer_open(&cleaning->writer, cleaning->dirfd, segments[0]->base, base,
                               segments[0]->interval);
    for (size_t i = 0; i < count && r == 0; i++)
        r = clean_segment(cleaning, segments[i], i + 1 == count);
    if (r == 0 && cleaning->changed)
        r = put_in_place(cleaning, segments, count, span);
    kq_compact_writer_release(&cleaning->writer);
    kq_compact_filter_release(&cleaning->filter);
    kq_buf_clear(&cleaning->out, 0);
    return r;
}

int kq_compact_begin_groups(struct kq_cleaning *cleaning)
{
    const struct kq_compact_work *work = cleaning->work;
    cleaning->filter = (struct kq_compact_filter){
        .map = cleaning->map,
        .map_end = cleaning->map_end,
        .now_ms = work->now_ms,
        .delete_retention_ms = work->delete_retention_ms,
        .limit = cleaning->filter.limit,
        .txns = &cleaning->txns,
        .producers = (const struct kq_compact_producer *)(void *)cleaning->producers.data,
        .producer_count = cleaning->producers.length / sizeof(struct kq_compact_producer),
        .message = note_message,
        .context = cleaning,
        .inflated = cleaning->filter.inflated,
        .records = cleaning->filter.records,
    };
    return expect_aborted(cleaning);
}
