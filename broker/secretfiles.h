/* The files that settings name as keys, certificates, CAs, revocation lists, keytabs and keys of
 * tokens: what the helper opens for the broker (broker/helper.h), and nothing else. */
#pragma once

#include <stddef.h>

#include "broker/config.h"

struct kq_secret_files {
    char **paths; /* absolute */
    size_t count;
};

/* Those of CONFIG, with what its listeners have instead of [tls]'s. 0; -ENOMEM. */
int kq_secret_files_of(const struct kq_config *config, struct kq_secret_files *ret);
void kq_secret_files_release(struct kq_secret_files *files);
