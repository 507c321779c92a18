/* From a text position to its batch, and back, within a segment.
 *
 * Happy path: from the last text entry before it a few batches on. Failure modes: an entry that
 * does not fit the log has the index rebuilt. How much text a damaged place had, only the index
 * knows, which counted it when it was whole: what follows the damage is placed from behind, by the
 * next entry or the segment's end. */
#include <inttypes.h>

#include "broker/base/diag.h"
#include "broker/log_internal.h"
#include "broker/textindex.h"

#define FAR_BYTES (4 * 1024 * 1024) /* further from an entry than this: entries are missing */

struct text_walk {
    struct kq_log *log;
    struct kq_segment *segment;
    struct kq_walk walk;
    struct kq_buf scratch;
    struct kq_batch_header header; /* of the batch at the position */
    int64_t text;                  /* where its text begins, relative to the segment */
    int64_t length;                /* of its text */
    bool use_index;
};

/* Reads the batch at the position. 0; KQ_PARTIAL: it is damaged; KQ_END; KQ_WOULD_BLOCK; -errno. */
static int measure(struct text_walk *at)
{
    const uint8_t *bytes;
    int r = kq_walk_header(&at->walk, &at->header);
    if (r == 0)
        r = kq_walk_bytes(&at->walk, &at->header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, &at->header);
    if (r == 0)
        r = kq_log_measure(at->log, bytes, &at->header, at->header.base_offset, INT64_MAX,
                           &at->scratch, &at->length);
    return r == -EBADMSG ? KQ_PARTIAL : r;
}

/* --- Entries --- */

/* Is there a batch, or the end, where ENTRY points to? 0; KQ_PARTIAL: the log is damaged there;
 * -EBADMSG: the index is wrong; KQ_WOULD_BLOCK; -errno. */
static int verify(const struct text_walk *at, const struct kq_text_entry *entry)
{
    struct kq_batch_header header;
    struct kq_walk walk;
    const uint8_t *bytes = NULL;
    if (entry->position == at->walk.end)
        return 0;
    if (entry->position > at->walk.end)
        return -EBADMSG;
    kq_walk_begin(&walk, at->walk.fd, at->segment->base, entry->position, at->walk.end,
                  KQ_WALK_NEAR, at->walk.may_block);
    int r = kq_walk_header(&walk, &header);
    bool fits = r == 0 && header.base_offset == at->segment->base + entry->offset;
    if (r == 0 && !fits)
        r = kq_walk_bytes(&walk, &header, &bytes);
    if (r == 0 && !fits)
        r = kq_batch_check_crc(bytes, &header);
    kq_walk_end(&walk);
    if (r == -EBADMSG)
        return KQ_PARTIAL;
    return r == 0 && !fits ? -EBADMSG : r;
}

/* Entry NUMBER, if it passes. As verify. */
static int verified_entry(const struct text_walk *at, uint32_t number, struct kq_text_entry *ret)
{
    uint8_t raw[KQ_INDEX_ENTRY_MAX];
    struct kq_text_entry entry;
    int r = kq_index_get(&at->segment->texts, &at->log->map, number, at->walk.may_block, raw);
    if (r == 0)
        r = kq_text_entry_read(raw, at->segment->base, &entry);
    if (r == 0)
        r = verify(at, &entry);
    if (r == 0)
        *ret = entry;
    return r;
}

/* The damage may cover many entries: the last before it, found without looking at each.
 * KQ_END: there is none. */
static int entry_before_damage(const struct text_walk *at, uint32_t damaged,
                               struct kq_text_entry *ret)
{
    int64_t low = -1, high = damaged;
    int r = KQ_PARTIAL;
    for (int64_t step = 1; step <= damaged && r == KQ_PARTIAL; step *= 2) {
        r = verified_entry(at, (uint32_t)(damaged - step), ret);
        if (r == 0)
            low = damaged - step;
        else
            high = damaged - step;
    }
    while ((r == 0 || r == KQ_PARTIAL) && high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        r = verified_entry(at, (uint32_t)middle, ret);
        if (r == 0)
            low = middle;
        else
            high = middle;
    }
    if (r != 0 && r != KQ_PARTIAL)
        return r;
    return low < 0 ? KQ_END : 0;
}

