/* Logs that go into a Kafka's directory: what they look like there, what is refused, what is left
 * where it fails in between. */
#include "tests/unit/ground.h"

#include <ftw.h>
#include <glob.h>

#include "broker/aborted.h"
#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "broker/base/io.h"
#include "broker/export.h"
#include "broker/exportoffsets.h"
#include "broker/index.h"
#include "broker/internal.h"
#include "broker/producerid.h"
#include "broker/walk.h"

#define ID "36OQUqnnSyCY1Pg4F2DYHA"
#define MARK "{\"version\":0,\"brokerEpoch\":9}"

struct stage {
    struct ground ground;
    char target[DIRECTORY_BYTES];
    char all_said[1 << 13];
};

static struct stage *on_stage;

static void said_all(int priority, const char *line)
{
    size_t length = strlen(on_stage->all_said);
    snprintf(on_stage->all_said + length, sizeof(on_stage->all_said) - length, "%s\n", line);
    said_tap(priority, line);
}

static void clear(struct stage *stage)
{
    said_clear();
    stage->all_said[0] = '\0';
    kq_diag_set_tap(said_all);
}

static const char *there(struct stage *stage, const char *name)
{
    static char path[400];
    snprintf(path, sizeof(path), "%s/%s", stage->target, name);
    return path;
}

