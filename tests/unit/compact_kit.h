/* A log of keyed messages beside a model of it: what compaction may and may not do to it. */
#pragma once

#include "tests/unit/chance.h"
#include "tests/unit/log_kit.h"

#include "broker/base/mem.h"
#include "broker/codec.h"
#include "broker/compact.h"

#define CKIT_KEYS 40
#define CKIT_MESSAGES 20000

/* What was appended at an offset. */
struct ckit_message {
    int key; /* -1: none */
    int serial;
    int value_length; /* -1: a tombstone */
    int64_t text;     /* its text position */
    int64_t text_length;
    int64_t timestamp;
    bool there; /* as the log was read last */
};

struct ckit {
    struct kit kit;
    struct ckit_message *at; /* by offset */
    int64_t end, text_end;
    int64_t last[CKIT_KEYS]; /* offset of each key's last message, -1 */
    int64_t first_dirty;
    int64_t now_ms;
    int serial;
    long paces, stop_at; /* fail the pace of that number; 0: never */
    size_t map_bytes;
};

static inline void ckit_begin(struct ckit *ckit)
{
    *ckit = (struct ckit){.first_dirty = -1, .now_ms = 1000000, .map_bytes = 1 << 20};
    kit_begin_fast(&ckit->kit);
    ckit->kit.config.segment_bytes = 4096;
    ckit->kit.config.index_interval_bytes = 300;
    ckit->kit.config.delete_old = false;
    ckit->kit.renderings->at[0].separator_length = 1;
    ckit->kit.renderings->at[0].separator[0] = ':';
    ckit->at = calloc(CKIT_MESSAGES, sizeof(*ckit->at));
    for (int key = 0; key < CKIT_KEYS; key++)
        ckit->last[key] = -1;
}

static inline void ckit_end(struct ckit *ckit)
{
    kit_end(&ckit->kit);
    free(ckit->at);
}

/* The bytes of message MESSAGE; KEY and VALUE have room for 32 and 600 bytes. */
static inline void ckit_bytes(const struct ckit_message *message, char *key, char *value)
{
    snprintf(key, 32, "k%d", message->key);
    memset(value, 'a' + message->serial % 26, 600);
    char number[24];
    int digits = snprintf(number, sizeof(number), "%d.", message->serial);
    if (message->value_length > 0)
        memcpy(value, number,
               (size_t)(digits < message->value_length ? digits : message->value_length));
}

/* Its text under the kit's rendering; TEXT has room for 700 bytes. */
static inline size_t ckit_text(const struct ckit_message *message, char *text)
{
    char key[32], value[600];
    size_t length = 0;
    ckit_bytes(message, key, value);
    if (message->key >= 0)
        length = (size_t)sprintf(text, "%s:", key);
    if (message->value_length > 0) {
        memcpy(text + length, value, (size_t)message->value_length);
        length += (size_t)message->value_length;
    }
    text[length++] = '\n';
    return length;
}

/* Appends a batch of COUNT messages by chance; returns what kq_log_append does. */
static inline int ckit_append(struct ckit *ckit, int count, bool may_lack_key)
{
    struct kq_buf bytes = {.data = malloc(1 << 20), .capacity = 1 << 20}, packed = {0};
    struct kq_batch_builder builder;
    struct kq_batch_header header;
    struct kq_log_appended appended;
    struct ckit_message messages[64];
    int codec = (int)chance(6) == 0 ? (int)chance(5) : 0;
    int64_t text = 0;
    assert_int_equal(kq_batch_begin(&builder, &bytes, 0), 0);
    for (int i = 0; i < count; i++) {
        struct ckit_message *message = &messages[i];
        char key[32], value[600], line[700];
        *message = (struct ckit_message){
            .key = may_lack_key && chance(10) == 0 ? -1 : (int)chance(CKIT_KEYS),
            .serial = ckit->serial++,
            .value_length = chance(8) == 0 ? -1 : (int)chance(60),
            .timestamp = ckit->now_ms + (int64_t)chance(1000),
        };
        if (chance(50) == 0)
            message->value_length = 599;
        ckit_bytes(message, key, value);
        message->text_length = (int64_t)ckit_text(message, line);
        text += message->text_length;
        assert_int_equal(kq_batch_add(&builder, message->timestamp, message->key < 0 ? NULL : key,
                                      (int32_t)strlen(key),
                                      message->value_length < 0 ? NULL : value,
                                      message->value_length, NULL, 0, 0),
                         0);
    }
    kq_batch_finish(&builder);
    if (codec) {
        assert_int_equal(kq_batch_header_read(bytes.data, bytes.length, &header), 0);
        assert_int_equal(kq_codec_compress((enum kq_codec)codec, 0, bytes.data + KQ_BATCH_HEADER,
                                           bytes.length - KQ_BATCH_HEADER, &packed),
                         0);
        memcpy(bytes.data + KQ_BATCH_HEADER, packed.data, packed.length);
        bytes.length = KQ_BATCH_HEADER + packed.length;
        header.size = (uint32_t)bytes.length;
        header.attributes |= (int16_t)codec;
        kq_batch_header_write(bytes.data, &header);
        kq_buf_release(&packed);
    }
    struct kq_log_append append = {
        .bytes = bytes.data, .length = bytes.length, .text_length = chance(4) ? text : -1};
    int r = kq_log_append(ckit->kit.log, &append, &appended);
    kq_buf_release(&bytes);
    if (r < 0)
        return r;
    for (int i = 0; i < count; i++) {
        struct ckit_message *message = &ckit->at[appended.base_offset + i];
        *message = messages[i];
        message->text = ckit->text_end;
        ckit->text_end += message->text_length;
        if (message->key >= 0)
            ckit->last[message->key] = appended.base_offset + i;
    }
    ckit->end = appended.next_offset;
    return r;
}

