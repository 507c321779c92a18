#include "fs/mount.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/base/privileged.h"

#define DEVICE "/dev/fuse"
#define FUSE_CONF "/etc/fuse.conf"
#define LINE_BYTES 512

/* What libfuse said last: it knows why a mount failed, but says it to stderr only. */
static _Thread_local char last_line[LINE_BYTES];
static bool debugging;

static void on_fuse_log(enum fuse_log_level level, const char *format, va_list arguments)
{
    if (level >= FUSE_LOG_DEBUG) {
        if (debugging)
            vfprintf(stderr, format, arguments);
        return;
    }
    vsnprintf(last_line, sizeof(last_line), format, arguments);
    last_line[strcspn(last_line, "\n")] = '\0';
}

/* --- Before --- */

static int fail(int error, const char *what, const char *remedy)
{
    kq_diag(LOG_ERR, "%s: %s: %s", what, strerror(error), remedy);
    return -error;
}

int kq_mount_check(const char *mountpoint, char **ret)
{
    struct stat stat_buf;
    if (stat(mountpoint, &stat_buf) < 0) {
        switch (errno) {
        case ENOTCONN:
            kq_diag(LOG_ERR,
                    "%s: a mount is left over whose broker died: run `fusermount3 -u %s` (as root "
                    "`umount %s`) and start again",
                    mountpoint, mountpoint, mountpoint);
            return -ENOTCONN;
        case ENOENT:
            return fail(ENOENT, mountpoint, "make it with mkdir");
        default:
            return fail(errno, mountpoint, "choose a directory that you may enter");
        }
    }
    if (!S_ISDIR(stat_buf.st_mode))
        return fail(ENOTDIR, mountpoint, "choose a directory to mount on");
    if (geteuid() != 0 && !kq_privileged() && access(mountpoint, W_OK) < 0)
        return fail(errno, mountpoint, "only who may write to it (or root) can mount on it");
    char *absolute = realpath(mountpoint, NULL);
    if (!absolute)
        return fail(errno, mountpoint, "choose a directory that you may enter");
    *ret = absolute;
    return 0;
}

static int report_device(int error)
{
    switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        return fail(error, DEVICE,
                    "the kernel has no FUSE: run `modprobe fuse` as root (in a "
                    "container: give it the device)");
    case EACCES:
        return fail(error, DEVICE,
                    "only root may use FUSE here: run `chmod 0666 /dev/fuse` as "
                    "root, or kqfs as root");
    case EPERM:
        return fail(error, DEVICE,
                    "this container may not use FUSE: start it with --device "
                    "/dev/fuse --cap-add SYS_ADMIN");
    default:
        return fail(error, DEVICE, "FUSE does not work on this machine");
    }
}

static int check_device(void)
{
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return report_device(errno);
    close(fd);
    return 0;
}

/* Is NAME one of the comma-separated OPTIONS, with or without a value? */
static bool has_option(const char *options, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = options; *at; at += strcspn(at, ",")) {
        at += *at == ',';
        if (strncmp(at, name, length) == 0 && (!at[length] || strchr(",=", at[length])))
            return true;
    }
    return false;
}

static bool conf_has_line(const char *path, const char *line)
{
    char text[LINE_BYTES];
    bool found = false;
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(text, sizeof(text), file)) {
        text[strcspn(text, " \t\r\n")] = '\0';
        found = strcmp(text, line) == 0;
    }
    if (file)
        fclose(file);
    return found;
}

static int check_allow_other(const char *options)
{
    bool asked = has_option(options, "allow_other") || has_option(options, "allow_root");
    if (!asked || geteuid() == 0 || conf_has_line(FUSE_CONF, "user_allow_other"))
        return 0;
    return fail(EPERM, "allow_other",
                "root has to put a line `user_allow_other` into " FUSE_CONF " first");
}

/* --- The mount --- */

