#include "net/loop.h"

#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/err.h"
#include "broker/base/mem.h"

#define EVENTS_AT_ONCE 256
#define WAIT_MS_MAX 60000

static _Thread_local struct kq_loop *current;

int kq_loop_new(const char *name, struct kq_loop **ret)
{
    struct kq_loop *loop = kq_zalloc(sizeof(*loop));
    if (!loop)
        return -ENOMEM;
    loop->buffer = kq_alloc(KQ_LOOP_BUFFER);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    TAILQ_INIT(&loop->tasks);
    loop->now_ns = kq_clock_mono_ns();
    strncpy(loop->name, name, sizeof(loop->name) - 1);
    /* A NULL watch is the loop's own descriptor. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int r = loop->buffer ? 0 : -ENOMEM;
    if (r == 0 && (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
                   epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0))
        r = -errno;
    if (r < 0) {
        kq_loop_free(loop);
        return r;
    }
    *ret = loop;
    return 0;
}

void kq_loop_free(struct kq_loop *loop)
{
    if (!loop)
        return;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(loop->buffer);
    free(loop);
}

bool kq_loop_is_current(const struct kq_loop *loop)
{
    return current == loop;
}

static void wake(struct kq_loop *loop)
{
    uint64_t one = 1;
    ssize_t n;
    do
        n = write(loop->wake_fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR); /* EAGAIN: it is awake for 2^64 - 2 reasons already */
}

void kq_loop_post(struct kq_loop *loop, struct kq_mail *mail)
{
    struct kq_mail *newest = atomic_load_explicit(&loop->mail, memory_order_relaxed);
    do
        mail->next = newest;
    while (!atomic_compare_exchange_weak_explicit(&loop->mail, &newest, mail, memory_order_release,
                                                  memory_order_relaxed));
    /* Whoever put the first one in has woken the loop, or is about to. */
    if (!newest && current != loop)
        wake(loop);
}

/* In the order in which it came. */
static bool deliver_mail(struct kq_loop *loop)
{
    struct kq_mail *newest = atomic_exchange_explicit(&loop->mail, NULL, memory_order_acquire);
    struct kq_mail *oldest = NULL;
    bool any = newest;
    while (newest) {
        struct kq_mail *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct kq_mail *mail = oldest;
        oldest = mail->next;
        mail->deliver(mail);
    }
    return any;
}

/* Those that queue themselves again come behind the mark, so that events go between. */
static void run_tasks(struct kq_loop *loop)
{
    struct kq_task *task;
    if (TAILQ_EMPTY(&loop->tasks))
        return;
    TAILQ_INSERT_TAIL(&loop->tasks, &loop->mark, queue);
    while ((task = TAILQ_FIRST(&loop->tasks)) != &loop->mark) {
        TAILQ_REMOVE(&loop->tasks, task, queue);
        task->queued = false;
        task->run(task);
    }
    TAILQ_REMOVE(&loop->tasks, &loop->mark, queue);
}

static int wait_ms(struct kq_loop *loop)
{
    if (!TAILQ_EMPTY(&loop->tasks) || atomic_load_explicit(&loop->mail, memory_order_relaxed))
        return 0;
    int64_t next = kq_timer_heap_next_ns(&loop->timers);
    if (next == INT64_MAX)
        return -1;
    int64_t left = next - kq_clock_mono_ns();
    return left <= 0 ? 0 : (int)kq_min64((left + 999999) / 1000000, WAIT_MS_MAX);
}

static void drain_wake(const struct kq_loop *loop)
{
    uint64_t count;
    ssize_t n;
    do
        n = read(loop->wake_fd, &count, sizeof(count));
    while (n < 0 && errno == EINTR);
}

static void turn(struct kq_loop *loop, int timeout_ms)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int n = epoll_wait(loop->epoll_fd, events, EVENTS_AT_ONCE, timeout_ms);
    if (n < 0 && errno != EINTR)
        kq_diag_limited(10000, LOG_ERR, "epoll_wait: %s", strerror(errno));
    loop->now_ns = kq_clock_mono_ns();
    for (int i = 0; i < n; i++) {
        struct kq_watch *watch = events[i].data.ptr;
        if (watch)
            watch->ready(watch, events[i].events);
        else
            drain_wake(loop);
    }
    deliver_mail(loop);
    kq_timer_heap_run(&loop->timers, loop->now_ns);
    run_tasks(loop);
}

static void *run(void *argument)
{
    struct kq_loop *loop = argument;
    pthread_setname_np(pthread_self(), loop->name);
    current = loop;
    while (!atomic_load_explicit(&loop->stopping, memory_order_acquire))
        turn(loop, wait_ms(loop));
    while (deliver_mail(loop))
        run_tasks(loop);
    run_tasks(loop);
    current = NULL;
    return NULL;
}

void kq_loop_turn(struct kq_loop *loop)
{
    current = loop;
    turn(loop, 0);
}

int kq_loop_start(struct kq_loop *loop)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGSYS); /* of a system call that is refused: broker/seccomp.c */
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals belong to the main thread */
    int r = pthread_create(&loop->thread, NULL, run, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    loop->started = r == 0;
    return -r;
}

void kq_loop_stop(struct kq_loop *loop)
{
    if (!loop->started)
        return;
    atomic_store_explicit(&loop->stopping, true, memory_order_release);
    wake(loop);
    pthread_join(loop->thread, NULL);
    loop->started = false;
}

int kq_loop_watch(struct kq_loop *loop, struct kq_watch *watch, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.ptr = watch};
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void kq_loop_unwatch(struct kq_loop *loop, int fd)
{
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void kq_loop_soon(struct kq_loop *loop, struct kq_task *task)
{
    if (task->queued)
        return;
    task->queued = true;
    TAILQ_INSERT_TAIL(&loop->tasks, task, queue);
}

void kq_loop_forget(struct kq_loop *loop, struct kq_task *task)
{
    if (!task->queued)
        return;
    task->queued = false;
    TAILQ_REMOVE(&loop->tasks, task, queue);
}

void kq_loop_set_timer(struct kq_loop *loop, struct kq_timer *timer, int64_t at_ns)
{
    kq_timer_heap_set(&loop->timers, timer, at_ns);
}

void kq_loop_cancel_timer(struct kq_loop *loop, struct kq_timer *timer)
{
    kq_timer_heap_cancel(&loop->timers, timer);
}
