/* Where the text of open files begins: kept as long as a handle is open on the node, so that a file
 * that retention has overtaken keeps its byte 0 and its growing size. Any thread. */
#pragma once

#include "fs/node.h"

struct kq_anchors;
struct kq_anchor; /* one node's; counted by the handles open on it */

int kq_anchors_new(struct kq_anchors **ret);
void kq_anchors_free(struct kq_anchors *anchors); /* none may be held; NULL is fine */

/* The node of PART whose text begins at OFFSET has its byte 0 at text position TEXT. -ENOMEM. */
int kq_anchor_hold(struct kq_anchors *anchors, struct kq_fspart *part, int64_t offset, int64_t text,
                   struct kq_anchor **ret);
void kq_anchor_drop(struct kq_anchors *anchors, struct kq_anchor *anchor); /* NULL is fine */

/* The text position that an open handle holds for the node; -1: there is none. */
int64_t kq_anchor_find(struct kq_anchors *anchors, const struct kq_fspart *part, int64_t offset);
