#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fs/produce.h"

/* --- A topic behind the door's prototypes --- */

#define PARTITIONS 4

struct kq_partition {
    struct kq_buf text; /* of what was appended: key=value| for each message */
    int batches, error; /* of the next append */
    int64_t reserved;
    bool denied;
};

static struct {
    struct kq_partition partitions[PARTITIONS];
    int32_t count;
    struct kq_topic_config config;
    int reserve_error;
    bool must_sync;
} topic;

void kq_topic_config(struct kq_topic *unused, struct kq_topic_config *ret)
{
    *ret = topic.config;
}

int32_t kq_topic_partition_count(const struct kq_topic *unused)
{
    return topic.count;
}

const char *kq_topic_name(const struct kq_topic *unused)
{
    return "topic";
}

bool kq_topic_name_valid(const char *name)
{
    return true;
}

struct kq_group_file;
void kq_group_file_free(struct kq_group_file *file);

void kq_group_file_free(struct kq_group_file *file)
{
}

bool kq_topic_is_internal(const char *name)
{
    return false;
}

int kq_partition_get(struct kq_topic *unused, int32_t number, struct kq_partition **ret)
{
    *ret = &topic.partitions[number];
    return 0;
}

struct kq_partition *kq_partition_ref(struct kq_partition *partition)
{
    return partition;
}

void kq_partition_unref(struct kq_partition *partition)
{
}

int kq_partition_access(struct kq_partition *partition, const struct kq_caller *caller,
                        unsigned rights, struct kq_access *ret)
{
    assert_false(caller->kernel_checked);
    if (partition->denied)
        return -EACCES;
    *ret = (struct kq_access){.partition = partition, .rights = rights};
    return 0;
}

int kq_reserve(const struct kq_access *access, int64_t delta)
{
    if (delta > 0 && topic.reserve_error)
        return topic.reserve_error;
    access->partition->reserved += delta;
    return 0;
}

int kq_append(const struct kq_access *access, const struct kq_log_append *append,
              struct kq_log_appended *ret)
{
    struct kq_partition *partition = access->partition;
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    assert_true(access->rights & KQ_RIGHT_WRITE);
    if (partition->error)
        return partition->error;
    assert_int_equal(kq_batch_header_read(append->bytes, append->length, &header), 0);
    assert_int_equal(header.size, append->length);
    assert_int_equal(kq_batch_check_crc(append->bytes, &header), 0);
    kq_record_reader_open(&reader, append->bytes, &header, 0, NULL);
    while (kq_record_next(&reader, &record) == 0) {
        if (record.key)
            kq_buf_printf(&partition->text, "%.*s=", record.key_length, record.key);
        kq_buf_printf(&partition->text, "%.*s|", record.value_length, record.value);
    }
    partition->batches++;
    partition->reserved -= append->unreserve;
    *ret = (struct kq_log_appended){0};
    return topic.must_sync ? KQ_MUST_SYNC : 0;
}

/* --- The rest of fs/ --- */

static int released;

int kq_fspart_get(struct kq_nodes *nodes, struct kq_partition *partition, struct kq_fspart **ret)
{
    static struct kq_fspart parts[PARTITIONS];
    *ret = &parts[partition - topic.partitions];
    return 0;
}

struct kq_fspart *kq_fspart_ref(struct kq_fspart *part)
{
    atomic_fetch_add(&part->references, 1);
    return part;
}

void kq_fspart_unref(struct kq_nodes *nodes, struct kq_fspart *part)
{
    atomic_fetch_sub(&part->references, 1);
}

void kq_handles_released(struct kq_handles *handles, struct kq_fspart *part)
{
    atomic_fetch_sub(&part->releasing, 1);
    released++;
}

/* --- The tests' own --- */

static struct kq_fs fs;
static struct kq_handles handles;
static struct kq_fspart part;
static struct kq_handle handle;
static struct kq_producer *producer;
static const struct kq_caller caller = {.uid = 1, .gid = 1, .kernel_checked = true};

static void open_view(enum kq_view view)
{
    kq_producer_free(producer);
    producer = NULL;
    handle = (struct kq_handle){.fs = &fs, .view = view, .row = kq_view_row(view)};
    handle.access = (struct kq_access){.partition = &topic.partitions[0], .rights = KQ_RIGHT_WRITE};
    handle.part = view == KQ_VIEW_APPEND ? NULL : &part;
    assert_int_equal(kq_producer_new(&handle, &caller, &producer), 0);
}

static int set_up(void **state)
{
    memset(&topic, 0, sizeof(topic));
    topic.count = 1;
    topic.config.max_message_bytes = 1000;
    topic.config.text =
        (struct kq_rendering){.framing = KQ_FRAMING_LINE, .delimiter_length = 1, .delimiter = "\n"};
    handles = (struct kq_handles){.fs = &fs};
    fs = (struct kq_fs){.handles = &handles,
                        .options = {.max_pending_bytes = 100000, .max_write = 1 << 20}};
    part = (struct kq_fspart){.partition = &topic.partitions[0]};
    released = 0;
    open_view(KQ_VIEW_TEXT);
    return 0;
}

