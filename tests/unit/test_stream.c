#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <poll.h>
#include <stdio.h>

#include "fakelog.h"
#include "fs/handle.h"
#include "fs/stream.h"

/* --- libfuse and the rest of fs/, as far as streams use them --- */

struct fuse_req {
    int answers, error;
    struct kq_buf bytes;
    fuse_interrupt_func_t interrupt;
    void *argument;
    bool interrupted; /* before it could be parked */
};

static struct fuse_pollhandle *notified, *destroyed;

int fuse_reply_buf(fuse_req_t req, const char *bytes, size_t length)
{
    req->answers++;
    return kq_buf_append(&req->bytes, bytes, length);
}

int fuse_reply_err(fuse_req_t req, int error)
{
    req->answers++;
    req->error = error;
    return 0;
}

void fuse_req_interrupt_func(fuse_req_t req, fuse_interrupt_func_t interrupt, void *argument)
{
    req->interrupt = interrupt;
    req->argument = argument;
    if (req->interrupted && interrupt)
        interrupt(req, argument);
}

void fuse_pollhandle_destroy(struct fuse_pollhandle *ph)
{
    destroyed = ph;
}

void kq_notify_poll(struct kq_fs *fs, struct fuse_pollhandle *ph)
{
    notified = ph;
}

int kq_fs_errno(int r)
{
    return -r;
}

static int offloaded;

bool kq_fs_offload(fuse_req_t req, void (*run)(fuse_req_t req, void *argument), void *argument,
                   size_t copy)
{
    offloaded++;
    run(req, argument);
    return true;
}

/* --- The tests' own --- */

static struct kq_fs fs;
static struct kq_handles handles;
static struct kq_fspart part;
static struct kq_handle handle;
static struct kq_stream *stream;
static struct fuse_req req;

static void open_stream(enum kq_view view, int64_t offset)
{
    kq_stream_free(stream);
    handle = (struct kq_handle){.fs = &fs, .view = view, .row = kq_view_row(view), .part = &part};
    handle.access = fake_access();
    part.partition = handle.access.partition;
    assert_int_equal(kq_stream_new(&handle, offset, &stream), 0);
}

static int set_up(void **state)
{
    fake_open();
    handles = (struct kq_handles){.fs = &fs};
    pthread_mutex_init(&handles.lock, NULL);
    LIST_INIT(&handles.parked);
    fs.handles = &handles;
    assert_int_equal(kq_pool_new("test", 2, &fs.workers), 0);
    notified = destroyed = NULL;
    offloaded = 0;
    open_stream(KQ_VIEW_STREAM, 0);
    return 0;
}

static int tear_down(void **state)
{
    kq_stream_free(stream);
    stream = NULL;
    kq_pool_free(fs.workers);
    assert_null(fake_log.waiters);
    assert_true(LIST_EMPTY(&handles.parked));
    assert_int_equal(fake_log.held, 0);
    kq_buf_release(&req.bytes);
    req = (struct fuse_req){0};
    fake_close();
    return 0;
}

static void append(const char *line)
{
    struct fake_part value = {line, (int32_t)strlen(line)};
    fake_append(NULL, &value, 1, KQ_CODEC_NONE);
}

static void read_stream(size_t size, bool nonblock)
{
    kq_buf_release(&req.bytes);
    req = (struct fuse_req){.interrupted = req.interrupted};
    kq_stream_read(&req, stream, size, nonblock);
}

static void expect_answer(const char *bytes)
{
    assert_int_equal(req.answers, 1);
    assert_int_equal(req.error, 0);
    assert_int_equal(req.bytes.length, strlen(bytes));
    if (*bytes)
        assert_memory_equal(req.bytes.data, bytes, strlen(bytes));
}

static void expect_error(int error)
{
    assert_int_equal(req.answers, 1);
    assert_int_equal(req.error, error);
}

static void what_is_there_is_handed_over_at_once_in_any_pieces(void **state)
{
    append("hello");
    append("world");
    read_stream(3, false);
    expect_answer("hel");
    read_stream(7, false);
    expect_answer("lo\nworl");
    read_stream(100, false);
    expect_answer("d\n");
}

static void a_reader_at_the_end_waits_for_the_append(void **state)
{
    read_stream(100, false);
    assert_int_equal(req.answers, 0);
    append("one");
    fake_wake(KQ_WAKE_DATA);
    expect_answer("one\n");
    read_stream(100, false);
    assert_int_equal(req.answers, 0);
    append("two");
    fake_wake(KQ_WAKE_DATA);
    expect_answer("two\n");
}

static void a_batch_without_text_wakes_nobody_for_good(void **state)
{
    read_stream(100, false);
    fake_append_control();
    fake_wake(KQ_WAKE_DATA);
    assert_int_equal(req.answers, 0);
    append("one");
    fake_wake(KQ_WAKE_DATA);
    expect_answer("one\n");
}

