#include "broker/quota.h"

#include <math.h>

#include "broker/base/clock.h"
#include "broker/base/fault.h"
#include "broker/quotaaccount.h"
#include "broker/quotafile.h"
#include "broker/quotarate.h"
#include "tests/unit/ground.h"

#define MS INT64_C(1000000)
#define S INT64_C(1000000000)

static int set_up(void **state)
{
    struct ground *ground = calloc(1, sizeof(*ground));
    ground_setup(ground);
    ground_open(ground);
    *state = ground;
    return 0;
}

static int take_down(void **state)
{
    ground_remove(*state);
    free(*state);
    return 0;
}

static const struct kq_quota_entity anybody = {.has_user = true};

static int alter(struct ground *ground, const struct kq_quota_entity *entity,
                 enum kq_quota_type type, double value)
{
    const struct kq_quota_change change = {*entity, type, value};
    return kq_quota_alter(ground->broker, &ground_caller, &change, 1, false);
}

static int32_t charge(struct ground *ground, const char *principal, const char *client,
                      enum kq_quota_type type, int64_t amount, int64_t now_ns)
{
    const struct kq_caller caller = {.principal = principal, .client_id = client};
    return kq_quota_charge(kq_broker_quotas(ground->broker), type, &caller, amount, now_ns);
}

static int32_t produce(struct ground *ground, const char *principal, const char *client,
                       int64_t amount)
{
    return charge(ground, principal, client, KQ_QUOTA_PRODUCE, amount, 1000 * S);
}

static int count(void *context, const struct kq_quota_entity *entity, const double *limits)
{
    ++*(int *)context;
    return 0;
}

static int entities(struct ground *ground)
{
    int n = 0;
    assert_int_equal(kq_quota_each(ground->broker, &ground_caller, count, &n), 0);
    return n;
}

static int64_t metric(struct ground *ground, const char *line)
{
    kq_autobuf struct kq_buf text = {0};
    assert_int_equal(kq_broker_metrics(ground->broker, &text), 0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    const char *at = strstr((char *)text.data, line);
    assert_non_null(at);
    return atoll(at + strlen(line));
}

/* --- Charging --- */

static void without_a_quota_nothing_is_held_back_or_kept(void **state)
{
    struct ground *ground = *state;
    const struct kq_caller caller = {.principal = "User:u", .client_id = "c"};
    struct kq_quotas *quotas = kq_broker_quotas(ground->broker);
    for (int type = 0; type < KQ_QUOTA_TYPES; type++) {
        assert_false(kq_quota_is_set(quotas, (enum kq_quota_type)type));
        assert_int_equal(charge(ground, "User:u", "c", (enum kq_quota_type)type, INT64_MAX, S), 0);
        assert_int_equal(kq_quota_at_once(quotas, (enum kq_quota_type)type, &caller), INT64_MAX);
    }
    assert_false(kq_quota_is_set(NULL, KQ_QUOTA_FETCH));
    assert_int_equal(kq_quota_charge(NULL, KQ_QUOTA_FETCH, &caller, INT64_MAX, S), 0);
    assert_int_equal(metric(ground, "\nkqfs_quota_accounts "), 0);
}

static void each_user_has_an_account_of_the_default(void **state)
{
    struct ground *ground = *state;
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 1000), 0);
    assert_int_equal(produce(ground, "User:a", "x", 10000), 0);
    assert_int_equal(produce(ground, "User:a", "y", 1000), 1000);
    assert_int_equal(produce(ground, "User:b", "x", 10000), 0);
    assert_int_equal(metric(ground, "\nkqfs_quota_accounts "), 2);
    assert_int_equal(metric(ground, "overdrawn_total{quota=\"producer_byte_rate\"} "), 1);
    assert_int_equal(metric(ground, "held_seconds_total{quota=\"producer_byte_rate\"} "), 1);
}

