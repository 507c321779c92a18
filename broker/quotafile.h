/* The quotas on disk: kqfs-quotas.json in the data directory. */
#pragma once

#include "broker/base/buf.h"
#include "broker/quotabook.h"

#define KQ_QUOTA_FILE "kqfs-quotas.json"
#define KQ_QUOTA_FILE_BYTES (64u << 20) /* at most */

/* 0; -ENOENT; -EBADMSG: damaged; -ENOMEM, -errno. */
int kq_quota_file_read(int dirfd, struct kq_quota_book **ret);

/* What kq_quota_file_write writes, of names that are UTF-8 and limits that are finite. -EFBIG,
 * -ENOMEM. */
int kq_quota_file_encode(const struct kq_quota_book *book, struct kq_buf *ret);

/* BYTES of kq_quota_file_encode; when this returns 0 they survive power loss. -errno: what was
 * there still is. */
int kq_quota_file_write(int dirfd, const struct kq_buf *bytes);
