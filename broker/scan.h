/* What lies in a data directory, by its names alone. One thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/uuid.h"

struct kq_found_directory {
    const char *topic;
    int32_t number;
};

struct kq_scan {
    struct kq_found_directory *directories; /* `<topic>-<n>`, ascending by topic, number */
    size_t directory_count, directory_capacity;
    char **topics; /* that have a metadata file, ascending */
    size_t topic_count, topic_capacity;
    char **strays; /* partition directories that Kafka put aside: `….-stray` */
    size_t stray_count, stray_capacity;
    char **leftovers; /* directories of deletions that were decided: to remove */
    size_t leftover_count, leftover_capacity;
    char **temporaries; /* files of replacements that did not come to pass: to remove */
    size_t temporary_count, temporary_capacity;
};

/* Reports directories that are none of ours, unless PATH (the directory's name) is NULL.
 * Zero-initialise RET; release it even after a failure. */
int kq_scan_directory(int dirfd, const char *path, struct kq_scan *ret);
void kq_scan_release(struct kq_scan *scan);

/* The directories of TOPIC, ascending; NULL and 0 where there is none. O(log n). */
const struct kq_found_directory *kq_scan_find(const struct kq_scan *scan, const char *topic,
                                              size_t *ret_count);

/* `<topic>-<n>`: cuts NAME at the '-' and returns the number, -1 if it is no such name. */
int32_t kq_scan_split(char *name);

/* Does the partition directory NAME hold messages, or traces of some? 1, 0 or -errno. */
int kq_scan_holds_messages(int directory, const char *name);

/* The topic id that Kafka's partition.metadata in the partition directory NAME says. 0; -ENOENT:
 * none does; -errno. */
int kq_scan_topic_id(int directory, const char *name, uint8_t ret[KQ_UUID_BYTES]);
