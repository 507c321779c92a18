#include "fs/session.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <time.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"

#define TICK_MS 2
#define IDLE_TICKS 100     /* park the supervisor after so many without a request */
#define DRAIN_NS 100000000 /* serve what is queued for so long at most when stopping */
#define STANDBY_SECONDS 10 /* a receiver without work ends after so long */
#define STACK_BYTES (512 * 1024)
#define SCORE_MAX 16
#define SCORE_MIN (-16)
#define SCORE_FAILED 4      /* what a poll that found nothing costs */
#define SCORE_SHORT_SLEEP 2 /* what a sleep shorter than a poll earns */

enum receiver_state {
    RECEIVER_IDLE,      /* asleep, polling between two attempts, or leaving */
    RECEIVER_RECEIVING, /* in read(2) on the kernel's queue, or not past the peek at what came */
    RECEIVER_SERVING,   /* its request is known, announced, and being handled */
};

struct receiver {
    TAILQ_ENTRY(receiver) entry;
    struct kq_receivers *all;
    struct fuse_buf buf;
    atomic_int state;
    atomic_ulong attempts; /* grows with each attempt to receive: see the barrier */
    atomic_ulong served;
    atomic_ulong found_empty;
    int score; /* does polling pay? Its own thread only */
};

struct kq_receivers {
    struct kq_fs *fs;
    int fd;       /* the kernel's queue, not blocking */
    int event_fd; /* wakes the supervisor */
    int stop_fd;  /* readable for ever once stopping */
    int64_t poll_ns;
    atomic_bool stopping;
    atomic_bool supervisor_parked;
    atomic_int sleepers; /* receivers in poll(2) at the queue: at most one, or two for a moment */
    pthread_mutex_t lock;
    pthread_cond_t work; /* a standby receiver is wanted back, or it is time to stop */
    pthread_cond_t gone; /* a receiver has ended */
    TAILQ_HEAD(, receiver) list;
    unsigned threads, standby, wanted;
};

static void wake_supervisor(struct kq_receivers *all)
{
    uint64_t one = 1;
    ssize_t n = write(all->event_fd, &one, sizeof(one));
    (void)n; /* it can only fail when it is readable already */
}

/* One attempt to take a request and, if there was one, to serve it.
 * Returns > 0 served, 0 the session is over, -EAGAIN nothing there, -errno. */
static int receive_one(struct receiver *me)
{
    struct kq_receivers *all = me->all;
    atomic_fetch_add_explicit(&me->attempts, 1, memory_order_relaxed);
    atomic_store(&me->state, RECEIVER_RECEIVING);
    int n = fuse_session_receive_buf(all->fs->session, &me->buf);
    if (n <= 0) {
        atomic_store_explicit(&me->state, RECEIVER_IDLE, memory_order_release);
        if (n == -EINTR || n == -ENOENT) /* the request was interrupted before we took it */
            return 1;
        return n;
    }
    const struct fuse_in_header *in = me->buf.mem;
    if (in->opcode == FUSE_RELEASE) {
        const struct fuse_release_in *release = (const void *)(in + 1);
        kq_handle_announce_release(release->fh);
    }
    atomic_store_explicit(&me->state, RECEIVER_SERVING, memory_order_release);
    fuse_session_process_buf(all->fs->session, &me->buf);
    atomic_fetch_add_explicit(&me->served, 1, memory_order_relaxed);
    return n;
}

/* Polls for a request for at most poll_ns. Yielding first lets a client on this very CPU run and
 * send its next request, which no amount of spinning would. Same results as receive_one. */
static int poll_for_one(struct receiver *me)
{
    int64_t start = kq_clock_mono_ns(), now;
    for (;;) {
        sched_yield();
        int n = receive_one(me);
        if (n != -EAGAIN) {
            if (me->score < SCORE_MAX)
                me->score++;
            return n;
        }
        now = kq_clock_mono_ns();
        if (now - start >= me->all->poll_ns)
            break;
    }
    /* A yield that took much longer than it should means that somebody else needs this CPU. */
    me->score -= now - start > 2 * me->all->poll_ns ? 2 * SCORE_FAILED : SCORE_FAILED;
    if (me->score < SCORE_MIN)
        me->score = SCORE_MIN;
    return -EAGAIN;
}

/* Sleeps until there is a request or it is time to stop. */
static void sleep_at_queue(struct receiver *me)
{
    struct kq_receivers *all = me->all;
    struct pollfd fds[2] = {{.fd = all->fd, .events = POLLIN},
                            {.fd = all->stop_fd, .events = POLLIN}};
    int64_t before = kq_clock_mono_ns();
    poll(fds, 2, -1);
    int64_t slept = kq_clock_mono_ns() - before;
    if (slept < 2 * all->poll_ns && me->score <= SCORE_MAX - SCORE_SHORT_SLEEP)
        me->score += SCORE_SHORT_SLEEP;
}

