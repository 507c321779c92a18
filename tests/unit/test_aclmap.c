/* Kafka's ACL bindings as POSIX ACLs: each rule by itself, and by chance what must always hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "auth/aclmap.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "tests/unit/chance.h"

enum {
    OWNER = 100,
    APP = 101,
    OTHER_APP = 102,
    STRANGER = 103,
    GROUP = 50,
    R = KQ_ACL_READ,
    W = KQ_ACL_WRITE,
    X = KQ_ACL_EXECUTE,
    USER_TAG = 2,
    MASK_TAG = 16,
};

static const struct kq_aclmap_who owner = {.user = {.uid = OWNER, .gid = 1000}};
static const struct kq_aclmap_who app = {.user = {.uid = APP, .gid = 1001}};
static const struct kq_aclmap_who mate = {.user = {.uid = APP, .gid = GROUP}};
static const struct kq_aclmap_who other_app = {.user = {.uid = OTHER_APP, .gid = 1002}};
static const struct kq_aclmap_who stranger = {.user = {.uid = STRANGER, .gid = 1003}};
static const struct kq_aclmap_who everybody = {.everybody = true};

static struct kq_attributes make(mode_t mode)
{
    return (struct kq_attributes){.uid = OWNER, .gid = GROUP, .mode = mode};
}

static void drop(struct kq_attributes *attributes)
{
    free(attributes->acl);
    free(attributes->default_acl);
}

/* The bits of the first entry of TAG and ID (-1: any); -1: there is none. */
static int entry(const uint8_t *acl, size_t length, unsigned tag, int64_t id)
{
    for (size_t at = 4; at + 8 <= length; at += 8)
        if (kq_load_le16(acl + at) == tag && (id < 0 || kq_load_le32(acl + at + 4) == id))
            return kq_load_le16(acl + at + 2);
    return -1;
}

static int own_entry(const struct kq_attributes *attributes)
{
    return entry(attributes->acl, attributes->acl_length, USER_TAG, APP);
}

static void must_be_sound(const struct kq_attributes *attributes)
{
    assert_int_equal(kq_acl_check(attributes->acl, attributes->acl_length), 0);
    assert_int_equal(kq_acl_check(attributes->default_acl, attributes->default_acl_length), 0);
    int mask = entry(attributes->acl, attributes->acl_length, MASK_TAG, -1);
    if (mask >= 0)
        assert_int_equal(mask, attributes->mode >> 3 & 7);
}

static void a_grant_is_an_entry_of_the_users_own(void **state)
{
    struct kq_attributes file = make(0600);
    assert_int_equal(kq_aclmap_grant(&file, &app, R), 0);
    must_be_sound(&file);
    assert_int_equal(own_entry(&file), R);
    assert_int_equal(file.mode, 0640);
    assert_int_equal(kq_aclmap_rights(&file, &app), R);
    assert_int_equal(kq_aclmap_rights(&file, &stranger), 0);
    assert_int_equal(kq_aclmap_grant(&file, &app, W), 0);
    assert_int_equal(own_entry(&file), R | W);
    drop(&file);
}

static void what_the_group_gave_is_in_the_entry(void **state)
{
    struct kq_attributes file = make(0620);
    assert_int_equal(kq_aclmap_grant(&file, &mate, R), 0);
    assert_int_equal(own_entry(&file), R | W);
    assert_int_equal(kq_aclmap_revoke(&file, &mate, R), 0);
    assert_int_equal(file.acl_length, 0);
    assert_int_equal(file.mode, 0620);
    drop(&file);
}

static void what_other_has_is_in_the_entry(void **state)
{
    struct kq_attributes file = make(0604);
    assert_int_equal(kq_aclmap_grant(&file, &app, W), 0);
    assert_int_equal(own_entry(&file), R | W);
    assert_int_equal(kq_aclmap_revoke(&file, &app, W), 0);
    assert_int_equal(own_entry(&file), -1);
    assert_int_equal(kq_aclmap_rights(&file, &app), R);
    drop(&file);
}

static void the_owner_is_granted_by_the_owners_bits(void **state)
{
    struct kq_attributes file = make(0400);
    assert_int_equal(kq_aclmap_grant(&file, &owner, W), 0);
    assert_int_equal(file.mode, 0600);
    assert_int_equal(file.acl_length, 0);
    assert_int_equal(kq_aclmap_revoke(&file, &owner, R), 0);
    assert_int_equal(file.mode, 0200);
    drop(&file);
}

static void a_mask_that_grows_gives_nobody_else_more(void **state)
{
    struct kq_attributes file = make(0600);
    assert_int_equal(kq_aclmap_grant(&file, &other_app, R | W), 0);
    file.mode = 0640;
    kq_acl_chmod(file.acl, file.acl_length, file.mode);
    assert_int_equal(kq_aclmap_rights(&file, &other_app), R);
    assert_int_equal(kq_aclmap_grant(&file, &app, W), 0);
    must_be_sound(&file);
    assert_int_equal(kq_aclmap_rights(&file, &app), W);
    assert_int_equal(kq_aclmap_rights(&file, &other_app), R);
    drop(&file);
}

