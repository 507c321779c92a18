#include "fs/attr.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/clock.h"
#include "fs/groups.h"
#include "fs/userfile.h"

#define BLOCK_BYTES (128 * 1024) /* st_blksize: what cat and cp read at once */
#define DIRECTORY_BYTES 4096
#define STABLE_SECONDS 60 /* of names that only a notification changes */

bool kq_attr_settable(enum kq_view view)
{
    return view == KQ_VIEW_ROOT || view == KQ_VIEW_TOPIC || view == KQ_VIEW_TEXT ||
           view == KQ_VIEW_GROUPS || view == KQ_VIEW_GROUP;
}

int kq_attr_source_get(const struct kq_node *node, struct kq_attr_source *ret)
{
    const struct kq_view_row *row = kq_view_row(node->view);
    struct kq_attr_source source = {.topic = node->topic};
    if (node->view != KQ_VIEW_ROOT && !row->per_topic)
        return -ENODATA;
    if (node->view == KQ_VIEW_APPEND) {
        int r = kq_partition_get(node->topic, 0, &source.partition);
        if (r < 0)
            return r;
    } else if (row->per_partition && row->kind != KQ_KIND_DIRECTORY) {
        source.partition = kq_partition_ref(node->part->partition);
    }
    *ret = source;
    return 0;
}

void kq_attr_source_release(struct kq_attr_source *source)
{
    kq_partition_unref(source->partition);
    source->partition = NULL;
}

/* --- Timeouts --- */

double kq_attr_timeout(struct kq_fs *fs, const struct kq_node *node)
{
    switch (node->view) {
    /* They grow, or there are too many to notify the kernel of a chmod. */
    case KQ_VIEW_APPEND:
    case KQ_VIEW_TEXT:
    case KQ_VIEW_LOG:
    case KQ_VIEW_OFFSET_TEXT:
    case KQ_VIEW_OFFSET_STREAM:
    case KQ_VIEW_OFFSET_JSONL:
    case KQ_VIEW_OFFSET_JSONL_STREAM:
    case KQ_VIEW_OFFSET_VALUE:
    case KQ_VIEW_SEGMENT:
    case KQ_VIEW_GROUP_TEXT:
    case KQ_VIEW_GROUP_OFFSET:
    case KQ_VIEW_GROUP_LAG:
    /* chmod of the root changes them too. */
    case KQ_VIEW_USERS:
    case KQ_VIEW_USER:
    case KQ_VIEW_PASSWD:
        return 0;
    default:
        return fs->options.attribute_timeout_ms / 1000.0;
    }
}

double kq_entry_timeout(enum kq_view view)
{
    switch (view) {
    /* A node of its own for each who asks. */
    case KQ_VIEW_APPEND:
    /* What they lead to moves with every append. */
    case KQ_VIEW_EARLIEST:
    case KQ_VIEW_LATEST:
    case KQ_VIEW_TIME_LINK:
    /* Retention may take them away, and nobody counts their names. */
    case KQ_VIEW_SEGMENT_LINK:
    case KQ_VIEW_SEGMENT:
    case KQ_VIEW_OFFSET_TEXT:
    case KQ_VIEW_OFFSET_STREAM:
    case KQ_VIEW_OFFSET_JSONL:
    case KQ_VIEW_OFFSET_JSONL_STREAM:
    case KQ_VIEW_OFFSET_VALUE:
    /* Clients make and delete groups and users. */
    case KQ_VIEW_GROUP:
    case KQ_VIEW_GROUP_TOPIC:
    case KQ_VIEW_GROUP_TEXT:
    case KQ_VIEW_GROUP_OFFSET:
    case KQ_VIEW_GROUP_LAG:
    case KQ_VIEW_USER:
        return 0;
    default:
        return STABLE_SECONDS;
    }
}

/* --- Links --- */

size_t kq_link_target(const struct kq_node *node, char *ret)
{
    int32_t partition = kq_partition_number(node->part->partition);
    int n;
    switch (node->view) {
    case KQ_VIEW_TIME_LINK:
        n = snprintf(ret, KQ_LINK_BYTES, "../../by-offset/p%" PRId32 "/%" PRId64, partition,
                     node->offset);
        break;
    case KQ_VIEW_SEGMENT_LINK:
        n = snprintf(ret, KQ_LINK_BYTES, "../../../.kqfs/segments/%s/p%" PRId32 "/%020" PRId64,
                     kq_topic_name(node->topic), partition, node->offset);
        break;
    default:
        n = snprintf(ret, KQ_LINK_BYTES, "%" PRId64, node->offset);
    }
    return (size_t)n;
}

/* --- stat(2) --- */

