/* What the tests of the partition log share: a directory, a log in it, batches. */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "broker/base/io.h"
#include "broker/batch.h"
#include "broker/log.h"
#include "tests/unit/directory.h"

#define KIT_LOG "orders-0"

struct kit {
    char directory[DIRECTORY_BYTES];
    struct kq_log_shared shared;
    struct kq_log_config config;
    struct kq_log_checkpoint checkpoint;
    struct kq_log_recovery recovery;
    struct kq_renderings *renderings;
    struct kq_log *log;
};

static inline void kit_begin_in(struct kit *kit, const char *parent)
{
    *kit = (struct kit){0};
    directory_make(kit->directory, parent);
    kit->shared.dirfd = open(kit->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    kit->shared.trail_bytes = 64 << 20;
    kit->shared.max_open_files = 100;
    kit->shared.max_producers = 100;
    kit->shared.producer_expiry_ms = 86400000;
    if (kq_pool_new("sync", 2, &kit->shared.syncer) != 0)
        abort();
    kit->config = (struct kq_log_config){
        .segment_bytes = 1 << 30,
        .segment_ms = 7 * 24 * 3600 * INT64_C(1000),
        .index_interval_bytes = 4096,
        .segment_index_bytes = 10 << 20,
        .retention_ms = -1,
        .retention_bytes = -1,
        .delete_old = true,
        .flush_messages = INT64_MAX,
        .flush_ms = INT64_MAX,
        .max_batch_bytes = 64 << 20,
    };
    kit->checkpoint.log_start = -1;
    kit->renderings = calloc(1, sizeof(*kit->renderings) + 2 * sizeof(struct kq_rendering));
    kit->renderings->count = 1;
    kit->renderings->at[0] = (struct kq_rendering){.delimiter_length = 1, .delimiter = {'\n'}};
}

static inline void kit_begin(struct kit *kit)
{
    kit_begin_in(kit, "/tmp");
}

/* In memory, for what opens a log many times. */
static inline void kit_begin_fast(struct kit *kit)
{
    kit_begin_in(kit, access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
}

static inline int kit_try_open(struct kit *kit)
{
    return kq_log_open(&kit->shared, KIT_LOG, &kit->config, kit->renderings, &kit->checkpoint,
                       &kit->recovery, &kit->log);
}

static inline void kit_open(struct kit *kit)
{
    assert_int_equal(kit_try_open(kit), 0);
}

/* Closes as a clean stop does: the next opening knows. */
static inline void kit_close(struct kit *kit)
{
    struct kq_log_bounds bounds;
    if (!kit->log)
        return;
    kq_log_bounds(kit->log, &bounds);
    kq_log_close(kit->log);
    kit->log = NULL;
    kit->checkpoint = (struct kq_log_checkpoint){
        .clean = true, .recovery_point = bounds.end, .log_start = bounds.start};
}

static inline void kit_end(struct kit *kit)
{
    kit_close(kit);
    kq_pool_free(kit->shared.syncer);
    close(kit->shared.dirfd);
    directory_remove(kit->directory);
    free(kit->renderings);
}

static inline int kit_setup(void **state)
{
    struct kit *kit = malloc(sizeof(*kit));
    kit_begin(kit);
    kq_diag_set_level(LOG_EMERG);
    *state = kit;
    return 0;
}

static inline int kit_teardown(void **state)
{
    kq_fault_disarm();
    kit_end(*state);
    free(*state);
    return 0;
}

static inline void kit_copy_file(int from_dirfd, int to_dirfd, const char *name)
{
    static uint8_t bytes[1 << 16];
    int from = openat(from_dirfd, name, O_RDONLY);
    int to = openat(to_dirfd, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    ssize_t n;
    assert_true(from >= 0 && to >= 0);
    while ((n = read(from, bytes, sizeof(bytes))) > 0)
        assert_int_equal(write(to, bytes, (size_t)n), n);
    close(from);
    close(to);
}

static inline void kit_copy_directory(struct kit *kit, const char *from, const char *to)
{
    struct dirent *entry;
    assert_int_equal(mkdirat(kit->shared.dirfd, to, 0700), 0);
    int from_dirfd = openat(kit->shared.dirfd, from, O_RDONLY | O_DIRECTORY);
    int to_dirfd = openat(kit->shared.dirfd, to, O_RDONLY | O_DIRECTORY);
    DIR *directory = fdopendir(from_dirfd);
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] != '.')
            kit_copy_file(from_dirfd, to_dirfd, entry->d_name);
    }
    closedir(directory);
    close(to_dirfd);
}

/* Puts the log's files into the state in which a kill -9 would leave them now; the log is closed.
 */
static inline void kit_crash(struct kit *kit)
{
    char path[128];
    kit_copy_directory(kit, KIT_LOG, "saved");
    kq_log_close(kit->log);
    kit->log = NULL;
    snprintf(path, sizeof(path), "%s/" KIT_LOG, kit->directory);
    directory_remove(path);
    assert_int_equal(renameat(kit->shared.dirfd, "saved", kit->shared.dirfd, KIT_LOG), 0);
    kit->checkpoint.clean = false;
}

