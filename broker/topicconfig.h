/* A topic's configuration: Kafka's names, and kqfs's own for the text. One table drives it:
 * name, type, default, bounds, check. Any thread; values are plain data. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/log.h"
#include "broker/text.h"

struct kq_topic_config {
    struct kq_log_config log;
    int64_t max_message_bytes;                               /* max.message.bytes */
    bool compact;                                            /* cleanup.policy has `compact` */
    bool log_append_time;                                    /* message.timestamp.type */
    int64_t timestamp_before_max_ms, timestamp_after_max_ms; /* message.timestamp.… */
    int64_t segment_jitter_ms; /* segment.jitter.ms: rolls by time are spread over so much */
    struct kq_rendering text;  /* framing, delimiter, key.separator; from_offset unused */
    int64_t file_delete_delay_ms;
    int64_t delete_retention_ms;
    int64_t min_compaction_lag_ms, max_compaction_lag_ms;
    double min_cleanable_dirty_ratio;
    int32_t min_insync_replicas;
    int compression; /* compression.type: enum kq_codec, or -1 for `producer` */
    int32_t gzip_level, lz4_level, zstd_level; /* compression.….level: as Kafka counts them */
};

/* The level for kq_codec_compress of what CONFIG asks for. */
int kq_topic_config_level(const struct kq_topic_config *config);

struct kq_topic_setting {
    const char *name;
    const char *value;
};

/* Kafka's defaults and ours. */
void kq_topic_config_defaults(struct kq_topic_config *ret);

/* Checks VALUE by itself and puts it into CONFIG; kq_topic_config_check has to follow when all are
 * in. 0; on failure CONFIG is untouched: -ENOTSUP (unknown name); -EINVAL with the reason in
 * RET_REASON (a string that stays valid; may be NULL). */
int kq_topic_config_set(struct kq_topic_config *config, const char *name, const char *value,
                        const char **ret_reason);

/* Do the settings fit together? 0; -EINVAL with the setting to blame and the reason, both valid for
 * good. */
int kq_topic_config_check(const struct kq_topic_config *config, const char **ret_name,
                          const char **ret_reason);

/* Checks and puts COUNT settings, in any order, and checks that all fit together. On failure CONFIG
 * is untouched, and RET_NAME (may be NULL) says which it was. */
int kq_topic_config_set_all(struct kq_topic_config *config, const struct kq_topic_setting *settings,
                            size_t count, const char **ret_name, const char **ret_reason);

/* Puts the value of setting NAME as it would be written in a file, appended to RET. -ENOTSUP. */
int kq_topic_config_format(const struct kq_topic_config *config, const char *name,
                           struct kq_buf *ret);

bool kq_topic_config_known(const char *name);

/* The name of setting INDEX (0, 1, …) or NULL behind the last: for listing. */
const char *kq_topic_config_name(size_t index);

enum kq_topic_setting_type {
    KQ_TOPIC_SETTING_INT, /* 32 bits */
    KQ_TOPIC_SETTING_LONG,
    KQ_TOPIC_SETTING_DOUBLE,
    KQ_TOPIC_SETTING_STRING,
    KQ_TOPIC_SETTING_BOOLEAN,
    KQ_TOPIC_SETTING_LIST, /* words with commas between */
};

/* What values NAME, a known one, takes. */
enum kq_topic_setting_type kq_topic_config_type(const char *name);

/* How Kafka calls the broker's value for the topic setting NAME: log.retention.ms for retention.ms.
 * Our own stand under `topic.`. */
const char *kq_topic_config_broker_name(const char *name);

/* Is it one that changes how text reads (framing, delimiter, key.separator)? */
bool kq_topic_config_is_rendering(const char *name);
