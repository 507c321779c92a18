/* `.snapshot`: what is known of the producers at an offset, in Kafka's own format.
 *
 *   version i16 = 1 · CRC-32C of all that follows u32 · count i32 · for each: producer id i64,
 * epoch i16, last sequence i32, last offset i64, offset delta i32, timestamp i64, coordinator epoch
 * i32, first offset of the open transaction i64
 *
 * Kafka reads no further. Behind that, ours: "kqfs", version i16 = 1, the largest forgotten id i64,
 * and for each of the producers above: when it was seen i64, how many batches it wrote before the
 * last i8, and these: last offset i64, timestamp i64, last sequence i32, offset delta i32.
 *
 * Source: Kafka's ProducerSnapshot.json and ProducerStateManager. */
#include "broker/base/crc32c.h"
#include "broker/base/wire.h"
#include "broker/producer.h"

#define VERSION 1
#define CRC_AT 2
#define ENTRIES_AT 6 /* what the checksum is over */
#define ENTRY 46     /* bytes of one in Kafka's part */
#define OURS 0x6b716673
#define OUR_VERSION 1

/* --- Writing --- */

static void write_entry(struct kq_wire_writer *writer, const struct kq_producer_entry *entry)
{
    static const struct kq_producer_batch none = {
        .last_offset = -1, .timestamp = -1, .last_sequence = KQ_NO_SEQUENCE};
    const struct kq_producer_batch *last =
        entry->batch_count ? &entry->batches[entry->batch_count - 1] : &none;
    kq_wire_write_int64(writer, entry->id);
    kq_wire_write_int16(writer, entry->epoch);
    kq_wire_write_int32(writer, last->last_sequence);
    kq_wire_write_int64(writer, last->last_offset);
    kq_wire_write_int32(writer, last->offset_delta);
    kq_wire_write_int64(writer, entry->timestamp);
    kq_wire_write_int32(writer, entry->coordinator_epoch);
    kq_wire_write_int64(writer, entry->transaction);
}

static void write_rest(struct kq_wire_writer *writer, const struct kq_producer_entry *entry)
{
    int older = entry->batch_count ? entry->batch_count - 1 : 0;
    kq_wire_write_int64(writer, entry->seen_ms);
    kq_wire_write_int8(writer, (int8_t)older);
    for (int i = 0; i < older; i++) {
        kq_wire_write_int64(writer, entry->batches[i].last_offset);
        kq_wire_write_int64(writer, entry->batches[i].timestamp);
        kq_wire_write_int32(writer, entry->batches[i].last_sequence);
        kq_wire_write_int32(writer, entry->batches[i].offset_delta);
    }
}

int kq_producers_write(const struct kq_producers *producers, struct kq_buf *out)
{
    const struct kq_producer_entry *entry;
    struct kq_wire_writer writer;
    size_t from = out->length;
    kq_wire_writer_init(&writer, out);
    kq_wire_write_int16(&writer, VERSION);
    kq_wire_write_int32(&writer, 0);
    kq_wire_write_int32(&writer, (int32_t)producers->count);
    TAILQ_FOREACH (entry, &producers->used, by_use)
        write_entry(&writer, entry);
    kq_wire_write_int32(&writer, OURS);
    kq_wire_write_int16(&writer, OUR_VERSION);
    kq_wire_write_int64(&writer, producers->forgotten);
    TAILQ_FOREACH (entry, &producers->used, by_use)
        write_rest(&writer, entry);
    if (writer.error) {
        out->length = from;
        return writer.error;
    }
    uint8_t *bytes = out->data + from;
    kq_store_be32(bytes + CRC_AT,
                  kq_crc32c(0, bytes + ENTRIES_AT, out->length - from - ENTRIES_AT));
    return 0;
}

/* --- Reading --- */

static int read_entry(struct kq_wire_reader *reader, struct kq_producers *producers, int64_t now_ms)
{
    struct kq_batch_header header = {.producer_id = kq_wire_read_int64(reader)};
    struct kq_producer_batch batch;
    header.producer_epoch = kq_wire_read_int16(reader);
    batch.last_sequence = kq_wire_read_int32(reader);
    batch.last_offset = kq_wire_read_int64(reader);
    batch.offset_delta = kq_wire_read_int32(reader);
    batch.timestamp = header.max_timestamp = kq_wire_read_int64(reader);
    int32_t coordinator_epoch = kq_wire_read_int32(reader);
    int64_t transaction = kq_wire_read_int64(reader);
    bool has_batch = batch.last_offset >= 0;
    if (reader->error || header.producer_id < 0 || header.producer_epoch < 0 || transaction < -1 ||
        (has_batch && (batch.last_sequence < 0 || batch.offset_delta < 0)) ||
        kq_producers_find(producers, header.producer_id))
        return -EBADMSG;
    int r = kq_producers_reserve(producers, header.producer_id);
    if (r < 0)
        return r;
    struct kq_producer_entry *entry = kq_producers_find(producers, header.producer_id);
    entry->epoch = header.producer_epoch;
    entry->seen_ms = now_ms;
    entry->timestamp = header.max_timestamp;
    entry->coordinator_epoch = coordinator_epoch;
    entry->transaction = transaction;
    entry->batch_count = has_batch;
    entry->batches[0] = batch;
    if (transaction >= 0)
        TAILQ_INSERT_TAIL(&producers->open, entry, by_start);
    return 0;
}

