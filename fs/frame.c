#include "fs/frame.h"

#include <string.h>

#include "fs/frame_output.h"
#include "fs/jsonl.h"
#include "fs/partitioner.h"

/* A JSON line is longer than its message: six bytes (\u00e9) for one, and the names around. */
#define JSON_GROWTH 6
#define JSON_AROUND 1024

#define NO_TIMESTAMP (-1)
#define PENDING_KEPT 4096 /* bytes of memory that a frame keeps between half lines */

/* --- One message --- */

/* Bytes of a batch that holds this message alone: what max.message.bytes limits. */
static int64_t message_size(const struct kq_record *record)
{
    int64_t body =
        3 + (int64_t)(kq_varint_size(record->key_length) + kq_varint_size(record->value_length) +
                      kq_varint_size(record->header_count) + record->headers_length);
    body += record->key_length > 0 ? record->key_length : 0;
    body += record->value_length > 0 ? record->value_length : 0;
    return KQ_BATCH_HEADER + (int64_t)kq_varint_size(body) + body;
}

static int64_t value_size(int64_t length)
{
    struct kq_record record = {.key_length = -1, .value_length = (int32_t)length};
    return length > INT32_MAX ? INT64_MAX : message_size(&record);
}

/* The longest value that a message without key and headers may have; -1: none. */
static int64_t longest_value(int64_t max_message_bytes)
{
    int64_t length = kq_min64(max_message_bytes, INT32_MAX) - value_size(0);
    while (length >= 0 && value_size(length) > max_message_bytes)
        length -= value_size(length) - max_message_bytes;
    return length < -1 ? -1 : length;
}

/* BYTES as a message: key and value, or the value alone. */
static void split_key(const struct kq_rendering *rendering, const uint8_t *bytes, size_t length,
                      struct kq_record *ret)
{
    const uint8_t *separator = NULL;
    if (rendering->separator_length)
        separator = memmem(bytes, length, rendering->separator, rendering->separator_length);
    *ret = (struct kq_record){.key_length = -1, .value = bytes, .value_length = (int32_t)length};
    if (!separator)
        return;
    ret->key = bytes;
    ret->key_length = (int32_t)(separator - bytes);
    ret->value = separator + rendering->separator_length;
    ret->value_length = (int32_t)(bytes + length - ret->value);
}

static int add_record(const struct kq_frame_request *request, const struct kq_record *record,
                      struct kq_frame_output *output)
{
    struct kq_frame_batch *batch;
    int32_t partition = -1;
    if (message_size(record) > request->max_message_bytes)
        return -EMSGSIZE;
    if (request->needs_key && record->key_length < 0)
        return -EINVAL;
    if (record->key_length >= 0 && request->partitions > 0)
        partition =
            kq_partition_of_key(record->key, (size_t)record->key_length, request->partitions);
    int r = kq_frame_output_batch(output, request, partition, &batch);
    if (r == 0)
        r = kq_batch_add(&batch->builder, record->timestamp, record->key, record->key_length,
                         record->value, record->value_length, record->headers,
                         record->headers_length, record->header_count);
    if (r == 0)
        batch->text_length += kq_text_length(request->rendering, record);
    return r == -EFBIG ? -EMSGSIZE : r;
}

/* The broker's own time replaces what a message brings; the clock's is always good. */
static bool is_timely(const struct kq_frame_request *request, int64_t timestamp)
{
    bool replaced = request->attributes & KQ_ATTRIBUTE_LOG_APPEND_TIME;
    return replaced || timestamp == NO_TIMESTAMP ||
           (timestamp >= request->oldest_ms && timestamp <= request->newest_ms);
}

static int add_message(const struct kq_frame_request *request, const uint8_t *bytes, size_t length,
                       struct kq_frame_output *output)
{
    struct kq_record record;
    if (length > INT32_MAX)
        return -EMSGSIZE;
    if (request->json) {
        int r = kq_jsonl_parse(bytes, length, request->timestamp_ms, &output->scratch, &record);
        if (r < 0)
            return r;
        if (!is_timely(request, record.timestamp))
            return -EINVAL;
    } else {
        split_key(request->rendering, bytes, length, &record);
        record.timestamp = request->timestamp_ms;
    }
    if (request->attributes & KQ_ATTRIBUTE_LOG_APPEND_TIME)
        record.timestamp = request->timestamp_ms;
    return add_record(request, &record, output);
}

