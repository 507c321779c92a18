/* Runs a handler of the network without one: a request is built by hand, what the handler asks of
 * the loop is written down and done when the test says so. */
#pragma once

#include "net/internal.h"
#include "net/message.h"
#include "tests/unit/ground.h"

static struct kq_server kit_server;

static pthread_mutex_t kit_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t kit_news = PTHREAD_COND_INITIALIZER;
static kq_handle_fn kit_posted;    /* under kit_lock */
static int kit_offloads;           /* since the request was made */
static struct kq_timer *kit_timer; /* that is set */

/* --- In place of request.c and conn.c --- */

enum kq_handled kq_request_offload(struct kq_request *request, kq_handle_fn run)
{
    kit_offloads++;
    return run(request);
}

void kq_request_post(struct kq_request *request, kq_handle_fn run)
{
    pthread_mutex_lock(&kit_lock);
    kit_posted = run;
    pthread_cond_signal(&kit_news);
    pthread_mutex_unlock(&kit_lock);
}

void kq_request_finish(struct kq_request *request, enum kq_handled result)
{
    request->result = result;
    request->stage = 1;
}

void kq_request_done(struct kq_request *request)
{
    kq_request_finish(request, KQ_HANDLED_NOW);
}

void kq_request_set_timer(struct kq_request *request, struct kq_timer *timer, int64_t at_ns)
{
    timer->set = true;
    timer->at_ns = at_ns;
    kit_timer = timer;
}

void kq_request_cancel_timer(struct kq_request *request, struct kq_timer *timer)
{
    assert_ptr_equal(kit_timer, timer);
    timer->set = false;
    kit_timer = NULL;
}

int kq_conn_advertised(struct kq_conn *conn, struct kq_arena *arena, struct kq_str *ret_host,
                       int32_t *ret_port)
{
    char *host = kq_arena_string(arena, "here", 4);
    if (!host)
        return -ENOMEM;
    *ret_host = kq_str_of(host);
    *ret_port = 9092;
    return 0;
}

/* --- For tests --- */

/* A request of VERSION for KEY from the ground's caller; its body is to be filled. */
static inline void kit_make(struct ground *ground, int16_t key, int16_t version,
                            struct kq_request *ret)
{
    const struct kq_message *message = kq_message_find(key);
    kit_server.options = (struct kq_server_options){.fetch_max_bytes = 1 << 20,
                                                    .max_described_partitions = 100,
                                                    .auto_create_topics = true,
                                                    .umask = 022};
    kit_server.broker = ground->broker;
    kit_offloads = 0;
    kit_posted = NULL;
    kit_timer = NULL;
    *ret = (struct kq_request){.version = version,
                               .client_id = "",
                               .caller = ground_caller,
                               .broker = ground->broker,
                               .server = &kit_server};
    kq_arena_init(&ret->arena, 1 << 20);
    ret->body = kq_arena_alloc(&ret->arena, kq_message_request_size(message));
    ret->response = kq_arena_alloc(&ret->arena, kq_message_response_size(message));
    kq_message_init_request(message, ret->body);
    kq_message_init_response(message, ret->response);
}

static inline void kit_drop(struct kq_request *request)
{
    if (request->release)
        request->release(request);
    kq_arena_release(&request->arena);
}

/* Is something posted? Waits for it where WAIT. */
static inline bool kit_is_posted(bool wait)
{
    pthread_mutex_lock(&kit_lock);
    while (wait && !kit_posted)
        pthread_cond_wait(&kit_news, &kit_lock);
    bool posted = kit_posted != NULL;
    pthread_mutex_unlock(&kit_lock);
    return posted;
}

/* Runs what was posted, which must be there. */
static inline enum kq_handled kit_run_posted(struct kq_request *request)
{
    pthread_mutex_lock(&kit_lock);
    kq_handle_fn run = kit_posted;
    kit_posted = NULL;
    pthread_mutex_unlock(&kit_lock);
    assert_non_null(run);
    return run(request);
}

/* Time goes by until the timer that is set rings. */
static inline void kit_ring(void)
{
    struct kq_timer *timer = kit_timer;
    assert_non_null(timer);
    timer->set = false;
    kit_timer = NULL;
    timer->expire(timer);
}

/* To its end: whatever it waits for happens. */
static inline enum kq_handled kit_finish(struct kq_request *request, enum kq_handled r)
{
    while (r == KQ_HANDLED_LATER || r == KQ_HANDLED_PARKED) {
        if (!kit_is_posted(false) && request->cancel)
            request->cancel(request);
        if (request->stage)
            return request->result;
        kit_is_posted(true);
        r = kit_run_posted(request);
    }
    return r;
}
