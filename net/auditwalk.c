#include "net/auditwalk.h"

#include <stdio.h>
#include <string.h>

#include "broker/broker.h"
#include "net/address.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message.h"
#include "net/message/create_acls.h"
#include "net/topics.h"

#define CLUSTER "kafka-cluster"
#define CREATE_ACLS 30
#define ID_BYTES 16

bool kq_audit_is_refusal(int16_t code)
{
    switch (code) {
    case KQ_ERROR_TOPIC_AUTHORIZATION_FAILED:
    case KQ_ERROR_GROUP_AUTHORIZATION_FAILED:
    case KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED:
    case KQ_ERROR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        return true;
    default:
        return false;
    }
}

/* --- What it is about --- */

enum kind {
    UNKNOWN,
    TOPIC,
    GROUP,
    CLUSTERS,
    TRANSACTIONAL_ID,
};

static const char *const kinds[] = {NULL, "Topic", "Group", "Cluster", "TransactionalId"};

/* Kafka's operations (org.apache.kafka.common.acl.AclOperation) that requests need. */
static const struct {
    int16_t key;
    const char *topic, *group, *cluster;
} operations[] = {
    {0, "Write", NULL, "IdempotentWrite"},
    {1, "Read", NULL, "ClusterAction"},
    {8, "Read", "Read", NULL},
    {11, NULL, "Read", NULL},
    {12, NULL, "Read", NULL},
    {13, NULL, "Read", NULL},
    {14, NULL, "Read", NULL},
    {19, "Create", NULL, "Create"},
    {20, "Delete", NULL, NULL},
    {21, "Delete", NULL, NULL},
    {22, NULL, NULL, "IdempotentWrite"},
    {30, "Alter", "Alter", "Alter"},
    {31, "Alter", "Alter", "Alter"},
    {32, "DescribeConfigs", "DescribeConfigs", "DescribeConfigs"},
    {33, "AlterConfigs", "AlterConfigs", "AlterConfigs"},
    {37, "Alter", NULL, NULL},
    {42, NULL, "Delete", NULL},
    {43, NULL, NULL, "Alter"},
    {44, "AlterConfigs", "AlterConfigs", "AlterConfigs"},
    {45, NULL, NULL, "Alter"},
    {47, "Read", "Delete", NULL},
    {48, NULL, NULL, "DescribeConfigs"},
    {49, NULL, NULL, "AlterConfigs"},
    {51, NULL, NULL, "Alter"},
    {57, NULL, NULL, "Alter"},
};

static const char *operation_of(int16_t key, enum kind kind)
{
    const char *found = NULL;
    for (size_t i = 0; i < kq_array_size(operations); i++)
        if (operations[i].key == key)
            found = kind == TOPIC   ? operations[i].topic
                    : kind == GROUP ? operations[i].group
                                    : operations[i].cluster;
    return found ? found : "Describe";
}

struct about {
    enum kind kind;
    struct kq_str name;
    const uint8_t *id; /* of a topic whose name is not given */
};

struct walk {
    const struct kq_request *request;
    const struct kq_wire_schema *schema;
    bool all; /* also what is allowed */
    bool noted[TRANSACTIONAL_ID + 1];
    struct about last; /* noted, and with which code */
    int16_t last_code;
};

static enum kind kind_of_code(int16_t code)
{
    return code == KQ_ERROR_TOPIC_AUTHORIZATION_FAILED              ? TOPIC
           : code == KQ_ERROR_GROUP_AUTHORIZATION_FAILED            ? GROUP
           : code == KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED          ? CLUSTERS
           : code == KQ_ERROR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED ? TRANSACTIONAL_ID
                                                                    : UNKNOWN;
}

/* org.apache.kafka.common.resource.ResourceType, or ConfigResource.Type where it is greater. */
static enum kind kind_of_type(int8_t type)
{
    return type == 2 ? TOPIC : type == 3 || type == 32 ? GROUP : CLUSTERS;
}

static bool is_named(const struct kq_wire_field *field, const char *name)
{
    return strcmp(field->name, name) == 0;
}

/* What the struct at AT of SHAPE names, else what the one around it does. */
static struct about find_name(const struct kq_wire_shape *shape, const uint8_t *at,
                              struct about around)
{
    struct about found = around;
    unsigned fields = (unsigned)shape->field_count + shape->tagged_count;
    int8_t type = 0;
    for (unsigned i = 0; i < fields; i++) {
        const struct kq_wire_field *field = &shape->fields[i];
        const uint8_t *value = at + field->offset;
        bool is_string = field->type == KQ_WIRE_STRING && !field->array;
        if (field->type == KQ_WIRE_INT8 && is_named(field, "resource_type"))
            type = (int8_t)*value;
        else if (field->type == KQ_WIRE_UUID && is_named(field, "topic_id"))
            found = (struct about){TOPIC, found.kind == TOPIC ? found.name : KQ_STR_NULL, value};
        else if (is_string && (is_named(field, "name") || is_named(field, "topic")))
            found = (struct about){TOPIC, *(const struct kq_str *)value, found.id};
        else if (is_string && is_named(field, "group_id"))
            found = (struct about){GROUP, *(const struct kq_str *)value, NULL};
        else if (is_string && is_named(field, "resource_name"))
            found = (struct about){kind_of_type(type), *(const struct kq_str *)value, NULL};
    }
    return found;
}

