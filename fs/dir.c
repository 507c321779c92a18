#include "fs/dir.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/mem.h"
#include "fs/groups.h"
#include "fs/userfile.h"

#define COOKIE_LISTED 2 /* behind `.` and `..` */

struct kq_dir {
    struct kq_buf names; /* of topics, groups or users, each with its NUL */
    bool taken;
};

static bool lists_names(enum kq_view view)
{
    enum kq_view each = kq_view_listed_each(view);
    return each == KQ_VIEW_TOPIC || each == KQ_VIEW_SEGMENTS_TOPIC || each == KQ_VIEW_GROUP ||
           each == KQ_VIEW_GROUP_TOPIC || each == KQ_VIEW_USER;
}

int kq_dir_new(const struct kq_node *node, struct kq_dir **ret)
{
    if (kq_view_row(node->view)->kind != KQ_KIND_DIRECTORY)
        return -ENOTDIR;
    if (node->topic && kq_topic_deleted(node->topic))
        return -ESTALE; /* the kernel then looks for another topic of this name */
    struct kq_dir *dir = NULL;
    if (lists_names(node->view)) {
        dir = kq_zalloc(sizeof(*dir));
        if (!dir)
            return -ENOMEM;
    }
    *ret = dir;
    return 0;
}

void kq_dir_free(struct kq_dir *dir)
{
    if (dir)
        kq_buf_release(&dir->names);
    free(dir);
}

static int list_topics(struct kq_fs *fs, struct kq_buf *names)
{
    char after[KQ_DIR_NAME_BYTES] = "";
    struct kq_topic *topic;
    int r;
    while ((r = kq_topic_next(fs->broker, after, &topic)) == 0) {
        const char *name = kq_topic_name(topic);
        if (!kq_topic_is_internal(name))
            r = kq_buf_append(names, name, strlen(name) + 1);
        snprintf(after, sizeof(after), "%s", name);
        kq_topic_unref(topic);
        if (r < 0)
            return r;
    }
    return r == KQ_END ? 0 : r;
}

static int take_names(struct kq_fs *fs, const struct kq_node *node, bool may_block,
                      struct kq_dir *dir)
{
    dir->names.length = 0;
    const struct kq_view_row *row = kq_view_row(node->view);
    int r = row->of_groups  ? kq_group_list(fs, node, may_block, &dir->names)
            : row->of_users ? kq_user_list(fs, &dir->names)
                            : list_topics(fs, &dir->names);
    dir->taken = r == 0;
    return r;
}

/* Is AT where a name begins? Cookies come back from user space (seekdir). */
static bool is_name_start(const struct kq_dir *dir, uint64_t at)
{
    return at == 0 || (at < dir->names.length && dir->names.data[at - 1] == '\0');
}

/* What NAME leads to, which was a topic, group or user when the names were taken down. */
static int find_named(struct kq_fs *fs, const struct kq_node *node, const char *name,
                      struct kq_place *place)
{
    if (place->view == KQ_VIEW_GROUP)
        return kq_group_named(fs, name, false, &place->offset);
    if (place->view == KQ_VIEW_USER)
        return kq_user_named(fs, name, &place->offset);
    place->offset = node->offset;
    return kq_topic_get(fs->broker, name, &place->topic);
}

/* The first topic, group or user behind AT that is still there. */
static int next_named(struct kq_fs *fs, const struct kq_node *node, struct kq_dir *dir,
                      bool may_block, uint64_t *at, struct kq_dir_item *item)
{
    int r = dir->taken ? 0 : take_names(fs, node, may_block, dir);
    if (r != 0)
        return r;
    if (*at < dir->names.length && !is_name_start(dir, *at))
        return -EINVAL;
    while (*at < dir->names.length) {
        const char *name = (const char *)dir->names.data + *at;
        *at += strlen(name) + 1;
        if (find_named(fs, node, name, &item->place) == 0) {
            snprintf(item->name, sizeof(item->name), "%s", name);
            return 0;
        }
    }
    return KQ_END;
}

static int next_partition(const struct kq_node *node, uint64_t *at, struct kq_dir_item *item)
{
    if (*at >= (uint64_t)kq_topic_partition_count(node->topic) || kq_topic_deleted(node->topic))
        return KQ_END;
    int r = kq_partition_get(node->topic, (int32_t)*at, &item->place.partition);
    if (r < 0)
        return r;
    snprintf(item->name, sizeof(item->name), "p%" PRIu64, *at);
    ++*at;
    item->place.topic = kq_topic_ref(node->topic);
    return 0;
}

/* For each partition its lag and its offset. */
static int next_of_group(const struct kq_node *node, uint64_t *at, struct kq_dir_item *item)
{
    bool lag = *at % 2 == 0;
    uint64_t number = *at / 2;
    int r = next_partition(node, &number, item);
    if (r != 0)
        return r;
    item->place.view = lag ? KQ_VIEW_GROUP_LAG : KQ_VIEW_GROUP_OFFSET;
    item->place.offset = node->offset;
    strcat(item->name, lag ? ".lag" : ".offset");
    ++*at;
    return 0;
}

