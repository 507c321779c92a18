/* The send queue against a transport that takes what the test lets it take. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/base/buf.h"
#include "broker/base/fault.h"
#include "net/sendq.h"
#include "tests/unit/directory.h"

#define BUDGET ((size_t)1 << 30)

/* Takes LIMIT bytes in all, at most STEP at once. */
struct fake {
    struct kq_transport transport;
    struct kq_buf out;
    size_t limit, step;
    unsigned calls, without_more; /* memory writes behind which a packet goes */
    size_t by_sendfile;
    int error;
};

static ssize_t allow(struct fake *fake, size_t wanted)
{
    fake->calls++;
    if (fake->error)
        return -fake->error;
    size_t n = fake->limit - fake->out.length;
    n = n < fake->step ? n : fake->step;
    n = n < wanted ? n : wanted;
    return n ? (ssize_t)n : -EAGAIN;
}

static ssize_t fake_writev(struct kq_transport *transport, const struct iovec *parts, int count,
                           bool more)
{
    struct fake *fake = (struct fake *)transport;
    size_t wanted = 0;
    for (int i = 0; i < count; i++) {
        assert_true(parts[i].iov_len > 0);
        wanted += parts[i].iov_len;
    }
    ssize_t n = allow(fake, wanted);
    fake->without_more += !more;
    for (size_t left = n > 0 ? (size_t)n : 0; left > 0; parts++) {
        size_t part = parts->iov_len < left ? parts->iov_len : left;
        kq_buf_append(&fake->out, parts->iov_base, part);
        left -= part;
    }
    return n;
}

static ssize_t fake_sendfile(struct kq_transport *transport, int fd, int64_t position,
                             size_t length)
{
    struct fake *fake = (struct fake *)transport;
    ssize_t n = allow(fake, length);
    if (n < 0)
        return n;
    assert_int_equal(kq_buf_reserve(&fake->out, (size_t)n), 0);
    n = pread(fd, fake->out.data + fake->out.length, (size_t)n, position);
    fake->out.length += (size_t)n;
    fake->by_sendfile += (size_t)n;
    return n;
}

static const struct kq_transport_class fake_class = {
    .writev = fake_writev,
    .sendfile = fake_sendfile,
};

struct fixture {
    char path[DIRECTORY_BYTES];
    struct fake fake;
    struct kq_sendq queue;
    int fd;
    uint8_t file[1000];
};

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){
        .fake = {.transport.class = &fake_class, .limit = SIZE_MAX, .step = SIZE_MAX}};
    directory_make(fixture.path, NULL);
    fixture.fd = openat(AT_FDCWD, fixture.path, O_TMPFILE | O_RDWR, 0600);
    assert_true(fixture.fd >= 0);
    for (size_t i = 0; i < sizeof(fixture.file); i++)
        fixture.file[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(write(fixture.fd, fixture.file, sizeof(fixture.file)), sizeof(fixture.file));
    kq_sendq_init(&fixture.queue);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    kq_sendq_release(&fixture->queue);
    kq_buf_release(&fixture->fake.out);
    close(fixture->fd);
    directory_remove(fixture->path);
    return 0;
}

static void add_memory(struct fixture *fixture, const char *text)
{
    assert_int_equal(kq_sendq_add_memory(&fixture->queue, (const uint8_t *)text, strlen(text)), 0);
}

static void add_file(struct fixture *fixture, int64_t position, uint32_t length)
{
    struct kq_extent extent = {.fd = fixture->fd, .position = position, .length = length};
    assert_int_equal(kq_sendq_add_file_consume(&fixture->queue, &extent), 0);
}

