/* A stopped Kafka broker's log directory into which logs are put: looking at it, and changing it so
 * that a Kafka which starts on it, even after a crash in between, finds what it expects.
 *
 * While it is open nobody else may use it: its lock is Kafka's own. The mark of its clean stop is
 * taken away before the first change and put back when the last one is on disk. A partition's new
 * files are made in a directory of their own, whose name tells Kafka to delete it, and change
 * places with the old ones at once.
 *
 * One thread; may block.
 */
#pragma once

#include <sys/stat.h>

#include "broker/checkpoint.h"
#include "broker/exportlog.h"
#include "broker/importimage.h"
#include "broker/scan.h"

#define KQ_EXPORT_NAME_BYTES 320 /* of a partition's directory, or one that is to be deleted */

/* The checkpoints that have a line a partition. */
enum kq_export_checkpoint {
    KQ_EXPORT_RECOVERY,
    KQ_EXPORT_START,
    KQ_EXPORT_WATERMARK, /* replication-offset-checkpoint */
    KQ_EXPORT_CLEANER,   /* cleaner-offset-checkpoint */
    KQ_EXPORT_CHECKPOINTS
};

/* A partition that was replaced. */
struct kq_export_note {
    const char *topic;
    int32_t number;
    struct kq_exported_log log;
};

struct kq_export_target {
    const char *path;
    int dirfd, lock_fd;
    struct stat owner;  /* of the directory */
    int32_t node_id;    /* -1: not told */
    struct kq_buf mark; /* of the clean stop */
    bool lock_is_new;   /* there was no lock file */
    bool changing;      /* it is taken away */
    struct kq_scan scan;
    struct kq_image image;
    bool has_image;
    struct kq_checkpoint checkpoints[KQ_EXPORT_CHECKPOINTS];
    struct kq_buf notes; /* struct kq_export_note each */
};

/* Opens, locks and reads PATH, which is borrowed. Release TARGET (zero-initialised) after any
 * result. 0; -EINVAL (reported): it is no such directory, is in use, or was not stopped cleanly;
 * -errno (reported). */
int kq_export_target_open(struct kq_export_target *target, const char *path);
void kq_export_target_release(struct kq_export_target *target);

/* Before the first change. -errno. */
int kq_export_target_begin(struct kq_export_target *target);

/* A new empty directory for what is to replace partition NUMBER of TOPIC, with the partition's
 * owner, mode and partition.metadata; JOB's dirfd and owner are set, RET_NAME is its name. -errno.
 */
int kq_export_target_make(struct kq_export_target *target, const char *topic, int32_t number,
                          struct kq_export_log *job, char ret_name[KQ_EXPORT_NAME_BYTES]);

/* NAME, made so and filled with LOG, takes the partition's place; what was there is removed. TOPIC
 * is borrowed until the end. -errno. */
int kq_export_target_swap(struct kq_export_target *target, const char *topic, int32_t number,
                          const char *name, const struct kq_exported_log *log);

/* NAME is not wanted after all. */
void kq_export_target_discard(struct kq_export_target *target, const char *name);

/* Writes the checkpoints and puts the mark back. -errno. */
int kq_export_target_end(struct kq_export_target *target);
