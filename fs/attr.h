/* What stat(2), the ACLs and readlink(2) show of a node, and how long the kernel may keep it. */
#pragma once

#include "fs/internal.h"

#define KQ_LINK_BYTES 320 /* of a link's target: a topic's name and what stands around it */

/* Whose owner, mode and ACL a node shows: those of the root (both NULL), a topic, or a partition,
 * which is referenced. */
struct kq_attr_source {
    struct kq_topic *topic; /* borrowed */
    struct kq_partition *partition;
};

/* 0, and the source is to be released; -ENODATA: NODE belongs to the broker itself (.kqfs);
 * -ENOENT. */
int kq_attr_source_get(const struct kq_node *node, struct kq_attr_source *ret);
void kq_attr_source_release(struct kq_attr_source *source);

/* May owner, mode and ACL be set on a node of VIEW? Others show those of what they derive from. */
bool kq_attr_settable(enum kq_view view);

/* What stat(2) shows. 0; KQ_WOULD_BLOCK unless MAY_BLOCK; -ENOENT; -errno. */
int kq_attr_get(struct kq_fs *fs, const struct kq_node *node, bool may_block, struct stat *ret);

/* Seconds for which the kernel may keep what kq_attr_get says. Whatever changes it sooner is
 * followed by a notification. */
double kq_attr_timeout(struct kq_fs *fs, const struct kq_node *node);

/* Seconds for which the kernel may keep a name that leads to a node of VIEW. */
double kq_entry_timeout(enum kq_view view);

/* The target of the link NODE; RET has KQ_LINK_BYTES. Returns its length. */
size_t kq_link_target(const struct kq_node *node, char *ret);

/* Calls CHANGE with a copy of NODE's stored attributes and stores what it leaves in it; durable
 * when it returns. May block. 0; -EPERM (NODE only shows another's); what CHANGE said; -errno.
 * (op_attr.c) */
int kq_attr_change(struct kq_fs *fs, const struct kq_node *node, const struct kq_caller *caller,
                   int (*change)(struct kq_attributes *attributes, void *argument), void *argument);
