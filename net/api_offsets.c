/* OffsetCommit (8), OffsetFetch (9) and OffsetDelete (47): how far a group has come. */
#include <string.h>

#include "broker/groups.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/offset_commit.h"
#include "net/message/offset_delete.h"
#include "net/message/offset_fetch.h"
#include "net/topics.h"

/* Is NUMBER a partition of TOPIC that the caller may READ (DESCRIBE)? */
static int16_t check_partition(struct kq_request *request, const struct kq_topic_ref *ref,
                               struct kq_topic *topic, int32_t number, unsigned right)
{
    struct kq_access access;
    int16_t error = kq_topics_access(request, ref, topic, number, right, &access);
    if (!error)
        kq_partition_unref(access.partition);
    return error;
}

/* --- OffsetCommit --- */

/* A commit under way; in the request's arena. */
struct committing {
    struct kq_group_commit commit; /* first: its change comes back */
    struct kq_request *request;
    int16_t **errors; /* of each of commit.offsets, in the response */
};

static size_t count_committed(const struct kq_offset_commit_request *body)
{
    size_t count = 0;
    for (int32_t i = 0; i < body->topics_count; i++)
        count += (size_t)body->topics[i].partitions_count;
    return count;
}

/* Each offset's own error, or that of all. */
static void note_outcome(struct committing *committing, int result)
{
    for (int32_t i = 0; i < committing->commit.offset_count; i++) {
        int own = committing->commit.offsets[i].result;
        *committing->errors[i] = kq_error_of_group(own ? own : result);
    }
}

/* From any thread. */
static void committed(struct kq_group_change *change)
{
    struct committing *committing = (struct committing *)(void *)change;
    note_outcome(committing, change->result);
    kq_request_done(committing->request);
}

static void add_offset(struct committing *committing, struct kq_topic *topic,
                       const struct kq_offset_commit_request_partition *wanted, int16_t *error)
{
    int32_t i = committing->commit.offset_count++;
    committing->errors[i] = error;
    committing->commit.offsets[i] = (struct kq_group_committed){
        .topic = kq_topic_ref(topic),
        .partition = wanted->partition_index,
        .leader_epoch = wanted->committed_leader_epoch,
        .offset = wanted->committed_offset,
        .metadata = wanted->committed_metadata,
    };
}

static int add_topic(struct kq_request *request, struct committing *committing,
                     const struct kq_offset_commit_request_topic *wanted,
                     struct kq_offset_commit_response_topic *ret)
{
    const struct kq_topic_ref ref = {.name = wanted->name};
    struct kq_topic *topic = NULL;
    ret->name = wanted->name;
    ret->partitions = kq_offset_commit_response_partition_array(&request->arena,
                                                                (size_t)wanted->partitions_count);
    if (!ret->partitions)
        return -ENOMEM;
    ret->partitions_count = wanted->partitions_count;
    int16_t error = kq_topics_describe(request, &ref, &topic);
    for (int32_t i = 0; i < wanted->partitions_count; i++) {
        struct kq_offset_commit_response_partition *one = &ret->partitions[i];
        one->partition_index = wanted->partitions[i].partition_index;
        one->error_code =
            error ? error
                  : check_partition(request, &ref, topic, one->partition_index, KQ_RIGHT_READ);
        if (!one->error_code)
            add_offset(committing, topic, &wanted->partitions[i], &one->error_code);
    }
    kq_topic_unref(topic);
    return 0;
}

static struct committing *begin_commit(struct kq_request *request)
{
    const struct kq_offset_commit_request *body = request->body;
    size_t count = count_committed(body);
    struct committing *committing = kq_arena_alloc(&request->arena, sizeof(*committing));
    if (!committing)
        return NULL;
    committing->request = request;
    committing->errors = kq_arena_array(&request->arena, count, sizeof(*committing->errors));
    committing->commit = (struct kq_group_commit){
        .change.done = committed,
        .group = body->group_id,
        .member_id = body->member_id,
        .instance_id = body->group_instance_id,
        .generation = body->generation_id_or_member_epoch,
        .knows_not_found = request->version >= 9,
        .retention_ms = body->retention_time_ms,
        .offsets = kq_arena_array(&request->arena, count, sizeof(*committing->commit.offsets)),
    };
    return committing->errors && committing->commit.offsets ? committing : NULL;
}

static int collect(struct kq_request *request, struct committing *committing)
{
    const struct kq_offset_commit_request *body = request->body;
    struct kq_offset_commit_response *response = request->response;
    response->topics =
        kq_offset_commit_response_topic_array(&request->arena, (size_t)body->topics_count);
    if (!response->topics)
        return -ENOMEM;
    response->topics_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++)
        if (add_topic(request, committing, &body->topics[i], &response->topics[i]) < 0)
            return -ENOMEM;
    return 0;
}