static int read_rest(struct kq_wire_reader *reader, struct kq_producer_entry *entry)
{
    struct kq_producer_batch last = entry->batches[0];
    entry->seen_ms = kq_wire_read_int64(reader);
    int8_t older = kq_wire_read_int8(reader);
    if (reader->error || older < 0 || older >= KQ_PRODUCER_BATCHES ||
        (older > 0 && !entry->batch_count))
        return -EBADMSG;
    for (int8_t i = 0; i < older; i++) {
        struct kq_producer_batch *batch = &entry->batches[i];
        batch->last_offset = kq_wire_read_int64(reader);
        batch->timestamp = kq_wire_read_int64(reader);
        batch->last_sequence = kq_wire_read_int32(reader);
        batch->offset_delta = kq_wire_read_int32(reader);
    }
    entry->batches[older] = last;
    entry->batch_count = (uint8_t)(entry->batch_count + older);
    return 0;
}

static int read_ours(struct kq_wire_reader *reader, struct kq_producers *producers, bool *ret_ours)
{
    struct kq_producer_entry *entry;
    if (kq_wire_left(reader) == 0) {
        *ret_ours = false;
        return 0;
    }
    if (kq_wire_read_int32(reader) != OURS || kq_wire_read_int16(reader) != OUR_VERSION)
        return -EBADMSG;
    int64_t forgotten = kq_wire_read_int64(reader);
    int r = 0;
    TAILQ_FOREACH (entry, &producers->used, by_use)
        if (r == 0)
            r = read_rest(reader, entry);
    if (r == 0)
        r = kq_wire_reader_finish(reader);
    if (r == 0) {
        producers->forgotten = forgotten;
        *ret_ours = true;
    }
    return r;
}

static int by_start(const void *a, const void *b)
{
    const struct kq_producer_entry *x = *(struct kq_producer_entry *const *)a;
    const struct kq_producer_entry *y = *(struct kq_producer_entry *const *)b;
    return (x->transaction > y->transaction) - (x->transaction < y->transaction);
}

/* Open transactions stand in the order of their offsets; Kafka's file has none. */
static int sort_open(struct kq_producers *producers)
{
    struct kq_producer_entry *entry;
    size_t count = 0;
    TAILQ_FOREACH (entry, &producers->open, by_start)
        count++;
    if (count < 2)
        return 0;
    struct kq_producer_entry **sorted = kq_alloc(count * sizeof(struct kq_producer_entry *));
    if (!sorted)
        return -ENOMEM;
    count = 0;
    while ((entry = TAILQ_FIRST(&producers->open))) {
        TAILQ_REMOVE(&producers->open, entry, by_start);
        sorted[count++] = entry;
    }
    qsort(sorted, count, sizeof(struct kq_producer_entry *), by_start);
    for (size_t i = 0; i < count; i++)
        TAILQ_INSERT_TAIL(&producers->open, sorted[i], by_start);
    free(sorted);
    return 0;
}

int kq_producers_read(struct kq_producers *producers, const void *bytes, size_t length,
                      int64_t now_ms, bool *ret_ours)
{
    struct kq_wire_reader reader;
    int64_t forgotten = producers->forgotten;
    size_t max = producers->max;
    bool ours = false;
    kq_wire_reader_init(&reader, bytes, length, NULL);
    if (kq_wire_read_int16(&reader) != VERSION)
        return -EBADMSG;
    uint32_t crc = kq_wire_read_uint32(&reader);
    if (reader.error ||
        kq_crc32c(0, (const uint8_t *)bytes + ENTRIES_AT, length - ENTRIES_AT) != crc)
        return -EBADMSG;
    int32_t count = kq_wire_read_count(&reader, false, false, ENTRY);
    int r = reader.error;
    producers->max = SIZE_MAX; /* who is too many goes when another comes */
    for (int32_t i = 0; i < count && r == 0; i++)
        r = read_entry(&reader, producers, now_ms);
    if (r == 0)
        r = read_ours(&reader, producers, &ours);
    if (r == 0)
        r = sort_open(producers);
    producers->max = max;
    if (r < 0)
        kq_producers_clear(producers, forgotten);
    else
        *ret_ours = ours;
    return r;
}