/* What the user asked for, and what the tree cannot do without. */
static char *make_options(const char *asked)
{
    bool shared = has_option(asked, "allow_other") || has_option(asked, "allow_root");
    const char *all = geteuid() == 0 && !shared ? ",allow_other" : "";
    const char *name = has_option(asked, "fsname") ? "" : ",fsname=kqfs";
    const char *type = has_option(asked, "subtype") ? "" : ",subtype=kqfs";
    return kq_format("-odefault_permissions%s%s%s%s%s", all, name, type, *asked ? "," : "", asked);
}

static int make_session(struct kq_fs *fs, const struct fuse_lowlevel_ops *operations)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    const char *asked = fs->options.mount_options ? fs->options.mount_options : "";
    kq_autofree char *options = make_options(asked);
    int r = options && fuse_opt_add_arg(&args, "kqfs") == 0 &&
                    fuse_opt_add_arg(&args, options) == 0 &&
                    (!fs->options.debug || fuse_opt_add_arg(&args, "-d") == 0)
                ? 0
                : -ENOMEM;
    if (r == 0) {
        fs->session = fuse_session_new(&args, operations, sizeof(*operations), fs);
        if (!fs->session) {
            kq_diag(LOG_ERR, "mount options `%s`: %s: see kqfs(1) for those that exist", asked,
                    last_line);
            r = -EINVAL;
        }
    }
    fuse_opt_free_args(&args);
    return r;
}

/* When nothing that was looked at before explains it. */
static int report_failure(const char *mountpoint, int error)
{
    bool as_root = geteuid() == 0 || kq_privileged();
    if (!as_root && access("/usr/bin/fusermount3", X_OK) < 0 &&
        access("/bin/fusermount3", X_OK) < 0)
        kq_diag(LOG_ERR, "%s: fusermount3 is missing: install the package fuse3", mountpoint);
    else if (as_root && error == EPERM)
        kq_diag(LOG_ERR,
                "%s: root may not mount here: a container needs --cap-add SYS_ADMIN and an "
                "apparmor profile that permits mount",
                mountpoint);
    else
        kq_diag(LOG_ERR, "%s: cannot mount: %s", mountpoint,
                *last_line ? last_line : strerror(error));
    return error ? -error : -EIO;
}

/* The helper's: it has mounted, and libfuse takes the descriptor as its mountpoint. */
static int mount_by(const struct kq_privileged *helper, struct kq_fs *fs)
{
    char passed[32];
    bool device = false;
    int fd = helper->mount(helper->context, &device);
    if (fd < 0 && device)
        return report_device(-fd);
    if (fd < 0)
        return report_failure(fs->mountpoint, -fd);
    snprintf(passed, sizeof(passed), "/dev/fd/%d", fd);
    if (fuse_session_mount(fs->session, passed) == 0)
        return 0;
    close(fd);
    return report_failure(fs->mountpoint, EPROTO);
}

static int mount_ourselves(struct kq_fs *fs)
{
    errno = 0;
    return fuse_session_mount(fs->session, fs->mountpoint) == 0
               ? 0
               : report_failure(fs->mountpoint, errno);
}

int kq_mount(struct kq_fs *fs, const struct fuse_lowlevel_ops *operations)
{
    const struct kq_privileged *helper = kq_privileged();
    debugging = fs->options.debug;
    fuse_set_log_func(on_fuse_log);
    const char *asked = fs->options.mount_options ? fs->options.mount_options : "";
    int r = helper ? 0 : check_device();
    if (r == 0 && !helper)
        r = check_allow_other(asked);
    if (r == 0)
        r = make_session(fs, operations);
    if (r < 0)
        return r;
    last_line[0] = '\0';
    r = helper ? mount_by(helper, fs) : mount_ourselves(fs);
    if (r < 0) {
        fuse_session_destroy(fs->session);
        fs->session = NULL;
    }
    return r;
}

void kq_unmount(struct kq_fs *fs)
{
    const struct kq_privileged *helper = kq_privileged();
    int r = helper ? helper->unmount(helper->context) : 0;
    if (r < 0)
        kq_diag(LOG_ERR, "%s: cannot unmount: %s: run `umount -l %s` as root", fs->mountpoint,
                strerror(-r), fs->mountpoint);
    fuse_session_unmount(fs->session);
    fuse_session_destroy(fs->session);
    fs->session = NULL;
}
