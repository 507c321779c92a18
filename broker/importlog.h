/* Kafka's cluster metadata: the records of __cluster_metadata-0, from the newest snapshot there on.
 *
 *   <offset>-<epoch>.checkpoint   a snapshot: all that holds before OFFSET, as batches of records
 *   <20-digit base>.log           segments of the log, batches of records
 *
 * Each record's value begins with three unsigned varints: the version of the frame (1), the type of
 * the record, its version. Batches between a BeginTransactionRecord and an AbortTransactionRecord
 * count for nothing, nor does a transaction that did not end.
 *
 * Source: Kafka's AbstractApiMessageSerde, Snapshots, KafkaMetadataLog; KIP-630, KIP-868. Only
 * reads. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/base/wire.h"

#define KQ_METALOG_DIRECTORY "__cluster_metadata-0"
#define KQ_METALOG_TOPIC "__cluster_metadata"

/* How far the metadata went when somebody looked: another run of Kafka moves it on. */
struct kq_metalog_end {
    int64_t snapshot; /* the newest one's offset; -1: there is none */
    int64_t segment;  /* base offset of the last segment; -1 */
    int64_t bytes;    /* of that segment */
};

/* 0; -ENOENT: DIRFD (a log directory) has no metadata; -errno. */
int kq_metalog_look(int dirfd, struct kq_metalog_end *ret);

/* Takes one record: its fields are what FIELDS is about to read. Whatever it returns other than 0
 * ends the reading. -EPROTO: VERSION is not known. */
typedef int kq_metalog_take(void *context, uint32_t type, int16_t version,
                            struct kq_wire_reader *fields);

/* Hands all records to TAKE, oldest first; memory for their arrays is TAKE's for the length of the
 * call. A torn end of the last segment is the end. DIRECTORY is the log directory's name, for the
 * report.
 * 0; -ENOENT; -EBADMSG (damaged, or a piece is missing), -EPROTO (written by a Kafka that is newer
 * than what this knows), -EFBIG (a batch or a transaction beyond any that Kafka writes), each
 * reported; -ENOMEM; -errno. */
int kq_metalog_read(int dirfd, const char *directory, kq_metalog_take *take, void *context);
