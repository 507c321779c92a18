/* A broker in a directory of its own, for tests of the rooms behind the door. */
#pragma once

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "broker/batch.h"
#include "broker/broker.h"
#include "tests/unit/directory.h"
#include "tests/unit/said.h"

struct ground {
    char path[DIRECTORY_BYTES];
    struct kq_broker_options options;
    struct kq_broker *broker;
    unsigned denied; /* rights that nobody has */
    unsigned asked;  /* rights that the last question was about */
};

static const struct kq_caller ground_caller = {.uid = 1000, .gid = 1000};

static int ground_check(void *context, const struct kq_caller *caller, unsigned rights,
                        const struct kq_authz_object *object)
{
    struct ground *ground = context;
    __atomic_store_n(&ground->asked, rights, __ATOMIC_RELAXED);
    assert_non_null(object->root);
    return rights & __atomic_load_n(&ground->denied, __ATOMIC_RELAXED) ? -EACCES : 0;
}

static inline void ground_setup(struct ground *ground)
{
    *ground = (struct ground){0};
    directory_make(ground->path, NULL);
    ground->options = (struct kq_broker_options){
        .data_dir = ground->path,
        .default_partitions = 2,
        .retention_check_ms = 300000,
        .checkpoint_ms = 60000,
        .trail_bytes = 64 << 20,
        .producer_expiry_ms = 86400000,
        .max_producers = 1000,
        .max_topics = 1000,
        .max_partitions = 10000,
        .max_open_files = 100,
        .sync_threads = 2,
        .new_root = {.uid = 1, .gid = 2, .mode = 0755},
        .authz = {.check = ground_check, .context = ground},
    };
    kq_topic_config_defaults(&ground->options.topic_defaults);
    said_clear();
    kq_diag_set_level(LOG_DEBUG);
}

static inline void ground_open(struct ground *ground)
{
    assert_int_equal(kq_broker_open(&ground->options, &ground->broker), 0);
}

static inline void ground_close(struct ground *ground)
{
    kq_broker_close(ground->broker);
    ground->broker = NULL;
}

static inline void ground_reopen(struct ground *ground)
{
    ground_close(ground);
    ground_open(ground);
}

static inline void ground_remove(struct ground *ground)
{
    if (ground->broker)
        ground_close(ground);
    directory_remove(ground->path);
    kq_diag_set_tap(NULL);
}

/* The path of NAME in the data directory; good until the next call. */
static inline const char *ground_path(struct ground *ground, const char *name)
{
    static char path[1200];
    snprintf(path, sizeof(path), "%s/%s", ground->path, name);
    return path;
}

static inline bool ground_has(struct ground *ground, const char *name)
{
    struct stat st;
    return lstat(ground_path(ground, name), &st) == 0;
}

static inline void ground_write(struct ground *ground, const char *name, const char *text)
{
    FILE *file = fopen(ground_path(ground, name), "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static inline struct kq_topic *ground_topic(struct ground *ground, const char *name,
                                            int32_t partitions)
{
    struct kq_topic *topic;
    struct kq_topic_spec spec = {.name = name,
                                 .partitions = partitions,
                                 .topic = {.uid = 10, .gid = 20, .mode = 0750},
                                 .partition = {.uid = 10, .gid = 20, .mode = 0640}};
    assert_int_equal(kq_topic_create(ground->broker, &ground_caller, &spec, &topic), 0);
    return topic;
}

static inline struct kq_topic *ground_find(struct ground *ground, const char *name)
{
    struct kq_topic *topic;
    assert_int_equal(kq_topic_get(ground->broker, name, &topic), 0);
    return topic;
}

/* Access to read and write partition NUMBER; it lives as long as TOPIC is referenced. */
static inline struct kq_access ground_access(struct kq_topic *topic, int32_t number)
{
    struct kq_partition *partition;
    struct kq_access access;
    assert_int_equal(kq_partition_get(topic, number, &partition), 0);
    kq_partition_unref(partition);
    assert_int_equal(
        kq_partition_access(partition, &ground_caller, KQ_RIGHT_READ | KQ_RIGHT_WRITE, &access), 0);
    return access;
}

/* Appends the lines of TEXT as one batch. */
static inline int ground_append(const struct kq_access *access, const char *text,
                                struct kq_log_appended *ret)
{
    struct kq_buf batch = {0};
    struct kq_batch_builder builder;
    assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
    assert_int_equal(kq_batch_add_lines(&builder, 1700000000000, (const uint8_t *)text,
                                        strlen(text), '\n', 1 << 20),
                     0);
    kq_batch_finish(&builder);
    struct kq_log_append append = {
        .bytes = batch.data, .length = batch.length, .text_length = (int64_t)strlen(text)};
    int r = kq_append(access, &append, ret);
    kq_buf_release(&batch);
    return r;
}

static inline int64_t ground_end(const struct kq_access *access)
{
    struct kq_log_bounds bounds;
    kq_bounds(access->partition, &bounds);
    return bounds.end;
}

#define GROUND_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_ground, take_ground_down)

static inline int set_up_ground(void **state)
{
    static struct ground ground;
    ground_setup(&ground);
    *state = &ground;
    return 0;
}

static inline int take_ground_down(void **state)
{
    ground_remove(*state);
    return 0;
}
