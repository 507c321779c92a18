#include "broker/base/acl.h"
#include "fs/attr.h"
#include "fs/groups.h"

/* --- GETATTR --- */

static int try_getattr(fuse_req_t req, fuse_ino_t ino, bool may_block)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_node node;
    struct stat stat;
    int r = kq_node_resolve(fs->nodes, ino, &node);
    if (r == 0)
        r = kq_attr_get(fs, &node, may_block, &stat);
    if (r == KQ_WOULD_BLOCK && !may_block)
        return r;
    if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else
        fuse_reply_attr(req, &stat, kq_attr_timeout(fs, &node));
    return 0;
}

static void getattr_blocking(fuse_req_t req, void *argument)
{
    try_getattr(req, *(fuse_ino_t *)argument, true);
}

void kq_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (try_getattr(req, ino, false) != 0)
        kq_fs_offload(req, getattr_blocking, &ino, sizeof(ino));
}

/* --- Changing what is stored --- */

static int change_group(struct kq_fs *fs, const struct kq_node *node,
                        const struct kq_caller *caller,
                        int (*change)(struct kq_attributes *attributes, void *argument),
                        void *argument)
{
    struct kq_attributes attributes;
    kq_group_attributes_lock(fs->broker);
    int r = kq_group_node_attributes(fs, node, &attributes);
    if (r == 0) {
        r = change(&attributes, argument);
        if (r == 0)
            r = kq_group_node_change(fs, node, caller, &attributes);
        kq_attributes_release(&attributes);
    }
    kq_group_attributes_unlock(fs->broker);
    return r;
}

int kq_attr_change(struct kq_fs *fs, const struct kq_node *node, const struct kq_caller *caller,
                   int (*change)(struct kq_attributes *attributes, void *argument), void *argument)
{
    struct kq_attr_source source;
    if (!kq_attr_settable(node->view))
        return -EPERM;
    if (kq_view_row(node->view)->of_groups)
        return change_group(fs, node, caller, change, argument);
    int r = kq_attr_source_get(node, &source);
    if (r < 0)
        return r;
    r = kq_attributes_change(fs->broker, source.topic, source.partition, caller, change, argument);
    kq_attr_source_release(&source);
    return r;
}

/* --- SETATTR --- */

struct setattr {
    fuse_ino_t ino;
    struct stat attr;
    int to_set;
};

/* Nothing is ever truncated. `append` has no size to change, so setting it to 0 is fine; the
 * broker's own watcher thread sets the size that there is (kq_notify_modified). */
static int check_size(const struct kq_fs *fs, const struct kq_node *node, off_t size, pid_t pid)
{
    if ((node->view == KQ_VIEW_APPEND || node->view == KQ_VIEW_GROUP_OFFSET ||
         node->view == KQ_VIEW_PASSWD) &&
        size == 0)
        return 0;
    return kq_notifier_is_self(fs->notifier, pid) ? 0 : -EPERM;
}

static int check_mode(const struct kq_node *node, mode_t mode)
{
    mode_t refused =
        kq_view_row(node->view)->kind == KQ_KIND_DIRECTORY ? S_ISUID : S_ISUID | S_ISGID;
    return mode & refused ? -EPERM : 0;
}

static int apply(struct kq_attributes *attributes, void *argument)
{
    const struct setattr *args = argument;
    if (args->to_set & FUSE_SET_ATTR_MODE) {
        attributes->mode = args->attr.st_mode & 07777;
        kq_acl_chmod(attributes->acl, attributes->acl_length, attributes->mode);
    }
    if (args->to_set & FUSE_SET_ATTR_UID)
        attributes->uid = args->attr.st_uid;
    if (args->to_set & FUSE_SET_ATTR_GID)
        attributes->gid = args->attr.st_gid;
    return 0;
}

/* Times are those of the log: setting them is accepted, for touch(1), and changes nothing. */
static int set_attributes(fuse_req_t req, const struct kq_node *node, struct setattr *args)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    int r = 0;
    if (args->to_set & FUSE_SET_ATTR_SIZE)
        r = check_size(fs, node, args->attr.st_size, fuse_req_ctx(req)->pid);
    if (r == 0 && (args->to_set & FUSE_SET_ATTR_MODE))
        r = check_mode(node, args->attr.st_mode);
    if (r == 0 && (args->to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
        r = kq_attr_change(fs, node, &caller, apply, args);
    return r;
}

static void setattr_blocking(fuse_req_t req, void *argument)
{
    struct setattr *args = argument;
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_node node;
    struct stat stat;
    int r = kq_node_resolve(fs->nodes, args->ino, &node);
    if (r == 0)
        r = set_attributes(req, &node, args);
    if (r == 0)
        r = kq_attr_get(fs, &node, true, &stat);
    if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else
        fuse_reply_attr(req, &stat, kq_attr_timeout(fs, &node));
}

void kq_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                   struct fuse_file_info *fi)
{
    struct setattr args = {.ino = ino, .attr = *attr, .to_set = to_set};
    kq_fs_offload(req, setattr_blocking, &args, sizeof(args));
}
