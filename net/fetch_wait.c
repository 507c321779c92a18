/* Long polls: a Fetch that has less than it wants waits in the broker, without a thread.
 *
 * It has one waiter for each partition. A wake comes from the thread that appends; it puts the
 * partition on the list of the woken ones and has the loop look at it. Only these are read again.
 *
 * NEWS counts the waiters that have still to come, in steps of ARMED, and has the bit POSTED from
 * the moment at which somebody is to have the loop called until it is. A wake takes its leave in
 * one step of it, and is done with the request's memory unless it was it that set the bit: so the
 * request may go when, on the loop, NEWS is 0.
 */
#include <stddef.h>

#include "net/errmap.h"
#include "net/fetch.h"
#include "net/internal.h"
#include "net/throttle.h"

#define POSTED 1u
#define ARMED 2u

#define NS_PER_MS INT64_C(1000000)

static enum kq_handled go_on(struct kq_request *request);

/* --- From other threads --- */

/* The loop is to go on; LEAVING: ARMED if a waiter says so, which then is out. */
static void tell(struct kq_fetch *fetch, unsigned leaving)
{
    struct kq_request *request = fetch->request;
    unsigned before = atomic_load_explicit(&fetch->news, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&fetch->news, &before,
                                                  (before - leaving) | POSTED, memory_order_acq_rel,
                                                  memory_order_relaxed))
        ;
    if (!(before & POSTED))
        kq_request_post(request, go_on);
}

static void wake(struct kq_waiter *waiter, enum kq_wake why)
{
    struct kq_fetch_part *part =
        (struct kq_fetch_part *)((char *)waiter - offsetof(struct kq_fetch_part, waiter));
    struct kq_fetch *fetch = part->fetch;
    part->why = why;
    part->next = atomic_load_explicit(&fetch->woken, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&fetch->woken, &part->next, part,
                                                  memory_order_release, memory_order_relaxed))
        ;
    tell(fetch, ARMED);
}

/* --- On the loop --- */

static void expire(struct kq_timer *timer)
{
    struct kq_fetch *fetch = (struct kq_fetch *)((char *)timer - offsetof(struct kq_fetch, timer));
    fetch->due = true;
    tell(fetch, 0);
}

static void cancel(struct kq_request *request)
{
    struct kq_fetch *fetch = request->state;
    fetch->due = true;
    tell(fetch, 0);
}

void kq_fetch_prepare(struct kq_fetch *fetch)
{
    fetch->timer.expire = expire;
    for (int32_t i = 0; i < fetch->count; i++) {
        fetch->parts[i].waiter.wake = wake;
        fetch->parts[i].waiter.unstable = !fetch->committed;
    }
    fetch->request->cancel = cancel;
}

/* Where the leader is that an answer names. Without it the client asks for metadata. */
static void add_endpoint(struct kq_fetch *fetch)
{
    struct kq_request *request = fetch->request;
    struct kq_fetch_response *response = request->response;
    struct kq_fetch_response_node_endpoint *endpoint =
        kq_fetch_response_node_endpoint_array(&request->arena, 1);
    if (!endpoint ||
        kq_conn_advertised(request->conn, &request->arena, &endpoint->host, &endpoint->port) < 0)
        return;
    endpoint->node_id = kq_broker_node_id(request->broker);
    response->node_endpoints = endpoint;
    response->node_endpoints_count = 1;
}

/* The client has had too much of late, and will ask again when it may. Without any partition, so
 * that it knows nothing of them that would be older then. */
static enum kq_handled answer_nothing(struct kq_fetch *fetch)
{
    struct kq_fetch_response *response = fetch->request->response;
    response->responses_count = 0;
    return KQ_HANDLED_NOW;
}

/* Who has lost the right to read while it waited gets nothing of what came meanwhile. */
static void ask_again(struct kq_fetch *fetch)
{
    const struct kq_request *request = fetch->request;
    if (kq_attribute_changes(request->broker) == fetch->attribute_changes &&
        request->identity_changes == fetch->identity_changes)
        return;
    for (int32_t i = 0; i < fetch->count; i++) {
        struct kq_fetch_part *part = &fetch->parts[i];
        struct kq_access access;
        if (!part->access.partition)
            continue;
        int r =
            kq_partition_access(part->access.partition, &request->caller, KQ_RIGHT_READ, &access);
        if (r != 0)
            kq_fetch_refuse(part, r == -ESTALE ? kq_topics_gone(part->ref)
                                               : KQ_ERROR_TOPIC_AUTHORIZATION_FAILED);
    }
}

