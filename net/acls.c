#include "net/acls.h"

#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "auth/principals.h"
#include "broker/base/mem.h"
#include "net/admin.h"
#include "net/errmap.h"
#include "net/internal.h"

static _Thread_local bool out_of_memory;

#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(element) (out_of_memory = true)
#define uthash_malloc(size) kq_alloc(size)
#include <uthash.h>

#define USER "User:"
#define EVERYBODY "User:*"

/* --- Users --- */

struct known {
    uid_t uid;
    const struct kq_identity *identity;
    UT_hash_handle hh;
};

struct kq_acls_users {
    struct known *by_uid;
    struct kq_buf named; /* identities that were looked up by name */
};

int kq_acls_users_new(struct kq_acls_users **ret)
{
    struct kq_acls_users *users = kq_zalloc(sizeof(*users));
    if (!users)
        return -ENOMEM;
    *ret = users;
    return 0;
}

static const struct kq_identity **named(const struct kq_acls_users *users, size_t *ret_count)
{
    *ret_count = users->named.length / sizeof(struct kq_identity *);
    return (const struct kq_identity **)(void *)users->named.data;
}

void kq_acls_users_free(struct kq_acls_users *users)
{
    struct known *known = users->by_uid, *next;
    size_t count;
    const struct kq_identity **all = named(users, &count);
    for (size_t i = 0; i < count; i++)
        kq_identity_unref(all[i]);
    kq_buf_release(&users->named);
    HASH_CLEAR(hh, users->by_uid);
    for (; known; known = next) {
        next = known->hh.next;
        kq_identity_unref(known->identity);
        free(known);
    }
    free(users);
}

static int add_known(struct kq_acls_users *users, const struct kq_identity *identity, uid_t uid)
{
    struct known *known = kq_zalloc(sizeof(*known));
    if (!known)
        return -ENOMEM;
    known->uid = uid;
    known->identity = identity;
    out_of_memory = false;
    HASH_ADD(hh, users->by_uid, uid, sizeof(known->uid), known);
    if (!out_of_memory)
        return 0;
    free(known);
    return -ENOMEM;
}

static int find_uid(struct kq_acls_users *users, uid_t uid, const struct kq_identity **ret)
{
    struct known *known;
    HASH_FIND(hh, users->by_uid, &uid, sizeof(uid), known);
    if (known) {
        *ret = known->identity;
        return 0;
    }
    const struct kq_identity *identity;
    int r = kq_identity_of_uid(uid, &identity);
    if (r < 0)
        return r;
    r = add_known(users, identity, uid);
    if (r < 0)
        kq_identity_unref(identity);
    else
        *ret = identity;
    return r;
}

static struct kq_aclmap_who who_is(const struct kq_identity *identity)
{
    return (struct kq_aclmap_who){
        .user = {identity->uid, identity->gid, identity->groups, identity->group_count}};
}

/* As whom lists show the user of IDENTITY: by a name that it has to prove, never by one that
 * [users] gives to another. */
static char *name_holder(struct kq_request *request, const struct kq_identity *identity)
{
    const struct kq_principals *principals = request->server->options.principals;
    const char *name = principals ? kq_principals_name_of(principals, identity->uid) : NULL;
    kq_autofree char *text = NULL;
    if (name)
        text = kq_format(USER "%s", name);
    else if (principals && kq_principals_has(principals, identity->principal + sizeof(USER) - 1))
        text = kq_format(USER "#%lu", (unsigned long)identity->uid);
    else
        text = kq_strdup(identity->principal);
    return text ? kq_arena_string(&request->arena, text, strlen(text)) : NULL;
}

/* What lists show of users without a name. */
static bool is_number(const char *name, uid_t *ret)
{
    char *end;
    if (name[0] != '#' || name[1] < '0' || name[1] > '9')
        return false;
    unsigned long number = strtoul(name + 1, &end, 10);
    *ret = (uid_t)number;
    return !*end && number < KQ_UID_UNKNOWN;
}

static int find_name(const struct kq_request *request, const char *name,
                     const struct kq_identity **ret)
{
    struct kq_principals *principals = request->server->options.principals;
    return principals ? kq_principals_identity(principals, name, ret)
                      : kq_identity_of_name(name, KQ_UID_UNKNOWN, ret);
}

