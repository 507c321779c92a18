/* Limits, deadlines, memory over all connections, start and stop of the server as a whole. */
#include <sys/stat.h>

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

static void works(int fd)
{
    kit_ask(fd, "now", 1);
    kit_expect(fd, 1);
}

/* --- How many --- */

static void connections_over_the_limit_are_closed_at_once(void **state)
{
    int held[5];
    kit->options.max_connections = 5;
    kit_start();
    for (int i = 0; i < 5; i++)
        works(held[i] = i % 2 ? kit_connect() : kit_connect_tcp());
    for (int i = 0; i < 10; i++) {
        int refused = i % 2 ? kit_connect() : kit_connect_tcp();
        kit_expect_closed(refused);
        close(refused);
    }
    kit_until(kit_tally(KQ_TALLY_LIMIT_TOTAL) == 10);
    assert_int_equal(kit_tally(KQ_TALLY_ACCEPTED), 5);
    close(held[0]);
    kit_until(kq_admit_count(kit->server->admit) == 4);
    works(held[0] = kit_connect());
    for (int i = 0; i < 5; i++) {
        works(held[i]);
        close(held[i]);
    }
    kq_server_stop(kit->server);
    assert_int_equal(said_count, 1); /* once in a while */
}

static void an_address_has_a_limit_of_its_own(void **state)
{
    kit->options.max_connections_per_ip = 2;
    kit_start();
    int first = kit_connect_tcp(), second = kit_connect_tcp();
    works(first);
    works(second);
    int third = kit_connect_tcp(), by_path = kit_connect();
    kit_expect_closed(third);
    works(by_path); /* which has no address */
    kit_until(kit_tally(KQ_TALLY_LIMIT_IP) == 1);
    close(first);
    kit_until(kq_admit_count(kit->server->admit) == 2);
    int fourth = kit_connect_tcp();
    works(fourth);
    close(second);
    close(third);
    close(fourth);
    close(by_path);
}

static void accepting_waits_where_there_are_too_many_in_a_second(void **state)
{
    kit->options.max_connection_rate = 3;
    kit_start();
    int64_t before = kq_clock_mono_ns();
    int fds[7];
    for (int i = 0; i < 7; i++)
        fds[i] = kit_connect();
    for (int i = 0; i < 7; i++) {
        works(fds[i]);
        close(fds[i]);
    }
    assert_true(kq_clock_mono_ns() - before >= 1000000000);
    assert_true(kit_tally(KQ_TALLY_LIMIT_RATE) >= 2);
}

/* --- How long --- */

static void a_connection_without_traffic_is_closed(void **state)
{
    kit->options.idle_ms = 30;
    kit_start();
    int idle = kit_connect(), waits = kit_connect();
    kit_ask(waits, "park", 3);
    kit_expect_closed(idle);
    kit_until(kit_tally(KQ_TALLY_IDLE) == 1);
    int64_t until = kq_clock_mono_ns() + 100000000; /* who waits for an answer is not idle */
    kit_until(kq_clock_mono_ns() > until);
    struct kq_request *request;
    kit_until((request = kit_take()));
    kit_answer(request);
    kq_request_done(request);
    kit_expect(waits, 3);
    kit_expect_closed(waits);
    close(idle);
    close(waits);
}

static void who_does_not_read_is_idle(void **state)
{
    kit_make_file(3 << 20);
    kit->options.idle_ms = 100;
    kit_start();
    int fd = kit_connect_tcp();
    kq_autobuf struct kq_buf frames = {0};
    for (int32_t i = 0; i < 10; i++)
        kit_fetch_frame(&frames, i, 0, 3 << 20);
    kit_send(fd, frames.data, frames.length);
    kit_until(kit_tally(KQ_TALLY_IDLE) == 1);
    close(fd);
}

static void a_request_has_to_be_whole_in_time(void **state)
{
    kit->options.request_ms = 50;
    kit_start();
    int busy = kit_connect();
    for (int i = 0; i < 3; i++) {
        static const char *const parts[] = {"\0\0", "\0\0\1", "\0\0\1\0abcdef"};
        static const size_t lengths[] = {2, 3, 10};
        int fd = kit_connect();
        works(fd);
        kit_send(fd, parts[i], lengths[i]);
        /* One byte more now and then does not help. */
        for (;;) {
            char byte;
            works(busy);
            ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno == ECONNRESET)) /* with bytes of ours unread */
                break;
            assert_true(n < 0 && errno == EAGAIN);
            if (i == 2)
                assert_true(send(fd, "x", 1, MSG_NOSIGNAL) == 1 || errno == EPIPE);
            struct timespec moment = {.tv_nsec = 5000000};
            nanosleep(&moment, NULL);
        }
        kit_until(kit_tally(KQ_TALLY_SLOW) == (uint64_t)i + 1);
        close(fd);
    }
    close(busy);
}