/* Another receiver sleeps at the queue: waits to be wanted again. False: time to end. */
static bool stand_by(struct receiver *me)
{
    struct kq_receivers *all = me->all;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += STANDBY_SECONDS;
    bool again = true;
    pthread_mutex_lock(&all->lock);
    all->standby++;
    while (all->wanted == 0 && !atomic_load(&all->stopping) && again)
        again = pthread_cond_timedwait(&all->work, &all->lock, &until) != ETIMEDOUT;
    all->standby--;
    if (all->wanted > 0) {
        all->wanted--;
        again = true;
    }
    pthread_mutex_unlock(&all->lock);
    return again && !atomic_load(&all->stopping);
}

/* Nothing in the queue: poll, sleep or stand by. Returns as receive_one; -EAGAIN: try again. */
static int wait_for_one(struct receiver *me)
{
    struct kq_receivers *all = me->all;
    atomic_fetch_add_explicit(&me->found_empty, 1, memory_order_relaxed);
    if (atomic_load_explicit(&all->sleepers, memory_order_relaxed) > 0)
        return stand_by(me) ? -EAGAIN : 0;
    if (me->score >= 0 && all->poll_ns > 0) {
        int n = poll_for_one(me);
        if (n != -EAGAIN)
            return n;
    }
    if (atomic_fetch_add(&all->sleepers, 1) == 0)
        sleep_at_queue(me);
    atomic_fetch_sub(&all->sleepers, 1);
    /* In this order, as the supervisor looks at them in the other: one of the two sees the other.
     */
    if (kq_unlikely(atomic_load(&all->supervisor_parked)) &&
        atomic_exchange(&all->supervisor_parked, false))
        wake_supervisor(all);
    return -EAGAIN;
}

/* Serves what was sent before the stop, so that no half line whose file was closed is lost. */
static void drain(struct receiver *me)
{
    int64_t until = kq_clock_mono_ns() + DRAIN_NS;
    while (kq_clock_mono_ns() < until && receive_one(me) > 0)
        ;
}

static void *receiver_main(void *argument)
{
    struct receiver *me = argument;
    struct kq_receivers *all = me->all;
    int n = 1;
    pthread_setname_np(pthread_self(), "kqfs-receive");
    while (!atomic_load_explicit(&all->stopping, memory_order_relaxed)) {
        n = receive_one(me);
        if (n == -EAGAIN)
            n = wait_for_one(me);
        if (n == 0 || (n < 0 && n != -EAGAIN))
            break;
    }
    if (n < 0 && n != -EAGAIN)
        kq_diag(LOG_ERR, "reading requests from the kernel: %s", strerror(-n));
    if (fuse_session_exited(all->fs->session) || (n < 0 && n != -EAGAIN))
        kq_receivers_stop(all);
    else if (atomic_load(&all->stopping))
        drain(me);
    pthread_mutex_lock(&all->lock);
    TAILQ_REMOVE(&all->list, me, entry);
    all->threads--;
    pthread_cond_signal(&all->gone);
    pthread_mutex_unlock(&all->lock);
    free(me->buf.mem);
    free(me);
    return NULL;
}

/* With the lock held. */
static int start_receiver(struct kq_receivers *all)
{
    struct receiver *me = kq_zalloc(sizeof(*me));
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t every, before;
    if (!me)
        return -ENOMEM;
    me->all = all;
    TAILQ_INSERT_TAIL(&all->list, me, entry);
    all->threads++;
    sigfillset(&every);        /* signals are the main thread's */
    sigdelset(&every, SIGSYS); /* of a system call that is refused: broker/seccomp.c */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    int r = pthread_create(&thread, &attributes, receiver_main, me);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (r == 0)
        return 0;
    TAILQ_REMOVE(&all->list, me, entry);
    all->threads--;
    free(me);
    return -r;
}

/* Every receiver is busy: brings one more to the queue, if the maximum allows. */
static void add_receiver(struct kq_receivers *all)
{
    pthread_mutex_lock(&all->lock);
    if (all->standby > all->wanted) {
        all->wanted++;
        pthread_cond_signal(&all->work);
    } else if (all->threads < all->fs->options.max_receivers) {
        int r = start_receiver(all);
        if (r < 0)
            kq_diag_limited(10000, LOG_WARNING, "cannot start another receiver thread: %s",
                            strerror(-r));
    }
    pthread_mutex_unlock(&all->lock);
}

struct activity {
    unsigned long served, found_empty;
};