int kq_acls_user(struct kq_request *request, struct kq_acls_users *users, struct kq_str principal,
                 struct kq_aclmap_who *ret)
{
    const struct kq_identity *identity;
    uid_t uid;
    const char *text = kq_admin_string(request, principal);
    if (!text || strncmp(text, USER, sizeof(USER) - 1) != 0 || !text[sizeof(USER) - 1])
        return -EINVAL;
    if (strcmp(text, EVERYBODY) == 0) {
        *ret = (struct kq_aclmap_who){.everybody = true};
        return 0;
    }
    int r;
    if (is_number(text + sizeof(USER) - 1, &uid)) {
        r = find_uid(users, uid, &identity);
    } else {
        r = find_name(request, text + sizeof(USER) - 1, &identity);
        if (r == 0)
            r = kq_buf_append(&users->named, (const void *)&identity, sizeof(identity));
    }
    if (r < 0)
        return r;
    if (identity->uid == KQ_UID_UNKNOWN)
        return -ENOENT;
    *ret = who_is(identity);
    return 0;
}

/* --- Resources --- */

void kq_acls_release(struct kq_acls_resource *resource)
{
    kq_topic_unref(resource->topic);
    kq_group_unref(resource->group);
    *resource = (struct kq_acls_resource){0};
}

/* Of the directory (NUMBER -1) or a partition. -ENOENT: there is no such partition. */
static int get_attributes(struct kq_request *request, const struct kq_acls_resource *resource,
                          int32_t number, struct kq_attributes *ret)
{
    struct kq_partition *partition = NULL;
    if (resource->group)
        return number < 0 ? kq_group_attributes_get(request->broker, resource->group, ret)
                          : -ENOENT;
    if (number >= 0 && (!resource->topic || kq_partition_get(resource->topic, number, &partition)))
        return -ENOENT;
    int r = kq_attributes_get(request->broker, resource->topic, partition, ret);
    kq_partition_unref(partition);
    return r;
}

static bool is_same(const struct kq_attributes *a, const struct kq_attributes *b)
{
    return a->uid == b->uid && a->gid == b->gid && a->mode == b->mode &&
           a->acl_length == b->acl_length &&
           (a->acl_length == 0 || memcmp(a->acl, b->acl, a->acl_length) == 0);
}

/* Calls VISIT for the directory, then for the partitions, of which those that are like the one
 * before are left out. */
static int each_object(struct kq_request *request, const struct kq_acls_resource *resource,
                       int (*visit)(void *context, const struct kq_attributes *attributes,
                                    bool is_partition),
                       void *context)
{
    struct kq_attributes last, next;
    int r = get_attributes(request, resource, -1, &last);
    if (r == 0)
        r = visit(context, &last, false);
    if (r < 0)
        return r;
    for (int32_t i = 0; r == 0; i++) {
        r = get_attributes(request, resource, i, &next);
        if (r < 0)
            break;
        if (i == 0 || !is_same(&last, &next))
            r = visit(context, &next, true);
        kq_attributes_release(&last);
        last = next;
    }
    kq_attributes_release(&last);
    return r == -ENOENT ? 0 : r;
}

/* --- Who is there --- */

struct gathered {
    struct kq_buf uids;
    size_t unique; /* of the first that many none occurs twice, and they ascend */
};

static uid_t *uids_of(const struct gathered *gathered, size_t *ret_count)
{
    *ret_count = gathered->uids.length / sizeof(uid_t);
    return (uid_t *)(void *)gathered->uids.data;
}

static int in_order(const void *left, const void *right)
{
    uid_t a = *(const uid_t *)left, b = *(const uid_t *)right;
    return (a > b) - (a < b);
}

static void make_unique(struct gathered *gathered)
{
    size_t count, kept = 0;
    uid_t *uids = uids_of(gathered, &count);
    if (count)
        qsort(uids, count, sizeof(*uids), in_order);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || uids[kept - 1] != uids[i])
            uids[kept++] = uids[i];
    gathered->uids.length = kept * sizeof(*uids);
    gathered->unique = kept;
}

