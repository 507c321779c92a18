/* The producers of a log: shared by the sources of the log, nobody else. */
#pragma once

#include "broker/listing.h"
#include "broker/log_internal.h"
#include "broker/producerid.h"

/* With `lock` held: may the batch with HEADER, which has a producer id, be appended now? 0: yes,
 * or, where RET's duplicate says so, it was already and RET says where; KQ_MUST_SYNC: the same, not
 * synced yet; else as kq_producers_check. */
int kq_log_check_producer(struct kq_log *log, const struct kq_batch_header *header,
                          struct kq_log_appended *ret);

/* With `lock` held: it is being appended. There is room for its producer. */
void kq_log_note_producer(struct kq_log *log, const struct kq_batch_header *header);

/* With `lock` held: forgets whom nobody saw for long; lowers *NEXT_MS to when that is due. */
void kq_log_expire_producers(struct kq_log *log, int64_t now_ms, int64_t *next_ms);

/* With `lock` held, where a segment begins: a snapshot, unless nothing changed. Reports. */
void kq_log_snapshot_producers(struct kq_log *log);

/* Of open transactions all of whose messages lie before the start nothing is left to decide. */
void kq_log_drop_undecided(struct kq_log *log);

/* Removes snapshots that nothing needs any more. With no lock held. */
void kq_log_prune_snapshots(struct kq_log *log);

/* Opening: fills log->producers and what belongs to it, up to the end. Takes over
 * listing->snapshots. RET_ADOPTED: nothing shows that this broker wrote the log. -ENOMEM, -errno.
 */
int kq_log_load_producers(struct kq_log *log, int dirfd, struct kq_listing *listing,
                          const struct kq_log_checkpoint *checkpoint, bool *ret_adopted);

/* Fills PRODUCERS, which is empty, from the last snapshot at or before OFFSET: RET is that
 * snapshot's offset, or where the log begins. With no lock held. -ENOMEM. */
int kq_log_producers_before(struct kq_log *log, int dirfd, int64_t offset,
                            struct kq_producers *producers, int64_t *ret);
