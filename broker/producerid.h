/* Producer ids: unique for the life of the data directory.
 *
 * `producer-id-checkpoint` says from which id on none was given out. It is moved on by a block
 * before the block's first id is used, so that a crash loses ids, never gives one twice. Any
 * thread.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define KQ_PRODUCER_IDS "producer-id-checkpoint"

/* The first of all. Kafka counts from 0: in a log that was Kafka's, or becomes one, its ids and
 * ours are never the same. Were they, the first batches of a new producer would pass for some that
 * an older one sent, and be dropped. */
#define KQ_PRODUCER_FIRST (INT64_C(1) << 40)

struct kq_producer_ids {
    int dirfd; /* the data directory; borrowed */
    pthread_mutex_t lock;
    int64_t end;          /* of the block: the file's number */
    _Atomic int64_t next; /* to be given */
};

void kq_producer_ids_init(struct kq_producer_ids *ids);
void kq_producer_ids_destroy(struct kq_producer_ids *ids);

/* Reads the file in DIRFD, the data directory, which stays borrowed; where it is missing or damaged
 * (reported) the logs tell which ids there are. Before any other call. 0; -errno. */
int kq_producer_ids_read(struct kq_producer_ids *ids, int dirfd);

/* ID is in a log that was taken over: it is not given out. */
void kq_producer_ids_met(struct kq_producer_ids *ids, int64_t id);

/* The largest id that may have been given out. Never blocks. */
int64_t kq_producer_ids_given(const struct kq_producer_ids *ids);

/* Gives out the next one. 0; KQ_WOULD_BLOCK unless MAY_BLOCK; -errno. */
int kq_producer_ids_take(struct kq_producer_ids *ids, bool may_block, int64_t *ret);