static inline void ckit_fill(struct ckit *ckit, int batches, bool may_lack_key)
{
    for (int i = 0; i < batches; i++)
        assert_int_equal(ckit_append(ckit, 1 + (int)chance(12), may_lack_key), 0);
}

static inline int ckit_pace(void *context, int64_t bytes)
{
    struct ckit *ckit = context;
    return ++ckit->paces == ckit->stop_at ? -ECANCELED : 0;
}

static const struct kq_compact_config ckit_config = {
    .delete_retention_ms = 60000, .max_lag_ms = INT64_MAX, .min_dirty_ratio = 0};

/* Cleans as far as one run comes. */
static inline int ckit_compact(struct ckit *ckit, struct kq_compact_done *ret_done)
{
    struct kq_compact_state state;
    struct kq_compact_done done;
    int r =
        kq_log_compact_look(ckit->kit.log, &ckit_config, ckit->first_dirty, ckit->now_ms, &state);
    if (r < 0)
        return r;
    struct kq_compact_work work = {
        .first_dirty = state.first_dirty,
        .until = state.until,
        .now_ms = ckit->now_ms,
        .delete_retention_ms = ckit_config.delete_retention_ms,
        .map_bytes = ckit->map_bytes,
        .map_load = 0.9,
        .io_bytes = 1000,
        .pace = ckit_pace,
        .context = ckit,
    };
    r = kq_log_compact(ckit->kit.log, &work, &done);
    if (r == 0)
        ckit->first_dirty = done.first_dirty;
    if (ret_done)
        *ret_done = done;
    return r;
}

/* --- What is in the log --- */

struct ckit_reading {
    struct ckit *ckit;
    int64_t next; /* the least offset that may come */
    int64_t seen;
};

static inline void ckit_see(void *context, const uint8_t *bytes,
                            const struct kq_batch_header *header)
{
    struct ckit_reading *reading = context;
    struct ckit *ckit = reading->ckit;
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record_reader reader;
    struct kq_record record;
    int r;
    assert_true(header->base_offset >= reading->next);
    reading->next = kq_batch_next_offset(header);
    assert_int_equal(kq_record_reader_open(&reader, bytes, header, 1 << 20, &scratch), 0);
    while ((r = kq_record_next(&reader, &record)) == 0) {
        struct ckit_message *message = &ckit->at[record.offset];
        char key[32], value[600];
        ckit_bytes(message, key, value);
        assert_int_equal(record.key_length, message->key < 0 ? -1 : (int)strlen(key));
        if (record.key_length >= 0)
            assert_memory_equal(record.key, key, (size_t)record.key_length);
        assert_int_equal(record.value_length, message->value_length);
        if (record.value_length > 0)
            assert_memory_equal(record.value, value, (size_t)record.value_length);
        assert_int_equal(record.timestamp, message->timestamp);
        message->there = true;
        reading->seen++;
    }
    assert_int_equal(r, KQ_END);
}

/* Reads all: nothing came that was not appended, order and offsets are as they were, the last
 * message of each key is there unless it is a tombstone that has had its time. */
static inline int64_t ckit_check_messages(struct ckit *ckit)
{
    struct ckit_reading reading = {.ckit = ckit};
    for (int64_t offset = 0; offset < ckit->end; offset++)
        ckit->at[offset].there = false;
    assert_true(kit_read_all(&ckit->kit, 0, ckit_see, &reading) >= 0);
    assert_int_equal(kit_end_offset(&ckit->kit), ckit->end);
    for (int key = 0; key < CKIT_KEYS; key++) {
        if (ckit->last[key] < 0)
            continue;
        const struct ckit_message *last = &ckit->at[ckit->last[key]];
        if (!last->there)
            assert_true(last->value_length < 0 && ckit->now_ms > 1000000);
    }
    return reading.seen;
}

/* Of what is clean, nothing is there but the last of each key. */
static inline void ckit_check_clean(struct ckit *ckit)
{
    int64_t last[CKIT_KEYS];
    for (int key = 0; key < CKIT_KEYS; key++)
        last[key] = -1;
    for (int64_t offset = ckit->first_dirty - 1; offset >= 0; offset--) {
        const struct ckit_message *message = &ckit->at[offset];
        if (!message->there)
            continue;
        assert_true(message->key >= 0 && last[message->key] < 0);
        last[message->key] = offset;
    }
}

