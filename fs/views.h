/* The kinds of node in the tree, and the names that lead to them: one table.
 *
 * A view is what a name under the mountpoint shows of a topic or a partition: its text, its
 * messages as JSON lines, a stream that blocks, a directory of links … */
#pragma once

#include <stdbool.h>
#include <stdint.h>

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
    /* per partition: whole partition; the node's offset is where its text begins */
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
};

struct kq_view_row {
    enum kq_view_kind kind;
    enum kq_view_format format;
    bool stream;                   /* blocks at the end */
    bool writable;                 /* write(2) appends */
    bool sealed;                   /* can never grow: the kernel may keep its pages */
    bool per_topic, per_partition; /* what a node of it belongs to */
};

/* The row of VIEW, which must be below KQ_VIEW_COUNT. */
const struct kq_view_row *kq_view_row(enum kq_view view);
