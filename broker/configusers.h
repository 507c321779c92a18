/* The section [users] of the configuration: NAME = uid, names of any kind. */
#pragma once

#include "broker/config.h"

#define KQ_USERS_SECTION "users"

/* As kq_config_set, for NAME, in which bytes may be escaped (broker/octal.h) where IN_SECTION.
 * -EINVAL (reported); -ENOMEM. */
int kq_config_users_set(struct kq_config *config, enum kq_origin origin, const char *where,
                        int line, bool in_section, const char *name, const char *value);

/* Appends the section as a file has it. -ENOMEM. */
int kq_config_users_format(const struct kq_config *config, struct kq_buf *ret);

void kq_config_users_free(struct kq_config *config);