/* Does what waits fit if it ended here? Room for it is promised when it is written. */
static int check_pending(const struct kq_frame *frame, const struct kq_frame_request *request)
{
    const struct kq_buf *pending = &frame->pending;
    const struct kq_rendering *rendering = request->rendering;
    int64_t most = request->max_message_bytes, length = (int64_t)pending->length;
    struct kq_record record;
    if (request->json)
        return length > most * JSON_GROWTH + JSON_AROUND ? -EMSGSIZE : 0;
    /* A key takes up to four bytes more for its length; the separator, which is not kept, some
     * less: only near the limit is it worth looking. */
    if (value_size(length) <= most - 4)
        return 0;
    if (length > most + rendering->separator_length)
        return -EMSGSIZE;
    split_key(rendering, pending->data, pending->length, &record);
    return message_size(&record) > most ? -EMSGSIZE : 0;
}

static int keep_pending(struct kq_frame *frame, const struct kq_frame_request *request,
                        const uint8_t *bytes, size_t length)
{
    if (length == 0)
        return 0;
    int r = kq_buf_append(&frame->pending, bytes, length);
    return r < 0 ? r : check_pending(frame, request);
}

/* --- Delimiters --- */

struct mark {
    const uint8_t *bytes;
    size_t length;
};

static inline const uint8_t *find_mark(struct mark mark, const uint8_t *from, const uint8_t *end)
{
    if (mark.length == 1)
        return memchr(from, mark.bytes[0], (size_t)(end - from));
    return memmem(from, (size_t)(end - from), mark.bytes, mark.length);
}

/* Looks for a mark that begins in BEFORE and ends in BYTES. Returns how many bytes of BYTES belong
 * to it, 0 where there is none; the mark that begins first wins. */
static size_t find_straddling(struct mark mark, const uint8_t *before, size_t before_length,
                              const uint8_t *bytes, size_t length)
{
    size_t most = mark.length - 1 < before_length ? mark.length - 1 : before_length;
    for (size_t inside = most; inside > 0; inside--) {
        size_t rest = mark.length - inside;
        if (rest <= length && memcmp(before + before_length - inside, mark.bytes, inside) == 0 &&
            memcmp(bytes, mark.bytes + inside, rest) == 0)
            return rest;
    }
    return 0;
}

/* The byte behind the first mark that does not lie in the frame's TAIL alone; NULL: none. */
static const uint8_t *behind_first_mark(struct mark mark, const uint8_t *tail, size_t tail_length,
                                        const uint8_t *bytes, const uint8_t *end)
{
    size_t rest = find_straddling(mark, tail, tail_length, bytes, (size_t)(end - bytes));
    if (rest)
        return bytes + rest;
    const uint8_t *found = find_mark(mark, bytes, end);
    return found ? found + mark.length : NULL;
}

/* The byte behind the last mark; FROM where there is none. Marks do not overlap. */
static const uint8_t *behind_last_mark(struct mark mark, const uint8_t *from, const uint8_t *end)
{
    const uint8_t *found;
    if (mark.length == 1) {
        found = memrchr(from, mark.bytes[0], (size_t)(end - from));
        return found ? found + 1 : from;
    }
    while ((found = find_mark(mark, from, end)))
        from = found + mark.length;
    return from;
}

/* The last bytes of what has been seen of a message: they may begin a mark. */
static void keep_tail(struct kq_frame *frame, struct mark mark, const uint8_t *bytes, size_t length)
{
    size_t most = mark.length - 1;
    if (!bytes || length == 0)
        return;
    if (length < most) { /* with what was there before */
        size_t keep = most - length < frame->tail_length ? most - length : frame->tail_length;
        memmove(frame->tail, frame->tail + frame->tail_length - keep, keep);
        memcpy(frame->tail + keep, bytes, length);
        frame->tail_length = (uint8_t)(keep + length);
    } else {
        memcpy(frame->tail, bytes + length - most, most);
        frame->tail_length = (uint8_t)most;
    }
}

/* --- framing=line and JSON --- */

/* Whole lines, each with its mark, up to END. */
static int add_lines(const struct kq_frame_request *request, struct mark mark, const uint8_t *from,
                     const uint8_t *end, struct kq_frame_output *output)
{
    if (from == end)
        return 0;
    if (mark.length == 1 && !request->json && !request->rendering->separator_length &&
        !request->needs_key) {
        struct kq_frame_batch *batch;
        int64_t longest = longest_value(request->max_message_bytes);
        int r = longest < 0 ? -EMSGSIZE : kq_frame_output_batch(output, request, -1, &batch);
        if (r == 0)
            r = kq_batch_add_lines(&batch->builder, request->timestamp_ms, from,
                                   (size_t)(end - from), mark.bytes[0], (size_t)longest);
        if (r == 0)
            batch->text_length += end - from;
        return r == -EFBIG ? -EMSGSIZE : r;
    }
    while (from < end) {
        const uint8_t *found = find_mark(mark, from, end);
        int r = add_message(request, from, (size_t)(found - from), output);
        if (r < 0)
            return r;
        from = found + mark.length;
    }
    return 0;
}

