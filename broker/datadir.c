/* The data directory as such: making, locking, the format's number, the mark of a clean stop. */
#include "broker/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/io.h"

#define LOCK ".lock"
#define LOCK_PATIENCE_MS 3000 /* a broker whose mount has just gone is still closing its logs */
#define LOCK_RETRY_MS 20
#define CLEAN ".kafka_cleanshutdown"
#define META "meta.properties"
#define FORMAT 1
#define SMALL_FILE 65536

/* Every missing directory on the way. */
static int make_path(const char *path)
{
    char part[PATH_MAX];
    if (strlen(path) >= sizeof(part))
        return -ENAMETOOLONG;
    strcpy(part, path);
    for (char *at = part + 1;; at++) {
        if (*at && *at != '/')
            continue;
        char end = *at;
        *at = '\0';
        int r = kq_io_mkdir(AT_FDCWD, part, 0700);
        if (r < 0 && r != -EEXIST)
            return r;
        if (!end)
            return 0;
        *at = end;
    }
}

static int open_directory(struct kq_broker *broker)
{
    int fd = kq_io_open(AT_FDCWD, broker->data_dir, O_RDONLY | O_DIRECTORY, 0);
    if (fd == -ENOENT) {
        int r = make_path(broker->data_dir);
        fd = r < 0 ? r : kq_io_open(AT_FDCWD, broker->data_dir, O_RDONLY | O_DIRECTORY, 0);
    }
    if (fd < 0) {
        kq_diag(LOG_ERR, "cannot open the data directory %s: %s; choose another with --data",
                broker->data_dir, strerror(-fd));
        return fd;
    }
    broker->dirfd = fd;
    return 0;
}

static void say_in_use(struct kq_broker *broker)
{
    char pid[24] = "";
    if (kq_io_pread(broker->lock_fd, pid, sizeof(pid) - 1, 0) > 0)
        pid[strcspn(pid, "\n")] = '\0';
    kq_diag(LOG_ERR,
            "the data directory %s is in use by another broker%s%s; stop it, or choose another "
            "directory with --data",
            broker->data_dir, *pid ? ", process " : "", pid);
}

/* The lock belongs to the open file and dies with us. Kafka takes one on the same file.
 * 0; -EAGAIN: another broker has kept it; -errno. */
static int take_lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int64_t until = kq_clock_mono_ns() + LOCK_PATIENCE_MS * INT64_C(1000000);
    while (fcntl(fd, F_OFD_SETLK, &whole) < 0) {
        if (errno != EAGAIN && errno != EACCES)
            return -errno;
        if (kq_clock_mono_ns() >= until)
            return -EAGAIN;
        usleep(LOCK_RETRY_MS * 1000);
    }
    return 0;
}

static int lock(struct kq_broker *broker)
{
    char pid[24];
    int fd = kq_io_open(broker->dirfd, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (fd < 0) {
        kq_diag(LOG_ERR, "the data directory %s is not writable: %s; choose another with --data",
                broker->data_dir, strerror(-fd));
        return fd;
    }
    broker->lock_fd = fd;
    int r = take_lock(fd);
    if (r == -EAGAIN) {
        say_in_use(broker);
        return -EWOULDBLOCK;
    }
    if (r < 0) {
        kq_diag(LOG_ERR, "cannot lock the data directory %s: %s", broker->data_dir, strerror(-r));
        return r;
    }
    snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
    r = kq_io_truncate(fd, 0);
    return r < 0 ? r : kq_io_pwrite(fd, pid, strlen(pid), 0);
}

/* --- meta.properties: Kafka's, with our format's number --- */

/* The value of KEY in TEXT, or NULL; it ends at the end of the line. */
static const char *property(const char *text, const char *key)
{
    size_t length = strlen(key);
    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == '=')
            return line + length + 1;
    }
    return NULL;
}

/* Appends what is missing; what is there stays, for it may be Kafka's. */
static int complete_properties(const char *text, struct kq_buf *ret)
{
    static const char *const ids[] = {"cluster.id", "directory.id"};
    int r = kq_buf_append_string(ret, text);
    if (r == 0 && *text && text[strlen(text) - 1] != '\n')
        r = kq_buf_append_string(ret, "\n");
    if (r == 0 && !property(text, "version"))
        r = kq_buf_append_string(ret, "version=1\n");
    if (r == 0 && !property(text, "node.id") && !property(text, "broker.id"))
        r = kq_buf_append_string(ret, "node.id=1\n");
    for (size_t i = 0; i < kq_array_size(ids) && r == 0; i++) {
        char id[KQ_UUID_TEXT + 1];
        uint8_t bytes[KQ_UUID_BYTES];
        if (property(text, ids[i]))
            continue;
        r = kq_uuid_new(bytes);
        kq_uuid_format(bytes, id);
        if (r == 0)
            r = kq_buf_printf(ret, "%s=%s\n", ids[i], id);
    }
    if (r == 0 && !property(text, "kqfs.format"))
        r = kq_buf_printf(ret, "kqfs.format=%d\n", FORMAT);
    return r;
}

