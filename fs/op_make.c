/* What makes and removes names: topics are directories, partitions are files in them. Everything
 * here may wait for a disk, so all of it runs on a worker. */
#include <string.h>

#include "broker/base/acl.h"
#include "broker/base/clock.h"
#include "fs/attr.h"
#include "fs/groups.h"
#include "fs/place.h"
#include "fs/userfile.h"

#define NAME_BYTES 256

struct make {
    fuse_ino_t parent;
    mode_t mode;
    pid_t pid;                /* of the caller */
    struct fuse_file_info fi; /* CREATE */
    char name[NAME_BYTES];
};

static void offload(fuse_req_t req, void (*run)(fuse_req_t req, void *argument), fuse_ino_t parent,
                    const char *name, mode_t mode, const struct fuse_file_info *fi)
{
    struct make make = {.parent = parent, .mode = mode, .pid = fuse_req_ctx(req)->pid};
    if (strlen(name) >= sizeof(make.name)) {
        fuse_reply_err(req, kq_fs_errno(-ENAMETOOLONG));
        return;
    }
    strcpy(make.name, name);
    if (fi)
        make.fi = *fi;
    kq_fs_offload(req, run, &make, sizeof(make));
}

static void reply(fuse_req_t req, int r)
{
    fuse_reply_err(req, r == 0 ? 0 : kq_fs_errno(r));
}

static void reply_entry(fuse_req_t req, int r, const struct fuse_entry_param *entry)
{
    struct kq_fs *fs = kq_fs_of(req); /* REQ ends with its answer */
    if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else if (fuse_reply_entry(req, entry) != 0)
        kq_node_forget(fs->nodes, entry->ino, 1);
}

/* --- Owner and mode of what is new --- */

/* What the caller of REQ gets who makes something with MODE in a directory of attributes PARENT:
 * as ext4 does, with the parent's default ACL, else with the caller's umask. */
static int inherit(fuse_req_t req, const struct kq_attributes *parent, bool directory, mode_t mode,
                   struct kq_attributes *ret)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    struct kq_buf acl = {0}, default_acl = {0};
    mode_t allowed = directory ? 01777 : 0666;
    int r = kq_acl_create(parent->default_acl, parent->default_acl_length, directory,
                          mode & allowed, ctx->umask, &acl, &default_acl, &mode);
    if (r < 0)
        return r;
    bool setgid = parent->mode & S_ISGID;
    *ret = (struct kq_attributes){
        .uid = ctx->uid,
        .gid = setgid ? parent->gid : ctx->gid,
        .mode = directory && setgid ? mode | S_ISGID : mode,
        .acl = acl.data,
        .acl_length = acl.length,
        .default_acl = default_acl.data,
        .default_acl_length = default_acl.length,
    };
    return 0;
}

/* --- mkdir --- */

static int create_topic(fuse_req_t req, const char *name, mode_t mode, struct kq_topic **ret)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    struct kq_attributes root;
    struct kq_topic_spec spec = {.name = name};
    int r = kq_attributes_get(fs->broker, NULL, NULL, &root);
    if (r < 0)
        return r;
    r = inherit(req, &root, true, mode, &spec.topic);
    if (r == 0)
        r = inherit(req, &spec.topic, false, mode, &spec.partition);
    if (r == 0)
        r = kq_topic_create(fs->broker, &caller, &spec, ret);
    kq_attributes_release(&spec.partition);
    kq_attributes_release(&spec.topic);
    kq_attributes_release(&root);
    return r;
}

static int create_group(fuse_req_t req, const struct kq_node *parent, const char *name, mode_t mode,
                        struct kq_place *ret)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    struct kq_attributes all, attributes;
    int r = kq_group_node_attributes(fs, parent, &all);
    if (r < 0)
        return r;
    r = inherit(req, &all, true, mode, &attributes);
    kq_attributes_release(&all);
    if (r < 0)
        return r;
    r = kq_group_make(fs, &caller, name, &attributes);
    kq_attributes_release(&attributes);
    return r ? r : kq_place_find(fs, parent, name, &caller, true, ret);
}