/* Joins the half line and its end, if it is in [*AT, END); moves *AT behind it. */
static int complete_pending(struct kq_frame *frame, const struct kq_frame_request *request,
                            struct mark mark, const uint8_t **at, const uint8_t *end,
                            struct kq_frame_output *output)
{
    struct kq_buf *pending = &frame->pending;
    const uint8_t *behind = behind_first_mark(mark, pending->data, pending->length, *at, end);
    if (!behind) {
        int r = keep_pending(frame, request, *at, (size_t)(end - *at));
        *at = end;
        return r;
    }
    int r = kq_buf_append(pending, *at, (size_t)(behind - *at));
    if (r == 0)
        r = add_message(request, pending->data, pending->length - mark.length, output);
    kq_buf_clear(pending, PENDING_KEPT);
    *at = behind;
    return r;
}

static int take_lines(struct kq_frame *frame, const struct kq_frame_request *request,
                      struct mark mark, const uint8_t *at, const uint8_t *end,
                      struct kq_frame_output *output)
{
    if (frame->dropping) {
        const uint8_t *behind = behind_first_mark(mark, frame->tail, frame->tail_length, at, end);
        if (!behind) {
            keep_tail(frame, mark, at, (size_t)(end - at));
            return 0;
        }
        at = behind;
    }
    if (frame->pending.length > 0) {
        int r = complete_pending(frame, request, mark, &at, end, output);
        if (r < 0)
            return r;
    }
    const uint8_t *rest = behind_last_mark(mark, at, end);
    int r = add_lines(request, mark, at, rest, output);
    if (r == 0)
        r = keep_pending(frame, request, rest, (size_t)(end - rest));
    if (r == 0) {
        frame->dropping = false;
        frame->tail_length = 0;
    }
    return r;
}

/* --- All framings --- */

/* How the request is framed: a .jsonl by lines, whatever the topic says. */
static enum kq_framing framing_of(const struct kq_frame_request *request, struct mark *ret_mark)
{
    *ret_mark = request->json ? (struct mark){(const uint8_t *)"\n", 1}
                              : (struct mark){request->rendering->delimiter,
                                              request->rendering->delimiter_length};
    return request->json ? KQ_FRAMING_LINE : request->rendering->framing;
}

/* Is the frame as it would be under this framing? Where the topic's was changed, what waits is to
 * be looked at anew. */
static bool same_framing(const struct kq_frame *frame, enum kq_framing framing, struct mark mark)
{
    return frame->framing == framing &&
           (framing != KQ_FRAMING_LINE || (frame->delimiter_length == mark.length &&
                                           memcmp(frame->delimiter, mark.bytes, mark.length) == 0));
}

static void set_framing(struct kq_frame *frame, enum kq_framing framing, struct mark mark)
{
    if (same_framing(frame, framing, mark))
        return;
    frame->framing = framing;
    frame->delimiter_length = (uint8_t)mark.length;
    memcpy(frame->delimiter, mark.bytes, mark.length);
    frame->tail_length = 0;
    frame->error = 0;
}

/* Puts what waits in front of the request; nothing waits any more. */
static int join_pending(struct kq_frame *frame, struct kq_frame_output *output,
                        const uint8_t **bytes, size_t *length)
{
    output->joined.length = 0;
    int r = kq_buf_append(&output->joined, frame->pending.data, frame->pending.length);
    if (r == 0)
        r = kq_buf_append(&output->joined, *bytes, *length);
    if (r < 0)
        return r;
    kq_buf_release(&frame->pending);
    *bytes = output->joined.data;
    *length = output->joined.length;
    return 0;
}

static int take(struct kq_frame *frame, const struct kq_frame_request *request,
                const uint8_t *bytes, size_t length, struct kq_frame_output *output)
{
    struct mark mark;
    enum kq_framing framing = framing_of(request, &mark);
    if (frame->pending.length > 0 && !same_framing(frame, framing, mark)) {
        int r = join_pending(frame, output, &bytes, &length);
        if (r < 0)
            return r;
    }
    set_framing(frame, framing, mark);
    switch (framing) {
    case KQ_FRAMING_LINE:
        return take_lines(frame, request, mark, bytes, bytes + length, output);
    case KQ_FRAMING_WRITE:
        frame->dropping = false;
        return request->may_be_fragment ? -EMSGSIZE : add_message(request, bytes, length, output);
    case KQ_FRAMING_FILE:
        if (frame->dropping)
            return frame->error ? frame->error : -EMSGSIZE;
        return keep_pending(frame, request, bytes, length);
    }
    return -EINVAL;
}

