#include "broker/exporttarget.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/importlog.h"
#include "broker/log.h"
#include "broker/uuid.h"

#define LOCK ".lock"
#define CLEAN ".kafka_cleanshutdown"
#define META "meta.properties"
#define SMALL_FILE 65536

static const char *const checkpoint_names[KQ_EXPORT_CHECKPOINTS] = {
    KQ_CHECKPOINT_RECOVERY,
    KQ_CHECKPOINT_START,
    "replication-offset-checkpoint",
    "cleaner-offset-checkpoint",
};

/* --- Looking --- */

static int refuse(const struct kq_export_target *target, const char *why)
{
    kq_diag(LOG_ERR, "%s %s", target->path, why);
    return -EINVAL;
}

static int fail(const struct kq_export_target *target, const char *what, const char *name, int r)
{
    kq_diag(LOG_ERR, "cannot %s %s/%s: %s", what, target->path, name, strerror(-r));
    return r;
}

/* Kafka's lock is of the process, this one of the open file; each keeps the other out. */
static int take_lock(struct kq_export_target *target)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    target->lock_fd = kq_io_open(target->dirfd, LOCK, O_RDWR | O_CREAT | O_EXCL, 0600);
    target->lock_is_new = target->lock_fd >= 0;
    if (target->lock_fd == -EEXIST)
        target->lock_fd = kq_io_open(target->dirfd, LOCK, O_RDWR | O_NOFOLLOW, 0);
    if (target->lock_fd < 0)
        return fail(target, "lock", LOCK, target->lock_fd);
    if (fcntl(target->lock_fd, F_OFD_SETLK, &whole) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES
               ? refuse(target, "is in use by a broker that runs: stop it")
               : fail(target, "lock", LOCK, -errno);
}

static int read_properties(struct kq_export_target *target)
{
    static const char key[] = "node.id=";
    kq_autobuf struct kq_buf text = {0};
    int r = kq_io_slurp(target->dirfd, META, SMALL_FILE, &text);
    if (r == -ENOENT)
        return refuse(target, "is no log directory of a Kafka broker (one of its log.dirs): it has "
                              "no " META);
    if (r == 0)
        r = kq_buf_append(&text, "", 1);
    if (r < 0)
        return fail(target, "read", META, r);
    if (strstr((char *)text.data, "kqfs.format="))
        return refuse(target, "is a data directory of kqfs: name one of Kafka's log.dirs");
    const char *id = strstr((char *)text.data, key);
    target->node_id = id ? (int32_t)strtol(id + strlen(key), NULL, 10) : -1;
    return 0;
}

static int read_mark(struct kq_export_target *target)
{
    int r = kq_io_slurp(target->dirfd, CLEAN, SMALL_FILE, &target->mark);
    if (r == -ENOENT)
        return refuse(target, "was not stopped cleanly: start that Kafka and stop it again");
    return r < 0 ? fail(target, "read", CLEAN, r) : 0;
}

static int read_rest(struct kq_export_target *target)
{
    int r = 0;
    for (size_t i = 0; i < KQ_EXPORT_CHECKPOINTS && r == 0; i++) {
        r = kq_checkpoint_read(target->dirfd, checkpoint_names[i], &target->checkpoints[i]);
        if (r == -ENOENT || r == -EBADMSG) /* Kafka, too, goes on without; a new one is empty */
            r = 0;
        if (r < 0)
            return fail(target, "read", checkpoint_names[i], r);
    }
    r = kq_scan_directory(target->dirfd, NULL, &target->scan);
    if (r < 0)
        return fail(target, "read", "", r);
    r = kq_image_read(target->dirfd, target->path, &target->image);
    target->has_image = r == 0;
    return r == -ENOMEM ? fail(target, "read", KQ_METALOG_DIRECTORY, r) : 0;
}

int kq_export_target_open(struct kq_export_target *target, const char *path)
{
    target->path = path;
    target->lock_fd = -1;
    target->dirfd = kq_io_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    if (target->dirfd < 0)
        return fail(target, "open", "", target->dirfd);
    if (fstat(target->dirfd, &target->owner) < 0)
        return fail(target, "look at", "", -errno);
    int r = read_properties(target);
    if (r == 0)
        r = take_lock(target);
    if (r == 0)
        r = read_mark(target);
    return r < 0 ? r : read_rest(target);
}

