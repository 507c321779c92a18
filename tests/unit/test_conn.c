/* What a connection does with requests: frames, order, answers that come later, its end. */
#include "tests/unit/net_kit.h"

static int setup(void **state)
{
    static struct kit fresh;
    kit_setup(&fresh);
    return 0;
}

static int teardown(void **state)
{
    kit_end();
    return 0;
}

static void finish_one(void)
{
    struct kq_request *request;
    kit_until((request = kit_take()));
    kit_answer(request);
    kq_request_done(request);
}

/* --- Frames --- */

static void a_request_is_answered(void **state)
{
    kit_start();
    int over_unix = kit_connect(), over_tcp = kit_connect_tcp();
    kit_ask(over_unix, "now", 7);
    kit_expect(over_unix, 7);
    kit_ask(over_tcp, "now", 8);
    kit_expect(over_tcp, 8);
    close(over_unix);
    close(over_tcp);
}

static void frames_split_at_every_byte_and_merged_are_the_same_requests(void **state)
{
    kq_autobuf struct kq_buf frames = {0};
    kit_heartbeat_frame(&frames, "now", 1);
    kit_heartbeat_frame(&frames, "offload", 2);
    kit_heartbeat_frame(&frames, "now", 3);
    kit_start();
    int fd = kit_connect();
    for (size_t cut = 0; cut <= frames.length; cut++) {
        kit_send(fd, frames.data, cut);
        kit_drained(fd);
        kit_send(fd, frames.data + cut, frames.length - cut);
        for (int32_t i = 1; i <= 3; i++)
            kit_expect(fd, i);
    }
    for (size_t i = 0; i < frames.length; i++) {
        kit_send(fd, frames.data + i, 1);
        kit_drained(fd);
    }
    for (int32_t i = 1; i <= 3; i++)
        kit_expect(fd, i);
    close(fd);
}

/* Metadata for COUNT topics of 30,000 bytes each: Produce would have as much. */
static void large_frame(struct kq_buf *frame, int32_t id, int32_t count)
{
    struct kq_wire_writer writer;
    char *word = malloc(30001);
    memset(word, 'x', 30000);
    word[30000] = '\0';
    kq_wire_writer_init(&writer, frame);
    kq_wire_write_int32(&writer, 2 + 2 + 4 + 2 + 4 + count * 30002);
    kq_wire_write_int16(&writer, 3);
    kq_wire_write_int16(&writer, 1);
    kq_wire_write_int32(&writer, id);
    kq_wire_write_int16(&writer, -1);
    kq_wire_write_int32(&writer, count);
    for (int32_t i = 0; i < count; i++)
        kq_wire_write_string(&writer, false, false, kq_str_of(word));
    free(word);
}

static void expect_large(int fd, int32_t id)
{
    uint8_t answer[20];
    assert_true(kit_receive(fd, answer, sizeof(answer)));
    assert_int_equal(kq_load_be32(answer + 4), id);
}

static void a_frame_larger_than_the_loops_buffer(void **state)
{
    kit_start();
    int fd = kit_connect_tcp();
    kq_autobuf struct kq_buf frame = {0};
    large_frame(&frame, 77, 30);
    for (int round = 0; round < 3; round++) {
        kit_send(fd, frame.data, frame.length);
        kit_ask(fd, "now", 5);
        expect_large(fd, 77);
        kit_expect(fd, 5);
    }
    close(fd);
}

#define LARGE_ONES 40

struct large_ones {
    int fd;
    struct kq_buf frames;
};

static void *send_large(void *context)
{
    struct large_ones *large = context;
    kit_send(large->fd, large->frames.data, large->frames.length);
    return NULL;
}

static void what_waits_behind_a_long_request_is_left_to_its_sender(void **state)
{
    kit_start();
    struct large_ones large = {.fd = kit_connect_tcp()};
    int other = kit_connect_tcp();
    pthread_t sender;
    uint64_t most = 0;
    kit_heartbeat_frame(&large.frames, "offload", 1);
    for (int32_t i = 0; i < LARGE_ONES; i++)
        large_frame(&large.frames, i + 2, 30);
    atomic_store(&kit_gate, true);
    pthread_create(&sender, NULL, send_large, &large);
    kit_until(atomic_load(&kit->server->queued_bytes) > 900000);
    for (int i = 0; i < 1000; i++) {
        kit_ask(other, "now", 3);
        kit_expect(other, 3);
        uint64_t queued = atomic_load(&kit->server->queued_bytes);
        most = queued > most ? queued : most;
    }
    atomic_store(&kit_gate, false);
    assert_true(most < UINT64_C(3) * 900000);
    kit_expect(large.fd, 1);
    for (int32_t i = 0; i < LARGE_ONES; i++)
        expect_large(large.fd, i + 2);
    pthread_join(sender, NULL);
    kq_buf_release(&large.frames);
    close(large.fd);
    close(other);
}

