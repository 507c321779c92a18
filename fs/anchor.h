/* Where the text of open files begins: kept as long as a handle is open on the node, so that a file
 * that retention has overtaken keeps its byte 0 and its growing size. Any thread. */
#pragma once

#include "fs/node.h"

/* Byte 0 of a file in the text of its partition. */
struct kq_text_base {
    int64_t text;    /* its text position */
    int64_t packed;  /* its packed position, … */
    uint64_t layout; /* … in this layout, or, of a segment, the one since which that is as it is */
    int64_t removed; /* bytes of holes before the end of text, */
    int64_t settled; /* and the text position behind which there are none, in that layout */
};

struct kq_anchors;
struct kq_anchor; /* one node's; counted by the handles open on it */

int kq_anchors_new(struct kq_anchors **ret);
void kq_anchors_free(struct kq_anchors *anchors); /* none may be held; NULL is fine */

/* The node of PART whose text begins at OFFSET, made in LAYOUT, has its byte 0 at BASE. -ENOMEM. */
int kq_anchor_hold(struct kq_anchors *anchors, struct kq_fspart *part, int64_t offset,
                   uint64_t layout, const struct kq_text_base *base, struct kq_anchor **ret);
void kq_anchor_drop(struct kq_anchors *anchors, struct kq_anchor *anchor); /* NULL is fine */

/* What an open handle holds for the node; false: there is none. */
bool kq_anchor_find(struct kq_anchors *anchors, const struct kq_fspart *part, int64_t offset,
                    uint64_t layout, struct kq_text_base *ret);
