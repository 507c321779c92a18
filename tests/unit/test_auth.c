/* Who may do what, by the table "Permissions over TCP". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "auth/auth.h"
#include "broker/base/acl.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"

/* The cast: the root belongs to rita, the topic and its partition to tom, group 50 to both. */
enum {
    RITA = 100,
    TOM = 101,
    MATE = 102, /* in group 50 by a supplementary group */
    ANN = 103,  /* named by the partition's ACL */
    EVE = 104,  /* other */
    GROUP = 50,
};

static const gid_t mates_groups[] = {7, GROUP};

static struct kq_caller caller_of(uid_t uid)
{
    struct kq_caller caller = {.uid = uid, .gid = 1000 + uid};
    if (uid == RITA || uid == TOM)
        caller.gid = GROUP;
    if (uid == MATE) {
        caller.groups = mates_groups;
        caller.group_count = 2;
    }
    return caller;
}

static int ask(const struct kq_caller *caller, unsigned rights, const struct kq_authz_object *on)
{
    struct kq_auth *auth;
    assert_int_equal(kq_auth_new(&auth), 0);
    struct kq_authz authz = kq_auth_authz(auth);
    int r = authz.check(authz.context, caller, rights, on);
    kq_auth_free(auth);
    return r;
}

enum {
    DESCRIBE = KQ_RIGHT_DESCRIBE,
    READ = KQ_RIGHT_READ,
    WRITE = KQ_RIGHT_WRITE,
    CREATE = KQ_RIGHT_CREATE,
    ALTER = KQ_RIGHT_ALTER,
    DELETE = KQ_RIGHT_DELETE,
    DELETE_RECORDS = KQ_RIGHT_DELETE_RECORDS,
    DESCRIBE_CONFIG = KQ_RIGHT_DESCRIBE_CONFIG,
    ALTER_CONFIG = KQ_RIGHT_ALTER_CONFIG,
    ATTRIBUTES = KQ_RIGHT_CHANGE_ATTRIBUTES,
    LIST = KQ_RIGHT_LIST,
    NOBODY = -1, /* KQ_UID_UNKNOWN */
    ACC = -EACCES,
    PRM = -EPERM,
};

