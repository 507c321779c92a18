/* A data directory that was a Kafka broker's: its log.dirs, with `__cluster_metadata-0` among them.
 *
 * Before topics are loaded, those that Kafka has here and kqfs does not know get a metadata file:
 * id, partitions and settings from Kafka's cluster metadata, owner and mode from the data
 * directory. From then on they are as any other. When Kafka has run in between, what it changed is
 * taken over again. Nothing of Kafka's is changed by that; a second Kafka could start on the
 * directory.
 *
 * A topic of which the first partitions are not here (they are on other brokers), or whose
 * directories belong to another topic of the same name, is refused: its directories stay as they
 * are and nobody can make a topic of its name.
 *
 * `kqfs-import-checkpoint` notes how far Kafka's metadata went and which of its starts was the
 * last:
 *
 *   0                       version
 *   -1 0 4469               newest snapshot, last segment, bytes of that
 *   21                      the broker epoch in Kafka's mark of a clean stop, -1: none
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/checkpoint.h"

#define KQ_IMPORT_CHECKPOINT "kqfs-import-checkpoint"

struct kq_broker;
struct kq_image;
struct kq_topic;

/* What a broker remembers of a directory that was Kafka's. */
struct kq_kafka {
    bool foreign;           /* it was not ours before this start */
    int64_t epoch;          /* what the mark of a clean stop says: Kafka looks for it; -1 */
    struct kq_image *image; /* Kafka's metadata while topics are loaded, where it ran; NULL */
    /* Checkpoints of topics that were refused: they stay in the files. */
    struct kq_checkpoint_writer recovery, starts;
};

/* With the data directory open, before its topics are loaded. RECOVERY, STARTS: its checkpoints.
 * Reports what it takes over, leaves out and refuses. 0; -errno. */
int kq_import(struct kq_broker *broker, const struct kq_checkpoint *recovery,
              const struct kq_checkpoint *starts);

/* How many leader epochs Kafka has begun in partition NUMBER of TOPIC; 0: not known. Until
 * kq_import_end. */
int32_t kq_import_epochs(const struct kq_topic *topic, int32_t number);

/* Topics are loaded. */
void kq_import_end(struct kq_broker *broker);

/* What the note says; -ENOENT: there is none, or it is damaged. */
struct kq_metalog_end;
int kq_import_read_note(int dirfd, struct kq_metalog_end *ret_end, int64_t *ret_epoch);
