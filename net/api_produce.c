/* Produce: a client's batches go into the log as they are.
 *
 * Happy path: each partition's batch is checked and appended on the loop, and the response is
 * there. What would take long (much to decompress, a disk) goes to a thread of the pool with all
 * that follows it in the request, and so does everything while the kernel throttles those who
 * write: one slow append is an accident, but the next would hold up every other client of the loop,
 * too. A request for very many partitions goes there as a whole. A topic that wants each message on
 * disk parks the request until it is.
 *
 * Source: Kafka's ProduceRequest.json and ProduceResponse.json, KafkaApis.handleProduceRequest;
 * KIP-98, KIP-110 (zstd), KIP-467 (record errors), KIP-516 (topic ids).
 */
#include <stdatomic.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/produce.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/produce.h"
#include "net/produce_sync.h"
#include "net/scratch.h"
#include "net/topics.h"

#define FIRST_WITH_ZSTD 7
#define FIRST_WITH_IDS 13

/* An append that takes so long was held up by more than its own work, and how long it is then
 * believed that others will be. */
#define SLOW_NS INT64_C(8000000)
#define SLOW_FOR_NS INT64_C(500000000)

typedef const struct kq_produce_request_topic asked_topic;
typedef const struct kq_produce_request_partition asked_partition;
typedef struct kq_produce_response_partition answered_partition;

struct part {
    asked_partition *asked;
    answered_partition *answer;
    const struct kq_topic_ref *ref;
    struct kq_access access; /* its partition is referenced; NULL: refused */
};

struct work {
    struct kq_produce_waits waits; /* first: produce_sync.h */
    struct kq_topic_ref *refs;
    struct part *parts;
    int32_t count;
    int32_t next; /* parts before this were appended or refused */
};

static _Atomic int64_t slow_until_ns;

/* --- The answer --- */

static void refuse(struct part *part, int16_t error)
{
    part->answer->error_code = error;
    part->answer->base_offset = -1;
}

static bool has_failed(const struct kq_request *request)
{
    const struct work *work = request->state;
    for (int32_t i = 0; i < work->count; i++)
        if (work->parts[i].answer->error_code)
            return true;
    return false;
}

/* A client that wants no answer hears of an error by the end of its connection. */
static enum kq_handled conclude(struct kq_request *request)
{
    const struct kq_produce_request *body = request->body;
    if (body->acks != 0)
        return KQ_HANDLED_NOW;
    if (!has_failed(request))
        return KQ_HANDLED_SILENT;
    request->told_by_end = true;
    return KQ_HANDLED_CLOSE;
}

static int explain(struct kq_request *request, struct part *part,
                   const struct kq_produced *produced, const struct kq_buf *blamed)
{
    answered_partition *answer = part->answer;
    const struct kq_blamed only = {produced->record_index, produced->reason};
    const struct kq_blamed *all = &only;
    size_t count = produced->record_index < 0 ? 0 : 1;
    answer->error_message = kq_str_of(produced->reason);
    if (blamed->length) {
        all = (const struct kq_blamed *)(const void *)blamed->data;
        count = blamed->length / sizeof(*all);
    }
    answer->record_errors = kq_produce_response_record_error_array(&request->arena, count);
    if (!answer->record_errors)
        return -ENOMEM;
    answer->record_errors_count = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        answer->record_errors[i].batch_index = all[i].index;
        answer->record_errors[i].batch_index_error_message = kq_str_of(all[i].reason);
    }
    return 0;
}

static void note_sync(struct kq_request *request, struct part *part)
{
    struct work *work = request->state;
    work->waits.at[work->waits.count++] = (struct kq_produce_wait){
        .partition = part->access.partition, .error = &part->answer->error_code};
}