static int gather(void *context, const struct kq_attributes *attributes, bool is_partition)
{
    struct gathered *gathered = context;
    size_t at = 0, count;
    uid_t uid = attributes->uid;
    int r = kq_buf_append(&gathered->uids, &uid, sizeof(uid));
    while (r == 0 && kq_aclmap_next_user(attributes->acl, attributes->acl_length, &at, &uid))
        r = kq_buf_append(&gathered->uids, &uid, sizeof(uid));
    uids_of(gathered, &count);
    if (count > 2 * gathered->unique + KQ_ACL_MAX_ENTRIES)
        make_unique(gathered);
    return r;
}

/* --- What they have --- */

struct holders {
    struct kq_acls_holder *at;
    int32_t count;
    bool has_partition;
};

static int narrow(void *context, const struct kq_attributes *attributes, bool is_partition)
{
    struct holders *holders = context;
    for (int32_t i = 0; i < holders->count; i++) {
        struct kq_acls_holder *one = &holders->at[i];
        unsigned rights = kq_aclmap_rights(attributes, &one->who);
        if (is_partition)
            one->bits.partition &= rights;
        else
            one->bits.directory &= rights;
    }
    holders->has_partition = holders->has_partition || is_partition;
    return 0;
}

static int add_holder(struct kq_request *request, struct kq_acls_users *users, uid_t uid,
                      struct holders *holders)
{
    const struct kq_identity *identity;
    int r = uid == KQ_UID_UNKNOWN ? 0 : find_uid(users, uid, &identity);
    if (r < 0 || uid == KQ_UID_UNKNOWN)
        return r;
    char *principal = name_holder(request, identity);
    if (!principal)
        return -ENOMEM;
    holders->at[holders->count++] = (struct kq_acls_holder){
        .who = who_is(identity), .principal = kq_str_of(principal), .bits = {7, 7}};
    return 0;
}

static int make_holders(struct kq_request *request, struct kq_acls_users *users,
                        struct gathered *gathered, struct holders *ret)
{
    size_t count;
    int r = 0;
    make_unique(gathered);
    const uid_t *uids = uids_of(gathered, &count);
    ret->at = kq_arena_array(&request->arena, count + 1, sizeof(*ret->at));
    if (!ret->at)
        return -ENOMEM;
    ret->at[ret->count++] = (struct kq_acls_holder){
        .who = {.everybody = true}, .principal = KQ_STR(EVERYBODY), .bits = {7, 7}};
    for (size_t i = 0; i < count && r == 0; i++)
        r = add_holder(request, users, uids[i], ret);
    return r;
}

/* Those that have nothing are left out. */
static void name_operations(int type, struct holders *holders)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < holders->count; i++) {
        struct kq_acls_holder *one = &holders->at[i];
        if (!holders->has_partition)
            one->bits.partition = 0;
        one->operations = kq_aclmap_operations(type, one->bits);
        if (one->operations)
            holders->at[kept++] = *one;
    }
    holders->count = kept;
}

int kq_acls_list(struct kq_request *request, struct kq_acls_users *users,
                 const struct kq_acls_resource *resource, struct kq_acls_holder **ret,
                 int32_t *ret_count)
{
    struct gathered gathered = {.unique = 0};
    struct holders holders = {.at = NULL};
    int r = each_object(request, resource, gather, &gathered);
    if (r == 0)
        r = make_holders(request, users, &gathered, &holders);
    kq_buf_release(&gathered.uids);
    if (r == 0)
        r = each_object(request, resource, narrow, &holders);
    if (r < 0)
        return r;
    name_operations(resource->type, &holders);
    *ret = holders.at;
    *ret_count = holders.count;
    return 0;
}

/* --- Changes --- */

struct change {
    struct kq_topic_attributes_change of_topic; /* first */
    int (*apply)(const struct change *change, struct kq_attributes *attributes, bool is_partition);
    const struct kq_acls_resource *resource;
    mode_t umask;
    /* A grant: */
    const struct kq_aclmap_who *who;
    struct kq_aclmap_bits bits;
    /* A revocation: */
    const struct kq_acls_holder *holders;
    int32_t count;
};

