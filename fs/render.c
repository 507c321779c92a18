#include "fs/render.h"

#include "broker/base/endian.h"
#include "fs/jsonl.h"
#include "fs/varint.h"

#define COPY_AHEAD 32         /* short values are copied in blocks of so many bytes */
#define COPY_BLOCKS_UP_TO 512 /* above, memcpy is quicker */

_Static_assert(COPY_AHEAD <= KQ_RENDER_SLACK, "a block must fit behind the buffer");

/* Whole records in the lens, whole into the reply: all but the edges of a large read. */
struct run {
    const uint8_t *at, *end; /* bytes of records; COPY_AHEAD more may be read */
    uint8_t *out, *out_end;
    int32_t left;
    int64_t last_delta; /* of offset, of the last record done; -1 */
};

static inline uint8_t *put(uint8_t *out, const uint8_t *bytes, int64_t length)
{
    if (kq_likely(length <= COPY_BLOCKS_UP_TO)) {
        for (int64_t done = 0; done < length; done += COPY_AHEAD)
            memcpy(out + done, bytes + done, COPY_AHEAD);
        return out + length;
    }
    return mempcpy(out, bytes, (size_t)length);
}

static inline uint8_t *put_mark(uint8_t *out, const uint8_t *mark, size_t length)
{
    memcpy(out, mark, KQ_TEXT_MARK_BYTES);
    return out + length;
}

/* What most records are, as a word and a byte: no key, and two bytes each for the record's length,
 * its offset and the value's length. From the word's low byte on:
 *
 *   length, length, attributes, timestamp, offset, offset, key (null), value length
 *
 * and the rest of the value's length behind it. The mask keeps what says so: where a number goes
 * on, and that a length is not negative. */
#define COMMON_BYTES 9
#define COMMON_MASK UINT64_C(0x81ff808180008081)
#define COMMON UINT64_C(0x8001008000000080)

/* The number, not negative, whose bytes are LOW and HIGH. */
static inline int64_t two_bytes(uint64_t low, uint64_t high)
{
    return (int64_t)((low & 0x7f) | (high & 0x7f) << 7) >> 1;
}

/* One record of RUN, if it is a common one. 0; KQ_PARTIAL: it has to be looked at more closely. */
static inline int run_common(struct run *run, const struct kq_rendering *rendering)
{
    const uint8_t *at = run->at, *value = at + COMMON_BYTES;
    if (kq_unlikely(run->end - at < COMMON_BYTES))
        return KQ_PARTIAL;
    uint64_t word = kq_load_le64(at);
    if (kq_unlikely((word & COMMON_MASK) != COMMON || value[-1] >= 0x80))
        return KQ_PARTIAL;
    const uint8_t *end = at + 2 + two_bytes(word, word >> 8);
    int64_t length = two_bytes(word >> 56, value[-1]);
    if (kq_unlikely(end > run->end || length > end - value ||
                    length + rendering->delimiter_length > run->out_end - run->out))
        return KQ_PARTIAL;
    run->out =
        put_mark(put(run->out, value, length), rendering->delimiter, rendering->delimiter_length);
    run->at = end;
    run->left--;
    run->last_delta = two_bytes(word >> 32, word >> 40);
    return 0;
}

/* One record of RUN. 0; KQ_PARTIAL: it is not whole in the lens, or its text not in the reply. */
static inline int run_one(struct run *run, const struct kq_rendering *rendering)
{
    struct kq_varint length = kq_varint_at(run->at, run->end);
    if (kq_unlikely(!length.next || length.value > run->end - length.next))
        return KQ_PARTIAL; /* whether it is malformed shows where all its bytes are at hand */
    if (kq_unlikely(length.value < 1))
        return -EBADMSG;
    const uint8_t *end = length.next + length.value; /* one byte of attributes: none are defined */
    struct kq_varint timestamp = kq_varint_at(length.next + 1, end);
    struct kq_varint delta = timestamp.next ? kq_varint_at(timestamp.next, end) : timestamp;
    struct kq_varint key = delta.next ? kq_varint_at(delta.next, end) : delta;
    if (kq_unlikely(!key.next || key.value < -1 || key.value > end - key.next))
        return -EBADMSG;
    struct kq_varint value = kq_varint_at(key.next + (key.value > 0 ? key.value : 0), end);
    if (kq_unlikely(!value.next || value.value < -1 || value.value > end - value.next))
        return -EBADMSG;
    bool with_key = rendering->separator_length && key.value >= 0;
    int64_t text = (value.value > 0 ? value.value : 0) + rendering->delimiter_length +
                   (with_key ? key.value + rendering->separator_length : 0);
    if (kq_unlikely(text > run->out_end - run->out))
        return KQ_PARTIAL;
    uint8_t *out = run->out;
    if (kq_unlikely(with_key)) {
        out = put(out, key.next, key.value);
        out = put_mark(out, rendering->separator, rendering->separator_length);
    }
    if (kq_likely(value.value > 0))
        out = put(out, value.next, value.value);
    run->out = put_mark(out, rendering->delimiter, rendering->delimiter_length);
    run->at = end;
    run->left--;
    run->last_delta = delta.value;
    return 0;
}

