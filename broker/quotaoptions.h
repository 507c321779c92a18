/* The settings of the quotas; Kafka's names and meanings, unless marked ours. Plain data. */
#pragma once

#include <stdint.h>

struct kq_quota_options {
    int32_t windows;       /* quota.window.num */
    int32_t window_s;      /* quota.window.size.seconds */
    uint32_t max_entities; /* quota.max.entities: ours, that have quotas of their own */
    uint32_t max_accounts; /* quota.max.accounts: ours, of clients, that are kept at once */
};