void kq_export_target_release(struct kq_export_target *target)
{
    for (size_t i = 0; i < KQ_EXPORT_CHECKPOINTS; i++)
        kq_checkpoint_release(&target->checkpoints[i]);
    kq_image_release(&target->image);
    kq_scan_release(&target->scan);
    kq_buf_release(&target->mark);
    kq_buf_release(&target->notes);
    if (target->lock_is_new) /* it would be of another owner than Kafka's */
        kq_io_unlink(target->dirfd, LOCK, false);
    if (target->path && target->lock_fd >= 0)
        close(target->lock_fd);
    if (target->path && target->dirfd >= 0)
        close(target->dirfd);
    *target = (struct kq_export_target){0};
}

/* --- Changing --- */

int kq_export_target_begin(struct kq_export_target *target)
{
    int r = kq_io_unlink(target->dirfd, CLEAN, false);
    if (r == 0)
        r = kq_io_sync_dir(target->dirfd);
    if (r < 0)
        return fail(target, "remove", CLEAN, r);
    target->changing = true;
    return 0;
}

/* Kafka deletes directories of such a name when it starts. */
static int name_for_deletion(const char *topic, int32_t number, char ret[KQ_EXPORT_NAME_BYTES])
{
    uint8_t id[KQ_UUID_BYTES];
    int r = kq_uuid_new(id);
    if (r < 0)
        return r;
    int n = snprintf(ret, KQ_EXPORT_NAME_BYTES, "%.200s-%d.", topic, number);
    for (size_t i = 0; i < sizeof(id); i++)
        n += sprintf(ret + n, "%02x", id[i]);
    strcpy(ret + n, "-delete");
    return 0;
}

static void name_partition(const char *topic, int32_t number, char ret[KQ_EXPORT_NAME_BYTES])
{
    snprintf(ret, KQ_EXPORT_NAME_BYTES, "%s-%d", topic, number);
}

/* KRaft takes a log without the id of its topic for one that nobody wants. */
static int copy_metadata(struct kq_export_target *target, const char *partition,
                         const struct kq_export_log *job)
{
    static const char file[] = "partition.metadata";
    kq_autobuf struct kq_buf text = {0};
    char path[KQ_EXPORT_NAME_BYTES + 32];
    snprintf(path, sizeof(path), "%s/%s", partition, file);
    int r = kq_io_slurp(target->dirfd, path, SMALL_FILE, &text);
    return r < 0 ? r : kq_export_file(job, file, text.data, text.length);
}

static int own_directory(int fd, const struct stat *like)
{
    if ((geteuid() != like->st_uid || getegid() != like->st_gid) &&
        fchown(fd, like->st_uid, like->st_gid) < 0)
        return -errno;
    return fchmod(fd, like->st_mode & 0777) < 0 ? -errno : 0;
}