/* The text at FROM, up to SIZE bytes, as it is read from there on without a seek. */
static inline size_t ckit_read_text(struct ckit *ckit, int64_t from, char *text, size_t size)
{
    struct kq_extent extent, next;
    kq_autobuf struct kq_buf scratch = {0};
    size_t length = 0;
    int r = kq_log_read_text(ckit->kit.log, from, UINT32_MAX, true, &extent);
    assert_int_equal(r, 0);
    int64_t skip = from - extent.text;
    assert_true(skip >= 0);
    while (r == 0 && length < size) {
        uint8_t *bytes = malloc(extent.length);
        assert_int_equal(pread(extent.fd, bytes, extent.length, extent.position), extent.length);
        for (uint32_t at = 0; at < extent.length && length < size;) {
            struct kq_batch_header header;
            struct kq_record_reader reader;
            struct kq_record record;
            assert_int_equal(kq_batch_header_read(bytes + at, extent.length - at, &header), 0);
            assert_int_equal(kq_record_reader_open(&reader, bytes + at, &header, 1 << 20, &scratch),
                             0);
            while (kq_record_next(&reader, &record) == 0) {
                uint8_t one[700], *end = kq_text_write(&ckit->kit.renderings->at[0], &record, one);
                for (uint8_t *byte = one; byte < end && length < size; byte++)
                    if (skip-- <= 0)
                        text[length++] = (char)*byte;
            }
            at += header.size;
        }
        free(bytes);
        r = kq_log_read_next(ckit->kit.log, &extent, UINT32_MAX, &next);
        kq_extent_unref(&extent);
        extent = next;
    }
    if (r == 0)
        kq_extent_unref(&extent);
    return length;
}

/* Every text position is where it always was, or a hole. Looks closely at STEP-th messages. */
static inline void ckit_check_text(struct ckit *ckit, int64_t step)
{
    struct kq_log_text_bounds bounds;
    int64_t packed = 0, next_there = ckit->end, text;
    uint64_t layout;
    assert_int_equal(kq_log_text_bounds(ckit->kit.log, true, &bounds), 0);
    assert_int_equal(bounds.end, ckit->text_end);
    for (int64_t offset = ckit->end - 1; offset >= 0; offset--) {
        packed += ckit->at[offset].there ? ckit->at[offset].text_length : 0;
        next_there = ckit->at[offset].there ? offset : next_there;
    }
    assert_int_equal(bounds.end - bounds.removed, packed);
    assert_int_equal(bounds.start, next_there < ckit->end ? ckit->at[next_there].text : bounds.end);
    next_there = ckit->end;
    for (int64_t offset = ckit->end - 1; offset >= 0; offset--) {
        const struct ckit_message *message = &ckit->at[offset];
        if (message->there) {
            next_there = offset;
            packed -= message->text_length;
            if (message->text + message->text_length > bounds.settled)
                assert_true(message->text >= bounds.settled);
        }
        if ((offset + ckit->serial) % step != 0)
            continue;
        int64_t next = next_there < ckit->end ? ckit->at[next_there].text : ckit->text_end;
        int64_t within = (int64_t)chance((uint64_t)message->text_length);
        int64_t got;
        struct kq_extent extent;
        assert_int_equal(kq_log_text_of_offset(ckit->kit.log, offset, true, &text), 0);
        assert_int_equal(text, next);
        bool gone = message->text + within < bounds.start;
        int r = kq_log_next_text(ckit->kit.log, message->text + within, true, &text);
        assert_int_equal(r, gone ? KQ_GONE : 0);
        if (!gone)
            assert_int_equal(text, message->there ? message->text + within : next);
        assert_int_equal(kq_log_pack(ckit->kit.log, message->text + within, true, &got, &layout),
                         0);
        assert_int_equal(got, packed + (message->there ? within : 0));
        assert_int_equal(layout, bounds.layout);
        if (!message->there) {
            assert_int_equal(
                kq_log_read_text(ckit->kit.log, message->text + within, UINT32_MAX, true, &extent),
                gone ? KQ_GONE : KQ_HOLE);
            continue;
        }
        char expected[700], found[700];
        size_t length = ckit_text(message, expected);
        assert_int_equal(kq_log_unpack(ckit->kit.log, packed + within, layout, true, &text), 0);
        assert_int_equal(text, message->text + within);
        assert_int_equal(
            ckit_read_text(ckit, message->text + within, found, length - (size_t)within),
            length - (size_t)within);
        assert_memory_equal(found, expected + within, length - (size_t)within);
    }
    assert_int_equal(packed, 0);
}

static inline void ckit_check(struct ckit *ckit, int64_t step)
{
    ckit_check_messages(ckit);
    ckit_check_clean(ckit);
    ckit_check_text(ckit, step);
}
