/* The users of a broker: what it does with them when it starts and stops. */
#pragma once

#include "broker/users.h"

/* Reads kqfs-users.log of the data directory DIRFD, which stays borrowed. What a crash left behind
 * the last whole change is cut off; a damaged file is reported, put aside, and there are no users
 * until they are set again. MAX_USERS 0: 100,000. 0; -ENOMEM, -errno (reported). */
int kq_users_open(uint32_t max_users, int dirfd, struct kq_users **ret);
void kq_users_close(struct kq_users *users); /* wipes; NULL is fine */

/* As kq_user_alter, of whoever asks. */
int kq_users_alter(struct kq_users *users, const struct kq_user_change *changes, size_t count);

/* Between the two nobody else alters, and kq_users_alter_held stands for kq_users_alter. */
void kq_users_hold(struct kq_users *users);
void kq_users_let_go(struct kq_users *users);
int kq_users_alter_held(struct kq_users *users, const struct kq_user_change *changes, size_t count);

/* --- credential.c: the lines of the file --- */

#define KQ_USERS_FILE "kqfs-users.log"
#define KQ_USERS_FILE_BYTES ((size_t)1 << 30) /* at most */

int kq_hex_append(struct kq_buf *buf, const uint8_t *bytes, size_t length);
/* Reads 2 * LENGTH digits. False: there are others. */
bool kq_hex_read(const char *text, size_t length, uint8_t *ret);