static void closed_after(const void *bytes, size_t length, enum kq_tally why)
{
    int fd = kit_connect(), other = kit_connect();
    uint64_t before = kit_tally(why);
    kit_ask(fd, "now", 1);
    kit_expect(fd, 1);
    kit_send(fd, bytes, length);
    kit_expect_closed(fd);
    assert_int_equal(kit_tally(why), before + 1);
    kit_ask(other, "now", 2);
    kit_expect(other, 2);
    close(fd);
    close(other);
}

#define CLOSED_AFTER(text, why) closed_after(text, sizeof(text) - 1, why)

static void what_is_no_request_ends_the_connection_and_no_other(void **state)
{
    kit_start();
    CLOSED_AFTER("\0\0\0\0", KQ_TALLY_MALFORMED);
    CLOSED_AFTER("\0\0\0\3abc", KQ_TALLY_MALFORMED);
    CLOSED_AFTER("\xff\xff\xff\xff", KQ_TALLY_TOO_LARGE);
    CLOSED_AFTER("\x7f\xff\xff\xff", KQ_TALLY_TOO_LARGE);
    CLOSED_AFTER("\0\x10\0\1", KQ_TALLY_TOO_LARGE); /* 1 MiB and one byte */
    CLOSED_AFTER("GET / HTTP/1.0\r\n\r\n", KQ_TALLY_TOO_LARGE);
    CLOSED_AFTER("\0\0\0\12\0\77\0\0\0\0\0\1\0\0", KQ_TALLY_UNSUPPORTED);   /* key 63 */
    CLOSED_AFTER("\0\0\0\13\0\14\0\5\0\0\0\1\0\0\0", KQ_TALLY_UNSUPPORTED); /* Heartbeat v5 */
    CLOSED_AFTER("\0\0\0\12\0\14\xff\xff\0\0\0\1\0\0", KQ_TALLY_UNSUPPORTED);
    CLOSED_AFTER("\0\0\0\12\0\14\0\0\0\0\0\1\0\0", KQ_TALLY_MALFORMED); /* no body */
    CLOSED_AFTER("\0\0\0\12\0\14\0\0\0\0\0\1\x7f\xff", KQ_TALLY_MALFORMED);
    kq_server_stop(kit->server);
    assert_int_equal(said_count, 3); /* once for each reason */
}

static void a_parsed_request_takes_no_more_memory_than_it_may(void **state)
{
    kit->options.max_request_memory = 65536;
    kit_start();
    kq_autobuf struct kq_buf frame = {0};
    struct kq_wire_writer writer;
    kq_wire_writer_init(&writer, &frame);
    kq_wire_write_int32(&writer, 2 + 2 + 4 + 2 + 4 + 20000 * 2);
    kq_wire_write_int16(&writer, 3);
    kq_wire_write_int16(&writer, 1);
    kq_wire_write_int32(&writer, 77);
    kq_wire_write_int16(&writer, -1);
    kq_wire_write_int32(&writer, 20000); /* empty names: 16 bytes each once parsed */
    for (int i = 0; i < 20000; i++)
        kq_wire_write_int16(&writer, 0);
    closed_after(frame.data, frame.length, KQ_TALLY_GREEDY);
}

static void an_unknown_version_of_api_versions_is_answered(void **state)
{
    static const char frame[] = "\0\0\0\13\0\22\0\143\0\0\0\5\xff\xff\0";
    uint8_t answer[4 + 4 + 2 + 4 + 4 * 6];
    kit_start();
    int fd = kit_connect();
    kit_send(fd, frame, sizeof(frame) - 1);
    assert_true(kit_receive(fd, answer, sizeof(answer)));
    assert_int_equal(kq_load_be32(answer), sizeof(answer) - 4);
    assert_int_equal(kq_load_be32(answer + 4), 5);
    assert_int_equal(kq_load_be16(answer + 8), 35);
    assert_int_equal(kq_load_be32(answer + 10), 4);
    kit_ask(fd, "now", 6);
    kit_expect(fd, 6);
    close(fd);
}

/* --- Order --- */

