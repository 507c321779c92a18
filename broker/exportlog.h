/* A partition's log, written anew as a Kafka broker's own: segments, indexes, aborted transactions,
 * producers, leader epochs.
 *
 * Every batch is checked on the way. Its leader epoch, which lies outside the checksum, becomes 0:
 * for the cluster that gets the log, it was always the first leader's. Producers of Kafka's own are
 * left out, unless a transaction of theirs is open: their ids may be others' there.
 *
 * One thread; may block.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct kq_log;

/* What was written, as it goes on. */
struct kq_export_progress {
    bool (*step)(struct kq_export_progress *progress); /* after each piece: go on? NULL */
    int64_t bytes, messages;
};

struct kq_export_log {
    struct kq_log *log; /* nobody appends to it */
    const char *name;   /* for reports */
    bool offsets;       /* a partition of __consumer_offsets */
    int32_t index_interval_bytes;
    int dirfd; /* an empty directory */
    uid_t uid; /* owner of the files; unchanged where it is ours */
    gid_t gid;
    mode_t mode;
    struct kq_export_progress *progress;
};

/* What Kafka's checkpoints have to say of it. */
struct kq_exported_log {
    int64_t start, end;
};

/* Writes and syncs all files but partition.metadata. 0; -EBADMSG (reported): a batch is damaged;
 * -EINTR: it is not to go on; -errno. */
int kq_export_log(const struct kq_export_log *job, struct kq_exported_log *ret);

/* As one file: NAME with BYTES in it, synced, with owner and mode. -errno. */
int kq_export_file(const struct kq_export_log *job, const char *name, const void *bytes,
                   size_t length);