static const struct row {
    const char *what;
    mode_t root, topic, partition;
    uid_t who;
    unsigned rights;
    int answer;
} rows[] = {
    {"x on root and topic describe", 01711, 01711, 0000, EVE, DESCRIBE, 0},
    {"no x on the root", 01710, 01777, 0666, EVE, DESCRIBE, ACC},
    {"no x on the topic", 01777, 01776, 0666, EVE, DESCRIBE, ACC},
    {"the group's x", 01777, 01710, 0666, MATE, DESCRIBE, 0},
    {"other's x is not the group's", 01777, 01701, 0666, MATE, DESCRIBE, ACC},

    {"r on the root lists", 01704, 0, 0, EVE, LIST, 0},
    {"no r on the root", 01773, 01777, 0666, EVE, LIST, ACC},

    {"r reads", 01711, 01711, 0604, EVE, READ, 0},
    {"w does not read", 01777, 01777, 0602, EVE, READ, ACC},
    {"r does not write", 01777, 01777, 0604, EVE, WRITE, ACC},
    {"w writes", 01711, 01711, 0602, EVE, WRITE, 0},
    {"both together want both", 01711, 01711, 0604, EVE, READ | WRITE, ACC},
    {"both together", 01711, 01711, 0606, EVE, READ | WRITE, 0},
    {"reading needs the topic's x", 01777, 01776, 0666, EVE, READ, ACC},
    {"reading needs the root's x", 01776, 01777, 0666, EVE, READ, ACC},
    {"an owner without r does not read", 01777, 01777, 0077, TOM, READ, ACC},
    {"a mate reads by group", 01777, 01777, 0640, MATE, READ, 0},

    {"wx on the root creates", 01773, 0, 0, EVE, CREATE, 0},
    {"w alone does not create", 01772, 0, 0, EVE, CREATE, ACC},
    {"x alone does not create", 01771, 0, 0, EVE, CREATE, ACC},
    {"nobody known creates nothing", 01777, 0, 0, NOBODY, CREATE, ACC},

    {"wx on the topic adds partitions", 01711, 01773, 0, EVE, ALTER, 0},
    {"w alone adds none", 01711, 01772, 0, EVE, ALTER, ACC},
    {"x alone adds none", 01711, 01771, 0, EVE, ALTER, ACC},
    {"nobody known adds none", 01777, 01777, 0, NOBODY, ALTER, ACC},

    {"the topic's owner deletes", 01777, 01755, 0, TOM, DELETE, 0},
    {"the root's owner deletes", 01755, 01755, 0, RITA, DELETE, 0},
    {"sticky: others do not", 01777, 01777, 0, EVE, DELETE, PRM},
    {"not sticky: others do", 0777, 01777, 0, EVE, DELETE, 0},
    {"owning the topic is not enough", 01755, 01755, 0, TOM, DELETE, ACC},
    {"nobody known deletes nothing", 01777, 01777, 0, NOBODY, DELETE, PRM},

    {"the owner deletes records", 01711, 01755, 0, TOM, DELETE_RECORDS, 0},
    {"nobody else does, sticky or not", 01777, 0777, 0666, EVE, DELETE_RECORDS, PRM},
    {"not even the root's owner", 01777, 01777, 0666, RITA, DELETE_RECORDS, PRM},
    {"nor its owner without w", 01711, 01555, 0, TOM, DELETE_RECORDS, ACC},
    {"nor who is not known", 01777, 01777, 0, NOBODY, DELETE_RECORDS, PRM},

    {"rx on the topic describes its settings", 01711, 01705, 0, EVE, DESCRIBE_CONFIG, 0},
    {"r alone does not", 01711, 01704, 0, EVE, DESCRIBE_CONFIG, ACC},
    {"x alone does not", 01711, 01701, 0, EVE, DESCRIBE_CONFIG, ACC},

    {"the owner sets", 01711, 01700, 0, TOM, ALTER_CONFIG, 0},
    {"sticky: others do not set", 01777, 01777, 0, EVE, ALTER_CONFIG, PRM},
    {"not sticky: w sets", 01711, 0703, 0, EVE, ALTER_CONFIG, 0},
    {"without w nobody sets", 01711, 01500, 0, TOM, ALTER_CONFIG, ACC},

    {"the owner changes attributes", 01711, 01700, 0000, TOM, ATTRIBUTES, 0},
    {"others do not", 01777, 01777, 0666, EVE, ATTRIBUTES, PRM},
    {"nor a mate", 01777, 01777, 0666, MATE, ATTRIBUTES, PRM},
    {"nor who is not known", 01777, 01777, 0666, NOBODY, ATTRIBUTES, PRM},

    {"uid 0 passes everything", 01000, 01000, 0000, 0, 0x7ff, 0},
    {"a right of tomorrow is refused", 01777, 01777, 0666, EVE, 1 << 11, ACC},
    {"one right refused refuses all", 01777, 01777, 0666, EVE, READ | WRITE | DELETE, PRM},
};

static void the_table_holds(void **state)
{
    for (size_t i = 0; i < kq_array_size(rows); i++) {
        const struct row *row = &rows[i];
        struct kq_attributes root = {RITA, GROUP, row->root, NULL, 0, NULL, 0};
        struct kq_attributes topic = {TOM, GROUP, row->topic, NULL, 0, NULL, 0};
        struct kq_attributes partition = {TOM, GROUP, row->partition, NULL, 0, NULL, 0};
        struct kq_authz_object on = {&root, &topic, &partition};
        struct kq_caller caller = caller_of(row->who);
        int r = ask(&caller, row->rights, &on);
        if (r != row->answer)
            fail_msg("%s: %d", row->what, r);
    }
}

static void whom_nobody_knows_is_other_only(void **state)
{
    gid_t groups[] = {GROUP};
    struct kq_caller stranger = {
        .uid = KQ_UID_UNKNOWN, .gid = GROUP, .groups = groups, .group_count = 1};
    struct kq_attributes root = {KQ_UID_UNKNOWN, GROUP, 01777, NULL, 0, NULL, 0};
    struct kq_attributes topic = {KQ_UID_UNKNOWN, GROUP, 01705, NULL, 0, NULL, 0};
    struct kq_authz_object on = {&root, &topic, NULL};
    assert_int_equal(ask(&stranger, KQ_RIGHT_DESCRIBE, &on), 0);
    assert_int_equal(ask(&stranger, KQ_RIGHT_CHANGE_ATTRIBUTES, &on), -EPERM);
    topic.mode = 01770;
    assert_int_equal(ask(&stranger, KQ_RIGHT_DESCRIBE, &on), -EACCES);
}

