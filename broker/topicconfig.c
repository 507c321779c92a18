#include "broker/topicconfig.h"

#include <ctype.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* One row a setting; READ fills the field at OFFSET, WRITE shows it. */
struct row {
    const char *name;
    int (*read)(const struct row *row, struct kq_topic_config *config, const char *value,
                const char **ret_reason);
    int (*write)(const struct row *row, const struct kq_topic_config *config, struct kq_buf *ret);
    size_t offset;
    int64_t minimum, maximum;
    bool rendering;
};

static const char *const codecs[] = {"uncompressed", "gzip", "snappy", "lz4", "zstd"};
static const char *const framings[] = {"line", "write", "file"};

/* Java's client takes it for the fast compressor, and the other levels for the thorough one. */
#define KAFKA_LZ4_DEFAULT 9

static int refuse(const char **ret_reason, const char *reason)
{
    *ret_reason = reason;
    return -EINVAL;
}

/* --- Numbers --- */

static int parse_number(const struct row *row, const char *value, int64_t *ret,
                        const char **ret_reason)
{
    char *end;
    if (!isdigit((unsigned char)value[*value == '-']))
        return refuse(ret_reason, "not a whole number");
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (*end)
        return refuse(ret_reason, "not a whole number");
    if (errno == ERANGE || number < row->minimum || number > row->maximum)
        return refuse(ret_reason, "out of range");
    *ret = number;
    return 0;
}

static int read_i64(const struct row *row, struct kq_topic_config *config, const char *value,
                    const char **ret_reason)
{
    return parse_number(row, value, (int64_t *)((char *)config + row->offset), ret_reason);
}

static int write_i64(const struct row *row, const struct kq_topic_config *config,
                     struct kq_buf *ret)
{
    return kq_buf_printf(ret, "%lld",
                         (long long)*(const int64_t *)((const char *)config + row->offset));
}

static int read_i32(const struct row *row, struct kq_topic_config *config, const char *value,
                    const char **ret_reason)
{
    int64_t number;
    int r = parse_number(row, value, &number, ret_reason);
    if (r == 0)
        *(int32_t *)((char *)config + row->offset) = (int32_t)number;
    return r;
}

static int write_i32(const struct row *row, const struct kq_topic_config *config,
                     struct kq_buf *ret)
{
    return kq_buf_printf(ret, "%d", *(const int32_t *)((const char *)config + row->offset));
}

static int read_ratio(const struct row *row, struct kq_topic_config *config, const char *value,
                      const char **ret_reason)
{
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end || isspace((unsigned char)*value) || !isfinite(number))
        return refuse(ret_reason, "not a number");
    if (number < 0 || number > 1)
        return refuse(ret_reason, "not between 0 and 1");
    *(double *)((char *)config + row->offset) = number;
    return 0;
}

static int write_ratio(const struct row *row, const struct kq_topic_config *config,
                       struct kq_buf *ret)
{
    double ratio = *(const double *)((const char *)config + row->offset);
    char text[32];
    int digits = 6;
    do /* as short as reads back the same */
        snprintf(text, sizeof(text), "%.*g", digits++, ratio);
    while (digits <= DBL_DECIMAL_DIG && strtod(text, NULL) != ratio);
    return kq_buf_append_string(ret, text);
}

/* --- What is never so here --- */

static int read_never(const struct row *row, struct kq_topic_config *config, const char *value,
                      const char **ret_reason)
{
    return strcasecmp(value, "false") == 0 ? 0 : refuse(ret_reason, "can be false only");
}

static int write_never(const struct row *row, const struct kq_topic_config *config,
                       struct kq_buf *ret)
{
    return kq_buf_append_string(ret, "false");
}

/* --- Words --- */

static int find_word(const char *const *words, size_t count, const char *value)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(words[i], value) == 0)
            return (int)i;
    return -1;
}

