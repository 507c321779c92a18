/* The tree above a broker of its own, without a kernel: what a name leads to and shows. */
#pragma once

#include "tests/unit/ground.h"

#include <inttypes.h>

#include "fs/internal.h"

struct tree {
    struct ground ground;
    struct kq_fs fs;
    struct kq_topic *topic; /* orders: two partitions */
};

static int tree_setup(void **state)
{
    struct tree *tree = calloc(1, sizeof(*tree));
    struct kq_topic_spec spec = {
        .name = "orders",
        .topic = {.uid = 7, .gid = 8, .mode = 0750},
        .partition = {.uid = 7, .gid = 8, .mode = 0640},
    };
    ground_setup(&tree->ground);
    /* Messages here are of 1970: the housekeeper, whenever it comes, is to find nothing to do. */
    tree->ground.options.topic_defaults.log.segment_ms = INT64_MAX;
    tree->ground.options.topic_defaults.log.retention_ms = -1;
    ground_open(&tree->ground);
    tree->fs = (struct kq_fs){
        .broker = tree->ground.broker,
        .options = {.attribute_timeout_ms = 1000, .max_pending_bytes = 1 << 20},
        .uid = 3,
        .gid = 4,
        .started_ms = 1234,
    };
    assert_int_equal(kq_nodes_new(&tree->fs.nodes), 0);
    assert_int_equal(kq_handles_new(&tree->fs, &tree->fs.handles), 0);
    assert_int_equal(kq_topic_create(tree->fs.broker, &ground_caller, &spec, &tree->topic), 0);
    *state = tree;
    return 0;
}

static int tree_teardown(void **state)
{
    struct tree *tree = *state;
    kq_handles_free(tree->fs.handles);
    kq_nodes_free(tree->fs.nodes);
    kq_topic_unref(tree->topic);
    ground_close(&tree->ground);
    ground_remove(&tree->ground);
    free(tree);
    return 0;
}

/* Appends one message, `text`, to partition NUMBER. */
static inline void tree_append(struct tree *tree, int32_t number, const char *text)
{
    struct kq_partition *partition;
    struct kq_access access;
    struct kq_batch_builder builder;
    struct kq_buf batch = {0};
    struct kq_log_appended appended;
    assert_int_equal(kq_partition_get(tree->topic, number, &partition), 0);
    assert_int_equal(kq_partition_access(partition, &ground_caller, KQ_RIGHT_WRITE, &access), 0);
    assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
    assert_int_equal(
        kq_batch_add(&builder, 1000, NULL, -1, text, (int32_t)strlen(text), NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    struct kq_log_append append = {
        .bytes = batch.data, .length = batch.length, .text_length = (int64_t)strlen(text) + 1};
    assert_int_equal(kq_append(&access, &append, &appended), 0);
    kq_buf_release(&batch);
    kq_partition_unref(partition);
}

static inline void tree_drop(struct tree *tree, int32_t number)
{
    struct kq_partition *partition;
    assert_int_equal(kq_partition_get(tree->topic, number, &partition), 0);
    assert_int_equal(kq_delete_records(partition, &ground_caller, -1), 0);
    kq_partition_unref(partition);
}
