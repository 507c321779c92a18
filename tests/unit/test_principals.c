/* Which user's rights a name has. The users of the host are the test's own: it answers in the place
 * of getpwnam_r(3), getpwuid_r(3) and getgrouplist(3). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "auth/principals.h"
#include "broker/base/clock.h"
#include "broker/base/fault.h"
#include "broker/base/mem.h"

/* --- The host --- */

static atomic_int looks;
static sem_t slow_asked, slow_answers;
static _Atomic gid_t alices_group = 70;
static atomic_bool alice_has_gone, host_is_broken;

static const struct host_user {
    const char *name;
    uid_t uid;
} host[] = {{"root", 0}, {"toor", 0}, {"alice", 1000}, {"1001", 1002}, {"slow", 1003}};

static int answer(const struct host_user *user, struct passwd *ret, struct passwd **found)
{
    *found = NULL;
    if (!user)
        return 0;
    *ret = (struct passwd){.pw_name = (char *)user->name, .pw_uid = user->uid, .pw_gid = user->uid};
    *found = ret;
    return 0;
}

int getpwnam_r(const char *name, struct passwd *ret, char *room, size_t size, struct passwd **found)
{
    const struct host_user *user = NULL;
    atomic_fetch_add(&looks, 1);
    if (strcmp(name, "slow") == 0) {
        sem_post(&slow_asked);
        sem_wait(&slow_answers);
    }
    *found = NULL;
    if (strcmp(name, "broken") == 0 || host_is_broken)
        return EAGAIN;
    for (size_t i = 0; i < kq_array_size(host); i++)
        if (strcmp(host[i].name, name) == 0 && !(alice_has_gone && strcmp(name, "alice") == 0))
            user = &host[i];
    return answer(user, ret, found);
}

int getpwuid_r(uid_t uid, struct passwd *ret, char *room, size_t size, struct passwd **found)
{
    const struct host_user *user = NULL;
    atomic_fetch_add(&looks, 1);
    for (size_t i = 0; !user && i < kq_array_size(host); i++)
        if (host[i].uid == uid)
            user = &host[i];
    return answer(user, ret, found);
}

int getgrouplist(const char *name, gid_t gid, gid_t *groups, int *count)
{
    groups[0] = gid;
    groups[1] = alices_group;
    *count = strcmp(name, "alice") == 0 ? 2 : 1;
    return *count;
}

/* --- */

static const struct kq_principal_entry entries[] = {
    {"app1", 5000}, {"boss", 0}, {"root", 0}, {"CN=x", 1000}, {"77", 78}};

static struct kq_principals *make(unsigned most)
{
    struct kq_principals *principals;
    struct kq_principals_options options = {.certificate_rules = "RULE:^CN=(.*)$/$1/L",
                                            .kerberos_rules = "",
                                            .kerberos_realm = "R",
                                            .users = entries,
                                            .user_count = kq_array_size(entries),
                                            .refresh_ms = 60000,
                                            .max_entries = most};
    assert_int_equal(kq_principals_new(&options, &principals), 0);
    return principals;
}

static void expect_uid(struct kq_principals *principals, const char *name, uid_t uid)
{
    const struct kq_identity *identity;
    char principal[1200];
    snprintf(principal, sizeof(principal), "User:%s", name);
    assert_int_equal(kq_principals_identity(principals, name, &identity), 0);
    assert_string_equal(identity->principal, principal);
    assert_int_equal(identity->uid, uid);
    kq_identity_unref(identity);
}

static void a_user_of_the_host_has_its_uid_and_groups(void **state)
{
    struct kq_principals *principals = make(100);
    const struct kq_identity *alice;
    assert_int_equal(kq_principals_identity(principals, "alice", &alice), 0);
    assert_int_equal(alice->uid, 1000);
    assert_int_equal(alice->gid, 1000);
    assert_int_equal(alice->group_count, 2);
    assert_int_equal(alice->groups[1], 70);
    kq_identity_unref(alice);
    kq_principals_free(principals);
}

