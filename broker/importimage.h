/* What Kafka's cluster metadata says now: topics with their ids and partitions, configurations,
 * quotas, and how much there is that kqfs does not take over. Filled from the records one by one.
 *
 * Plain data; one thread; one owner.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "broker/base/wire.h"
#include "broker/quotabook.h"
#include "broker/topicconfig.h"
#include "broker/uthash.h"
#include "broker/uuid.h"

enum kq_image_resource_type { /* Kafka's ConfigResource.Type */
                              KQ_IMAGE_TOPIC = 2,
                              KQ_IMAGE_BROKER = 4, /* name "": the default of all brokers */
};

struct kq_image_topic {
    uint8_t id[KQ_UUID_BYTES];
    int32_t partitions; /* one behind the highest number */
    struct kq_image_partition {
        int32_t replicas; /* how many; 0: there is no such partition */
        int32_t leader_epoch;
    } * at;
    int32_t capacity; /* elements of AT */
    UT_hash_handle by_name, by_id;
    char name[];
};

struct kq_image_resource {
    struct kq_topic_setting *settings; /* Kafka's names; both strings are owned */
    size_t count, capacity;
    UT_hash_handle hh;
    char key[]; /* the type as a byte, then the name */
};

/* Things that are counted only. */
enum kq_image_other {
    KQ_IMAGE_USER,  /* SCRAM credentials */
    KQ_IMAGE_QUOTA, /* client quotas of other types, or of addresses */
    KQ_IMAGE_ACL,
    KQ_IMAGE_OTHERS
};

struct kq_image {
    struct kq_image_topic *by_name, *by_id;
    struct kq_image_resource *resources;
    struct kq_quota_book *quotas; /* NULL: there never were any */
    struct kq_image_thing *things;
    size_t others[KQ_IMAGE_OTHERS];
    int64_t next_producer_id; /* Kafka gave out none from here on */
};

/* Takes one record, as kq_metalog_take says; IMAGE is the context. Types that do not matter here
 * are left alone. 0; -EBADMSG; -EPROTO; -ENOMEM; -E2BIG. */
int kq_image_apply(void *image, uint32_t type, int16_t version, struct kq_wire_reader *fields);

/* Reads all of a log directory's metadata. Zero-initialise RET; release it after any result. As
 * kq_metalog_read. */
int kq_image_read(int dirfd, const char *directory, struct kq_image *ret);
void kq_image_release(struct kq_image *image);

/* NULL: there is none. */
const struct kq_image_topic *kq_image_find(const struct kq_image *image, const char *name);

/* The settings of a resource; NULL and 0 where it has none. */
const struct kq_topic_setting *kq_image_settings(const struct kq_image *image,
                                                 enum kq_image_resource_type type, const char *name,
                                                 size_t *ret_count);