/* Header, file, header, file, tail: as a Fetch response of two partitions. */
static void fill(struct fixture *fixture, struct kq_buf *expected)
{
    add_memory(fixture, "head");
    add_memory(fixture, "er");
    add_file(fixture, 100, 50);
    add_memory(fixture, "second");
    add_file(fixture, 7, 33);
    add_memory(fixture, "tail");
    kq_sendq_own(&fixture->queue, malloc(10));
    kq_buf_append_string(expected, "header");
    kq_buf_append(expected, fixture->file + 100, 50);
    kq_buf_append_string(expected, "second");
    kq_buf_append(expected, fixture->file + 7, 33);
    kq_buf_append_string(expected, "tail");
}

static void assert_sent(const struct fixture *fixture, const struct kq_buf *expected, size_t length)
{
    assert_int_equal(fixture->fake.out.length, length);
    assert_memory_equal(fixture->fake.out.data, expected->data, length);
    assert_int_equal(fixture->queue.sent, length);
}

static int write_all(struct fixture *fixture)
{
    struct kq_cold cold;
    return kq_sendq_write(&fixture->queue, &fixture->fake.transport, BUDGET, &cold);
}

static void memory_and_files_leave_in_order(void **state)
{
    struct fixture *fixture = *state;
    kq_autobuf struct kq_buf expected = {0};
    fill(fixture, &expected);
    assert_int_equal(kq_sendq_left(&fixture->queue), expected.length);
    assert_int_equal(write_all(fixture), KQ_SENDQ_EMPTY);
    assert_sent(fixture, &expected, expected.length);
    assert_int_equal(fixture->fake.by_sendfile, 83);
    assert_int_equal(fixture->queue.sent_from_files, 83);
    /* Five writes, and only the last memory lets a packet go. */
    assert_int_equal(fixture->fake.calls, 5);
    assert_int_equal(fixture->fake.without_more, 1);
}

static void a_full_transport_at_every_byte_loses_and_repeats_nothing(void **state)
{
    struct fixture *fixture = *state;
    kq_autobuf struct kq_buf expected = {0};
    fill(fixture, &expected);
    kq_sendq_release(&fixture->queue);
    for (size_t stop = 0; stop < expected.length; stop++) {
        struct fake *fake = &fixture->fake;
        kq_sendq_init(&fixture->queue);
        kq_buf_release(&expected);
        fill(fixture, &expected);
        fake->out.length = 0;
        fake->limit = stop;
        assert_int_equal(write_all(fixture), KQ_SENDQ_FULL);
        assert_sent(fixture, &expected, stop);
        assert_int_equal(write_all(fixture), KQ_SENDQ_FULL);
        fake->limit = SIZE_MAX;
        assert_int_equal(write_all(fixture), KQ_SENDQ_EMPTY);
        assert_sent(fixture, &expected, expected.length);
    }
}

static void short_writes_of_every_length_go_on_where_they_ended(void **state)
{
    struct fixture *fixture = *state;
    for (size_t step = 1; step < 110; step++) {
        kq_autobuf struct kq_buf expected = {0};
        kq_sendq_init(&fixture->queue);
        fill(fixture, &expected);
        fixture->fake.out.length = 0;
        fixture->fake.step = step;
        assert_int_equal(write_all(fixture), KQ_SENDQ_EMPTY);
        assert_sent(fixture, &expected, expected.length);
    }
}

static void a_budget_ends_a_turn(void **state)
{
    struct fixture *fixture = *state;
    struct kq_cold cold;
    kq_autobuf struct kq_buf expected = {0};
    fill(fixture, &expected);
    fixture->fake.step = 10;
    int r;
    unsigned turns = 0;
    while ((r = kq_sendq_write(&fixture->queue, &fixture->fake.transport, 20, &cold)) ==
           KQ_SENDQ_MORE)
        turns++;
    assert_int_equal(r, KQ_SENDQ_EMPTY);
    assert_sent(fixture, &expected, expected.length);
    assert_in_range(turns, 3, 6);
}

