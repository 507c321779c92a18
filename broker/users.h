/* Users of the network: what is kept of their passwords, a credential for each mechanism of SCRAM.
 *
 * A user is there as long as it has a credential. All of them are in memory and in kqfs-users.log
 * in the data directory, to which changes are appended. No password is ever here.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/authz.h"
#include "broker/base/buf.h"
#include "broker/base/scram.h"

#define KQ_USERS_SECRET_BYTES 32
#define KQ_USER_LINES 1024      /* of one change as text */
#define KQ_USER_LINE_BYTES 2048 /* with its newline; a credential's has 1400 at most */

struct kq_broker;
struct kq_users;

/* Valid as long as the broker. */
struct kq_users *kq_broker_users(struct kq_broker *broker);

/* 1 to KQ_USER_NAME_BYTES bytes of UTF-8 without control characters. */
bool kq_user_name_valid(const char *name);

/* --- Asking; any thread, never blocks --- */

/* The credential of NAME for HASH. The caller wipes its copy. 0; -ENOENT. */
int kq_user_find(struct kq_users *users, const char *name, enum kq_scram_hash hash,
                 struct kq_scram_credential *ret);

/* A secret of this data directory, which stays: from it comes what a user who is not there is
 * taken for. */
void kq_users_secret(struct kq_users *users, uint8_t ret[KQ_USERS_SECRET_BYTES]);

/* Of a user: its number, the same as long as the broker runs and it is there, and the iterations of
 * each credential, 0: none. */
struct kq_user_facts {
    uint64_t number;
    int32_t iterations[KQ_SCRAM_HASHES];
};

/* -ENOENT. */
int kq_user_facts(struct kq_users *users, const char *name, struct kq_user_facts *ret);
/* The facts, and the name in RET_NAME, of the user with NUMBER. -ENOENT. */
int kq_user_by_number(struct kq_users *users, uint64_t number, struct kq_user_facts *ret,
                      char ret_name[KQ_USER_NAME_BYTES + 1]);

/* Calls STEP for each user, in no order, until it returns < 0, and returns that. STEP must not call
 * back into the users. */
int kq_user_each(struct kq_users *users,
                 int (*step)(void *context, const char *name, const struct kq_user_facts *facts),
                 void *context);

/* May CALLER see who there is (LIST on the root), and change it (CHANGE_ATTRIBUTES)? 0; -EACCES,
 * -EPERM. */
int kq_user_may_list(struct kq_broker *broker, const struct kq_caller *caller);
int kq_user_may_alter(struct kq_broker *broker, const struct kq_caller *caller);

/* --- Changing --- */

struct kq_user_change {
    const char *name;
    enum kq_scram_hash hash;
    const struct kq_scram_credential *credential; /* NULL: it is deleted */
};

/* All changes or none; none of a name and mechanism twice; durable when it returns. Blocks. 0;
 * -EACCES, -EPERM (who alters the cluster may); -EINVAL (a name, a credential); -ENOENT (what is to
 * be deleted is not there); -EDQUOT (max_users); -ENOMEM, -errno: as before. */
int kq_user_alter(struct kq_broker *broker, const struct kq_caller *caller,
                  const struct kq_user_change *changes, size_t count);

/* As kq_user_alter, with the changes as lines, each with its newline, KQ_USER_LINES at most and of
 * KQ_USER_LINE_BYTES at most:
 *
 *     set NAME SCRAM-SHA-256 iterations=… salt=… stored-key=… server-key=…
 *     delete NAME
 *
 * NAME as kq_user_name_append writes it; `delete` takes all that the user has. */
int kq_user_alter_text(struct kq_broker *broker, const struct kq_caller *caller, const char *text,
                       size_t length);

/* The same on a data directory that no broker uses: it is locked meanwhile. MAX_USERS 0: 100,000.
 * -EWOULDBLOCK: one does. Failures to open are reported. */
int kq_user_alter_stopped(const char *data_dir, uint32_t max_users, const char *text,
                          size_t length);

/* --- As text: one line a credential --- */

/* NAME in one word: blanks, control characters and `%` stand as %XX. -ENOMEM. */
int kq_user_name_append(struct kq_buf *ret, const char *name);

/* Reads LENGTH bytes at TEXT, in which any byte may stand as %XX, in small letters. False: no name.
 */
bool kq_user_name_read(const char *text, size_t length, char ret[KQ_USER_NAME_BYTES + 1]);

/* `SCRAM-SHA-256 iterations=4096 salt=HEX stored-key=HEX server-key=HEX` and a newline, appended.
 * What was in RET's memory before is not wiped. -ENOMEM. */
int kq_credential_format(enum kq_scram_hash hash, const struct kq_scram_credential *credential,
                         struct kq_buf *ret);

/* Such a line, without the newline. -EINVAL; RET may have been written to then. */
int kq_credential_parse(const char *line, size_t length, enum kq_scram_hash *ret_hash,
                        struct kq_scram_credential *ret);

/* As many iterations, and as much salt, as a credential may have. */
bool kq_credential_valid(const struct kq_scram_credential *credential);