/* A string of the request itself; null: there is none of that NAME. */
static struct kq_str asked_for(const struct kq_request *request, const char *name)
{
    const struct kq_wire_shape *shape = &request->api->message->request->shapes[0];
    for (unsigned i = 0; i < shape->field_count; i++) {
        const struct kq_wire_field *field = &shape->fields[i];
        if (field->type == KQ_WIRE_STRING && !field->array && is_named(field, name))
            return *(const struct kq_str *)((const uint8_t *)request->body + field->offset);
    }
    return KQ_STR_NULL;
}

/* What a refusal of another kind than what is around it is about. */
static struct about about_kind(const struct kq_request *request, enum kind kind)
{
    struct about about = {.kind = kind, .name = KQ_STR(CLUSTER)};
    if (kind == GROUP)
        about.name = asked_for(request, "group_id");
    if (kind == GROUP && about.name.length < 0)
        about.name = asked_for(request, "key");
    if (kind == TRANSACTIONAL_ID)
        about.name = asked_for(request, "transactional_id");
    if (kind == TOPIC)
        about.name = KQ_STR_NULL;
    return about;
}

/* --- Who, from where --- */

static void describe_peer(const struct kq_conn_peer *peer, struct kq_host_port *ret, long *ret_port)
{
    struct sockaddr_storage address = {0};
    memcpy(&address, &peer->address, sizeof(peer->address));
    *ret = (struct kq_host_port){.host = "unix"};
    *ret_port = peer->pid;
    if (peer->pid == 0 && !kq_address_format(&address, ret))
        *ret = (struct kq_host_port){.host = "-"};
    if (peer->pid == 0)
        *ret_port = ret->port;
}

static struct kq_audit_event event_of(const struct kq_request *request, int16_t code)
{
    return (struct kq_audit_event){
        .allowed = !kq_audit_is_refusal(code),
        .request = request->api->message->name,
        .code = kq_error_name(code),
        .principal = request->caller.principal,
        .uid = request->caller.uid,
        .client = request->client_id,
        .listener = kq_conn_listener_name(request->conn),
    };
}

static void finish(const struct kq_conn *conn, struct kq_audit_event *event)
{
    struct kq_host_port peer;
    describe_peer(&conn->peer, &peer, &event->port);
    event->peer = peer.host;
    kq_audit_note(conn->shard->server->audit, event);
    event->peer = NULL;
}

static bool is_nil(const uint8_t *id)
{
    static const uint8_t nil[ID_BYTES];
    return memcmp(id, nil, sizeof(nil)) == 0;
}

/* What has been deleted meanwhile is named by its id. */
static void find_topic(const struct kq_request *request, struct about *about,
                       char copy[KQ_TOPIC_NAME_MAX + 1])
{
    struct kq_topic *topic;
    if (about->name.length > 0 || !about->id || is_nil(about->id))
        return;
    if (kq_topic_find(request->broker, about->id, &topic) == 0) {
        strcpy(copy, kq_topic_name(topic));
        kq_topic_unref(topic);
    } else {
        for (size_t i = 0; i < ID_BYTES; i++)
            sprintf(copy + 2 * i, "%02x", about->id[i]);
    }
    about->name = kq_str_of(copy);
}

static void note(struct walk *walk, struct about about, int16_t code)
{
    const struct kq_request *request = walk->request;
    char copy[KQ_TOPIC_NAME_MAX + 1];
    enum kind wanted = kind_of_code(code);
    if (wanted && wanted != about.kind)
        about = about_kind(request, wanted);
    bool same = walk->noted[about.kind] && walk->last_code == code &&
                walk->last.kind == about.kind && walk->last.id == about.id &&
                kq_str_is(walk->last.name, about.name);
    walk->noted[about.kind] = true;
    walk->last = about;
    walk->last_code = code;
    if (same)
        return;
    if (about.kind == TOPIC)
        find_topic(request, &about, copy);
    struct kq_audit_event event = event_of(request, code);
    event.resource = kinds[about.kind];
    event.operation = operation_of(request->api->key, about.kind);
    event.name = about.name;
    finish(request->conn, &event);
}

/* --- The response --- */

