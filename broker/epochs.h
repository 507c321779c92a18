/* Leader epochs: who wrote from which offset on, `leader-epoch-checkpoint`.
 *
 *   0 (version) \n count \n, and for each: epoch, a space, the first offset of it \n
 *
 * A log of our own has epoch 0 for ever. One that was taken over goes on with the epoch that its
 * cluster was in last, or, where that is not known, with the one behind its last, as with any new
 * leader: clients believe no epoch that is older than what they have seen. A later one than the
 * cluster's would contradict what Kafka writes when it gets the log back.
 *
 * Source: Kafka's LeaderEpochCheckpointFile, LeaderEpochFileCache; KIP-101, KIP-320. After the
 * opening the table never changes: any thread, nothing blocks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kq_log;

#define KQ_EPOCHS_FILE "leader-epoch-checkpoint"

struct kq_epoch {
    int64_t start; /* its first offset */
    int32_t epoch;
};

struct kq_epochs {
    struct kq_epoch *at; /* ascending in both; at least one */
    size_t count;
};

/* Opening: reads the file in DIRFD, or writes one where it is missing or damaged (reported).
 * ADOPTED: the log was taken over; BEGUN as in struct kq_log_checkpoint. -ENOMEM, -errno. */
int kq_log_load_epochs(struct kq_log *log, int dirfd, bool adopted, int32_t begun);

int32_t kq_log_epoch(const struct kq_log *log);
int32_t kq_log_epoch_at(const struct kq_log *log, int64_t offset); /* -1 before the first */

/* broker/produce.h, kq_leader_epoch_end. */
int kq_log_epoch_end(struct kq_log *log, int32_t epoch, int32_t *ret_epoch, int64_t *ret_end);