static void who_may_not_wait_gets_eagain(void **state)
{
    read_stream(100, true);
    expect_error(EAGAIN);
    append("one");
    read_stream(100, true);
    expect_answer("one\n");
}

static void an_interrupt_ends_the_wait(void **state)
{
    read_stream(100, false);
    req.interrupt(&req, req.argument);
    expect_error(EINTR);
    append("one");
    fake_wake(KQ_WAKE_DATA);
    expect_error(EINTR);
    read_stream(100, false);
    expect_answer("one\n");
}

static void an_interrupt_that_came_before_the_wait_ends_it_too(void **state)
{
    req.interrupted = true;
    read_stream(100, false);
    expect_error(EINTR);
    req.interrupted = false;
}

static void a_deleted_topic_ends_the_stream(void **state)
{
    read_stream(100, false);
    fake_log.deleted = true;
    fake_wake(KQ_WAKE_GONE);
    expect_answer("");
    read_stream(100, false);
    expect_answer("");
}

static void the_end_of_the_mount_answers_all_and_parks_no_more(void **state)
{
    struct fuse_req many[20] = {0};
    struct fuse_pollhandle *ph = (void *)&many[0];
    for (int i = 0; i < 20; i++)
        kq_stream_read(&many[i], stream, 100, false);
    assert_int_equal(kq_stream_poll(stream, ph), 0);
    kq_handles_unpark_all(&handles);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(many[i].answers, 1);
        assert_int_equal(many[i].error, 0);
    }
    assert_ptr_equal(notified, ph);
    read_stream(100, false);
    expect_answer("");
}

static void what_retention_took_is_stale_once(void **state)
{
    append("one");
    append("two");
    append("three");
    read_stream(2, false);
    expect_answer("on");
    fake_retain(2);
    read_stream(100, false);
    expect_error(ESTALE);
    read_stream(100, false);
    expect_answer("three\n");
}

static void damage_is_an_error_once_and_the_stream_goes_on_behind_it(void **state)
{
    append("one");
    append("two");
    fake_damage(61 + 5, 0x7e); /* the length of its value */
    append("three");
    read_stream(100, false);
    expect_answer("one\n");
    read_stream(100, false);
    expect_error(EBADMSG);
    read_stream(100, false);
    expect_answer("three\n");
}

static void a_flipped_bit_in_a_value_is_an_error_once_and_nothing_of_the_batch_is_given(
    void **state)
{
    struct fake_part values[2] = {{"two", 3}, {"zwei", 4}};
    append("one");
    fake_append(NULL, values, 2, KQ_CODEC_NONE);
    fake_damage(61 + 15, 'Z'); /* in the second one's */
    append("three");
    read_stream(100, false);
    expect_answer("one\n");
    read_stream(100, false);
    expect_error(EBADMSG);
    read_stream(100, false);
    expect_answer("three\n");
    read_stream(100, true);
    expect_error(EAGAIN);
}

static void offsets_that_a_damaged_batch_claims_hide_nothing_behind_it(void **state)
{
    append("one");
    append("two");
    fake_damage(26, 2); /* as if it ended with an offset two later */
    append("three");
    append("four");
    append("five");
    read_stream(100, false);
    expect_answer("one\n");
    read_stream(100, false);
    expect_error(EBADMSG);
    read_stream(100, false);
    expect_answer("three\nfour\nfive\n");
}

static void a_header_that_cannot_be_read_is_an_error_once(void **state)
{
    const int places[] = {6, 10, 16}; /* base offset, length, magic */
    for (size_t i = 0; i < kq_array_size(places); i++) {
        append("one");
        append("two");
        fake_damage(places[i], 0xf0);
        append("three");
        append("four");
        read_stream(100, false);
        expect_answer("one\n");
        read_stream(100, false);
        expect_error(EBADMSG);
        read_stream(100, false);
        expect_answer("three\nfour\n");
    }
}

static void damage_at_the_end_is_passed_when_more_is_appended(void **state)
{
    append("one");
    fake_damage(61 + 7, 'X');
    read_stream(100, false);
    expect_error(EBADMSG);
    read_stream(100, false);
    assert_int_equal(req.answers, 0);
    append("two");
    fake_wake(KQ_WAKE_DATA);
    expect_answer("two\n");
}

static void a_control_batch_that_is_damaged_is_not_passed_over_in_silence(void **state)
{
    append("one");
    append("two");
    fake_damage(22, KQ_ATTRIBUTE_CONTROL);
    append("three");
    read_stream(100, false);
    expect_answer("one\n");
    read_stream(100, false);
    expect_error(EBADMSG);
    read_stream(100, false);
    expect_answer("three\n");
}

