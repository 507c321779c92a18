/* Configurations of topics that are exported: Kafka alone can set its own, so that we say how. */
#include <string.h>

#include "broker/base/diag.h"
#include "broker/exportplan.h"

static int format(const struct kq_topic_config *config, const char *name, struct kq_buf *ret)
{
    ret->length = 0;
    int r = kq_topic_config_format(config, name, ret);
    return r < 0 ? r : kq_buf_append(ret, "", 1);
}

/* --- Comparing --- */

static const char *value_in(const struct kq_topic_setting *settings, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(settings[i].name, name) == 0)
            return settings[i].value;
    return NULL;
}

/* What Kafka goes by: the topic's own, else Kafka's default. */
static void config_there(const struct kq_topic *topic, const struct kq_export_target *target,
                         struct kq_topic_config *ret)
{
    size_t count;
    const struct kq_topic_setting *settings =
        kq_image_settings(&target->image, KQ_IMAGE_TOPIC, topic->name, &count);
    const char *name;
    kq_topic_config_defaults(ret);
    for (size_t i = 0; (name = kq_topic_config_name(i)); i++)
        if (value_in(settings, count, name))
            kq_topic_config_set(ret, name, value_in(settings, count, name), NULL);
}

void kq_export_compare(struct kq_topic *topic, const struct kq_export_target *target)
{
    kq_autobuf struct kq_buf list = {0}, mine = {0}, theirs = {0};
    struct kq_topic_config here, there;
    const char *name;
    int r = target->has_image ? 0 : -ENOENT;
    kq_topic_config(topic, &here);
    if (r == 0)
        config_there(topic, target, &there);
    for (size_t i = 0; r == 0 && (name = kq_topic_config_name(i)); i++) {
        if (kq_topic_config_is_rendering(name))
            continue;
        r = format(&here, name, &mine);
        if (r == 0)
            r = format(&there, name, &theirs);
        if (r == 0 && strcmp((char *)mine.data, (char *)theirs.data) != 0)
            r = kq_buf_printf(&list, "%s%s=%s (there %s)", list.length ? ", " : "", name,
                              (char *)mine.data, (char *)theirs.data);
    }
    if (r == 0 && list.length)
        kq_diag(LOG_WARNING,
                "topic %s is configured otherwise there: here it has %.*s; before messages are "
                "deleted by that, set it with kafka-configs.sh",
                topic->name, (int)list.length, (char *)list.data);
}

/* --- Commands --- */

/* In single quotes; no value has one of its own, or it would be no value that Kafka takes. */
static void write_config(FILE *to, const char *name, const char *value)
{
    fprintf(to, " --config '%s=%s'", name, value);
}

static int write_command(struct kq_topic *topic, FILE *to)
{
    kq_autobuf struct kq_buf mine = {0}, kafkas = {0};
    struct kq_topic_config here, builtin;
    const char *name;
    int r = 0;
    kq_topic_config(topic, &here);
    kq_topic_config_defaults(&builtin);
    fprintf(to,
            "kafka-topics.sh --bootstrap-server \"$BOOTSTRAP\" --create --topic %s "
            "--partitions %d --replication-factor 1",
            topic->name, kq_topic_partition_count(topic));
    for (size_t i = 0; r == 0 && (name = kq_topic_config_name(i)); i++) {
        if (kq_topic_config_is_rendering(name))
            continue;
        r = format(&here, name, &mine);
        if (r == 0)
            r = format(&builtin, name, &kafkas);
        if (r == 0 && (kq_topic_config_is_own(topic, name) ||
                       strcmp((char *)mine.data, (char *)kafkas.data) != 0))
            write_config(to, name, (char *)mine.data);
    }
    fputc('\n', to);
    return r;
}

int kq_export_commands(struct kq_broker *broker, const char *const *topics, size_t topic_count,
                       FILE *to)
{
    struct kq_export_plan plan = {0};
    int r = kq_export_plan_topics(&plan, broker, topics, topic_count);
    for (size_t i = 0; i < kq_export_topic_count(&plan) && r == 0; i++)
        r = write_command(kq_export_topic(&plan, i), to);
    kq_export_plan_release(&plan);
    return r;
}
