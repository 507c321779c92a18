/* What a response says, found by its schema: the error codes in it, and whether record batches lie
 * in memory instead of in a file. */
#pragma once

#include <stdint.h>

#include "net/message.h"

struct kq_outcome_plan;

/* The fields of the response to MESSAGE that count. Any thread, then for any thread. -ENOMEM. */
int kq_outcome_plan_new(const struct kq_message *message, struct kq_outcome_plan **ret);
void kq_outcome_plan_free(struct kq_outcome_plan *plan); /* NULL is fine */

/* Calls ERROR for each code in RESPONSE that is not NONE. Returns the bytes of records that are in
 * memory. */
uint64_t kq_outcome_walk(const struct kq_outcome_plan *plan, const void *response,
                         void (*error)(void *context, int16_t code), void *context);