static int tear_down(void **state)
{
    kq_producer_free(producer);
    producer = NULL;
    assert_int_equal(atomic_load(&handles.pending_bytes), 0);
    assert_int_equal(part.references, 0);
    assert_int_equal(part.flushed_pending, 0);
    assert_int_equal(part.releasing, 0);
    for (int i = 0; i < PARTITIONS; i++) {
        assert_int_equal(topic.partitions[i].reserved, 0);
        kq_buf_release(&topic.partitions[i].text);
    }
    return 0;
}

static int put(const char *bytes)
{
    return kq_produce(producer, bytes, strlen(bytes));
}

static void expect_text(int number, const char *text)
{
    const struct kq_buf *got = &topic.partitions[number].text;
    assert_int_equal(got->length, strlen(text));
    if (*text)
        assert_memory_equal(got->data, text, strlen(text));
}

static void whole_lines_of_a_request_are_one_batch(void **state)
{
    assert_int_equal(put("a\nb\nc\n"), 0);
    expect_text(0, "a|b|c|");
    assert_int_equal(topic.partitions[0].batches, 1);
    assert_int_equal(topic.partitions[0].reserved, 0);
}

static void a_half_line_waits_for_its_rest(void **state)
{
    assert_int_equal(put("a\nb"), 0);
    expect_text(0, "a|");
    assert_true(topic.partitions[0].reserved > 0);
    assert_int_equal(atomic_load(&handles.pending_bytes), 1);
    assert_int_equal(put("c\n"), 0);
    expect_text(0, "a|bc|");
    assert_int_equal(atomic_load(&handles.pending_bytes), 0);
}

static void a_half_line_becomes_a_message_at_the_close(void **state)
{
    assert_int_equal(put("foo"), 0);
    expect_text(0, "");
    assert_int_equal(kq_produce_finish(producer), 0);
    expect_text(0, "foo|");
    assert_int_equal(topic.partitions[0].reserved, 0);
    assert_int_equal(kq_produce_finish(producer), 0);
    expect_text(0, "foo|");
}

static void the_close_says_when_a_sync_is_due(void **state)
{
    topic.must_sync = true;
    assert_int_equal(put("a\nfoo"), KQ_MUST_SYNC);
    assert_int_equal(kq_produce_finish(producer), KQ_MUST_SYNC);
    assert_int_equal(kq_produce_finish(producer), 0);
}

static void lookers_hear_of_a_half_line_between_flush_and_release(void **state)
{
    put("foo");
    assert_int_equal(part.flushed_pending, 0);
    kq_produce_flush(producer);
    assert_int_equal(part.flushed_pending, 1);
    kq_produce_announce(producer);
    assert_int_equal(part.releasing, 1);
    kq_produce_finish(producer);
    assert_int_equal(part.releasing, 0);
    assert_int_equal(part.flushed_pending, 0);
    assert_int_equal(released, 1);
}

static void a_write_after_flush_takes_the_mark_back(void **state)
{
    put("foo");
    kq_produce_flush(producer);
    kq_produce_flush(producer);
    assert_int_equal(part.flushed_pending, 1);
    put("bar\n");
    assert_int_equal(part.flushed_pending, 0);
    kq_produce_flush(producer);
    assert_int_equal(part.flushed_pending, 0);
    kq_produce_announce(producer);
    assert_int_equal(part.releasing, 0);
}

static void after_a_failed_append_the_input_is_dropped_up_to_the_next_delimiter(void **state)
{
    put("ha");
    topic.partitions[0].error = -ENOSPC;
    assert_int_equal(put("lf\nwhole\ncu"), -ENOSPC);
    assert_int_equal(atomic_load(&handles.pending_bytes), 0);
    topic.partitions[0].error = 0;
    assert_int_equal(put("t\nnext\n"), 0);
    expect_text(0, "next|");
}

static void without_disk_for_a_half_line_nothing_of_the_request_is_kept(void **state)
{
    topic.reserve_error = -ENOSPC;
    assert_int_equal(put("a\nb"), -ENOSPC);
    expect_text(0, "");
    topic.reserve_error = 0;
    assert_int_equal(put("\nc\n"), 0);
    expect_text(0, "c|");
}

static void half_lines_of_all_files_share_one_limit(void **state)
{
    struct kq_producer *first = producer;
    fs.options.max_pending_bytes = 10;
    assert_int_equal(put("12345678"), 0);
    producer = NULL;
    open_view(KQ_VIEW_TEXT);
    assert_int_equal(put("123"), -ENOBUFS);
    assert_int_equal(atomic_load(&handles.pending_bytes), 8);
    kq_producer_free(first);
    assert_int_equal(put("\n123"), 0);
    assert_int_equal(atomic_load(&handles.pending_bytes), 3);
}

static void too_long_a_message_leaves_nothing_of_its_request(void **state)
{
    char line[2000];
    memset(line, 'x', sizeof(line));
    memcpy(line, "a\n", 2);
    line[1999] = 0;
    assert_int_equal(put(line), -EMSGSIZE);
    expect_text(0, "");
}

