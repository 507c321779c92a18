/* The broker's metrics: what is counted for each partition is summed up when somebody asks. */
#include "broker/internal.h"

#include "broker/groups.h"
#include "broker/metrics.h"
#include "broker/verified.h"

static struct kq_metric topics = {
    .name = "kqfs_topics", .help = "Topics there are now.", .type = KQ_GAUGE};
static struct kq_metric partitions = {
    .name = "kqfs_partitions", .help = "Partitions there are now.", .type = KQ_GAUGE};
static struct kq_metric batches = {.name = "kqfs_appended_batches_total",
                                   .help = "Record batches appended since the start.",
                                   .type = KQ_COUNTER};
static struct kq_metric messages = {.name = "kqfs_appended_messages_total",
                                    .help = "Messages appended since the start.",
                                    .type = KQ_COUNTER};
static struct kq_metric bytes = {.name = "kqfs_appended_bytes_total",
                                 .help = "Bytes of the record batches appended since the start.",
                                 .type = KQ_COUNTER};
static struct kq_metric errors = {.name = "kqfs_append_errors_total",
                                  .help = "Appends that failed since the start.",
                                  .type = KQ_COUNTER};
static struct kq_metric syncs = {.name = "kqfs_log_syncs_total",
                                 .help = "Group commits since the start: each made what was "
                                         "appended to one log durable.",
                                 .type = KQ_COUNTER};
static struct kq_metric synced = {.name = "kqfs_log_synced_bytes_total",
                                  .help = "Bytes of record batches made durable since the start.",
                                  .type = KQ_COUNTER};
static struct kq_metric scanned = {.name = "kqfs_recovery_scanned_bytes",
                                   .help = "Bytes of logs checked at the last start.",
                                   .type = KQ_GAUGE};
static struct kq_metric truncated = {
    .name = "kqfs_recovery_truncated_bytes",
    .help = "Bytes of unfinished or damaged ends cut off at the last start.",
    .type = KQ_GAUGE};
static struct kq_metric rebuilt = {.name = "kqfs_recovery_rebuilt_indexes",
                                   .help = "Index files rebuilt at the last start.",
                                   .type = KQ_GAUGE};
static struct kq_metric damaged = {.name = "kqfs_recovery_damaged_segments",
                                   .help = "Damaged segments set aside at the last start.",
                                   .type = KQ_GAUGE};
static struct kq_metric duration = {
    .name = "kqfs_recovery_duration_milliseconds",
    .help = "Time that reading the data directory took at the last start.",
    .type = KQ_GAUGE};
static struct kq_metric clean = {.name = "kqfs_recovery_clean",
                                 .help = "1 if the stop before the last start was a clean one.",
                                 .type = KQ_GAUGE};

void kq_broker_register_metrics(void)
{
    static struct kq_metric *const all[] = {&topics,  &partitions, &batches,  &messages, &bytes,
                                            &errors,  &syncs,      &synced,   &scanned,  &truncated,
                                            &rebuilt, &damaged,    &duration, &clean};
    for (size_t i = 0; i < kq_array_size(all); i++)
        kq_metric_register(all[i]);
    kq_verified_register_metrics();
}

void kq_broker_count_sync(int64_t bytes)
{
    kq_metric_add(&syncs, 1);
    kq_metric_add(&synced, bytes);
}

/* Metrics of which there is one a partition or topic. */
struct family {
    const char *name, *help;
    enum kq_metric_type type;
    bool of_topic; /* summed over its partitions */
    int64_t (*value)(struct kq_partition *partition, const struct kq_log_bounds *bounds);
};

static int64_t messages_in(struct kq_partition *partition, const struct kq_log_bounds *bounds)
{
    return atomic_load_explicit(&partition->appended_messages, memory_order_relaxed);
}

static int64_t bytes_in(struct kq_partition *partition, const struct kq_log_bounds *bounds)
{
    return atomic_load_explicit(&partition->appended_bytes, memory_order_relaxed);
}

static int64_t bytes_out(struct kq_partition *partition, const struct kq_log_bounds *bounds)
{
    return atomic_load_explicit(&partition->sent_bytes, memory_order_relaxed);
}

static int64_t messages_out(struct kq_partition *partition, const struct kq_log_bounds *bounds)
{
    return atomic_load_explicit(&partition->sent_messages, memory_order_relaxed);
}

void kq_partition_count_sent(struct kq_partition *partition, const struct kq_extent *sent)
{
    int64_t messages =
        sent->next_offset < 0 ? sent->cut_offsets : sent->next_offset - sent->base_offset;
    atomic_fetch_add_explicit(&partition->sent_bytes, sent->length, memory_order_relaxed);
    atomic_fetch_add_explicit(&partition->sent_messages, messages, memory_order_relaxed);
}

static int64_t start_offset(struct kq_partition *partition, const struct kq_log_bounds *bounds)
{
    return bounds->start;
}

static int64_t end_offset(struct kq_partition *partition, const struct kq_log_bounds *bounds)
{
    return bounds->end;
}

static int64_t recovery_point(struct kq_partition *partition, const struct kq_log_bounds *bounds)
{
    return bounds->recovery_point;
}

static int64_t log_bytes(struct kq_partition *partition, const struct kq_log_bounds *bounds)
{
    return bounds->bytes;
}

