/* Looking records up by their timestamps. */
#include "broker/log_internal.h"

/* The first record of the batch FOUND with a timestamp >= TIMESTAMP_MS and an offset >= FROM.
 * KQ_END: the batch has none. */
static int find_record(struct kq_log *log, struct kq_segment *segment, const struct kq_found *found,
                       int64_t timestamp_ms, int64_t from, bool may_block, struct kq_record *ret)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record_reader reader;
    struct kq_batch_header header;
    struct kq_walk walk;
    const uint8_t *bytes;
    int r = kq_log_load_batch(segment, found, may_block, &walk, &header, &bytes);
    if (r != 0)
        return r;
    r = kq_record_reader_open(&reader, bytes, &header, (size_t)log->max_batch_bytes, &scratch);
    while (r == 0 && (r = kq_record_next(&reader, ret)) == 0) {
        if (ret->timestamp >= timestamp_ms && ret->offset >= from)
            break;
    }
    kq_walk_end(&walk);
    return r;
}

static int find_time_in(struct kq_log *log, struct kq_segment *segment, int64_t timestamp_ms,
                        int64_t from, bool may_block, struct kq_record *ret)
{
    struct kq_found found;
    int64_t max;
    int r = kq_segment_max_timestamp(segment, &log->map, may_block, &max);
    if (r != 0 || max < timestamp_ms)
        return r != 0 ? r : KQ_END;
    while ((r = kq_segment_find_time(segment, &log->map, timestamp_ms, from, may_block, &found)) ==
           0) {
        r = find_record(log, segment, &found, timestamp_ms, from, may_block, ret);
        if (r != KQ_END)
            break;
        from = found.next_offset;
    }
    return r;
}

int kq_log_find_time(struct kq_log *log, int64_t timestamp_ms, bool may_block, int64_t *ret_offset,
                     int64_t *ret_timestamp)
{
    struct kq_record record;
    int64_t start = atomic_load_explicit(&log->start, memory_order_acquire);
    struct kq_segment *segment = kq_log_segment_at(log, start);
    int r = KQ_END;
    while (segment) {
        r = find_time_in(log, segment, timestamp_ms, start, may_block, &record);
        if (r != KQ_END)
            break;
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
    kq_segment_unref(segment);
    if (r == 0) {
        *ret_offset = record.offset;
        *ret_timestamp = record.timestamp;
    }
    return r;
}

/* --- The newest --- */

/* The largest timestamp of the records of the batch at HEADER from offset FROM on. */
static int newest_record(struct kq_log *log, const uint8_t *bytes,
                         const struct kq_batch_header *header, int64_t from, int64_t *max)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record_reader reader;
    struct kq_record record;
    int r = kq_record_reader_open(&reader, bytes, header, (size_t)log->max_batch_bytes, &scratch);
    while (r == 0 && (r = kq_record_next(&reader, &record)) == 0)
        if (record.offset >= from)
            *max = kq_max64(*max, record.timestamp);
    return r == KQ_END ? 0 : r;
}

static int walk_for_newest(struct kq_log *log, struct kq_walk *walk, int64_t from, int64_t *max)
{
    struct kq_batch_header header;
    const uint8_t *bytes;
    int r;
    for (; (r = kq_walk_header(walk, &header)) == 0; kq_walk_step(walk, &header)) {
        if (header.base_offset >= from) {
            *max = kq_max64(*max, header.max_timestamp);
        } else if (kq_batch_next_offset(&header) > from) {
            r = kq_walk_bytes(walk, &header, &bytes);
            if (r == 0)
                r = newest_record(log, bytes, &header, from, max);
            if (r != 0)
                return r;
        }
    }
    return r == KQ_END ? 0 : r;
}

/* The largest timestamp of SEGMENT from offset FROM on, batch by batch: where what its index says
 * may be of a record that was deleted. */
static int newest_from(struct kq_log *log, struct kq_segment *segment, int64_t from, bool may_block,
                       int64_t *max)
{
    struct kq_published state;
    struct kq_found found;
    struct kq_walk walk;
    int fd;
    int r = kq_segment_find(segment, &log->map, from, may_block, &found);
    if (r == KQ_END)
        return 0;
    if (r == 0)
        r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r;
    kq_segment_published(segment, &state);
    kq_walk_begin(&walk, fd, segment->base, found.position, state.size,
                  may_block ? KQ_WALK_FAR : KQ_WALK_NEAR, may_block);
    r = walk_for_newest(log, &walk, from, max);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    return r == KQ_PARTIAL ? -EBADMSG : r;
}

/* The largest timestamp there is. EXACT: the first segment, of which only a part may be retained,
 * is looked through. */
static int largest_timestamp(struct kq_log *log, bool exact, bool may_block, int64_t *ret)
{
    int64_t start = atomic_load_explicit(&log->start, memory_order_acquire);
    int64_t max = KQ_NO_TIME, here;
    struct kq_segment *segment = kq_log_segment_at(log, start);
    int r = 0;
    while (segment && r == 0) {
        here = KQ_NO_TIME;
        if (exact && segment->base < start)
            r = newest_from(log, segment, start, may_block, &here);
        else
            r = kq_segment_max_timestamp(segment, &log->map, may_block, &here);
        max = kq_max64(max, here);
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
    kq_segment_unref(segment);
    if (r == 0 && max == KQ_NO_TIME)
        r = KQ_END;
    if (r == 0)
        *ret = max;
    return r;
}

int kq_log_find_newest(struct kq_log *log, bool may_block, int64_t *ret_offset,
                       int64_t *ret_timestamp)
{
    int64_t max;
    int r = largest_timestamp(log, false, may_block, &max);
    if (r == 0)
        r = kq_log_find_time(log, max, may_block, ret_offset, ret_timestamp);
    if (r != KQ_END)
        return r;
    r = largest_timestamp(log, true, may_block, &max);
    return r != 0 ? r : kq_log_find_time(log, max, may_block, ret_offset, ret_timestamp);
}
