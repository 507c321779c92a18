/* Who is a client that has not authenticated?
 *
 * On unix:// and over the loopback interface the kernel knows the user at the other end, and that
 * is who asks. Of others nothing is known: they are User:ANONYMOUS, with the rights of `other`, or
 * of the user whom the setting plaintext.user names.
 */
#pragma once

#include <stdbool.h>

#include "auth/auth.h"

struct kq_identify;

/* PLAINTEXT_USER: a name or number; "": nobody. 0; -EINVAL (no such user; reported); -ENOMEM;
 * -errno (reported). */
int kq_identify_new(const char *plaintext_user, struct kq_identify **ret);
/* Who has not said yet who it is. The reference is the caller's. */
const struct kq_identity *kq_identify_nobody(struct kq_identify *identify);
void kq_identify_free(struct kq_identify *identify); /* NULL is fine */

/* Who is at the other end of FD? The reference is the caller's. With MAY_BLOCK false KQ_WOULD_BLOCK
 * where that takes a look into the user data base. A minute may pass before a user's new groups
 * count. Any thread. 0; KQ_WOULD_BLOCK; -ENOMEM, -errno. */
int kq_identify(struct kq_identify *identify, int fd, bool is_unix, bool may_block,
                const struct kq_identity **ret);