static struct activity count_activity(struct kq_receivers *all)
{
    struct activity sum = {0};
    struct receiver *each;
    pthread_mutex_lock(&all->lock);
    TAILQ_FOREACH (each, &all->list, entry) {
        sum.served += atomic_load_explicit(&each->served, memory_order_relaxed);
        sum.found_empty += atomic_load_explicit(&each->found_empty, memory_order_relaxed);
    }
    pthread_mutex_unlock(&all->lock);
    return sum;
}

/* Waits for an event, at most TIMEOUT_MS (-1: no limit). */
static void supervisor_wait(struct kq_receivers *all, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = all->event_fd, .events = POLLIN},
                            {.fd = all->stop_fd, .events = POLLIN}};
    uint64_t count;
    if (poll(fds, 2, timeout_ms) > 0 && fds[0].revents) {
        ssize_t n = read(all->event_fd, &count, sizeof(count));
        (void)n; /* only to make it unreadable */
    }
}

static void supervise(struct kq_receivers *all)
{
    struct activity last = {0};
    int quiet_ticks = 0;
    while (!atomic_load(&all->stopping)) {
        supervisor_wait(all, TICK_MS);
        struct activity now = count_activity(all);
        bool asleep = atomic_load(&all->sleepers) > 0;
        if (now.found_empty == last.found_empty && !asleep)
            add_receiver(all);
        quiet_ticks = asleep && now.served == last.served ? quiet_ticks + 1 : 0;
        last = now;
        if (quiet_ticks < IDLE_TICKS)
            continue;
        atomic_store(&all->supervisor_parked, true);
        /* A receiver that left the queue before the flag was up does not wake us: look again. */
        if (atomic_load(&all->sleepers) > 0 && count_activity(all).served == now.served)
            supervisor_wait(all, -1);
        atomic_store(&all->supervisor_parked, false);
        quiet_ticks = 0;
    }
}

int kq_receivers_run(struct kq_receivers *all)
{
    pthread_mutex_lock(&all->lock);
    int r = start_receiver(all);
    pthread_mutex_unlock(&all->lock);
    if (r < 0)
        return r;
    supervise(all);
    kq_handles_unpark_all(all->fs->handles);
    pthread_mutex_lock(&all->lock);
    pthread_cond_broadcast(&all->work);
    while (all->threads > 0)
        pthread_cond_wait(&all->gone, &all->lock);
    pthread_mutex_unlock(&all->lock);
    return 0;
}

void kq_receivers_stop(struct kq_receivers *all)
{
    int saved = errno;
    uint64_t one = 1;
    atomic_store(&all->stopping, true);
    ssize_t n = write(all->stop_fd, &one, sizeof(one));
    (void)n; /* it can only fail when it is readable already */
    errno = saved;
}

void kq_receivers_barrier(struct kq_receivers *all)
{
    struct receiver *each;
    pthread_mutex_lock(&all->lock);
    TAILQ_FOREACH (each, &all->list, entry) {
        unsigned long attempts = atomic_load(&each->attempts);
        while (atomic_load(&each->state) == RECEIVER_RECEIVING &&
               atomic_load(&each->attempts) == attempts)
            sched_yield();
    }
    pthread_mutex_unlock(&all->lock);
}

static int make_descriptors(struct kq_receivers *all)
{
    all->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    all->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (all->event_fd < 0 || all->stop_fd < 0)
        return -errno;
    int flags = fcntl(all->fd, F_GETFL);
    if (flags < 0 || fcntl(all->fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int kq_receivers_new(struct kq_fs *fs, struct kq_receivers **ret)
{
    struct kq_receivers *all = kq_zalloc(sizeof(*all));
    if (!all)
        return -ENOMEM;
    all->fs = fs;
    all->fd = fuse_session_fd(fs->session);
    all->event_fd = all->stop_fd = -1;
    all->poll_ns = (int64_t)fs->options.poll_us * 1000;
    TAILQ_INIT(&all->list);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&all->lock, NULL);
    pthread_cond_init(&all->work, &monotonic);
    pthread_cond_init(&all->gone, NULL);
    pthread_condattr_destroy(&monotonic);
    int r = make_descriptors(all);
    if (r < 0) {
        kq_receivers_free(all);
        return r;
    }
    *ret = all;
    return 0;
}

void kq_receivers_free(struct kq_receivers *all)
{
    if (!all)
        return;
    if (all->event_fd >= 0)
        close(all->event_fd);
    if (all->stop_fd >= 0)
        close(all->stop_fd);
    pthread_mutex_destroy(&all->lock);
    pthread_cond_destroy(&all->work);
    pthread_cond_destroy(&all->gone);
    free(all);
}
