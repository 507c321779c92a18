/* Consumer groups as files: .kqfs/groups/<group>/<topic>/p<N>, p<N>.offset and p<N>.lag.
 *
 * A node of these views has the group's number (groups.h, kq_group_number) where others have an
 * offset; the group is looked up by it for each request. p<N> reads as the text that the group has
 * not committed. What one read(2) handed over is committed when the same open file is read again: a
 * reader that dies in between gets it again. Whoever reads, and whoever sets an offset, has the
 * partition for as long, as a member of the group would.
 *
 * p<N> opens by name only: what is listed can be read by grep -r without taking anything away.
 */
#pragma once

#include "broker/groups.h"
#include "fs/handle.h"
#include "fs/place.h"

struct kq_dir_item;

/* The group of NODE, referenced. 0; -ESTALE (it is gone). */
int kq_fs_group(struct kq_fs *fs, const struct kq_node *node, struct kq_group **ret);

/* The number of the group NAME. 0; -ENOENT; KQ_WOULD_BLOCK unless MAY_BLOCK (it is being loaded);
 * KQ_GROUP_NOT_AVAILABLE. */
int kq_group_named(struct kq_fs *fs, const char *name, bool may_block, int64_t *ret);

/* Can NAME, of a group, be that of a file? */
bool kq_group_name_is_file(struct kq_str name);

/* --- Owner, mode and ACL --- */

/* What NODE (of .kqfs/groups or below) shows, a copy; -ESTALE, -ENOMEM. Of p<N> one may read what
 * one may commit: `r` stands for the group's `w`. */
int kq_group_node_attributes(struct kq_fs *fs, const struct kq_node *node,
                             struct kq_attributes *ret);
/* As kq_attributes_set, on .kqfs/groups or a group. May block. */
int kq_group_node_change(struct kq_fs *fs, const struct kq_node *node,
                         const struct kq_caller *caller, const struct kq_attributes *attributes);
/* When what NODE shows changed last; wall-clock ms. */
int64_t kq_group_node_time(struct kq_fs *fs, const struct kq_node *node);

/* --- Names --- */

/* mkdir and rmdir of a group, rm of an offset; each may block. 0; -EEXIST, -EBUSY (it has members),
 * -errno. */
int kq_group_make(struct kq_fs *fs, const struct kq_caller *caller, const char *name,
                  const struct kq_attributes *attributes);
int kq_group_unmake(struct kq_fs *fs, const struct kq_caller *caller, const char *name);
int kq_group_forget_offset(struct kq_fs *fs, const struct kq_node *parent,
                           const struct kq_caller *caller, int32_t partition);

/* The names of the groups, or of the topics of a group, that NODE lists, appended to NAMES, each
 * with its NUL. KQ_WOULD_BLOCK unless MAY_BLOCK; KQ_GROUP_NOT_AVAILABLE. */
int kq_group_list(struct kq_fs *fs, const struct kq_node *node, bool may_block,
                  struct kq_buf *names);

/* --- Open files --- */

struct kq_group_file;

/* Of HANDLE, on NODE, as FLAGS of open(2) say; CALLER's groups are known and nothing was checked by
 * the kernel: reading p<N> needs `w` on the group and READ on the partition. -EBUSY (a member, or
 * another reader, has it), -EACCES, -EAGAIN (groups are being loaded), -ENOMEM. */
int kq_group_file_new(struct kq_handle *handle, const struct kq_node *node,
                      const struct kq_caller *caller, int flags, struct kq_group_file **ret);
void kq_group_file_free(struct kq_group_file *file); /* NULL is fine */

/* As kq_read_file; text needs MAY_BLOCK, since committing waits. -EBUSY (a member took the
 * partition), -ESPIPE (not in order). */
int kq_group_file_read(struct kq_group_file *file, int64_t position, size_t size, bool may_block,
                       const uint8_t **ret, size_t *ret_length);

/* A descriptor was closed: the partition is free, unless somebody reads on. */
void kq_group_file_flush(struct kq_group_file *file);

/* Sets the offset: a number, `earliest` or `latest`, and a newline. Blocks. 0; -EINVAL; -ERANGE
 * (beyond what is retained); -EBUSY. */
int kq_group_file_write(struct kq_group_file *file, const void *bytes, size_t size);