static void a_request_that_came_in_parts_is_not_held_against_the_next(void **state)
{
    kit->options.request_ms = 1000;
    kit_start();
    int fd = kit_connect();
    kq_autobuf struct kq_buf frame = {0};
    kit_heartbeat_frame(&frame, "now", 1);
    for (size_t cut = 1; cut < frame.length; cut += frame.length / 2) {
        kit_send(fd, frame.data, cut);
        kit_drained(fd);
        kit_send(fd, frame.data + cut, frame.length - cut);
        kit_expect(fd, 1);
        int64_t until = kq_clock_mono_ns() + 1100000000;
        kit_until(kq_clock_mono_ns() > until);
    }
    works(fd);
    close(fd);
}

/* --- How much --- */

static void requests_in_memory_have_a_limit_and_all_get_through(void **state)
{
    enum { CLIENTS = 8, SIZE = 200000 };
    kit->options.max_queued_bytes = 300000;
    kit_start();
    kq_autobuf struct kq_buf frame = {0};
    struct kq_wire_writer writer;
    kq_wire_writer_init(&writer, &frame);
    kq_wire_write_int32(&writer, 2 + 2 + 4 + 2 + 4 + 10 * 20002);
    kq_wire_write_int16(&writer, 3);
    kq_wire_write_int16(&writer, 1);
    kq_wire_write_int32(&writer, 77);
    kq_wire_write_int16(&writer, -1);
    kq_wire_write_int32(&writer, 10);
    static char word[20001];
    memset(word, 'x', 20000);
    for (int i = 0; i < 10; i++)
        kq_wire_write_string(&writer, false, false, kq_str_of(word));
    int fds[CLIENTS];
    size_t sent[CLIENTS] = {0};
    for (int i = 0; i < CLIENTS; i++)
        fds[i] = kit_connect_tcp();
    /* All but the last byte of each, as far as it goes: no request is whole. */
    kit_until(({
        for (int i = 0; i < CLIENTS; i++) {
            ssize_t n = send(fds[i], frame.data + sent[i], frame.length - 1 - sent[i],
                             MSG_DONTWAIT | MSG_NOSIGNAL);
            sent[i] += n > 0 ? (size_t)n : 0;
        }
        kit_tally(KQ_TALLY_CROWDED) > 0;
    }));
    /* By twice a part of each loop, and what one read brings for each connection. */
    assert_in_range(atomic_load(&kit->server->queued_bytes), 300000,
                    300000 + 2 * 400000 + CLIENTS * (int)KQ_LOOP_BUFFER);
    /* Whoever is able to go on ends, then it is the turn of the next. */
    for (int left = CLIENTS; left > 0;) {
        for (int i = 0; i < CLIENTS; i++) {
            if (sent[i] == frame.length)
                continue;
            ssize_t n = send(fds[i], frame.data + sent[i], frame.length - sent[i],
                             MSG_DONTWAIT | MSG_NOSIGNAL);
            sent[i] += n > 0 ? (size_t)n : 0;
            left -= sent[i] == frame.length;
        }
    }
    for (int i = 0; i < CLIENTS; i++) {
        uint8_t answer[20];
        assert_true(kit_receive(fds[i], answer, sizeof(answer)));
        assert_int_equal(kq_load_be32(answer + 4), 77);
        works(fds[i]);
        close(fds[i]);
    }
    kit_until(atomic_load(&kit->server->queued_bytes) == 0);
}

/* --- Stopping --- */

static void *stop(void *argument)
{
    kq_server_stop(kit->server);
    return NULL;
}

static void stopping_cancels_what_waits_and_ends(void **state)
{
    int fds[50];
    kit_start();
    for (int i = 0; i < 50; i++) {
        fds[i] = i % 2 ? kit_connect() : kit_connect_tcp();
        kit_ask(fds[i], i % 3 ? "park" : "later", i);
    }
    int idle = kit_connect();
    kit_until(kit_count_parked() == 50);
    kq_server_stop(kit->server);
    assert_int_equal(atomic_load(&kit_cancelled), 50);
    assert_int_equal(atomic_load(&kit_released), 50);
    for (int i = 0; i < 50; i++) {
        uint8_t answer[10]; /* what the handler leaves when it is cancelled */
        assert_true(kit_receive(fds[i], answer, sizeof(answer)));
        assert_int_equal(kq_load_be32(answer + 4), i);
        kit_expect_closed(fds[i]);
        close(fds[i]);
    }
    kit_expect_closed(idle);
    close(idle);
}

