/* From a name to a node: what a LOOKUP answers. */
#pragma once

#include "fs/internal.h"

/* What a name leads to; nothing the kernel knows of yet. */
struct kq_place {
    enum kq_view view;
    struct kq_topic *topic;         /* referenced; NULL where the view has none */
    struct kq_partition *partition; /* referenced; NULL where the view has none */
    int64_t offset;                 /* as in struct kq_node */
    uint64_t layout;                /* likewise */
};

void kq_place_release(struct kq_place *place);

/* What NAME leads to in the directory PARENT. 0; -ENOENT; KQ_WOULD_BLOCK unless MAY_BLOCK;
 * -errno. */
int kq_place_find(struct kq_fs *fs, const struct kq_node *parent, const char *name,
                  const struct kq_caller *caller, bool may_block, struct kq_place *ret);

/* Makes PLACE known to the kernel: fills the answer and counts one lookup, which kq_node_forget
 * takes back if the answer does not get there. 0; -ENOENT; KQ_WOULD_BLOCK unless MAY_BLOCK;
 * -errno. */
int kq_place_enter(struct kq_fs *fs, const struct kq_place *place, bool may_block,
                   struct fuse_entry_param *ret);