int kq_export_target_make(struct kq_export_target *target, const char *topic, int32_t number,
                          struct kq_export_log *job, char ret_name[KQ_EXPORT_NAME_BYTES])
{
    char partition[KQ_EXPORT_NAME_BYTES];
    struct stat like;
    name_partition(topic, number, partition);
    int r = name_for_deletion(topic, number, ret_name);
    if (r == 0 && fstatat(target->dirfd, partition, &like, AT_SYMLINK_NOFOLLOW) < 0)
        r = -errno;
    if (r == 0)
        r = kq_io_mkdir(target->dirfd, ret_name, 0700);
    if (r < 0)
        return fail(target, "make", ret_name, r);
    job->uid = like.st_uid;
    job->gid = like.st_gid;
    job->mode = like.st_mode & 0666;
    job->dirfd = kq_io_open(target->dirfd, ret_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    r = job->dirfd < 0 ? job->dirfd : own_directory(job->dirfd, &like);
    if (r == 0)
        r = copy_metadata(target, partition, job);
    if (r == 0)
        return 0;
    if (job->dirfd >= 0)
        close(job->dirfd);
    kq_export_target_discard(target, ret_name);
    return fail(target, "make", ret_name, r);
}

void kq_export_target_discard(struct kq_export_target *target, const char *name)
{
    const struct kq_log_shared place = {.dirfd = target->dirfd};
    int r = kq_log_remove(&place, name);
    if (r < 0)
        kq_diag(LOG_NOTICE, "%s/%s is left over (%s): Kafka deletes it when it starts",
                target->path, name, strerror(-r));
}

/* At once where the file system can: a crash in between must leave one or the other. */
static int exchange(struct kq_export_target *target, const char *partition, const char *name)
{
    char old[KQ_EXPORT_NAME_BYTES];
    if (renameat2(target->dirfd, name, target->dirfd, partition, RENAME_EXCHANGE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    snprintf(old, sizeof(old), "%s", name);
    char *unique = strrchr(old, '.');
    unique[1] = unique[1] == '0' ? '1' : '0'; /* another name of the same kind */
    int r = kq_io_rename(target->dirfd, partition, target->dirfd, old);
    if (r < 0)
        return r;
    r = kq_io_rename(target->dirfd, name, target->dirfd, partition);
    if (r == 0)
        return kq_io_rename(target->dirfd, old, target->dirfd, name);
    kq_io_rename(target->dirfd, old, target->dirfd, partition);
    return r;
}

int kq_export_target_swap(struct kq_export_target *target, const char *topic, int32_t number,
                          const char *name, const struct kq_exported_log *log)
{
    const struct kq_export_note note = {topic, number, *log};
    char partition[KQ_EXPORT_NAME_BYTES];
    name_partition(topic, number, partition);
    int r = kq_buf_reserve(&target->notes, sizeof(note)); /* so that it is noted if it is done */
    if (r == 0)
        r = exchange(target, partition, name);
    if (r == 0) {
        kq_buf_append(&target->notes, &note, sizeof(note));
        r = kq_io_sync_dir(target->dirfd);
    }
    if (r < 0)
        fail(target, "put into place", partition, r);
    kq_export_target_discard(target, name);
    return r;
}

/* --- Checkpoints --- */

static int by_partition(const void *a, const void *b)
{
    const struct kq_export_note *left = a, *right = b;
    int order = strcmp(left->topic, right->topic);
    return order ? order : (left->number > right->number) - (left->number < right->number);
}

/* As it was made, or as the directory is, if it is new. */
static int keep_owner(struct kq_export_target *target, const char *name, const struct stat *like)
{
    kq_autoclose int fd = kq_io_open(target->dirfd, name, O_RDONLY | O_NOFOLLOW, 0);
    struct stat as = *like;
    as.st_mode &= 0666;
    return fd < 0 ? fd : own_directory(fd, &as);
}

static int replace(struct kq_export_target *target, const char *name, const void *bytes,
                   size_t length)
{
    struct stat like = target->owner;
    fstatat(target->dirfd, name, &like, AT_SYMLINK_NOFOLLOW);
    int r = kq_io_replace(target->dirfd, name, bytes, length, 0600);
    return r < 0 ? r : keep_owner(target, name, &like);
}

/* What checkpoint WHICH says of a log; nothing where it is 0. */
static int64_t offset_for(enum kq_export_checkpoint which, const struct kq_exported_log *log)
{
    if (which == KQ_EXPORT_CLEANER)
        return 0;
    return which == KQ_EXPORT_START ? log->start : log->end;
}

/* Lines of partitions that were not replaced stay; NOTES are sorted. */
static int write_checkpoint(struct kq_export_target *target, enum kq_export_checkpoint which)
{
    const struct kq_checkpoint *old = &target->checkpoints[which];
    const struct kq_export_note *notes = (const void *)target->notes.data;
    size_t count = target->notes.length / sizeof(*notes);
    struct kq_checkpoint_writer writer = {0};
    kq_autobuf struct kq_buf text = {0};
    int r = 0;
    for (size_t i = 0; i < old->count && r == 0; i++) {
        const struct kq_checkpoint_entry *entry = &old->entries[i];
        const struct kq_export_note key = {.topic = entry->topic, .number = entry->partition};
        if (!count || !bsearch(&key, notes, count, sizeof(key), by_partition))
            r = kq_checkpoint_add(&writer, entry->topic, entry->partition, entry->offset);
    }
    for (size_t i = 0; i < count && r == 0; i++)
        if (offset_for(which, &notes[i].log) > 0)
            r = kq_checkpoint_add(&writer, notes[i].topic, notes[i].number,
                                  offset_for(which, &notes[i].log));
    if (r == 0)
        r = kq_buf_printf(&text, "0\n%zu\n", writer.count);
    if (r == 0)
        r = kq_buf_append(&text, writer.lines.data, writer.lines.length);
    kq_buf_release(&writer.lines);
    return r < 0 ? r : replace(target, checkpoint_names[which], text.data, text.length);
}

int kq_export_target_end(struct kq_export_target *target)
{
    int r = 0;
    if (target->notes.length)
        qsort(target->notes.data, target->notes.length / sizeof(struct kq_export_note),
              sizeof(struct kq_export_note), by_partition);
    for (size_t i = 0; i < KQ_EXPORT_CHECKPOINTS && r == 0; i++) {
        r = write_checkpoint(target, (enum kq_export_checkpoint)i);
        if (r < 0)
            fail(target, "write", checkpoint_names[i], r);
    }
    if (r < 0)
        return r;
    r = replace(target, CLEAN, target->mark.data, target->mark.length);
    if (r < 0)
        return fail(target, "write", CLEAN, r);
    target->changing = false;
    return 0;
}