static void each_client_id_of_whatever_user_has_an_account(void **state)
{
    struct ground *ground = *state;
    const struct kq_quota_entity clients = {.has_client = true};
    assert_int_equal(alter(ground, &clients, KQ_QUOTA_PRODUCE, 1000), 0);
    assert_int_equal(produce(ground, "User:a", "x", 10000), 0);
    assert_int_equal(produce(ground, "User:b", "x", 1000), 1000);
    assert_int_equal(produce(ground, "User:a", "y", 10000), 0);
    assert_int_equal(produce(ground, "User:a", "", 10000), 0);
    assert_int_equal(produce(ground, "User:b", NULL, 1000), 1000);
}

static void types_and_names_have_accounts_of_their_own(void **state)
{
    struct ground *ground = *state;
    const struct kq_quota_entity pair = {true, true, NULL, NULL};
    assert_int_equal(alter(ground, &pair, KQ_QUOTA_PRODUCE, 1000), 0);
    assert_int_equal(alter(ground, &pair, KQ_QUOTA_FETCH, 1000), 0);
    assert_int_equal(produce(ground, "User:ab", "c", 10000), 0);
    assert_int_equal(produce(ground, "User:a", "bc", 10000), 0);
    assert_int_equal(charge(ground, "User:ab", "c", KQ_QUOTA_FETCH, 10000, 1000 * S), 0);
    assert_int_equal(produce(ground, "User:ab", "c", 100), 100);
}

static void request_time_is_held_back_one_window_at_most(void **state)
{
    struct ground *ground = *state;
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_REQUEST, 1), 0);
    /* A hundredth of 10 s. */
    assert_int_equal(charge(ground, "User:a", "", KQ_QUOTA_REQUEST, 100 * MS, 1000 * S), 0);
    assert_int_equal(charge(ground, "User:a", "", KQ_QUOTA_REQUEST, 1 * MS, 1000 * S), 100);
    assert_int_equal(charge(ground, "User:a", "", KQ_QUOTA_REQUEST, 500 * MS, 1000 * S), 1000);
}

static void what_was_tried_in_vain_is_not_taken(void **state)
{
    struct ground *ground = *state;
    bool taken;
    const struct kq_caller caller = {.principal = "User:a", .client_id = ""};
    struct kq_quotas *quotas = kq_broker_quotas(ground->broker);
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_FETCH, 1000), 0);
    assert_int_equal(kq_quota_at_once(quotas, KQ_QUOTA_FETCH, &caller), 10000);
    assert_int_equal(kq_quota_try(quotas, KQ_QUOTA_FETCH, &caller, 9000, S, &taken), 0);
    assert_true(taken);
    assert_int_equal(kq_quota_try(quotas, KQ_QUOTA_FETCH, &caller, 3000, S, &taken), 2000);
    assert_false(taken);
    assert_int_equal(kq_quota_try(quotas, KQ_QUOTA_FETCH, &caller, 1000, S, &taken), 0);
    assert_true(taken);
}

/* A batch may be larger than all windows allow: it must come some time, or the consumer stands. */
static void what_is_more_than_the_windows_allow_comes_when_they_are_empty(void **state)
{
    struct ground *ground = *state;
    bool taken;
    const struct kq_caller caller = {.principal = "User:a", .client_id = ""};
    struct kq_quotas *quotas = kq_broker_quotas(ground->broker);
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_FETCH, 1000), 0);
    assert_int_equal(kq_quota_try(quotas, KQ_QUOTA_FETCH, &caller, 1, S, &taken), 0);
    assert_int_equal(kq_quota_try(quotas, KQ_QUOTA_FETCH, &caller, 30000, 2 * S, &taken), 20001);
    assert_false(taken);
    assert_int_equal(kq_quota_try(quotas, KQ_QUOTA_FETCH, &caller, 30000, 12 * S, &taken), 20000);
    assert_true(taken);
    assert_int_equal(kq_quota_try(quotas, KQ_QUOTA_FETCH, &caller, 1, 12 * S, &taken), 20001);
    assert_false(taken);
}

