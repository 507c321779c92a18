#include "auth/aclmap.h"

#include <string.h>

#include "broker/base/endian.h"
#include "broker/base/mem.h"

#define HEADER_BYTES 4
#define ENTRY_BYTES 8
#define VERSION 2
#define NO_ID UINT32_MAX

#define R KQ_ACL_READ
#define W KQ_ACL_WRITE
#define X KQ_ACL_EXECUTE

/* linux/posix_acl.h; ascending in the order that the kernel wants. */
enum tag {
    USER_OBJ = 0x01,
    USER = 0x02,
    GROUP_OBJ = 0x04,
    GROUP = 0x08,
    MASK = 0x10,
    OTHER = 0x20,
};

/* --- Operations --- */

static const struct {
    int resource, operation;
    struct kq_aclmap_bits bits;
} table[] = {
    {KQ_ACL_TOPIC, KQ_ACL_OP_READ, {X, R}},
    {KQ_ACL_TOPIC, KQ_ACL_OP_WRITE, {X, W}},
    {KQ_ACL_TOPIC, KQ_ACL_OP_DESCRIBE, {X, 0}},
    {KQ_ACL_TOPIC, KQ_ACL_OP_CREATE, {0, 0}}, /* it is there already */
    {KQ_ACL_TOPIC, KQ_ACL_OP_DESCRIBE_CONFIGS, {R | X, 0}},
    {KQ_ACL_TOPIC, KQ_ACL_OP_ALTER, {W | X, 0}},
    {KQ_ACL_GROUP, KQ_ACL_OP_READ, {R | W | X, 0}},
    {KQ_ACL_GROUP, KQ_ACL_OP_DESCRIBE, {R | X, 0}},
    {KQ_ACL_CLUSTER, KQ_ACL_OP_DESCRIBE, {R, 0}},
    {KQ_ACL_CLUSTER, KQ_ACL_OP_CREATE, {W | X, 0}},
    {KQ_ACL_CLUSTER, KQ_ACL_OP_IDEMPOTENT_WRITE, {0, 0}}, /* comes with `w` on any partition */
};

int kq_aclmap_bits(int resource, int operation, struct kq_aclmap_bits *ret)
{
    for (size_t i = 0; i < kq_array_size(table); i++)
        if (table[i].resource == resource && table[i].operation == operation) {
            *ret = table[i].bits;
            return 0;
        }
    return -EOPNOTSUPP;
}

static unsigned topic_operations(struct kq_aclmap_bits bits)
{
    unsigned operations = 0;
    if (!(bits.directory & X))
        return 0;
    if (bits.partition & R)
        operations |= 1U << KQ_ACL_OP_READ;
    if (bits.partition & W)
        operations |= 1U << KQ_ACL_OP_WRITE;
    if (bits.directory & R)
        operations |= 1U << KQ_ACL_OP_DESCRIBE_CONFIGS;
    if (bits.directory & W)
        operations |= 1U << KQ_ACL_OP_ALTER;
    return operations ? operations : 1U << KQ_ACL_OP_DESCRIBE;
}

unsigned kq_aclmap_operations(int resource, struct kq_aclmap_bits bits)
{
    unsigned operations = 0;
    switch (resource) {
    case KQ_ACL_TOPIC:
        return topic_operations(bits);
    case KQ_ACL_GROUP:
        if (bits.directory & W)
            return 1U << KQ_ACL_OP_READ;
        return bits.directory & R ? 1U << KQ_ACL_OP_DESCRIBE : 0;
    case KQ_ACL_CLUSTER:
        if (bits.directory & R)
            operations |= 1U << KQ_ACL_OP_DESCRIBE;
        if ((bits.directory & (W | X)) == (W | X))
            operations |= 1U << KQ_ACL_OP_CREATE;
        return operations;
    default:
        return 0;
    }
}

static struct kq_aclmap_bits bits_of_all(int resource, unsigned operations)
{
    struct kq_aclmap_bits all = {0, 0};
    for (size_t i = 0; i < kq_array_size(table); i++) {
        if (table[i].resource != resource || !(operations & 1U << table[i].operation))
            continue;
        all.directory |= table[i].bits.directory;
        all.partition |= table[i].bits.partition;
    }
    return all;
}

