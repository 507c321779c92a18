/* Extended attributes: a topic's configuration, a partition's bounds, POSIX ACLs. */
#include <inttypes.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "broker/base/acl.h"
#include "broker/base/mem.h"
#include "broker/topicconfig.h"
#include "fs/attr.h"
#include "fs/groups.h"
#include "fs/userfile.h"

#define PREFIX "user.kqfs."
#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define NAME_BYTES 256

/* --- A partition's bounds --- */

static const char *const bound_names[] = {"start", "end", "high_watermark", "bytes"};

static int bound_text(struct kq_fs *fs, const struct kq_node *node, size_t index,
                      struct kq_buf *ret)
{
    struct kq_log_bounds bounds;
    kq_fspart_settle(fs, node->part);
    kq_bounds(node->part->partition, &bounds);
    const int64_t values[] = {bounds.start, bounds.end, bounds.end, bounds.bytes};
    return kq_buf_printf(ret, "%" PRId64, values[index]);
}

/* The index of bound NAME, or -1. */
static int find_bound(const char *name)
{
    for (size_t i = 0; i < kq_array_size(bound_names); i++)
        if (strcmp(name, bound_names[i]) == 0)
            return (int)i;
    return -1;
}

static bool has_bounds(const struct kq_node *node)
{
    return node->view == KQ_VIEW_TEXT || node->view == KQ_VIEW_LOG;
}

/* --- Reading --- */

static const char *skip_prefix(const char *name)
{
    size_t length = strlen(PREFIX);
    return strncmp(name, PREFIX, length) == 0 ? name + length : NULL;
}

static bool is_acl(const char *name)
{
    return strcmp(name, ACL_ACCESS) == 0 || strcmp(name, ACL_DEFAULT) == 0;
}

/* What NODE shows; -ENODATA: it is the broker's own. */
static int attributes_of(struct kq_fs *fs, const struct kq_node *node, struct kq_attributes *ret)
{
    struct kq_attr_source source;
    if (kq_view_row(node->view)->of_groups)
        return kq_group_node_attributes(fs, node, ret);
    if (kq_view_row(node->view)->of_users)
        return kq_user_node_attributes(fs, node, ret);
    int r = kq_attr_source_get(node, &source);
    if (r < 0)
        return r;
    r = kq_attributes_get(fs->broker, source.topic, source.partition, ret);
    kq_attr_source_release(&source);
    return r;
}

/* The ACL that NODE shows; empty where it has none. Only what stores a default ACL shows it. */
static int acl_bytes(struct kq_fs *fs, const struct kq_node *node, bool access, struct kq_buf *ret)
{
    struct kq_attributes attributes;
    if (!fs->posix_acl)
        return -EOPNOTSUPP;
    int r = attributes_of(fs, node, &attributes);
    if (r < 0)
        return r == -ENODATA ? 0 : r;
    if (access)
        r = kq_buf_append(ret, attributes.acl, attributes.acl_length);
    else if (kq_attr_settable(node->view))
        r = kq_buf_append(ret, attributes.default_acl, attributes.default_acl_length);
    kq_attributes_release(&attributes);
    return r;
}

static int get_value(struct kq_fs *fs, const struct kq_node *node, const char *name,
                     struct kq_buf *ret)
{
    if (is_acl(name)) {
        int r = acl_bytes(fs, node, strcmp(name, ACL_ACCESS) == 0, ret);
        return r == 0 && kq_acl_is_none(ret->length) ? -ENODATA : r;
    }
    const char *own = skip_prefix(name);
    if (own && node->view == KQ_VIEW_TOPIC) {
        struct kq_topic_config config;
        kq_topic_config(node->topic, &config);
        return kq_topic_config_format(&config, own, ret);
    }
    if (own && has_bounds(node) && find_bound(own) >= 0)
        return bound_text(fs, node, (size_t)find_bound(own), ret);
    return -EOPNOTSUPP;
}

