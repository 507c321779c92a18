/* The quotas of a broker: what it does with them when it starts and stops. */
#pragma once

#include "broker/quota.h"

/* Reads what is set from the data directory DIRFD, which stays borrowed; a damaged file is
 * reported, put aside, and nothing is set. OPTIONS all zero: the defaults. 0; -ENOMEM, -errno
 * (reported). */
int kq_quotas_open(const struct kq_quota_options *options, int dirfd, struct kq_quotas **ret);

/* Sets what is set in BOOK; what else is set stays. 0; -EDQUOT (quota.max.entities); -ENOMEM,
 * -errno: as before. */
struct kq_quota_book;
int kq_quotas_adopt(struct kq_quotas *quotas, const struct kq_quota_book *book);

/* Nobody uses them any more. NULL is fine. */
void kq_quotas_close(struct kq_quotas *quotas);