static int read_cleanup(const struct row *row, struct kq_topic_config *config, const char *value,
                        const char **ret_reason)
{
    bool old = false, compact = false;
    for (const char *at = value; *value; at++) {
        at += strspn(at, " ");
        size_t length = strcspn(at, ", ");
        if (length == 6 && memcmp(at, "delete", 6) == 0)
            old = true;
        else if (length == 7 && memcmp(at, "compact", 7) == 0)
            compact = true;
        else
            return refuse(ret_reason, "takes `delete`, `compact` or both, with a comma between");
        at += length;
        at += strspn(at, " ");
        if (!*at)
            break;
        if (*at != ',')
            return refuse(ret_reason, "takes `delete`, `compact` or both, with a comma between");
    }
    config->log.delete_old = old;
    config->compact = compact;
    return 0;
}

static int write_cleanup(const struct row *row, const struct kq_topic_config *config,
                         struct kq_buf *ret)
{
    return kq_buf_printf(ret, "%s%s%s", config->compact ? "compact" : "",
                         config->compact && config->log.delete_old ? "," : "",
                         config->log.delete_old ? "delete" : "");
}

static int read_timestamp_type(const struct row *row, struct kq_topic_config *config,
                               const char *value, const char **ret_reason)
{
    if (strcmp(value, "CreateTime") != 0 && strcmp(value, "LogAppendTime") != 0)
        return refuse(ret_reason, "takes CreateTime or LogAppendTime");
    config->log_append_time = value[0] == 'L';
    return 0;
}

static int write_timestamp_type(const struct row *row, const struct kq_topic_config *config,
                                struct kq_buf *ret)
{
    return kq_buf_append_string(ret, config->log_append_time ? "LogAppendTime" : "CreateTime");
}

static int read_compression(const struct row *row, struct kq_topic_config *config,
                            const char *value, const char **ret_reason)
{
    int codec = find_word(codecs, kq_array_size(codecs), value);
    if (codec < 0 && strcmp(value, "producer") != 0)
        return refuse(ret_reason, "takes producer, uncompressed, gzip, snappy, lz4 or zstd");
    config->compression = codec;
    return 0;
}

static int read_gzip_level(const struct row *row, struct kq_topic_config *config, const char *value,
                           const char **ret_reason)
{
    return strcmp(value, "0") == 0 ? refuse(ret_reason, "takes -1 or 1 to 9")
                                   : read_i32(row, config, value, ret_reason);
}

static int write_compression(const struct row *row, const struct kq_topic_config *config,
                             struct kq_buf *ret)
{
    return kq_buf_append_string(ret,
                                config->compression < 0 ? "producer" : codecs[config->compression]);
}

static int read_framing(const struct row *row, struct kq_topic_config *config, const char *value,
                        const char **ret_reason)
{
    int framing = find_word(framings, kq_array_size(framings), value);
    if (framing < 0)
        return refuse(ret_reason, "takes line, write or file");
    config->text.framing = (enum kq_framing)framing;
    return 0;
}

static int write_framing(const struct row *row, const struct kq_topic_config *config,
                         struct kq_buf *ret)
{
    return kq_buf_append_string(ret, framings[config->text.framing]);
}

/* --- Bytes with escapes --- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static const char escape_letters[] = "nt0r\\";
static const char escape_bytes[] = "\n\t\0\r\\";

/* One byte of *AT, escaped or plain; -1 for an escape that does not exist. */
static int next_byte(const char **at)
{
    if (**at != '\\')
        return (uint8_t) * (*at)++;
    const char *letter = *++*at ? strchr(escape_letters, **at) : NULL;
    if (letter) {
        ++*at;
        return (uint8_t)escape_bytes[letter - escape_letters];
    }
    if (**at != 'x' || hex_digit((*at)[1]) < 0 || hex_digit((*at)[2]) < 0)
        return -1;
    int byte = hex_digit((*at)[1]) * 16 + hex_digit((*at)[2]);
    *at += 3;
    return byte;
}

