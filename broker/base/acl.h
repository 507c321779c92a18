/* POSIX ACLs as data, with the kernel's meaning (acl(5); fs/posix_acl.c in Linux).
 *
 * An ACL is the bytes of its extended attribute, system.posix_acl_access or _default, version 2
 * (linux/posix_acl_xattr.h): le32 version, then entries of le16 tag, le16 permissions, le32 id. An
 * empty run of bytes, or a header without entries, is no ACL: the mode says it all. It is stored in
 * that form too, so nothing is parsed where it is only passed on.
 *
 * Bytes from outside pass one gate, kq_acl_check; the other calls want bytes that passed it. Any
 * thread, no shared state, no system call. A result never shares memory with an argument. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/base/buf.h"

#define KQ_ACL_MAX_ENTRIES 1024 /* of one ACL; ext4 takes about 500 */

/* Bits of a question, as in one digit of a mode. */
enum kq_acl_want {
    KQ_ACL_EXECUTE = 1,
    KQ_ACL_WRITE = 2,
    KQ_ACL_READ = 4,
};

/* Is LENGTH that of no ACL? */
static inline bool kq_acl_is_none(size_t length)
{
    return length <= sizeof(uint32_t);
}

/* The gate: the entries come in the kernel's order (owner, users, group, groups, mask, other),
 * owner, group and other once each, a mask at most once and always beside named entries, no id
 * twice, no unknown tag or permission. No ACL passes. 0; -EINVAL; -EOPNOTSUPP (another version);
 * -E2BIG (more than KQ_ACL_MAX_ENTRIES). */
int kq_acl_check(const void *bytes, size_t length);

/* Who asks: the user, the group and the supplementary groups (borrowed). */
struct kq_acl_subject {
    uid_t uid;
    gid_t gid;
    const gid_t *groups;
    size_t group_count;
};

/* What is asked about. */
struct kq_acl_object {
    uid_t uid;
    gid_t gid;
    mode_t mode;
    const void *acl; /* of access; may be NULL where ACL_LENGTH is 0 */
    size_t acl_length;
};

/* Does OBJECT grant SUBJECT all bits of WANT (enum kq_acl_want)? As the kernel decides for one who
 * has no capabilities: uid 0 is nobody special here. */
bool kq_acl_permits(const struct kq_acl_object *object, const struct kq_acl_subject *subject,
                    unsigned want);

/* Is GID the group or a supplementary group of SUBJECT? */
bool kq_acl_in_group(const struct kq_acl_subject *subject, gid_t gid);

/* setfacl: what to store when ACL is set as the access ACL of something with *MODE. Replaces what
 * RET_ACL holds by it: nothing where the mode says it all (only owner, group, other). The
 * permission bits of *MODE become those of the ACL, its group bits those of the mask if there is
 * one; other bits stay. No ACL: RET_ACL is emptied and *MODE stays, as removexattr does. 0;
 * -ENOMEM: nothing is changed. */
int kq_acl_set_access(const void *acl, size_t acl_length, mode_t *mode, struct kq_buf *ret_acl);

/* chmod: puts the permission bits of MODE into the access ACL, in place: owner, other, and mask, or
 * group where there is no mask. No ACL: nothing. */
void kq_acl_chmod(void *acl, size_t acl_length, mode_t mode);

/* mkdir, create: what a new node gets in a directory whose default ACL is PARENT_DEFAULT. MODE as
 * the caller gave it, not masked; UMASK is applied only where PARENT_DEFAULT is no ACL. Replaces
 * what RET_ACL and RET_DEFAULT hold by its access and default ACL (the latter empty unless
 * DIRECTORY). 0 with the mode to store in RET_MODE; -ENOMEM: nothing is changed. */
int kq_acl_create(const void *parent_default, size_t parent_default_length, bool directory,
                  mode_t mode, mode_t umask, struct kq_buf *ret_acl, struct kq_buf *ret_default,
                  mode_t *ret_mode);
