#include "broker/replay.h"

#include "broker/base/endian.h"
#include "broker/compacttxn.h"

/* A marker's value: version i16, coordinator epoch i32. */
static int32_t read_coordinator_epoch(const uint8_t *bytes, const struct kq_batch_header *header)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record_reader reader;
    struct kq_record record;
    if (kq_record_reader_open(&reader, bytes, header, 1 << 16, &scratch) != 0 ||
        kq_record_next(&reader, &record) != 0 || record.value_length < 6)
        return -1;
    return (int32_t)kq_load_be32(record.value + 2);
}

static int take_marker(struct kq_replay *replay, struct kq_walk *walk,
                       const struct kq_batch_header *header)
{
    enum kq_compact_marker marker;
    struct kq_producer_end end;
    const uint8_t *bytes;
    int r = kq_walk_bytes(walk, header, &bytes);
    if (r == 0)
        r = kq_compact_marker_read(bytes, header, &marker);
    if (r != 0)
        return r == -EBADMSG ? 0 : r; /* whoever reads it finds it damaged */
    if (marker != KQ_MARKER_ABORT && marker != KQ_MARKER_COMMIT)
        return 0;
    r = kq_producers_note_end(replay->producers, header, read_coordinator_epoch(bytes, header),
                              replay->now_ms, &end);
    if (r < 0 || end.first_offset < 0 || marker == KQ_MARKER_COMMIT)
        return r;
    struct kq_compact_aborted aborted = {
        .producer_id = header->producer_id,
        .first_offset = end.first_offset,
        .last_offset = kq_batch_next_offset(header) - 1,
        .last_stable = end.last_stable,
    };
    return kq_buf_append(&replay->aborted, &aborted, sizeof(aborted));
}

static int take(struct kq_replay *replay, struct kq_walk *walk,
                const struct kq_batch_header *header)
{
    if (header->producer_id < 0 || header->producer_epoch < 0 ||
        kq_batch_next_offset(header) <= replay->from)
        return 0;
    replay->met = true;
    if (header->attributes & KQ_ATTRIBUTE_CONTROL)
        return take_marker(replay, walk, header);
    return kq_producers_note(replay->producers, header, replay->now_ms);
}

static int walk_batches(struct kq_replay *replay, struct kq_walk *walk)
{
    struct kq_batch_header header;
    int r;
    while ((r = kq_walk_header(walk, &header)) != KQ_END) {
        if (r == -EBADMSG || r == KQ_PARTIAL) {
            r = kq_walk_resync(walk);
            if (r != 0)
                return r == KQ_END ? 0 : r;
            continue;
        }
        if (r != 0)
            return r;
        if (header.base_offset >= replay->to)
            return 0;
        r = take(replay, walk, &header);
        if (r < 0)
            return r;
        kq_walk_step(walk, &header);
    }
    return 0;
}

static int replay_segment(struct kq_log *log, struct kq_segment *segment, struct kq_replay *replay)
{
    struct kq_found found = {0};
    struct kq_published state;
    struct kq_walk walk;
    int fd;
    if (replay->from > segment->base) {
        int r = kq_segment_find(segment, &log->map, replay->from, true, &found);
        if (r == KQ_END)
            return 0;
        if (r < 0 && r != -EBADMSG)
            return r;
    }
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    kq_segment_published(segment, &state);
    kq_walk_begin(&walk, fd, segment->base, found.position, state.size, KQ_WALK_NEAR, true);
    r = walk_batches(replay, &walk);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    return r;
}

int kq_log_replay(struct kq_log *log, struct kq_replay *replay)
{
    struct kq_segment *segment = kq_log_segment_at(log, replay->from);
    int r = 0;
    while (segment && segment->base < replay->to && r == 0) {
        r = replay_segment(log, segment, replay);
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
    kq_segment_unref(segment);
    return r;
}
