/* Kafka's checkpoint files: an offset for each of many partitions, as text.
 *
 *   0                      version
 *   2                      how many lines follow
 *   orders 0 4711          topic partition offset
 *   orders 1 0
 *
 * A file is replaced as a whole. One thread a struct.
 */
#pragma once

#include "broker/base/buf.h"

#define KQ_CHECKPOINT_RECOVERY "recovery-point-offset-checkpoint"
#define KQ_CHECKPOINT_START "log-start-offset-checkpoint"
#define KQ_CHECKPOINT_CLEANER "cleaner-offset-checkpoint"

struct kq_checkpoint_entry {
    const char *topic; /* in the checkpoint's text */
    int32_t partition;
    int64_t offset;
};

/* One that was read. */
struct kq_checkpoint {
    struct kq_buf text;
    struct kq_checkpoint_entry *entries; /* ascending by topic, partition */
    size_t count;
};

/* Zero-initialise RET. 0; -ENOENT; -EBADMSG (not such a file); -EFBIG; -errno. */
int kq_checkpoint_read(int dirfd, const char *name, struct kq_checkpoint *ret);
void kq_checkpoint_release(struct kq_checkpoint *checkpoint);

/* The offset of a partition, or OTHERWISE where the file does not name it. O(log n). */
int64_t kq_checkpoint_find(const struct kq_checkpoint *checkpoint, const char *topic,
                           int32_t partition, int64_t otherwise);

/* One that is to be written. Zero-initialised it is empty. */
struct kq_checkpoint_writer {
    struct kq_buf lines;
    size_t count;
};

int kq_checkpoint_add(struct kq_checkpoint_writer *writer, const char *topic, int32_t partition,
                      int64_t offset);

/* Durable after 0; after -errno the old file stands. Releases WRITER either way. */
int kq_checkpoint_write(struct kq_checkpoint_writer *writer, int dirfd, const char *name);