static void stopping_lets_what_is_under_way_end(void **state)
{
    pthread_t stopper;
    kit_make_file(3 << 20);
    kit_start();
    int works_elsewhere = kit_connect(), reads = kit_connect_tcp();
    atomic_store(&kit_gate, true);
    kit_ask(works_elsewhere, "offload", 5);
    kq_autobuf struct kq_buf frame = {0};
    kit_fetch_frame(&frame, 1, 0, 3 << 20);
    kit_send(reads, frame.data, frame.length);
    kit_until(atomic_load(&kit_ran) == 2);
    assert_int_equal(pthread_create(&stopper, NULL, stop, NULL), 0);
    /* The file of the unix socket stays until the end; but nobody is taken any more. */
    kit_until(({
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        snprintf(name.sun_path, sizeof(name.sun_path), "%s/s", kit->path);
        bool refused = connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0;
        close(fd);
        refused;
    }));
    atomic_store(&kit_gate, false);
    kit_expect(works_elsewhere, 5);
    kit_expect_closed(works_elsewhere);
    kit_expect_fetch(reads, 1, 0, 3 << 20);
    kit_expect_closed(reads);
    pthread_join(stopper, NULL);
    close(works_elsewhere);
    close(reads);
}

static void stopping_does_not_wait_for_who_does_not_read(void **state)
{
    kit_make_file(3 << 20);
    kit->options.drain_ms = 50;
    kit_start();
    int fd = kit_connect();
    kq_autobuf struct kq_buf frame = {0};
    kit_fetch_frame(&frame, 1, 0, 3 << 20);
    kit_send(fd, frame.data, frame.length);
    kit_until(atomic_load(&kit_ran) == 1);
    kq_server_stop(kit->server);
    kit_until(kit_tally(KQ_TALLY_UNDRAINED) == 1);
    close(fd);
}

/* --- Listeners --- */

static void a_path_that_is_served_is_refused_and_a_stale_one_replaced(void **state)
{
    char path[DIRECTORY_BYTES + 10];
    struct kq_server *second;
    struct stat st;
    snprintf(path, sizeof(path), "%s/s", kit->path);
    kit_start();
    assert_int_equal(kq_server_new(&kit->options, &second), -EADDRINUSE);
    assert_non_null(strstr(said, "end it or choose another path"));
    int fd = kit_connect();
    works(fd);
    close(fd);
    kq_server_stop(kit->server);
    kq_server_free(kit->server);
    kit->server = NULL;
    assert_int_equal(stat(path, &st), -1);
    /* As a broker leaves it behind that was killed. */
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof(name.sun_path), "%s", path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(listen(fd, 1), 0);
    close(fd);
    kit_start();
    works(fd = kit_connect());
    close(fd);
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
    char path[DIRECTORY_BYTES + 10];
    struct stat st;
    snprintf(path, sizeof(path), "%s/s", kit->path);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(kq_server_new(&kit->options, &kit->server), -EADDRINUSE);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
}

static void a_port_that_is_taken_is_one_line(void **state)
{
    kit_start();
    struct kq_listener *listener = STAILQ_NEXT(STAILQ_FIRST(&kit->server->listeners), list);
    struct kq_server *second;
    struct kq_server_options options = kit->options;
    options.listen = listener->name;
    said_clear();
    assert_int_equal(kq_server_new(&options, &second), -EADDRINUSE);
    assert_int_equal(said_count, 1);
    assert_non_null(strstr(said, "end it or choose another port"));
}

static void a_server_that_never_started_stops_and_goes(void **state)
{
    assert_int_equal(kq_server_new(&kit->options, &kit->server), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(connections_over_the_limit_are_closed_at_once),
        TEST(an_address_has_a_limit_of_its_own),
        TEST(accepting_waits_where_there_are_too_many_in_a_second),
        TEST(a_connection_without_traffic_is_closed),
        TEST(who_does_not_read_is_idle),
        TEST(a_request_has_to_be_whole_in_time),
        TEST(a_request_that_came_in_parts_is_not_held_against_the_next),
        TEST(requests_in_memory_have_a_limit_and_all_get_through),
        TEST(stopping_cancels_what_waits_and_ends),
        TEST(stopping_lets_what_is_under_way_end),
        TEST(stopping_does_not_wait_for_who_does_not_read),
        TEST(a_path_that_is_served_is_refused_and_a_stale_one_replaced),
        TEST(a_file_that_is_no_socket_is_left_alone),
        TEST(a_port_that_is_taken_is_one_line),
        TEST(a_server_that_never_started_stops_and_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