static void many_streams_of_the_same_messages_cost_one_checksum_each(void **state)
{
    append("one");
    append("two");
    for (int i = 0; i < 5; i++) {
        open_stream(i % 2 ? KQ_VIEW_JSONL_STREAM : KQ_VIEW_STREAM, 0);
        read_stream(1000, false);
        assert_int_equal(req.answers, 1);
    }
    assert_int_equal(fake_log.verified, 2);
}

static void a_read_that_the_cache_cannot_serve_goes_to_a_worker(void **state)
{
    append("one");
    fake_log.cold = true;
    read_stream(100, false);
    assert_int_equal(offloaded, 1);
    expect_answer("one\n");
}

static void many_readers_of_one_append_are_all_served(void **state)
{
    enum { READERS = 50 };
    struct kq_stream *streams[READERS];
    struct fuse_req many[READERS] = {0};
    for (int i = 0; i < READERS; i++) {
        assert_int_equal(kq_stream_new(&handle, 0, &streams[i]), 0);
        kq_stream_read(&many[i], streams[i], 100, false);
    }
    append("one");
    fake_wake(KQ_WAKE_DATA);
    kq_pool_free(fs.workers); /* runs what is queued */
    for (int i = 0; i < READERS; i++) {
        assert_int_equal(many[i].answers, 1);
        assert_int_equal(many[i].bytes.length, 4);
        kq_buf_release(&many[i].bytes);
        kq_stream_free(streams[i]);
    }
    assert_int_equal(kq_pool_new("test", 2, &fs.workers), 0);
}

static void json_lines_stream_in_any_pieces(void **state)
{
    char whole[1000] = "";
    size_t length = 0;
    open_stream(KQ_VIEW_JSONL_STREAM, 0);
    append("one");
    append("two");
    for (;;) {
        read_stream(7, true);
        if (req.error)
            break;
        memcpy(whole + length, req.bytes.data, req.bytes.length);
        length += req.bytes.length;
    }
    expect_error(EAGAIN);
    assert_non_null(strstr(whole, "\"value\":\"one\"}\n{\"offset\":1,"));
    assert_int_equal(whole[length - 1], '\n');
}

static void poll_tells_of_what_is_there_and_of_the_next_message(void **state)
{
    struct fuse_pollhandle *first = (void *)&part, *second = (void *)&handle;
    assert_int_equal(kq_stream_poll(stream, NULL), 0);
    assert_int_equal(kq_stream_poll(stream, first), 0);
    append("one");
    fake_wake(KQ_WAKE_DATA);
    assert_ptr_equal(notified, first);
    /* Edge-triggered: who is told that there is something hears of the next all the same. */
    assert_true(kq_stream_poll(stream, second) & POLLIN);
    append("two");
    fake_wake(KQ_WAKE_DATA);
    assert_ptr_equal(notified, second);
    read_stream(100, false);
    assert_int_equal(kq_stream_poll(stream, NULL), 0);
}

static void a_poll_is_given_up_by_the_next_and_by_the_close(void **state)
{
    struct fuse_pollhandle *first = (void *)&part, *second = (void *)&handle;
    kq_stream_poll(stream, first);
    kq_stream_poll(stream, second);
    assert_ptr_equal(destroyed, first);
    kq_stream_free(stream);
    stream = NULL;
    assert_ptr_equal(destroyed, second);
    assert_null(fake_log.waiters);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_is_there_is_handed_over_at_once_in_any_pieces),
        TEST(a_reader_at_the_end_waits_for_the_append),
        TEST(a_batch_without_text_wakes_nobody_for_good),
        TEST(who_may_not_wait_gets_eagain),
        TEST(an_interrupt_ends_the_wait),
        TEST(an_interrupt_that_came_before_the_wait_ends_it_too),
        TEST(a_deleted_topic_ends_the_stream),
        TEST(the_end_of_the_mount_answers_all_and_parks_no_more),
        TEST(what_retention_took_is_stale_once),
        TEST(damage_is_an_error_once_and_the_stream_goes_on_behind_it),
        TEST(a_flipped_bit_in_a_value_is_an_error_once_and_nothing_of_the_batch_is_given),
        TEST(offsets_that_a_damaged_batch_claims_hide_nothing_behind_it),
        TEST(a_header_that_cannot_be_read_is_an_error_once),
        TEST(damage_at_the_end_is_passed_when_more_is_appended),
        TEST(a_control_batch_that_is_damaged_is_not_passed_over_in_silence),
        TEST(many_streams_of_the_same_messages_cost_one_checksum_each),
        TEST(a_read_that_the_cache_cannot_serve_goes_to_a_worker),
        TEST(many_readers_of_one_append_are_all_served),
        TEST(json_lines_stream_in_any_pieces),
        TEST(poll_tells_of_what_is_there_and_of_the_next_message),
        TEST(a_poll_is_given_up_by_the_next_and_by_the_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
