#include "broker/base/acl.h"

#include "broker/base/endian.h"

#define HEADER_SIZE 4
#define ENTRY_SIZE 8
#define VERSION 2

enum tag {
    TAG_USER_OBJ = 0x01,
    TAG_USER = 0x02,
    TAG_GROUP_OBJ = 0x04,
    TAG_GROUP = 0x08,
    TAG_MASK = 0x10,
    TAG_OTHER = 0x20,
};

struct entry {
    uint16_t tag;
    uint16_t permissions;
    uint32_t id;
};

static size_t entry_count(size_t length)
{
    return kq_acl_is_none(length) ? 0 : (length - HEADER_SIZE) / ENTRY_SIZE;
}

static struct entry entry_at(const void *acl, size_t index)
{
    const uint8_t *at = (const uint8_t *)acl + HEADER_SIZE + index * ENTRY_SIZE;
    return (struct entry){kq_load_le16(at), kq_load_le16(at + 2), kq_load_le32(at + 4)};
}

static void set_permissions(void *acl, size_t index, unsigned permissions)
{
    kq_store_le16((uint8_t *)acl + HEADER_SIZE + index * ENTRY_SIZE + 2, permissions & 7);
}

/* The index of the first entry with TAG, or COUNT. */
static size_t find_tag(const void *acl, size_t count, enum tag tag)
{
    size_t i = 0;
    while (i < count && entry_at(acl, i).tag != tag)
        i++;
    return i;
}

/* --- The gate --- */

/* Whether a named entry's id stands in another of the same tag before INDEX. The kernel lets that
 * pass and heeds the first; what nobody can mean is refused here. */
static bool id_repeats(const void *acl, size_t index)
{
    struct entry entry = entry_at(acl, index);
    for (size_t i = index; i-- > 0;) {
        struct entry before = entry_at(acl, i);
        if (before.tag != entry.tag)
            return false;
        if (before.id == entry.id)
            return true;
    }
    return false;
}

static bool is_named(uint16_t tag)
{
    return tag == TAG_USER || tag == TAG_GROUP;
}

static bool entry_valid(const void *acl, size_t index, uint16_t previous_tag)
{
    struct entry entry = entry_at(acl, index);
    if (entry.permissions & ~7)
        return false;
    /* The tags' values ascend in the order that the kernel wants. */
    switch (entry.tag) {
    case TAG_USER:
    case TAG_GROUP:
        return entry.tag >= previous_tag && entry.id != UINT32_MAX && !id_repeats(acl, index);
    case TAG_USER_OBJ:
    case TAG_GROUP_OBJ:
    case TAG_MASK:
    case TAG_OTHER:
        return entry.tag > previous_tag;
    default:
        return false;
    }
}

int kq_acl_check(const void *bytes, size_t length)
{
    if (length == 0)
        return 0;
    if (length < HEADER_SIZE || (length - HEADER_SIZE) % ENTRY_SIZE)
        return -EINVAL;
    if (kq_load_le32(bytes) != VERSION)
        return -EOPNOTSUPP;
    size_t count = entry_count(length);
    if (count > KQ_ACL_MAX_ENTRIES)
        return -E2BIG;
    if (count == 0)
        return 0;
    unsigned seen = 0;
    uint16_t previous = 0;
    for (size_t i = 0; i < count; i++) {
        if (!entry_valid(bytes, i, previous))
            return -EINVAL;
        previous = entry_at(bytes, i).tag;
        seen |= previous;
    }
    unsigned required = TAG_USER_OBJ | TAG_GROUP_OBJ | TAG_OTHER;
    if (seen & (TAG_USER | TAG_GROUP))
        required |= TAG_MASK;
    return (seen & required) == required ? 0 : -EINVAL;
}

/* --- The question --- */

bool kq_acl_in_group(const struct kq_acl_subject *subject, gid_t gid)
{
    if (subject->gid == gid)
        return true;
    for (size_t i = 0; i < subject->group_count; i++)
        if (subject->groups[i] == gid)
            return true;
    return false;
}

/* What the mask leaves of entry INDEX. */
static bool masked_grants(const void *acl, size_t count, size_t index, unsigned want)
{
    size_t mask = find_tag(acl, count, TAG_MASK);
    unsigned permissions = entry_at(acl, index).permissions;
    if (mask < count)
        permissions &= entry_at(acl, mask).permissions;
    return (permissions & want) == want;
}

static bool group_entry_matches(const struct entry *entry, const struct kq_acl_object *object,
                                const struct kq_acl_subject *subject)
{
    if (entry->tag == TAG_GROUP_OBJ)
        return kq_acl_in_group(subject, object->gid);
    return entry->tag == TAG_GROUP && kq_acl_in_group(subject, entry->id);
}