static void framing_write_refuses_what_may_be_a_fragment(void **state)
{
    static char bytes[1 << 20];
    topic.config.text.framing = KQ_FRAMING_WRITE;
    topic.config.max_message_bytes = 10 << 20;
    assert_int_equal(kq_produce(producer, bytes, (1 << 20) - 4096), -EMSGSIZE);
    assert_int_equal(topic.partitions[0].batches, 0);
    assert_int_equal(kq_produce(producer, bytes, (1 << 20) - 4097), 0);
    assert_int_equal(topic.partitions[0].batches, 1);
}

static void json_lines_bring_their_keys(void **state)
{
    open_view(KQ_VIEW_JSONL);
    assert_int_equal(put("{\"key\":\"k\",\"value\":\"v\"}\n{\"value\":\"w\"}\n"), 0);
    expect_text(0, "k=v|w|");
    assert_int_equal(put("{\"value\":\"x\"}\n{\"valu\":1}\n"), -EINVAL);
    expect_text(0, "k=v|w|");
}

static void append_keeps_to_partitions_the_caller_may_write(void **state)
{
    topic.count = 3;
    topic.partitions[0].denied = topic.partitions[2].denied = true;
    open_view(KQ_VIEW_APPEND);
    char line[1001];
    memset(line, 'x', sizeof(line));
    line[900] = '\n';
    for (int i = 0; i < 100; i++)
        assert_int_equal(kq_produce(producer, line, 901), 0);
    assert_int_equal(topic.partitions[1].batches, 100);
}

static void append_is_refused_where_no_partition_may_be_written(void **state)
{
    topic.partitions[0].denied = true;
    handle.part = NULL;
    struct kq_producer *none;
    assert_int_equal(kq_producer_new(&handle, &caller, &none), -EACCES);
}

static void append_keeps_a_key_to_one_partition_in_order(void **state)
{
    topic.count = PARTITIONS;
    topic.config.text.separator_length = 1;
    topic.config.text.separator[0] = ':';
    open_view(KQ_VIEW_APPEND);
    for (int i = 0; i < 3; i++)
        assert_int_equal(put("a:1\nb:2\nc:3\na:4\nd:5\ne:6\na:7\n"), 0);
    int batches = 0;
    for (int i = 0; i < PARTITIONS; i++) {
        const struct kq_buf *text = &topic.partitions[i].text;
        const uint8_t *end = text->length ? text->data + text->length : NULL;
        const uint8_t *a = text->length ? memmem(text->data, text->length, "a=1|", 4) : NULL;
        batches += topic.partitions[i].batches;
        for (int n = 0; a && n < 3; n++) { /* in each of the three requests, in order */
            a = memmem(a, (size_t)(end - a), "a=1|", 4);
            assert_non_null(a);
            a = memmem(a, (size_t)(end - a), "a=4|", 4);
            assert_non_null(a);
            a = memmem(a, (size_t)(end - a), "a=7|", 4);
            assert_non_null(a);
        }
    }
    assert_true(batches > 3);
    assert_true(batches <= 3 * PARTITIONS);
}

static void a_denied_key_leaves_nothing_of_its_request(void **state)
{
    topic.count = 2;
    topic.partitions[1].denied = true;
    topic.config.text.separator_length = 1;
    topic.config.text.separator[0] = ':';
    open_view(KQ_VIEW_APPEND);
    assert_int_equal(put("a:1\nb:1\nc:1\nd:1\ne:1\nf:1\ng:1\nh:1\n"), -EACCES);
    expect_text(0, "");
}

static void what_was_written_to_is_what_fsync_covers(void **state)
{
    struct kq_partition *written[PARTITIONS];
    assert_int_equal(kq_produce_written(producer, written, PARTITIONS), 0);
    put("a\n");
    put("b\n");
    assert_int_equal(kq_produce_written(producer, written, PARTITIONS), 1);
    assert_ptr_equal(written[0], &topic.partitions[0]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(whole_lines_of_a_request_are_one_batch),
        TEST(a_half_line_waits_for_its_rest),
        TEST(a_half_line_becomes_a_message_at_the_close),
        TEST(the_close_says_when_a_sync_is_due),
        TEST(lookers_hear_of_a_half_line_between_flush_and_release),
        TEST(a_write_after_flush_takes_the_mark_back),
        TEST(after_a_failed_append_the_input_is_dropped_up_to_the_next_delimiter),
        TEST(without_disk_for_a_half_line_nothing_of_the_request_is_kept),
        TEST(half_lines_of_all_files_share_one_limit),
        TEST(too_long_a_message_leaves_nothing_of_its_request),
        TEST(framing_write_refuses_what_may_be_a_fragment),
        TEST(json_lines_bring_their_keys),
        TEST(append_keeps_to_partitions_the_caller_may_write),
        TEST(append_is_refused_where_no_partition_may_be_written),
        TEST(append_keeps_a_key_to_one_partition_in_order),
        TEST(a_denied_key_leaves_nothing_of_its_request),
        TEST(what_was_written_to_is_what_fsync_covers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