static void let_go(const struct committing *committing)
{
    for (int32_t i = 0; i < committing->commit.offset_count; i++)
        kq_topic_unref(committing->commit.offsets[i].topic);
}

/* The request outlives this call, also where its answer comes before this returns. */
static int commit(struct kq_request *request, struct committing *committing, bool may_block)
{
    int r = collect(request, committing);
    if (r == 0 && may_block)
        r = kq_groups_prepare(request->broker, true);
    if (r == 0)
        r = kq_group_commit(request->broker, &request->caller, &committing->commit);
    let_go(committing);
    return r;
}

static enum kq_handled run_commit(struct kq_request *request, bool may_block);

static enum kq_handled prepare_and_commit(struct kq_request *request)
{
    return run_commit(request, true);
}

static enum kq_handled run_commit(struct kq_request *request, bool may_block)
{
    struct committing *committing = begin_commit(request);
    int r = committing ? commit(request, committing, may_block) : -ENOMEM;
    if (r == -ENOMEM)
        return KQ_HANDLED_CLOSE;
    if (r == 0)
        return KQ_HANDLED_LATER;
    if (r == KQ_WOULD_BLOCK)
        return kq_request_offload(request, prepare_and_commit);
    note_outcome(committing, r == KQ_READY ? 0 : r);
    return KQ_HANDLED_NOW;
}

enum kq_handled kq_api_offset_commit(struct kq_request *request)
{
    return run_commit(request, false);
}

/* --- OffsetFetch --- */

/* What one group's answer is made of, in the words of version 8; earlier ones are copied from it.
 */
struct fetched {
    struct kq_request *request;
    struct kq_group *group; /* NULL: there is none, so nothing was committed */
    int16_t error;
};

static int16_t open_group(struct kq_request *request, struct kq_str name, struct kq_group **ret)
{
    int r = kq_group_get(request->broker, &request->caller, name, KQ_RIGHT_READ, ret);
    if (r == KQ_GROUP_NOT_FOUND || r == KQ_WOULD_BLOCK)
        return KQ_ERROR_NONE;
    return kq_error_of_group(r);
}

static int fetch_partition(const struct fetched *fetched, struct kq_str topic, int32_t number,
                           int16_t error, struct kq_offset_fetch_response_group_partition *ret)
{
    struct kq_group_offset offset = {.offset = -1, .leader_epoch = -1, .metadata = KQ_STR("")};
    if (!error && fetched->group) {
        int r =
            kq_group_offset_get(fetched->group, topic, number, &fetched->request->arena, &offset);
        if (r < 0)
            return r;
    }
    ret->partition_index = number;
    ret->committed_offset = offset.offset;
    ret->committed_leader_epoch = offset.leader_epoch;
    ret->metadata = offset.metadata;
    ret->error_code = error;
    return 0;
}

/* Of a topic that is not there any more nothing is committed, which is no error. */
static int16_t may_see(struct kq_request *request, struct kq_str name)
{
    struct kq_topic *topic;
    int16_t error = kq_topics_describe(request, &(struct kq_topic_ref){.name = name}, &topic);
    if (!error)
        kq_topic_unref(topic);
    return error == KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION ? KQ_ERROR_NONE : error;
}