/* The kernel's posix_acl_permission for one who is not the owner: the first entry that names the
 * user decides; else any one group entry that grants all that is wanted; who matches no group is
 * other. */
static bool acl_grants(const struct kq_acl_object *object, const struct kq_acl_subject *subject,
                       unsigned want)
{
    size_t count = entry_count(object->acl_length);
    bool in_a_group = false;
    for (size_t i = 0; i < count; i++) {
        struct entry entry = entry_at(object->acl, i);
        if (entry.tag == TAG_USER && entry.id == subject->uid)
            return masked_grants(object->acl, count, i, want);
        if (group_entry_matches(&entry, object, subject)) {
            in_a_group = true;
            if ((entry.permissions & want) == want)
                return masked_grants(object->acl, count, i, want);
        }
        if (entry.tag == TAG_OTHER)
            return !in_a_group && (entry.permissions & want) == want;
    }
    return false;
}

bool kq_acl_permits(const struct kq_acl_object *object, const struct kq_acl_subject *subject,
                    unsigned want)
{
    mode_t mode = object->mode;
    want &= 7;
    if (subject->uid == object->uid)
        return (mode >> 6 & want) == want;
    /* Where the group bits, that is the mask, are empty, the kernel does not look at the ACL. */
    if (!kq_acl_is_none(object->acl_length) && (mode & 0070))
        return acl_grants(object, subject, want);
    if (kq_acl_in_group(subject, object->gid))
        mode >>= 3;
    return (mode & want) == want;
}

/* --- The changes --- */

/* Whether an ACL says more than a mode can. */
static bool is_extended(const void *acl, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t tag = entry_at(acl, i).tag;
        if (is_named(tag) || tag == TAG_MASK)
            return true;
    }
    return false;
}

/* The entry that the group bits of the mode stand for. */
static size_t group_class(const void *acl, size_t count)
{
    size_t mask = find_tag(acl, count, TAG_MASK);
    return mask < count ? mask : find_tag(acl, count, TAG_GROUP_OBJ);
}

static mode_t mode_of(const void *acl, size_t count)
{
    mode_t mode = 0;
    mode |= entry_at(acl, find_tag(acl, count, TAG_USER_OBJ)).permissions << 6;
    mode |= entry_at(acl, group_class(acl, count)).permissions << 3;
    mode |= entry_at(acl, find_tag(acl, count, TAG_OTHER)).permissions;
    return mode;
}

static int make_room(struct kq_buf *buf, size_t length)
{
    return buf->capacity >= length ? 0 : kq_buf_reserve(buf, length - buf->length);
}

/* BUF has room. */
static void put(struct kq_buf *buf, const void *bytes, size_t length)
{
    if (length)
        memcpy(buf->data, bytes, length);
    buf->length = length;
}

int kq_acl_set_access(const void *acl, size_t acl_length, mode_t *mode, struct kq_buf *ret_acl)
{
    size_t count = entry_count(acl_length);
    size_t stored = is_extended(acl, count) ? acl_length : 0;
    int r = make_room(ret_acl, stored);
    if (r < 0)
        return r;
    put(ret_acl, acl, stored);
    if (count)
        *mode = (*mode & ~(mode_t)0777) | mode_of(acl, count);
    return 0;
}

void kq_acl_chmod(void *acl, size_t acl_length, mode_t mode)
{
    size_t count = entry_count(acl_length);
    if (count == 0)
        return;
    set_permissions(acl, find_tag(acl, count, TAG_USER_OBJ), mode >> 6);
    set_permissions(acl, group_class(acl, count), mode >> 3);
    set_permissions(acl, find_tag(acl, count, TAG_OTHER), mode);
}

int kq_acl_create(const void *parent_default, size_t parent_default_length, bool directory,
                  mode_t mode, mode_t umask, struct kq_buf *ret_acl, struct kq_buf *ret_default,
                  mode_t *ret_mode)
{
    size_t count = entry_count(parent_default_length);
    if (count == 0) {
        put(ret_acl, NULL, 0);
        put(ret_default, NULL, 0);
        *ret_mode = mode & ~(umask & 0777);
        return 0;
    }
    size_t access_length = is_extended(parent_default, count) ? parent_default_length : 0;
    size_t default_length = directory ? parent_default_length : 0;
    int r = make_room(ret_acl, access_length);
    if (r < 0 || (r = make_room(ret_default, default_length)) < 0)
        return r;
    mode &= ~(mode_t)0777 | mode_of(parent_default, count);
    put(ret_acl, parent_default, access_length);
    kq_acl_chmod(ret_acl->data, access_length, mode);
    put(ret_default, parent_default, default_length);
    *ret_mode = mode;
    return 0;
}
