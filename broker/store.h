/* What the broker keeps of a topic beside its messages, as JSON in `<topic>.topic`, and of the root
 * in `kqfs-root.json`. A file is replaced as a whole and durable when a write returns. Any thread;
 * the caller keeps two writers of one topic apart. */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "broker/authz.h"
#include "broker/text.h"
#include "broker/topicconfig.h"
#include "broker/uuid.h"

#define KQ_STORE_SUFFIX ".topic"
#define KQ_STORE_ROOT "kqfs-root.json"
#define KQ_STORE_MAX_PARTITIONS 1000000

struct kq_partition_record {
    struct kq_attributes attributes;
    struct kq_renderings *renderings;
};

/* From kq_store_read the record owns everything in it; for kq_store_write its pointers are only
 * looked at. */
struct kq_topic_record {
    uint8_t id[KQ_UUID_BYTES];
    int64_t created_ms;
    bool deleting; /* the deletion is decided: nothing of the topic is to come back */
    struct kq_attributes attributes;
    struct kq_topic_setting *settings; /* own ones, values as kq_topic_config_format puts them */
    size_t setting_count;
    struct kq_partition_record *partitions;
    int32_t partition_count;
};

/* 0; -ENOENT; -EBADMSG (damaged); -ENOMEM; -errno. */
int kq_store_read(int dirfd, const char *topic, struct kq_topic_record *ret);
int kq_store_write(int dirfd, const char *topic, const struct kq_topic_record *record);

/* Bytes of such a file and back: what kq_store_read and _write do without the disk. */
int kq_store_encode(const char *topic, const struct kq_topic_record *record, struct kq_buf *ret);
int kq_store_decode(const char *topic, const void *bytes, size_t length,
                    struct kq_topic_record *ret);

void kq_topic_record_release(struct kq_topic_record *record);

int kq_store_read_root(int dirfd, struct kq_attributes *ret);
int kq_store_write_root(int dirfd, const struct kq_attributes *attributes);