static const struct family families[] = {
    {"kqfs_topic_messages_in_total", "Messages appended to the topic since the start.", KQ_COUNTER,
     true, messages_in},
    {"kqfs_topic_bytes_in_total", "Bytes of record batches appended to the topic since the start.",
     KQ_COUNTER, true, bytes_in},
    {"kqfs_topic_messages_out_total",
     "Offsets of record batches sent to clients since the start, of cut ones their share.",
     KQ_COUNTER, true, messages_out},
    {"kqfs_topic_bytes_out_total", "Bytes of record batches sent to clients since the start.",
     KQ_COUNTER, true, bytes_out},
    {"kqfs_partition_start_offset", "First retained offset.", KQ_GAUGE, false, start_offset},
    {"kqfs_partition_end_offset", "Offset that the next message gets.", KQ_GAUGE, false,
     end_offset},
    {"kqfs_partition_recovery_point", "Offset before which everything is on disk.", KQ_GAUGE, false,
     recovery_point},
    {"kqfs_partition_log_bytes", "Bytes of the retained segments.", KQ_GAUGE, false, log_bytes},
};

static int format_topic(const struct family *family, struct kq_topic *topic, struct kq_buf *ret)
{
    int64_t sum = 0;
    int r = 0;
    for (int32_t i = 0; i < kq_topic_partition_count(topic) && r == 0; i++) {
        struct kq_partition *partition = kq_topic_at(topic, i);
        struct kq_log_bounds bounds;
        kq_bounds(partition, &bounds);
        int64_t value = family->value(partition, &bounds);
        sum += value;
        if (!family->of_topic)
            r = kq_buf_printf(ret, "%s{topic=\"%s\",partition=\"%d\"} %lld\n", family->name,
                              topic->name, i, (long long)value);
    }
    if (r == 0 && family->of_topic)
        r = kq_buf_printf(ret, "%s{topic=\"%s\"} %lld\n", family->name, topic->name,
                          (long long)sum);
    return r;
}

/* Calls STEP for each topic, in order of names. */
static int each_topic(struct kq_broker *broker,
                      int (*step)(const void *context, struct kq_topic *topic, struct kq_buf *ret),
                      const void *context, struct kq_buf *ret)
{
    struct kq_topic *topic, *previous = NULL;
    int r = 0;
    while (r == 0 && kq_topic_next(broker, previous ? previous->name : "", &topic) == 0) {
        r = step(context, topic, ret);
        kq_topic_unref(previous);
        previous = topic;
    }
    kq_topic_unref(previous);
    return r;
}

static int format_family_topic(const void *family, struct kq_topic *topic, struct kq_buf *ret)
{
    return format_topic(family, topic, ret);
}

struct sums {
    int64_t topics, partitions, batches, messages, bytes, errors;
};

static int add_topic(const void *context, struct kq_topic *topic, struct kq_buf *ret)
{
    struct sums *sums = *(struct sums *const *)context;
    sums->topics++;
    for (int32_t i = 0; i < kq_topic_partition_count(topic); i++) {
        struct kq_partition *partition = kq_topic_at(topic, i);
        sums->partitions++;
        sums->batches += atomic_load_explicit(&partition->appended_batches, memory_order_relaxed);
        sums->messages += atomic_load_explicit(&partition->appended_messages, memory_order_relaxed);
        sums->bytes += atomic_load_explicit(&partition->appended_bytes, memory_order_relaxed);
        sums->errors += atomic_load_explicit(&partition->append_errors, memory_order_relaxed);
    }
    return 0;
}

static void sum_up(struct kq_broker *broker)
{
    const struct kq_partition_totals *gone = &broker->deleted_totals;
    struct sums sums = {
        .batches = atomic_load(&gone->batches),
        .messages = atomic_load(&gone->messages),
        .bytes = atomic_load(&gone->bytes),
        .errors = atomic_load(&gone->errors),
    };
    struct sums *pointer = &sums;
    each_topic(broker, add_topic, &pointer, NULL);
    kq_metric_set(&topics, sums.topics);
    kq_metric_set(&partitions, sums.partitions);
    kq_metric_set(&batches, sums.batches);
    kq_metric_set(&messages, sums.messages);
    kq_metric_set(&bytes, sums.bytes);
    kq_metric_set(&errors, sums.errors);
    kq_metric_set(&scanned, atomic_load(&broker->recovered.scanned_bytes));
    kq_metric_set(&truncated, atomic_load(&broker->recovered.truncated_bytes));
    kq_metric_set(&rebuilt, atomic_load(&broker->recovered.rebuilt_indexes));
    kq_metric_set(&damaged, atomic_load(&broker->recovered.damaged_segments));
    kq_metric_set(&duration, broker->recovered.duration_ns / 1000000);
    kq_metric_set(&clean, broker->recovered.after_clean_stop);
}

int kq_broker_metrics(struct kq_broker *broker, struct kq_buf *ret)
{
    sum_up(broker);
    int r = kq_metrics_format(ret);
    for (size_t i = 0; i < kq_array_size(families) && r == 0; i++) {
        r = kq_metrics_head(ret, families[i].name, families[i].help, families[i].type);
        if (r == 0)
            r = each_topic(broker, format_family_topic, &families[i], ret);
    }
    return r < 0 ? r : kq_groups_metrics(broker, ret);
}
