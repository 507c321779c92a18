#include "broker/import.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/importtopic.h"
#include "broker/internal.h"
#include "broker/quotas.h"

#define NOTE_BYTES 256

/* --- The note --- */

int kq_import_read_note(int dirfd, struct kq_metalog_end *ret_end, int64_t *ret_epoch)
{
    kq_autobuf struct kq_buf text = {0};
    struct kq_metalog_end end;
    int64_t epoch;
    int version, length = -1;
    int r = kq_io_slurp(dirfd, KQ_IMPORT_CHECKPOINT, NOTE_BYTES, &text);
    if (r == 0)
        r = kq_buf_append(&text, "", 1);
    if (r < 0)
        return r == -EFBIG ? -ENOENT : r;
    if (sscanf((char *)text.data, "%d %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 "%n", &version,
               &end.snapshot, &end.segment, &end.bytes, &epoch, &length) != 5 ||
        version != 0 || length < 0)
        return -ENOENT;
    *ret_end = end;
    *ret_epoch = epoch;
    return 0;
}

static int write_note(const struct kq_importing *importing)
{
    kq_autobuf struct kq_buf text = {0};
    const struct kq_metalog_end *end = &importing->end;
    int r = kq_buf_printf(&text, "0\n%" PRId64 " %" PRId64 " %" PRId64 "\n%" PRId64 "\n",
                          end->snapshot, end->segment, end->bytes, importing->broker->kafka.epoch);
    return r < 0 ? r
                 : kq_io_replace(importing->broker->dirfd, KQ_IMPORT_CHECKPOINT, text.data,
                                 text.length, 0600);
}

/* Fills what tells whether there is anything to do. RET: is the directory Kafka's at all? */
static int look(struct kq_importing *importing, bool *ret)
{
    struct kq_broker *broker = importing->broker;
    int r = kq_metalog_look(broker->dirfd, &importing->end);
    importing->has_metadata = r == 0;
    if (r == 0 || r == -ENOENT)
        r = kq_import_read_note(broker->dirfd, &importing->noted_end, &importing->noted_epoch);
    importing->noted = r == 0;
    if (r < 0 && r != -ENOENT)
        return r;
    const struct kq_metalog_end *a = &importing->end, *b = &importing->noted_end;
    bool moved = a->snapshot != b->snapshot || a->segment != b->segment || a->bytes != b->bytes;
    bool restarted = broker->kafka.epoch >= 0 && broker->kafka.epoch != importing->noted_epoch;
    *ret = broker->kafka.foreign || importing->has_metadata || importing->noted;
    broker->shared.for_kafka = *ret;
    importing->ran = *ret && (!importing->noted || restarted || (importing->has_metadata && moved));
    if (importing->noted && !importing->ran)
        broker->kafka.epoch = importing->noted_epoch;
    return 0;
}

/* --- Directories that Kafka put aside because it did not know their topic --- */

/* NAME is `<topic>-<n>.<32 hexadecimal digits>-stray`: back to its place, if it is a topic's that
 * kqfs made and the place is free. */