/* Puts AT at the last entry whose KEY is <= WANTED and that fits the log.
 * -EBADMSG: the entry there is damaged. */
static int seek_entry(struct text_walk *at, kq_index_key *key, int64_t wanted)
{
    uint8_t raw[KQ_INDEX_ENTRY_MAX];
    struct kq_text_entry entry = {0};
    uint32_t number;
    int r = kq_index_search(&at->segment->texts, &at->log->map, key, wanted, at->walk.may_block,
                            raw, &number);
    if (r == 0)
        r = kq_text_entry_read(raw, at->segment->base, &entry);
    if (r == 0)
        r = verify(at, &entry);
    if (r == KQ_PARTIAL)
        r = entry_before_damage(at, number, &entry);
    if (r == KQ_END)
        return 0;
    if (r == -ENOENT || r == -EINVAL)
        r = -EBADMSG;
    if (r == 0) {
        at->walk.position = entry.position;
        at->walk.least = at->segment->base + entry.offset;
        at->text = entry.text;
    }
    return r;
}

/* --- Over damage --- */

/* A place behind the damage whose text position is recorded. */
struct anchor {
    int64_t position, text;
    int64_t offset; /* that begins there */
    bool is_end;    /* of the segment */
};

/* The first entry at or behind the position. KQ_END: there is none. */
static int entry_behind(struct text_walk *at, struct anchor *ret)
{
    uint8_t raw[KQ_INDEX_ENTRY_MAX];
    struct kq_text_entry entry;
    struct kq_index *index = &at->segment->texts;
    uint32_t number;
    int r = kq_index_search(index, &at->log->map, kq_text_position_key, at->walk.position - 1, true,
                            raw, &number);
    if (r < 0)
        return r == -ENOENT || r == -EINVAL ? -EBADMSG : r;
    number = r == KQ_END ? 0 : number + 1;
    pthread_mutex_lock(&at->log->map);
    bool there = number < kq_index_count(index);
    pthread_mutex_unlock(&at->log->map);
    if (!there)
        return KQ_END;
    r = kq_index_get(index, &at->log->map, number, true, raw);
    if (r == 0)
        r = kq_text_entry_read(raw, at->segment->base, &entry);
    if (r == 0 && (entry.position < at->walk.position ||
                   entry.position > atomic_load_explicit(&at->segment->size, memory_order_acquire)))
        r = -EBADMSG;
    if (r == 0)
        *ret = (struct anchor){.position = entry.position,
                               .text = entry.text,
                               .offset = at->segment->base + entry.offset};
    return r;
}

/* The end of the segment: where the next one begins, or how far the writer came. */
static int segment_end(const struct text_walk *at, struct anchor *ret)
{
    struct kq_log *log = at->log;
    struct kq_segment *segment = at->segment, *next;
    while (!(next = kq_log_segment_after(log, segment))) {
        int r = kq_log_count_text(log, true);
        if (r != 0)
            return r;
        pthread_mutex_lock(&log->lock);
        bool known = !log->text_behind && kq_log_active(log) == segment;
        struct anchor now = {.position = segment->size,
                             .text = log->text_end - segment->text_base,
                             .offset = log->end,
                             .is_end = true};
        pthread_mutex_unlock(&log->lock);
        if (known) {
            *ret = now;
            return 0;
        }
    }
    struct anchor end = {.position = segment->size, .offset = next->base, .is_end = true};
    kq_segment_unref(next);
    int r = kq_log_text_in(log, segment, &end.text);
    if (r == 0)
        *ret = end;
    return r;
}

/* The text between the position and ANCHOR. KQ_PARTIAL: there is more damage on the way, the
 * position is there; -EBADMSG: no batch ends where ANCHOR is. */