static void an_unknown_name_is_nobody(void **state)
{
    struct kq_principals *principals = make(100);
    const struct kq_identity *identity;
    char longest[1001];
    memset(longest, 'a', 1000);
    longest[1000] = '\0';
    expect_uid(principals, "mallory", KQ_UID_UNKNOWN);
    expect_uid(principals, "", KQ_UID_UNKNOWN);
    expect_uid(principals, longest, KQ_UID_UNKNOWN);
    expect_uid(principals, "alice\nalice", KQ_UID_UNKNOWN);
    assert_int_equal(kq_principals_identity(principals, "mallory", &identity), 0);
    assert_int_equal(identity->group_count, 0);
    assert_int_equal(identity->gid, (gid_t)-1);
    kq_identity_unref(identity);
    kq_principals_free(principals);
}

static void nobody_is_uid_0_without_an_entry(void **state)
{
    struct kq_principals *principals = make(100);
    expect_uid(principals, "toor", KQ_UID_UNKNOWN);
    expect_uid(principals, "root", 0);
    expect_uid(principals, "boss", 0);
    kq_principals_free(principals);
    struct kq_principals_options options = {.certificate_rules = "",
                                            .kerberos_rules = "",
                                            .kerberos_realm = "",
                                            .refresh_ms = 1,
                                            .max_entries = 1};
    assert_int_equal(kq_principals_new(&options, &principals), 0);
    expect_uid(principals, "root", KQ_UID_UNKNOWN);
    kq_principals_free(principals);
}

static void an_entry_is_found_by_its_uid_and_its_name(void **state)
{
    struct kq_principals *principals = make(100);
    assert_string_equal(kq_principals_name_of(principals, 5000), "app1");
    assert_string_equal(kq_principals_name_of(principals, 0), "boss"); /* and root */
    assert_string_equal(kq_principals_name_of(principals, 78), "77");
    assert_null(kq_principals_name_of(principals, 1));
    assert_null(kq_principals_name_of(principals, KQ_UID_UNKNOWN));
    assert_true(kq_principals_has(principals, "root"));
    assert_false(kq_principals_has(principals, "alice"));
    kq_principals_free(principals);
}

static void a_number_is_not_the_user_of_that_number(void **state)
{
    struct kq_principals *principals = make(100);
    expect_uid(principals, "1000", KQ_UID_UNKNOWN);
    expect_uid(principals, "1001", KQ_UID_UNKNOWN);
    expect_uid(principals, "+1000", KQ_UID_UNKNOWN);
    expect_uid(principals, "0", KQ_UID_UNKNOWN);
    expect_uid(principals, "77", 78); /* [users] says so */
    kq_principals_free(principals);
}

static void an_entry_gives_the_rights_of_its_uid_under_its_own_name(void **state)
{
    struct kq_principals *principals = make(100);
    const struct kq_identity *identity;
    expect_uid(principals, "app1", 5000);
    assert_int_equal(kq_principals_identity(principals, "CN=x", &identity), 0);
    assert_int_equal(identity->uid, 1000);
    assert_int_equal(identity->group_count, 2);
    kq_identity_unref(identity);
    kq_principals_free(principals);
}

static void what_was_looked_up_holds_for_a_while(void **state)
{
    struct kq_principals *principals = make(100);
    const struct kq_identity *identity;
    expect_uid(principals, "alice", 1000);
    int before = looks;
    expect_uid(principals, "alice", 1000);
    assert_int_equal(looks, before);
    alices_group = 71;
    kq_clock_shift_ms(60001);
    assert_int_equal(kq_principals_identity(principals, "alice", &identity), 0);
    kq_clock_shift_ms(0);
    alices_group = 70;
    assert_int_equal(looks, before + 1);
    assert_int_equal(identity->groups[1], 71);
    kq_identity_unref(identity);
    kq_principals_free(principals);
}

static void a_failed_look_up_is_not_remembered(void **state)
{
    struct kq_principals *principals = make(100);
    const struct kq_identity *identity = NULL;
    int before = looks;
    assert_int_equal(kq_principals_identity(principals, "broken", &identity), -EAGAIN);
    assert_int_equal(kq_principals_identity(principals, "broken", &identity), -EAGAIN);
    assert_int_equal(looks, before + 2);
    kq_principals_free(principals);
}

