/* Text with holes: what compaction took out of it.
 *
 * Within a segment its .textholes file maps the text that it has to where that stood. Over the log,
 * a list of the segments that have such a file says how much is missing before each: so a position
 * is packed or unpacked with one search in the list and one in a file. The list is made when
 * somebody asks first; it holds for one layout. */
#include <inttypes.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/log_internal.h"
#include "broker/texthole.h"

/* --- One segment --- */

int kq_segment_read_holes(struct kq_segment *segment, bool may_block, struct kq_holes *ret)
{
    uint8_t header[KQ_HOLES_HEADER];
    int fd;
    int r = kq_file_use(segment->holes->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r == -ENOENT || r == -EINVAL ? -EBADMSG : r;
    ssize_t n = kq_io_pread(fd, header, sizeof(header), 0);
    kq_file_done(segment->holes->file);
    if (n < 0)
        return (int)n;
    return n < KQ_HOLES_HEADER ? -EBADMSG : kq_holes_read(header, segment->base, ret);
}

/* All the text that SEGMENT has. */
static int count_text(struct kq_log *log, struct kq_segment *segment, int64_t *ret)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_batch_header header;
    struct kq_published state;
    struct kq_walk walk;
    const uint8_t *bytes;
    int64_t sum = 0, length = 0;
    int fd;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    kq_segment_published(segment, &state);
    kq_walk_begin(&walk, fd, segment->base, 0, state.size, KQ_WALK_FAR, true);
    while ((r = kq_walk_header(&walk, &header)) == 0) {
        r = kq_walk_bytes(&walk, &header, &bytes);
        if (r == 0)
            r = kq_log_measure(log, bytes, &header, header.base_offset, INT64_MAX, &scratch,
                               &length);
        if (r < 0)
            break;
        sum += length;
        kq_walk_step(&walk, &header);
    }
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    *ret = sum;
    return r == KQ_END || r == KQ_PARTIAL || r == -EBADMSG ? 0 : r;
}

/* The file is damaged: what was taken out counts as having stood behind all that is there. */
static int make_up(struct kq_log *log, struct kq_segment *segment, struct kq_holes *ret)
{
    struct kq_segment *next = kq_log_segment_after(log, segment);
    struct kq_holes holes = {0};
    int64_t end = 0;
    int r = next ? 0 : -EBADMSG;
    if (r == 0)
        r = kq_log_text_base(log, segment, true, &holes.text_base);
    if (r == 0)
        r = kq_log_text_base(log, next, true, &end);
    if (r == 0)
        r = count_text(log, segment, &holes.length);
    kq_segment_unref(next);
    if (r != 0)
        return r;
    kq_diag(LOG_WARNING,
            "%s/%020" PRId64 ".textholes is damaged or missing: the text of that segment reads as "
            "before, but has other positions in p<N>.log",
            log->name, segment->base);
    holes.span = kq_max64(end - holes.text_base, holes.length);
    *ret = holes;
    return 0;
}

int kq_log_load_holes(struct kq_log *log, struct kq_segment *segment, bool may_block)
{
    struct kq_holes holes;
    if (atomic_load_explicit(&segment->text_length, memory_order_acquire) >= 0)
        return 0;
    int r = kq_segment_read_holes(segment, may_block, &holes);
    if (r == -EBADMSG) {
        if (!may_block)
            return KQ_WOULD_BLOCK;
        segment->holes_lost = true;
        r = make_up(log, segment, &holes);
    }
    if (r != 0)
        return r;
    if (atomic_load(&segment->text_base) < 0)
        atomic_store_explicit(&segment->text_base, holes.text_base, memory_order_release);
    atomic_store_explicit(&segment->text_span, holes.span, memory_order_release);
    atomic_store_explicit(&segment->text_length, holes.length, memory_order_release);
    return 0;
}

int kq_log_text_in(struct kq_log *log, struct kq_segment *segment, int64_t *ret)
{
    int64_t end;
    if (segment->holes) {
        int r = kq_log_load_holes(log, segment, true);
        if (r == 0)
            *ret = segment->text_length;
        return r;
    }
    struct kq_segment *next = kq_log_segment_after(log, segment);
    int r = next ? kq_log_text_base(log, next, true, &end) : -EBADMSG;
    kq_segment_unref(next);
    if (r == 0)
        *ret = end - segment->text_base;
    return r;
}

static int lose(struct kq_log *log, struct kq_segment *segment)
{
    if (!atomic_exchange(&segment->holes_lost, true))
        kq_diag(LOG_WARNING,
                "%s/%020" PRId64 ".textholes is damaged: text of that segment has other positions "
                "in p<N>.log",
                log->name, segment->base);
    return KQ_END;
}