/* As getxattr(2) and listxattr(2): SIZE 0 asks how many bytes there are. */
static void reply_bytes(fuse_req_t req, int r, const struct kq_buf *bytes, size_t size)
{
    if (r == 0 && size > 0 && bytes->length > size)
        r = -ERANGE;
    if (r == -ENODATA || r == -EOPNOTSUPP)
        fuse_reply_err(req, -r);
    else if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else if (size == 0)
        fuse_reply_xattr(req, bytes->length);
    else
        fuse_reply_buf(req, (const char *)bytes->data, bytes->length);
}

void kq_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_node node;
    kq_autobuf struct kq_buf value = {0};
    int r = kq_node_resolve(fs->nodes, ino, &node);
    if (r == 0)
        r = get_value(fs, &node, name, &value);
    reply_bytes(req, r, &value, size);
}

static int append_name(struct kq_buf *names, const char *prefix, const char *name)
{
    int r = kq_buf_append(names, prefix, strlen(prefix));
    return r < 0 ? r : kq_buf_append(names, name, strlen(name) + 1);
}

static int list_acls(struct kq_fs *fs, const struct kq_node *node, struct kq_buf *names)
{
    for (int access = 1; access >= 0; access--) {
        kq_autobuf struct kq_buf acl = {0};
        int r = acl_bytes(fs, node, access, &acl);
        if (r == 0 && !kq_acl_is_none(acl.length))
            r = append_name(names, access ? ACL_ACCESS : ACL_DEFAULT, "");
        if (r < 0 && r != -EOPNOTSUPP)
            return r;
    }
    return 0;
}

static int list_names(struct kq_fs *fs, const struct kq_node *node, struct kq_buf *names)
{
    /* A link has none that could be asked for: the kernel says so before it asks. */
    bool link = kq_view_row(node->view)->kind == KQ_KIND_LINK;
    int r = link ? 0 : list_acls(fs, node, names);
    const char *name;
    if (node->view == KQ_VIEW_TOPIC)
        for (size_t i = 0; r == 0 && (name = kq_topic_config_name(i)); i++)
            if (kq_topic_config_is_own(node->topic, name))
                r = append_name(names, PREFIX, name);
    if (has_bounds(node))
        for (size_t i = 0; r == 0 && i < kq_array_size(bound_names); i++)
            r = append_name(names, PREFIX, bound_names[i]);
    return r;
}

void kq_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_node node;
    kq_autobuf struct kq_buf names = {0};
    int r = kq_node_resolve(fs->nodes, ino, &node);
    if (r == 0)
        r = list_names(fs, &node, &names);
    reply_bytes(req, r, &names, size);
}

/* --- Setting: on a worker --- */

struct set {
    fuse_ino_t ino;
    int flags;
    bool remove;
    char name[NAME_BYTES];
    size_t size;
    char value[]; /* and a NUL behind it */
};

struct acl_change {
    const struct set *set;
    bool access;
    bool keep_setgid;
};

/* Replaces bytes that ATTRIBUTES owns by those of BUF, which is theirs then. */
static void replace(uint8_t **bytes, size_t *length, struct kq_buf *buf)
{
    free(*bytes);
    *bytes = buf->data;
    *length = buf->length;
    *buf = (struct kq_buf){0};
}

static int change_acl(struct kq_attributes *attributes, void *argument)
{
    const struct acl_change *change = argument;
    const struct set *set = change->set;
    size_t size = set->remove ? 0 : set->size;
    kq_autobuf struct kq_buf acl = {0};
    int r;
    if (change->access) {
        r = kq_acl_set_access(set->value, size, &attributes->mode, &acl);
        if (r < 0)
            return r;
        if (!change->keep_setgid)
            attributes->mode &= ~(mode_t)S_ISGID;
        replace(&attributes->acl, &attributes->acl_length, &acl);
        return 0;
    }
    r = kq_acl_is_none(size) ? 0 : kq_buf_append(&acl, set->value, size);
    if (r == 0)
        replace(&attributes->default_acl, &attributes->default_acl_length, &acl);
    return r;
}