static void mkdir_blocking(fuse_req_t req, void *argument)
{
    const struct make *make = argument;
    struct kq_fs *fs = kq_fs_of(req);
    struct fuse_entry_param entry;
    struct kq_node parent;
    struct kq_place place = {.view = KQ_VIEW_TOPIC};
    int r = kq_node_resolve(fs->nodes, make->parent, &parent);
    if (r == 0 && parent.view == KQ_VIEW_GROUPS)
        r = create_group(req, &parent, make->name, make->mode, &place);
    else if (r == 0 && (parent.view != KQ_VIEW_ROOT || kq_topic_is_internal(make->name)))
        r = -EPERM;
    else if (r == 0 && !kq_topic_name_valid(make->name))
        r = strlen(make->name) > KQ_TOPIC_NAME_MAX ? -ENAMETOOLONG : -EINVAL;
    else if (r == 0)
        r = create_topic(req, make->name, make->mode, &place.topic);
    if (r == 0)
        r = kq_place_enter(fs, &place, true, &entry);
    kq_place_release(&place);
    reply_entry(req, r, &entry);
}

void kq_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    offload(req, mkdir_blocking, parent, name, mode, NULL);
}

/* --- touch --- */

/* 0: the partition was made; -EEXIST. */
static int add_partition(fuse_req_t req, const struct kq_node *parent, int32_t number, mode_t mode)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    struct kq_attributes topic, attributes = {0};
    int r = kq_attributes_get(fs->broker, parent->topic, NULL, &topic);
    if (r < 0)
        return r;
    r = inherit(req, &topic, false, mode, &attributes);
    if (r == 0)
        r = kq_topic_add_partition(parent->topic, &caller, number, &attributes);
    kq_attributes_release(&attributes);
    kq_attributes_release(&topic);
    return r;
}

/* Makes the partition that MAKE names, or finds what exists by that name. */
static int make_file(fuse_req_t req, const struct make *make, bool *ret_made,
                     struct fuse_entry_param *ret)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    struct kq_node parent;
    struct kq_name name;
    struct kq_place place;
    int r = kq_node_resolve(fs->nodes, make->parent, &parent);
    if (r < 0)
        return r;
    if (kq_view_parse(parent.view, make->name, &name) < 0)
        return -EPERM;
    r = name.view == KQ_VIEW_TEXT ? add_partition(req, &parent, name.partition, make->mode)
                                  : -EEXIST;
    if (r < 0 && r != -EEXIST)
        return r;
    bool made = r == 0;
    r = kq_place_find(fs, &parent, make->name, &caller, true, &place);
    if (r == -ENOENT)
        return -EPERM; /* a name that only reading could find */
    if (r != 0)
        return r;
    r = kq_place_enter(fs, &place, true, ret);
    kq_place_release(&place);
    if (r == 0)
        *ret_made = made;
    return r;
}

static void mknod_blocking(fuse_req_t req, void *argument)
{
    const struct make *make = argument;
    struct fuse_entry_param entry;
    bool made;
    int r = make_file(req, make, &made, &entry);
    if (r == 0 && !made) {
        kq_node_forget(kq_fs_of(req)->nodes, entry.ino, 1);
        r = -EEXIST;
    }
    reply_entry(req, r, &entry);
}

void kq_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    if (S_ISREG(mode))
        offload(req, mknod_blocking, parent, name, mode, NULL);
    else
        reply(req, -EPERM);
}

static int open_entry(struct kq_fs *fs, const struct kq_caller *caller, fuse_ino_t ino,
                      struct fuse_file_info *fi)
{
    struct kq_node node;
    int r = kq_node_resolve(fs->nodes, ino, &node);
    return r < 0 ? r : kq_open_node(fs, &node, caller, true, fi);
}

static void create_blocking(fuse_req_t req, void *argument)
{
    const struct make *make = argument;
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    struct fuse_file_info fi = make->fi;
    struct fuse_entry_param entry;
    bool made;
    int r = make_file(req, make, &made, &entry);
    if (r != 0) {
        fuse_reply_err(req, kq_fs_errno(r));
        return;
    }
    /* `> p3` and touch(1) make a file as anywhere else: there is nothing yet to lose. */
    if (made)
        fi.flags = (fi.flags & ~O_TRUNC) | O_APPEND;
    else if (fi.flags & O_EXCL)
        r = -EEXIST;
    if (r == 0)
        r = open_entry(fs, &caller, entry.ino, &fi);
    if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else if ((r = fuse_reply_create(req, &entry, &fi)) != 0)
        kq_close_opened(fs, &fi);
    if (r != 0)
        kq_node_forget(fs->nodes, entry.ino, 1);
}

void kq_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                  struct fuse_file_info *fi)
{
    offload(req, create_blocking, parent, name, mode, fi);
}

/* --- rm --- */