/* As many whole records of the batch as the lens holds. 0; -EBADMSG. */
static int render_run(struct kq_cursor *cursor, struct kq_lens *lens, uint8_t *out, size_t room,
                      size_t *ret_length)
{
    const uint8_t *bytes;
    size_t length, need = (size_t)(cursor->records_end - cursor->record_at);
    *ret_length = 0;
    if (need > lens->piece)
        need = 1;
    int r = kq_cursor_bytes(cursor, lens, cursor->record_at, need, &bytes, &length);
    if (r != 0)
        return r;
    struct run run = {.at = bytes,
                      .end = bytes + length,
                      .out = out,
                      .out_end = out + room,
                      .left = cursor->left,
                      .last_delta = -1};
    const struct kq_rendering rendering = cursor->rendering;
    while (run.left > 0 && r == 0)
        if (kq_unlikely(run_common(&run, &rendering) != 0))
            r = run_one(&run, &rendering);
    cursor->record_at += run.at - bytes;
    cursor->left = run.left;
    if (run.last_delta >= 0)
        cursor->next_offset = cursor->batch.base_offset + run.last_delta + 1;
    *ret_length = (size_t)(run.out - out);
    return r == KQ_PARTIAL ? 0 : r;
}

/* Copies what is wanted of a part of a record: [*SKIP, …) of LENGTH bytes at AT of the records, or
 * of MARK. */
static int render_part(struct kq_cursor *cursor, struct kq_lens *lens, const uint8_t *mark,
                       int64_t at, int64_t length, int64_t *skip, uint8_t **out, uint8_t *out_end)
{
    if (*skip >= length) {
        *skip -= length;
        return 0;
    }
    size_t n = (size_t)kq_min64(length - *skip, out_end - *out);
    int r = 0;
    if (mark)
        memcpy(*out, mark + *skip, n);
    else
        r = kq_cursor_copy(cursor, lens, at + *skip, n, *out);
    if (r == 0) {
        *out += n;
        *skip = 0;
    }
    return r;
}

/* One record, or what is left of it, or as much of it as fits. */
static int render_edge(struct kq_cursor *cursor, struct kq_lens *lens, uint8_t *out, size_t room,
                       size_t *ret_length)
{
    struct kq_record_head head;
    uint8_t *at = out, *end = out + room;
    *ret_length = 0;
    int r = kq_cursor_head(cursor, lens, &head);
    if (r != 0)
        return r;
    kq_cursor_render_as(cursor, head.offset);
    const struct kq_rendering *rendering = &cursor->rendering;
    int64_t skip = cursor->skip, text = kq_head_text_length(rendering, &head);
    if (rendering->separator_length && head.key_length >= 0) {
        r = render_part(cursor, lens, NULL, head.key_at, head.key_length, &skip, &at, end);
        if (r == 0)
            r = render_part(cursor, lens, rendering->separator, 0, rendering->separator_length,
                            &skip, &at, end);
    }
    if (r == 0)
        r = render_part(cursor, lens, NULL, head.value_at, kq_max64(head.value_length, 0), &skip,
                        &at, end);
    if (r == 0)
        r = render_part(cursor, lens, rendering->delimiter, 0, rendering->delimiter_length, &skip,
                        &at, end);
    if (r != 0)
        return r;
    *ret_length = (size_t)(at - out);
    cursor->skip += at - out;
    if (cursor->skip == text)
        kq_cursor_pass(cursor, &head);
    return 0;
}

/* Is one rendering right for all of the batch? */
static bool batch_is_uniform(struct kq_cursor *cursor)
{
    kq_cursor_render_as(cursor, cursor->batch.base_offset);
    return kq_batch_next_offset(&cursor->batch) <= cursor->rendering_until;
}

int kq_render_text(struct kq_cursor *cursor, struct kq_lens *lens, uint8_t *out, size_t room,
                   size_t *ret_length)
{
    size_t done = 0, n = 0;
    int r = 0;
    while (r == 0 && done < room) {
        lens->piece = kq_lens_piece(room - done);
        r = kq_cursor_enter(cursor, lens);
        n = 0;
        if (r == 0 && cursor->skip == 0 && batch_is_uniform(cursor))
            r = render_run(cursor, lens, out + done, room - done, &n);
        done += n;
        cursor->text += (int64_t)n;
        if (r != 0 || done == room || cursor->left == 0)
            continue;
        r = render_edge(cursor, lens, out + done, room - done, &n);
        done += n;
        cursor->text += (int64_t)n;
    }
    *ret_length = done;
    return r;
}

int kq_render_jsonl(struct kq_cursor *cursor, struct kq_lens *lens, struct kq_buf *out,
                    size_t until)
{
    while (out->length < until) {
        struct kq_record record;
        int64_t size;
        int r = kq_cursor_peek(cursor, lens, &record, &size);
        if (r == 0)
            r = kq_jsonl_format(&record, out);
        if (r != 0)
            return r;
        kq_cursor_step(cursor, &record, size);
    }
    return 0;
}
