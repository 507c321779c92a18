/* Members of a group, those that were given an id only, and what protocols they have. */
#include "broker/group.h"

#include "broker/base/mem.h"

/* --- Protocols --- */

static bool bytes_equal(struct kq_bytes a, struct kq_bytes b)
{
    return a.length == b.length && (a.length <= 0 || memcmp(a.data, b.data, (size_t)a.length) == 0);
}

int kq_group_protocols_new(const struct kq_group_protocol *protocols, int32_t count,
                           struct kq_group_protocols **ret)
{
    size_t bytes = 0, metadata = 0;
    for (int32_t i = 0; i < count; i++) {
        metadata += (size_t)protocols[i].metadata.length;
        bytes += (size_t)protocols[i].name.length + (size_t)protocols[i].metadata.length;
    }
    size_t head = sizeof(struct kq_group_protocols) + (size_t)count * sizeof(*protocols);
    struct kq_group_protocols *copy = kq_alloc(head + bytes);
    if (!copy)
        return -ENOMEM;
    copy->count = count;
    copy->bytes = (int64_t)metadata;
    uint8_t *at = (uint8_t *)copy + head;
    for (int32_t i = 0; i < count; i++) {
        struct kq_str name = protocols[i].name;
        struct kq_bytes data = protocols[i].metadata;
        copy->at[i] =
            (struct kq_group_protocol){{(char *)at, name.length}, {at + name.length, data.length}};
        memcpy(at, name.data, (size_t)name.length);
        at += name.length;
        if (data.length > 0)
            memcpy(at, data.data, (size_t)data.length);
        at += data.length;
    }
    *ret = copy;
    return 0;
}

bool kq_group_protocols_equal(const struct kq_group_protocols *a,
                              const struct kq_group_protocols *b)
{
    bool equal = a->count == b->count;
    for (int32_t i = 0; equal && i < a->count; i++)
        equal = kq_str_is(a->at[i].name, b->at[i].name) &&
                bytes_equal(a->at[i].metadata, b->at[i].metadata);
    return equal;
}

struct kq_bytes kq_group_member_metadata(const struct kq_group_member *member,
                                         struct kq_str protocol)
{
    for (int32_t i = 0; member->protocols && i < member->protocols->count; i++)
        if (kq_str_is(member->protocols->at[i].name, protocol))
            return member->protocols->at[i].metadata;
    return (struct kq_bytes){NULL, 0};
}

/* What has no bytes has an address all the same: memcmp is not called with NULL. */
static const char *key_of(struct kq_str string)
{
    return string.data ? string.data : "";
}

/* --- What all of them have --- */

static struct kq_group_supported *supported_find(const struct kq_group *group, struct kq_str name)
{
    struct kq_group_supported *supported;
    HASH_FIND(by_name, group->supported, key_of(name), (unsigned)name.length, supported);
    return supported;
}

static int supported_make(struct kq_group *group, struct kq_str name)
{
    if (supported_find(group, name))
        return 0;
    struct kq_group_supported *supported = kq_zalloc(sizeof(*supported) + (size_t)name.length + 1);
    if (!supported)
        return -ENOMEM;
    memcpy(supported->name, name.data, (size_t)name.length);
    supported->length = name.length;
    kq_uthash_failed = false;
    HASH_ADD_KEYPTR(by_name, group->supported, supported->name, (unsigned)name.length, supported);
    if (!kq_uthash_failed)
        return 0;
    free(supported);
    return -ENOMEM;
}

/* Drops the entries that no member has. */
static void supported_trim(struct kq_group *group, const struct kq_group_protocols *protocols)
{
    for (int32_t i = 0; i < protocols->count; i++) {
        struct kq_group_supported *supported = supported_find(group, protocols->at[i].name);
        if (supported && supported->members == 0) {
            HASH_DELETE(by_name, group->supported, supported);
            free(supported);
        }
    }
}

/* Makes the entries first, so that counting cannot fail. */
static int supported_prepare(struct kq_group *group, const struct kq_group_protocols *protocols)
{
    int r = 0;
    for (int32_t i = 0; r == 0 && i < protocols->count; i++)
        r = supported_make(group, protocols->at[i].name);
    if (r < 0)
        supported_trim(group, protocols);
    return r;
}

