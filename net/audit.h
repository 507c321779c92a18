/* The audit log: who was refused what, and from where. One line a refusal through diag.h, in a
 * format that stays (docs/security.md, "Audit"). Costs nothing where nothing is refused. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "net/request.h"

/* Is CODE one of Kafka's errors that say that a client may not? */
bool kq_audit_is_refusal(int16_t code);

/* REQUEST is answered with CODE, which is a refusal. On the loop. */
void kq_audit_refused(const struct kq_request *request, int16_t code);
