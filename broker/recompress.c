/* Batches as compression.type wants them stored. */
#include "broker/base/endian.h"
#include "broker/codec.h"
#include "broker/produce.h"
#include "broker/validate.h"

#define AT_LENGTH 8

/* The records of the batch as they were before they were compressed. */
static int plain_records(const uint8_t *bytes, const struct kq_batch_header *header, size_t limit,
                         struct kq_buf *scratch, const uint8_t **ret, size_t *ret_length)
{
    enum kq_codec codec = header->attributes & KQ_ATTRIBUTE_CODEC;
    *ret = bytes + KQ_BATCH_HEADER;
    *ret_length = header->size - KQ_BATCH_HEADER;
    if (codec == KQ_CODEC_NONE)
        return 0;
    /* Plain batches come without. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    scratch->length = 0;
    int r = kq_codec_decompress(codec, *ret, *ret_length, limit, scratch);
    *ret = scratch->data;
    *ret_length = scratch->length;
    return r;
}

int kq_batch_recompress(const uint8_t *bytes, const struct kq_batch_header *header,
                        enum kq_codec codec, int level, size_t limit, struct kq_buf *scratch,
                        struct kq_buf *out)
{
    const uint8_t *records;
    size_t length, start = out->length;
    int r = plain_records(bytes, header, limit, scratch, &records, &length);
    if (r == 0 && codec != KQ_CODEC_NONE && length > limit)
        r = -EFBIG; /* nobody could read it again */
    if (r == 0)
        r = kq_buf_append(out, bytes, KQ_BATCH_HEADER);
    if (r == 0)
        r = codec == KQ_CODEC_NONE ? kq_buf_append(out, records, length)
                                   : kq_codec_compress(codec, level, records, length, out);
    if (r == 0 && out->length - start > INT32_MAX)
        r = -EFBIG;
    if (r < 0) {
        out->length = start;
        return r;
    }
    struct kq_batch_header changed = *header;
    uint8_t *batch = out->data + start;
    changed.size = (uint32_t)(out->length - start);
    kq_store_be32(batch + AT_LENGTH, changed.size - KQ_BATCH_OVERHEAD);
    kq_batch_stamp(batch, &changed,
                   (int16_t)((header->attributes & ~KQ_ATTRIBUTE_CODEC) | (int)codec),
                   header->max_timestamp);
    return 0;
}

int kq_batch_store_as(const struct kq_topic_config *config, const uint8_t *bytes,
                      const struct kq_batch_header *header, struct kq_buf *scratch,
                      struct kq_buf *out)
{
    return kq_batch_recompress(bytes, header, (enum kq_codec)config->compression,
                               kq_topic_config_level(config), (size_t)config->log.max_batch_bytes,
                               scratch, out);
}

int kq_produce_compress(const struct kq_topic_config *config, const uint8_t *bytes, size_t length,
                        struct kq_buf *out)
{
    struct kq_batch_header header;
    size_t before = out->length;
    if (config->compression <= KQ_CODEC_NONE || kq_batch_header_read(bytes, length, &header) != 0)
        return KQ_END;
    int r = kq_batch_store_as(config, bytes, &header, NULL, out);
    if (r == 0 && out->length - before >= length) {
        out->length = before;
        return KQ_END;
    }
    return r == -EFBIG ? KQ_END : r;
}
