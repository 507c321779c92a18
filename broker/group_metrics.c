/* Groups in the metrics: how many in which state, and how far behind each is. */
#include "broker/group.h"

#include "broker/metrics.h"

struct tally {
    struct kq_buf *out;
    int64_t states[KQ_GROUP_DEAD + 1];
    int64_t members, offsets;
    int64_t lines, left_out;
};

static int64_t lag_of(const struct kq_group_offset_value *value, const struct kq_log_bounds *bounds)
{
    return kq_max64(0, bounds->last_stable - kq_max64(value->offset, bounds->start));
}

/* A label's value: backslash, quote and newline are escaped (Prometheus' text format). */
static int put_label(struct kq_buf *out, const char *text, size_t length)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < length; i++) {
        if (text[i] == '\n') {
            r = kq_buf_append_string(out, "\\n");
            continue;
        }
        if (text[i] == '\\' || text[i] == '"')
            r = kq_buf_append_string(out, "\\");
        if (r == 0)
            r = kq_buf_append(out, text + i, 1);
    }
    return r;
}

static int put_lag(struct tally *tally, const struct kq_group *group,
                   const struct kq_group_topic *topic, int32_t partition, int64_t lag)
{
    int r = kq_buf_append_string(tally->out, "kqfs_group_lag{group=\"");
    if (r == 0)
        r = put_label(tally->out, group->name, (size_t)group->length);
    if (r == 0)
        r = kq_buf_printf(tally->out, "\",topic=\"%s\",partition=\"%d\"} %lld\n", topic->name,
                          partition, (long long)lag);
    return r;
}

static int put_topic(struct tally *tally, const struct kq_group *group,
                     const struct kq_group_topic *of)
{
    struct kq_topic *topic;
    struct kq_partition *partition;
    struct kq_log_bounds bounds;
    int r = 0;
    if (kq_topic_get(group->groups->broker, of->name, &topic) < 0)
        return 0;
    for (size_t i = 0; r == 0 && i < of->count; i++) {
        const struct kq_group_slot *slot = of->slots[i];
        if (slot->value.offset < 0 || kq_partition_get(topic, slot->partition, &partition) < 0)
            continue;
        kq_bounds(partition, &bounds);
        kq_partition_unref(partition);
        if (tally->lines++ >= group->groups->options.max_lag_metrics)
            tally->left_out++;
        else
            r = put_lag(tally, group, of, slot->partition, lag_of(&slot->value, &bounds));
    }
    kq_topic_unref(topic);
    return r;
}

static int put_group(struct tally *tally, struct kq_group *group)
{
    int r = 0;
    kq_group_lock(group);
    tally->states[group->state]++;
    tally->members += kq_group_member_count(group);
    tally->offsets += (int64_t)group->offset_count;
    for (size_t i = 0; r == 0 && i < group->topic_count; i++)
        r = put_topic(tally, group, group->topics[i]);
    kq_group_unlock(group);
    return r;
}

static int put_gauge(struct kq_buf *out, const char *name, const char *help, int64_t value)
{
    int r = kq_metrics_head(out, name, help, KQ_GAUGE);
    return r < 0 ? r : kq_buf_printf(out, "%s %lld\n", name, (long long)value);
}

static int put_totals(const struct tally *tally)
{
    struct kq_buf *out = tally->out;
    int r =
        kq_metrics_head(out, "kqfs_groups", "Consumer groups there are now, by state.", KQ_GAUGE);
    for (enum kq_group_state state = KQ_GROUP_EMPTY; r == 0 && state < KQ_GROUP_DEAD; state++)
        r = kq_buf_printf(out, "kqfs_groups{state=\"%s\"} %lld\n", kq_group_state_name(state),
                          (long long)tally->states[state]);
    if (r == 0)
        r = put_gauge(out, "kqfs_group_members", "Members of consumer groups there are now.",
                      tally->members);
    if (r == 0)
        r = put_gauge(out, "kqfs_group_offsets", "Committed offsets there are now.",
                      tally->offsets);
    if (r == 0)
        r = put_gauge(out, "kqfs_group_lags_left_out",
                      "Lines of kqfs_group_lag that metrics.max.group.lags left out.",
                      tally->left_out);
    return r;
}

int kq_groups_metrics(struct kq_broker *broker, struct kq_buf *ret)
{
    struct tally tally = {.out = ret};
    struct kq_group *group, *last = NULL;
    int r = kq_metrics_head(ret, "kqfs_group_lag",
                            "Messages of a partition that a group has not committed.", KQ_GAUGE);
    while (r == 0 && kq_group_next(broker, last ? kq_group_name(last) : KQ_STR_NULL, &group) == 0) {
        r = put_group(&tally, group);
        kq_group_unref(last);
        last = group;
    }
    kq_group_unref(last);
    return r < 0 ? r : put_totals(&tally);
}
