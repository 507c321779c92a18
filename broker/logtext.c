/* Reading the log by text position. */
#include <inttypes.h>

#include "broker/base/diag.h"
#include "broker/log_internal.h"

/* The text of the batch at POSITION in the text that SEGMENT has. */
static int packed_text_of(struct kq_log *log, struct kq_segment *segment, int64_t position,
                          bool may_block, int64_t *ret)
{
    struct kq_found found;
    int64_t base;
    *ret = 0;
    int r = kq_log_count_text(log, may_block);
    if (r == 0)
        r = kq_log_text_base(log, segment, may_block, &base);
    if (r == 0 && position > 0)
        r = kq_log_find_text(log, segment, false, position, may_block, &found, ret);
    return r == KQ_END ? -EBADMSG : r;
}

/* The text position of what begins at PACKED in the text that SEGMENT has. KQ_END: nothing does. */
static int place_packed(struct kq_log *log, struct kq_segment *segment, int64_t packed,
                        bool may_block, int64_t *ret)
{
    int64_t place;
    int r = kq_log_place_text(log, segment, packed, may_block, &place);
    if (r == 0 && segment->holes && packed >= segment->text_length)
        r = KQ_END;
    if (r == 0)
        *ret = segment->text_base + place;
    return r;
}

int kq_log_text_of(struct kq_log *log, struct kq_segment *segment, int64_t position, bool may_block,
                   int64_t *ret)
{
    int64_t packed, place;
    int r = packed_text_of(log, segment, position, may_block, &packed);
    if (r == 0)
        r = kq_log_place_text(log, segment, packed, may_block, &place);
    if (r == 0)
        *ret = segment->text_base + place;
    return r;
}

/* Text length of the messages before OFFSET in the batch FOUND. Of a damaged one nobody can tell:
 * reading fails at its first byte, and what lies behind it has its place. */
static int text_in_batch(struct kq_log *log, struct kq_segment *segment,
                         const struct kq_found *found, int64_t offset, bool may_block, int64_t *ret)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_batch_header header;
    struct kq_walk walk;
    const uint8_t *bytes;
    int r = kq_log_load_batch(segment, found, may_block, &walk, &header, &bytes);
    if (r == -EBADMSG) {
        kq_diag_limited(60000, LOG_ERR,
                        "%s: the batch at offset %" PRId64
                        " is damaged: where the text of offset %" PRId64
                        " begins in it cannot be told",
                        log->name, found->base_offset, offset);
        *ret = 0;
        return 0;
    }
    if (r == 0) {
        r = kq_log_measure(log, bytes, &header, header.base_offset, offset, &scratch, ret);
        kq_walk_end(&walk);
    }
    return r;
}

/* Passes the batch at WALK, or the damaged place there. 0: the next batch begins behind OFFSET;
 * KQ_PARTIAL: not yet; KQ_END; -ENOMEM; -errno. */
static int pass(struct kq_walk *walk, int64_t offset)
{
    struct kq_batch_header header;
    const uint8_t *bytes;
    int r = kq_walk_header(walk, &header);
    if (r == 0)
        r = kq_walk_bytes(walk, &header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, &header);
    if (r == 0) {
        kq_walk_step(walk, &header);
        return walk->least > offset ? 0 : KQ_PARTIAL;
    }
    if (r != -EBADMSG && r != KQ_PARTIAL)
        return r;
    r = kq_walk_resync(walk);
    if (r == 0)
        r = kq_walk_header(walk, &header);
    return r != 0 ? r : header.base_offset > offset ? 0 : KQ_PARTIAL;
}

/* Where the damaged place of SEGMENT begins in which OFFSET was. */
static int find_damage(struct kq_segment *segment, int64_t offset, bool may_block,
                       struct kq_found *ret)
{
    struct kq_published state;
    struct kq_walk walk;
    int fd;
    if (!may_block)
        return KQ_WOULD_BLOCK;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r != 0)
        return r;
    kq_segment_published(segment, &state);
    kq_walk_begin(&walk, fd, segment->base, 0, state.size, KQ_WALK_FAR, true);
    struct kq_found found;
    do {
        found = (struct kq_found){.position = walk.position, .base_offset = walk.least};
        r = pass(&walk, offset);
    } while (r == KQ_PARTIAL);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    if (r != 0 && r != KQ_END)
        return r;
    *ret = found;
    return 0;
}

/* The text position of the first message at or behind OFFSET. KQ_END: there is none. */
static int text_of_offset(struct kq_log *log, struct kq_segment *segment, int64_t offset,
                          bool may_block, int64_t *ret)
{
    struct kq_found found;
    int64_t text = 0, before = 0;
    if (offset <= segment->base && !segment->holes)
        return kq_log_text_base(log, segment, may_block, ret);
    int r = kq_segment_find(segment, &log->map, offset, may_block, &found);
    bool lost = r == -EBADMSG;
    if (lost)
        r = find_damage(segment, offset, may_block, &found);
    if (r == 0)
        r = packed_text_of(log, segment, found.position, may_block, &text);
    if (r == 0 && !lost && found.base_offset < offset)
        r = text_in_batch(log, segment, &found, offset, may_block, &before);
    return r == 0 ? place_packed(log, segment, text + before, may_block, ret) : r;
}