static void everybody_is_each_entry(void **state)
{
    struct kq_attributes file = make(0200);
    assert_int_equal(kq_aclmap_grant(&file, &app, W), 0);
    assert_int_equal(kq_aclmap_rights(&file, &everybody), 0);
    assert_int_equal(kq_aclmap_grant(&file, &everybody, R), 0);
    must_be_sound(&file);
    assert_int_equal(kq_aclmap_rights(&file, &everybody), R);
    assert_int_equal(own_entry(&file), R | W);
    assert_int_equal(file.mode & 0707, 0604);
    assert_int_equal(kq_aclmap_revoke(&file, &everybody, R), 0);
    assert_int_equal(kq_aclmap_rights(&file, &stranger), 0);
    assert_int_equal(kq_aclmap_rights(&file, &app), R | W);
    drop(&file);
}

static void what_is_to_come_begins_as_without_a_default_acl(void **state)
{
    struct kq_attributes directory = make(01700);
    assert_int_equal(kq_aclmap_revoke_default(&directory, &app, R), 0);
    assert_int_equal(directory.default_acl_length, 0);
    assert_int_equal(kq_aclmap_grant_default(&directory, &app, R, 027), 0);
    must_be_sound(&directory);
    assert_int_equal(directory.acl_length, 0);
    struct kq_buf acl = {0}, none = {0};
    struct kq_attributes file = make(0);
    assert_int_equal(kq_acl_create(directory.default_acl, directory.default_acl_length, false, 0666,
                                   0, &acl, &none, &file.mode),
                     0);
    file.acl = acl.data;
    file.acl_length = acl.length;
    assert_int_equal(kq_aclmap_rights(&file, &app), R);
    assert_int_equal(kq_aclmap_rights(&file, &stranger), 0);
    assert_int_equal(file.mode, 0640);
    drop(&file);
    assert_int_equal(kq_aclmap_revoke_default(&directory, &app, R), 0);
    assert_int_equal(entry(directory.default_acl, directory.default_acl_length, USER_TAG, APP), -1);
    drop(&directory);
}

static void operations_are_bits_and_bits_operations(void **state)
{
    static const struct {
        int resource;
        struct kq_aclmap_bits bits;
        unsigned operations;
    } rows[] = {
        {KQ_ACL_TOPIC, {X, R}, 1U << KQ_ACL_OP_READ},
        {KQ_ACL_TOPIC, {X, R | W}, 1U << KQ_ACL_OP_READ | 1U << KQ_ACL_OP_WRITE},
        {KQ_ACL_TOPIC, {X, 0}, 1U << KQ_ACL_OP_DESCRIBE},
        {KQ_ACL_TOPIC, {R | W, 7}, 0},
        {KQ_ACL_TOPIC, {R | X, 0}, 1U << KQ_ACL_OP_DESCRIBE_CONFIGS},
        {KQ_ACL_TOPIC, {W | X, W}, 1U << KQ_ACL_OP_ALTER | 1U << KQ_ACL_OP_WRITE},
        {KQ_ACL_GROUP, {7, 0}, 1U << KQ_ACL_OP_READ},
        {KQ_ACL_GROUP, {R | X, 0}, 1U << KQ_ACL_OP_DESCRIBE},
        {KQ_ACL_GROUP, {X, 0}, 0},
        {KQ_ACL_CLUSTER, {7, 0}, 1U << KQ_ACL_OP_DESCRIBE | 1U << KQ_ACL_OP_CREATE},
        {KQ_ACL_CLUSTER, {W, 0}, 0},
        {KQ_ACL_TRANSACTIONAL_ID, {7, 7}, 0},
    };
    struct kq_aclmap_bits bits;
    for (size_t i = 0; i < kq_array_size(rows); i++)
        assert_int_equal(kq_aclmap_operations(rows[i].resource, rows[i].bits), rows[i].operations);
    assert_int_equal(kq_aclmap_bits(KQ_ACL_TOPIC, KQ_ACL_OP_WRITE, &bits), 0);
    assert_int_equal(bits.directory, X);
    assert_int_equal(bits.partition, W);
    assert_int_equal(kq_aclmap_bits(KQ_ACL_TOPIC, KQ_ACL_OP_DELETE, &bits), -EOPNOTSUPP);
    assert_int_equal(kq_aclmap_bits(KQ_ACL_TOPIC, KQ_ACL_OP_ALL, &bits), -EOPNOTSUPP);
    assert_int_equal(kq_aclmap_bits(KQ_ACL_TRANSACTIONAL_ID, KQ_ACL_OP_WRITE, &bits), -EOPNOTSUPP);
    assert_int_equal(kq_aclmap_bits(KQ_ACL_CLUSTER, KQ_ACL_OP_ALTER, &bits), -EOPNOTSUPP);
}

