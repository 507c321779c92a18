/* What the broker says, and what of it the kernel has to hear. */
#include <inttypes.h>
#include <stdio.h>

#include "broker/base/clock.h"
#include "fs/internal.h"

#define NAME_BYTES 64

static void topics_changed(struct kq_fs *fs)
{
    atomic_store_explicit(&fs->root_changed_ms, kq_clock_wall_ms(), memory_order_relaxed);
    kq_notify_inode(fs, FUSE_ROOT_ID);
}

static void topic_deleted(struct kq_fs *fs, struct kq_topic *topic)
{
    uint64_t segments = kq_node_find(fs->nodes, KQ_VIEW_SEGMENTS, NULL, NULL, 0);
    kq_notify_entry(fs, FUSE_ROOT_ID, kq_topic_name(topic));
    kq_notify_entry(fs, segments, kq_topic_name(topic));
    topics_changed(fs);
}

/* Views whose attributes the kernel may keep (kq_attr_timeout). */
static const enum kq_view of_topic[] = {
    KQ_VIEW_TOPIC, KQ_VIEW_BY_OFFSET, KQ_VIEW_BY_TIME, KQ_VIEW_BY_SEGMENT, KQ_VIEW_SEGMENTS_TOPIC,
};
static const enum kq_view directories_of_partition[] = {
    KQ_VIEW_BY_OFFSET_PARTITION,
    KQ_VIEW_BY_TIME_PARTITION,
    KQ_VIEW_BY_SEGMENT_PARTITION,
    KQ_VIEW_SEGMENTS_PARTITION,
};
static const enum kq_view files_of_partition[] = {
    KQ_VIEW_STREAM,
    KQ_VIEW_JSONL,
    KQ_VIEW_JSONL_STREAM,
};

static void partition_added(struct kq_fs *fs, struct kq_topic *topic)
{
    for (size_t i = 0; i < kq_array_size(of_topic); i++)
        kq_notify_inode(fs, kq_node_find(fs->nodes, of_topic[i], topic, NULL, 0));
}

/* chmod reaches what derives from the topic before it returns, so this does not go through the
 * queue. */
static void topic_attributes(struct kq_fs *fs, struct kq_topic *topic)
{
    for (size_t i = 0; i < kq_array_size(of_topic); i++)
        kq_notify_inode_now(fs, kq_node_find(fs->nodes, of_topic[i], topic, NULL, 0));
    int32_t count = kq_topic_partition_count(topic);
    for (int32_t number = 0; number < count; number++) {
        struct kq_partition *partition;
        if (kq_partition_get(topic, number, &partition) < 0)
            continue;
        for (size_t i = 0; i < kq_array_size(directories_of_partition); i++)
            kq_notify_inode_now(
                fs, kq_node_find(fs->nodes, directories_of_partition[i], topic, partition, 0));
        kq_partition_unref(partition);
    }
}

static void partition_attributes(struct kq_fs *fs, struct kq_topic *topic,
                                 struct kq_partition *partition)
{
    for (size_t i = 0; i < kq_array_size(files_of_partition); i++)
        kq_notify_inode_now(fs,
                            kq_node_find(fs->nodes, files_of_partition[i], topic, partition, 0));
}

/* The name leads to a new node from now on. */
static void start_moved(struct kq_fs *fs, struct kq_topic *topic, struct kq_partition *partition)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof(name), "p%" PRId32, kq_partition_number(partition));
    kq_notify_entry(fs, kq_node_find(fs->nodes, KQ_VIEW_TOPIC, topic, NULL, 0), name);
}

static void appended(struct kq_fs *fs, struct kq_partition *partition)
{
    if (kq_likely(!atomic_load_explicit(&fs->log_views, memory_order_relaxed)))
        return;
    struct kq_fspart *part = kq_fspart_find(fs->nodes, partition);
    if (part && atomic_load_explicit(&part->log_view, memory_order_relaxed))
        kq_notify_modified(fs, part);
    kq_fspart_unref(fs->nodes, part);
}

static void on_event(struct kq_listener *listener, enum kq_event event, struct kq_topic *topic,
                     struct kq_partition *partition)
{
    struct kq_fs *fs =
        (struct kq_fs *)(void *)((char *)listener - offsetof(struct kq_fs, listener));
    switch (event) {
    case KQ_EVENT_APPENDED:
        appended(fs, partition);
        break;
    case KQ_EVENT_START_MOVED:
    case KQ_EVENT_TEXT_CLEANED:
        start_moved(fs, topic, partition);
        break;
    case KQ_EVENT_ATTRIBUTES:
        if (partition)
            partition_attributes(fs, topic, partition);
        else if (topic)
            topic_attributes(fs, topic);
        else
            kq_notify_inode_now(fs, FUSE_ROOT_ID);
        break;
    case KQ_EVENT_PARTITION_ADDED:
        partition_added(fs, topic);
        break;
    case KQ_EVENT_TOPIC_CREATED:
        topics_changed(fs);
        break;
    case KQ_EVENT_TOPIC_DELETED:
        topic_deleted(fs, topic);
        break;
    case KQ_EVENT_CONFIG: /* shows in extended attributes only, which the kernel does not keep */
        break;
    }
}

void kq_fs_listen(struct kq_fs *fs)
{
    fs->listener.event = on_event;
    kq_broker_listen(fs->broker, &fs->listener);
}

void kq_fs_unlisten(struct kq_fs *fs)
{
    if (fs->listener.event)
        kq_broker_unlisten(fs->broker, &fs->listener);
    fs->listener.event = NULL;
}