static int find_start(struct kq_log *log, int64_t start, bool may_block, int64_t *ret)
{
    struct kq_segment *segment = kq_log_segment_at(log, start);
    int r = KQ_END;
    while (segment && (r = text_of_offset(log, segment, start, may_block, ret)) == KQ_END) {
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
    kq_segment_unref(segment);
    return r;
}

/* Has retention moved the start since it was START? Files that were to be read may be gone then. */
static bool moved(struct kq_log *log, int64_t start)
{
    return atomic_load_explicit(&log->start, memory_order_acquire) != start;
}

static int text_start(struct kq_log *log, bool may_block, int64_t *ret)
{
    int64_t start = atomic_load_explicit(&log->start, memory_order_acquire);
    pthread_mutex_lock(&log->map);
    bool known = log->text_start_of == start;
    int64_t text = log->text_start;
    pthread_mutex_unlock(&log->map);
    if (!known) {
        if (start >= atomic_load_explicit(&log->end, memory_order_acquire)) {
            *ret = INT64_MAX;
            return 0;
        }
        int r = find_start(log, start, may_block, &text);
        if (r == KQ_END) {
            *ret = INT64_MAX;
            return 0;
        }
        if (r != 0)
            return r;
        pthread_mutex_lock(&log->map);
        log->text_start_of = start;
        log->text_start = text;
        pthread_mutex_unlock(&log->map);
    }
    *ret = text;
    return 0;
}

int kq_log_text_bounds(struct kq_log *log, bool may_block, struct kq_log_text_bounds *ret)
{
    int64_t start, log_start;
    int r;
    do {
        log_start = atomic_load_explicit(&log->start, memory_order_acquire);
        r = kq_log_count_text(log, may_block);
        if (r == 0)
            r = text_start(log, may_block, &start);
    } while (r < 0 && moved(log, log_start));
    if (r != 0)
        return r;
    r = kq_log_layout_bounds(log, may_block, ret);
    if (r != 0)
        return r;
    ret->end = atomic_load_explicit(&log->text_end, memory_order_acquire);
    ret->start = kq_min64(start, ret->end);
    return 0;
}

int kq_log_text_of_offset(struct kq_log *log, int64_t offset, bool may_block, int64_t *ret)
{
    int64_t log_start, end, text;
    int r;
    do {
        log_start = atomic_load_explicit(&log->start, memory_order_acquire);
        end = atomic_load_explicit(&log->end, memory_order_acquire);
        if (offset < log_start || offset > end)
            return offset < log_start ? KQ_GONE : KQ_BEYOND;
        r = kq_log_count_text(log, may_block);
        /* Whatever is appended from here on begins there or behind it. */
        text = atomic_load_explicit(&log->text_end, memory_order_acquire);
        if (r == 0 && offset < end)
            r = find_start(log, offset, may_block, &text);
    } while (r < 0 && moved(log, log_start));
    if (r == 0 || r == KQ_END)
        *ret = text;
    return r == KQ_END ? 0 : r;
}

/* Segment number AT of the list, referenced; NULL behind the last. */
static struct kq_segment *segment_number(struct kq_log *log, size_t at)
{
    struct kq_segment *segment = NULL;
    pthread_mutex_lock(&log->map);
    if (at < log->segment_count) {
        segment = log->segments[at];
        kq_segment_ref(segment);
    }
    pthread_mutex_unlock(&log->map);
    return segment;
}

/* The last segment whose text begins at or before TEXT, referenced. Retention may shift the list
 * meanwhile: the result is then too young, which the caller sees, or still right. */
static int segment_of_text(struct kq_log *log, int64_t text, bool may_block,
                           struct kq_segment **ret)
{
    pthread_mutex_lock(&log->map);
    size_t low = 0, high = log->segment_count;
    pthread_mutex_unlock(&log->map);
    struct kq_segment *best = kq_log_first_segment(log);
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        struct kq_segment *segment = segment_number(log, middle);
        int64_t base = INT64_MAX;
        int r = segment ? kq_log_text_base(log, segment, may_block, &base) : 0;
        if (r != 0 && r != KQ_END) {
            kq_segment_unref(segment);
            kq_segment_unref(best);
            return r;
        }
        if (base <= text) {
            low = middle;
            kq_segment_unref(best);
            best = segment;
        } else {
            high = middle;
            kq_segment_unref(segment);
        }
    }
    *ret = best;
    return 0;
}

