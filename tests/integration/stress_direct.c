/* Writers and readers of one partition at full speed, inside the broker's own process: some writers
 * append through the mount, some through broker.h as a network front end would, and readers follow
 * the file through the mount. No reader may meet a NUL, a gap or a line twice.
 *
 *   stress_direct DATA MOUNTPOINT SECONDS
 *
 * Exits with 0, 77 (no FUSE here) or 1. Also what the thread sanitizer is run over. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "auth/auth.h"
#include "broker/base/clock.h"
#include "broker/batch.h"
#include "broker/broker.h"
#include "fs/fs.h"

enum {
    MOUNT_WRITERS = 2,
    DIRECT_WRITERS = 2,
    WRITERS = MOUNT_WRITERS + DIRECT_WRITERS,
    LINE = 100, /* bytes of a line, its end included */
    CHUNK = 1 << 16,
};

static struct {
    struct kq_broker *broker;
    struct kq_partition *partition;
    struct kq_fs *fs;
    char directory[4000]; /* of the topic */
    int64_t end_ns;
    atomic_int writers_left;
    atomic_llong bytes; /* acknowledged */
    atomic_int failed;
} stress;

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
        stress.failed = 1;                                                                         \
    } while (0)

static struct kq_caller caller(void)
{
    return (struct kq_caller){.uid = geteuid(), .gid = getegid(), .kernel_checked = true};
}

/* --- Writers --- */

static void make_line(char *at, int writer, long number)
{
    memset(at, 'x', LINE);
    int length = snprintf(at, LINE, "w%d %ld ", writer, number);
    at[length] = 'x';
    at[LINE - 1] = '\n';
}

static bool append_direct(const struct kq_access *access, struct kq_buf *batch, const char *lines,
                          size_t count)
{
    struct kq_batch_builder builder;
    struct kq_log_appended appended;
    batch->length = 0;
    int r = kq_batch_begin(&builder, batch, 0);
    if (r == 0)
        r = kq_batch_add_lines(&builder, kq_clock_wall_ms(), (const uint8_t *)lines, count * LINE,
                               '\n', LINE);
    if (r < 0)
        return false;
    kq_batch_finish(&builder);
    struct kq_log_append append = {
        .bytes = batch->data, .length = batch->length, .text_length = (int64_t)count * LINE};
    r = kq_append(access, &append, &appended);
    return r == 0 || r == KQ_MUST_SYNC;
}

static void *write_lines(void *argument)
{
    int writer = (int)(intptr_t)argument;
    bool direct = writer >= MOUNT_WRITERS;
    static const size_t sizes[] = {1, 3, 40, 500};
    kq_autofree char *lines = malloc(500 * LINE);
    kq_autobuf struct kq_buf batch = {0};
    struct kq_caller who = caller();
    struct kq_access access;
    char path[4100];
    snprintf(path, sizeof(path), "%s/p0", stress.directory);
    kq_autoclose int fd = direct ? -1 : open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (!direct && fd < 0)
        FAIL("%s: %m", path);
    if (direct && kq_partition_access(stress.partition, &who, KQ_RIGHT_WRITE, &access) < 0)
        FAIL("no access");
    long number = 0;
    for (long round = 0; kq_clock_mono_ns() < stress.end_ns && !stress.failed; round++) {
        size_t count = sizes[round % 4];
        for (size_t i = 0; i < count; i++)
            make_line(lines + i * LINE, writer, number++);
        bool good = direct ? append_direct(&access, &batch, lines, count)
                           : write(fd, lines, count * LINE) == (ssize_t)(count * LINE);
        if (!good)
            FAIL("writer %d: %m", writer);
        stress.bytes += (long long)(count * LINE);
    }
    stress.writers_left--;
    return NULL;
}

/* --- Readers --- */

struct reader {
    const char *name;
    bool blocks;
    long next[WRITERS];
    long lines;
};

static void take_line(struct reader *reader, const char *line)
{
    int writer;
    long number;
    char text[LINE + 1] = {0}; /* sscanf looks for the end of the string */
    memcpy(text, line, LINE);
    if (memchr(line, '\0', LINE) || sscanf(text, "w%d %ld ", &writer, &number) != 2 || writer < 0 ||
        writer >= WRITERS || line[LINE - 1] != '\n' || memchr(line, '\n', LINE - 1)) {
        FAIL("%s: broken line %ld: %.*s", reader->name, reader->lines, LINE, line);
        return;
    }
    if (number != reader->next[writer])
        FAIL("%s: line %ld is number %ld of writer %d, wanted %ld", reader->name, reader->lines,
             number, writer, reader->next[writer]);
    reader->next[writer] = number + 1;
    reader->lines++;
}

/* One read behind the LENGTH bytes in BUFFER that are no whole line yet; takes what is whole. */
static ssize_t read_some(struct reader *reader, int fd, char *buffer, size_t *length)
{
    ssize_t n = read(fd, buffer + *length, CHUNK - *length);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n < 0) {
        FAIL("%s: %m", reader->name);
        return n;
    }
    *length += (size_t)n;
    size_t at = 0;
    for (; *length - at >= LINE && !stress.failed; at += LINE)
        take_line(reader, buffer + at);
    memmove(buffer, buffer + at, *length - at);
    *length -= at;
    return n;
}