static void a_new_limit_counts_at_once(void **state)
{
    struct ground *ground = *state;
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 1000), 0);
    assert_int_equal(produce(ground, "User:a", "", 20000), 10000);
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 2000), 0);
    assert_int_equal(produce(ground, "User:a", "", 0), 0);
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 500), 0);
    assert_int_equal(produce(ground, "User:a", "", 0), 30000);
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 0), 0);
    assert_int_equal(produce(ground, "User:a", "", 0), 0);
    assert_int_equal(metric(ground, "\nkqfs_quota_accounts "), 0);
}

/* --- Accounts --- */

static int64_t take(struct kq_quota_accounts *accounts, int number, int64_t now_ms)
{
    char name[400];
    bool taken;
    /* Some are longer than the room that most keys fit into. */
    snprintf(name, sizeof(name), "%0*d", number % 7 ? 5 : 300, number);
    const struct kq_quota_holder holder = {.type = KQ_QUOTA_PRODUCE, .client = name};
    return kq_quota_accounts_take(accounts, &holder, 1, 100, true, now_ms, &taken);
}

static struct kq_quota_accounts_facts facts_of(struct kq_quota_accounts *accounts)
{
    struct kq_quota_accounts_facts facts;
    kq_quota_accounts_facts(accounts, &facts);
    return facts;
}

static void accounts_are_no_more_than_allowed(void **state)
{
    const struct kq_quota_windows windows = {11, 1000};
    struct kq_quota_accounts *accounts;
    static const unsigned mosts[] = {1, 10, 127, 128, 1000, 3000};
    for (size_t i = 0; i < kq_array_size(mosts); i++) {
        assert_int_equal(kq_quota_accounts_new(&windows, mosts[i], &accounts), 0);
        for (int n = 0; n < 5000; n++)
            take(accounts, n, 1000);
        size_t count = facts_of(accounts).count;
        assert_true(count <= mosts[i] && count > mosts[i] / 2);
        assert_int_equal(facts_of(accounts).evicted, 5000 - count);
        kq_quota_accounts_free(accounts);
    }
}

static void the_account_that_was_used_longest_ago_goes(void **state)
{
    const struct kq_quota_windows windows = {11, 1000};
    struct kq_quota_accounts *accounts;
    assert_int_equal(kq_quota_accounts_new(&windows, 3, &accounts), 0);
    for (int n = 1; n <= 3; n++)
        assert_int_equal(take(accounts, n, 1000), 90000);
    assert_int_equal(take(accounts, 1, 1000), 190000);
    assert_int_equal(take(accounts, 4, 1000), 90000); /* in place of 2 */
    assert_int_equal(take(accounts, 3, 1000), 190000);
    assert_int_equal(take(accounts, 1, 1000), 290000);
    assert_int_equal(take(accounts, 2, 1000), 90000);
    assert_int_equal(facts_of(accounts).evicted, 2);
    kq_quota_accounts_free(accounts);
}

static void idle_accounts_go(void **state)
{
    const struct kq_quota_windows windows = {11, 1000};
    struct kq_quota_accounts *accounts;
    assert_int_equal(kq_quota_accounts_new(&windows, 100, &accounts), 0);
    for (int n = 0; n < 100; n++)
        take(accounts, n, 1000 + n);
    for (int i = 0; i < 50; i++)
        take(accounts, 99, 12050);
    assert_int_equal(facts_of(accounts).count, 49); /* 0 to 50 were idle for 11 s */
    assert_int_equal(take(accounts, 51, 12050), 189001);
    assert_int_equal(facts_of(accounts).evicted, 0);
    kq_quota_accounts_free(accounts);
}

static void without_memory_for_an_account_nobody_is_held_back(void **state)
{
    struct ground *ground = *state;
    char name[300] = "User:";
    bool failed = true;
    memset(name + 5, 'x', sizeof(name) - 6);
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 1000), 0);
    for (long n = 1; failed; n++) {
        kq_fault_arm(KQ_FAULT_MEMORY, n, ENOMEM, false);
        int32_t held_ms = produce(ground, name, "", 20000);
        failed = kq_fault_disarm();
        assert_int_equal(held_ms, failed ? 0 : 10000);
    }
}