static void put(struct stage *stage, const char *name, const char *text)
{
    FILE *file = fopen(there(stage, name), "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void get(struct stage *stage, const char *name, struct kq_buf *ret)
{
    assert_int_equal(kq_io_slurp(AT_FDCWD, there(stage, name), 1 << 24, ret), 0);
}

static void check_text(struct stage *stage, const char *name, const char *wanted)
{
    kq_autobuf struct kq_buf text = {0};
    get(stage, name, &text);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    assert_string_equal(text.data, wanted);
}

static void make_partition(struct stage *stage, const char *name)
{
    char path[300];
    assert_int_equal(mkdir(there(stage, name), 0750), 0);
    snprintf(path, sizeof(path), "%s/partition.metadata", name);
    put(stage, path, "version: 0\ntopic_id: " ID);
    snprintf(path, sizeof(path), "%s/00000000000000000000.log", name);
    put(stage, path, "");
    snprintf(path, sizeof(path), "%s/leader-epoch-checkpoint", name);
    put(stage, path, "0\n1\n3 0\n");
}

static int setup(void **state)
{
    static struct stage stage;
    stage = (struct stage){0};
    on_stage = &stage;
    ground_setup(&stage.ground);
    ground_open(&stage.ground);
    directory_make(stage.target, NULL);
    put(&stage, "meta.properties", "version=1\nnode.id=3\ncluster.id=x\n");
    put(&stage, ".kafka_cleanshutdown", MARK);
    put(&stage, "recovery-point-offset-checkpoint", "0\n2\nother 0 77\nt 0 5\n");
    put(&stage, "cleaner-offset-checkpoint", "0\n2\nother 0 7\nt 0 3\n");
    put(&stage, "log-start-offset-checkpoint", "");
    clear(&stage);
    *state = &stage;
    return 0;
}

static int teardown(void **state)
{
    struct stage *stage = *state;
    kq_fault_disarm();
    ground_remove(&stage->ground);
    return directory_remove(stage->target);
}

static int export_as(struct stage *stage, const char *topic, bool overwrite,
                     struct kq_export_result *ret)
{
    const struct kq_export_options options = {.target = stage->target,
                                              .topics = &topic,
                                              .topic_count = topic != NULL,
                                              .overwrite = overwrite};
    clear(stage);
    return kq_export(stage->ground.broker, &options, ret);
}

static int export_all(struct stage *stage)
{
    struct kq_export_result result;
    return export_as(stage, NULL, false, &result);
}

/* Topic "t" with PARTITIONS and COUNT batches of two messages in the first. */
static void fill(struct stage *stage, int32_t partitions, int count)
{
    struct kq_topic *topic = ground_topic(&stage->ground, "t", partitions);
    struct kq_access access = ground_access(topic, 0);
    struct kq_log_appended appended;
    /* The messages are old: housekeeping would roll and delete. */
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", "-1"), 0);
    assert_int_equal(
        kq_topic_set_config(topic, &ground_caller, "segment.ms", "9223372036854775807"), 0);
    for (int i = 0; i < count; i++)
        assert_int_equal(ground_append(&access, "first\nsecond\n", &appended), 0);
    kq_topic_unref(topic);
}

/* --- What is there then --- */

/* Walks all batches of a segment; returns how many, RET_NEXT: the offset behind the last. */
static int count_batches(struct stage *stage, const char *name, int64_t base, int64_t *ret_next)
{
    struct kq_batch_header header;
    struct kq_walk walk;
    const uint8_t *bytes;
    struct stat st;
    int count = 0;
    kq_autoclose int fd = open(there(stage, name), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    kq_walk_begin(&walk, fd, base, 0, st.st_size, KQ_WALK_FAR, true);
    *ret_next = base;
    while (kq_walk_header(&walk, &header) == 0) {
        assert_int_equal(kq_walk_bytes(&walk, &header, &bytes), 0);
        assert_int_equal(kq_batch_check_crc(bytes, &header), 0);
        assert_int_equal(header.base_offset, *ret_next);
        assert_int_equal(header.leader_epoch, 0);
        kq_walk_step(&walk, &header);
        *ret_next = kq_batch_next_offset(&header);
        count++;
    }
    assert_int_equal(walk.position, st.st_size);
    kq_walk_end(&walk);
    return count;
}

static void a_log_is_there_as_kafka_writes_it(void **state)
{
    struct stage *stage = *state;
    struct stat st;
    int64_t next;
    fill(stage, 2, 300);
    make_partition(stage, "t-0");
    make_partition(stage, "t-1");
    assert_int_equal(export_all(stage), 0);
    assert_int_equal(said_count, 0);
    assert_int_equal(count_batches(stage, "t-0/00000000000000000000.log", 0, &next), 300);
    assert_int_equal(next, 600);
    check_text(stage, "t-0/leader-epoch-checkpoint", "0\n1\n0 0\n");
    check_text(stage, "t-0/partition.metadata", "version: 0\ntopic_id: " ID);
    check_text(stage, "t-1/leader-epoch-checkpoint", "0\n0\n");
    check_text(stage, "recovery-point-offset-checkpoint", "0\n2\nother 0 77\nt 0 600\n");
    check_text(stage, "replication-offset-checkpoint", "0\n1\nt 0 600\n");
    check_text(stage, "log-start-offset-checkpoint", "0\n0\n");
    check_text(stage, "cleaner-offset-checkpoint", "0\n1\nother 0 7\n");
    check_text(stage, ".kafka_cleanshutdown", MARK);
    assert_int_equal(stat(there(stage, "t-0"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0750);
    assert_int_equal(stat(there(stage, "t-0/00000000000000000000.log"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(access(there(stage, ".lock"), F_OK), -1);
}

/* Each entry leads to a batch that ends with its offset. */
static void indexes_lead_to_batches(void **state)
{
    struct stage *stage = *state;
    kq_autobuf struct kq_buf log = {0}, offsets = {0}, times = {0};
    struct kq_batch_header header;
    fill(stage, 1, 500);
    make_partition(stage, "t-0");
    assert_int_equal(export_all(stage), 0);
    get(stage, "t-0/00000000000000000000.log", &log);
    get(stage, "t-0/00000000000000000000.index", &offsets);
    get(stage, "t-0/00000000000000000000.timeindex", &times);
    assert_int_equal(offsets.length % KQ_OFFSET_ENTRY, 0);
    assert_true(offsets.length / KQ_OFFSET_ENTRY >= log.length / 4096 / 2);
    for (size_t at = 0; at < offsets.length; at += KQ_OFFSET_ENTRY) {
        uint32_t position = kq_load_be32(offsets.data + at + 4);
        assert_int_equal(kq_batch_header_read(log.data + position, log.length - position, &header),
                         0);
        assert_int_equal(kq_batch_next_offset(&header) - 1, kq_load_be32(offsets.data + at));
    }
    /* All messages have one time: one entry. */
    assert_int_equal(times.length, KQ_TIME_ENTRY);
    assert_int_equal(kq_load_be64(times.data), 1700000000000);
    assert_int_equal(kq_load_be32(times.data + 8), 1); /* the end of the first batch that has it */
}

static void segments_begin_where_they_did(void **state)
{
    struct stage *stage = *state;
    struct kq_export_result result;
    int64_t next;
    fill(stage, 1, 0);
    struct kq_topic *topic = ground_find(&stage->ground, "t");
    struct kq_access access = ground_access(topic, 0);
    struct kq_log_appended appended;
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "segment.bytes", "300"), 0);
    for (int i = 0; i < 9; i++)
        assert_int_equal(ground_append(&access, "first\nsecond\n", &appended), 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, 7), 0);
    kq_topic_unref(topic);
    make_partition(stage, "t-0");
    assert_int_equal(export_as(stage, "t", false, &result), 0);
    assert_int_equal(result.partitions, 1);
    assert_int_equal(result.messages, 12);
    /* Three batches a segment; the one with offset 7 is whole there, its front is before the start.
     */
    assert_int_equal(count_batches(stage, "t-0/00000000000000000006.log", 6, &next), 3);
    assert_int_equal(next, 12);
    assert_int_equal(count_batches(stage, "t-0/00000000000000000012.log", 12, &next), 3);
    check_text(stage, "log-start-offset-checkpoint", "0\n1\nt 0 7\n");
    check_text(stage, "t-0/leader-epoch-checkpoint", "0\n1\n0 7\n");
}

static void a_log_without_messages_keeps_its_end(void **state)
{
    struct stage *stage = *state;
    int64_t next;
    fill(stage, 1, 5);
    struct kq_topic *topic = ground_find(&stage->ground, "t");
    assert_int_equal(kq_delete_records(ground_access(topic, 0).partition, &ground_caller, 10), 0);
    kq_topic_unref(topic);
    make_partition(stage, "t-0");
    assert_int_equal(export_all(stage), 0);
    assert_int_equal(count_batches(stage, "t-0/00000000000000000010.log", 10, &next), 0);
    assert_int_equal(access(there(stage, "t-0/00000000000000000010.index"), F_OK), 0);
    check_text(stage, "log-start-offset-checkpoint", "0\n1\nt 0 10\n");
}

static void append_as(struct kq_access *access, int64_t producer)
{
    struct kq_log_appended appended;
    struct kq_batch_header header;
    struct kq_batch_builder builder;
    struct kq_buf batch = {0};
    assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
    assert_int_equal(kq_batch_add(&builder, 1700000000000, NULL, -1, "x", 1, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    assert_int_equal(kq_batch_header_read(batch.data, batch.length, &header), 0);
    header.producer_id = producer;
    header.producer_epoch = 0;
    header.base_sequence = 0;
    kq_batch_header_write(batch.data, &header);
    struct kq_log_append append = {.bytes = batch.data, .length = batch.length, .text_length = 2};
    assert_int_equal(kq_append(access, &append, &appended), 0);
    kq_buf_release(&batch);
}

/* Kafka may give 5 to somebody else. */
static void producers_of_kafkas_own_stay_behind(void **state)
{
    struct stage *stage = *state;
    kq_autobuf struct kq_buf snapshot = {0};
    fill(stage, 1, 0);
    struct kq_topic *topic = ground_find(&stage->ground, "t");
    struct kq_access access = ground_access(topic, 0);
    append_as(&access, 5);
    append_as(&access, KQ_PRODUCER_FIRST + 2);
    append_as(&access, 6);
    kq_topic_unref(topic);
    make_partition(stage, "t-0");
    assert_int_equal(export_all(stage), 0);
    get(stage, "t-0/00000000000000000003.snapshot", &snapshot);
    assert_int_equal(snapshot.length, 10 + 46);
    assert_int_equal(kq_load_be16(snapshot.data), 1);
    assert_int_equal(kq_load_be32(snapshot.data + 2),
                     kq_crc32c(0, snapshot.data + 6, snapshot.length - 6));
    assert_int_equal(kq_load_be32(snapshot.data + 6), 1);
    assert_int_equal(kq_load_be64(snapshot.data + 10), KQ_PRODUCER_FIRST + 2);
}

/* --- What is refused --- */

static uint32_t tree_sum;

static int add_to_sum(const char *path, const struct stat *st, int type, struct FTW *where)
{
    kq_autobuf struct kq_buf bytes = {0};
    tree_sum = kq_crc32c(tree_sum, path, strlen(path));
    if (type == FTW_F && kq_io_slurp(AT_FDCWD, path, 1 << 24, &bytes) == 0 && bytes.length)
        tree_sum = kq_crc32c(tree_sum, bytes.data, bytes.length);
    return 0;
}

/* Of names and contents in the target. */
static uint32_t sum_of(struct stage *stage)
{
    tree_sum = 0;
    assert_int_equal(nftw(stage->target, add_to_sum, 16, FTW_PHYS), 0);
    return tree_sum;
}

static void check_refused(struct stage *stage, const char *topic, const char *words)
{
    struct kq_export_result result;
    uint32_t before = sum_of(stage);
    assert_int_equal(export_as(stage, topic, false, &result), -EINVAL);
    assert_int_equal(result.partitions, 0);
    if (!strstr(stage->all_said, words))
        fail_msg("said: %s", stage->all_said);
    assert_int_equal(sum_of(stage), before);
}

static void what_is_in_the_way_is_told_and_nothing_changes(void **state)
{
    struct stage *stage = *state;
    fill(stage, 2, 3);
    kq_topic_unref(ground_topic(&stage->ground, "u", 1));
    check_refused(stage, "nowhere", "no topic nowhere");
    check_refused(stage, "t", "no partition of a topic t");
    make_partition(stage, "t-0");
    check_refused(stage, "t", "topic t has 1 partitions there and 2 here");
    make_partition(stage, "t-1");
    make_partition(stage, "t-2");
    check_refused(stage, "t", "topic t has 3 partitions there and 2 here");
    assert_int_equal(directory_remove(there(stage, "t-2")), 0);
    check_refused(stage, NULL, "no partition of a topic u");
    make_partition(stage, "u-0");
    put(stage, "u-0/00000000000000000000.log", "x");
    check_refused(stage, NULL, "u-0 holds messages, or did: --overwrite");
    assert_int_equal(unlink(there(stage, "u-0/partition.metadata")), 0);
    check_refused(stage, NULL, "u-0 has no partition.metadata");
}

static void a_directory_that_is_none_or_in_use_is_refused(void **state)
{
    struct stage *stage = *state;
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    fill(stage, 1, 3);
    make_partition(stage, "t-0");
    put(stage, ".lock", "");
    int fd = open(there(stage, ".lock"), O_RDWR);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &whole), 0);
    check_refused(stage, "t", "is in use by a broker that runs: stop it");
    close(fd);
    assert_int_equal(unlink(there(stage, ".kafka_cleanshutdown")), 0);
    check_refused(stage, "t", "was not stopped cleanly");
    put(stage, "meta.properties", "version=1\nkqfs.format=1\n");
    check_refused(stage, "t", "is a data directory of kqfs");
    assert_int_equal(unlink(there(stage, "meta.properties")), 0);
    check_refused(stage, "t", "is no log directory");
}

static void what_is_there_is_replaced_only_where_that_is_asked_for(void **state)
{
    struct stage *stage = *state;
    struct kq_export_result result;
    int64_t next;
    fill(stage, 1, 3);
    make_partition(stage, "t-0");
    put(stage, "t-0/00000000000000000000.log", "old");
    put(stage, "t-0/00000000000000000099.log", "older");
    assert_int_equal(export_as(stage, "t", true, &result), 0);
    assert_int_equal(count_batches(stage, "t-0/00000000000000000000.log", 0, &next), 3);
    assert_int_equal(access(there(stage, "t-0/00000000000000000099.log"), F_OK), -1);
}

static void a_damaged_batch_is_not_exported(void **state)
{
    struct stage *stage = *state;
    fill(stage, 1, 50);
    make_partition(stage, "t-0");
    ground_close(&stage->ground);
    int fd = open(ground_path(&stage->ground, "t-0/00000000000000000000.log"), O_RDWR);
    assert_int_equal(pwrite(fd, "?", 1, 1000), 1);
    close(fd);
    ground_open(&stage->ground);
    assert_int_equal(export_all(stage), -EBADMSG);
    assert_non_null(strstr(stage->all_said, "t-0 is damaged behind offset"));
    check_text(stage, "t-0/00000000000000000000.log", "");
    check_text(stage, ".kafka_cleanshutdown", MARK);
}

static bool stop_at_once(const struct kq_export_state *state)
{
    return false;
}

static void who_stops_it_finds_what_was_there(void **state)
{
    struct stage *stage = *state;
    struct kq_export_result result;
    const struct kq_export_options options = {.target = stage->target, .show = stop_at_once};
    fill(stage, 1, 3);
    make_partition(stage, "t-0");
    uint32_t before = sum_of(stage);
    assert_int_equal(kq_export(stage->ground.broker, &options, &result), -EINTR);
    check_text(stage, "t-0/00000000000000000000.log", "");
    check_text(stage, ".kafka_cleanshutdown", MARK);
    put(stage, "recovery-point-offset-checkpoint", "0\n2\nother 0 77\nt 0 5\n");
    (void)before;
}

/* As Kafka does when it starts. */
static void remove_leftovers(struct stage *stage)
{
    glob_t found;
    if (glob(there(stage, "*-delete"), 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++)
            assert_int_equal(directory_remove(found.gl_pathv[i]), 0);
        globfree(&found);
    }
}

/* Whatever fails: the partition is the old or the new one, whole, and the mark tells a Kafka that
 * starts now either that all is well or to look. */
static void a_failure_leaves_one_or_the_other(void **state)
{
    struct stage *stage = *state;
    struct kq_export_result result;
    struct stat st;
    int64_t next;
    int r;
    fill(stage, 1, 3);
    make_partition(stage, "t-0");
    for (long nth = 1;; nth++) {
        remove_leftovers(stage);
        put(stage, ".kafka_cleanshutdown", MARK);
        put(stage, "t-0/00000000000000000000.log", "old");
        kq_fault_arm(KQ_FAULT_OPEN | KQ_FAULT_READ | KQ_FAULT_WRITE | KQ_FAULT_SYNC |
                         KQ_FAULT_RENAME | KQ_FAULT_MEMORY,
                     nth, ENOSPC, false);
        r = export_as(stage, "t", true, &result);
        if (!kq_fault_disarm())
            break;
        assert_int_equal(stat(there(stage, "t-0/00000000000000000000.log"), &st), 0);
        bool is_new = st.st_size > 3;
        if (is_new)
            assert_int_equal(count_batches(stage, "t-0/00000000000000000000.log", 0, &next), 3);
        if (r == 0)
            assert_true(is_new);
        check_text(stage, "t-0/partition.metadata", "version: 0\ntopic_id: " ID);
    }
    assert_int_equal(r, 0);
    assert_int_equal(count_batches(stage, "t-0/00000000000000000000.log", 0, &next), 3);
}

/* --- Commands, commits --- */

static void commands_make_the_topics_with_their_configurations(void **state)
{
    struct stage *stage = *state;
    char *text = NULL;
    size_t length;
    fill(stage, 2, 0);
    struct kq_topic *topic = ground_find(&stage->ground, "t");
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", "7"), 0);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "segment.ms", NULL), 0);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "key.separator", "="), 0);
    kq_topic_unref(topic);
    FILE *to = open_memstream(&text, &length);
    assert_int_equal(kq_export_commands(stage->ground.broker, NULL, 0, to), 0);
    fclose(to);
    assert_string_equal(text,
                        "kafka-topics.sh --bootstrap-server \"$BOOTSTRAP\" --create --topic t "
                        "--partitions 2 --replication-factor 1 --config 'retention.ms=7'\n");
    free(text);
}

/* A commit of version 3: offset 9, EPOCH, no metadata. */
static void add_commit(struct kq_batch_builder *builder, uint16_t key_version, int32_t epoch)
{
    uint8_t key[2], value[2 + 8 + 4 + 2 + 8] = {0};
    kq_store_be16(key, key_version);
    kq_store_be16(value, 3);
    kq_store_be64(value + 2, 9);
    kq_store_be32(value + 10, (uint32_t)epoch);
    assert_int_equal(kq_batch_add(builder, 1, key, sizeof(key), value, sizeof(value), NULL, 0, 0),
                     0);
}

static void commits_name_no_epoch_that_is_to_come(void **state)
{
    static const int32_t epochs[] = {0, 4, -1};
    kq_autobuf struct kq_buf batch = {0}, scratch = {0}, copy = {0};
    struct kq_batch_builder builder;
    struct kq_batch_header header, copied;
    struct kq_record_reader reader;
    struct kq_record record;
    assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
    for (size_t i = 0; i < 3; i++)
        add_commit(&builder, 1, epochs[i]);
    add_commit(&builder, 0x4b51, 4); /* ours, of a group's owner */
    add_commit(&builder, 2, 4);      /* of a group, not a commit */
    kq_batch_finish(&builder);
    kq_batch_patch(batch.data, 50, 0);
    assert_int_equal(kq_batch_header_read(batch.data, batch.length, &header), 0);
    assert_int_equal(kq_export_offsets(batch.data, &header, &scratch, &copy), 0);
    assert_int_equal(kq_batch_header_read(copy.data, copy.length, &copied), 0);
    assert_int_equal(kq_batch_check_crc(copy.data, &copied), 0);
    assert_int_equal(copied.base_offset, 50);
    assert_int_equal(copied.last_offset_delta, 4);
    assert_int_equal(copied.record_count, 4);
    assert_int_equal(kq_record_reader_open(&reader, copy.data, &copied, 1 << 20, &scratch), 0);
    static const int32_t wanted[] = {0, -1, -1, 4};
    static const int64_t offsets[] = {50, 51, 52, 54};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(kq_record_next(&reader, &record), 0);
        assert_int_equal(record.offset, offsets[i]);
        assert_int_equal((int32_t)kq_load_be32(record.value + 10), wanted[i]);
    }
}

static void a_batch_that_needs_no_change_stays(void **state)
{
    kq_autobuf struct kq_buf batch = {0}, scratch = {0}, copy = {0};
    struct kq_batch_builder builder;
    struct kq_batch_header header;
    assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
    add_commit(&builder, 1, 0);
    kq_batch_finish(&builder);
    assert_int_equal(kq_batch_header_read(batch.data, batch.length, &header), 0);
    assert_int_equal(kq_export_offsets(batch.data, &header, &scratch, &copy), KQ_READY);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_log_is_there_as_kafka_writes_it),
        TEST(indexes_lead_to_batches),
        TEST(segments_begin_where_they_did),
        TEST(a_log_without_messages_keeps_its_end),
        TEST(producers_of_kafkas_own_stay_behind),
        TEST(what_is_in_the_way_is_told_and_nothing_changes),
        TEST(a_directory_that_is_none_or_in_use_is_refused),
        TEST(what_is_there_is_replaced_only_where_that_is_asked_for),
        TEST(a_damaged_batch_is_not_exported),
        TEST(who_stops_it_finds_what_was_there),
        TEST(a_failure_leaves_one_or_the_other),
        TEST(commands_make_the_topics_with_their_configurations),
        cmocka_unit_test(commits_name_no_epoch_that_is_to_come),
        cmocka_unit_test(a_batch_that_needs_no_change_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
