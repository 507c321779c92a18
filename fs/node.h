/* Nodes: a 64-bit number that says view, topic or partition, and offset; no table of names.
 *
 *   63      58 57              38 37                                   0
 *   [ view 6 ] [ slot 20        ] [ offset within the slot's window 38 ]
 *
 * A slot stands for one topic, or for one window of 2^38 offsets of one partition in one layout of
 * its text (where compaction took text out, files get new nodes); it holds a reference and the sum
 * of the kernel's lookup counts on all nodes of it, and is free again when FORGET has brought that
 * to 0. So memory grows with the partitions looked at, never with the names. Slot 0 belongs to the
 * root and what is neither topic nor partition. The number 1 is the root (FUSE_ROOT_ID); all others
 * have their view in the upper bits.
 *
 * What stat(2) shows as st_ino is another number: a hash of topic id, partition and view that is
 * the same after a restart and for every generation of p0, since log shippers know files by it.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "broker/broker.h"
#include "fs/views.h"

/* What fs keeps of a partition that somebody looks at; one for all its slots and handles. */
struct kq_fspart {
    struct kq_partition *partition; /* referenced */
    atomic_uint references;
    /* Handles that met FLUSH with a half line: their RELEASE may be on its way (handle.h). */
    atomic_uint flushed_pending;
    /* RELEASEs taken from the kernel and not yet finished. */
    atomic_uint releasing;
    atomic_bool log_view;             /* somebody looked up p<N>.log */
    atomic_bool modified_pending;     /* notify.c: IN_MODIFY is queued */
    struct kq_fspart *next_modified;  /* notify.c */
    struct kq_fspart *next_in_bucket; /* the node table's own */
};

struct kq_node {
    enum kq_view view;
    struct kq_topic *topic; /* borrowed; NULL where the view has none */
    struct kq_fspart *part; /* borrowed; NULL where the view has none */
    int64_t offset;         /* 0 where the view has none; TEXT: where its text begins, as the log
                               start was at the LOOKUP; APPEND: a serial number; of groups and
                               users: their number */
    uint64_t layout;        /* TEXT, OFFSET_TEXT: of the partition's text at the LOOKUP; SEGMENT:
                               that since which it is as it is; else 0 */
};

struct kq_nodes;

int kq_nodes_new(struct kq_nodes **ret);
void kq_nodes_free(struct kq_nodes *nodes);

/* The node of NUMBER; what it borrows stays valid while the kernel knows the node, that is for the
 * length of the request at least. 0; -ESTALE (never handed out, or forgotten). O(1), no lock. */
int kq_node_resolve(struct kq_nodes *nodes, uint64_t number, struct kq_node *ret);

/* The number of a node for an answer to LOOKUP (or READDIRPLUS, CREATE, MKDIR), counted once for
 * the kernel. TOPIC, PARTITION as the view asks; OFFSET >= 0; LAYOUT < 2^38. 0; -ENOMEM; -ENFILE
 * (2^20 slots in use). */
int kq_node_remember(struct kq_nodes *nodes, enum kq_view view, struct kq_topic *topic,
                     struct kq_partition *partition, int64_t offset, uint64_t layout,
                     uint64_t *ret_number);

/* FORGET: takes COUNT lookups of NUMBER back. */
void kq_node_forget(struct kq_nodes *nodes, uint64_t number, uint64_t count);

/* The number that kq_node_remember would give in layout 0, if the kernel may know it; 0 otherwise.
 * For notifications. */
uint64_t kq_node_find(struct kq_nodes *nodes, enum kq_view view, struct kq_topic *topic,
                      struct kq_partition *partition, int64_t offset);

/* The fs' state of PARTITION, referenced; -ENOMEM. */
int kq_fspart_get(struct kq_nodes *nodes, struct kq_partition *partition, struct kq_fspart **ret);
/* The same where somebody looks at PARTITION already, else NULL. */
struct kq_fspart *kq_fspart_find(struct kq_nodes *nodes, struct kq_partition *partition);
struct kq_fspart *kq_fspart_ref(struct kq_fspart *part);
void kq_fspart_unref(struct kq_nodes *nodes, struct kq_fspart *part);

/* st_ino: stable across restarts. OFFSET counts only for views where each offset is a file of its
 * own (by-offset, segments). */
uint64_t kq_node_inode(const struct kq_node *node);

/* The same for what has no node yet: READDIR's d_ino. TOPIC NULL and PARTITION -1 where the view
 * has none. */
uint64_t kq_inode(enum kq_view view, const struct kq_topic *topic, int32_t partition,
                  int64_t offset);