static int parse_mark(const char *value, uint8_t mark[KQ_TEXT_MARK_BYTES], uint8_t *ret_length,
                      const char **ret_reason)
{
    uint8_t bytes[KQ_TEXT_MARK_BYTES] = {0};
    size_t length = 0;
    while (*value) {
        int byte = next_byte(&value);
        if (byte < 0)
            return refuse(ret_reason, "has an unknown escape: use \\n \\t \\r \\0 \\\\ or \\xNN");
        if (length == KQ_TEXT_MARK_BYTES)
            return refuse(ret_reason, "is longer than 16 bytes");
        bytes[length++] = (uint8_t)byte;
    }
    memcpy(mark, bytes, sizeof(bytes));
    *ret_length = (uint8_t)length;
    return 0;
}

static int format_mark(const uint8_t *mark, size_t length, struct kq_buf *ret)
{
    int r = 0;
    for (size_t i = 0; i < length && r == 0; i++) {
        const char *plain = memchr(escape_bytes, mark[i], sizeof(escape_bytes) - 1);
        if (plain)
            r = kq_buf_printf(ret, "\\%c", escape_letters[plain - escape_bytes]);
        else if (mark[i] < 0x20 || mark[i] >= 0x7f)
            r = kq_buf_printf(ret, "\\x%02x", mark[i]);
        else
            r = kq_buf_append(ret, &mark[i], 1);
    }
    return r;
}

static int read_delimiter(const struct row *row, struct kq_topic_config *config, const char *value,
                          const char **ret_reason)
{
    return parse_mark(value, config->text.delimiter, &config->text.delimiter_length, ret_reason);
}

static int write_delimiter(const struct row *row, const struct kq_topic_config *config,
                           struct kq_buf *ret)
{
    return format_mark(config->text.delimiter, config->text.delimiter_length, ret);
}

static int read_separator(const struct row *row, struct kq_topic_config *config, const char *value,
                          const char **ret_reason)
{
    return parse_mark(value, config->text.separator, &config->text.separator_length, ret_reason);
}

static int write_separator(const struct row *row, const struct kq_topic_config *config,
                           struct kq_buf *ret)
{
    return format_mark(config->text.separator, config->text.separator_length, ret);
}

/* --- The table --- */

#define AT(field) offsetof(struct kq_topic_config, field)
#define I64(name, field, minimum)                                                                  \
    {                                                                                              \
        name, read_i64, write_i64, AT(field), minimum, INT64_MAX, false                            \
    }
#define I32(name, field, minimum)                                                                  \
    {                                                                                              \
        name, read_i32, write_i32, AT(field), minimum, INT32_MAX, false                            \
    }

static const struct row rows[] = {
    {"cleanup.policy", read_cleanup, write_cleanup, 0, 0, 0, false},
    {"compression.gzip.level", read_gzip_level, write_i32, AT(gzip_level), -1, 9, false},
    {"compression.lz4.level", read_i32, write_i32, AT(lz4_level), 1, 17, false},
    {"compression.type", read_compression, write_compression, 0, 0, 0, false},
    {"compression.zstd.level", read_i32, write_i32, AT(zstd_level), -131072, 22, false},
    I64("delete.retention.ms", delete_retention_ms, 0),
    {"delimiter", read_delimiter, write_delimiter, 0, 0, 0, true},
    I64("file.delete.delay.ms", file_delete_delay_ms, 0),
    I64("flush.messages", log.flush_messages, 1),
    I64("flush.ms", log.flush_ms, 0),
    {"framing", read_framing, write_framing, 0, 0, 0, true},
    I32("index.interval.bytes", log.index_interval_bytes, 0),
    {"key.separator", read_separator, write_separator, 0, 0, 0, true},
    I64("max.compaction.lag.ms", max_compaction_lag_ms, 1),
    {"max.message.bytes", read_i64, write_i64, AT(max_message_bytes), 0, INT32_MAX, false},
    I64("message.timestamp.after.max.ms", timestamp_after_max_ms, 0),
    I64("message.timestamp.before.max.ms", timestamp_before_max_ms, 0),
    {"message.timestamp.type", read_timestamp_type, write_timestamp_type, 0, 0, 0, false},
    {"min.cleanable.dirty.ratio", read_ratio, write_ratio, AT(min_cleanable_dirty_ratio), 0, 1,
     false},
    I64("min.compaction.lag.ms", min_compaction_lag_ms, 0),
    /* There are no replicas: with more than one asked for, nothing could be acknowledged. */
    {"min.insync.replicas", read_i32, write_i32, AT(min_insync_replicas), 1, 1, false},
    {"preallocate", read_never, write_never, 0, 0, 0, false},
    I64("retention.bytes", log.retention_bytes, -1),
    I64("retention.ms", log.retention_ms, -1),
    I32("segment.bytes", log.segment_bytes, 14),
    I32("segment.index.bytes", log.segment_index_bytes, 4),
    I64("segment.jitter.ms", segment_jitter_ms, 0),
    I64("segment.ms", log.segment_ms, 1),
    {"unclean.leader.election.enable", read_never, write_never, 0, 0, 0, false},
};

