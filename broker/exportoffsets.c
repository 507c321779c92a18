#include "broker/exportoffsets.h"

#include "broker/base/endian.h"
#include "broker/group.h"

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

/* Is it one that only kqfs reads: owner and mode of a group? Kafka skips it, but says so. */
static bool is_ours(const struct kq_record *record)
{
    return record->key_length >= 2 &&
           (int16_t)kq_load_be16(record->key) == KQ_OFFSETS_KEY_ATTRIBUTES;
}

struct copying {
    struct kq_batch_header header; /* of the copy */
    struct kq_buf *to;
    bool changed;
};

/* RECORD, which lies at BYTES, behind what the copy has. */
static int copy_record(struct copying *copying, const struct kq_record *record,
                       const uint8_t *bytes, size_t length)
{
    size_t before = copying->to->length;
    if (is_ours(record)) {
        copying->changed = true;
        copying->header.record_count--;
        return 0;
    }
    int r = kq_buf_append(copying->to, bytes, length);
    if (r == 0 && has_epoch(record)) {
        kq_store_be32(copying->to->data + before + (record->value - bytes) + EPOCH_AT, UINT32_MAX);
        copying->changed = true;
    }
    return r;
}

static int copy_all(struct copying *copying, struct kq_record_reader *reader)
{
    static const uint8_t header[KQ_BATCH_HEADER];
    struct kq_record record;
    copying->to->length = 0;
    int r = kq_buf_append(copying->to, header, sizeof(header));
    while (r == 0) {
        const uint8_t *bytes = reader->at;
        r = kq_record_next(reader, &record);
        if (r == 0)
            r = copy_record(copying, &record, bytes, (size_t)(reader->at - bytes));
    }
    return r == KQ_END ? 0 : r;
}

int kq_export_offsets(const uint8_t *bytes, const struct kq_batch_header *header,
                      struct kq_buf *scratch, struct kq_buf *ret)
{
    struct copying copying = {.header = *header, .to = ret};
    struct kq_record_reader reader;
    int r = kq_record_reader_open(&reader, bytes, header, LARGEST_BATCH, scratch);
    if (r == 0)
        r = copy_all(&copying, &reader);
    if (r < 0)
        return r;
    copying.header.size = (uint32_t)ret->length;
    copying.header.attributes &= ~KQ_ATTRIBUTE_CODEC;
    kq_batch_header_write(ret->data, &copying.header);
    return copying.changed ? 0 : KQ_READY;
}