static int text_before(struct text_walk *at, const struct anchor *anchor, int64_t *ret)
{
    int64_t position = at->walk.position, least = at->walk.least, sum = 0;
    at->walk.end = kq_max64(at->walk.end, anchor->position);
    while (at->walk.position < anchor->position) {
        int r = measure(at);
        if (r != 0)
            return r;
        sum += at->length;
        kq_walk_step(&at->walk, &at->header);
    }
    if (at->walk.position > anchor->position)
        return -EBADMSG;
    /* Offsets are not in the checksum, and whole batches may be missing at the end. */
    if (at->walk.least > anchor->offset || (anchor->is_end && at->walk.least < anchor->offset))
        return KQ_PARTIAL;
    at->walk.position = position;
    at->walk.least = least;
    *ret = sum;
    return 0;
}

/* From a damaged place to the next whole batch whose text position can be told: if there is more
 * damage before the next anchor, that lies behind it. KQ_END: there is none in this segment;
 * -EBADMSG: the index is wrong. */
static int pass_damage(struct text_walk *at)
{
    struct anchor anchor;
    int64_t sum = 0, from = at->walk.position;
    int r;
    do {
        r = kq_walk_resync(&at->walk);
        if (r != 0)
            return r;
        r = at->use_index ? entry_behind(at, &anchor) : KQ_END;
        if (r == KQ_END)
            r = segment_end(at, &anchor);
        if (r == 0)
            r = text_before(at, &anchor, &sum);
    } while (r == KQ_PARTIAL);
    if (r == 0 && anchor.text - sum < at->text)
        r = -EBADMSG;
    if (r != 0)
        return r;
    kq_diag_limited(60000, LOG_ERR,
                    "%s: segment %" PRId64 " is damaged between bytes %" PRId64 " and %" PRId64
                    ": reading there fails, what is behind is served",
                    at->log->name, at->segment->base, from, at->walk.position);
    at->text = anchor.text - sum;
    return 0;
}

/* --- The walk --- */

/* Walks from an entry up to the batch where KEY(position or text) reaches WANTED: by text, the
 * batch whose text contains it; by position, the batch there. 0; KQ_END; … */
static int walk_to(struct text_walk *at, bool by_text, int64_t wanted, bool *ret_far)
{
    int64_t from = at->walk.position;
    for (;;) {
        if (!by_text && at->walk.position >= wanted)
            return at->walk.position == wanted ? 0 : -EIO;
        int r = measure(at);
        if (r == KQ_PARTIAL) {
            r = at->walk.may_block ? pass_damage(at) : KQ_WOULD_BLOCK;
            if ((r == 0 && by_text && wanted < at->text) || (r == KQ_END && !by_text))
                r = -EIO;
            if (r != 0)
                return r;
            from = at->walk.position;
            continue;
        }
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

static int find_once(struct kq_log *log, struct kq_segment *segment, bool by_text, int64_t wanted,
                     bool may_block, bool use_index, bool *ret_far, struct kq_found *ret_found,
                     int64_t *ret_text)
{
    struct text_walk at = {.log = log, .segment = segment, .use_index = use_index};
    struct kq_published state;
    int fd;
    int r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r;
    kq_segment_published(segment, &state);
    kq_walk_begin(&at.walk, fd, segment->base, 0, state.size, KQ_WALK_NEAR, may_block);
    if (use_index)
        r = seek_entry(&at, by_text ? kq_text_key : kq_text_position_key, wanted);
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
    kq_walk_end(&at.walk);
    kq_buf_release(&at.scratch);
    kq_file_done(segment->file);
    return r;
}

int kq_log_find_text(struct kq_log *log, struct kq_segment *segment, bool by_text, int64_t wanted,
                     bool may_block, struct kq_found *ret_found, int64_t *ret_text)
{
    bool far = false;
    int r = find_once(log, segment, by_text, wanted, may_block, true, &far, ret_found, ret_text);
    if (r != -EBADMSG && !far)
        return r;
    if (!may_block)
        return KQ_WOULD_BLOCK;
    int64_t length = -1;
    if (segment->sealed && kq_log_text_in(log, segment, &length) != 0)
        length = -1;
    pthread_mutex_lock(&log->counting);
    int repaired = kq_log_rebuild_text(log, segment, segment->text_base,
                                       length < 0 ? -1 : segment->text_base + length);
    pthread_mutex_unlock(&log->counting);
    if (repaired < 0 && r == 0)
        return 0;
    return find_once(log, segment, by_text, wanted, may_block, repaired == 0, &far, ret_found,
                     ret_text);
}