static int take_result(struct kq_request *request, struct part *part, int r,
                       const struct kq_produced *produced, const struct kq_buf *blamed)
{
    part->answer->log_start_offset = produced->log_start_offset;
    if (r == 0 || r == KQ_MUST_SYNC) {
        part->answer->base_offset = produced->base_offset;
        part->answer->log_append_time_ms = produced->log_append_time;
        if (r == KQ_MUST_SYNC)
            note_sync(request, part);
        return 0;
    }
    refuse(part, r == -ESTALE ? kq_topics_gone(part->ref) : kq_error_from(r));
    return r > 0 ? explain(request, part, produced, blamed) : 0;
}

/* --- Appending --- */

static void note_duration(int64_t before_ns)
{
    int64_t now_ns = kq_clock_mono_ns();
    if (now_ns - before_ns > SLOW_NS)
        atomic_store_explicit(&slow_until_ns, now_ns + SLOW_FOR_NS, memory_order_relaxed);
}

static bool is_slow_now(void)
{
    int64_t until_ns = atomic_load_explicit(&slow_until_ns, memory_order_relaxed);
    return kq_unlikely(until_ns > 0) && kq_clock_mono_ns() < until_ns;
}

/* 0; KQ_WOULD_BLOCK; -ENOMEM. */
static int append(struct kq_request *request, struct part *part, unsigned flags)
{
    static uint8_t nothing[1];
    kq_autobuf struct kq_buf blamed = {0};
    const struct kq_wire_records *records = &part->asked->records;
    struct kq_produce produce = {
        .bytes = records->length > 0 ? (uint8_t *)records->data : nothing,
        .length = records->length > 0 ? (size_t)records->length : 0,
        .flags = flags | (request->version >= FIRST_WITH_ZSTD ? KQ_PRODUCE_ZSTD : 0),
        .scratch = kq_net_scratch(),
        .blamed = &blamed,
    };
    struct kq_produced produced = {.log_start_offset = -1, .record_index = -1};
    if (!produce.scratch)
        return -ENOMEM;
    int64_t before_ns = kq_clock_mono_ns();
    int r = kq_produce_batch(&part->access, &produce, &produced);
    if (r == KQ_WOULD_BLOCK)
        return r;
    note_duration(before_ns);
    return take_result(request, part, r, &produced, &blamed);
}

/* From work->next on. 0; KQ_WOULD_BLOCK; -ENOMEM: what was appended is not acknowledged. */
static int append_rest(struct kq_request *request, unsigned flags)
{
    struct work *work = request->state;
    for (; work->next < work->count; work->next++) {
        struct part *part = &work->parts[work->next];
        if (!part->access.partition)
            continue;
        if (!(flags & KQ_PRODUCE_MAY_BLOCK) && is_slow_now())
            return KQ_WOULD_BLOCK;
        int r = append(request, part, flags);
        if (r != 0)
            return r;
    }
    return 0;
}

static enum kq_handled sync_appended(struct kq_request *request)
{
    const struct kq_produce_request *body = request->body;
    return kq_produce_sync(request, body->timeout_ms, conclude);
}

static enum kq_handled append_slowly(struct kq_request *request)
{
    struct work *work = request->state;
    if (append_rest(request, KQ_PRODUCE_MAY_BLOCK) < 0)
        return KQ_HANDLED_CLOSE;
    if (work->waits.count == 0)
        return conclude(request);
    kq_request_post(request, sync_appended);
    return KQ_HANDLED_LATER;
}

/* --- Planning --- */

static void release(struct kq_request *request)
{
    struct work *work = request->state;
    for (int32_t i = 0; i < work->count; i++)
        kq_partition_unref(work->parts[i].access.partition);
}

/* What is wrong with all of it. */
static int16_t check_request(const struct kq_request *request)
{
    const struct kq_produce_request *body = request->body;
    if (body->transactional_id.length >= 0)
        return KQ_ERROR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    return body->acks < -1 || body->acks > 1 ? KQ_ERROR_INVALID_REQUIRED_ACKS : KQ_ERROR_NONE;
}