/* Half lines whose file was closed before count as messages that are there. */
static void settle(struct kq_fs *fs, struct kq_partition *partition)
{
    struct kq_fspart *part = kq_fspart_find(fs->nodes, partition);
    if (part)
        kq_fspart_settle(fs, part);
    kq_fspart_unref(fs->nodes, part);
}

/* A removal that succeeds, unless this caller does nothing else (see removals.h). */
static int remove_again(struct kq_fs *fs, const struct make *make, bool idle)
{
    int64_t now_ms = kq_clock_mono_ns() / 1000000;
    bool may = kq_removals_may(&fs->removals, make->pid, make->parent, make->name, idle, now_ms);
    return may ? 0 : -EPERM;
}

static int drop_messages(struct kq_fs *fs, struct kq_topic *topic, int32_t number,
                         const struct kq_caller *caller, const struct make *make)
{
    struct kq_partition *partition;
    struct kq_log_bounds bounds;
    int r = kq_partition_get(topic, number, &partition);
    if (r < 0)
        return r;
    settle(fs, partition);
    kq_bounds(partition, &bounds);
    r = remove_again(fs, make, bounds.start == bounds.end);
    if (r == 0)
        r = kq_delete_records(partition, caller, -1);
    kq_partition_unref(partition);
    return r;
}

static int delete_topic(struct kq_fs *fs, const char *name, const struct kq_caller *caller)
{
    struct kq_topic *topic;
    struct kq_partition *partition;
    int r = kq_topic_get(fs->broker, name, &topic);
    if (r < 0)
        return r;
    int32_t count = kq_topic_partition_count(topic);
    for (int32_t number = 0; number < count; number++) {
        if (kq_partition_get(topic, number, &partition) == 0) {
            settle(fs, partition);
            kq_partition_unref(partition);
        }
    }
    r = kq_topic_delete(topic, caller, true);
    kq_topic_unref(topic);
    return r;
}

static int remove_file(struct kq_fs *fs, const struct kq_node *parent, const struct kq_name *name,
                       const struct kq_caller *caller, const struct make *make)
{
    switch (name->view) {
    case KQ_VIEW_TEXT:
        return drop_messages(fs, parent->topic, name->partition, caller, make);
    /* What is listed beside the partitions goes with the topic: rm -r must get past it. */
    case KQ_VIEW_APPEND:
    case KQ_VIEW_EARLIEST:
    case KQ_VIEW_LATEST:
    case KQ_VIEW_SEGMENT_LINK:
    case KQ_VIEW_GROUP_LAG:
        return remove_again(fs, make, true);
    case KQ_VIEW_GROUP_OFFSET:
        return kq_group_forget_offset(fs, parent, caller, name->partition);
    case KQ_VIEW_USER:
        return kq_user_remove(fs, caller, name->user);
    default:
        return -EPERM;
    }
}

static int remove_directory(struct kq_fs *fs, const struct kq_node *parent,
                            const struct kq_name *name, const struct kq_caller *caller)
{
    switch (name->view) {
    case KQ_VIEW_TOPIC:
        return delete_topic(fs, name->topic, caller);
    case KQ_VIEW_GROUP:
        return kq_group_unmake(fs, caller, name->group);
    case KQ_VIEW_GROUP_TOPIC:
    case KQ_VIEW_BY_OFFSET:
    case KQ_VIEW_BY_TIME:
    case KQ_VIEW_BY_SEGMENT:
    case KQ_VIEW_BY_OFFSET_PARTITION:
    case KQ_VIEW_BY_TIME_PARTITION:
    case KQ_VIEW_BY_SEGMENT_PARTITION:
        return 0;
    default:
        return -EPERM;
    }
}

static void remove_blocking(fuse_req_t req, void *argument)
{
    const struct make *make = argument;
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    struct kq_node parent;
    struct kq_name name;
    int r = kq_node_resolve(fs->nodes, make->parent, &parent);
    if (r == 0)
        r = kq_view_parse(parent.view, make->name, &name);
    if (r == 0)
        r = S_ISDIR(make->mode) ? remove_directory(fs, &parent, &name, &caller)
                                : remove_file(fs, &parent, &name, &caller, make);
    reply(req, r);
}

void kq_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    offload(req, remove_blocking, parent, name, S_IFREG, NULL);
}

void kq_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    offload(req, remove_blocking, parent, name, S_IFDIR, NULL);
}

/* --- What there is none of --- */

void kq_op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
    reply(req, -EPERM);
}

void kq_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                  const char *new_name, unsigned int flags)
{
    reply(req, -EPERM);
}

void kq_op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
    reply(req, -EPERM);
}
