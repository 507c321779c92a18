/* What the helper does to mounts. Nothing that the broker says or does with its own files leads to
 * another place: the mountpoint is held open from the start, the mount is known by its number. */
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "broker/base/mem.h"
#include "broker/helper_internal.h"
#include "broker/octal.h"

#define FD_PATH_BYTES 32

/* --- Options --- */

static const struct flag {
    const char *name;
    unsigned long set, clear;
} flags[] = {
    {"ro", MS_RDONLY, 0},     {"rw", 0, MS_RDONLY},         {"nosuid", MS_NOSUID, 0},
    {"suid", 0, MS_NOSUID},   {"nodev", MS_NODEV, 0},       {"dev", 0, MS_NODEV},
    {"noexec", MS_NOEXEC, 0}, {"exec", 0, MS_NOEXEC},       {"noatime", MS_NOATIME, 0},
    {"atime", 0, MS_NOATIME}, {"async", 0, MS_SYNCHRONOUS},
};

static int replace(char **text, char *by)
{
    if (!by)
        return -ENOMEM;
    free(*text);
    *text = by;
    return 0;
}

/* What is neither a flag nor named here is libfuse's own (allow_root), or done anyway. */
static int plan_option(struct kq_helper_mount *plan, const char *option)
{
    for (size_t i = 0; i < kq_array_size(flags); i++)
        if (strcmp(flags[i].name, option) == 0) {
            plan->flags = (plan->flags | flags[i].set) & ~flags[i].clear;
            return 0;
        }
    const char *value = strchr(option, '=');
    if (!value)
        return 0;
    if (strncmp(option, "fsname=", 7) == 0)
        return replace(&plan->source, kq_strdup(value + 1));
    if (strncmp(option, "subtype=", 8) == 0)
        return replace(&plan->type, kq_format("fuse.%s", value + 1));
    return replace(&plan->data, kq_format("%s,%s", plan->data, option)); /* context= and its like */
}

static size_t option_length(const char *at)
{
    size_t length = 0;
    while (at[length] && at[length] != ',')
        length += at[length] == '\\' && at[length + 1] ? 2 : 1;
    return length;
}

int kq_helper_mount_plan(const struct kq_helper_options *options, struct kq_helper_mount *ret)
{
    struct kq_helper_mount plan = {.flags = MS_NOSUID | MS_NODEV};
    plan.source = kq_strdup(options->source);
    plan.type = kq_strdup("fuse.kqfs");
    plan.data = kq_format("rootmode=40000,user_id=%lu,group_id=%lu,default_permissions,allow_other",
                          (unsigned long)options->uid, (unsigned long)options->gid);
    int r = plan.source && plan.type && plan.data ? 0 : -ENOMEM;
    for (const char *at = options->mount_options; r == 0 && *at; at += *at == ',') {
        size_t length = option_length(at);
        kq_autofree char *option = kq_format("%.*s", (int)length, at);
        at += length;
        if (!option)
            r = -ENOMEM;
        else {
            kq_octal_decode(option, KQ_OCTAL_OPTION);
            r = plan_option(&plan, option);
        }
    }
    if (r < 0)
        kq_helper_mount_release(&plan);
    else
        *ret = plan;
    return r;
}

void kq_helper_mount_release(struct kq_helper_mount *plan)
{
    free(plan->source);
    free(plan->type);
    free(plan->data);
}

/* --- Which mount is ours --- */

/* Asks the kernel, not the broker, which may be dead or stand still. */
static int identify(int fd, struct kq_helper_id *ret)
{
    struct statx about;
    int flags_of = AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
    if (statx(fd, "", flags_of, STATX_MNT_ID, &about) < 0)
        return -errno;
    *ret = (struct kq_helper_id){.major = about.stx_dev_major,
                                 .minor = about.stx_dev_minor,
                                 .mount = about.stx_mask & STATX_MNT_ID ? about.stx_mnt_id : 0};
    return 0;
}

/* The root of our mount, O_PATH; -ENOTCONN: something else is there. */
static int open_root(const struct kq_helper *helper)
{
    struct kq_helper_id id = {0}; /* all the same to a compiler that sees errno be 0 */
    int fd = open(helper->mountpoint, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = identify(fd, &id);
    if (r == 0 && (id.major != helper->id.major || id.minor != helper->id.minor ||
                   id.mount != helper->id.mount))
        r = -ENOTCONN;
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

static void fd_path(int fd, char ret[FD_PATH_BYTES])
{
    snprintf(ret, FD_PATH_BYTES, "/proc/self/fd/%d", fd);
}

/* --- Acts --- */

static int mount_device(struct kq_helper *helper, int device)
{
    char target[FD_PATH_BYTES];
    kq_autofree char *data = kq_format("fd=%d,%s", device, helper->plan.data);
    if (!data)
        return -ENOMEM;
    fd_path(helper->place, target);
    if (mount(helper->plan.source, target, helper->plan.type, helper->plan.flags, data) < 0)
        return -errno;
    kq_autoclose int root = open(helper->mountpoint, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r = root < 0 ? -errno : identify(root, &helper->id);
    if (r < 0)
        umount2(helper->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
    return r;
}

int kq_helper_mount(struct kq_helper *helper, uint32_t *ret_device)
{
    if (helper->place < 0 || helper->mounted)
        return -EPERM;
    int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (device < 0) {
        *ret_device = 1;
        return -errno;
    }
    int r = mount_device(helper, device);
    if (r < 0) {
        close(device);
        return r;
    }
    helper->mounted = true;
    return device;
}

int kq_helper_unmount(struct kq_helper *helper)
{
    char target[FD_PATH_BYTES];
    if (!helper->mounted)
        return 0;
    helper->mounted = false;
    kq_autoclose int root = open_root(helper);
    if (root < 0)
        return 0; /* somebody else has unmounted it */
    fd_path(root, target);
    return umount2(target, MNT_DETACH) < 0 && errno != EINVAL ? -errno : 0;
}

/* The broker answers what the tree looks like, so no link of it is followed. */
int kq_helper_modified(const struct kq_helper *helper, const struct kq_helper_request *request)
{
    char path[300], target[FD_PATH_BYTES];
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
    if (!helper->mounted)
        return -ENOTCONN;
    kq_autoclose int root = open_root(helper);
    if (root < 0)
        return root;
    snprintf(path, sizeof(path), "%.249s/p%d.log", request->name, request->partition);
    kq_autoclose int file = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
    if (file < 0)
        return -errno;
    fd_path(file, target);
    return truncate(target, request->size) < 0 ? -errno : 0;
}
