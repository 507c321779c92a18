#include "broker/base/mem.h"
#include "fs/groups.h"
#include "fs/handle.h"
#include "fs/produce.h"
#include "fs/stream.h"
#include "fs/textplace.h"
#include "fs/userfile.h"

#define GROUPS_AT_ONCE 64
#define GROUPS_MOST 65536 /* the kernel's NGROUPS_MAX */

/* As chattr +a: what writes to a partition must say that it appends. `append` takes any way. Views
 * that take no writes behave as chattr +i. */
static int check_flags(const struct kq_node *node, const struct kq_view_row *row, int flags)
{
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    if (node->view == KQ_VIEW_PASSWD) /* also for root, whom no mode keeps from reading */
        return (flags & O_ACCMODE) == O_WRONLY ? 0 : -EACCES;
    if (!writes && !(flags & O_TRUNC))
        return 0;
    if (!row->writable)
        return -EPERM;
    if (node->view == KQ_VIEW_APPEND || node->view == KQ_VIEW_GROUP_OFFSET)
        return 0;
    return (flags & O_APPEND) && !(flags & O_TRUNC) ? 0 : -EPERM;
}

static unsigned rights_for(int flags)
{
    switch (flags & O_ACCMODE) {
    case O_RDONLY:
        return KQ_RIGHT_READ;
    case O_WRONLY:
        return KQ_RIGHT_WRITE;
    default:
        return KQ_RIGHT_READ | KQ_RIGHT_WRITE;
    }
}

/* --- Where the file's bytes begin --- */

/* Who comes to a node that others hold open finds it as they do, also when text was cleaned away
 * since: as if it had come before. */
static int place_growing(struct kq_handle *handle, const struct kq_node *node, bool may_block)
{
    struct kq_anchors *anchors = handle->fs->handles->anchors;
    struct kq_text_base *base = &handle->reading.base;
    if (!kq_anchor_find(anchors, handle->part, node->offset, node->layout, base)) {
        int r = kq_find_base(handle->part->partition, node->offset, may_block, base);
        /* p0's node was overtaken before it could be opened: ESTALE makes the kernel look again. */
        if (r == KQ_GONE)
            return handle->view == KQ_VIEW_TEXT ? -ESTALE : -ENOENT;
        if (r != 0)
            return r == KQ_BEYOND ? -ENOENT : r;
    }
    return kq_anchor_hold(anchors, handle->part, node->offset, node->layout, base, &handle->anchor);
}

static int place_sealed(struct kq_handle *handle, const struct kq_node *node, bool may_block)
{
    struct kq_log_range range;
    int r = kq_find_segment(handle->part->partition, node->offset, node->layout, may_block, &range);
    if (r != 0)
        return r;
    handle->reading.base = (struct kq_text_base){.text = range.text_start, .layout = range.layout};
    handle->reading.length = range.text_length;
    return 0;
}

static int place_value(struct kq_handle *handle, int64_t offset, bool may_block)
{
    struct kq_cursor cursor;
    struct kq_record_head head;
    kq_cursor_init(&cursor, &handle->access);
    int r = kq_find_message(&handle->access, offset, may_block, &cursor, &head);
    kq_cursor_release(&cursor);
    return r;
}

static int place(struct kq_handle *handle, const struct kq_node *node, bool may_block)
{
    struct kq_log_bounds bounds;
    int64_t offset = node->offset;
    kq_bounds(handle->part->partition, &bounds);
    bool whole = handle->view == KQ_VIEW_JSONL || handle->view == KQ_VIEW_STREAM ||
                 handle->view == KQ_VIEW_JSONL_STREAM;
    handle->reading.first_offset = whole ? bounds.start : offset;
    if (handle->view == KQ_VIEW_LOG)
        return 0;
    if (handle->view == KQ_VIEW_SEGMENT)
        return place_sealed(handle, node, may_block);
    if (handle->row->format == KQ_FORMAT_VALUE)
        return place_value(handle, offset, may_block);
    if (handle->row->format == KQ_FORMAT_TEXT && !handle->row->stream)
        return place_growing(handle, node, may_block);
    if (!whole && (offset < bounds.start || offset > bounds.last_stable))
        return -ENOENT;
    return 0;
}

/* --- Opening --- */

static int open_partition(struct kq_handle *handle, const struct kq_node *node,
                          const struct kq_caller *caller, bool may_block, int flags)
{
    struct kq_partition *partition = node->part->partition;
    int r = kq_partition_access(partition, caller, rights_for(flags), &handle->access);
    if (r < 0)
        return r;
    kq_fspart_settle(handle->fs, node->part);
    r = place(handle, node, may_block);
    if (r == 0 && handle->row->stream)
        r = kq_stream_new(handle, handle->reading.first_offset, &handle->stream);
    return r;
}

