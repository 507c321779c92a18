#include "fs/place.h"

#include "fs/attr.h"
#include "fs/groups.h"
#include "fs/userfile.h"

void kq_place_release(struct kq_place *place)
{
    kq_partition_unref(place->partition);
    kq_topic_unref(place->topic);
    *place = (struct kq_place){0};
}

/* The present start or end of PARTITION. The end counts half lines whose file was closed before. */
static int64_t bound_of(struct kq_fs *fs, struct kq_partition *partition, enum kq_name_from from)
{
    struct kq_log_bounds bounds;
    if (from == KQ_FROM_LATEST) {
        struct kq_fspart *part = kq_fspart_find(fs->nodes, partition);
        if (part)
            kq_fspart_settle(fs, part);
        kq_fspart_unref(fs->nodes, part);
    }
    kq_bounds(partition, &bounds);
    return from == KQ_FROM_LATEST ? bounds.end : bounds.start;
}

static int offset_of_time(struct kq_fs *fs, struct kq_partition *partition,
                          const struct kq_caller *caller, int64_t time_ms, bool may_block,
                          int64_t *ret)
{
    struct kq_access access;
    int64_t timestamp;
    int64_t end = bound_of(fs, partition, KQ_FROM_LATEST);
    int r = kq_partition_access(partition, caller, KQ_RIGHT_READ, &access);
    if (r == 0)
        r = kq_find_time(&access, time_ms, may_block, ret, &timestamp);
    if (r != KQ_END)
        return r;
    *ret = end;
    return 0;
}

static int place_of_segment(struct kq_place *place, int64_t base, bool may_block)
{
    struct kq_log_range range;
    int r = kq_next_range(place->partition, base, may_block, &range);
    if (r == KQ_END || (r == 0 && range.base_offset != base))
        return -ENOENT;
    if (r == 0) {
        place->offset = base;
        place->layout = place->view == KQ_VIEW_SEGMENT ? range.layout : 0;
    }
    return r;
}

/* The present layout of what is read by text position. */
static uint64_t layout_of(struct kq_partition *partition)
{
    struct kq_log_bounds bounds;
    kq_bounds(partition, &bounds);
    return bounds.layout;
}

static int find_offset(struct kq_fs *fs, const struct kq_name *name, struct kq_place *place,
                       const struct kq_caller *caller, bool may_block)
{
    struct kq_partition *partition = place->partition;
    switch (name->view) {
    case KQ_VIEW_APPEND:
        place->offset = (int64_t)atomic_fetch_add(&fs->append_serial, 1);
        return 0;
    case KQ_VIEW_TEXT:
        place->layout = layout_of(partition);
        place->offset = bound_of(fs, partition, KQ_FROM_EARLIEST);
        return 0;
    case KQ_VIEW_EARLIEST:
        place->offset = bound_of(fs, partition, KQ_FROM_EARLIEST);
        return 0;
    case KQ_VIEW_LATEST:
        place->offset = bound_of(fs, partition, KQ_FROM_LATEST);
        return 0;
    case KQ_VIEW_OFFSET_TEXT:
    case KQ_VIEW_OFFSET_STREAM:
    case KQ_VIEW_OFFSET_JSONL:
    case KQ_VIEW_OFFSET_JSONL_STREAM:
    case KQ_VIEW_OFFSET_VALUE:
        place->layout = name->view == KQ_VIEW_OFFSET_TEXT ? layout_of(partition) : 0;
        place->offset =
            name->from == KQ_FROM_NUMBER ? name->number : bound_of(fs, partition, name->from);
        return 0;
    case KQ_VIEW_TIME_LINK:
        return offset_of_time(fs, partition, caller, name->number, may_block, &place->offset);
    case KQ_VIEW_SEGMENT_LINK:
    case KQ_VIEW_SEGMENT:
        return place_of_segment(place, name->number, may_block);
    default:
        return 0;
    }
}

/* Group, user, topic and partition of NAME, from itself or from the directory it is in. */
static int find_owner(struct kq_fs *fs, const struct kq_node *parent, const struct kq_name *name,
                      bool may_block, struct kq_place *place)
{
    if (name->user)
        return kq_user_named(fs, name->user, &place->offset);
    if (name->group)
        return kq_group_named(fs, name->group, may_block, &place->offset);
    if (kq_view_row(parent->view)->of_groups)
        place->offset = parent->offset;
    if (name->topic) {
        int r = kq_topic_get(fs->broker, name->topic, &place->topic);
        if (r < 0)
            return r;
    } else if (parent->topic) {
        /* The kernel may have kept the way here: ESTALE makes it look up each name again, since
         * there may be another topic of this name. */
        if (kq_topic_deleted(parent->topic))
            return -ESTALE;
        place->topic = kq_topic_ref(parent->topic);
    }
    if (name->partition >= 0)
        return kq_partition_get(place->topic, name->partition, &place->partition);
    if (parent->part)
        place->partition = kq_partition_ref(parent->part->partition);
    return 0;
}

int kq_place_find(struct kq_fs *fs, const struct kq_node *parent, const char *name,
                  const struct kq_caller *caller, bool may_block, struct kq_place *ret)
{
    struct kq_name parsed;
    int r = kq_view_parse(parent->view, name, &parsed);
    if (r < 0)
        return r;
    struct kq_place place = {.view = parsed.view};
    r = find_owner(fs, parent, &parsed, may_block, &place);
    if (r == 0)
        r = find_offset(fs, &parsed, &place, caller, may_block);
    if (r == 0)
        *ret = place;
    else
        kq_place_release(&place);
    return r;
}

static bool is_offset_view(enum kq_view view)
{
    return view >= KQ_VIEW_OFFSET_TEXT && view <= KQ_VIEW_OFFSET_VALUE;
}

/* The broker may tell of every append from now on. */
static void note_log_view(struct kq_fs *fs, struct kq_fspart *part)
{
    atomic_store_explicit(&part->log_view, true, memory_order_relaxed);
    atomic_store_explicit(&fs->log_views, true, memory_order_relaxed);
}

int kq_place_enter(struct kq_fs *fs, const struct kq_place *place, bool may_block,
                   struct fuse_entry_param *ret)
{
    struct kq_node node;
    struct fuse_entry_param entry = {0};
    int r = kq_node_remember(fs->nodes, place->view, place->topic, place->partition, place->offset,
                             place->layout, &entry.ino);
    if (r < 0)
        return r;
    r = kq_node_resolve(fs->nodes, entry.ino, &node);
    if (r == 0 && is_offset_view(place->view))
        r = kq_view_exists(fs, &node, may_block);
    if (r == 0)
        r = kq_attr_get(fs, &node, may_block, &entry.attr);
    if (r != 0) {
        kq_node_forget(fs->nodes, entry.ino, 1);
        return r;
    }
    if (place->view == KQ_VIEW_LOG)
        note_log_view(fs, node.part);
    entry.attr_timeout = kq_attr_timeout(fs, &node);
    entry.entry_timeout = kq_entry_timeout(place->view);
    *ret = entry;
    return 0;
}
