/* What directories list, and where a listing goes on.
 *
 * A cookie is a place among what can be listed, never a count of what was: 1 and 2 stand behind `.`
 * and `..`, then come the names of the view itself, then partitions and segments by their number,
 * so what comes and goes moves nothing. Topics have no number: a handle on a directory of topics
 * takes their names down when the listing begins, and a cookie is a place among those. */
#pragma once

#include "fs/place.h"

#define KQ_DIR_NAME_BYTES 256

struct kq_dir; /* an open directory that takes names down; NULL for others */

/* For NODE, which must be a directory: RET is NULL where it needs none. 0; -ENOTDIR;
 * -ESTALE (of a topic that was deleted); -ENOMEM. */
int kq_dir_new(const struct kq_node *node, struct kq_dir **ret);
void kq_dir_free(struct kq_dir *dir); /* NULL is fine */

struct kq_dir_item {
    char name[KQ_DIR_NAME_BYTES];
    uint64_t inode;
    mode_t mode;           /* the type alone */
    off_t next;            /* the cookie behind it */
    struct kq_place place; /* for the caller to release; KQ_VIEW_NONE: `.` or `..` */
};

/* The first item behind the cookie AT (0 to begin). The kernel serialises calls on one DIR. 0;
 * KQ_END; KQ_WOULD_BLOCK unless MAY_BLOCK; -EINVAL (no such cookie); -errno. */
int kq_dir_next(struct kq_fs *fs, const struct kq_node *node, struct kq_dir *dir, off_t at,
                bool may_block, struct kq_dir_item *ret);
