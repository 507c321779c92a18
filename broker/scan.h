/* What lies in a data directory, by its names alone. One thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"

struct kq_found_directory {
    const char *topic;
    int32_t number;
};

struct kq_scan {
    struct kq_found_directory *directories; /* `<topic>-<n>`, ascending by topic, number */
    size_t directory_count, directory_capacity;
    char **topics; /* that have a metadata file, ascending */
    size_t topic_count, topic_capacity;
    char **leftovers; /* directories of deletions that were decided: to remove */
    size_t leftover_count, leftover_capacity;
    char **temporaries; /* files of replacements that did not come to pass: to remove */
    size_t temporary_count, temporary_capacity;
};

/* Reports directories that are none of ours. Zero-initialise RET; release it even after a failure.
 */
int kq_scan_directory(int dirfd, const char *path, struct kq_scan *ret);
void kq_scan_release(struct kq_scan *scan);

/* `<topic>-<n>`: cuts NAME at the '-' and returns the number, -1 if it is no such name. */
int32_t kq_scan_split(char *name);

/* Does the partition directory NAME hold messages, or traces of some? 1, 0 or -errno. */
int kq_scan_holds_messages(int directory, const char *name);