static void walk_shape(struct walk *walk, unsigned index, const uint8_t *at, struct about around);

/* Results of CreateAcls are in the order of what was asked for, and do not name it. */
static struct about find_creation(const struct kq_request *request, int32_t index)
{
    const struct kq_create_acls_request *body = request->body;
    if (request->api->key != CREATE_ACLS || index >= body->creations_count)
        return (struct about){.name = KQ_STR_NULL};
    return (struct about){kind_of_type(body->creations[index].resource_type),
                          body->creations[index].resource_name, NULL};
}

static void walk_struct(struct walk *walk, const struct kq_wire_field *field, const uint8_t *at,
                        struct about around)
{
    if (field->array) {
        const uint8_t *elements = *(uint8_t *const *)at;
        int32_t count = *(const int32_t *)(at + sizeof(void *));
        size_t size = walk->schema->shapes[field->shape].size;
        for (int32_t i = 0; i < count; i++)
            walk_shape(walk, field->shape, elements + (size_t)i * size,
                       around.kind ? around : find_creation(walk->request, i));
    } else if (field->type == KQ_WIRE_STRUCT) {
        walk_shape(walk, field->shape, at, around);
    } else if (*(uint8_t *const *)at) {
        walk_shape(walk, field->shape, *(uint8_t *const *)at, around);
    }
}

static void walk_shape(struct walk *walk, unsigned index, const uint8_t *at, struct about around)
{
    const struct kq_wire_shape *shape = &walk->schema->shapes[index];
    unsigned fields = (unsigned)shape->field_count + shape->tagged_count;
    struct about about = index ? find_name(shape, at, around) : around;
    for (unsigned i = 0; i < fields; i++) {
        const struct kq_wire_field *field = &shape->fields[i];
        const uint8_t *value = at + field->offset;
        if (field->type == KQ_WIRE_STRUCT || field->type == KQ_WIRE_NULLABLE_STRUCT) {
            walk_struct(walk, field, value, about);
        } else if (field->type == KQ_WIRE_INT16 && !field->array && is_named(field, "error_code")) {
            int16_t code = *(const int16_t *)value;
            bool refused = kq_audit_is_refusal(code);
            if (refused || (walk->all && about.kind))
                note(walk, about, code);
        }
    }
}

/* What the response does not name: the group that was asked for, or the cluster. */
static void note_rest(struct walk *walk)
{
    bool has_group = asked_for(walk->request, "group_id").length >= 0;
    bool nothing = !walk->noted[TOPIC] && !walk->noted[GROUP] && !walk->noted[CLUSTERS] &&
                   !walk->noted[TRANSACTIONAL_ID];
    if (has_group && !walk->noted[GROUP])
        note(walk, about_kind(walk->request, GROUP), KQ_ERROR_NONE);
    else if (nothing)
        note(walk, about_kind(walk->request, CLUSTERS), KQ_ERROR_NONE);
}

void kq_audit_answered(const struct kq_request *request)
{
    if (request->api->flags & KQ_API_BEFORE_AUTH)
        return;
    struct walk walk = {.request = request,
                        .schema = request->api->message->response,
                        .all = request->server->options.audit.level == KQ_AUDIT_ALL};
    walk_shape(&walk, 0, request->response, (struct about){.name = KQ_STR_NULL});
    if (walk.all)
        note_rest(&walk);
}

/* --- Logins --- */

void kq_audit_login(const struct kq_request *request, int16_t code, const char *principal,
                    uid_t uid, const char *mechanism, const char *reason)
{
    struct kq_audit_event event = event_of(request, code);
    event.allowed = code == KQ_ERROR_NONE;
    event.principal = principal;
    event.uid = uid;
    event.operation = "Authenticate";
    event.mechanism = mechanism;
    event.reason = reason;
    finish(request->conn, &event);
}

void kq_audit_turned_away(const struct kq_request *request, const char *reason)
{
    struct kq_audit_event event = event_of(request, KQ_ERROR_ILLEGAL_SASL_STATE);
    event.allowed = false;
    event.reason = reason;
    finish(request->conn, &event);
}

void kq_audit_tls(struct kq_audit *audit, const char *listener, const struct kq_conn_peer *peer,
                  const char *principal, uid_t uid, const char *reason)
{
    struct kq_host_port from;
    struct kq_audit_event event = {
        .allowed = !reason,
        .request = "TLS",
        .code = reason ? "SSL_AUTHENTICATION_FAILED" : "NONE", /* which has no number */
        .principal = principal,
        .uid = uid,
        .operation = "Authenticate",
        .listener = listener,
        .mechanism = "certificate",
        .reason = reason,
    };
    describe_peer(peer, &from, &event.port);
    event.peer = from.host;
    kq_audit_note(audit, &event);
}
