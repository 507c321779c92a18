/* The kinds of node in the tree, and the names that lead to them: one table.
 *
 * A view is what a name under the mountpoint shows of a topic or a partition: its text, its
 * messages as JSON lines, a stream that blocks, a directory of links … */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* New ones go before KQ_VIEW_COUNT and none ever moves: the number is in st_ino (kq_inode), by
 * which log shippers know files across restarts and versions. */
enum kq_view {
    KQ_VIEW_NONE = 0,
    KQ_VIEW_ROOT, /* must be 1: FUSE's root is node 1 (see node.h) */
    /* per topic */
    KQ_VIEW_TOPIC,
    KQ_VIEW_APPEND,
    KQ_VIEW_BY_OFFSET, /* orders/by-offset */
    KQ_VIEW_BY_TIME,
    KQ_VIEW_BY_SEGMENT,
    /* per partition: directories */
    KQ_VIEW_BY_OFFSET_PARTITION, /* orders/by-offset/p0 */
    KQ_VIEW_BY_TIME_PARTITION,
    KQ_VIEW_BY_SEGMENT_PARTITION,
    /* per partition: links; the node's offset is what they point to */
    KQ_VIEW_EARLIEST,
    KQ_VIEW_LATEST,
    KQ_VIEW_TIME_LINK,
    KQ_VIEW_SEGMENT_LINK,
    /* per partition: whole partition; the offset of a p0 is where its text begins */
    KQ_VIEW_TEXT,         /* p0 */
    KQ_VIEW_STREAM,       /* p0.stream */
    KQ_VIEW_JSONL,        /* p0.jsonl */
    KQ_VIEW_JSONL_STREAM, /* p0.jsonl.stream */
    KQ_VIEW_LOG,          /* p0.log */
    /* per partition: from an offset */
    KQ_VIEW_OFFSET_TEXT, /* by-offset/p0/42 */
    KQ_VIEW_OFFSET_STREAM,
    KQ_VIEW_OFFSET_JSONL,
    KQ_VIEW_OFFSET_JSONL_STREAM,
    KQ_VIEW_OFFSET_VALUE, /* by-offset/p0/42.value: one message, exact bytes */
    /* .kqfs */
    KQ_VIEW_CONTROL, /* .kqfs */
    KQ_VIEW_METRICS,
    KQ_VIEW_VERSION,
    KQ_VIEW_CONFIG,
    KQ_VIEW_SEGMENTS,           /* .kqfs/segments */
    KQ_VIEW_SEGMENTS_TOPIC,     /* .kqfs/segments/orders */
    KQ_VIEW_SEGMENTS_PARTITION, /* .kqfs/segments/orders/p0 */
    KQ_VIEW_SEGMENT,            /* .kqfs/segments/orders/p0/00000000000000000000: sealed text */
    /* .kqfs/groups: the offset of a node below is the group's number (fs/groups.h) */
    KQ_VIEW_GROUPS,
    KQ_VIEW_GROUP,        /* .kqfs/groups/billing */
    KQ_VIEW_GROUP_TOPIC,  /* .kqfs/groups/billing/orders */
    KQ_VIEW_GROUP_TEXT,   /* .kqfs/groups/billing/orders/p0 */
    KQ_VIEW_GROUP_OFFSET, /* p0.offset */
    KQ_VIEW_GROUP_LAG,    /* p0.lag */
    /* users of the network (fs/userfile.h): the offset of a user's node is its number */
    KQ_VIEW_USERS,  /* .kqfs/users */
    KQ_VIEW_USER,   /* .kqfs/users/app1 */
    KQ_VIEW_PASSWD, /* .kqfs/passwd: takes changes of users, shows nothing */
    KQ_VIEW_COUNT
};

enum kq_view_kind {
    KQ_KIND_DIRECTORY,
    KQ_KIND_FILE,
    KQ_KIND_LINK,
};

enum kq_view_format {
    KQ_FORMAT_NONE,
    KQ_FORMAT_TEXT,
    KQ_FORMAT_JSONL,
    KQ_FORMAT_VALUE,
    KQ_FORMAT_CONTROL, /* generated when opened */
    KQ_FORMAT_GROUP,   /* fs/groupfile.c */
    KQ_FORMAT_PASSWD,  /* fs/userfile.c */
};

struct kq_view_row {
    enum kq_view_kind kind;
    enum kq_view_format format;
    bool stream;                   /* blocks at the end */
    bool writable;                 /* write(2) appends */
    bool sealed;                   /* can never grow: the kernel may keep its pages */
    bool per_topic, per_partition; /* what a node of it belongs to */
    bool of_groups;                /* .kqfs/groups, or below */
    bool of_users;                 /* .kqfs/users, or below, or .kqfs/passwd */
};

/* The row of VIEW, which must be below KQ_VIEW_COUNT. */
const struct kq_view_row *kq_view_row(enum kq_view view);

/* --- Names --- */

/* Where the text of a name begins: `42.stream`, `earliest.stream`, `latest.stream`. */
enum kq_name_from {
    KQ_FROM_NUMBER,
    KQ_FROM_EARLIEST,
    KQ_FROM_LATEST,
};

/* What a name says. */
struct kq_name {
    enum kq_view view;
    int32_t partition; /* p<N>; -1 where the name has none */
    enum kq_name_from from;
    int64_t number;    /* an offset, a segment's base offset, or a time in ms; 0 */
    const char *topic; /* the name itself, where it is a topic's; NULL else */
    const char *group; /* likewise */
    const char *user;  /* likewise, as the name of a file */
};

/* What NAME means in a directory of view PARENT, by its form alone: whether the topic, partition
 * or offset exists is not asked. Numbers have no leading zeros (but 0 itself), segments have 20
 * digits. What RET points to is NAME. 0; -ENOENT. Any thread. */
int kq_view_parse(enum kq_view parent, const char *name, struct kq_name *ret);

/* Names that every directory of view PARENT lists, in order: the one at INDEX (0, 1, …) and its
 * view, or NULL behind the last. What there is by number (topics, partitions, segments) is not
 * among them. */
const char *kq_view_listed(enum kq_view parent, unsigned index, enum kq_view *ret_view);

/* What a directory of view PARENT lists for each topic, partition or segment; KQ_VIEW_NONE. */
enum kq_view kq_view_listed_each(enum kq_view parent);

/* The view of the directory that holds files of VIEW (of the root: the root). */
enum kq_view kq_view_parent(enum kq_view view);

/* A time as by-time/ takes it, in milliseconds since 1970: bare digits, or RFC 3339 with Z or an
 * offset; fractions of a millisecond round up. 0; -ENOENT (malformed or out of range). */
int kq_time_parse(const char *text, int64_t *ret_ms);