/* Nothing further is waited for: the response, or the wait for wakes that are on their way. */
static enum kq_handled conclude(struct kq_fetch *fetch)
{
    fetch->due = true;
    if (fetch->timer.set)
        kq_request_cancel_timer(fetch->request, &fetch->timer);
    for (int32_t i = 0; i < fetch->count; i++) {
        struct kq_fetch_part *part = &fetch->parts[i];
        if (part->armed && kq_unwait(&part->waiter) == 0) {
            part->armed = false;
            atomic_fetch_sub_explicit(&fetch->news, ARMED, memory_order_acq_rel);
        }
    }
    if (atomic_load_explicit(&fetch->news, memory_order_acquire) != 0)
        return KQ_HANDLED_PARKED;
    fetch->request->cancel = NULL;
    ask_again(fetch);
    if (!kq_throttle_fetch(fetch->request, fetch->bytes))
        return answer_nothing(fetch);
    for (int32_t i = 0; i < fetch->count; i++)
        kq_fetch_finish(&fetch->parts[i]);
    if (fetch->fenced)
        add_endpoint(fetch);
    return KQ_HANDLED_NOW;
}

static bool is_complete(const struct kq_fetch *fetch)
{
    return fetch->due || fetch->bytes >= fetch->min_bytes;
}

static void stop_waiting_for(struct kq_fetch_part *part, int r)
{
    if (r == -ESHUTDOWN || r == KQ_WOULD_BLOCK)
        part->fetch->due = true;
    else
        kq_fetch_refuse(part, r == -ESTALE ? kq_topics_gone(part->ref) : kq_error_from(r));
}

/* 0; KQ_READY: there is more already; -errno. */
static int arm(struct kq_fetch_part *part)
{
    struct kq_fetch *fetch = part->fetch;
    int64_t from = part->extent.length > 0 ? part->extent.next_offset : part->asked->fetch_offset;
    atomic_fetch_add_explicit(&fetch->news, ARMED, memory_order_acq_rel);
    int r = kq_wait(part->access.partition, &part->waiter, from);
    if (r == 0)
        part->armed = true;
    else
        atomic_fetch_sub_explicit(&fetch->news, ARMED, memory_order_acq_rel);
    return r;
}

/* Arms PART, or takes what has come meanwhile. Where that is nothing, what there is lies in another
 * segment: the next Fetch gets it. */
static void wait_for(struct kq_fetch_part *part)
{
    struct kq_fetch *fetch = part->fetch;
    while (part->access.partition && !part->armed && !is_complete(fetch)) {
        uint32_t had = part->extent.length;
        int r = arm(part);
        if (r == KQ_READY) {
            r = kq_fetch_read(part, false);
            fetch->due = fetch->due || part->extent.length <= had;
        }
        if (r != 0)
            stop_waiting_for(part, r);
    }
}

/* False: the next one may wait for a disk. */
static bool read_parts(struct kq_fetch *fetch, bool may_block)
{
    while (fetch->unread) {
        struct kq_fetch_part *part = fetch->unread;
        if (kq_fetch_read(part, may_block) != 0)
            return false;
        fetch->unread = part->next;
        part->next = fetch->read;
        fetch->read = part;
    }
    return true;
}

static enum kq_handled read_slowly(struct kq_request *request)
{
    struct kq_fetch *fetch = request->state;
    read_parts(fetch, true);
    tell(fetch, 0);
    return KQ_HANDLED_LATER;
}

static void wait_for_parts(struct kq_fetch *fetch)
{
    while (fetch->read && !is_complete(fetch)) {
        struct kq_fetch_part *part = fetch->read;
        fetch->read = part->next;
        wait_for(part);
    }
}

/* Wakes that come meanwhile are looked at behind this: the loop goes on only where the request is
 * back from the thread. */
void kq_fetch_begin(struct kq_fetch *fetch)
{
    read_parts(fetch, true);
    wait_for_parts(fetch);
    tell(fetch, 0);
}

enum kq_handled kq_fetch_advance(struct kq_fetch *fetch)
{
    struct kq_request *request = fetch->request;
    const struct kq_fetch_request *body = request->body;
    if (!read_parts(fetch, false))
        return kq_request_offload(request, read_slowly);
    wait_for_parts(fetch);
    if (is_complete(fetch))
        return conclude(fetch);
    if (!fetch->timer.set)
        kq_request_set_timer(request, &fetch->timer,
                             request->received_ns + body->max_wait_ms * NS_PER_MS);
    return KQ_HANDLED_PARKED;
}

static enum kq_handled go_on(struct kq_request *request)
{
    struct kq_fetch *fetch = request->state;
    atomic_fetch_and_explicit(&fetch->news, ~POSTED, memory_order_acq_rel);
    struct kq_fetch_part *part =
        atomic_exchange_explicit(&fetch->woken, NULL, memory_order_acquire);
    while (part) {
        struct kq_fetch_part *next = part->next;
        part->armed = false;
        if (part->why == KQ_WAKE_GONE) {
            kq_fetch_refuse(part, kq_topics_gone(part->ref));
        } else if (part->why == KQ_WAKE_CLOSING) {
            fetch->due = true;
        } else {
            part->next = fetch->unread;
            fetch->unread = part;
        }
        part = next;
    }
    return kq_fetch_advance(fetch);
}
