#include "broker/export.h"

#include <unistd.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/exportplan.h"

struct running {
    struct kq_export_progress progress; /* first: the callback finds the rest */
    const struct kq_export_options *options;
    struct kq_export_target target;
    struct kq_export_plan plan;
    struct kq_export_state state;
};

static bool show(struct kq_export_progress *progress)
{
    struct running *running = (struct running *)progress;
    running->state.bytes = progress->bytes;
    return !running->options->show || running->options->show(&running->state);
}

static int replace(struct running *running, struct kq_partition *partition)
{
    const char *topic = partition->topic->name;
    struct kq_topic_config config;
    struct kq_exported_log exported;
    char name[KQ_EXPORT_NAME_BYTES], place[KQ_DIRECTORY_BYTES];
    kq_topic_config(partition->topic, &config);
    kq_partition_directory(topic, partition->number, place);
    struct kq_export_log job = {
        .log = partition->log,
        .name = place,
        .offsets = strcmp(topic, "__consumer_offsets") == 0,
        .index_interval_bytes = config.log.index_interval_bytes,
        .progress = &running->progress,
    };
    int r = kq_export_target_make(&running->target, topic, partition->number, &job, name);
    if (r < 0)
        return r;
    r = kq_export_log(&job, &exported);
    if (r == 0)
        r = kq_io_sync_dir(job.dirfd);
    close(job.dirfd);
    if (r < 0) {
        kq_diag(LOG_ERR, "%s is not exported: %s", place, strerror(-r));
        kq_export_target_discard(&running->target, name);
        return r;
    }
    return kq_export_target_swap(&running->target, topic, partition->number, name, &exported);
}

static int replace_all(struct running *running)
{
    struct kq_partition **partitions = (void *)running->plan.partitions.data;
    int r = 0;
    for (size_t i = 0; i < running->state.partitions && r == 0; i++) {
        running->state.topic = partitions[i]->topic->name;
        running->state.partition = partitions[i]->number;
        r = replace(running, partitions[i]);
        running->state.done += r == 0;
    }
    return r;
}

/* What was replaced stays so, and is noted, whatever comes behind. */
static int change(struct running *running)
{
    running->state.partitions = running->plan.partitions.length / sizeof(struct kq_partition *);
    running->state.all_bytes = running->plan.bytes;
    for (size_t i = 0; i < kq_export_topic_count(&running->plan); i++)
        kq_export_compare(kq_export_topic(&running->plan, i), &running->target);
    int r = kq_export_target_begin(&running->target);
    if (r < 0)
        return r;
    r = replace_all(running);
    int ended = kq_export_target_end(&running->target);
    return r < 0 ? r : ended;
}

int kq_export(struct kq_broker *broker, const struct kq_export_options *options,
              struct kq_export_result *ret)
{
    struct running running = {.progress = {.step = show}, .options = options};
    int r = kq_export_plan_topics(&running.plan, broker, options->topics, options->topic_count);
    if (r == 0)
        r = kq_export_target_open(&running.target, options->target);
    if (r == 0)
        r = kq_export_plan_partitions(&running.plan, &running.target, options->overwrite);
    if (r == 0)
        r = change(&running);
    *ret = (struct kq_export_result){
        .topics = kq_export_topic_count(&running.plan),
        .partitions = running.state.done,
        .messages = running.progress.messages,
        .bytes = running.progress.bytes,
    };
    kq_export_target_release(&running.target);
    kq_export_plan_release(&running.plan);
    return r;
}