static int check_text(struct kq_log *log, int64_t text, bool may_block)
{
    struct kq_log_text_bounds bounds;
    int r = kq_log_text_bounds(log, may_block, &bounds);
    if (r != 0)
        return r;
    return text < bounds.start  ? KQ_GONE
           : text < bounds.end  ? 0
           : text == bounds.end ? KQ_END
                                : KQ_BEYOND;
}

static int read_text(struct kq_log *log, int64_t text, uint32_t max_bytes, bool may_block,
                     struct kq_extent *ret)
{
    struct kq_segment *segment;
    struct kq_found found;
    int64_t base = 0, packed = 0, at = 0;
    int r = check_text(log, text, may_block);
    if (r == 0)
        r = segment_of_text(log, text, may_block, &segment);
    if (r != 0)
        return r;
    do {
        r = kq_log_text_base(log, segment, may_block, &base);
        if (r == 0)
            r = kq_log_pack_text(log, segment, kq_max64(text - base, 0), may_block, &packed);
        if (r == 0)
            r = kq_log_find_text(log, segment, true, packed, may_block, &found, &at);
        if (r != KQ_END)
            break;
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    } while (segment);
    /* Text that there should be but no batch has: it was lost, up to what was found. */
    if (r == KQ_END || (r == 0 && (base > text || at > packed))) {
        kq_diag_limited(60000, LOG_ERR,
                        "%s: the text at position %" PRId64
                        " is missing: reading there fails, what is behind is served",
                        log->name, text);
        r = -EIO;
    }
    if (r == 0)
        r = kq_log_make_extent(segment, &found, max_bytes, may_block, ret);
    if (r == 0)
        ret->text = text - (packed - at);
    kq_segment_unref(segment);
    return r;
}

int kq_log_read_text(struct kq_log *log, int64_t text, uint32_t max_bytes, bool may_block,
                     struct kq_extent *ret)
{
    struct kq_extent extent;
    int r;
    for (;;) {
        int64_t start = atomic_load_explicit(&log->start, memory_order_acquire);
        r = read_text(log, text, max_bytes, may_block, &extent);
        if (r > 0 || !moved(log, start))
            break;
        /* What was found may not be what follows TEXT. */
        if (r == 0)
            kq_extent_unref(&extent);
    }
    if (r == 0)
        *ret = extent;
    return r;
}

/* As kq_log_next_text, of what is retained. */
static int next_text(struct kq_log *log, int64_t text, bool may_block, int64_t *ret)
{
    struct kq_segment *segment;
    int64_t base = 0, packed = 0, place = 0;
    int r = segment_of_text(log, text, may_block, &segment);
    if (r != 0)
        return r;
    do {
        r = kq_log_text_base(log, segment, may_block, &base);
        text = kq_max64(text, base);
        if (r == 0)
            r = kq_log_pack_text(log, segment, text - base, may_block, &packed);
        if (r == KQ_HOLE) {
            r = kq_log_place_text(log, segment, packed, may_block, &place);
            text = base + place;
            r = r == 0 && packed >= segment->text_length ? KQ_END : r;
        }
        if (r != KQ_END)
            break;
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    } while (segment);
    kq_segment_unref(segment);
    if (r == 0 || r == KQ_END)
        *ret = text;
    return r == KQ_END ? 0 : r;
}

int kq_log_next_text(struct kq_log *log, int64_t text, bool may_block, int64_t *ret)
{
    int r;
    int64_t start;
    do {
        start = atomic_load_explicit(&log->start, memory_order_acquire);
        r = check_text(log, text, may_block);
        if (r == 0)
            r = next_text(log, text, may_block, ret);
    } while (r < 0 && moved(log, start));
    if (r == KQ_END)
        *ret = text;
    return r == KQ_END ? 0 : r;
}

int kq_log_next_range(struct kq_log *log, int64_t from, bool may_block, struct kq_log_range *ret)
{
    from = kq_max64(from, atomic_load_explicit(&log->start, memory_order_acquire));
    struct kq_segment *segment = kq_log_segment_at(log, from);
    struct kq_segment *next = kq_log_segment_after(log, segment);
    while (next && (segment->base < from || segment->size == 0)) {
        kq_segment_unref(segment);
        segment = next;
        next = kq_log_segment_after(log, segment);
    }
    struct kq_log_range range = {.base_offset = segment->base};
    int r = next ? kq_log_count_text(log, may_block) : KQ_END;
    if (r == 0)
        r = kq_log_text_base(log, segment, may_block, &range.text_start);
    if (r == 0)
        r = kq_log_text_base(log, next, may_block, &range.text_end);
    if (r == 0 && segment->holes)
        r = kq_log_load_holes(log, segment, may_block);
    if (r == 0)
        r = kq_segment_max_timestamp(segment, &log->map, may_block, &range.max_timestamp);
    if (r == 0) {
        range.next_offset = segment->next_offset;
        range.layout = segment->layout;
        range.text_length =
            segment->holes ? segment->text_length : range.text_end - range.text_start;
        *ret = range;
    }
    kq_segment_unref(segment);
    kq_segment_unref(next);
    return r;
}