/* --- Setting --- */

static void quotas_survive_a_restart(void **state)
{
    struct ground *ground = *state;
    const struct kq_quota_entity entity = {true, true, "a", NULL};
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 1000), 0);
    assert_int_equal(alter(ground, &entity, KQ_QUOTA_FETCH, 12.5), 0);
    ground_reopen(ground);
    assert_int_equal(entities(ground), 2);
    assert_int_equal(produce(ground, "User:a", "", 20000), 10000);
    assert_int_equal(charge(ground, "User:a", "c", KQ_QUOTA_FETCH, 250, S), 10000);
    assert_int_equal(metric(ground, "\nkqfs_quota_entities "), 2);
}

static void what_is_refused_changes_nothing(void **state)
{
    struct ground *ground = *state;
    const struct kq_quota_change changes[] = {
        {{true, false, "ok", NULL}, KQ_QUOTA_FETCH, 1},
        {{false, false, NULL, NULL}, KQ_QUOTA_FETCH, 1},
        {{true, false, "", NULL}, KQ_QUOTA_FETCH, 1},
        {{true, false, "\xff", NULL}, KQ_QUOTA_FETCH, 1},
        {{true, true, "a", "\xc0\x80"}, KQ_QUOTA_FETCH, 1},
        {{true, false, "a", NULL}, KQ_QUOTA_FETCH, -1},
        {{true, false, "a", NULL}, KQ_QUOTA_FETCH, NAN},
        {{true, false, "a", NULL}, KQ_QUOTA_FETCH, INFINITY},
    };
    for (size_t i = 1; i < kq_array_size(changes); i++) {
        const struct kq_quota_change two[] = {changes[0], changes[i]};
        assert_int_equal(kq_quota_alter(ground->broker, &ground_caller, two, 2, false), -EINVAL);
        assert_int_equal(kq_quota_alter(ground->broker, &ground_caller, two, 2, true), -EINVAL);
    }
    assert_int_equal(kq_quota_alter(ground->broker, &ground_caller, changes, 1, true), 0);
    assert_int_equal(entities(ground), 0);
    assert_false(ground_has(ground, KQ_QUOTA_FILE));
}

static void who_does_not_alter_the_cluster_has_no_say(void **state)
{
    struct ground *ground = *state;
    int n = 0;
    ground->denied = KQ_RIGHT_CHANGE_ATTRIBUTES;
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 1), -EACCES);
    assert_int_equal(kq_quota_each(ground->broker, &ground_caller, count, &n), -EACCES);
    ground->denied = 0;
    assert_int_equal(entities(ground), 0);
}

static void entities_are_no_more_than_allowed(void **state)
{
    struct ground *ground = *state;
    const struct kq_quota_entity a = {.has_user = true, .user = "a"};
    const struct kq_quota_entity b = {.has_user = true, .user = "b"};
    ground->options.quotas = (struct kq_quota_options){
        .windows = 11, .window_s = 1, .max_entities = 1, .max_accounts = 10};
    ground_reopen(ground);
    assert_int_equal(alter(ground, &a, KQ_QUOTA_PRODUCE, 1), 0);
    assert_int_equal(alter(ground, &b, KQ_QUOTA_PRODUCE, 1), -EDQUOT);
    assert_int_equal(alter(ground, &a, KQ_QUOTA_FETCH, 1), 0);
    assert_int_equal(alter(ground, &a, KQ_QUOTA_PRODUCE, 0), 0);
    assert_int_equal(alter(ground, &a, KQ_QUOTA_FETCH, 0), 0);
    assert_int_equal(alter(ground, &b, KQ_QUOTA_PRODUCE, 1), 0);
    assert_int_equal(entities(ground), 1);
}

