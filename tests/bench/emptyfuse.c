/* The yardstick for listings: a FUSE daemon that shows the same tree as kqfs and holds nothing.
 *
 *     emptyfuse [--no-xattr] TOPICS PARTITIONS MOUNTPOINT
 *
 * Each of TOPICS directories shows p0 … and append, and by-offset, by-time and by-segment with a
 * directory for each partition. Every answer is computed from the node's number. Entries and
 * attributes time out after a second. As in kqfs, a file can have an ACL, so each GETXATTR is
 * answered (with ENODATA); with --no-xattr the kernel is told never to ask.
 */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A node's number: topic + 1 (32 bits up), kind (8 bits), partition + 1 (24 bits). */
enum kind { ROOT, TOPIC, PARTITION, APPEND, BY_OFFSET, BY_TIME, BY_SEGMENT, EARLIEST, LATEST };

static const char *const kind_names[] = {
    [APPEND] = "append",         [BY_OFFSET] = "by-offset", [BY_TIME] = "by-time",
    [BY_SEGMENT] = "by-segment", [EARLIEST] = "earliest",   [LATEST] = "latest",
};

static long topics, partitions;

static fuse_ino_t node(long topic, enum kind kind, long partition)
{
    return (fuse_ino_t)(topic + 1) << 32 | (fuse_ino_t)kind << 24 | (fuse_ino_t)(partition + 1);
}

static long topic_of(fuse_ino_t inode)
{
    return (long)(inode >> 32) - 1;
}

static enum kind kind_of(fuse_ino_t inode)
{
    return inode == FUSE_ROOT_ID ? ROOT : (enum kind)(inode >> 24 & 0xff);
}

static long partition_of(fuse_ino_t inode)
{
    return (long)(inode & 0xffffff) - 1;
}

static struct stat attributes_of(fuse_ino_t inode)
{
    static const mode_t modes[] = {
        [ROOT] = S_IFDIR | 01755,      [TOPIC] = S_IFDIR | 01755,    [PARTITION] = S_IFREG | 0644,
        [APPEND] = S_IFREG | 0644,     [BY_OFFSET] = S_IFDIR | 0755, [BY_TIME] = S_IFDIR | 0755,
        [BY_SEGMENT] = S_IFDIR | 0755, [EARLIEST] = S_IFLNK | 0777,  [LATEST] = S_IFLNK | 0777,
    };
    mode_t mode = modes[kind_of(inode)];

    return (struct stat){.st_ino = inode,
                         .st_mode = mode,
                         .st_nlink = S_ISDIR(mode) ? 2 : 1,
                         .st_size = S_ISLNK(mode) ? 1 : 0,
                         .st_mtime = 1700000000};
}

/* Entry INDEX of a directory: its node, and its name in NAME. 0 behind the last. */
static fuse_ino_t entry_at(fuse_ino_t directory, long index, char name[32])
{
    long topic = topic_of(directory), partition = partition_of(directory);

    switch (kind_of(directory)) {
    case ROOT:
        snprintf(name, 32, "topic-%04ld", index);
        return index < topics ? node(index, TOPIC, -1) : 0;
    case TOPIC:
        if (index < partitions) {
            snprintf(name, 32, "p%ld", index);
            return node(topic, PARTITION, index);
        }
        if (index - partitions > BY_SEGMENT - APPEND)
            return 0;
        snprintf(name, 32, "%s", kind_names[APPEND + index - partitions]);
        return node(topic, (enum kind)(APPEND + index - partitions), -1);
    case BY_OFFSET:
    case BY_TIME:
    case BY_SEGMENT:
        if (partition < 0) {
            snprintf(name, 32, "p%ld", index);
            return index < partitions ? node(topic, kind_of(directory), index) : 0;
        }
        if (kind_of(directory) != BY_OFFSET || index > 1)
            return 0;
        snprintf(name, 32, "%s", kind_names[EARLIEST + index]);
        return node(topic, (enum kind)(EARLIEST + index), partition);
    default:
        return 0;
    }
}