static int change_part(const struct kq_topic_attributes_change *change,
                       struct kq_attributes *attributes, const struct kq_partition *partition)
{
    const struct change *own = (const struct change *)(const void *)change;
    return own->apply(own, attributes, partition);
}

static int change_root(struct kq_attributes *attributes, void *argument)
{
    const struct change *change = argument;
    return change->apply(change, attributes, false);
}

struct waiting {
    struct kq_group_change change; /* first */
    sem_t ended;
};

static void end_waiting(struct kq_group_change *change)
{
    sem_post(&((struct waiting *)(void *)change)->ended);
}

static int set_of_group(struct kq_request *request, struct kq_group *group,
                        const struct kq_attributes *attributes)
{
    struct waiting waiting = {.change.done = end_waiting};
    sem_init(&waiting.ended, 0, 0);
    int r = kq_group_attributes_set(request->broker, group, &request->caller, attributes,
                                    &waiting.change);
    if (r == 0) {
        while (sem_wait(&waiting.ended) < 0)
            ;
        r = waiting.change.result;
    }
    sem_destroy(&waiting.ended);
    return r == KQ_READY ? 0 : r;
}

static int change_group(struct kq_request *request, struct kq_group *group,
                        const struct change *change)
{
    struct kq_attributes attributes;
    kq_group_attributes_lock(request->broker);
    int r = kq_group_attributes_get(request->broker, group, &attributes);
    if (r == 0) {
        r = change->apply(change, &attributes, false);
        if (r == 0)
            r = set_of_group(request, group, &attributes);
        kq_attributes_release(&attributes);
    }
    kq_group_attributes_unlock(request->broker);
    return r;
}

static int16_t error_of(int type, int r)
{
    bool refused = r == -EACCES || r == -EPERM;
    if (refused && type == KQ_ACL_CLUSTER)
        return KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
    if (r == -E2BIG)
        return KQ_ERROR_POLICY_VIOLATION;
    return type == KQ_ACL_GROUP ? kq_error_of_group(r) : kq_admin_error(r);
}

static int16_t run(struct kq_request *request, struct change *change)
{
    const struct kq_acls_resource *resource = change->resource;
    int r;
    change->of_topic.change = change_part;
    change->umask = request->server->options.umask;
    if (resource->topic)
        r = kq_topic_change_attributes(resource->topic, &request->caller, &change->of_topic);
    else if (resource->group)
        r = change_group(request, resource->group, change);
    else
        r = kq_attributes_change(request->broker, NULL, NULL, &request->caller, change_root,
                                 change);
    return error_of(resource->type, r);
}

static int apply_grant(const struct change *change, struct kq_attributes *attributes,
                       bool is_partition)
{
    if (is_partition)
        return kq_aclmap_grant(attributes, change->who, change->bits.partition);
    int r = kq_aclmap_grant(attributes, change->who, change->bits.directory);
    if (r == 0)
        r = kq_aclmap_grant_default(attributes, change->who, change->bits.partition, change->umask);
    return r;
}

int16_t kq_acls_grant(struct kq_request *request, const struct kq_acls_resource *resource,
                      const struct kq_aclmap_who *who, struct kq_aclmap_bits bits)
{
    struct change change = {.apply = apply_grant, .resource = resource, .who = who, .bits = bits};
    return run(request, &change);
}

static int apply_revocation(const struct change *change, struct kq_attributes *attributes,
                            bool is_partition)
{
    int r = 0;
    for (int32_t i = 0; i < change->count && r == 0; i++) {
        const struct kq_acls_holder *one = &change->holders[i];
        struct kq_aclmap_bits taken =
            kq_aclmap_taken(change->resource->type, one->operations, one->removed);
        r = kq_aclmap_revoke(attributes, &one->who,
                             is_partition ? taken.partition : taken.directory);
        if (r == 0 && !is_partition)
            r = kq_aclmap_revoke_default(attributes, &one->who, taken.partition);
    }
    return r;
}

int16_t kq_acls_revoke(struct kq_request *request, const struct kq_acls_resource *resource,
                       const struct kq_acls_holder *holders, int32_t count)
{
    struct change change = {
        .apply = apply_revocation, .resource = resource, .holders = holders, .count = count};
    return run(request, &change);
}
