/* Reading the log by text position. */
#include <inttypes.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/log_internal.h"
#include "broker/textindex.h"

#define FAR_BYTES (4 * 1024 * 1024) /* further from an entry than this: entries are missing */

/* --- A walk over text --- */

struct text_walk {
    struct kq_log *log;
    struct kq_segment *segment;
    struct kq_walk walk;
    struct kq_buf scratch;
    struct kq_batch_header header; /* of the batch at the position */
    int64_t text;                  /* where its text begins, relative to the segment */
    int64_t length;                /* of its text */
};

/* Is there a batch, or the end, where ENTRY points to? 0, or why not. */
static int verify(const struct text_walk *at, const struct kq_text_entry *entry, bool may_block)
{
    struct kq_batch_header header;
    struct kq_walk walk;
    if (entry->position == at->walk.end)
        return 0;
    if (entry->position > at->walk.end)
        return -EBADMSG;
    kq_walk_begin(&walk, at->walk.fd, at->segment->base, entry->position, at->walk.end,
                  KQ_WALK_NEAR, may_block);
    int r = kq_walk_header(&walk, &header);
    kq_walk_end(&walk);
    if (r == 0 && header.base_offset != at->segment->base + entry->offset)
        r = -EBADMSG;
    return r > 0 && r != KQ_WOULD_BLOCK ? -EBADMSG : r;
}

/* Puts AT at the last entry whose KEY is <= WANTED and that fits the log.
 * -EBADMSG: the entry there is damaged. */
static int seek_entry(struct text_walk *at, kq_index_key *key, int64_t wanted, bool may_block)
{
    uint8_t raw[KQ_INDEX_ENTRY_MAX];
    struct kq_text_entry entry = {0};
    int r = kq_index_search(&at->segment->texts, &at->log->map, key, wanted, may_block, raw, NULL);
    if (r == 0)
        r = kq_text_entry_read(raw, at->segment->base, &entry);
    if (r == 0)
        r = verify(at, &entry, may_block);
    if (r == KQ_END)
        r = 0;
    if (r == -ENOENT || r == -EINVAL)
        r = -EBADMSG;
    if (r == 0) {
        at->walk.position = entry.position;
        at->text = entry.text;
    }
    return r;
}

/* Reads the batch at the position. KQ_END; KQ_WOULD_BLOCK; -errno. A damaged place is passed over,
 * as when its text was counted. */
static int measure(struct text_walk *at)
{
    const uint8_t *bytes;
    int r = kq_walk_header(&at->walk, &at->header);
    if (r == -EBADMSG || r == KQ_PARTIAL) {
        if (!at->walk.may_block)
            return KQ_WOULD_BLOCK;
        r = kq_walk_resync(&at->walk);
        if (r == 0)
            r = kq_walk_header(&at->walk, &at->header);
    }
    if (r == 0)
        r = kq_walk_bytes(&at->walk, &at->header, &bytes);
    if (r == 0)
        r = kq_log_measure(at->log, bytes, &at->header, at->header.base_offset, INT64_MAX,
                           &at->scratch, &at->length);
    return r;
}

/* Walks from an entry up to the batch where KEY(position or text) reaches WANTED: by text, the
 * batch whose text contains it; by position, the batch there. 0; KQ_END; … */
static int walk_to(struct text_walk *at, bool by_text, int64_t wanted, bool *ret_far)
{
    int64_t from = at->walk.position;
    int r;
    for (;;) {
        if (!by_text && at->walk.position >= wanted)
            return 0;
        r = measure(at);
        if (r != 0)
            return r;
        if (by_text && wanted < at->text + at->length)
            return 0;
        at->text += at->length;
        kq_walk_step(&at->walk, &at->header);
        if (at->walk.position - from > FAR_BYTES + (int64_t)at->header.size) {
            *ret_far = true;
            if (!at->walk.may_block)
                return KQ_WOULD_BLOCK;
        }
    }
}

static int begin(struct text_walk *at, struct kq_log *log, struct kq_segment *segment,
                 bool may_block)
{
    struct kq_published state;
    int fd;
    int r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r;
    kq_segment_published(segment, &state);
    *at = (struct text_walk){.log = log, .segment = segment};
    kq_walk_begin(&at->walk, fd, segment->base, 0, state.size, KQ_WALK_NEAR, may_block);
    return 0;
}

static void end(struct text_walk *at)
{
    kq_walk_end(&at->walk);
    kq_buf_release(&at->scratch);
    kq_file_done(at->segment->file);
}