static int take_back(struct kq_importing *importing, const char *name, size_t *taken)
{
    struct kq_broker *broker = importing->broker;
    struct kq_topic_record record;
    struct stat st;
    char place[NAME_MAX + 1], topic[NAME_MAX + 1];
    uint8_t id[KQ_UUID_BYTES];
    snprintf(place, sizeof(place), "%.*s", (int)(strrchr(name, '.') - name), name);
    strcpy(topic, place);
    if (kq_scan_split(topic) < 0 || !kq_import_is_recorded(importing, topic) ||
        fstatat(broker->dirfd, place, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
        kq_scan_topic_id(broker->dirfd, name, id) < 0 ||
        kq_store_read(broker->dirfd, topic, &record) < 0)
        return 0;
    bool ours = memcmp(record.id, id, sizeof(id)) == 0;
    kq_topic_record_release(&record);
    int r = ours ? kq_io_rename(broker->dirfd, name, broker->dirfd, place) : 0;
    *taken += ours && r == 0;
    return r;
}

static int take_all_back(struct kq_importing *importing)
{
    const struct kq_scan *scan = &importing->scan;
    size_t taken = 0;
    int r = 0;
    for (size_t i = 0; i < scan->stray_count && r == 0; i++)
        r = take_back(importing, scan->strays[i], &taken);
    if (taken == 0)
        return r;
    kq_diag(LOG_NOTICE,
            "Kafka had put aside %zu partitions of topics that were made here: taken back, without "
            "what was deleted of their beginning being known",
            taken);
    kq_scan_release(&importing->scan);
    return r < 0 ? r : kq_scan_directory(importing->broker->dirfd, NULL, &importing->scan);
}

/* A topic that Kafka deleted has left nothing but our file. */
static int forget_deleted(const struct kq_importing *importing)
{
    const struct kq_scan *scan = &importing->scan;
    char file[NAME_MAX + 1];
    size_t count;
    int r = 0;
    for (size_t i = 0; i < scan->topic_count && r == 0; i++) {
        if (kq_scan_find(scan, scan->topics[i], &count) ||
            kq_image_find(importing->image, scan->topics[i]))
            continue;
        snprintf(file, sizeof(file), "%s" KQ_STORE_SUFFIX, scan->topics[i]);
        kq_diag(LOG_NOTICE, "Kafka deleted topic %s: forgotten here, too", scan->topics[i]);
        r = kq_io_unlink(importing->broker->dirfd, file, false);
    }
    return r;
}

/* --- All of it --- */

static int hold_lines(struct kq_broker *broker, const struct kq_checkpoint *from,
                      struct kq_checkpoint_writer *to)
{
    int r = 0;
    for (size_t i = 0; i < from->count && r == 0; i++)
        if (kq_registry_taken(&broker->registry, from->entries[i].topic))
            r = kq_checkpoint_add(to, from->entries[i].topic, from->entries[i].partition,
                                  from->entries[i].offset);
    return r;
}

static void report(struct kq_importing *importing)
{
    const struct kq_broker *broker = importing->broker;
    const size_t *others = importing->image->others;
    if (importing->topics)
        kq_diag(LOG_NOTICE, "took over %zu topics with %zu partitions that Kafka left in %s%s",
                importing->topics, importing->partitions, broker->data_dir,
                importing->config.image ? ""
                                        : "; their configurations are not known, since "
                                          "Kafka's " KQ_METALOG_DIRECTORY " is not there");
    if (importing->quotas)
        kq_diag(LOG_NOTICE, "took over quotas of %zu users and client ids", importing->quotas);
    if (importing->incomplete)
        kq_diag(LOG_NOTICE,
                "of %zu topics (%s%s) Kafka has more partitions, on other brokers: those that are "
                "here were taken over",
                importing->incomplete, importing->first_incomplete,
                importing->incomplete > 1 ? ", …" : "");
    kq_import_config_report(&importing->config);
    if (others[KQ_IMAGE_USER] + others[KQ_IMAGE_QUOTA] + others[KQ_IMAGE_ACL])
        kq_diag(LOG_NOTICE,
                "of Kafka's metadata %zu users, %zu other quotas and %zu ACLs are left out",
                others[KQ_IMAGE_USER], others[KQ_IMAGE_QUOTA], others[KQ_IMAGE_ACL]);
    if (importing->topics && importing->owner.st_uid != geteuid())
        kq_diag(
            LOG_WARNING,
            "%s belongs to user %u, not %u, as whom kqfs runs: before Kafka starts on it again, "
            "chown -R %u it",
            broker->data_dir, importing->owner.st_uid, geteuid(), importing->owner.st_uid);
}

/* Metadata that cannot be read is as good as none; why, was reported. */
static int read_image(struct kq_importing *importing)
{
    struct kq_broker *broker = importing->broker;
    importing->config = (struct kq_import_config){.defaults = &broker->options.topic_defaults,
                                                  .node_id = broker->node_id};
    int r = importing->has_metadata
                ? kq_image_read(broker->dirfd, broker->data_dir, importing->image)
                : -ENOENT;
    if (r == 0) {
        importing->config.image = importing->image;
        kq_producer_ids_met(&broker->producer_ids, importing->image->next_producer_id - 1);
        return 0;
    }
    kq_image_release(importing->image);
    return r == -ENOENT || r == -EBADMSG || r == -EPROTO || r == -EFBIG ? 0 : r;
}

/* Those that Kafka has; others, that were set here, stay. */
static int adopt_quotas(struct kq_importing *importing)
{
    struct kq_broker *broker = importing->broker;
    const struct kq_quota_book *quotas = importing->image->quotas;
    size_t count = quotas ? kq_quota_book_count(quotas) : 0;
    if (!importing->ran || count == 0)
        return 0;
    int r = kq_quotas_adopt(broker->quotas, quotas);
    if (r == 0)
        importing->quotas = count;
    if (r == -EDQUOT)
        kq_diag(LOG_ERR,
                "Kafka's quotas of %zu users and client ids are left out: they are more than "
                "quota.max.entities allows; set them again",
                count);
    return r == -EDQUOT ? 0 : r;
}

static bool all_recorded(const struct kq_importing *importing)
{
    const struct kq_scan *scan = &importing->scan;
    for (size_t i = 0; i < scan->directory_count; i++)
        if (!kq_import_is_recorded(importing, scan->directories[i].topic))
            return false;
    return true;
}

static int run(struct kq_importing *importing)
{
    struct kq_broker *broker = importing->broker;
    bool kafkas;
    int r = look(importing, &kafkas);
    if (r < 0 || !kafkas)
        return r;
    if (fstat(broker->dirfd, &importing->owner) < 0)
        return -errno;
    r = kq_scan_directory(broker->dirfd, NULL, &importing->scan);
    if (r == 0 && importing->ran)
        r = take_all_back(importing);
    if (r < 0 || (!importing->ran && all_recorded(importing)))
        return r;
    r = read_image(importing);
    if (r == 0)
        r = kq_import_topics(importing);
    if (r == 0 && importing->ran && importing->config.image)
        r = forget_deleted(importing);
    if (r == 0)
        r = adopt_quotas(importing);
    if (r == 0)
        report(importing);
    return r < 0 || !importing->ran ? r : write_note(importing);
}

int32_t kq_import_epochs(const struct kq_topic *topic, int32_t number)
{
    const struct kq_image *image = topic->broker->kafka.image;
    const struct kq_image_topic *known = image ? kq_image_find(image, topic->name) : NULL;
    if (!known || number >= known->partitions || memcmp(known->id, topic->id, KQ_UUID_BYTES) != 0)
        return 0;
    return known->at[number].leader_epoch + 1;
}

void kq_import_end(struct kq_broker *broker)
{
    if (broker->kafka.image)
        kq_image_release(broker->kafka.image);
    free(broker->kafka.image);
    broker->kafka.image = NULL;
}

int kq_import(struct kq_broker *broker, const struct kq_checkpoint *recovery,
              const struct kq_checkpoint *starts)
{
    struct kq_importing importing = {
        .broker = broker, .end = {-1, -1, 0}, .noted_end = {-1, -1, 0}, .noted_epoch = -1};
    importing.image = kq_zalloc(sizeof(*importing.image));
    int r = importing.image ? run(&importing) : -ENOMEM;
    if (r == 0)
        r = hold_lines(broker, recovery, &broker->kafka.recovery);
    if (r == 0)
        r = hold_lines(broker, starts, &broker->kafka.starts);
    kq_import_config_release(&importing.config);
    if (importing.image) {
        broker->kafka.image = importing.image;
        if (!importing.ran)
            kq_import_end(broker);
    }
    kq_scan_release(&importing.scan);
    return r;
}