/* --- What is dropped after an error --- */

/* The frame's last bytes before a request, in case they begin a mark that ends in it. */
static void save_tail(struct kq_frame *frame, struct mark mark)
{
    if (mark.length > 1 && frame->pending.length > 0) {
        frame->tail_length = 0;
        keep_tail(frame, mark, frame->pending.data, frame->pending.length);
    }
}

static void drop_file(struct kq_frame *frame, int error)
{
    frame->dropping = true;
    frame->error = error;
}

/* The request at BYTES failed: what follows is dropped up to the next mark where the request began
 * or ended inside a line. */
static void drop_request(struct kq_frame *frame, const struct kq_frame_request *request,
                         const uint8_t *bytes, size_t length, int error)
{
    struct mark mark;
    enum kq_framing framing = framing_of(request, &mark);
    const uint8_t *end = bytes + length;
    kq_buf_release(&frame->pending);
    frame->dropping = false;
    if (framing == KQ_FRAMING_FILE)
        drop_file(frame, error);
    if (framing != KQ_FRAMING_LINE)
        return;
    const uint8_t *rest = behind_first_mark(mark, frame->tail, frame->tail_length, bytes, end);
    if (rest) {
        rest = behind_last_mark(mark, rest, end);
        frame->tail_length = 0;
    } else {
        rest = bytes;
    }
    frame->dropping = frame->began_inside || rest < end;
    keep_tail(frame, mark, rest, (size_t)(end - rest));
}

void kq_frame_abort(struct kq_frame *frame, int error)
{
    struct mark mark = {frame->delimiter, frame->delimiter_length};
    if (frame->framing == KQ_FRAMING_FILE && !frame->dropping)
        drop_file(frame, error);
    if (frame->framing == KQ_FRAMING_LINE && !frame->dropping) {
        save_tail(frame, mark);
        frame->dropping = frame->began_inside || frame->pending.length > 0;
    }
    kq_buf_release(&frame->pending);
}

/* --- The calls --- */

static void begin_request(struct kq_frame *frame, const struct kq_frame_request *request)
{
    struct mark mark;
    framing_of(request, &mark);
    frame->began_inside = frame->dropping || frame->pending.length > 0;
    save_tail(frame, mark);
}

void kq_frame_refuse(struct kq_frame *frame, const struct kq_frame_request *request,
                     const void *bytes, size_t length, int error)
{
    begin_request(frame, request);
    drop_request(frame, request, bytes, length, error);
}

int kq_frame_write(struct kq_frame *frame, const struct kq_frame_request *request,
                   const void *bytes, size_t length, struct kq_frame_output *output,
                   struct kq_frame_result *ret)
{
    int r = 0;
    kq_frame_output_begin(output);
    ret->pending_before = kq_frame_pending(frame);
    begin_request(frame, request);
    if (length > 0)
        r = take(frame, request, bytes, length, output);
    if (r == 0) {
        kq_frame_output_finish(output);
    } else {
        kq_frame_output_begin(output);
        drop_request(frame, request, bytes, length, r);
    }
    ret->pending_after = kq_frame_pending(frame);
    return r;
}

/* What waits becomes messages, also under a framing that is new to it; the frame may hold other
 * bytes then. */
static int finish(struct kq_frame *frame, const struct kq_frame_request *request,
                  struct kq_frame_output *output)
{
    const struct kq_buf pending = frame->pending;
    struct mark mark;
    enum kq_framing framing = framing_of(request, &mark);
    int r = 0;
    if (!same_framing(frame, framing, mark)) {
        frame->pending = (struct kq_buf){0};
        r = take(frame, request, pending.data, pending.length, output);
    }
    if (r == 0 && frame->pending.length > 0)
        r = add_message(request, frame->pending.data, frame->pending.length, output);
    return r;
}

int kq_frame_finish(struct kq_frame *frame, const struct kq_frame_request *request,
                    struct kq_frame_output *output, struct kq_frame_result *ret)
{
    struct kq_frame before = *frame;
    kq_frame_output_begin(output);
    ret->pending_before = kq_frame_pending(frame);
    int r = before.pending.length > 0 ? finish(frame, request, output) : 0;
    if (frame->pending.data != before.pending.data)
        kq_buf_release(&frame->pending);
    *frame = before;
    if (r == 0)
        kq_frame_output_finish(output);
    else
        kq_frame_output_begin(output);
    if (r != -ENOMEM)
        kq_frame_release(frame);
    ret->pending_after = kq_frame_pending(frame);
    return r;
}

void kq_frame_release(struct kq_frame *frame)
{
    kq_buf_release(&frame->pending);
    *frame = (struct kq_frame){0};
}
