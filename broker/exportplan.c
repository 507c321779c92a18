#include "broker/exportplan.h"

#include <stdarg.h>
#include <stdio.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"

/* --- Topics --- */

static int add_topic(struct kq_export_plan *plan, struct kq_topic *topic)
{
    int r = kq_buf_append(&plan->topics, &topic, sizeof(topic));
    if (r < 0)
        kq_topic_unref(topic);
    return r;
}

static int add_named(struct kq_export_plan *plan, struct kq_broker *broker, const char *name)
{
    struct kq_topic *topic;
    for (size_t i = 0; i < kq_export_topic_count(plan); i++)
        if (strcmp(kq_export_topic(plan, i)->name, name) == 0)
            return 0;
    if (kq_topic_get(broker, name, &topic) == 0)
        return add_topic(plan, topic);
    kq_diag(LOG_ERR, "there is no topic %s in %s", name, broker->data_dir);
    return -EINVAL;
}

int kq_export_plan_topics(struct kq_export_plan *plan, struct kq_broker *broker,
                          const char *const *topics, size_t count)
{
    struct kq_topic *topic;
    const char *after = "";
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = add_named(plan, broker, topics[i]);
    while (count == 0 && r == 0 && kq_topic_next(broker, after, &topic) == 0) {
        after = topic->name;
        if (kq_topic_is_internal(topic->name))
            kq_topic_unref(topic); /* the registry keeps it, and its name */
        else
            r = add_topic(plan, topic);
    }
    return r;
}

void kq_export_plan_release(struct kq_export_plan *plan)
{
    for (size_t i = 0; i < kq_export_topic_count(plan); i++)
        kq_topic_unref(kq_export_topic(plan, i));
    kq_buf_release(&plan->topics);
    kq_buf_release(&plan->partitions);
}

/* --- Partitions --- */

struct check {
    struct kq_export_plan *plan;
    const struct kq_export_target *target;
    bool overwrite;
    bool refused;
};

static int refuse(struct check *check, const char *format, ...) kq_printf_like(2, 3);

static int refuse(struct check *check, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    kq_diag(LOG_ERR, "%s: %s", check->target->path, text);
    check->refused = true;
    return 0;
}

static int add_partition(struct check *check, struct kq_topic *topic, int32_t number,
                         const struct kq_image_topic *known)
{
    struct kq_partition *partition = kq_topic_at(topic, number);
    char name[KQ_DIRECTORY_BYTES];
    uint8_t id[KQ_UUID_BYTES];
    struct kq_log_bounds bounds;
    kq_partition_directory(topic->name, number, name);
    int r = kq_scan_topic_id(check->target->dirfd, name, id);
    if (r < 0 && r != -ENOENT)
        return r;
    if (r < 0)
        return refuse(check,
                      "%s has no partition.metadata with the topic's id, and Kafka would put it "
                      "aside: let Kafka make the topic",
                      name);
    if (known && memcmp(id, known->id, sizeof(id)) != 0)
        return refuse(check,
                      "%s is of another topic of this name, which Kafka deleted: start that "
                      "Kafka once, and stop it",
                      name);
    r = check->overwrite ? 0 : kq_scan_holds_messages(check->target->dirfd, name);
    if (r < 0)
        return r;
    if (r > 0)
        return refuse(check, "%s holds messages, or did: --overwrite replaces them", name);
    kq_log_bounds(partition->log, &bounds);
    check->plan->bytes += bounds.bytes;
    return kq_buf_append(&check->plan->partitions, &partition, sizeof(partition));
}

static void say_replicas(const struct check *check, const struct kq_image_topic *known)
{
    int32_t most = 1;
    for (int32_t i = 0; i < known->partitions; i++)
        most = (int32_t)kq_max64(most, known->at[i].replicas);
    if (most > 1)
        kq_diag(LOG_WARNING,
                "%s: partitions of %s have %d replicas: export into the log directories of all of "
                "them before one starts, or a replica without the messages may become the leader",
                check->target->path, known->name, most);
}

static int check_topic(struct check *check, struct kq_topic *topic)
{
    const struct kq_export_target *target = check->target;
    const struct kq_image_topic *known =
        target->has_image ? kq_image_find(&target->image, topic->name) : NULL;
    int32_t here = kq_topic_partition_count(topic);
    size_t count;
    int r = 0;
    const struct kq_found_directory *found = kq_scan_find(&target->scan, topic->name, &count);
    if (count == 0)
        return refuse(check,
                      "there is no partition of a topic %s: make it (kqfs export --commands says "
                      "how), then stop that Kafka",
                      topic->name);
    int32_t there = known ? known->partitions : found[count - 1].number + 1;
    if (there != here || (!known && count != (size_t)there))
        return refuse(check, "topic %s has %d partitions there and %d here: make it with as many",
                      topic->name, known ? there : (int32_t)count, here);
    if (count < (size_t)there)
        kq_diag(LOG_NOTICE,
                "%s: %zu of %d partitions of %s are there; export into the other brokers' log "
                "directories, too",
                target->path, count, there, topic->name);
    for (size_t i = 0; i < count && r == 0; i++)
        r = found[i].number < here ? add_partition(check, topic, found[i].number, known) : 0;
    if (known)
        say_replicas(check, known);
    return r;
}

int kq_export_plan_partitions(struct kq_export_plan *plan, const struct kq_export_target *target,
                              bool overwrite)
{
    struct check check = {.plan = plan, .target = target, .overwrite = overwrite};
    int r = 0;
    for (size_t i = 0; i < kq_export_topic_count(plan) && r == 0; i++)
        r = check_topic(&check, kq_export_topic(plan, i));
    if (r < 0)
        kq_diag(LOG_ERR, "cannot look at what is in %s: %s", target->path, strerror(-r));
    return r == 0 && check.refused ? -EINVAL : r;
}