static void *read_lines(void *argument)
{
    struct reader *reader = argument;
    kq_autofree char *buffer = malloc(CHUNK);
    char path[4100];
    size_t length = 0;
    snprintf(path, sizeof(path), "%s/%s", stress.directory, reader->name);
    kq_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | (reader->blocks ? O_NONBLOCK : 0));
    if (fd < 0)
        FAIL("%s: %m", path);
    while (!stress.failed) {
        bool last = stress.writers_left == 0;
        ssize_t n = read_some(reader, fd, buffer, &length);
        if (n < 0 || (n == 0 && last))
            break;
        if (n == 0 && reader->blocks)
            poll(&(struct pollfd){fd, POLLIN, 0}, 1, 100);
    }
    if (!stress.failed && (length || reader->lines * LINE != stress.bytes))
        FAIL("%s: %ld lines and %zu bytes of %lld bytes", reader->name, reader->lines, length,
             (long long)stress.bytes);
    return NULL;
}

/* --- The mount --- */

static void *serve(void *argument)
{
    int r = kq_fs_run(stress.fs);
    if (r < 0)
        FAIL("the mount broke: %s", strerror(-r));
    return NULL;
}

static int config_text(void *context, struct kq_buf *ret)
{
    return kq_buf_append_string(ret, "stress\n");
}

static int start(const char *data, const char *mountpoint, struct kq_auth *auth)
{
    struct kq_broker_options options = {
        .data_dir = data,
        .default_partitions = 1,
        .retention_check_ms = 300000,
        .checkpoint_ms = 60000,
        .trail_bytes = 64 << 20,
        .producer_expiry_ms = 86400000,
        .max_producers = 1000,
        .max_topics = 10,
        .max_partitions = 10,
        .max_open_files = 100,
        .sync_threads = 2,
        .new_root = {.uid = geteuid(), .gid = getegid(), .mode = S_ISVTX | 0755},
        .authz = kq_auth_authz(auth),
    };
    struct kq_fs_options fs_options = {
        .mountpoint = mountpoint,
        .mount_options = "",
        .poll_us = 20,
        .max_receivers = 4,
        .max_workers = 4,
        .attribute_timeout_ms = 1000,
        .max_write = 1 << 20,
        .max_pending_bytes = 1 << 24,
        .version = "stress\n",
        .config_text = config_text,
    };
    kq_topic_config_defaults(&options.topic_defaults);
    /* Segments roll under the readers. */
    kq_topic_config_set(&options.topic_defaults, "segment.bytes", "8000000", NULL);
    int r = kq_broker_open(&options, &stress.broker);
    if (r < 0)
        return r;
    return kq_fs_mount(stress.broker, &fs_options, &stress.fs);
}

static int make_topic(const char *mountpoint)
{
    struct kq_topic *topic;
    snprintf(stress.directory, sizeof(stress.directory), "%s/stress", mountpoint);
    if (mkdir(stress.directory, 0755) < 0)
        return -errno;
    int r = kq_topic_get(stress.broker, "stress", &topic);
    if (r < 0)
        return r;
    r = kq_partition_get(topic, 0, &stress.partition);
    kq_topic_unref(topic);
    return r;
}

static void run(int seconds)
{
    static struct reader readers[] = {
        {.name = "p0"},
        {.name = "p0"},
        {.name = "p0.log"},
        {.name = "by-offset/p0/0"},
        {.name = "p0.stream", .blocks = true},
    };
    pthread_t threads[WRITERS + kq_array_size(readers)];
    size_t count = 0;
    stress.writers_left = WRITERS;
    stress.end_ns = kq_clock_mono_ns() + (int64_t)seconds * 1000000000;
    for (intptr_t i = 0; i < WRITERS; i++)
        pthread_create(&threads[count++], NULL, write_lines, (void *)i);
    for (size_t i = 0; i < kq_array_size(readers); i++)
        pthread_create(&threads[count++], NULL, read_lines, &readers[i]);
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    printf("%ld lines, %zu readers\n", readers[0].lines, kq_array_size(readers));
}

int main(int argc, char **argv)
{
    struct kq_auth *auth;
    pthread_t server;
    if (argc != 4) {
        fprintf(stderr, "usage: stress_direct DATA MOUNTPOINT SECONDS\n");
        return 2;
    }
    if (kq_auth_new(&auth) < 0)
        return 1;
    int r = start(argv[1], argv[2], auth);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", argv[2], strerror(-r));
        return 1;
    }
    pthread_create(&server, NULL, serve, NULL);
    r = make_topic(argv[2]);
    if (r < 0)
        FAIL("no topic: %s", strerror(-r));
    else
        run(atoi(argv[3]));
    kq_partition_unref(stress.partition);
    kq_fs_stop(stress.fs);
    pthread_join(server, NULL);
    kq_fs_free(stress.fs);
    kq_broker_close(stress.broker);
    kq_auth_free(auth);
    return stress.failed ? 1 : 0;
}
