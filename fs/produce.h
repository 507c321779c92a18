/* Writes of one open file: bytes become batches, batches go to their partitions.
 *
 * Happy path: frame, append, answered; no allocation, no lock but the handle's own and the log's.
 * Each partition's share of a request is appended all or nothing; where a topic has several
 * partitions and the lines have keys, an error can leave the shares before it in the log: the
 * request fails as a whole then, and what was not appended is dropped.
 *
 * Half lines wait in the frame. Disk is set aside for them when they are written, since the close
 * that ends them can report nothing. */
#pragma once

#include "fs/handle.h"

struct kq_producer;

/* Of HANDLE, opened for writing by CALLER (whose groups are copied); `append`: -EACCES where CALLER
 * may write to none of the partitions. -ENOMEM. */
int kq_producer_new(struct kq_handle *handle, const struct kq_caller *caller,
                    struct kq_producer **ret);

/* What is pending is lost; its room and disk are given back. NULL is fine. */
void kq_producer_free(struct kq_producer *producer);

/* Takes a request in. 0; KQ_MUST_SYNC: done, but the topic's policy asks for a sync before it is
 * answered. -EMSGSIZE, -EINVAL, -ENOSPC, -EDQUOT, -ENOBUFS (max_pending_bytes), -EACCES, -ESTALE,
 * -errno: see frame.h for what is dropped then. */
int kq_produce(struct kq_producer *producer, const void *bytes, size_t size);

/* FLUSH: a descriptor was closed, perhaps the last one. */
void kq_produce_flush(struct kq_producer *producer);

/* The raw RELEASE was taken from the kernel (kq_handle_announce_release). */
void kq_produce_announce(struct kq_producer *producer);

/* RELEASE: the half line becomes a message. Waits for memory, up to a second. 0; KQ_MUST_SYNC;
 * -errno, told to the operator, since who closed has gone. */
int kq_produce_finish(struct kq_producer *producer);

/* The partitions that were written to, at most MAX of them; returns how many. They stay valid as
 * long as the producer. */
int32_t kq_produce_written(struct kq_producer *producer, struct kq_partition **ret, int32_t max);