static void responses_leave_in_the_order_of_the_requests(void **state)
{
    kq_autobuf struct kq_buf frames = {0};
    kit_heartbeat_frame(&frames, "later", 1);
    kit_heartbeat_frame(&frames, "now", 2);
    kit_heartbeat_frame(&frames, "offload", 3);
    kit_heartbeat_frame(&frames, "silent", 4);
    kit_heartbeat_frame(&frames, "now", 5);
    kit_start();
    int fd = kit_connect();
    kit_send(fd, frames.data, frames.length);
    kit_until(kit_count_parked() == 1);
    int other = kit_connect();
    kit_ask(other, "now", 9);
    kit_expect(other, 9);
    assert_int_equal(atomic_load(&kit_ran), 2); /* none behind it has begun */
    assert_true(kit_is_silent(fd));
    finish_one();
    kit_expect(fd, 1);
    kit_expect(fd, 2);
    kit_expect(fd, 3);
    kit_expect(fd, 5);
    close(fd);
    close(other);
}

static void behind_a_parked_one_others_run_and_their_responses_wait(void **state)
{
    kq_autobuf struct kq_buf frames = {0};
    kit_heartbeat_frame(&frames, "park", 1);
    kit_heartbeat_frame(&frames, "now", 2);
    kit_heartbeat_frame(&frames, "offload, park", 3);
    kit_heartbeat_frame(&frames, "now", 4);
    kit_start();
    int fd = kit_connect();
    kit_send(fd, frames.data, frames.length);
    kit_until(atomic_load(&kit_ran) == 4);
    assert_true(kit_is_silent(fd));
    finish_one();
    kit_expect(fd, 1);
    kit_expect(fd, 2);
    finish_one();
    kit_expect(fd, 3);
    kit_expect(fd, 4);
    close(fd);
}

static void no_more_requests_of_a_connection_than_may_be_in_flight(void **state)
{
    kit->options.max_in_flight = 4;
    kit_start();
    int fd = kit_connect(), other = kit_connect();
    kq_autobuf struct kq_buf frames = {0};
    for (int32_t i = 0; i < 500; i++)
        kit_heartbeat_frame(&frames, i % 100 == 0 ? "park" : "now", i);
    kit_heartbeat_frame(&frames, "now", 500);
    kit_send(fd, frames.data, frames.length - 5); /* and a frame that is not whole */
    for (int32_t i = 0; i < 500; i++) {
        if (i % 100 == 0) {
            /* The parked one and three behind it, and the others' of the rounds before. */
            kit_until(atomic_load(&kit_ran) == i + 4 + i / 100);
            kit_ask(other, "now", 1);
            kit_expect(other, 1);
            assert_int_equal(atomic_load(&kit_ran), i + 4 + i / 100 + 1);
            assert_true(kit_is_silent(fd));
            finish_one();
        }
        kit_expect(fd, i);
    }
    kit_send(fd, frames.data + frames.length - 5, 5);
    kit_expect(fd, 500);
    assert_true(kit_tally(KQ_TALLY_IN_FLIGHT) >= 5);
    close(fd);
    close(other);
}

/* --- Waking --- */

static void *post_often(void *argument)
{
    for (int i = 0; i < 5000; i++)
        kq_request_post(argument, kit_look_again);
    return NULL;
}

static void wake_ups_from_many_threads_are_merged(void **state)
{
    pthread_t threads[4];
    kit_start();
    int fd = kit_connect();
    for (int round = 0; round < 5; round++) {
        struct kq_request *request;
        atomic_store(&kit_gate, true);
        kit_ask(fd, "park", 3);
        kit_until((request = kit_take()));
        for (int i = 0; i < 4; i++)
            pthread_create(&threads[i], NULL, post_often, request);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        assert_true(kit_is_silent(fd));
        atomic_store(&kit_gate, false);
        kq_request_post(request, kit_look_again);
        kit_expect(fd, 3);
    }
    assert_in_range(atomic_load(&kit_posted), 5, 100005);
    close(fd);
}

struct clocked {
    struct kq_timer timer;
    struct kq_request *request;
};

static void ring(struct kq_timer *timer)
{
    struct clocked *clocked = (struct clocked *)timer;
    kit_answer(clocked->request);
    kq_request_done(clocked->request);
}

static struct clocked clocked;

static enum kq_handled wait_a_moment(struct kq_request *request)
{
    clocked = (struct clocked){.timer.expire = ring, .request = request};
    kq_request_set_timer(request, &clocked.timer, kq_clock_mono_ns() + 20000000);
    return KQ_HANDLED_PARKED;
}

static void a_deadline_of_a_request_comes_on_its_loop(void **state)
{
    struct kq_request *request;
    kit_start();
    int fd = kit_connect();
    int64_t before = kq_clock_mono_ns();
    kit_ask(fd, "park", 3);
    kit_until((request = kit_take()));
    kq_request_post(request, wait_a_moment);
    kit_expect(fd, 3);
    assert_true(kq_clock_mono_ns() - before >= 20000000);
    close(fd);
}

