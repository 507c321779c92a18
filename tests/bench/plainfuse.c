/* The yardstick of the benchmarks: a FUSE file system over one plain file.
 *
 *     plainfuse [-s] [-k] [-d MICROSECONDS] BACKING MOUNTPOINT
 *
 * MOUNTPOINT/file is BACKING. One request is one pread or pwrite, and no page is cached
 * (direct_io), as for a partition of kqfs; with -k the kernel keeps pages, as for a sealed segment.
 * With -d each read takes so much longer: below a loop device, a slow disk.
 * It runs in the foreground until it is unmounted or gets a signal, with libfuse's multi-threaded
 * loop, or with -s in one thread.
 */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_INODE = 2, MAX_REQUEST = 1 << 20 };

static int backing;
static bool keep;
static useconds_t delay;

static int attributes_of(fuse_ino_t inode, struct stat *ret)
{
    if (inode == FUSE_ROOT_ID) {
        *ret = (struct stat){.st_mode = S_IFDIR | 0755, .st_nlink = 2};
    } else if (fstat(backing, ret) < 0) {
        return errno;
    }
    ret->st_ino = inode;
    return 0;
}

static void plain_init(void *data, struct fuse_conn_info *connection)
{
    connection->max_write = MAX_REQUEST;
}

static void plain_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.ino = FILE_INODE, .attr_timeout = 1, .entry_timeout = 1};

    if (parent != FUSE_ROOT_ID || strcmp(name, "file") != 0) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    int error = attributes_of(FILE_INODE, &entry.attr);
    if (error)
        fuse_reply_err(request, error);
    else
        fuse_reply_entry(request, &entry);
}

static void plain_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct stat attributes;
    int error = attributes_of(inode, &attributes);

    if (error)
        fuse_reply_err(request, error);
    else
        fuse_reply_attr(request, &attributes, 1);
}

static void plain_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int what,
                          struct fuse_file_info *info)
{
    if ((what & FUSE_SET_ATTR_SIZE) && ftruncate(backing, wanted->st_size) < 0)
        fuse_reply_err(request, errno);
    else
        plain_getattr(request, inode, info);
}

static void plain_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    if (inode == FUSE_ROOT_ID) {
        fuse_reply_err(request, EISDIR);
        return;
    }
    info->direct_io = !keep;
    info->keep_cache = keep;
    fuse_reply_open(request, info);
}

static void plain_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    static _Thread_local char *buffer;

    if (!buffer)
        buffer = aligned_alloc(4096, MAX_REQUEST);
    if (!buffer || size > MAX_REQUEST) {
        fuse_reply_err(request, buffer ? EINVAL : ENOMEM);
        return;
    }
    if (delay)
        usleep(delay);
    ssize_t got = pread(backing, buffer, size, offset);
    if (got < 0)
        fuse_reply_err(request, errno);
    else
        fuse_reply_buf(request, buffer, (size_t)got);
}

static void plain_write(fuse_req_t request, fuse_ino_t inode, const char *bytes, size_t size,
                        off_t offset, struct fuse_file_info *info)
{
    ssize_t put = pwrite(backing, bytes, size, offset);

    if (put < 0)
        fuse_reply_err(request, errno);
    else
        fuse_reply_write(request, (size_t)put);
}

static void plain_fsync(fuse_req_t request, fuse_ino_t inode, int datasync,
                        struct fuse_file_info *info)
{
    fuse_reply_err(request, fdatasync(backing) < 0 ? errno : 0);
}

static const struct fuse_lowlevel_ops operations = {
    .init = plain_init,
    .lookup = plain_lookup,
    .getattr = plain_getattr,
    .setattr = plain_setattr,
    .open = plain_open,
    .read = plain_read,
    .write = plain_write,
    .fsync = plain_fsync,
};

static int serve(const char *mountpoint, bool single)
{
    char *arguments[] = {"plainfuse", "-o", "default_permissions,fsname=plainfuse", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
    int status = 1;

    if (!session)
        return 1;
    if (fuse_set_signal_handlers(session) == 0 && fuse_session_mount(session, mountpoint) == 0) {
        struct fuse_loop_config *config = fuse_loop_cfg_create();
        status = single ? fuse_session_loop(session) : fuse_session_loop_mt(session, config);
        fuse_loop_cfg_destroy(config);
        fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
    fuse_session_destroy(session);
    return status < 0;
}

int main(int argc, char **argv)
{
    bool single = false;
    int option;

    while ((option = getopt(argc, argv, "skd:")) != -1) {
        single |= option == 's';
        keep |= option == 'k';
        if (option == 'd')
            delay = (useconds_t)strtoul(optarg, NULL, 10);
        if (option == '?')
            argc = 0;
    }
    if (argc - optind != 2) {
        fprintf(stderr, "usage: plainfuse [-s] [-k] [-d MICROSECONDS] BACKING MOUNTPOINT\n");
        return 2;
    }
    backing = open(argv[optind], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (backing < 0) {
        fprintf(stderr, "plainfuse: %s: %s\n", argv[optind], strerror(errno));
        return 1;
    }
    return serve(argv[optind + 1], single);
}