/* As chmod(2): who is not in the group of a thing cannot make it setgid for that group. -ENOMEM. */
static int may_keep_setgid(fuse_req_t req, const struct kq_node *node, bool *ret)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    struct kq_attributes attributes;
    *ret = true;
    if (ctx->uid == 0)
        return 0;
    int r = attributes_of(kq_fs_of(req), node, &attributes);
    if (r < 0)
        return r;
    gid_t gid = attributes.gid;
    kq_attributes_release(&attributes);
    int count = fuse_req_getgroups(req, 0, NULL);
    kq_autofree gid_t *groups = count > 0 ? kq_alloc((size_t)count * sizeof(*groups)) : NULL;
    if (count > 0 && !groups)
        return -ENOMEM;
    int filled = groups ? fuse_req_getgroups(req, count, groups) : 0;
    struct kq_acl_subject subject = {.uid = ctx->uid, .gid = ctx->gid, .groups = groups};
    subject.group_count = filled > 0 ? (size_t)(filled < count ? filled : count) : 0;
    *ret = kq_acl_in_group(&subject, gid);
    return 0;
}

static int set_acl(fuse_req_t req, const struct kq_node *node, const struct set *set)
{
    struct kq_fs *fs = kq_fs_of(req);
    struct kq_caller caller = kq_fs_caller(req);
    struct acl_change change = {.set = set, .access = strcmp(set->name, ACL_ACCESS) == 0};
    if (!fs->posix_acl)
        return -EOPNOTSUPP;
    if (!kq_attr_settable(node->view))
        return -EPERM;
    int r = set->remove ? 0 : kq_acl_check(set->value, set->size);
    if (r < 0)
        return r;
    if (!change.access && kq_view_row(node->view)->kind != KQ_KIND_DIRECTORY)
        return set->remove ? 0 : -EACCES;
    change.keep_setgid = true;
    if (change.access && !set->remove)
        r = may_keep_setgid(req, node, &change.keep_setgid);
    return r < 0 ? r : kq_attr_change(fs, node, &caller, change_acl, &change);
}

static int set_config(fuse_req_t req, const struct kq_node *node, const char *name,
                      const struct set *set)
{
    struct kq_caller caller = kq_fs_caller(req);
    struct kq_topic_config config;
    kq_autobuf struct kq_buf known = {0};
    kq_topic_config(node->topic, &config);
    int r = kq_topic_config_format(&config, name, &known);
    if (r < 0)
        return r;
    bool own = kq_topic_config_is_own(node->topic, name);
    if ((set->remove || (set->flags & XATTR_REPLACE)) && !own)
        return -ENODATA;
    if ((set->flags & XATTR_CREATE) && own)
        return -EEXIST;
    if (memchr(set->value, '\0', set->size))
        return -EINVAL;
    return kq_topic_set_config(node->topic, &caller, name, set->remove ? NULL : set->value);
}

static int set_any(fuse_req_t req, const struct set *set)
{
    struct kq_node node;
    int r = kq_node_resolve(kq_fs_of(req)->nodes, set->ino, &node);
    if (r < 0)
        return r;
    if (is_acl(set->name))
        return set_acl(req, &node, set);
    const char *own = skip_prefix(set->name);
    if (own && node.view == KQ_VIEW_TOPIC)
        return set_config(req, &node, own, set);
    if (own && has_bounds(&node) && find_bound(own) >= 0)
        return -EPERM;
    return -EOPNOTSUPP;
}

static void set_blocking(fuse_req_t req, void *argument)
{
    struct set *set = argument;
    int r = set_any(req, set);
    free(set);
    fuse_reply_err(req, r == 0 ? 0 : kq_fs_errno(r));
}

static void offload_set(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags, bool remove)
{
    size_t name_length = strlen(name);
    struct set *set = size <= XATTR_SIZE_MAX && name_length < NAME_BYTES
                          ? kq_zalloc(sizeof(*set) + size + 1)
                          : NULL;
    if (!set) {
        fuse_reply_err(req, kq_fs_errno(size > XATTR_SIZE_MAX ? -E2BIG : -ENOMEM));
        return;
    }
    set->ino = ino;
    set->flags = flags;
    set->remove = remove;
    set->size = size;
    memcpy(set->name, name, name_length);
    memcpy(set->value, value, size);
    if (!kq_fs_offload(req, set_blocking, set, 0))
        free(set);
}

void kq_op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                    size_t size, int flags)
{
    offload_set(req, ino, name, value, size, flags, false);
}

void kq_op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    offload_set(req, ino, name, "", 0, 0, true);
}