static void supported_count(struct kq_group *group, const struct kq_group_protocols *protocols,
                            int by)
{
    for (int32_t i = 0; protocols && i < protocols->count; i++)
        supported_find(group, protocols->at[i].name)->members += by;
}

static bool supported_by_all(const struct kq_group *group, struct kq_str name)
{
    const struct kq_group_supported *supported = supported_find(group, name);
    return supported && (unsigned)supported->members == HASH_CNT(by_id, group->members);
}

bool kq_group_supports(struct kq_group *group, struct kq_str type,
                       const struct kq_group_protocol *protocols, int32_t count)
{
    if (group->state == KQ_GROUP_EMPTY)
        return type.length > 0 && count > 0;
    if (!kq_str_is(group->protocol_type, type))
        return false;
    for (int32_t i = 0; i < count; i++)
        if (group->members ? supported_by_all(group, protocols[i].name) : true)
            return true;
    return false;
}

static struct kq_group_supported *vote(struct kq_group *group, const struct kq_group_member *member)
{
    for (int32_t i = 0; i < member->protocols->count; i++)
        if (supported_by_all(group, member->protocols->at[i].name))
            return supported_find(group, member->protocols->at[i].name);
    return NULL;
}

struct kq_str kq_group_choose_protocol(struct kq_group *group)
{
    struct kq_group_supported *supported, *chosen = NULL;
    for (supported = group->supported; supported; supported = supported->by_name.next)
        supported->votes = 0;
    for (struct kq_group_member *member = group->members; member; member = member->by_id.next)
        if ((supported = vote(group, member)))
            supported->votes++;
    for (supported = group->supported; supported; supported = supported->by_name.next)
        if (supported->votes > 0 && (!chosen || supported->votes > chosen->votes))
            chosen = supported;
    return chosen ? (struct kq_str){chosen->name, chosen->length} : KQ_STR_NULL;
}

/* --- Members --- */

static void free_member(struct kq_group_member *member)
{
    free((char *)member->id.data);
    free((char *)member->instance_id.data);
    free((char *)member->client_id.data);
    free((char *)member->client_host.data);
    free((uint8_t *)member->assignment.data);
    free(member->protocols);
    free(member);
}

void kq_group_member_unref(struct kq_group_member *member)
{
    if (--member->references == 0)
        free_member(member);
}

int kq_group_member_new(struct kq_group *group, struct kq_str id, struct kq_str instance_id,
                        struct kq_str client_id, struct kq_str client_host,
                        struct kq_group_member **ret)
{
    struct kq_group_member *member = kq_zalloc(sizeof(*member));
    if (!member)
        return -ENOMEM;
    member->group = group;
    member->references = 1;
    kq_alarm_init(&member->heartbeat, group, member, kq_group_heartbeat_due);
    int r = kq_group_copy(id, &member->id);
    if (r == 0)
        r = kq_group_copy(instance_id, &member->instance_id);
    if (r == 0)
        r = kq_group_copy(client_id, &member->client_id);
    if (r == 0)
        r = kq_group_copy(client_host, &member->client_host);
    if (r < 0)
        free_member(member);
    else
        *ret = member;
    return r;
}

struct kq_group_member *kq_group_member_find(struct kq_group *group, struct kq_str id)
{
    struct kq_group_member *member;
    HASH_FIND(by_id, group->members, key_of(id), (unsigned)id.length, member);
    return member;
}

struct kq_group_member *kq_group_member_pending(struct kq_group *group, struct kq_str id)
{
    struct kq_group_member *member;
    HASH_FIND(by_id, group->pending, key_of(id), (unsigned)id.length, member);
    return member;
}

struct kq_group_member *kq_group_member_static(struct kq_group *group, struct kq_str instance_id)
{
    struct kq_group_member *member;
    HASH_FIND(by_instance, group->statics, key_of(instance_id), (unsigned)instance_id.length,
              member);
    return member;
}

unsigned kq_group_member_count(const struct kq_group *group)
{
    return HASH_CNT(by_id, group->members);
}

static int add_id(struct kq_group *group, struct kq_group_member *member)
{
    kq_uthash_failed = false;
    HASH_ADD_KEYPTR(by_id, group->members, key_of(member->id), (unsigned)member->id.length, member);
    return kq_uthash_failed ? -ENOMEM : 0;
}