/* 2 and the subdirectories; 1 (nobody counted them) where they are many. */
static nlink_t count_links(const struct kq_node *node)
{
    switch (node->view) {
    case KQ_VIEW_TOPIC: /* by-offset, by-segment, by-time */
        return 2 + 3;
    case KQ_VIEW_BY_OFFSET:
    case KQ_VIEW_BY_TIME:
    case KQ_VIEW_BY_SEGMENT:
    case KQ_VIEW_SEGMENTS_TOPIC:
        return 2 + (nlink_t)kq_topic_partition_count(node->topic);
    case KQ_VIEW_CONTROL: /* groups, segments, users */
        return 2 + 3;
    case KQ_VIEW_USERS:
    case KQ_VIEW_GROUP_TOPIC:
    case KQ_VIEW_BY_OFFSET_PARTITION:
    case KQ_VIEW_BY_TIME_PARTITION:
    case KQ_VIEW_BY_SEGMENT_PARTITION:
    case KQ_VIEW_SEGMENTS_PARTITION:
        return 2;
    default:
        return 1;
    }
}

static void set_times(struct stat *stat, int64_t ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    stat->st_atim = stat->st_mtim = stat->st_ctim = time;
}

/* Of partitions and their views: the last append. Of topics: their creation. */
static int64_t time_of(struct kq_fs *fs, const struct kq_node *node)
{
    if (node->view == KQ_VIEW_ROOT)
        return atomic_load_explicit(&fs->root_changed_ms, memory_order_relaxed);
    if (kq_view_row(node->view)->of_groups)
        return kq_group_node_time(fs, node);
    if (!node->topic)
        return fs->started_ms;
    int64_t created_ms = kq_topic_created_ms(node->topic);
    if (!node->part)
        return created_ms;
    struct kq_log_bounds bounds;
    kq_bounds(node->part->partition, &bounds);
    return bounds.modified_ms ? bounds.modified_ms : created_ms;
}

/* Of what shows attributes that are not quite those of a topic or partition. */
static int fill_owner_of_own(struct kq_fs *fs, const struct kq_node *node, struct stat *stat)
{
    struct kq_attributes attributes;
    int r = kq_view_row(node->view)->of_users ? kq_user_node_attributes(fs, node, &attributes)
                                              : kq_group_node_attributes(fs, node, &attributes);
    if (r < 0)
        return r;
    stat->st_uid = attributes.uid;
    stat->st_gid = attributes.gid;
    stat->st_mode = attributes.mode & 07777;
    kq_attributes_release(&attributes);
    return 0;
}

static int fill_owner(struct kq_fs *fs, const struct kq_node *node, struct stat *stat)
{
    struct kq_attr_source source;
    const struct kq_view_row *row = kq_view_row(node->view);
    if (row->of_groups || row->of_users)
        return fill_owner_of_own(fs, node, stat);
    int r = kq_attr_source_get(node, &source);
    if (r == -ENODATA) {
        stat->st_uid = fs->uid;
        stat->st_gid = fs->gid;
        stat->st_mode = row->kind == KQ_KIND_DIRECTORY ? 0555 : 0444;
        return 0;
    }
    if (r < 0)
        return r;
    struct kq_attributes attributes;
    kq_attributes_peek(fs->broker, source.topic, source.partition, &attributes);
    kq_attr_source_release(&source);
    stat->st_uid = attributes.uid;
    stat->st_gid = attributes.gid;
    stat->st_mode = row->kind == KQ_KIND_LINK ? 0777 : attributes.mode & 07777;
    return 0;
}

/* Is st_size that of the text? Elsewhere it is 0, as in /proc. */
static bool has_size(enum kq_view view)
{
    const struct kq_view_row *row = kq_view_row(view);
    bool text = row->format == KQ_FORMAT_TEXT || row->format == KQ_FORMAT_VALUE;
    return row->per_partition && text && !row->stream;
}

static int fill_size(struct kq_fs *fs, const struct kq_node *node, bool may_block,
                     struct stat *stat)
{
    char target[KQ_LINK_BYTES];
    int64_t size = 0, blocks = 0;
    switch (kq_view_row(node->view)->kind) {
    case KQ_KIND_DIRECTORY:
        stat->st_mode |= S_IFDIR;
        size = DIRECTORY_BYTES;
        break;
    case KQ_KIND_LINK:
        stat->st_mode |= S_IFLNK;
        size = (int64_t)kq_link_target(node, target);
        break;
    case KQ_KIND_FILE:
        stat->st_mode |= S_IFREG;
        if (has_size(node->view)) {
            int r = kq_view_size(fs, node, may_block, &size, &blocks);
            if (r != 0)
                return r;
        }
    }
    stat->st_size = size;
    stat->st_blocks = blocks;
    stat->st_blksize = BLOCK_BYTES;
    return 0;
}

int kq_attr_get(struct kq_fs *fs, const struct kq_node *node, bool may_block, struct stat *ret)
{
    struct stat stat = {.st_ino = kq_node_inode(node), .st_nlink = count_links(node)};
    int r = fill_owner(fs, node, &stat);
    if (r == 0)
        r = fill_size(fs, node, may_block, &stat);
    if (r != 0)
        return r;
    set_times(&stat, time_of(fs, node));
    *ret = stat;
    return 0;
}