/* --- Its end --- */

static void a_half_closed_client_gets_all_its_answers(void **state)
{
    kit->options.max_in_flight = 4;
    kit_start();
    for (int over_tcp = 0; over_tcp < 2; over_tcp++) {
        int fd = over_tcp ? kit_connect_tcp() : kit_connect();
        kq_autobuf struct kq_buf frames = {0};
        kit_heartbeat_frame(&frames, "later", 0);
        kit_heartbeat_frame(&frames, "offload", 1);
        kit_heartbeat_frame(&frames, "park", 2);
        for (int32_t i = 3; i < 50; i++)
            kit_heartbeat_frame(&frames, "now", i);
        kit_heartbeat_frame(&frames, "now", 50);
        kit_send(fd, frames.data, frames.length - 3); /* the last one is never whole */
        shutdown(fd, SHUT_WR);
        finish_one();
        finish_one();
        for (int32_t i = 0; i < 50; i++)
            kit_expect(fd, i);
        kit_expect_closed(fd);
        close(fd);
    }
    kit_until(kq_admit_count(kit->server->admit) == 0);
    assert_int_equal(kit_tally(KQ_TALLY_BY_PEER), 2);
    assert_int_equal(atomic_load(&kit_cancelled), 0);
}

static void a_half_closed_client_does_not_wait_for_ever(void **state)
{
    kit->options.drain_ms = 20;
    kit_start();
    int fd = kit_connect();
    kit_ask(fd, "park", 0);
    shutdown(fd, SHUT_WR);
    kit_expect_closed(fd);
    kit_until(kq_admit_count(kit->server->admit) == 0);
    assert_int_equal(atomic_load(&kit_cancelled), 1);
    assert_int_equal(kit_tally(KQ_TALLY_UNDRAINED), 1);
    close(fd);
}

static void reset(int fd)
{
    struct linger linger = {.l_onoff = 1};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    close(fd);
}

static void what_a_closed_connection_waited_for_is_cancelled_once(void **state)
{
    kit_start();
    int fd = kit_connect_tcp();
    kq_autobuf struct kq_buf frames = {0};
    kit_heartbeat_frame(&frames, "park", 0);
    kit_heartbeat_frame(&frames, "now", 1);
    kit_heartbeat_frame(&frames, "later", 2);
    kit_heartbeat_frame(&frames, "now", 3);
    kit_heartbeat_frame(&frames, "now", 4);
    kit_send(fd, frames.data, frames.length);
    kit_until(kit_count_parked() == 2);
    reset(fd);
    kit_until(kq_admit_count(kit->server->admit) == 0);
    assert_int_equal(atomic_load(&kit_cancelled), 2);
    assert_int_equal(atomic_load(&kit_ran), 3);
    assert_int_equal(atomic_load(&kit_released), 3);
}

static void what_runs_elsewhere_is_not_cancelled_before_it_has_returned(void **state)
{
    static const char *const works[] = {"offload", "offload, park"};
    kit_start();
    for (int i = 0; i < 2; i++) {
        int fd = kit_connect_tcp();
        atomic_store(&kit_ran, 0);
        atomic_store(&kit_gate, true);
        kit_ask(fd, works[i], 1);
        kit_until(atomic_load(&kit_ran) == 1);
        reset(fd);
        kit_until(kit_tally(KQ_TALLY_BY_PEER) == (uint64_t)i + 1);
        assert_int_equal(atomic_load(&kit_cancelled), 0);
        assert_int_equal(kq_admit_count(kit->server->admit), 1);
        atomic_store(&kit_gate, false);
        kit_until(kq_admit_count(kit->server->admit) == 0);
        assert_int_equal(atomic_load(&kit_cancelled), i);
        assert_int_equal(atomic_load(&kit_released), i + 1);
    }
}

static void a_handler_may_end_the_connection(void **state)
{
    kit_start();
    int fd = kit_connect();
    kq_autobuf struct kq_buf frames = {0};
    kit_heartbeat_frame(&frames, "park", 0);
    kit_heartbeat_frame(&frames, "now", 1);
    kit_heartbeat_frame(&frames, "close", 2);
    kit_heartbeat_frame(&frames, "now", 3);
    kit_send(fd, frames.data, frames.length);
    finish_one();
    kit_expect(fd, 0);
    kit_expect(fd, 1);
    kit_expect_closed(fd);
    assert_int_equal(kit_tally(KQ_TALLY_REFUSED), 1);
    close(fd);
}