/* The index at which NAME must stand, if it stands in DIRECTORY at all; -1 where it cannot. */
static long index_of(fuse_ino_t directory, const char *name)
{
    static const char prefix[] = "topic-";
    char *end;

    if (kind_of(directory) == ROOT) {
        if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
            return -1;
        return strtol(name + sizeof(prefix) - 1, &end, 10);
    }
    for (enum kind kind = APPEND; kind <= BY_SEGMENT; kind++)
        if (strcmp(name, kind_names[kind]) == 0)
            return partitions + kind - APPEND;
    if (strcmp(name, "earliest") == 0 || strcmp(name, "latest") == 0)
        return name[0] == 'l';
    return name[0] == 'p' ? strtol(name + 1, &end, 10) : -1;
}

static struct fuse_entry_param entry_of(fuse_ino_t inode)
{
    return (struct fuse_entry_param){
        .ino = inode, .attr = attributes_of(inode), .attr_timeout = 1, .entry_timeout = 1};
}

static void empty_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    char real[32];
    long index = index_of(parent, name);
    fuse_ino_t inode = index < 0 ? 0 : entry_at(parent, index, real);

    if (!inode || strcmp(real, name) != 0) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    struct fuse_entry_param entry = entry_of(inode);
    fuse_reply_entry(request, &entry);
}

static void empty_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct stat attributes = attributes_of(inode);
    fuse_reply_attr(request, &attributes, 1);
}

static void empty_readlink(fuse_req_t request, fuse_ino_t inode)
{
    fuse_reply_readlink(request, "0");
}

static void reply_directory(fuse_req_t request, fuse_ino_t inode, size_t size, off_t from,
                            bool plus)
{
    char buffer[65536], name[32];
    size_t used = 0;
    fuse_ino_t child;

    if (size > sizeof(buffer))
        size = sizeof(buffer);
    for (off_t at = from; (child = at < 2 ? inode : entry_at(inode, at - 2, name)); at++) {
        const char *shown = at == 0 ? "." : at == 1 ? ".." : name;
        struct fuse_entry_param entry = entry_of(child);
        if (plus && at < 2)
            entry.ino = 0;
        size_t need = plus ? fuse_add_direntry_plus(request, buffer + used, size - used, shown,
                                                    &entry, at + 1)
                           : fuse_add_direntry(request, buffer + used, size - used, shown,
                                               &entry.attr, at + 1);
        if (need > size - used)
            break;
        used += need;
    }
    fuse_reply_buf(request, buffer, used);
}

static void empty_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t from,
                          struct fuse_file_info *info)
{
    reply_directory(request, inode, size, from, false);
}

static void empty_readdirplus(fuse_req_t request, fuse_ino_t inode, size_t size, off_t from,
                              struct fuse_file_info *info)
{
    reply_directory(request, inode, size, from, true);
}

static void empty_getxattr(fuse_req_t request, fuse_ino_t inode, const char *name, size_t size)
{
    fuse_reply_err(request, ENODATA);
}

static void empty_init(void *data, struct fuse_conn_info *connection)
{
    if (connection->capable & FUSE_CAP_POSIX_ACL)
        connection->want |= FUSE_CAP_POSIX_ACL;
}

static struct fuse_lowlevel_ops operations = {
    .init = empty_init,
    .lookup = empty_lookup,
    .getattr = empty_getattr,
    .readlink = empty_readlink,
    .readdir = empty_readdir,
    .readdirplus = empty_readdirplus,
    .getxattr = empty_getxattr,
};

static int serve(const char *mountpoint)
{
    char *arguments[] = {"emptyfuse", "-o", "default_permissions,fsname=emptyfuse", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
    int status = 1;

    if (!session)
        return 1;
    if (fuse_set_signal_handlers(session) == 0 && fuse_session_mount(session, mountpoint) == 0) {
        struct fuse_loop_config *config = fuse_loop_cfg_create();
        status = fuse_session_loop_mt(session, config);
        fuse_loop_cfg_destroy(config);
        fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
    fuse_session_destroy(session);
    return status < 0;
}

int main(int argc, char **argv)
{
    bool bare = argc > 1 && strcmp(argv[1], "--no-xattr") == 0;

    if (argc != 4 + bare) {
        fprintf(stderr, "usage: emptyfuse [--no-xattr] TOPICS PARTITIONS MOUNTPOINT\n");
        return 2;
    }
    if (bare) {
        operations.getxattr = NULL;
        operations.init = NULL;
    }
    topics = strtol(argv[1 + bare], NULL, 10);
    partitions = strtol(argv[2 + bare], NULL, 10);
    return serve(argv[3 + bare]);
}
