/* The batches that a request builds, one for each partition: frame.c's other half. */
#pragma once

#include "fs/frame.h"

/* Empties OUTPUT for a request. */
void kq_frame_output_begin(struct kq_frame_output *output);

/* The batch for PARTITION (-1, or 0 … request.partitions - 1), begun where it was not. 0; -ENOMEM.
 * Pointers to batches are valid until the next call. */
int kq_frame_output_batch(struct kq_frame_output *output, const struct kq_frame_request *request,
                          int32_t partition, struct kq_frame_batch **ret);

/* Headers and checksums. */
void kq_frame_output_finish(struct kq_frame_output *output);