static int fetch_topic(const struct fetched *fetched, struct kq_str name, const int32_t *numbers,
                       int32_t count, struct kq_offset_fetch_response_group_topic *ret)
{
    int16_t error = fetched->error ? fetched->error : may_see(fetched->request, name);
    ret->name = name;
    ret->partitions =
        kq_offset_fetch_response_group_partition_array(&fetched->request->arena, (size_t)count);
    if (!ret->partitions)
        return -ENOMEM;
    ret->partitions_count = count;
    for (int32_t i = 0; i < count; i++) {
        int r = fetch_partition(fetched, name, numbers[i], error, &ret->partitions[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static int copy_offsets(struct kq_request *request, const struct kq_group_topic_offsets *from,
                        struct kq_offset_fetch_response_group_topic *ret)
{
    ret->name = from->topic;
    ret->partitions = kq_offset_fetch_response_group_partition_array(&request->arena,
                                                                     (size_t)from->partition_count);
    if (!ret->partitions)
        return -ENOMEM;
    ret->partitions_count = from->partition_count;
    for (int32_t i = 0; i < from->partition_count; i++)
        ret->partitions[i] = (struct kq_offset_fetch_response_group_partition){
            .partition_index = from->partitions[i].partition,
            .committed_offset = from->partitions[i].offset.offset,
            .committed_leader_epoch = from->partitions[i].offset.leader_epoch,
            .metadata = from->partitions[i].offset.metadata,
        };
    return 0;
}

/* All that is committed, of topics that the caller may look at. */
static int fetch_all(const struct fetched *fetched, struct kq_offset_fetch_response_group *ret)
{
    struct kq_request *request = fetched->request;
    struct kq_group_topic_offsets *topics = NULL;
    int32_t count = 0;
    int r = fetched->group ? kq_group_offsets(fetched->group, &request->arena, &topics, &count) : 0;
    if (r < 0)
        return r;
    ret->topics = kq_offset_fetch_response_group_topic_array(&request->arena, (size_t)count);
    if (!ret->topics)
        return -ENOMEM;
    for (int32_t i = 0; i < count && r == 0; i++)
        if (!may_see(request, topics[i].topic))
            r = copy_offsets(request, &topics[i], &ret->topics[ret->topics_count++]);
    return r;
}

static int fetch_group(struct kq_request *request,
                       const struct kq_offset_fetch_request_group *wanted,
                       struct kq_offset_fetch_response_group *ret)
{
    struct fetched fetched = {.request = request};
    ret->group_id = wanted->group_id;
    ret->error_code = fetched.error = open_group(request, wanted->group_id, &fetched.group);
    int r = 0;
    if (wanted->topics_count < 0) {
        r = fetched.error ? 0 : fetch_all(&fetched, ret);
    } else {
        ret->topics = kq_offset_fetch_response_group_topic_array(&request->arena,
                                                                 (size_t)wanted->topics_count);
        r = ret->topics ? 0 : -ENOMEM;
        for (int32_t i = 0; i < wanted->topics_count && r == 0; i++)
            r = fetch_topic(&fetched, wanted->topics[i].name, wanted->topics[i].partition_indexes,
                            wanted->topics[i].partition_indexes_count,
                            &ret->topics[ret->topics_count++]);
    }
    kq_group_unref(fetched.group);
    return r;
}

/* Versions up to 7 ask for one group, in fields of their own. */
static int rephrase(struct kq_request *request, struct kq_offset_fetch_request_group *ret)
{
    const struct kq_offset_fetch_request *body = request->body;
    ret->group_id = body->group_id;
    ret->topics_count = body->topics_count;
    if (body->topics_count < 0)
        return 0;
    ret->topics =
        kq_offset_fetch_request_group_topic_array(&request->arena, (size_t)body->topics_count);
    if (!ret->topics)
        return -ENOMEM;
    for (int32_t i = 0; i < body->topics_count; i++) {
        ret->topics[i].name = body->topics[i].name;
        ret->topics[i].partition_indexes = body->topics[i].partition_indexes;
        ret->topics[i].partition_indexes_count = body->topics[i].partition_indexes_count;
    }
    return 0;
}

static int answer_one(struct kq_request *request, const struct kq_offset_fetch_response_group *from)
{
    struct kq_offset_fetch_response *response = request->response;
    /* Version 1 has no error but those of its partitions. */
    response->error_code = from->error_code;
    response->topics =
        kq_offset_fetch_response_topic_array(&request->arena, (size_t)from->topics_count);
    if (!response->topics)
        return -ENOMEM;
    response->topics_count = from->topics_count;
    for (int32_t i = 0; i < from->topics_count; i++) {
        const struct kq_offset_fetch_response_group_topic *topic = &from->topics[i];
        struct kq_offset_fetch_response_topic *ret = &response->topics[i];
        ret->name = topic->name;
        ret->partitions = kq_offset_fetch_response_partition_array(&request->arena,
                                                                   (size_t)topic->partitions_count);
        if (!ret->partitions)
            return -ENOMEM;
        ret->partitions_count = topic->partitions_count;
        for (int32_t j = 0; j < topic->partitions_count; j++)
            ret->partitions[j] = (struct kq_offset_fetch_response_partition){
                .partition_index = topic->partitions[j].partition_index,
                .committed_offset = topic->partitions[j].committed_offset,
                .committed_leader_epoch = topic->partitions[j].committed_leader_epoch,
                .metadata = topic->partitions[j].metadata,
                .error_code = topic->partitions[j].error_code,
            };
    }
    return 0;
}

enum kq_handled kq_api_offset_fetch(struct kq_request *request)
{
    const struct kq_offset_fetch_request *body = request->body;
    struct kq_offset_fetch_response *response = request->response;
    struct kq_offset_fetch_request_group *one;
    if (request->version < 8) {
        struct kq_offset_fetch_response_group *group =
            kq_offset_fetch_response_group_array(&request->arena, 1);
        one = kq_offset_fetch_request_group_array(&request->arena, 1);
        if (!one || !group || rephrase(request, one) < 0 || fetch_group(request, one, group) < 0)
            return KQ_HANDLED_CLOSE;
        return answer_one(request, group) < 0 ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
    }
    response->groups =
        kq_offset_fetch_response_group_array(&request->arena, (size_t)body->groups_count);
    if (!response->groups)
        return KQ_HANDLED_CLOSE;
    response->groups_count = body->groups_count;
    for (int32_t i = 0; i < body->groups_count; i++)
        if (fetch_group(request, &body->groups[i], &response->groups[i]) < 0)
            return KQ_HANDLED_CLOSE;
    return KQ_HANDLED_NOW;
}

/* --- OffsetDelete --- */

/* A deletion under way; in the request's arena. */
struct deleting {
    struct kq_group_change change; /* first */
    struct kq_request *request;
    struct kq_group_partition *partitions;
    int16_t **errors; /* of each, in the response */
    size_t count;
};

static void note_deleted(struct deleting *deleting, int result)
{
    struct kq_offset_delete_response *response = deleting->request->response;
    response->error_code = kq_error_of_group(result);
    for (size_t i = 0; i < deleting->count && result == 0; i++)
        *deleting->errors[i] = kq_error_of_group(deleting->partitions[i].result);
}

/* From any thread. */
static void offsets_deleted(struct kq_group_change *change)
{
    struct deleting *deleting = (struct deleting *)(void *)change;
    note_deleted(deleting, change->result);
    kq_request_done(deleting->request);
}

static int add_deleted(struct kq_request *request, struct deleting *deleting,
                       const struct kq_offset_delete_request_topic *wanted,
                       struct kq_offset_delete_response_topic *ret)
{
    const struct kq_topic_ref ref = {.name = wanted->name};
    struct kq_topic *topic = NULL;
    ret->name = wanted->name;
    ret->partitions = kq_offset_delete_response_partition_array(&request->arena,
                                                                (size_t)wanted->partitions_count);
    if (!ret->partitions)
        return -ENOMEM;
    ret->partitions_count = wanted->partitions_count;
    int16_t error = kq_topics_describe(request, &ref, &topic);
    for (int32_t i = 0; i < wanted->partitions_count; i++) {
        struct kq_offset_delete_response_partition *one = &ret->partitions[i];
        one->partition_index = wanted->partitions[i].partition_index;
        one->error_code =
            error ? error
                  : check_partition(request, &ref, topic, one->partition_index, KQ_RIGHT_READ);
        if (one->error_code)
            continue;
        deleting->errors[deleting->count] = &one->error_code;
        deleting->partitions[deleting->count++] =
            (struct kq_group_partition){.topic = wanted->name, .partition = one->partition_index};
    }
    kq_topic_unref(topic);
    return 0;
}

static struct deleting *collect_deleted(struct kq_request *request)
{
    const struct kq_offset_delete_request *body = request->body;
    struct kq_offset_delete_response *response = request->response;
    struct deleting *deleting = kq_arena_alloc(&request->arena, sizeof(*deleting));
    size_t count = 0;
    for (int32_t i = 0; i < body->topics_count; i++)
        count += (size_t)body->topics[i].partitions_count;
    response->topics =
        kq_offset_delete_response_topic_array(&request->arena, (size_t)body->topics_count);
    if (!deleting || !response->topics)
        return NULL;
    deleting->request = request;
    deleting->change.done = offsets_deleted;
    deleting->partitions = kq_arena_array(&request->arena, count, sizeof(*deleting->partitions));
    deleting->errors = kq_arena_array(&request->arena, count, sizeof(*deleting->errors));
    if (!deleting->partitions || !deleting->errors)
        return NULL;
    response->topics_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++)
        if (add_deleted(request, deleting, &body->topics[i], &response->topics[i]) < 0)
            return NULL;
    return deleting;
}

enum kq_handled kq_api_offset_delete(struct kq_request *request)
{
    const struct kq_offset_delete_request *body = request->body;
    struct deleting *deleting = collect_deleted(request);
    if (!deleting)
        return KQ_HANDLED_CLOSE;
    int r = kq_group_delete_offsets(request->broker, &request->caller, body->group_id,
                                    deleting->partitions, deleting->count, &deleting->change);
    if (r == 0)
        return KQ_HANDLED_LATER;
    if (r == KQ_READY)
        r = 0;
    /* Without the topic of the offsets there are no groups. */
    note_deleted(deleting, r == KQ_WOULD_BLOCK ? KQ_GROUP_NOT_FOUND : r);
    return KQ_HANDLED_NOW;
}
