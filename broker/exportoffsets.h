/* What is committed in __consumer_offsets, for another cluster. */
#pragma once

#include "broker/batch.h"

/* A commit names the leader epoch of its message, by which a client judges what a broker tells of
 * partitions: in another cluster, where epochs begin anew, it would believe nothing. So each above
 * 0 becomes -1, not known. The whole batch at BYTES, of messages, with HEADER; SCRATCH as in
 * kq_record_reader_open. KQ_READY: nothing is to be changed; 0: RET, emptied first, is the batch
 * that takes its place; -EBADMSG, -EFBIG, -ENOMEM. Source: Kafka's OffsetCommitValue, KIP-320. */
int kq_export_offsets(const uint8_t *bytes, const struct kq_batch_header *header,
                      struct kq_buf *scratch, struct kq_buf *ret);