struct kq_aclmap_bits kq_aclmap_taken(int resource, unsigned before, unsigned removed)
{
    struct kq_aclmap_bits had = bits_of_all(resource, before);
    struct kq_aclmap_bits keeps = bits_of_all(resource, before & ~removed);
    return (struct kq_aclmap_bits){had.directory & ~keeps.directory,
                                   had.partition & ~keeps.partition};
}

/* --- An ACL in pieces --- */

struct entry {
    uint16_t tag, bits;
    uint32_t id;
};

/* All that an ACL says, or a mode where there is none. */
struct acl {
    struct entry *at; /* in the kernel's order */
    size_t count;
};

static size_t count_of(size_t length)
{
    return kq_acl_is_none(length) ? 0 : (length - HEADER_BYTES) / ENTRY_BYTES;
}

static struct entry decode(const uint8_t *acl, size_t index)
{
    const uint8_t *at = acl + HEADER_BYTES + index * ENTRY_BYTES;
    return (struct entry){kq_load_le16(at), kq_load_le16(at + 2), kq_load_le32(at + 4)};
}

/* There is room for two more: a user and the mask. */
static int load(const uint8_t *bytes, size_t length, mode_t mode, struct acl *ret)
{
    size_t count = count_of(length);
    ret->count = count ? count : 3;
    ret->at = kq_alloc((ret->count + 2) * sizeof(*ret->at));
    if (!ret->at)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        ret->at[i] = decode(bytes, i);
    if (count)
        return 0;
    ret->at[0] = (struct entry){USER_OBJ, mode >> 6 & 7, NO_ID};
    ret->at[1] = (struct entry){GROUP_OBJ, mode >> 3 & 7, NO_ID};
    ret->at[2] = (struct entry){OTHER, mode & 7, NO_ID};
    return 0;
}

static int encode(const struct acl *acl, struct kq_buf *ret)
{
    uint8_t bytes[ENTRY_BYTES];
    if (acl->count > KQ_ACL_MAX_ENTRIES)
        return -E2BIG;
    kq_store_le32(bytes, VERSION);
    int r = kq_buf_append(ret, bytes, HEADER_BYTES);
    for (size_t i = 0; i < acl->count && r == 0; i++) {
        kq_store_le16(bytes, acl->at[i].tag);
        kq_store_le16(bytes + 2, acl->at[i].bits);
        kq_store_le32(bytes + 4, acl->at[i].id);
        r = kq_buf_append(ret, bytes, ENTRY_BYTES);
    }
    return r;
}

static struct entry *find(const struct acl *acl, enum tag tag, uint32_t id)
{
    for (size_t i = 0; i < acl->count; i++)
        if (acl->at[i].tag == tag && acl->at[i].id == id)
            return &acl->at[i];
    return NULL;
}

/* The one entry of TAG that has no id, whatever its id field says. */
static struct entry *single(const struct acl *acl, enum tag tag)
{
    for (size_t i = 0; i < acl->count; i++)
        if (acl->at[i].tag == tag)
            return &acl->at[i];
    return NULL;
}

static struct entry *insert(struct acl *acl, struct entry entry)
{
    size_t place = 0;
    while (place < acl->count && acl->at[place].tag <= entry.tag)
        place++;
    memmove(&acl->at[place + 1], &acl->at[place], (acl->count - place) * sizeof(entry));
    acl->at[place] = entry;
    acl->count++;
    return &acl->at[place];
}

static void delete (struct acl *acl, struct entry *entry)
{
    size_t place = (size_t)(entry - acl->at);
    acl->count--;
    memmove(entry, entry + 1, (acl->count - place) * sizeof(*entry));
}

static bool is_masked(const struct entry *entry)
{
    return entry->tag == USER || entry->tag == GROUP_OBJ || entry->tag == GROUP;
}

static unsigned mask_of(const struct acl *acl)
{
    const struct entry *mask = single(acl, MASK);
    return mask ? mask->bits : 7;
}

/* What was behind the mask is given up: the mask may grow, and nobody gains by it. */
static void apply_mask(struct acl *acl)
{
    unsigned mask = mask_of(acl);
    for (size_t i = 0; i < acl->count; i++)
        if (is_masked(&acl->at[i]))
            acl->at[i].bits &= mask;
}

