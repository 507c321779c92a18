/* Groups as directories: finding them, their owners, making and deleting them. */
#include "fs/groups.h"

#include <semaphore.h>
#include <string.h>

#include "fs/groupwait.h"

#define NAME_MOST 255 /* NAME_MAX */

int kq_fs_group(struct kq_fs *fs, const struct kq_node *node, struct kq_group **ret)
{
    return kq_group_find(fs->broker, node->offset, ret) == 0 ? 0 : -ESTALE;
}

/* After a start the groups are read in the background. */
static int await_groups(struct kq_fs *fs, bool may_block)
{
    if (kq_groups_loaded(fs->broker))
        return 0;
    return may_block ? kq_groups_await_loaded(fs->broker) : KQ_WOULD_BLOCK;
}

int kq_group_named(struct kq_fs *fs, const char *name, bool may_block, int64_t *ret)
{
    struct kq_caller nobody = {0};
    struct kq_group *group;
    int r = kq_group_get(fs->broker, &nobody, kq_str_of(name), 0, &group);
    if (r == KQ_GROUP_LOADING) {
        r = await_groups(fs, may_block);
        if (r == 0)
            r = kq_group_get(fs->broker, &nobody, kq_str_of(name), 0, &group);
    }
    if (r != 0)
        return r == KQ_GROUP_NOT_FOUND || r == KQ_GROUP_INVALID_ID ? -ENOENT : r;
    *ret = kq_group_number(group);
    kq_group_unref(group);
    return 0;
}

bool kq_group_name_is_file(struct kq_str name)
{
    return name.length > 0 && name.length <= NAME_MOST &&
           !memchr(name.data, '/', (size_t)name.length) && !kq_str_is(name, KQ_STR(".")) &&
           !kq_str_is(name, KQ_STR(".."));
}

/* --- Waiting for a change --- */

static void changed(struct kq_group_change *change)
{
    sem_post(&((struct kq_group_waiting *)change)->ended);
}

void kq_group_waiting_init(struct kq_group_waiting *waiting)
{
    waiting->change.done = changed;
    sem_init(&waiting->ended, 0, 0);
}

int kq_group_waiting_end(struct kq_group_waiting *waiting, int r)
{
    if (r == 0) {
        while (sem_wait(&waiting->ended) < 0)
            ;
        r = waiting->change.result;
    }
    sem_destroy(&waiting->ended);
    return r == KQ_READY ? 0 : r;
}

/* --- Owner, mode and ACL --- */

#define ACL_HEAD 4 /* linux/posix_acl_xattr.h: a version, then entries of tag, bits and id */
#define ACL_ENTRY 8
#define ACL_BITS_AT 2
#define BIT_READ 4
#define BIT_WRITE 2

/* Reading is committing: `r` where there is `w`. */
static unsigned readable_by(unsigned bits)
{
    return bits & BIT_WRITE ? BIT_READ : 0;
}

static void show_as_text(struct kq_attributes *attributes)
{
    mode_t mode = attributes->mode;
    attributes->mode =
        readable_by(mode >> 6 & 7) << 6 | readable_by(mode >> 3 & 7) << 3 | readable_by(mode & 7);
    for (size_t at = ACL_HEAD; at + ACL_ENTRY <= attributes->acl_length; at += ACL_ENTRY)
        attributes->acl[at + ACL_BITS_AT] = readable_by(attributes->acl[at + ACL_BITS_AT]) & 0xff;
}

static void show_without_execute(struct kq_attributes *attributes)
{
    attributes->mode &= 0666;
    for (size_t at = ACL_HEAD; at + ACL_ENTRY <= attributes->acl_length; at += ACL_ENTRY)
        attributes->acl[at + ACL_BITS_AT] &= BIT_READ | BIT_WRITE;
}

int kq_group_node_attributes(struct kq_fs *fs, const struct kq_node *node,
                             struct kq_attributes *ret)
{
    struct kq_group *group = NULL;
    struct kq_attributes attributes;
    int r = node->view == KQ_VIEW_GROUPS ? 0 : kq_fs_group(fs, node, &group);
    if (r == 0)
        r = kq_group_attributes_get(fs->broker, group, &attributes);
    kq_group_unref(group);
    if (r < 0)
        return r;
    if (node->view == KQ_VIEW_GROUP_TEXT)
        show_as_text(&attributes);
    else if (kq_view_row(node->view)->kind == KQ_KIND_FILE)
        show_without_execute(&attributes);
    *ret = attributes;
    return 0;
}