/* The last hole whose KEY is <= WANTED, and its number. KQ_END: there is none. */
static int find_hole(struct kq_log *log, struct kq_segment *segment, kq_index_key *key,
                     int64_t wanted, bool may_block, struct kq_hole *ret, uint32_t *ret_number)
{
    uint8_t raw[KQ_INDEX_ENTRY_MAX];
    if (segment->holes_lost)
        return KQ_END;
    int r = kq_index_search(segment->holes, &log->map, key, wanted, may_block, raw, ret_number);
    if (r == 0)
        r = kq_hole_read(raw, segment->base, ret);
    return r == -EBADMSG || r == -ENOENT || r == -EINVAL ? lose(log, segment) : r;
}

/* Hole NUMBER. KQ_END: there are not so many. */
static int hole_number(struct kq_log *log, struct kq_segment *segment, uint32_t number,
                       bool may_block, struct kq_hole *ret)
{
    uint8_t raw[KQ_INDEX_ENTRY_MAX];
    if (segment->holes_lost || number >= kq_index_count(segment->holes))
        return KQ_END;
    int r = kq_index_get(segment->holes, &log->map, number, may_block, raw);
    if (r == 0)
        r = kq_hole_read(raw, segment->base, ret);
    return r == -EBADMSG ? lose(log, segment) : r;
}

int kq_log_place_text(struct kq_log *log, struct kq_segment *segment, int64_t packed,
                      bool may_block, int64_t *ret)
{
    struct kq_hole hole = {0};
    uint32_t number;
    if (!segment->holes) {
        *ret = packed;
        return 0;
    }
    int r = kq_log_load_holes(log, segment, may_block);
    if (r == 0)
        r = find_hole(log, segment, kq_hole_text_key, packed, may_block, &hole, &number);
    if (r != 0 && r != KQ_END)
        return r;
    *ret = packed < segment->text_length ? packed + hole.removed : segment->text_span;
    return 0;
}

int kq_log_pack_text(struct kq_log *log, struct kq_segment *segment, int64_t place, bool may_block,
                     int64_t *ret)
{
    struct kq_hole hole = {0}, next;
    uint32_t number = UINT32_MAX; /* the first is the one behind it */
    if (!segment->holes) {
        *ret = place;
        return 0;
    }
    int r = kq_log_load_holes(log, segment, may_block);
    if (r == 0)
        r = find_hole(log, segment, kq_hole_place_key, place, may_block, &hole, &number);
    if (r != 0 && r != KQ_END)
        return r;
    int64_t packed = place - hole.removed;
    r = hole_number(log, segment, number + 1, may_block, &next);
    if (r == 0 && packed >= next.text) {
        *ret = next.text;
        return KQ_HOLE;
    }
    if (r != 0 && r != KQ_END)
        return r;
    if (place >= segment->text_span)
        return KQ_END;
    *ret = kq_min64(packed, segment->text_length);
    return packed < segment->text_length ? 0 : KQ_HOLE;
}

/* --- The log --- */

void kq_log_forget_layout(struct kq_log *log)
{
    for (size_t i = 0; i < log->step_count; i++)
        kq_segment_unref(log->steps[i].segment);
    free(log->steps);
    log->steps = NULL;
    log->step_count = 0;
    log->steps_known = false;
}

static int64_t removed_in(const struct kq_segment *segment)
{
    return segment->text_span - segment->text_length;
}

void kq_log_layout_drops(struct kq_log *log, const struct kq_segment *segment)
{
    if (!log->steps_known || log->step_count == 0 || log->steps[0].segment != segment)
        return;
    log->steps_before += removed_in(segment);
    log->step_count--;
    kq_segment_unref(log->steps[0].segment);
    memmove(log->steps, log->steps + 1, log->step_count * sizeof(log->steps[0]));
}

/* The segments with holes, referenced, and the layout. */
static int list_steps(struct kq_log *log, struct kq_text_step **ret, size_t *ret_count,
                      uint64_t *ret_layout)
{
    struct kq_text_step *steps = NULL;
    size_t capacity = 0, count;
    do {
        free(steps);
        steps = kq_alloc((capacity + 1) * sizeof(*steps));
        if (!steps)
            return -ENOMEM;
        count = 0;
        pthread_mutex_lock(&log->map);
        for (size_t i = 0; i < log->segment_count; i++) {
            struct kq_segment *segment = log->segments[i];
            if (segment->holes && count++ < capacity)
                steps[count - 1] = (struct kq_text_step){.segment = segment};
        }
        for (size_t i = 0; i < count && count <= capacity; i++)
            kq_segment_ref(steps[i].segment);
        *ret_layout = atomic_load(&log->layout);
        pthread_mutex_unlock(&log->map);
        if (count <= capacity)
            break;
        capacity = count;
    } while (true);
    *ret = steps;
    *ret_count = count;
    return 0;
}

static int load_steps(struct kq_log *log, struct kq_text_step *steps, size_t count, bool may_block)
{
    int64_t base;
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        r = kq_log_load_holes(log, steps[i].segment, may_block);
        if (r == 0)
            r = kq_log_text_base(log, steps[i].segment, may_block, &base);
    }
    return r;
}

