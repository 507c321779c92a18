#include "broker/produce.h"

#include "broker/base/clock.h"
#include "broker/internal.h"
#include "broker/validate.h"

#define AT_ATTRIBUTES 22 /* the byte that has the codec */

/* What is done at once, where others wait for this thread. */
#define QUICK_BATCH (4 * 1024 * 1024)
#define QUICK_RECORDS (256 * 1024) /* decompressed */

struct production {
    const struct kq_produce *produce;
    struct kq_topic_config config;
    struct kq_batch_verdict verdict;
    int64_t now_ms;
    bool may_block;
};

static bool is_other_codec(const struct production *production, int codec)
{
    return production->config.compression >= 0 && production->config.compression != codec;
}

/* Told by what can be seen before anything is checked. */
static bool is_long(const struct production *production)
{
    const struct kq_produce *produce = production->produce;
    return produce->length > QUICK_BATCH ||
           (produce->length >= KQ_BATCH_HEADER &&
            is_other_codec(production, produce->bytes[AT_ATTRIBUTES] & KQ_ATTRIBUTE_CODEC));
}

static int check(struct production *production)
{
    const struct kq_topic_config *config = &production->config;
    const struct kq_produce *produce = production->produce;
    size_t limit = (size_t)config->log.max_batch_bytes;
    bool short_of = !production->may_block && limit > QUICK_RECORDS;
    struct kq_batch_rules rules = {
        .max_bytes = config->max_message_bytes,
        .limit = short_of ? QUICK_RECORDS : limit,
        .now_ms = production->now_ms,
        .before_max_ms = config->timestamp_before_max_ms,
        .after_max_ms = config->timestamp_after_max_ms,
        .append_time = config->log_append_time,
        .needs_keys = config->compact,
        .zstd = produce->flags & KQ_PRODUCE_ZSTD,
        .blamed = produce->blamed,
    };
    if (!production->may_block && is_long(production))
        return KQ_WOULD_BLOCK;
    int r = kq_batch_validate(produce->bytes, produce->length, &rules, produce->scratch,
                              &production->verdict);
    if (r != -EFBIG)
        return r;
    production->verdict.record_index = -1;
    production->verdict.reason = "the batch has more bytes decompressed than are read";
    return short_of ? KQ_WOULD_BLOCK : KQ_INVALID_RECORD;
}

/* A client's largest timestamp that is not that of its records is made right, as Kafka does. */
static void stamp(struct production *production)
{
    struct kq_batch_header *header = &production->verdict.header;
    bool append_time = production->config.log_append_time;
    int64_t max = append_time ? production->now_ms : production->verdict.max_timestamp;
    if (append_time || header->max_timestamp != max)
        kq_batch_stamp(
            production->produce->bytes, header,
            (int16_t)(header->attributes | (append_time ? KQ_ATTRIBUTE_LOG_APPEND_TIME : 0)), max);
}

static int recompress(struct production *production, struct kq_buf *out)
{
    const struct kq_topic_config *config = &production->config;
    int r = kq_batch_store_as(config, production->produce->bytes, &production->verdict.header,
                              production->produce->scratch, out);
    if (r == -EFBIG || (r == 0 && (int64_t)out->length > config->max_message_bytes)) {
        production->verdict.reason = "with compression.type the batch is larger than "
                                     "max.message.bytes";
        r = KQ_TOO_LARGE;
    }
    return r;
}

static const char *reason_of(int condition)
{
    switch (condition) {
    case KQ_OUT_OF_ORDER_SEQUENCE:
        return "the sequence number does not follow the producer's last one";
    case KQ_FENCED_PRODUCER:
        return "a newer epoch of the producer was seen";
    case KQ_TRANSACTIONAL:
        return "a transaction of the producer is open";
    default:
        return NULL;
    }
}

static int append(const struct kq_access *access, struct production *production,
                  struct kq_log_appended *ret)
{
    kq_autobuf struct kq_buf other = {0};
    struct kq_log_append append = {
        .bytes = production->produce->bytes,
        .length = production->produce->length,
        .text_length = -1,
    };
    int r = 0;
    stamp(production);
    if (is_other_codec(production, production->verdict.header.attributes & KQ_ATTRIBUTE_CODEC)) {
        r = recompress(production, &other);
        append.bytes = other.data;
        append.length = other.length;
    }
    if (r == 0)
        r = kq_append(access, &append, ret);
    if (r > 0 && !production->verdict.reason)
        production->verdict.reason = reason_of(r);
    return r;
}

int kq_produce_batch(const struct kq_access *access, const struct kq_produce *produce,
                     struct kq_produced *ret)
{
    struct production production = {
        .produce = produce,
        .now_ms = kq_clock_wall_ms(),
        .may_block = produce->flags & KQ_PRODUCE_MAY_BLOCK,
    };
    struct kq_log_appended appended;
    struct kq_log_bounds bounds;
    if (!(access->rights & KQ_RIGHT_WRITE))
        return -EACCES;
    kq_topic_config(access->partition->topic, &production.config);
    int r = check(&production);
    if (r == 0)
        r = append(access, &production, &appended);
    kq_buf_clear(produce->scratch, KQ_PRODUCE_KEEP);
    if (r < 0 || r == KQ_WOULD_BLOCK)
        return r;
    kq_bounds(access->partition, &bounds);
    ret->log_start_offset = bounds.start;
    ret->record_index = production.verdict.record_index;
    ret->reason = production.verdict.reason;
    if (r != 0 && r != KQ_MUST_SYNC)
        return r;
    ret->base_offset = appended.base_offset;
    ret->next_offset = appended.next_offset;
    ret->duplicate = appended.duplicate;
    ret->log_append_time = production.config.log_append_time ? appended.timestamp : -1;
    return r;
}