static void an_acl_widens_and_narrows(void **state)
{
    static const uint16_t entries[][2] = {{1, 6}, {2, 4}, {4, 0}, {16, 4}, {32, 0}};
    uint8_t acl[4 + 8 * kq_array_size(entries)];
    kq_store_le32(acl, 2);
    for (size_t i = 0; i < kq_array_size(entries); i++) {
        kq_store_le16(acl + 4 + 8 * i, entries[i][0]);
        kq_store_le16(acl + 6 + 8 * i, entries[i][1]);
        kq_store_le32(acl + 8 + 8 * i, entries[i][0] == 2 ? ANN : UINT32_MAX);
    }
    struct kq_attributes open = {RITA, GROUP, 01777, NULL, 0, NULL, 0};
    struct kq_attributes partition = {TOM, GROUP, 0640, acl, sizeof(acl), NULL, 0};
    struct kq_authz_object on = {&open, &open, &partition};
    struct kq_caller ann = caller_of(ANN), mate = caller_of(MATE), eve = caller_of(EVE);
    assert_int_equal(ask(&ann, KQ_RIGHT_READ, &on), 0);
    assert_int_equal(ask(&ann, KQ_RIGHT_WRITE, &on), -EACCES);
    assert_int_equal(ask(&mate, KQ_RIGHT_READ, &on), -EACCES);
    assert_int_equal(ask(&eve, KQ_RIGHT_READ, &on), -EACCES);
}

static void the_deepest_object_is_whose_owner_changes_it(void **state)
{
    struct kq_attributes root = {RITA, GROUP, 01777, NULL, 0, NULL, 0};
    struct kq_attributes topic = {TOM, GROUP, 01777, NULL, 0, NULL, 0};
    struct kq_attributes partition = {ANN, GROUP, 0600, NULL, 0, NULL, 0};
    struct kq_authz_object on_root = {&root, NULL, NULL}, on_topic = {&root, &topic, NULL},
                           on_partition = {&root, &topic, &partition};
    struct kq_caller rita = caller_of(RITA), tom = caller_of(TOM), ann = caller_of(ANN);
    unsigned right = KQ_RIGHT_CHANGE_ATTRIBUTES;
    assert_int_equal(ask(&rita, right, &on_root), 0);
    assert_int_equal(ask(&tom, right, &on_root), -EPERM);
    assert_int_equal(ask(&tom, right, &on_topic), 0);
    assert_int_equal(ask(&rita, right, &on_topic), -EPERM);
    assert_int_equal(ask(&ann, right, &on_partition), 0);
    assert_int_equal(ask(&tom, right, &on_partition), -EPERM);
}

static void what_is_not_named_is_not_granted(void **state)
{
    struct kq_attributes root = {RITA, GROUP, 01777, NULL, 0, NULL, 0};
    struct kq_attributes topic = {TOM, GROUP, 01777, NULL, 0, NULL, 0};
    struct kq_authz_object on_root = {&root, NULL, NULL}, on_topic = {&root, &topic, NULL};
    struct kq_caller tom = caller_of(TOM);
    assert_int_equal(ask(&tom, KQ_RIGHT_DESCRIBE, &on_root), 0);
    assert_int_equal(ask(&tom, KQ_RIGHT_ALTER, &on_root), -EACCES);
    assert_int_equal(ask(&tom, KQ_RIGHT_READ, &on_topic), -EACCES);
    assert_int_equal(ask(&tom, KQ_RIGHT_WRITE, &on_topic), -EACCES);
}

static void the_kernels_answer_is_final(void **state)
{
    struct kq_attributes closed = {TOM, GROUP, 0, NULL, 0, NULL, 0};
    struct kq_authz_object on = {&closed, &closed, &closed};
    struct kq_caller eve = caller_of(EVE);
    assert_int_equal(ask(&eve, KQ_RIGHT_READ, &on), -EACCES);
    eve.kernel_checked = true;
    assert_int_equal(ask(&eve, KQ_RIGHT_READ | KQ_RIGHT_WRITE, &on), 0);
}

static void no_memory_is_an_error(void **state)
{
    struct kq_auth *auth = NULL;
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, false);
    assert_int_equal(kq_auth_new(&auth), -ENOMEM);
    assert_true(kq_fault_disarm());
    assert_null(auth);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_holds),
        cmocka_unit_test(whom_nobody_knows_is_other_only),
        cmocka_unit_test(an_acl_widens_and_narrows),
        cmocka_unit_test(the_deepest_object_is_whose_owner_changes_it),
        cmocka_unit_test(what_is_not_named_is_not_granted),
        cmocka_unit_test(the_kernels_answer_is_final),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