/* With map held: takes over STEPS if they are still what there is. */
static bool take_steps(struct kq_log *log, struct kq_text_step *steps, size_t count,
                       uint64_t layout)
{
    size_t there = 0;
    for (size_t i = 0; i < log->segment_count; i++)
        there += log->segments[i]->holes != NULL;
    if (log->steps_known || layout != atomic_load(&log->layout) || there != count)
        return false;
    int64_t before = log->steps_before;
    for (size_t i = 0; i < count; i++) {
        steps[i].before = before;
        before += removed_in(steps[i].segment);
    }
    log->steps = steps;
    log->step_count = count;
    log->steps_known = true;
    return true;
}

/* 0: the steps are known, and map is held. */
static int lock_layout(struct kq_log *log, bool may_block)
{
    for (;;) {
        struct kq_text_step *steps = NULL;
        uint64_t layout = 0;
        size_t count = 0;
        pthread_mutex_lock(&log->map);
        if (log->steps_known || atomic_load(&log->layout) == 0)
            return 0;
        pthread_mutex_unlock(&log->map);
        int r = list_steps(log, &steps, &count, &layout);
        if (r == 0)
            r = load_steps(log, steps, count, may_block);
        bool taken = false;
        if (r == 0) {
            pthread_mutex_lock(&log->map);
            taken = take_steps(log, steps, count, layout);
            pthread_mutex_unlock(&log->map);
        }
        for (size_t i = 0; i < count && !taken; i++)
            kq_segment_unref(steps[i].segment);
        if (!taken)
            free(steps);
        if (r != 0)
            return r;
    }
}

/* With map held: how many steps begin at or before POSITION, a packed one if so. */
static size_t steps_up_to(const struct kq_log *log, int64_t position, bool packed)
{
    size_t low = 0, high = log->step_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct kq_text_step *step = &log->steps[middle];
        if (step->segment->text_base - (packed ? step->before : 0) <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* With map held: bytes of holes before the end. */
static int64_t removed_in_all(const struct kq_log *log)
{
    if (log->step_count == 0)
        return log->steps_before;
    const struct kq_text_step *last = &log->steps[log->step_count - 1];
    return last->before + removed_in(last->segment);
}

int kq_log_layout_bounds(struct kq_log *log, bool may_block, struct kq_log_text_bounds *ret)
{
    int r = lock_layout(log, may_block);
    if (r != 0)
        return r;
    ret->layout = atomic_load(&log->layout);
    ret->removed = removed_in_all(log);
    ret->settled = 0;
    if (log->step_count > 0) {
        const struct kq_segment *last = log->steps[log->step_count - 1].segment;
        ret->settled = last->text_base + last->text_span;
    }
    pthread_mutex_unlock(&log->map);
    return 0;
}

/* With map held: the segment with holes in which POSITION lies, referenced, or NULL, and the bytes
 * of holes before it, or before POSITION. */
static struct kq_segment *step_of(const struct kq_log *log, int64_t position, bool packed,
                                  int64_t *ret_before)
{
    size_t count = steps_up_to(log, position, packed);
    if (count == 0) {
        *ret_before = log->step_count ? log->steps[0].before : log->steps_before;
        return NULL;
    }
    const struct kq_text_step *step = &log->steps[count - 1];
    struct kq_segment *segment = step->segment;
    int64_t begin = segment->text_base - (packed ? step->before : 0);
    *ret_before = step->before;
    if (position < begin + (packed ? segment->text_length : segment->text_span)) {
        kq_segment_ref(segment);
        return segment;
    }
    *ret_before += removed_in(segment);
    return NULL;
}

int kq_log_pack(struct kq_log *log, int64_t text, bool may_block, int64_t *ret_packed,
                uint64_t *ret_layout)
{
    int64_t before, packed = 0;
    int r = lock_layout(log, may_block);
    if (r != 0)
        return r;
    uint64_t layout = atomic_load(&log->layout);
    struct kq_segment *segment = step_of(log, text, false, &before);
    pthread_mutex_unlock(&log->map);
    if (segment) {
        int64_t base = segment->text_base;
        r = kq_log_pack_text(log, segment, text - base, may_block, &packed);
        text = base + packed;
        kq_segment_unref(segment);
    }
    if (r < 0 || r == KQ_WOULD_BLOCK)
        return r;
    *ret_packed = text - before;
    *ret_layout = layout;
    return 0;
}

int kq_log_unpack(struct kq_log *log, int64_t packed, uint64_t layout, bool may_block,
                  int64_t *ret_text)
{
    int64_t before, place = 0;
    int r = lock_layout(log, may_block);
    if (r != 0)
        return r;
    bool present = layout == atomic_load(&log->layout);
    struct kq_segment *segment = step_of(log, packed, true, &before);
    pthread_mutex_unlock(&log->map);
    int64_t text = packed + before;
    if (segment && present) {
        int64_t base = segment->text_base;
        r = kq_log_place_text(log, segment, text - base, may_block, &place);
        text = base + place;
    }
    kq_segment_unref(segment);
    if (r == 0 && present)
        *ret_text = text;
    return present ? r : KQ_GONE;
}
