/* Grants what the kernel would grant for the same act on the mount: one table, right -> what it
 * needs of which directory or file, put to owner, group, mode and ACL.
 *
 * On the mount the kernel has asked already (default_permissions): search of each directory on the
 * path, r and w at open, w and x of the directory for mkdir, touch, rm and rmdir, the sticky bit
 * for who may delete (root and topics always carry it) and who may set user.* attributes, the owner
 * for chmod and setfacl, CAP_CHOWN for chown. It knows the caller's capabilities and user
 * namespace, which nobody else can learn without a race, so its answer is final; asking again could
 * only differ where it is right. What the kernel has not compared is not `kernel_checked`: where
 * `append`, which looks like p0 to it, picks another partition, fs asks as one who was not checked.
 */
#include "auth/auth.h"

#include <sys/stat.h>

#include "broker/base/acl.h"
#include "broker/base/mem.h"

struct kq_auth {
    struct kq_authz authz;
};

enum level {
    ROOT,
    TOPIC,
    PARTITION,
    LEVELS,
};

enum owner {
    ANYBODY,
    OWNER_OF_IT,     /* of the deepest object named */
    OWNER_OF_TOPIC,  /* DeleteRecords takes away what others wrote, as the topic's owner may */
    STICKY_OF_TOPIC, /* where the topic is sticky, its owner: user.* attributes of a directory */
    STICKY_OF_ROOT,  /* where the root is sticky, the owner of the topic or of the root */
};

struct rule {
    enum level level;
    unsigned want; /* of the object at LEVEL; of those above it, search */
    enum owner owner;
    bool creates;
};

#define RX (KQ_ACL_READ | KQ_ACL_EXECUTE)
#define WX (KQ_ACL_WRITE | KQ_ACL_EXECUTE)

static const struct rule describe_root = {ROOT, KQ_ACL_EXECUTE, ANYBODY, false};

/* In order of the bits of enum kq_right. */
static const struct rule rules[] = {
    {TOPIC, KQ_ACL_EXECUTE, ANYBODY, false},   /* DESCRIBE */
    {PARTITION, KQ_ACL_READ, ANYBODY, false},  /* READ */
    {PARTITION, KQ_ACL_WRITE, ANYBODY, false}, /* WRITE */
    {ROOT, WX, ANYBODY, true},                 /* CREATE */
    {TOPIC, WX, ANYBODY, true},                /* ALTER */
    {ROOT, WX, STICKY_OF_ROOT, false},         /* DELETE */
    {TOPIC, WX, OWNER_OF_TOPIC, false},        /* DELETE_RECORDS */
    {TOPIC, RX, ANYBODY, false},               /* DESCRIBE_CONFIG */
    {TOPIC, WX, STICKY_OF_TOPIC, false},       /* ALTER_CONFIG */
    {LEVELS, 0, OWNER_OF_IT, false},           /* CHANGE_ATTRIBUTES */
    {ROOT, KQ_ACL_READ, ANYBODY, false},       /* LIST */
};

struct question {
    const struct kq_attributes *on[LEVELS]; /* NULL below the deepest */
    enum level deepest;
    struct kq_acl_subject subject;
};

static bool is_known(const struct question *question)
{
    return question->subject.uid != KQ_UID_UNKNOWN;
}

static bool owns(const struct question *question, enum level level)
{
    const struct kq_attributes *on = question->on[level];
    return is_known(question) && on && on->uid == question->subject.uid;
}

static bool is_sticky(const struct kq_attributes *on)
{
    return on && (on->mode & S_ISVTX);
}

static bool permits(const struct question *question, enum level level, unsigned want)
{
    const struct kq_attributes *on = question->on[level];
    if (!on)
        return false;
    if (!is_known(question))
        return (on->mode & want) == want; /* other's digit, which an ACL's entry for other equals */
    struct kq_acl_object object = {.uid = on->uid,
                                   .gid = on->gid,
                                   .mode = on->mode,
                                   .acl = on->acl,
                                   .acl_length = on->acl_length};
    return kq_acl_permits(&object, &question->subject, want);
}

static bool owner_suffices(const struct question *question, enum owner owner)
{
    switch (owner) {
    case ANYBODY:
        return true;
    case OWNER_OF_IT:
        return owns(question, question->deepest);
    case OWNER_OF_TOPIC:
        return owns(question, TOPIC);
    case STICKY_OF_TOPIC:
        return !is_sticky(question->on[TOPIC]) || owns(question, TOPIC);
    case STICKY_OF_ROOT:
        return !is_sticky(question->on[ROOT]) || owns(question, TOPIC) || owns(question, ROOT);
    }
    return false;
}

static int check_rule(const struct question *question, const struct rule *rule)
{
    enum level level = rule->level == LEVELS ? question->deepest : rule->level;
    for (enum level above = ROOT; above < level; above++)
        if (!permits(question, above, KQ_ACL_EXECUTE))
            return -EACCES;
    if (!permits(question, level, rule->want) || (rule->creates && !is_known(question)))
        return -EACCES;
    return owner_suffices(question, rule->owner) ? 0 : -EPERM;
}

static struct question ask(const struct kq_caller *caller, const struct kq_authz_object *object)
{
    return (struct question){
        .on = {object->root, object->topic, object->partition},
        .deepest = object->partition ? PARTITION
                   : object->topic   ? TOPIC
                                     : ROOT,
        .subject = {caller->uid, caller->gid, caller->groups, caller->group_count},
    };
}

static int check(void *context, const struct kq_caller *caller, unsigned rights,
                 const struct kq_authz_object *object)
{
    if (caller->kernel_checked)
        return 0;
    /* CAP_DAC_OVERRIDE and CAP_FOWNER. Nobody is uid 0 over the wire without an entry that says so.
     */
    if (caller->uid == 0)
        return 0;
    struct question question = ask(caller, object);
    for (size_t i = 0; rights; i++, rights >>= 1) {
        if (!(rights & 1))
            continue;
        if (i >= kq_array_size(rules))
            return -EACCES;
        const struct rule *rule = &rules[i];
        if (1U << i == KQ_RIGHT_DESCRIBE && !object->topic)
            rule = &describe_root;
        int r = check_rule(&question, rule);
        if (r < 0)
            return r;
    }
    return 0;
}

int kq_auth_new(struct kq_auth **ret)
{
    struct kq_auth *auth = kq_zalloc(sizeof(*auth));
    if (!auth)
        return -ENOMEM;
    auth->authz = (struct kq_authz){check, auth};
    *ret = auth;
    return 0;
}

void kq_auth_free(struct kq_auth *auth)
{
    free(auth);
}

struct kq_authz kq_auth_authz(struct kq_auth *auth)
{
    return auth->authz;
}