static int next_segment(const struct kq_node *node, uint64_t *at, bool may_block,
                        struct kq_dir_item *item)
{
    struct kq_log_range range;
    int r = kq_next_range(node->part->partition, (int64_t)*at, may_block, &range);
    if (r != 0)
        return r == -ESTALE ? KQ_END : r;
    snprintf(item->name, sizeof(item->name), "%020" PRId64, range.base_offset);
    *at = (uint64_t)range.base_offset + 1;
    item->place.topic = kq_topic_ref(node->topic);
    item->place.partition = kq_partition_ref(node->part->partition);
    item->place.offset = range.base_offset;
    return 0;
}

/* What there is by number: AT counts from 0, and stands behind the item afterwards. */
static int next_of_each(struct kq_fs *fs, const struct kq_node *node, struct kq_dir *dir,
                        bool may_block, uint64_t *at, struct kq_dir_item *item)
{
    enum kq_view each = kq_view_listed_each(node->view);
    struct kq_log_bounds bounds;
    int r;
    item->place.view = each;
    switch (each) {
    case KQ_VIEW_NONE:
        return KQ_END;
    case KQ_VIEW_TOPIC:
    case KQ_VIEW_SEGMENTS_TOPIC:
    case KQ_VIEW_GROUP:
    case KQ_VIEW_GROUP_TOPIC:
    case KQ_VIEW_USER:
        return dir ? next_named(fs, node, dir, may_block, at, item) : -EBADF;
    case KQ_VIEW_GROUP_LAG:
        return next_of_group(node, at, item);
    case KQ_VIEW_SEGMENT:
    case KQ_VIEW_SEGMENT_LINK:
        return next_segment(node, at, may_block, item);
    case KQ_VIEW_TEXT:
        r = next_partition(node, at, item);
        if (r == 0) {
            kq_bounds(item->place.partition, &bounds);
            item->place.offset = bounds.start;
        }
        return r;
    default:
        return next_partition(node, at, item);
    }
}

static int listed_item(const struct kq_node *node, unsigned index, struct kq_dir_item *item)
{
    const char *name = kq_view_listed(node->view, index, &item->place.view);
    if (!name)
        return KQ_END;
    snprintf(item->name, sizeof(item->name), "%s", name);
    if (node->topic)
        item->place.topic = kq_topic_ref(node->topic);
    if (node->part)
        item->place.partition = kq_partition_ref(node->part->partition);
    return 0;
}

static void dot_item(const struct kq_node *node, off_t at, struct kq_dir_item *item)
{
    enum kq_view view = at == 0 ? node->view : kq_view_parent(node->view);
    const struct kq_view_row *row = kq_view_row(view);
    int32_t partition = row->per_partition ? kq_partition_number(node->part->partition) : -1;
    strcpy(item->name, at == 0 ? "." : "..");
    item->inode = kq_inode(view, row->per_topic ? node->topic : NULL, partition,
                           view == KQ_VIEW_GROUPS ? 0 : node->offset);
    item->mode = S_IFDIR;
    item->next = at + 1;
}

static void describe(struct kq_dir_item *item)
{
    static const mode_t types[] = {
        [KQ_KIND_DIRECTORY] = S_IFDIR, [KQ_KIND_FILE] = S_IFREG, [KQ_KIND_LINK] = S_IFLNK};
    const struct kq_place *place = &item->place;
    const struct kq_view_row *row = kq_view_row(place->view);
    int32_t partition = row->per_partition ? kq_partition_number(place->partition) : -1;
    item->inode =
        kq_inode(place->view, row->per_topic ? place->topic : NULL, partition, place->offset);
    item->mode = types[row->kind];
}

int kq_dir_next(struct kq_fs *fs, const struct kq_node *node, struct kq_dir *dir, off_t at,
                bool may_block, struct kq_dir_item *ret)
{
    unsigned listed = 0;
    enum kq_view view;
    if (at < 0)
        return -EINVAL;
    *ret = (struct kq_dir_item){0};
    if (at < COOKIE_LISTED) {
        if (dir && at == 0)
            dir->taken = false;
        dot_item(node, at, ret);
        return 0;
    }
    while (kq_view_listed(node->view, listed, &view))
        listed++;
    uint64_t index = (uint64_t)at - COOKIE_LISTED;
    int r;
    if (index < listed) {
        r = listed_item(node, (unsigned)index++, ret);
    } else {
        index -= listed;
        r = next_of_each(fs, node, dir, may_block, &index, ret);
        index += listed;
    }
    if (r != 0) {
        kq_place_release(&ret->place);
        return r;
    }
    ret->next = (off_t)index + COOKIE_LISTED;
    describe(ret);
    return 0;
}
