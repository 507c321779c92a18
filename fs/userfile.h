/* Users of the network as files: .kqfs/users/<name> and .kqfs/passwd.
 *
 * A node of a user has the user's number (broker/users.h) where others have an offset. Its file
 * tells the mechanisms and iterations, never what was made of the password. Who may read that is
 * who may list the root; who may write to .kqfs/passwd, or rm a user, is the root's owner, and
 * root: as with DescribeUserScramCredentials and AlterUserScramCredentials.
 *
 * In the name of a file `/`, `%` and the dots of `.` and `..` stand as %XX. A user whose name is
 * then longer than that of a file can be has none.
 */
#pragma once

#include "broker/users.h"
#include "fs/internal.h"

/* The number of the user whose file is called NAME. 0; -ENOENT. Any thread, never blocks. */
int kq_user_named(struct kq_fs *fs, const char *name, int64_t *ret);

/* The names of the files of all users, appended to NAMES, each with its NUL. -ENOMEM. */
int kq_user_list(struct kq_fs *fs, struct kq_buf *names);

/* What NODE (.kqfs/users, below, or .kqfs/passwd) shows of the root's owner, mode and ACL, a copy.
 * -ENOMEM. */
int kq_user_node_attributes(struct kq_fs *fs, const struct kq_node *node,
                            struct kq_attributes *ret);

/* What the file NODE of a user says, appended to RET. 0; -ESTALE (it is gone); -ENOMEM. */
int kq_user_text(struct kq_fs *fs, const struct kq_node *node, struct kq_buf *ret);

/* rm of the file NAME: the user cannot log in with a password any more. Durable when it returns.
 * 0; -ENOENT; -EPERM; -errno (reported). */
int kq_user_remove(struct kq_fs *fs, const struct kq_caller *caller, const char *name);

/* --- .kqfs/passwd --- */

/* An open file, to which lines of kq_user_alter_text are written. */
struct kq_passwd_file;

int kq_passwd_file_new(struct kq_fs *fs, struct kq_passwd_file **ret); /* -ENOMEM */
void kq_passwd_file_free(struct kq_passwd_file *file);                 /* wipes; NULL is fine */

/* Takes SIZE bytes. The lines that are whole with them are one change: all of it, durable, or none;
 * what follows waits for its newline. After a failure the file takes no more. Blocks. 0; as
 * kq_user_alter_text; -EMSGSIZE (a line is too long). Failures are reported. */
int kq_passwd_file_write(struct kq_passwd_file *file, const struct kq_caller *caller,
                         const char *bytes, size_t size);

/* A descriptor is closed. -EINVAL: half a line is left (reported), which acts only if the rest
 * comes through another descriptor of the same open file. */
int kq_passwd_file_flush(struct kq_passwd_file *file);