int kq_topic_config_level(const struct kq_topic_config *config)
{
    if (config->compression == KQ_CODEC_GZIP)
        return config->gzip_level;
    if (config->compression == KQ_CODEC_ZSTD)
        return config->zstd_level;
    if (config->compression == KQ_CODEC_LZ4 && config->lz4_level != KAFKA_LZ4_DEFAULT)
        return config->lz4_level;
    return 0;
}

static const struct row *find_row(const char *name)
{
    size_t low = 0, high = kq_array_size(rows);
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(name, rows[middle].name);
        if (order == 0)
            return &rows[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void kq_topic_config_defaults(struct kq_topic_config *ret)
{
    *ret = (struct kq_topic_config){
        .log =
            {
                .segment_bytes = 1 << 30,
                .segment_ms = 7 * 86400000LL,
                .index_interval_bytes = 4096,
                .segment_index_bytes = 10 << 20,
                .retention_ms = 7 * 86400000LL,
                .retention_bytes = -1,
                .delete_old = true,
                .flush_messages = INT64_MAX,
                .flush_ms = INT64_MAX,
                .max_batch_bytes = 128 << 20,
            },
        .max_message_bytes = 1048588,
        .text = {.framing = KQ_FRAMING_LINE, .delimiter_length = 1, .delimiter = "\n"},
        .file_delete_delay_ms = 60000,
        .delete_retention_ms = 86400000,
        .max_compaction_lag_ms = INT64_MAX,
        .min_cleanable_dirty_ratio = 0.5,
        .min_insync_replicas = 1,
        .compression = -1,
        .gzip_level = -1,
        .lz4_level = KAFKA_LZ4_DEFAULT,
        .zstd_level = 3,
        .timestamp_before_max_ms = INT64_MAX,
        .timestamp_after_max_ms = 3600000,
    };
}

int kq_topic_config_check(const struct kq_topic_config *config, const char **ret_name,
                          const char **ret_reason)
{
    const struct kq_rendering *text = &config->text;
    if (config->min_compaction_lag_ms > config->max_compaction_lag_ms) {
        *ret_name = "min.compaction.lag.ms";
        return refuse(ret_reason, "must not be above max.compaction.lag.ms");
    }
    if (text->framing != KQ_FRAMING_LINE)
        return 0;
    if (text->delimiter_length == 0) {
        *ret_name = "delimiter";
        return refuse(ret_reason, "must not be empty where framing is `line`");
    }
    if (memmem(text->separator, text->separator_length, text->delimiter, text->delimiter_length)) {
        *ret_name = "key.separator";
        return refuse(ret_reason, "must not contain the delimiter");
    }
    return 0;
}

int kq_topic_config_set(struct kq_topic_config *config, const char *name, const char *value,
                        const char **ret_reason)
{
    const struct row *row = find_row(name);
    const char *reason = "there is no such setting";
    int r = row ? row->read(row, config, value, &reason) : -ENOTSUP;
    if (r < 0 && ret_reason)
        *ret_reason = reason;
    return r;
}

int kq_topic_config_set_all(struct kq_topic_config *config, const struct kq_topic_setting *settings,
                            size_t count, const char **ret_name, const char **ret_reason)
{
    const char *name = NULL, *reason = NULL;
    struct kq_topic_config changed = *config;
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        name = settings[i].name;
        r = kq_topic_config_set(&changed, name, settings[i].value, &reason);
    }
    if (r == 0)
        r = kq_topic_config_check(&changed, &name, &reason);
    if (r == 0)
        *config = changed;
    if (r < 0 && ret_name)
        *ret_name = name;
    if (r < 0 && ret_reason)
        *ret_reason = reason;
    return r;
}

int kq_topic_config_format(const struct kq_topic_config *config, const char *name,
                           struct kq_buf *ret)
{
    const struct row *row = find_row(name);
    return row ? row->write(row, config, ret) : -ENOTSUP;
}

bool kq_topic_config_known(const char *name)
{
    return find_row(name) != NULL;
}

const char *kq_topic_config_name(size_t index)
{
    return index < kq_array_size(rows) ? rows[index].name : NULL;
}

bool kq_topic_config_is_rendering(const char *name)
{
    const struct row *row = find_row(name);
    return row && row->rendering;
}

enum kq_topic_setting_type kq_topic_config_type(const char *name)
{
    const struct row *row = find_row(name);
    if (row->write == write_i64)
        return KQ_TOPIC_SETTING_LONG;
    if (row->write == write_i32)
        return KQ_TOPIC_SETTING_INT;
    if (row->write == write_ratio)
        return KQ_TOPIC_SETTING_DOUBLE;
    if (row->write == write_never)
        return KQ_TOPIC_SETTING_BOOLEAN;
    return row->write == write_cleanup ? KQ_TOPIC_SETTING_LIST : KQ_TOPIC_SETTING_STRING;
}

/* --- The broker's names for the same --- */

/* Those whose names differ (org.apache.kafka.server.config.ServerTopicConfigSynonyms; those in
 * hours and minutes cannot be set while Kafka runs), and our own. */
static const struct {
    const char *name, *of_broker;
} broker_names[] = {
    {"cleanup.policy", "log.cleanup.policy"},
    {"delete.retention.ms", "log.cleaner.delete.retention.ms"},
    {"delimiter", "topic.delimiter"},
    {"file.delete.delay.ms", "log.segment.delete.delay.ms"},
    {"flush.messages", "log.flush.interval.messages"},
    {"flush.ms", "log.flush.interval.ms"},
    {"framing", "topic.framing"},
    {"index.interval.bytes", "log.index.interval.bytes"},
    {"key.separator", "topic.key.separator"},
    {"max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms"},
    {"max.message.bytes", "message.max.bytes"},
    {"message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms"},
    {"message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms"},
    {"message.timestamp.type", "log.message.timestamp.type"},
    {"min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio"},
    {"min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms"},
    {"preallocate", "log.preallocate"},
    {"retention.bytes", "log.retention.bytes"},
    {"retention.ms", "log.retention.ms"},
    {"segment.bytes", "log.segment.bytes"},
    {"segment.index.bytes", "log.index.size.max.bytes"},
    {"segment.jitter.ms", "log.roll.jitter.ms"},
    {"segment.ms", "log.roll.ms"},
};

const char *kq_topic_config_broker_name(const char *name)
{
    for (size_t i = 0; i < kq_array_size(broker_names); i++)
        if (strcmp(broker_names[i].name, name) == 0)
            return broker_names[i].of_broker;
    return name;
}