static int16_t open_part(struct kq_request *request, struct part *part, struct kq_topic *topic)
{
    int16_t error = kq_topics_access(request, part->ref, topic, part->asked->index, KQ_RIGHT_WRITE,
                                     &part->access);
    if (error || !kq_topic_is_internal(kq_topic_name(topic)))
        return error;
    kq_partition_unref(part->access.partition);
    part->access.partition = NULL;
    return KQ_ERROR_INVALID_TOPIC_EXCEPTION;
}

static int plan_topic(struct kq_request *request, asked_topic *asked, struct kq_topic_ref *ref,
                      struct kq_produce_response_topic *answer)
{
    struct work *work = request->state;
    struct kq_topic *topic = NULL;
    bool by_id = request->version >= FIRST_WITH_IDS;
    *ref = (struct kq_topic_ref){.name = asked->name, .id = by_id ? asked->topic_id : NULL};
    answer->name = asked->name;
    memcpy(answer->topic_id, asked->topic_id, sizeof(answer->topic_id));
    answer->partition_responses =
        kq_produce_response_partition_array(&request->arena, (size_t)asked->partition_data_count);
    if (!answer->partition_responses)
        return -ENOMEM;
    answer->partition_responses_count = asked->partition_data_count;
    int16_t error = check_request(request);
    if (!error)
        error = kq_topics_find(request, ref, &topic);
    for (int32_t i = 0; i < asked->partition_data_count; i++) {
        struct part *part = &work->parts[work->count++];
        *part = (struct part){.asked = &asked->partition_data[i],
                              .answer = &answer->partition_responses[i],
                              .ref = ref};
        part->answer->index = part->asked->index;
        int16_t refused = error ? error : open_part(request, part, topic);
        if (refused)
            refuse(part, refused);
    }
    kq_topic_unref(topic);
    return 0;
}

static size_t count_parts(const struct kq_produce_request *body)
{
    size_t total = 0;
    for (int32_t i = 0; i < body->topic_data_count; i++)
        total += (size_t)body->topic_data[i].partition_data_count;
    return total;
}

static struct work *allocate(struct kq_request *request)
{
    const struct kq_produce_request *body = request->body;
    struct kq_produce_response *response = request->response;
    struct work *work = kq_arena_alloc(&request->arena, sizeof(*work));
    size_t total = count_parts(body);
    if (!work)
        return NULL;
    work->parts = kq_arena_array(&request->arena, total, sizeof(*work->parts));
    work->waits.at = kq_arena_array(&request->arena, total, sizeof(*work->waits.at));
    work->refs =
        kq_arena_array(&request->arena, (size_t)body->topic_data_count, sizeof(*work->refs));
    response->responses =
        kq_produce_response_topic_array(&request->arena, (size_t)body->topic_data_count);
    return work->parts && work->waits.at && work->refs && response->responses ? work : NULL;
}

static int plan(struct kq_request *request)
{
    const struct kq_produce_request *body = request->body;
    struct kq_produce_response *response = request->response;
    struct work *work = allocate(request);
    if (!work)
        return -ENOMEM;
    request->state = work;
    request->release = release;
    response->responses_count = body->topic_data_count;
    for (int32_t i = 0; i < body->topic_data_count; i++) {
        int r = plan_topic(request, &body->topic_data[i], &work->refs[i], &response->responses[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static enum kq_handled produce_slowly(struct kq_request *request)
{
    return plan(request) < 0 ? KQ_HANDLED_CLOSE : append_slowly(request);
}

enum kq_handled kq_api_produce(struct kq_request *request)
{
    if (count_parts(request->body) > KQ_WIDE_PARTITIONS)
        return kq_request_offload(request, produce_slowly);
    if (plan(request) < 0)
        return KQ_HANDLED_CLOSE;
    int r = append_rest(request, 0);
    if (r < 0)
        return KQ_HANDLED_CLOSE;
    if (r == KQ_WOULD_BLOCK)
        return kq_request_offload(request, append_slowly);
    const struct work *work = request->state;
    return work->waits.count > 0 ? sync_appended(request) : conclude(request);
}