static void no_more_is_remembered_than_it_may_be(void **state)
{
    struct kq_principals *principals = make(4);
    static const char *const names[] = {"a", "b", "c", "d"};
    for (int i = 0; i < 4; i++)
        expect_uid(principals, names[i], KQ_UID_UNKNOWN);
    int before = looks;
    for (int i = 0; i < 4; i++)
        expect_uid(principals, names[i], KQ_UID_UNKNOWN);
    assert_int_equal(looks, before);
    expect_uid(principals, "e", KQ_UID_UNKNOWN); /* in the place of a */
    for (int i = 1; i < 4; i++)
        expect_uid(principals, names[i], KQ_UID_UNKNOWN);
    assert_int_equal(looks, before + 1);
    expect_uid(principals, "a", KQ_UID_UNKNOWN);
    assert_int_equal(looks, before + 2);
    kq_principals_free(principals);
}

static struct kq_principal *opened(struct kq_principals *principals, const char *name)
{
    struct kq_principal *principal;
    assert_int_equal(kq_principals_open(principals, name, &principal), 0);
    return principal;
}

static void expect_refresh(struct kq_principals *principals, unsigned same, unsigned changed,
                           unsigned failed)
{
    struct kq_principals_refreshed refreshed;
    kq_principals_refresh(principals, &refreshed);
    assert_int_equal(refreshed.same, same);
    assert_int_equal(refreshed.changed, changed);
    assert_int_equal(refreshed.failed, failed);
}

static void a_name_in_use_is_looked_up_anew(void **state)
{
    struct kq_principals *principals = make(100);
    struct kq_principal *alice = opened(principals, "alice"), *again = opened(principals, "alice");
    const struct kq_identity *before = kq_principal_identity(alice), *now;
    assert_ptr_equal(alice, again);
    expect_uid(principals, "app1", 5000); /* which nobody uses */
    alices_group = 71;
    expect_refresh(principals, 0, 0, 0); /* too early */
    kq_clock_shift_ms(45001);
    expect_refresh(principals, 0, 1, 0);
    assert_false(kq_principal_is(alice, before));
    assert_int_equal(before->groups[1], 70);
    now = kq_principal_identity(again);
    assert_true(kq_principal_is(alice, now));
    assert_int_equal(now->groups[1], 71);
    assert_int_not_equal(now->number, before->number);
    kq_clock_shift_ms(2 * 45001);
    expect_refresh(principals, 1, 0, 0);
    assert_true(kq_principal_is(alice, now));
    kq_principal_close(alice);
    assert_true(kq_principals_in_use(principals));
    kq_principal_close(again);
    assert_false(kq_principals_in_use(principals));
    kq_clock_shift_ms(4 * 45001);
    expect_refresh(principals, 0, 0, 0);
    kq_clock_shift_ms(0);
    alices_group = 70;
    kq_identity_unref(before);
    kq_identity_unref(now);
    kq_principals_free(principals);
}

static void a_user_who_has_gone_is_nobody_and_a_failed_look_up_changes_nothing(void **state)
{
    struct kq_principals *principals = make(1);
    struct kq_principal *alice = opened(principals, "alice");
    const struct kq_identity *before = kq_principal_identity(alice);
    kq_clock_shift_ms(45001);
    host_is_broken = true;
    expect_refresh(principals, 0, 0, 1);
    assert_true(kq_principal_is(alice, before));
    host_is_broken = false;
    alice_has_gone = true;
    expect_refresh(principals, 0, 1, 0);
    alice_has_gone = false;
    const struct kq_identity *now = kq_principal_identity(alice);
    assert_int_equal(now->uid, KQ_UID_UNKNOWN);
    assert_int_equal(now->group_count, 0);
    assert_string_equal(now->principal, "User:alice");
    for (int i = 0; i < 3; i++) /* what is in use keeps its place */
        expect_uid(principals, i ? "b" : "c", KQ_UID_UNKNOWN);
    assert_true(kq_principal_is(alice, now));
    kq_clock_shift_ms(0);
    kq_identity_unref(before);
    kq_identity_unref(now);
    kq_principal_close(alice);
    kq_principals_free(principals);
}

static atomic_bool stop_using;

static void *use(void *argument)
{
    struct kq_principals *principals = argument;
    while (!stop_using) {
        struct kq_principal *alice = opened(principals, "alice");
        const struct kq_identity *identity = kq_principal_identity(alice);
        for (int i = 0; i < 20; i++)
            if (!kq_principal_is(alice, identity)) {
                kq_identity_unref(identity);
                identity = kq_principal_identity(alice);
            }
        assert_int_equal(identity->group_count, 2);
        kq_identity_unref(identity);
        kq_principal_close(alice);
    }
    return NULL;
}