static bool is_static(const struct kq_group_member *member)
{
    return member->instance_id.length >= 0;
}

/* Into both tables, or none. */
static int add_to_tables(struct kq_group *group, struct kq_group_member *member)
{
    kq_uthash_failed = false;
    if (is_static(member))
        HASH_ADD_KEYPTR(by_instance, group->statics, key_of(member->instance_id),
                        (unsigned)member->instance_id.length, member);
    if (kq_uthash_failed)
        return -ENOMEM;
    int r = add_id(group, member);
    if (r < 0 && is_static(member))
        HASH_DELETE(by_instance, group->statics, member);
    return r;
}

int kq_group_add(struct kq_group *group, struct kq_group_member *member)
{
    int r = supported_prepare(group, member->protocols);
    if (r < 0)
        return r;
    r = add_to_tables(group, member);
    if (r < 0) {
        supported_trim(group, member->protocols);
        return r;
    }
    supported_count(group, member->protocols, 1);
    if (!group->leader)
        group->leader = member;
    return 0;
}

int kq_group_add_pending(struct kq_group *group, struct kq_group_member *member)
{
    kq_uthash_failed = false;
    HASH_ADD_KEYPTR(by_id, group->pending, key_of(member->id), (unsigned)member->id.length, member);
    return kq_uthash_failed ? -ENOMEM : 0;
}

void kq_group_take_pending(struct kq_group *group, struct kq_group_member *member)
{
    HASH_DELETE(by_id, group->pending, member);
}

static void remove_member(struct kq_group *group, struct kq_group_member *member)
{
    HASH_DELETE(by_id, group->members, member);
    if (is_static(member))
        HASH_DELETE(by_instance, group->statics, member);
    supported_count(group, member->protocols, -1);
    supported_trim(group, member->protocols);
    if (member->pending_sync)
        group->pending_syncs--;
    member->pending_sync = false;
    if (group->leader == member)
        group->leader = group->members;
}

void kq_group_remove(struct kq_group *group, struct kq_group_member *member, int result)
{
    if (member->protocols) {
        kq_group_answer_join(member, result);
        kq_group_answer_sync(member, result);
        remove_member(group, member);
    } else {
        kq_group_take_pending(group, member);
    }
    kq_alarm_cancel(&member->heartbeat);
    kq_group_member_unref(member);
}

int kq_group_update(struct kq_group *group, struct kq_group_member *member,
                    struct kq_group_protocols *protocols, int32_t session_timeout_ms,
                    int32_t rebalance_timeout_ms)
{
    int r = supported_prepare(group, protocols);
    if (r < 0)
        return r;
    struct kq_group_protocols *before = member->protocols;
    supported_count(group, before, -1);
    supported_count(group, protocols, 1);
    supported_trim(group, before);
    member->protocols = protocols;
    member->session_timeout_ms = session_timeout_ms;
    member->rebalance_timeout_ms = rebalance_timeout_ms;
    free(before);
    return 0;
}

/* With a second entry in it the table stays when MEMBER is taken out, and one that does not grow
 * needs no memory. */
int kq_group_rename(struct kq_group *group, struct kq_group_member *member, struct kq_str id)
{
    struct kq_group_member second = {.id = KQ_STR("")};
    int r = add_id(group, &second);
    if (r < 0)
        return r;
    HASH_DELETE(by_id, group->members, member);
    free((char *)member->id.data);
    member->id = id;
    unsigned noexpand = group->members->by_id.tbl->noexpand;
    group->members->by_id.tbl->noexpand = 1;
    add_id(group, member);
    group->members->by_id.tbl->noexpand = noexpand;
    HASH_DELETE(by_id, group->members, &second);
    return 0;
}

void kq_group_clear_members(struct kq_group *group)
{
    /* References are counted with atomics. NOLINTBEGIN(clang-analyzer-unix.Malloc) */
    while (group->members)
        kq_group_remove(group, group->members, KQ_GROUP_NOT_AVAILABLE);
    while (group->pending)
        kq_group_remove(group, group->pending, KQ_GROUP_NOT_AVAILABLE);
    /* NOLINTEND(clang-analyzer-unix.Malloc) */
}
