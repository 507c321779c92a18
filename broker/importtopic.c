#include "broker/importtopic.h"

#include <fcntl.h>
#include <stdio.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"

/* A topic of which there are directories. */
struct candidate {
    const char *name;
    const struct kq_found_directory *directories; /* ascending */
    size_t count;
    const struct kq_image_topic *known; /* to Kafka; NULL */
    uint8_t id[KQ_UUID_BYTES];          /* that the directories name */
    bool has_id;
    bool mixed;    /* they name several */
    bool damaged;  /* our metadata file is */
    bool recorded; /* it is whole: RECORD */
    struct kq_topic_record record;
};

bool kq_import_is_recorded(const struct kq_importing *importing, const char *topic)
{
    size_t low = 0, high = importing->scan.topic_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(importing->scan.topics[middle], topic);
        if (order == 0)
            return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* --- Deciding --- */

static int read_candidate(const struct kq_importing *importing, struct candidate *candidate)
{
    struct kq_broker *broker = importing->broker;
    char name[KQ_DIRECTORY_BYTES];
    uint8_t id[KQ_UUID_BYTES];
    candidate->known = kq_image_find(importing->image, candidate->name);
    for (size_t i = 0; i < candidate->count; i++) {
        kq_partition_directory(candidate->name, candidate->directories[i].number, name);
        if (kq_scan_topic_id(broker->dirfd, name, id) < 0)
            continue;
        if (candidate->has_id && memcmp(candidate->id, id, sizeof(id)) != 0)
            candidate->mixed = true;
        memcpy(candidate->id, id, sizeof(id));
        candidate->has_id = true;
    }
    if (!kq_import_is_recorded(importing, candidate->name))
        return 0;
    int r = kq_store_read(broker->dirfd, candidate->name, &candidate->record);
    candidate->recorded = r == 0;
    candidate->damaged = r == -EBADMSG || r == -EFBIG || r == -EINVAL;
    return candidate->damaged ? 0 : r;
}

static bool has_messages(const struct kq_importing *importing, const struct candidate *candidate)
{
    char name[KQ_DIRECTORY_BYTES];
    for (size_t i = 0; i < candidate->count; i++) {
        kq_partition_directory(candidate->name, candidate->directories[i].number, name);
        if (kq_scan_holds_messages(importing->broker->dirfd, name) != 0)
            return true;
    }
    return false;
}

/* Is it, as it lies here, what CANDIDATE's record says? */
static bool is_current(const struct candidate *candidate)
{
    return candidate->recorded && !candidate->mixed &&
           (!candidate->has_id || memcmp(candidate->record.id, candidate->id, KQ_UUID_BYTES) == 0);
}

/* Is CANDIDATE left to the loading of topics? So it is where Kafka did not run since its record was
 * written, and where Kafka has never heard of the topic; and what an unfinished creation left
 * behind goes when topics are loaded. */
static bool is_left(const struct kq_importing *importing, const struct candidate *candidate)
{
    const struct kq_image_topic *known = candidate->known;
    if (candidate->damaged || (candidate->recorded && (!importing->ran || !known)))
        return true;
    if (is_current(candidate))
        return memcmp(candidate->record.id, known->id, KQ_UUID_BYTES) != 0;
    return !importing->ran && !known && !has_messages(importing, candidate);
}

/* Why it cannot be taken over; NULL. */
static const char *objection(const struct candidate *candidate)
{
    const struct kq_image_topic *known = candidate->known;
    if (candidate->mixed)
        return "its partition directories are of different topics of this name";
    if (known && candidate->has_id && memcmp(known->id, candidate->id, KQ_UUID_BYTES) != 0)
        return "its partition directories are of another topic of this name, which Kafka deleted";
    if (!is_current(candidate) &&
        candidate->directories[candidate->count - 1].number != (int32_t)candidate->count - 1)
        return "not all partitions before the last one here are: the others are on other brokers";
    return NULL;
}

/* Nobody may make a topic of its name: that would take the directories for an old failure's. */
static int refuse(struct kq_importing *importing, const struct candidate *candidate,
                  const char *why)
{
    struct kq_broker *broker = importing->broker;
    struct kq_topic *topic;
    kq_diag(LOG_WARNING,
            "%s/%s-*: topic %s is left out and its directories untouched: %s; copy those that "
            "are missing here, or move these away",
            broker->data_dir, candidate->name, candidate->name, why);
    int r = kq_topic_new(broker, candidate->name, &topic);
    if (r < 0)
        return r;
    r = kq_uuid_new(topic->id);
    if (r == 0)
        r = kq_registry_add(&broker->registry, topic);
    kq_topic_unref(topic);
    return r;
}

/* --- Taking over --- */

/* The partition's owner and mode are those of the data directory: who may read Kafka's files may
 * read the messages. */
static int make_partition(const struct kq_importing *importing, struct kq_partition_record *ret)
{
    struct kq_renderings *renderings = kq_zalloc(sizeof(*renderings) + sizeof(renderings->at[0]));
    if (!renderings)
        return -ENOMEM;
    renderings->count = 1;
    renderings->at[0] = importing->broker->options.topic_defaults.text;
    renderings->at[0].from_offset = 0;
    *ret = (struct kq_partition_record){
        .attributes = {.uid = importing->owner.st_uid,
                       .gid = importing->owner.st_gid,
                       .mode = importing->owner.st_mode & 0666},
        .renderings = renderings,
    };
    return 0;
}

static int64_t created_ms(const struct kq_importing *importing, const char *topic)
{
    struct stat st;
    char path[KQ_DIRECTORY_BYTES + 32];
    snprintf(path, sizeof(path), "%s-0/partition.metadata", topic);
    if (fstatat(importing->broker->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return kq_clock_wall_ms();
    return kq_max64(0, (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000);
}

static int set_id(const struct candidate *candidate, uint8_t ret[KQ_UUID_BYTES])
{
    if (!candidate->known && !candidate->has_id)
        return kq_uuid_new(ret);
    memcpy(ret, candidate->known ? candidate->known->id : candidate->id, KQ_UUID_BYTES);
    return 0;
}

/* The record becomes one that has as many partitions as there are directories. */
static int extend(const struct kq_importing *importing, const struct candidate *candidate,
                  struct kq_topic_record *record)
{
    int32_t count = candidate->directories[candidate->count - 1].number + 1;
    struct kq_partition_record *moved;
    int r = 0;
    if (count <= record->partition_count)
        return 0;
    moved = kq_realloc(record->partitions, (size_t)count * sizeof(*moved));
    if (!moved)
        return -ENOMEM;
    record->partitions = moved;
    while (r == 0 && record->partition_count < count) {
        r = make_partition(importing, &moved[record->partition_count]);
        if (r == 0)
            record->partition_count++;
    }
    return r;
}

/* How text reads is ours to say: the old record's settings of that stay. */
static int keep_renderings(const struct kq_topic_record *old, struct kq_topic_record *record)
{
    struct kq_topic_setting *settings;
    size_t count = record->setting_count;
    int r = kq_settings_copy(record->settings, count, old->setting_count, &settings);
    if (r < 0)
        return r;
    for (size_t i = 0; i < old->setting_count && r == 0; i++) {
        if (!kq_topic_config_is_rendering(old->settings[i].name))
            continue;
        settings[count].name = kq_strdup(old->settings[i].name);
        settings[count].value = kq_strdup(old->settings[i].value);
        r = settings[count].name && settings[count].value ? 0 : -ENOMEM;
        count++;
    }
    kq_settings_free(record->settings, record->setting_count);
    record->settings = settings;
    record->setting_count = count;
    return r;
}

/* RET: what is to be written; owned by it. */
static int make_record(struct kq_importing *importing, struct candidate *candidate,
                       struct kq_topic_record *ret)
{
    struct kq_topic_record *old = &candidate->record;
    bool goes_on = is_current(candidate);
    ret->created_ms = goes_on ? old->created_ms : created_ms(importing, candidate->name);
    ret->attributes = (struct kq_attributes){
        .uid = importing->owner.st_uid,
        .gid = importing->owner.st_gid,
        .mode = (importing->owner.st_mode & 0777) | S_ISVTX,
    };
    int r = set_id(candidate, ret->id);
    if (r == 0)
        r = kq_import_settings(&importing->config, candidate->name, &ret->settings,
                               &ret->setting_count);
    if (r == 0 && goes_on) {
        ret->attributes = old->attributes;
        ret->partitions = old->partitions;
        ret->partition_count = old->partition_count;
        r = keep_renderings(old, ret);
        old->attributes = (struct kq_attributes){0};
        old->partitions = NULL;
        old->partition_count = 0;
    }
    return r < 0 ? r : extend(importing, candidate, ret);
}

static int take_over(struct kq_importing *importing, struct candidate *candidate)
{
    struct kq_topic_record record = {0};
    int r = make_record(importing, candidate, &record);
    if (r == 0)
        r = kq_store_write(importing->broker->dirfd, candidate->name, &record);
    if (r == 0) {
        importing->topics++;
        importing->partitions += (size_t)record.partition_count;
        if (candidate->known && candidate->known->partitions > record.partition_count &&
            importing->incomplete++ == 0)
            importing->first_incomplete = candidate->name;
    }
    kq_topic_record_release(&record);
    return r;
}

static int import_topic(struct kq_importing *importing, struct candidate *candidate)
{
    int r = read_candidate(importing, candidate);
    if (r < 0 || is_left(importing, candidate))
        return r;
    const char *why = objection(candidate);
    return why ? refuse(importing, candidate, why) : take_over(importing, candidate);
}

int kq_import_topics(struct kq_importing *importing)
{
    const struct kq_scan *scan = &importing->scan;
    int r = 0;
    for (size_t i = 0; i < scan->directory_count && r == 0;) {
        struct candidate candidate = {.name = scan->directories[i].topic,
                                      .directories = &scan->directories[i]};
        while (i < scan->directory_count &&
               strcmp(scan->directories[i].topic, candidate.name) == 0) {
            candidate.count++;
            i++;
        }
        r = import_topic(importing, &candidate);
        if (r < 0)
            kq_diag(LOG_ERR, "cannot take over topic %s in %s: %s", candidate.name,
                    importing->broker->data_dir, strerror(-r));
        kq_topic_record_release(&candidate.record);
    }
    return r;
}