/* Without named entries there is no need for a mask. */
static void drop_idle_mask(struct acl *acl)
{
    for (size_t i = 0; i < acl->count; i++)
        if (acl->at[i].tag == USER || acl->at[i].tag == GROUP)
            return;
    apply_mask(acl);
    struct entry *mask = single(acl, MASK);
    if (mask)
        delete (acl, mask);
}

/* --- Who has what --- */

/* The bits that WHO has by an ACL of BYTES on what UID and GID own. */
static unsigned rights_by(const void *bytes, size_t length, mode_t mode, uid_t uid, gid_t gid,
                          const struct kq_acl_subject *user)
{
    struct kq_acl_object object = {
        .uid = uid, .gid = gid, .mode = mode, .acl = bytes, .acl_length = length};
    unsigned bits = 0;
    for (unsigned bit = X; bit <= R; bit <<= 1)
        if (kq_acl_permits(&object, user, bit))
            bits |= bit;
    return bits;
}

static mode_t mode_of(const struct acl *acl)
{
    const struct entry *mask = single(acl, MASK);
    return (mode_t)(single(acl, USER_OBJ)->bits << 6 |
                    (mask ? mask : single(acl, GROUP_OBJ))->bits << 3 | single(acl, OTHER)->bits);
}

/* As kq_acl_permits says it of ACL on what UID and GID own. */
static int rights_in(const struct acl *acl, uid_t uid, gid_t gid, const struct kq_acl_subject *user,
                     unsigned *ret)
{
    kq_autobuf struct kq_buf bytes = {0};
    int r = encode(acl, &bytes);
    if (r == 0)
        *ret = rights_by(bytes.data, bytes.length, mode_of(acl), uid, gid, user);
    return r;
}

static unsigned rights_of_all(const uint8_t *bytes, size_t length, mode_t mode)
{
    unsigned common = mode >> 6 & mode & 7, mask = mode >> 3 & 7;
    size_t count = count_of(length);
    if (count == 0)
        return common & mask;
    for (size_t i = 0; i < count; i++) {
        struct entry entry = decode(bytes, i);
        if (is_masked(&entry))
            common &= entry.bits & mask;
    }
    return common;
}

unsigned kq_aclmap_rights(const struct kq_attributes *attributes, const struct kq_aclmap_who *who)
{
    if (who->everybody)
        return rights_of_all(attributes->acl, attributes->acl_length, attributes->mode);
    return rights_by(attributes->acl, attributes->acl_length, attributes->mode, attributes->uid,
                     attributes->gid, &who->user);
}

/* --- Changes --- */

/* Whose the object is: of what is to come that is not known. */
struct owners {
    uid_t uid;
    gid_t gid;
};

/* Sets what the entry of its own gives USER; at first what it has without one is in BITS too. */
static void set_user(struct acl *acl, uint32_t id, unsigned bits)
{
    struct entry *own = find(acl, USER, id), *mask;
    apply_mask(acl);
    if (own)
        own->bits = (uint16_t)bits;
    else
        insert(acl, (struct entry){USER, (uint16_t)bits, id});
    mask = single(acl, MASK);
    if (mask)
        mask->bits |= (uint16_t)bits;
    else
        insert(acl, (struct entry){MASK, (uint16_t)(single(acl, GROUP_OBJ)->bits | bits), NO_ID});
}

static void grant_all(struct acl *acl, unsigned bits)
{
    apply_mask(acl);
    for (size_t i = 0; i < acl->count; i++)
        acl->at[i].bits |= (uint16_t)bits;
}

static int add_bits(struct acl *acl, struct owners owners, const struct kq_aclmap_who *who,
                    unsigned bits)
{
    unsigned has;
    if (who->everybody) {
        grant_all(acl, bits);
        return 0;
    }
    if (who->user.uid == owners.uid) {
        single(acl, USER_OBJ)->bits |= (uint16_t)bits;
        return 0;
    }
    int r = rights_in(acl, owners.uid, owners.gid, &who->user, &has);
    if (r == 0)
        set_user(acl, who->user.uid, has | bits);
    return r;
}