static int find_once(struct kq_log *log, struct kq_segment *segment, bool by_text, int64_t wanted,
                     bool may_block, bool use_index, bool *ret_far, struct kq_found *ret_found,
                     int64_t *ret_text)
{
    struct text_walk at;
    int r = begin(&at, log, segment, may_block);
    if (r != 0)
        return r;
    if (use_index)
        r = seek_entry(&at, by_text ? kq_text_key : kq_text_position_key, wanted, may_block);
    if (r == 0)
        r = walk_to(&at, by_text, wanted, ret_far);
    if (r == 0) {
        *ret_text = at.text;
        *ret_found = (struct kq_found){
            .position = at.walk.position,
            .base_offset = at.header.base_offset,
            .next_offset = kq_batch_next_offset(&at.header),
            .size = at.header.size,
        };
    }
    end(&at);
    return r;
}

/* Repairs the text index of a sealed segment where it is in the way; does without one if not. */
static int find(struct kq_log *log, struct kq_segment *segment, bool by_text, int64_t wanted,
                bool may_block, struct kq_found *ret_found, int64_t *ret_text)
{
    bool far = false;
    int r = find_once(log, segment, by_text, wanted, may_block, true, &far, ret_found, ret_text);
    if (r != -EBADMSG && !far)
        return r;
    if (!may_block)
        return KQ_WOULD_BLOCK;
    pthread_mutex_lock(&log->counting);
    int repaired = kq_log_rebuild_text(log, segment, segment->text_base, -1);
    pthread_mutex_unlock(&log->counting);
    if (repaired < 0 && r == 0)
        return 0;
    return find_once(log, segment, by_text, wanted, may_block, repaired == 0, &far, ret_found,
                     ret_text);
}

/* --- What the rest of the log asks --- */

int kq_log_text_of(struct kq_log *log, struct kq_segment *segment, int64_t position, bool may_block,
                   int64_t *ret)
{
    struct kq_found found;
    int64_t base, text = 0;
    int r = kq_log_count_text(log, may_block);
    if (r == 0)
        r = kq_log_text_base(log, segment, may_block, &base);
    if (r == 0 && position > 0)
        r = find(log, segment, false, position, may_block, &found, &text);
    if (r == 0)
        *ret = base + text;
    return r == KQ_END ? -EBADMSG : r;
}

/* The text position of the first message at or behind OFFSET. KQ_END: there is none. */
static int text_of_offset(struct kq_log *log, struct kq_segment *segment, int64_t offset,
                          bool may_block, int64_t *ret)
{
    struct kq_found found;
    struct text_walk at;
    int64_t text;
    if (offset <= segment->base)
        return kq_log_text_base(log, segment, may_block, ret);
    int r = kq_segment_find(segment, &log->map, offset, may_block, &found);
    if (r == 0)
        r = kq_log_text_of(log, segment, found.position, may_block, &text);
    if (r == 0 && found.base_offset < offset) {
        const uint8_t *bytes;
        r = begin(&at, log, segment, may_block);
        if (r != 0)
            return r;
        at.walk.position = found.position;
        r = kq_walk_header(&at.walk, &at.header);
        if (r == 0)
            r = kq_walk_bytes(&at.walk, &at.header, &bytes);
        if (r == 0)
            r = kq_log_measure(log, bytes, &at.header, at.header.base_offset, offset, &at.scratch,
                               &at.length);
        end(&at);
        text += at.length;
    }
    if (r == 0)
        *ret = text;
    return r;
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
    ret->end = atomic_load_explicit(&log->text_end, memory_order_acquire);
    ret->start = kq_min64(start, ret->end);
    return 0;
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
        if (r != 0) {
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
    int64_t base = 0, at = 0;
    int r = check_text(log, text, may_block);
    if (r == 0)
        r = segment_of_text(log, text, may_block, &segment);
    if (r != 0)
        return r;
    do {
        r = kq_log_text_base(log, segment, may_block, &base);
        if (r == 0)
            r = find(log, segment, true, kq_max64(text - base, 0), may_block, &found, &at);
        if (r != KQ_END)
            break;
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    } while (segment);
    if (r == 0)
        r = kq_log_make_extent(segment, &found, max_bytes, may_block, ret);
    if (r == 0)
        ret->text = base + at;
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
    if (r == 0)
        r = kq_segment_max_timestamp(segment, &log->map, may_block, &range.max_timestamp);
    if (r == 0) {
        range.next_offset = segment->next_offset;
        *ret = range;
    }
    kq_segment_unref(segment);
    kq_segment_unref(next);
    return r;
}