static void a_name_changes_while_threads_use_it(void **state)
{
    struct kq_principals *principals = make(1);
    struct kq_principal *kept = opened(principals, "alice");
    pthread_t threads[2];
    stop_using = false;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use, principals), 0);
    for (int i = 1; i <= 200; i++) {
        alices_group = (gid_t)(70 + i % 2);
        kq_clock_shift_ms(i * INT64_C(45001));
        struct kq_principals_refreshed refreshed;
        kq_principals_refresh(principals, &refreshed);
        assert_int_equal(refreshed.failed, 0);
    }
    stop_using = true;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    alices_group = 70;
    kq_clock_shift_ms(0);
    kq_principal_close(kept);
    kq_principals_free(principals);
}

static void *ask_for_slow(void *principals)
{
    expect_uid(principals, "slow", 1003);
    return NULL;
}

/* Hangs where it does not hold. */
static void a_slow_look_up_holds_up_nobody_else(void **state)
{
    struct kq_principals *principals = make(1); /* one lock for all of them */
    pthread_t thread;
    sem_init(&slow_asked, 0, 0);
    sem_init(&slow_answers, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, ask_for_slow, principals), 0);
    sem_wait(&slow_asked);
    expect_uid(principals, "alice", 1000);
    expect_uid(principals, "mallory", KQ_UID_UNKNOWN);
    sem_post(&slow_answers);
    pthread_join(thread, NULL);
    kq_principals_free(principals);
}

static void *ask_for_many(void *principals)
{
    char name[16];
    for (int i = 0; i < 2000; i++) {
        snprintf(name, sizeof(name), "n%d", i * 7 % 300);
        expect_uid(principals, name, KQ_UID_UNKNOWN);
    }
    return NULL;
}

static void many_threads_ask_at_once(void **state)
{
    struct kq_principals *principals = make(256);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_for_many, principals), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    kq_principals_free(principals);
}

static void rules_lead_to_names(void **state)
{
    struct kq_principals *principals = make(1);
    char *name = NULL;
    assert_int_equal(kq_principals_of_subject(principals, "CN=Alice", &name), 0);
    assert_string_equal(name, "alice");
    free(name);
    assert_int_equal(kq_principals_of_subject(principals, "O=Alice", &name), -EACCES);
    assert_int_equal(kq_principals_of_kerberos(principals, "alice/h@R", &name), 0);
    assert_string_equal(name, "alice");
    free(name);
    assert_int_equal(kq_principals_of_kerberos(principals, "alice@S", &name), -EACCES);
    kq_principals_free(principals);
}

static void without_memory_nobody_is_somebody_else(void **state)
{
    struct kq_principals *principals = make(8);
    const struct kq_identity *identity = NULL;
    int r = -ENOMEM;
    for (int n = 1; r == -ENOMEM; n++) {
        kq_fault_arm(KQ_FAULT_MEMORY, n, ENOMEM, false);
        r = kq_principals_identity(principals, "alice", &identity);
        kq_fault_disarm();
    }
    assert_int_equal(r, 0);
    assert_int_equal(identity->uid, 1000);
    kq_identity_unref(identity);
    kq_principals_free(principals);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_user_of_the_host_has_its_uid_and_groups),
        cmocka_unit_test(an_unknown_name_is_nobody),
        cmocka_unit_test(nobody_is_uid_0_without_an_entry),
        cmocka_unit_test(an_entry_is_found_by_its_uid_and_its_name),
        cmocka_unit_test(a_number_is_not_the_user_of_that_number),
        cmocka_unit_test(an_entry_gives_the_rights_of_its_uid_under_its_own_name),
        cmocka_unit_test(what_was_looked_up_holds_for_a_while),
        cmocka_unit_test(a_failed_look_up_is_not_remembered),
        cmocka_unit_test(no_more_is_remembered_than_it_may_be),
        cmocka_unit_test(a_name_in_use_is_looked_up_anew),
        cmocka_unit_test(a_user_who_has_gone_is_nobody_and_a_failed_look_up_changes_nothing),
        cmocka_unit_test(a_name_changes_while_threads_use_it),
        cmocka_unit_test(a_slow_look_up_holds_up_nobody_else),
        cmocka_unit_test(many_threads_ask_at_once),
        cmocka_unit_test(rules_lead_to_names),
        cmocka_unit_test(without_memory_nobody_is_somebody_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