static int open_of_users(struct kq_handle *handle, const struct kq_node *node)
{
    if (node->view == KQ_VIEW_PASSWD)
        return kq_passwd_file_new(handle->fs, &handle->passwd);
    return kq_user_text(handle->fs, node, &handle->reading.bytes);
}

static int fill(struct kq_handle *handle, const struct kq_node *node,
                const struct kq_caller *caller, bool may_block, int flags)
{
    int r = 0;
    if (handle->row->of_groups)
        return kq_group_file_new(handle, node, caller, flags, &handle->group);
    if (handle->row->of_users)
        return open_of_users(handle, node);
    if (node->part)
        r = open_partition(handle, node, caller, may_block, flags);
    else if (handle->row->format == KQ_FORMAT_CONTROL)
        r = kq_control_text(handle->fs, node->view, &handle->reading.bytes);
    if (r == 0 && (flags & O_ACCMODE) != O_RDONLY)
        r = kq_producer_new(handle, caller, &handle->producer);
    return r;
}

int kq_open_node(struct kq_fs *fs, const struct kq_node *node, const struct kq_caller *caller,
                 bool may_block, struct fuse_file_info *fi)
{
    const struct kq_view_row *row = kq_view_row(node->view);
    struct kq_handle *handle;
    int r = check_flags(node, row, fi->flags);
    if (r == 0)
        r = kq_handle_new(fs, node, &handle);
    if (r < 0)
        return r;
    r = fill(handle, node, caller, may_block, fi->flags);
    if (r != 0) {
        kq_handle_free(handle);
        return r;
    }
    fi->fh = (uint64_t)(uintptr_t)handle;
    fi->direct_io = !row->sealed;
    fi->keep_cache = row->sealed;
    fi->nonseekable = row->stream;
    fi->noflush = !handle->producer && !handle->group && !handle->passwd;
    return 0;
}

/* The kernel compared the mode of `append`, which is p0's; whether the caller may write to the
 * other partitions is asked with the groups of the caller's thread. So is whether a reader for a
 * group may read the partition. They go into *GROUPS, to be freed. -ENOMEM. */
static int read_groups(fuse_req_t req, struct kq_caller *caller, gid_t **groups)
{
    int count = GROUPS_AT_ONCE, got;
    do {
        gid_t *larger = kq_realloc(*groups, (size_t)count * sizeof(**groups));
        if (!larger)
            return -ENOMEM;
        *groups = larger;
        got = fuse_req_getgroups(req, count, *groups);
        if (got <= count) {
            caller->groups = *groups;
            caller->group_count = got > 0 ? (size_t)got : 0;
            return 0;
        }
        count = got;
    } while (count <= GROUPS_MOST);
    return 0;
}

struct opening {
    struct kq_node node;
    struct kq_caller caller;
    struct fuse_file_info fi;
};

static int try_open(fuse_req_t req, struct opening *opening, bool may_block)
{
    struct kq_fs *fs = kq_fs_of(req);
    kq_autofree gid_t *groups = NULL;
    struct kq_caller caller = opening->caller;
    bool writes = (opening->fi.flags & O_ACCMODE) != O_RDONLY;
    int r = 0;
    if (opening->node.view == KQ_VIEW_GROUP_TEXT)
        caller.kernel_checked = false;
    if (opening->node.view == KQ_VIEW_GROUP_TEXT ||
        (opening->node.view == KQ_VIEW_APPEND && writes))
        r = read_groups(req, &caller, &groups);
    if (r == 0)
        r = kq_open_node(fs, &opening->node, &caller, may_block, &opening->fi);
    if (r == KQ_WOULD_BLOCK && !may_block)
        return r;
    if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else if (fuse_reply_open(req, &opening->fi) < 0)
        kq_close_opened(fs, &opening->fi);
    return 0;
}

static void open_on_worker(fuse_req_t req, void *argument)
{
    try_open(req, argument, true);
}

void kq_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct opening opening = {.caller = kq_fs_caller(req), .fi = *fi};
    int r = kq_node_resolve(kq_fs_of(req)->nodes, ino, &opening.node);
    if (r < 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else if (try_open(req, &opening, false) == KQ_WOULD_BLOCK)
        kq_fs_offload(req, open_on_worker, &opening, sizeof(opening));
}
