/* Kafka's configurations as settings of a topic here.
 *
 * A topic's own configurations become its settings, and so do what Kafka's dynamic defaults (of the
 * broker, then of all) say for those it has not. What its server.properties says is not in the
 * metadata. So where nothing says how long messages are kept, they are kept: retention.ms -1
 * becomes a setting of the topic, unless a default for it was configured here.
 *
 * One thread; one owner.
 */
#pragma once

#include "broker/importimage.h"

struct kq_import_odd;

struct kq_import_config {
    const struct kq_image *image; /* NULL: there is none, nothing is known */
    const struct kq_topic_config *defaults;
    int32_t node_id;
    size_t held; /* topics that keep everything because nothing says how long */
    char *first_held;
    struct kq_import_odd *odds; /* configurations that were left out */
};

/* The settings of TOPIC, in the form and order in which kqfs keeps them; kq_settings_free.
 * Remembers what it leaves out. -ENOMEM. */
int kq_import_settings(struct kq_import_config *config, const char *topic,
                       struct kq_topic_setting **ret, size_t *ret_count);

/* Says what was left out, a line a configuration, and what is kept. */
void kq_import_config_report(struct kq_import_config *config);

/* Frees what was remembered. */
void kq_import_config_release(struct kq_import_config *config);