int kq_group_node_change(struct kq_fs *fs, const struct kq_node *node,
                         const struct kq_caller *caller, const struct kq_attributes *attributes)
{
    struct kq_group_waiting waiting;
    struct kq_group *group = NULL;
    int r = kq_groups_prepare(fs->broker, true);
    if (r == 0 && node->view != KQ_VIEW_GROUPS)
        r = kq_fs_group(fs, node, &group);
    if (r != 0)
        return r;
    kq_group_waiting_init(&waiting);
    r = kq_group_attributes_set(fs->broker, group, caller, attributes, &waiting.change);
    r = kq_group_waiting_end(&waiting, r);
    kq_group_unref(group);
    return r;
}

int64_t kq_group_node_time(struct kq_fs *fs, const struct kq_node *node)
{
    struct kq_group *group;
    if (node->view == KQ_VIEW_GROUPS || kq_fs_group(fs, node, &group) < 0)
        return fs->started_ms;
    int64_t changed_ms = kq_group_changed_ms(group);
    kq_group_unref(group);
    return changed_ms;
}

/* --- Names --- */

int kq_group_make(struct kq_fs *fs, const struct kq_caller *caller, const char *name,
                  const struct kq_attributes *attributes)
{
    struct kq_group_waiting waiting;
    int r = kq_groups_prepare(fs->broker, true);
    if (r < 0)
        return r;
    kq_group_waiting_init(&waiting);
    r = kq_group_create(fs->broker, caller, kq_str_of(name), attributes, &waiting.change);
    return kq_group_waiting_end(&waiting, r);
}

int kq_group_unmake(struct kq_fs *fs, const struct kq_caller *caller, const char *name)
{
    struct kq_group_waiting waiting;
    kq_group_waiting_init(&waiting);
    int r = kq_group_delete(fs->broker, caller, kq_str_of(name), &waiting.change);
    return kq_group_waiting_end(&waiting, r);
}

int kq_group_forget_offset(struct kq_fs *fs, const struct kq_node *parent,
                           const struct kq_caller *caller, int32_t partition)
{
    struct kq_group_waiting waiting;
    struct kq_group *group;
    struct kq_group_partition which = {.topic = kq_str_of(kq_topic_name(parent->topic)),
                                       .partition = partition};
    int r = kq_fs_group(fs, parent, &group);
    if (r < 0)
        return r;
    kq_group_waiting_init(&waiting);
    r = kq_group_delete_offsets(fs->broker, caller, kq_group_name(group), &which, 1,
                                &waiting.change);
    r = kq_group_waiting_end(&waiting, r);
    kq_group_unref(group);
    return r ? r : which.result;
}

static int list_groups(struct kq_fs *fs, bool may_block, struct kq_buf *names)
{
    struct kq_group *group, *last = NULL;
    int r = await_groups(fs, may_block);
    while (r == 0 &&
           kq_group_next(fs->broker, last ? kq_group_name(last) : KQ_STR(""), &group) == 0) {
        struct kq_str name = kq_group_name(group);
        if (kq_group_name_is_file(name))
            r = kq_buf_append(names, name.data, (size_t)name.length + 1);
        kq_group_unref(last);
        last = group;
    }
    kq_group_unref(last);
    return r;
}

static int list_topics(struct kq_group *group, struct kq_buf *names)
{
    struct kq_topic *topic, *last = NULL;
    int r = 0;
    while (r == 0 && kq_group_topic_next(group, last ? kq_topic_name(last) : "", &topic) == 0) {
        const char *name = kq_topic_name(topic);
        r = kq_buf_append(names, name, strlen(name) + 1);
        kq_topic_unref(last);
        last = topic;
    }
    kq_topic_unref(last);
    return r;
}

int kq_group_list(struct kq_fs *fs, const struct kq_node *node, bool may_block,
                  struct kq_buf *names)
{
    struct kq_group *group;
    if (node->view == KQ_VIEW_GROUPS)
        return list_groups(fs, may_block, names);
    int r = kq_fs_group(fs, node, &group);
    if (r < 0)
        return r;
    r = list_topics(group, names);
    kq_group_unref(group);
    return r;
}
