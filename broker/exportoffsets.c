#include "broker/exportoffsets.h"

#include "broker/base/endian.h"

#define LARGEST_BATCH (128 << 20)
#define COMMIT_KEY 1    /* the newest version of a key that is of a commit */
#define EPOCH_VERSION 3 /* of a value: the first with a leader epoch */
#define EPOCH_AT 10     /* behind the version and the offset */

/* Does RECORD name an epoch that another cluster does not know? */
static bool has_epoch(const struct kq_record *record)
{
    return record->key_length >= 2 && kq_load_be16(record->key) <= COMMIT_KEY &&
           record->value_length >= EPOCH_AT + 4 &&
           (int16_t)kq_load_be16(record->value) >= EPOCH_VERSION &&
           (int32_t)kq_load_be32(record->value + EPOCH_AT) > 0;
}

/* HEADER's batch without compression: its RECORDS behind a header that is not written yet. */
static int begin_copy(const uint8_t *records, size_t length, struct kq_buf *ret)
{
    static const uint8_t header[KQ_BATCH_HEADER];
    ret->length = 0;
    int r = kq_buf_append(ret, header, sizeof(header));
    return r < 0 ? r : kq_buf_append(ret, records, length);
}

static void end_copy(const struct kq_batch_header *header, struct kq_buf *copy)
{
    struct kq_batch_header changed = *header;
    changed.size = (uint32_t)copy->length;
    changed.attributes &= ~KQ_ATTRIBUTE_CODEC;
    kq_batch_header_write(copy->data, &changed);
}

int kq_export_offsets(const uint8_t *bytes, const struct kq_batch_header *header,
                      struct kq_buf *scratch, struct kq_buf *ret)
{
    struct kq_record_reader reader;
    struct kq_record record;
    bool changed = false;
    int r = kq_record_reader_open(&reader, bytes, header, LARGEST_BATCH, scratch);
    if (r < 0)
        return r;
    const uint8_t *records = reader.at;
    size_t length = (size_t)(reader.end - reader.at);
    while ((r = kq_record_next(&reader, &record)) == 0) {
        if (!has_epoch(&record))
            continue;
        r = changed ? 0 : begin_copy(records, length, ret);
        if (r < 0)
            return r;
        changed = true;
        kq_store_be32(ret->data + KQ_BATCH_HEADER + (record.value - records) + EPOCH_AT,
                      UINT32_MAX);
    }
    if (r != KQ_END)
        return r;
    if (changed)
        end_copy(header, ret);
    return changed ? 0 : KQ_READY;
}