static void revoke_all(struct acl *acl, unsigned bits)
{
    for (size_t i = 0; i < acl->count; i++)
        if (acl->at[i].tag == GROUP_OBJ || acl->at[i].tag == GROUP || acl->at[i].tag == OTHER)
            acl->at[i].bits &= (uint16_t)~bits;
}

static int revoke_own(struct acl *acl, struct owners owners, const struct kq_acl_subject *user,
                      unsigned bits)
{
    unsigned without;
    struct entry *own = find(acl, USER, user->uid);
    if (!own)
        return 0;
    unsigned had = own->bits & mask_of(acl), left = had & ~bits;
    delete (acl, own);
    int r = rights_in(acl, owners.uid, owners.gid, user, &without);
    /* An entry may also keep from a user what others have. */
    if (r == 0 && ((left & ~without) || (without & ~had)))
        set_user(acl, user->uid, left | (without & had));
    return r;
}

static int take_bits(struct acl *acl, struct owners owners, const struct kq_aclmap_who *who,
                     unsigned bits)
{
    int r = 0;
    if (who->everybody)
        revoke_all(acl, bits);
    else if (who->user.uid == owners.uid)
        single(acl, USER_OBJ)->bits &= (uint16_t)~bits;
    else
        r = revoke_own(acl, owners, &who->user, bits);
    if (r == 0)
        drop_idle_mask(acl);
    return r;
}

typedef int change_fn(struct acl *acl, struct owners owners, const struct kq_aclmap_who *who,
                      unsigned bits);

static void replace(uint8_t **bytes, size_t *length, struct kq_buf *buf)
{
    free(*bytes);
    *bytes = buf->length ? buf->data : NULL;
    *length = buf->length;
    if (*length)
        *buf = (struct kq_buf){0};
}

static int change_access(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                         unsigned bits, change_fn *change)
{
    kq_autobuf struct kq_buf whole = {0}, stored = {0};
    struct acl acl;
    mode_t mode = attributes->mode;
    int r = load(attributes->acl, attributes->acl_length, mode, &acl);
    if (r < 0)
        return r;
    r = change(&acl, (struct owners){attributes->uid, attributes->gid}, who, bits);
    if (r == 0)
        r = encode(&acl, &whole);
    free(acl.at);
    if (r == 0)
        r = kq_acl_set_access(whole.data, whole.length, &mode, &stored);
    if (r < 0)
        return r;
    attributes->mode = mode;
    replace(&attributes->acl, &attributes->acl_length, &stored);
    return 0;
}

static int change_default(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                          unsigned bits, mode_t mode, change_fn *change)
{
    kq_autobuf struct kq_buf stored = {0};
    struct acl acl;
    int r = load(attributes->default_acl, attributes->default_acl_length, mode, &acl);
    if (r < 0)
        return r;
    r = change(&acl, (struct owners){KQ_UID_UNKNOWN, attributes->gid}, who, bits);
    if (r == 0)
        r = encode(&acl, &stored);
    free(acl.at);
    if (r == 0)
        replace(&attributes->default_acl, &attributes->default_acl_length, &stored);
    return r;
}

int kq_aclmap_grant(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                    unsigned bits)
{
    return bits ? change_access(attributes, who, bits, add_bits) : 0;
}

int kq_aclmap_revoke(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                     unsigned bits)
{
    return bits ? change_access(attributes, who, bits, take_bits) : 0;
}

int kq_aclmap_grant_default(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                            unsigned bits, mode_t umask)
{
    return bits ? change_default(attributes, who, bits, 0666 & ~umask, add_bits) : 0;
}

int kq_aclmap_revoke_default(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                             unsigned bits)
{
    if (bits == 0 || kq_acl_is_none(attributes->default_acl_length))
        return 0;
    return change_default(attributes, who, bits, 0, take_bits);
}

bool kq_aclmap_next_user(const uint8_t *acl, size_t length, size_t *at, uid_t *ret)
{
    for (size_t count = count_of(length); *at < count;) {
        struct entry entry = decode(acl, (*at)++);
        if (entry.tag == USER) {
            *ret = entry.id;
            return true;
        }
    }
    return false;
}
