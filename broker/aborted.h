/* The aborted transactions of a log: `<base>.txnindex`, Kafka's own, 34 bytes each.
 *
 *   version i16 = 0 · producer id i64 · first offset i64 · last offset i64 (of the marker) · last
 *   stable offset i64 (when it ended)
 *
 * An entry is in the file of the segment that has the marker. They are read when somebody asks
 * first; a log without such files costs one load. What is appended here ends no transaction, so the
 * files of an imported log stay as they are. A damaged one is made anew from the log.
 *
 * Source: Kafka's TransactionIndex, AbortedTxn, UnifiedLog.collectAbortedTransactions.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/compacttxn.h"

struct kq_log;

struct kq_aborted_index {
    pthread_mutex_t lock; /* held while files are read */
    atomic_bool any;      /* there are files */
    atomic_bool loaded;
    struct kq_buf bases;   /* of the files, int64_t each, ascending */
    struct kq_buf entries; /* struct kq_compact_aborted each, ascending by last offset */
};

void kq_aborted_init(struct kq_aborted_index *index);
void kq_aborted_destroy(struct kq_aborted_index *index);

/* Opening: index->bases names the files that there are. ENDED (struct kq_compact_aborted
 * each): the transactions that ended as aborted from offset FROM on: files that say otherwise are
 * written anew. -ENOMEM, -errno. */
int kq_aborted_settle(struct kq_log *log, int dirfd, int64_t from, const struct kq_buf *ended);

/* Reads the files. 0; KQ_WOULD_BLOCK unless MAY_BLOCK and there are some; -ENOMEM, -errno. */
int kq_aborted_load(struct kq_log *log, bool may_block);

/* Appends to RET (struct kq_compact_aborted each) those that overlap [FROM, TO), ascending by last
 * offset. 0; KQ_WOULD_BLOCK unless MAY_BLOCK, where a file must be read; -ENOMEM, -errno. */
int kq_aborted_find(struct kq_log *log, int64_t from, int64_t to, bool may_block,
                    struct kq_buf *ret);

/* Was the batch with HEADER, a transactional one, aborted? As kq_aborted_find. */
int kq_aborted_has(struct kq_log *log, const struct kq_batch_header *header, bool may_block,
                   bool *ret);
