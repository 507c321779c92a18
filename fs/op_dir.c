#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "broker/base/mem.h"
#include "fs/attr.h"
#include "fs/dir.h"
#include "fs/place.h"

#define NAME_BYTES 256

/* --- LOOKUP --- */

struct lookup {
    fuse_ino_t parent;
    char name[NAME_BYTES];
};

static int find_entry(struct kq_fs *fs, const struct kq_node *parent, const char *name,
                      const struct kq_caller *caller, bool may_block, struct fuse_entry_param *ret)
{
    struct kq_place place;
    int r = kq_place_find(fs, parent, name, caller, may_block, &place);
    if (r != 0)
        return r;
    r = kq_place_enter(fs, &place, may_block, ret);
    kq_place_release(&place);
    return r;
}

/* KQ_WOULD_BLOCK; otherwise the request is answered. */
static int try_lookup(fuse_req_t req, fuse_ino_t parent, const char *name, bool may_block)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    struct kq_node node;
    struct fuse_entry_param entry;
    int r = kq_node_resolve(fs->nodes, parent, &node);
    if (r == 0)
        r = find_entry(fs, &node, name, &caller, may_block, &entry);
    if (r == KQ_WOULD_BLOCK && !may_block)
        return r;
    if (r != 0)
        fuse_reply_err(req, r == -ENOENT ? ENOENT : kq_fs_errno(r));
    else if (fuse_reply_entry(req, &entry) != 0)
        kq_node_forget(fs->nodes, entry.ino, 1);
    return 0;
}

static void lookup_blocking(fuse_req_t req, void *argument)
{
    struct lookup *lookup = argument;
    try_lookup(req, lookup->parent, lookup->name, true);
}

void kq_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct lookup lookup = {.parent = parent};
    if (strlen(name) >= sizeof(lookup.name)) {
        fuse_reply_err(req, ENAMETOOLONG);
    } else if (try_lookup(req, parent, name, false) != 0) {
        strcpy(lookup.name, name);
        kq_fs_offload(req, lookup_blocking, &lookup, sizeof(lookup));
    }
}

void kq_op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    kq_node_forget(kq_fs_of(req)->nodes, ino, count);
    fuse_reply_none(req);
}

void kq_op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        kq_node_forget(kq_fs_of(req)->nodes, forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

void kq_op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct kq_node node;
    char target[KQ_LINK_BYTES];
    int r = kq_node_resolve(kq_fs_of(req)->nodes, ino, &node);
    if (r == 0 && kq_view_row(node.view)->kind != KQ_KIND_LINK)
        r = -EINVAL;
    if (r < 0) {
        fuse_reply_err(req, kq_fs_errno(r));
        return;
    }
    kq_link_target(&node, target);
    fuse_reply_readlink(req, target);
}

/* --- READDIR --- */

void kq_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct kq_dir *dir = NULL;
    struct kq_node node;
    int r = kq_node_resolve(kq_fs_of(req)->nodes, ino, &node);
    if (r == 0)
        r = kq_dir_new(&node, &dir);
    if (r < 0) {
        fuse_reply_err(req, kq_fs_errno(r));
        return;
    }
    fi->fh = (uintptr_t)dir;
    if (fuse_reply_open(req, fi) != 0)
        kq_dir_free(dir);
}

void kq_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    kq_dir_free((struct kq_dir *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

struct readdir {
    fuse_ino_t ino;
    struct kq_dir *dir;
    size_t size;
    off_t offset;
    bool plus;
};

/* Adds ITEM to the SPACE bytes at TO; returns its size, which is 0 where it is to be left out (a
 * topic that was deleted meanwhile), more than SPACE where it does not fit. */
static size_t add_item(fuse_req_t req, const struct readdir *args, const struct kq_dir_item *item,
                       char *to, size_t space)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct fuse_entry_param entry = {0};
    entry.attr.st_ino = item->inode;
    entry.attr.st_mode = item->mode;
    if (!args->plus)
        return fuse_add_direntry(req, to, space, item->name, &entry.attr, item->next);
    size_t needed = fuse_add_direntry_plus(req, NULL, 0, item->name, NULL, 0);
    if (needed > space)
        return needed;
    /* What the kernel may not keep it will look up when it needs it. */
    if (item->place.view != KQ_VIEW_NONE && kq_entry_timeout(item->place.view) > 0) {
        struct fuse_entry_param full;
        int r = kq_place_enter(fs, &item->place, false, &full);
        if (r == -ENOENT)
            return 0;
        if (r == 0)
            entry = full;
    }
    return fuse_add_direntry_plus(req, to, space, item->name, &entry, item->next);
}

/* The kernel did not take the answer, so it does not count the lookups in it either. */
static void forget_answer(struct kq_fs *fs, const char *bytes, size_t length)
{
    for (size_t at = 0; at < length;) {
        struct fuse_direntplus entry;
        memcpy(&entry, bytes + at, FUSE_NAME_OFFSET_DIRENTPLUS);
        if (entry.entry_out.nodeid)
            kq_node_forget(fs->nodes, entry.entry_out.nodeid, 1);
        at += FUSE_DIRENTPLUS_SIZE(&entry);
    }
}

/* Fills BYTES; 0, KQ_WOULD_BLOCK or -errno only where nothing was filled in. */
static int fill(fuse_req_t req, const struct readdir *args, bool may_block, char *bytes,
                size_t *ret_length)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_node node;
    size_t length = 0;
    off_t at = args->offset;
    int r = kq_node_resolve(fs->nodes, args->ino, &node);
    while (r == 0) {
        struct kq_dir_item item;
        r = kq_dir_next(fs, &node, args->dir, at, may_block, &item);
        if (r != 0)
            break;
        size_t size = add_item(req, args, &item, bytes + length, args->size - length);
        at = item.next;
        kq_place_release(&item.place);
        if (size > args->size - length)
            break;
        length += size;
    }
    if (length == 0 && r != 0 && r != KQ_END)
        return r;
    *ret_length = length;
    return 0;
}

static int try_readdir(fuse_req_t req, const struct readdir *args, bool may_block)
{
    struct kq_fs *fs = kq_fs_of(req); /* REQ ends with its answer */
    size_t length = 0;
    kq_autofree char *bytes = kq_alloc(args->size);
    int r = bytes ? fill(req, args, may_block, bytes, &length) : -ENOMEM;
    if (r == KQ_WOULD_BLOCK && !may_block)
        return r;
    if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else if (fuse_reply_buf(req, bytes, length) != 0 && args->plus)
        forget_answer(fs, bytes, length);
    return 0;
}

static void readdir_blocking(fuse_req_t req, void *argument)
{
    try_readdir(req, argument, true);
}

static void readdir_any(fuse_req_t req, const struct readdir *args)
{
    if (try_readdir(req, args, false) != 0)
        kq_fs_offload(req, readdir_blocking, (void *)args, sizeof(*args));
}

void kq_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                   struct fuse_file_info *fi)
{
    struct readdir args = {ino, (struct kq_dir *)(uintptr_t)fi->fh, size, offset, false};
    readdir_any(req, &args);
}

void kq_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    struct readdir args = {ino, (struct kq_dir *)(uintptr_t)fi->fh, size, offset, true};
    readdir_any(req, &args);
}

void kq_op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs stat;
    int r = kq_broker_statfs(kq_fs_of(req)->broker, &stat);
    if (r < 0) {
        fuse_reply_err(req, kq_fs_errno(r));
        return;
    }
    stat.f_namemax = KQ_TOPIC_NAME_MAX;
    fuse_reply_statfs(req, &stat);
}