/* A batch of COUNT records with values of LENGTH bytes, which begin with SERIAL. */
static inline void kit_batch(struct kq_buf *out, int count, size_t length, int64_t timestamp,
                             int serial)
{
    struct kq_batch_builder builder;
    static _Thread_local char value[1 << 20];
    out->length = 0;
    assert_int_equal(kq_batch_begin(&builder, out, 0), 0);
    for (int i = 0; i < count; i++) {
        char number[24];
        int digits = snprintf(number, sizeof(number), "%d.%d ", serial, i);
        memset(value, 'x', length);
        memcpy(value, number, (size_t)digits < length ? (size_t)digits : length);
        assert_int_equal(
            kq_batch_add(&builder, timestamp, NULL, -1, value, (int32_t)length, NULL, 0, 0), 0);
    }
    kq_batch_finish(&builder);
}

/* Appends one; TEXT says whether its text length is given. Returns what kq_log_append does. */
static inline int kit_append(struct kit *kit, int count, size_t length, int64_t timestamp,
                             int serial, bool text, struct kq_log_appended *ret)
{
    /* Not through the seam: the batch is the caller's, and not what is to fail. */
    size_t room = (size_t)count * (length + 64) + 1024;
    struct kq_buf bytes = {.data = malloc(room), .capacity = room};
    struct kq_log_appended appended;
    kit_batch(&bytes, count, length, timestamp, serial);
    struct kq_log_append append = {
        .bytes = bytes.data,
        .length = bytes.length,
        .text_length = text ? count * (int64_t)(length + 1) : -1,
    };
    int r = kq_log_append(kit->log, &append, ret ? ret : &appended);
    kq_buf_release(&bytes);
    return r;
}

struct kit_wait {
    struct kq_sync sync;
    sem_t done;
    int error;
};

static inline void kit_done(struct kq_sync *sync, int error)
{
    struct kit_wait *wait = (struct kit_wait *)sync;
    wait->error = error;
    sem_post(&wait->done);
}

/* 0 or the error with which the sync ended. */
static inline int kit_sync(struct kit *kit)
{
    struct kit_wait wait = {.sync.done = kit_done};
    sem_init(&wait.done, 0, 0);
    int r = kq_log_sync(kit->log, &wait.sync);
    if (r == 0) {
        while (sem_wait(&wait.done) != 0)
            ;
        r = wait.error;
    }
    sem_destroy(&wait.done);
    return r == KQ_READY ? 0 : r;
}

/* The number in the first record of batch BYTES. */
static inline int kit_serial(const uint8_t *bytes, const struct kq_batch_header *header)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record_reader reader;
    struct kq_record record;
    assert_int_equal(kq_record_reader_open(&reader, bytes, header, 64 << 20, &scratch), 0);
    assert_int_equal(kq_record_next(&reader, &record), 0);
    return atoi((const char *)record.value);
}

/* Reads all from OFFSET on, batch by batch; every batch must be whole. Calls SEEN for each. Returns
 * how many batches, or the error of a read. */
static inline int kit_read_all(struct kit *kit, int64_t offset,
                               void (*seen)(void *context, const uint8_t *bytes,
                                            const struct kq_batch_header *header),
                               void *context)
{
    struct kq_extent extent, next;
    int count = 0;
    int r = kq_log_read(kit->log, offset, UINT32_MAX, false, true, &extent);
    while (r == 0) {
        uint8_t *bytes = malloc(extent.length);
        assert_int_equal(pread(extent.fd, bytes, extent.length, extent.position), extent.length);
        for (uint32_t at = 0; at < extent.length;) {
            struct kq_batch_header header;
            assert_int_equal(kq_batch_header_read(bytes + at, extent.length - at, &header), 0);
            assert_true(header.size <= extent.length - at);
            assert_int_equal(kq_batch_check_crc(bytes + at, &header), 0);
            if (seen)
                seen(context, bytes + at, &header);
            at += header.size;
            count++;
        }
        free(bytes);
        r = kq_log_read_next(kit->log, &extent, UINT32_MAX, &next);
        kq_extent_unref(&extent);
        extent = next;
    }
    return r == KQ_END ? count : r;
}

static inline void kit_path(const struct kit *kit, const char *name, char *ret)
{
    snprintf(ret, 256, "%s/" KIT_LOG "/%s", kit->directory, name);
}

static inline int64_t kit_size(const struct kit *kit, const char *name)
{
    char path[256];
    struct stat st;
    kit_path(kit, name, path);
    return stat(path, &st) == 0 ? st.st_size : -1;
}

static inline int64_t kit_end_offset(struct kit *kit)
{
    struct kq_log_bounds bounds;
    kq_log_bounds(kit->log, &bounds);
    return bounds.end;
}

static inline void kit_text_bounds(struct kit *kit, int64_t start, int64_t end)
{
    struct kq_log_text_bounds bounds;
    assert_int_equal(kq_log_text_bounds(kit->log, true, &bounds), 0);
    assert_int_equal(bounds.start, start);
    assert_int_equal(bounds.end, end);
}
