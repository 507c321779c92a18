/* One thread that waits for many descriptors, deadlines and messages of other threads.
 *
 * What a loop owns is touched by its thread only; others send it mail. Mail costs one atomic
 * exchange, and the first of many one write(2) to wake the loop. Watches are edge-triggered: who is
 * told that a descriptor is ready goes on until EAGAIN, or asks to be called again (kq_loop_soon),
 * so that a connection that is not read costs no change of the epoll set.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "broker/base/timers.h"

struct kq_loop;

/* One message to a loop; lives in its owner's memory until DELIVER is called. */
struct kq_mail {
    void (*deliver)(struct kq_mail *mail); /* on the loop's thread */
    struct kq_mail *next;                  /* the loop's own */
};

/* One descriptor that is watched. */
struct kq_watch {
    void (*ready)(struct kq_watch *watch, uint32_t events); /* of epoll_ctl(2) */
};

/* Something to be called after what is ready now; zero-initialised is not queued. */
struct kq_task {
    void (*run)(struct kq_task *task);
    TAILQ_ENTRY(kq_task) queue;
    bool queued;
};

struct kq_loop {
    int epoll_fd, wake_fd;
    _Atomic(struct kq_mail *) mail; /* the newest first */
    struct kq_timer_heap timers;
    TAILQ_HEAD(, kq_task) tasks;
    struct kq_task mark; /* how far this turn goes */
    int64_t now_ns;      /* kq_clock_mono_ns() when it last woke */
    uint8_t *buffer;     /* KQ_LOOP_BUFFER bytes: what is being received, during one call only */
    void *owner;         /* of whoever made it */
    atomic_bool stopping;
    bool started;
    pthread_t thread;
    char name[16];
};

#define KQ_LOOP_BUFFER ((size_t)128 * 1024)

/* NAME (at most 15 bytes) shows in ps -L. The thread is not running yet. 0; -errno. */
int kq_loop_new(const char *name, struct kq_loop **ret);
int kq_loop_start(struct kq_loop *loop); /* 0; -errno */

/* The thread delivers the mail it has, then ends; joined when this returns. Any thread but its own.
 */
void kq_loop_stop(struct kq_loop *loop);
void kq_loop_free(struct kq_loop *loop); /* stopped, or never started; NULL is fine */

/* One turn on the calling thread, which is the loop's from now on; waits for nothing. For tests,
 * instead of kq_loop_start. */
void kq_loop_turn(struct kq_loop *loop);

/* Is this the loop's thread? */
bool kq_loop_is_current(const struct kq_loop *loop);

/* --- Any thread --- */

void kq_loop_post(struct kq_loop *loop, struct kq_mail *mail);

/* --- The loop's thread, or before it was started --- */

/* Watches FD for EVENTS (EPOLLIN, EPOLLOUT, …), edge-triggered; closing FD ends it. WATCH stays
 * where it is until a task that was queued after that has run. 0; -errno. */
int kq_loop_watch(struct kq_loop *loop, struct kq_watch *watch, int fd, uint32_t events);

/* FD, which stays open, is not watched any more; events of this turn may still come. */
void kq_loop_unwatch(struct kq_loop *loop, int fd);

/* Calls TASK once, after the events that are being looked at; queuing it again before that changes
 * nothing. */
void kq_loop_soon(struct kq_loop *loop, struct kq_task *task);
void kq_loop_forget(struct kq_loop *loop, struct kq_task *task); /* not queued is fine */

/* See kq_timer_heap_set. */
void kq_loop_set_timer(struct kq_loop *loop, struct kq_timer *timer, int64_t at_ns);
void kq_loop_cancel_timer(struct kq_loop *loop, struct kq_timer *timer);
