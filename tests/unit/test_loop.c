#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/base/clock.h"
#include "net/loop.h"

static struct kq_loop *fresh(void)
{
    struct kq_loop *loop;
    assert_int_equal(kq_loop_new("test", &loop), 0);
    return loop;
}

#define SENDERS 4
#define LETTERS 20000

struct letter {
    struct kq_mail mail;
    int sender, number;
};

struct sender {
    struct kq_loop *loop;
    struct letter *letters;
};

static int last_of[SENDERS];
static atomic_int delivered;

static void note(struct kq_mail *mail)
{
    struct letter *letter = (struct letter *)mail;
    assert_int_equal(letter->number, last_of[letter->sender] + 1);
    last_of[letter->sender] = letter->number;
    atomic_fetch_add(&delivered, 1);
}

static void *send_all(void *argument)
{
    struct sender *sender = argument;
    for (int i = 0; i < LETTERS; i++)
        kq_loop_post(sender->loop, &sender->letters[i].mail);
    return NULL;
}

static void mail_of_many_threads_arrives_once_and_in_the_order_of_each(void **state)
{
    struct kq_loop *loop = fresh();
    struct sender senders[SENDERS];
    pthread_t threads[SENDERS];
    assert_int_equal(kq_loop_start(loop), 0);
    for (int s = 0; s < SENDERS; s++) {
        senders[s] = (struct sender){loop, calloc(LETTERS, sizeof(struct letter))};
        for (int i = 0; i < LETTERS; i++)
            senders[s].letters[i] = (struct letter){{.deliver = note}, s, i + 1};
        pthread_create(&threads[s], NULL, send_all, &senders[s]);
    }
    for (int s = 0; s < SENDERS; s++)
        pthread_join(threads[s], NULL);
    kq_loop_stop(loop); /* delivers what is there */
    assert_int_equal(atomic_load(&delivered), SENDERS * LETTERS);
    kq_loop_free(loop);
    for (int s = 0; s < SENDERS; s++)
        free(senders[s].letters);
}

static atomic_int rung;

struct echo {
    struct kq_mail mail;
    struct kq_loop *loop;
    int left;
};

static void send_again(struct kq_mail *mail)
{
    struct echo *echo = (struct echo *)mail;
    assert_true(kq_loop_is_current(echo->loop));
    atomic_fetch_add(&rung, 1);
    if (echo->left-- > 0)
        kq_loop_post(echo->loop, &echo->mail);
}

static void mail_to_itself_is_delivered(void **state)
{
    struct kq_loop *loop = fresh();
    struct echo echo = {{.deliver = send_again}, loop, 99};
    atomic_store(&rung, 0);
    assert_false(kq_loop_is_current(loop));
    assert_int_equal(kq_loop_start(loop), 0);
    kq_loop_post(loop, &echo.mail);
    while (atomic_load(&rung) < 100)
        sched_yield();
    kq_loop_stop(loop);
    kq_loop_free(loop);
    assert_int_equal(atomic_load(&rung), 100);
}

struct chore {
    struct kq_task task;
    struct kq_loop *loop;
    struct chore *forget;
    int calls, again;
};

static void work(struct kq_task *task)
{
    struct chore *chore = (struct chore *)task;
    chore->calls++;
    if (chore->forget)
        kq_loop_forget(chore->loop, &chore->forget->task);
    if (chore->again-- > 0)
        kq_loop_soon(chore->loop, &chore->task);
}

static void a_task_runs_once_however_often_it_is_queued(void **state)
{
    struct kq_loop *loop = fresh();
    struct chore twice = {.task.run = work, .loop = loop};
    struct chore forgotten = {.task.run = work, .loop = loop};
    struct chore forgets = {.task.run = work, .loop = loop, .forget = &forgotten};
    struct chore again = {.task.run = work, .loop = loop, .again = 1};
    kq_loop_soon(loop, &twice.task);
    kq_loop_soon(loop, &twice.task);
    kq_loop_soon(loop, &forgets.task);
    kq_loop_soon(loop, &forgotten.task);
    kq_loop_soon(loop, &again.task);
    struct chore taken_back = {.task.run = work, .loop = loop};
    kq_loop_forget(loop, &taken_back.task); /* was not queued */
    kq_loop_soon(loop, &taken_back.task);
    kq_loop_forget(loop, &taken_back.task);
    assert_int_equal(kq_loop_start(loop), 0);
    struct echo echo = {{.deliver = send_again}, loop, 3};
    atomic_store(&rung, 0);
    kq_loop_post(loop, &echo.mail);
    while (atomic_load(&rung) < 4)
        sched_yield();
    kq_loop_stop(loop);
    kq_loop_free(loop);
    assert_int_equal(twice.calls, 1);
    assert_int_equal(forgets.calls, 1);
    assert_int_equal(forgotten.calls, 0);
    assert_int_equal(again.calls, 2);
    assert_int_equal(taken_back.calls, 0);
}

static atomic_llong expired_ns;

static void expire(struct kq_timer *timer)
{
    atomic_store(&expired_ns, kq_clock_mono_ns());
}

static void a_deadline_wakes_a_loop_that_sleeps(void **state)
{
    struct kq_loop *loop = fresh();
    struct kq_timer timer = {.expire = expire}, never = {.expire = expire};
    int64_t at = kq_clock_mono_ns() + 30000000;
    kq_loop_set_timer(loop, &timer, at);
    kq_loop_set_timer(loop, &never, at - 20000000);
    kq_loop_cancel_timer(loop, &never);
    assert_int_equal(kq_loop_start(loop), 0);
    while (!atomic_load(&expired_ns))
        sched_yield();
    assert_true(atomic_load(&expired_ns) >= at);
    kq_loop_stop(loop);
    kq_loop_free(loop);
}

struct reader {
    struct kq_watch watch;
    int fd;
    atomic_int got;
};

static void read_all(struct kq_watch *watch, uint32_t events)
{
    struct reader *reader = (struct reader *)watch;
    char bytes[16];
    ssize_t n;
    assert_true(events & EPOLLIN);
    while ((n = recv(reader->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        atomic_fetch_add(&reader->got, (int)n);
}

static void a_descriptor_that_becomes_ready_is_told(void **state)
{
    struct kq_loop *loop = fresh();
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct reader reader = {.watch.ready = read_all, .fd = ends[0]};
    assert_int_equal(kq_loop_watch(loop, &reader.watch, ends[0], EPOLLIN), 0);
    assert_int_equal(kq_loop_start(loop), 0);
    for (int i = 1; i <= 100; i++) {
        assert_int_equal(write(ends[1], "x", 1), 1);
        while (atomic_load(&reader.got) < i)
            sched_yield();
    }
    kq_loop_stop(loop);
    kq_loop_free(loop);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mail_of_many_threads_arrives_once_and_in_the_order_of_each),
        cmocka_unit_test(mail_to_itself_is_delivered),
        cmocka_unit_test(a_task_runs_once_however_often_it_is_queued),
        cmocka_unit_test(a_deadline_wakes_a_loop_that_sleeps),
        cmocka_unit_test(a_descriptor_that_becomes_ready_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