static void a_damaged_file_is_put_aside(void **state)
{
    struct ground *ground = *state;
    ground_close(ground);
    ground_write(ground, KQ_QUOTA_FILE, "{\"version\": 1, \"quotas\": [{}]}");
    said_clear();
    ground_open(ground);
    assert_non_null(strstr(said, "kqfs-quotas.json.damaged"));
    assert_true(ground_has(ground, KQ_QUOTA_FILE ".damaged"));
    assert_int_equal(entities(ground), 0);
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 1), 0);
    ground_reopen(ground);
    assert_int_equal(entities(ground), 1);
}

/* Each operation of each kind fails once: what counts is what was there before or what was asked
 * for, now and after a restart. */
static void a_change_that_fails_is_none(void **state)
{
    struct ground *ground = *state;
    bool failed = true;
    assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 1000), 0);
    for (long n = 1; failed; n++) {
        kq_fault_arm(~0u, n, EIO, false);
        int r = alter(ground, &anybody, KQ_QUOTA_PRODUCE, 2000);
        failed = kq_fault_disarm();
        if (r < 0)
            assert_int_equal(produce(ground, "User:a", "", 0), 0);
        int32_t held_ms = charge(ground, "User:a", "", KQ_QUOTA_PRODUCE, 20000, n * 20 * S);
        assert_int_equal(held_ms, r < 0 ? 10000 : 0);
        ground_reopen(ground);
        held_ms = charge(ground, "User:a", "", KQ_QUOTA_PRODUCE, 20000, S);
        assert_true(held_ms == (r < 0 ? 10000 : 0) || (failed && held_ms == 0));
        assert_int_equal(alter(ground, &anybody, KQ_QUOTA_PRODUCE, 1000), 0);
    }
}

/* --- Together --- */

struct crowd {
    struct ground *ground;
    atomic_bool over;
};

static void *charge_on(void *argument)
{
    struct crowd *crowd = argument;
    char name[20];
    for (int i = 0; !atomic_load(&crowd->over); i++) {
        snprintf(name, sizeof(name), "User:%d", i % 50);
        charge(crowd->ground, name, "c", KQ_QUOTA_PRODUCE, 10, kq_clock_mono_ns());
        if (i % 1000 == 0)
            metric(crowd->ground, "\nkqfs_quota_accounts ");
    }
    return NULL;
}

static void many_charge_while_quotas_change(void **state)
{
    struct crowd crowd = {.ground = *state};
    pthread_t threads[3];
    for (size_t i = 0; i < kq_array_size(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, charge_on, &crowd), 0);
    for (int i = 0; i < 100; i++) {
        char user[20];
        const struct kq_quota_entity entity = {.has_user = true, .user = user};
        snprintf(user, sizeof(user), "%d", i % 10);
        assert_int_equal(alter(*state, i % 3 ? &entity : &anybody, KQ_QUOTA_PRODUCE, i % 4), 0);
    }
    atomic_store(&crowd.over, true);
    for (size_t i = 0; i < kq_array_size(threads); i++)
        pthread_join(threads[i], NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(without_a_quota_nothing_is_held_back_or_kept),
        TEST(each_user_has_an_account_of_the_default),
        TEST(each_client_id_of_whatever_user_has_an_account),
        TEST(types_and_names_have_accounts_of_their_own),
        TEST(request_time_is_held_back_one_window_at_most),
        TEST(what_was_tried_in_vain_is_not_taken),
        TEST(what_is_more_than_the_windows_allow_comes_when_they_are_empty),
        TEST(a_new_limit_counts_at_once),
        TEST(accounts_are_no_more_than_allowed),
        TEST(the_account_that_was_used_longest_ago_goes),
        TEST(idle_accounts_go),
        TEST(without_memory_for_an_account_nobody_is_held_back),
        TEST(quotas_survive_a_restart),
        TEST(what_is_refused_changes_nothing),
        TEST(who_does_not_alter_the_cluster_has_no_say),
        TEST(entities_are_no_more_than_allowed),
        TEST(a_damaged_file_is_put_aside),
        TEST(a_change_that_fails_is_none),
        TEST(many_charge_while_quotas_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