static void what_another_operation_needs_is_not_taken(void **state)
{
    unsigned both = 1U << KQ_ACL_OP_READ | 1U << KQ_ACL_OP_WRITE;
    struct kq_aclmap_bits taken = kq_aclmap_taken(KQ_ACL_TOPIC, both, 1U << KQ_ACL_OP_READ);
    assert_int_equal(taken.directory, 0);
    assert_int_equal(taken.partition, R);
    taken = kq_aclmap_taken(KQ_ACL_TOPIC, both, both);
    assert_int_equal(taken.directory, X);
    assert_int_equal(taken.partition, R | W);
}

static void too_many_entries_are_refused(void **state)
{
    struct kq_attributes file = make(0600);
    struct kq_aclmap_who one = app;
    int r = 0;
    for (unsigned i = 0; i < KQ_ACL_MAX_ENTRIES && r == 0; i++) {
        one.user.uid = 5000 + i;
        r = kq_aclmap_grant(&file, &one, R);
    }
    assert_int_equal(r, -E2BIG);
    must_be_sound(&file);
    assert_int_equal(kq_aclmap_rights(&file, &one), 0);
    drop(&file);
}

static void memory_that_is_missing_changes_nothing(void **state)
{
    for (long nth = 1;; nth++) {
        struct kq_attributes file = make(0604);
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_aclmap_grant(&file, &app, W);
        kq_fault_disarm();
        if (r < 0) {
            assert_int_equal(r, -ENOMEM);
            assert_int_equal(file.mode, 0604);
            assert_int_equal(file.acl_length, 0);
        }
        drop(&file);
        if (r == 0)
            return;
    }
}

/* Whatever stands there: a grant gives what it says to one user and nothing to another, and a
 * revocation takes from nobody else. */
static void by_chance(void **state)
{
    static const struct kq_aclmap_who *cast[] = {&owner, &app, &mate, &other_app, &stranger};
    struct kq_attributes file = make(0640);
    for (int step = 0; step < 20000; step++) {
        const struct kq_aclmap_who *who = cast[chance(kq_array_size(cast))];
        unsigned bits = (unsigned)chance(8), before[kq_array_size(cast)];
        bool grants = chance(2);
        if (chance(10) == 0) {
            file.mode = (mode_t)chance(01000);
            kq_acl_chmod(file.acl, file.acl_length, file.mode);
        }
        /* What the kernel does where the mask is empty is its own. */
        if (!(file.mode & 0070))
            continue;
        for (size_t i = 0; i < kq_array_size(cast); i++)
            before[i] = kq_aclmap_rights(&file, cast[i]);
        assert_int_equal((grants ? kq_aclmap_grant : kq_aclmap_revoke)(&file, who, bits), 0);
        must_be_sound(&file);
        if (!(file.mode & 0070))
            continue;
        for (size_t i = 0; i < kq_array_size(cast); i++) {
            unsigned now = kq_aclmap_rights(&file, cast[i]);
            if (cast[i]->user.uid != who->user.uid)
                assert_int_equal(now, before[i]);
            else if (cast[i] == who && grants)
                assert_int_equal(now, before[i] | bits);
            else if (cast[i] == who)
                assert_int_equal(now & ~before[i], 0);
        }
    }
    drop(&file);
}

static void named_users_come_one_after_another(void **state)
{
    struct kq_attributes file = make(0600);
    size_t at = 0;
    uid_t uid;
    assert_false(kq_aclmap_next_user(file.acl, file.acl_length, &at, &uid));
    assert_int_equal(kq_aclmap_grant(&file, &app, R), 0);
    assert_int_equal(kq_aclmap_grant(&file, &other_app, R), 0);
    assert_true(kq_aclmap_next_user(file.acl, file.acl_length, &at, &uid));
    assert_int_equal(uid, APP);
    assert_true(kq_aclmap_next_user(file.acl, file.acl_length, &at, &uid));
    assert_int_equal(uid, OTHER_APP);
    assert_false(kq_aclmap_next_user(file.acl, file.acl_length, &at, &uid));
    drop(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_grant_is_an_entry_of_the_users_own),
        cmocka_unit_test(what_the_group_gave_is_in_the_entry),
        cmocka_unit_test(what_other_has_is_in_the_entry),
        cmocka_unit_test(the_owner_is_granted_by_the_owners_bits),
        cmocka_unit_test(a_mask_that_grows_gives_nobody_else_more),
        cmocka_unit_test(everybody_is_each_entry),
        cmocka_unit_test(what_is_to_come_begins_as_without_a_default_acl),
        cmocka_unit_test(operations_are_bits_and_bits_operations),
        cmocka_unit_test(what_another_operation_needs_is_not_taken),
        cmocka_unit_test(too_many_entries_are_refused),
        cmocka_unit_test(memory_that_is_missing_changes_nothing),
        cmocka_unit_test(by_chance),
        cmocka_unit_test(named_users_come_one_after_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