static void more_runs_of_memory_than_one_call_takes(void **state)
{
    struct fixture *fixture = *state;
    for (int i = 0; i < 1000; i++)
        add_memory(fixture, "abc");
    assert_int_equal(write_all(fixture), KQ_SENDQ_EMPTY);
    assert_int_equal(fixture->fake.out.length, 3000);
    for (int i = 0; i < 1000; i++)
        assert_memory_equal(fixture->fake.out.data + 3 * i, "abc", 3);
}

static void what_is_not_cached_is_named_and_not_waited_for(void **state)
{
    struct fixture *fixture = *state;
    struct kq_cold cold = {0};
    add_memory(fixture, "header");
    add_file(fixture, 100, 50);
    kq_fault_arm(KQ_FAULT_READ, 1, EAGAIN, false);
    assert_int_equal(kq_sendq_write(&fixture->queue, &fixture->fake.transport, BUDGET, &cold),
                     KQ_SENDQ_COLD);
    assert_true(kq_fault_disarm());
    assert_int_equal(cold.extent->fd, fixture->fd);
    assert_int_equal(cold.position, 100);
    assert_int_equal(cold.length, 50);
    assert_int_equal(cold.ahead, 0);
    assert_int_equal(fixture->fake.out.length, 6); /* the header has gone */
    kq_sendq_warmed(&fixture->queue);
    assert_int_equal(write_all(fixture), KQ_SENDQ_EMPTY);
    assert_memory_equal(fixture->fake.out.data + 6, fixture->file + 100, 50);
}

static void what_never_becomes_cached_is_sent_all_the_same(void **state)
{
    struct fixture *fixture = *state;
    struct kq_cold cold;
    int r, passes = 0;
    add_file(fixture, 0, 50);
    kq_fault_arm(KQ_FAULT_READ, 1, EAGAIN, true);
    while ((r = kq_sendq_write(&fixture->queue, &fixture->fake.transport, BUDGET, &cold)) ==
           KQ_SENDQ_COLD) {
        kq_sendq_warmed(&fixture->queue);
        passes++;
    }
    kq_fault_disarm();
    assert_int_equal(r, KQ_SENDQ_EMPTY);
    assert_in_range(passes, 1, 5);
}

static void a_file_that_is_too_short_is_an_error(void **state)
{
    struct fixture *fixture = *state;
    add_file(fixture, 990, 50);
    assert_int_equal(write_all(fixture), -EIO);
    assert_int_equal(fixture->fake.out.length, 10);
}

static void an_error_of_the_transport_is_passed_on(void **state)
{
    struct fixture *fixture = *state;
    add_memory(fixture, "x");
    fixture->fake.error = EPIPE;
    assert_int_equal(write_all(fixture), -EPIPE);
    kq_sendq_release(&fixture->queue);
    kq_sendq_init(&fixture->queue);
    add_file(fixture, 0, 10);
    assert_int_equal(write_all(fixture), -EPIPE);
}

static void without_memory_nothing_is_added(void **state)
{
    struct fixture *fixture = *state;
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    struct kq_extent extent = {.fd = fixture->fd, .length = 5};
    assert_int_equal(kq_sendq_add_memory(&fixture->queue, (const uint8_t *)"x", 1), -ENOMEM);
    assert_int_equal(kq_sendq_add_file_consume(&fixture->queue, &extent), -ENOMEM);
    kq_fault_disarm();
    assert_int_equal(kq_sendq_left(&fixture->queue), 0);
    assert_int_equal(write_all(fixture), KQ_SENDQ_EMPTY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(memory_and_files_leave_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_transport_at_every_byte_loses_and_repeats_nothing,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(short_writes_of_every_length_go_on_where_they_ended, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_budget_ends_a_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(more_runs_of_memory_than_one_call_takes, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_cached_is_named_and_not_waited_for, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_never_becomes_cached_is_sent_all_the_same, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_file_that_is_too_short_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(an_error_of_the_transport_is_passed_on, setup, teardown),
        cmocka_unit_test_setup_teardown(without_memory_nothing_is_added, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