/* Whose data these are, from the PROPERTIES that are complete. */
static int take_identity(struct kq_broker *broker, const char *properties)
{
    const char *cluster = property(properties, "cluster.id");
    const char *node = property(properties, "node.id");
    if (!node)
        node = property(properties, "broker.id");
    char *end;
    errno = 0;
    long number = strtol(node, &end, 10);
    if (errno || end == node || (*end != '\n' && *end != '\r' && *end) || number < 0 ||
        number > INT32_MAX) {
        kq_diag(LOG_ERR, "%s/" META ": node.id is not a number from 0 to 2147483647; correct it",
                broker->data_dir);
        return -EINVAL;
    }
    broker->node_id = (int32_t)number;
    broker->cluster_id = kq_format("%.*s", (int)strcspn(cluster, "\r\n"), cluster);
    return broker->cluster_id ? 0 : -ENOMEM;
}

static int check_properties(struct kq_broker *broker, bool *ret_new)
{
    kq_autobuf struct kq_buf old = {0}, new = {0};
    int r = kq_io_slurp(broker->dirfd, META, SMALL_FILE, &old);
    bool missing = r == -ENOENT;
    if (missing)
        r = 0;
    if (r == 0)
        r = kq_buf_append(&old, "", 1);
    if (r < 0)
        return r;
    const char *format = property((char *)old.data, "kqfs.format");
    if (format && strtol(format, NULL, 10) > FORMAT) {
        kq_diag(LOG_ERR,
                "the data in %s was written by a newer version of kqfs (format %ld, this version "
                "knows %d); use that version",
                broker->data_dir, strtol(format, NULL, 10), FORMAT);
        return -EPROTO;
    }
    r = complete_properties((char *)old.data, &new);
    if (r == 0 && new.length != old.length - 1)
        r = kq_io_replace(broker->dirfd, META, new.data, new.length, 0600);
    if (r == 0)
        r = kq_buf_append(&new, "", 1);
    if (r == 0)
        r = take_identity(broker, (char *)new.data);
    if (r == 0) {
        *ret_new = missing;
        broker->kafka.foreign = !missing && !format;
    }
    return r;
}

/* Kafka's mark names the broker epoch that it had: a broker that comes back without it has not
 * stopped cleanly, as far as its controller is concerned. So ours names it again. */
static void read_mark(struct kq_broker *broker)
{
    static const char key[] = "\"brokerEpoch\":";
    kq_autobuf struct kq_buf text = {0};
    broker->kafka.epoch = -1;
    if (kq_io_slurp(broker->dirfd, CLEAN, SMALL_FILE, &text) < 0 || kq_buf_append(&text, "", 1) < 0)
        return;
    broker->clean = true;
    const char *epoch = strstr((char *)text.data, key);
    if (epoch)
        broker->kafka.epoch = kq_max64(-1, strtoll(epoch + strlen(key), NULL, 10));
}

int kq_datadir_lock(struct kq_broker *broker)
{
    int r = open_directory(broker);
    return r < 0 ? r : lock(broker);
}

int kq_datadir_open(struct kq_broker *broker, bool *ret_new)
{
    int r = kq_datadir_lock(broker);
    if (r < 0)
        return r;
    r = check_properties(broker, ret_new);
    if (r < 0 && r != -EPROTO && r != -EINVAL)
        kq_diag(LOG_ERR, "cannot read or write %s/" META ": %s", broker->data_dir, strerror(-r));
    if (r == 0)
        read_mark(broker);
    return r;
}

int kq_datadir_begin(struct kq_broker *broker)
{
    int r = kq_io_unlink(broker->dirfd, CLEAN, false);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? r : kq_io_sync_dir(broker->dirfd);
}

void kq_datadir_mark_clean(struct kq_broker *broker)
{
    char text[64];
    snprintf(text, sizeof(text), "{\"version\":0,\"brokerEpoch\":%lld}",
             (long long)broker->kafka.epoch);
    int r = kq_io_replace(broker->dirfd, CLEAN, text, strlen(text), 0600);
    if (r < 0)
        kq_diag(LOG_WARNING,
                "cannot mark the stop in %s as clean: %s; the next start checks the "
                "ends of the logs",
                broker->data_dir, strerror(-r));
}

void kq_datadir_close(struct kq_broker *broker)
{
    if (broker->lock_fd >= 0)
        close(broker->lock_fd);
    if (broker->dirfd >= 0)
        close(broker->dirfd);
}
