#include "net/throttle.h"

#include <string.h>

#include "broker/base/clock.h"
#include "broker/quota.h"
#include "net/internal.h"
#include "net/message.h"

#define PRODUCE 0

static struct kq_quotas *quotas_of(const struct kq_request *request)
{
    return request->server->quotas;
}

/* --- A thread's time --- */

int64_t kq_throttle_clock(const struct kq_request *request)
{
    return kq_unlikely(kq_quota_is_set(quotas_of(request), KQ_QUOTA_REQUEST)) ? kq_clock_mono_ns()
                                                                              : 0;
}

void kq_throttle_spent(struct kq_request *request, int64_t began_ns)
{
    if (kq_unlikely(began_ns))
        atomic_fetch_add_explicit(&request->busy_ns, kq_clock_mono_ns() - began_ns,
                                  memory_order_relaxed);
}

int64_t kq_throttle_send_clock(const struct kq_conn *conn)
{
    return kq_unlikely(kq_quota_is_set(conn->shard->server->quotas, KQ_QUOTA_REQUEST))
               ? kq_clock_mono_ns()
               : 0;
}

void kq_throttle_sent(struct kq_conn *conn, int64_t began_ns)
{
    if (kq_unlikely(began_ns))
        conn->sending_ns += kq_clock_mono_ns() - began_ns;
}

/* --- Charging --- */

static void hold(struct kq_request *request, int32_t throttle_ms)
{
    if (throttle_ms > request->throttle_ms)
        request->throttle_ms = throttle_ms;
}

int64_t kq_throttle_fetch_bytes(const struct kq_request *request)
{
    return kq_quota_at_once(quotas_of(request), KQ_QUOTA_FETCH, &request->caller);
}

bool kq_throttle_fetch(struct kq_request *request, int64_t bytes)
{
    bool taken;
    if (kq_likely(!kq_quota_is_set(quotas_of(request), KQ_QUOTA_FETCH)) || bytes == 0)
        return true;
    int32_t throttle_ms = kq_quota_try(quotas_of(request), KQ_QUOTA_FETCH, &request->caller, bytes,
                                       kq_clock_mono_ns(), &taken);
    hold(request, throttle_ms);
    return taken;
}

static void charge(struct kq_request *request, enum kq_quota_type type, int64_t amount)
{
    hold(request,
         kq_quota_charge(quotas_of(request), type, &request->caller, amount, kq_clock_mono_ns()));
}

/* Every response that can say it says it in a field of the same name. */
static void tell(struct kq_request *request)
{
    const struct kq_wire_shape *shape = &request->api->message->response->shapes[0];
    for (unsigned i = 0; i < shape->field_count; i++)
        if (strcmp(shape->fields[i].name, "throttle_time_ms") == 0)
            memcpy((char *)request->response + shape->fields[i].offset, &request->throttle_ms,
                   sizeof(request->throttle_ms));
}

void kq_throttle(struct kq_request *request)
{
    struct kq_conn *conn = request->conn;
    if (request->api->key == PRODUCE && kq_quota_is_set(quotas_of(request), KQ_QUOTA_PRODUCE))
        charge(request, KQ_QUOTA_PRODUCE, (int64_t)request->size);
    if (kq_quota_is_set(quotas_of(request), KQ_QUOTA_REQUEST)) {
        charge(request, KQ_QUOTA_REQUEST, atomic_load(&request->busy_ns) + conn->sending_ns);
        conn->sending_ns = 0;
    }
    if (kq_unlikely(request->throttle_ms > 0))
        tell(request);
}