/* --- Files --- */

static void a_slow_reader_gets_every_byte_and_holds_no_memory(void **state)
{
    kit_make_file(3 << 20);
    kit->options.max_in_flight = 1000;
    kit_start();
    for (int over_tcp = 0; over_tcp < 2; over_tcp++) {
        int fd = over_tcp ? kit_connect_tcp() : kit_connect();
        kq_autobuf struct kq_buf frames = {0};
        atomic_store(&kit_ran, 0);
        for (int32_t i = 0; i < 50; i++)
            kit_fetch_frame(&frames, i, i * 1000, 1 << 20);
        kit_send(fd, frames.data, frames.length);
        int other = kit_connect();
        for (int32_t i = 0; i < 100; i++) {
            kit_ask(other, "now", i);
            kit_expect(other, i);
        }
        atomic_fetch_sub(&kit_ran, 100);
        assert_in_range(atomic_load(&kit_ran), 0, 30); /* the rest is not even begun */
        for (int32_t i = 0; i < 50; i++)
            kit_expect_fetch(fd, i, i * 1000, 1 << 20);
        close(fd);
        close(other);
    }
    assert_int_equal(kit_tally(KQ_TALLY_SENDFILE), 2 * 50 << 20);
    assert_int_equal(kit_tally(KQ_TALLY_COPIED), 0);
    assert_true(kit_tally(KQ_TALLY_UNSENT) >= 2);
}

static void a_reader_that_goes_away_in_the_middle_harms_nobody(void **state)
{
    kit_make_file(3 << 20);
    kit_start();
    for (int i = 0; i < 40; i++) {
        int fd = i % 2 ? kit_connect_tcp() : kit_connect();
        kq_autobuf struct kq_buf frames = {0};
        for (int32_t j = 0; j < 10; j++)
            kit_fetch_frame(&frames, j, 0, 1 << 20);
        kit_send(fd, frames.data, frames.length);
        uint8_t some[1000];
        if (i % 4 < 2)
            assert_true(kit_receive(fd, some, sizeof(some)));
        if (i % 8 < 4)
            reset(fd);
        else
            close(fd);
    }
    kit_until(kq_admit_count(kit->server->admit) == 0);
}

static void a_file_that_has_shrunk_ends_the_connection(void **state)
{
    kit_make_file(5000);
    kit_start();
    int fd = kit_connect();
    kq_autobuf struct kq_buf frame = {0};
    kit_fetch_frame(&frame, 1, 4000, 1001);
    kit_send(fd, frame.data, frame.length);
    kit_until(kit_tally(KQ_TALLY_FAILED) == 1);
    close(fd);
}

static void a_throttled_client_is_answered_at_once_and_heard_later(void **state)
{
    kit_start();
    int fd = kit_connect();
    int64_t before = kq_clock_mono_ns();
    kit_ask(fd, "throttle", 30);
    kit_expect(fd, 30);
    kit_ask(fd, "now", 1);
    kit_expect(fd, 1);
    assert_true(kq_clock_mono_ns() - before >= 30000000);
    assert_int_equal(kit_tally(KQ_TALLY_MUTED), 1);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_request_is_answered),
        TEST(frames_split_at_every_byte_and_merged_are_the_same_requests),
        TEST(a_frame_larger_than_the_loops_buffer),
        TEST(what_waits_behind_a_long_request_is_left_to_its_sender),
        TEST(what_is_no_request_ends_the_connection_and_no_other),
        TEST(a_parsed_request_takes_no_more_memory_than_it_may),
        TEST(an_unknown_version_of_api_versions_is_answered),
        TEST(responses_leave_in_the_order_of_the_requests),
        TEST(behind_a_parked_one_others_run_and_their_responses_wait),
        TEST(no_more_requests_of_a_connection_than_may_be_in_flight),
        TEST(wake_ups_from_many_threads_are_merged),
        TEST(a_deadline_of_a_request_comes_on_its_loop),
        TEST(a_half_closed_client_gets_all_its_answers),
        TEST(a_half_closed_client_does_not_wait_for_ever),
        TEST(what_a_closed_connection_waited_for_is_cancelled_once),
        TEST(what_runs_elsewhere_is_not_cancelled_before_it_has_returned),
        TEST(a_handler_may_end_the_connection),
        TEST(a_slow_reader_gets_every_byte_and_holds_no_memory),
        TEST(a_reader_that_goes_away_in_the_middle_harms_nobody),
        TEST(a_file_that_has_shrunk_ends_the_connection),
        TEST(a_throttled_client_is_answered_at_once_and_heard_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
