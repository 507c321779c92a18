/* Many clients at once that join, leave, die and come back, each on a thread of its own.
 *
 * What must hold: each request is answered exactly once; all who are told of a generation are told
 * the same leader, which is one of them; the leader is told of all of them; everybody gets what the
 * leader of that generation assigned to it, and nothing of another; nobody who kept in touch is
 * forgotten; when the coming and going ends, all meet in one stable generation. */
#include "tests/unit/group_kit.h"

enum {
    GROUPS = 3,
    CLIENTS = 12,
    TURNS = 12,
    GENERATIONS = 4096,
    SLACK_MS = 500,
    PATIENCE_MS = 100000
};

/* What was told of one generation of one group. */
struct generation {
    char leader[64];
    int told, listed; /* members that were told; that the leader was told of; -1: not yet */
};

static struct board {
    pthread_mutex_t lock;
    struct generation generations[GROUPS][GENERATIONS];
    int32_t met[CLIENTS]; /* of which generation each is a member; -1: of none */
    int failures;
    bool calm; /* no more coming and going */
} board = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct client {
    struct kit *kit;
    pthread_t thread;
    int number, group;
    char name[8];
    uint64_t chance;
    char id[128];
    int32_t generation;
    bool leads;
    int64_t heard_ms; /* when it last did what a member must do */
    struct kit_wait wait;
    struct kq_topic *topic;
};

#define require(condition) require_that(condition, #condition, __LINE__)

static void require_that(bool condition, const char *text, int line)
{
    if (condition)
        return;
    pthread_mutex_lock(&board.lock);
    if (board.failures++ < 10)
        fprintf(stderr, "line %d: %s\n", line, text);
    pthread_mutex_unlock(&board.lock);
}

static uint64_t pick(struct client *client, uint64_t below)
{
    client->chance = client->chance * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (client->chance >> 33) % below;
}

static int64_t now_ms(void)
{
    return kq_clock_mono_ns() / 1000000;
}

/* --- What was told --- */

static void note_generation(struct client *client, const struct kq_group_answer *answer)
{
    char leader[128];
    kit_text(answer->leader, leader);
    pthread_mutex_lock(&board.lock);
    struct generation *at = &board.generations[client->group][answer->generation];
    bool first = at->leader[0] == 0;
    if (first)
        snprintf(at->leader, sizeof(at->leader), "%.63s", leader);
    bool same = strncmp(at->leader, leader, 63) == 0;
    at->told++;
    if (answer->member_count > 0)
        at->listed = answer->member_count;
    pthread_mutex_unlock(&board.lock);
    require(same);
    require(answer->generation > client->generation || answer->generation == 0 ||
            strcmp(client->id, "") == 0 || answer->generation == client->generation);
}

/* --- A client's life --- */

static void forget_id(struct client *client)
{
    client->id[0] = 0;
    client->generation = -1;
}

/* RESULT came by ANSWERED_MS. HEARD_MS is from before the broker can have heard it: however long a
 * thread stood still, only one who was silent for that long may be forgotten. */
static void lost(struct client *client, int64_t answered_ms, int result)
{
    if (result == KQ_GROUP_UNKNOWN_MEMBER || result == KQ_GROUP_FENCED_INSTANCE) {
        require(client->id[0] == 0 || answered_ms - client->heard_ms > SLACK_MS);
        forget_id(client);
    }
}

static int join(struct client *client)
{
    const struct kit_join request = {
        .group = client->name, .member = client->id, .session_ms = 6000, .rebalance_ms = 3000};
    kit_join(client->kit, &request, &client->wait);
    int r = kit_await(&client->wait);
    const struct kq_group_answer *answer = client->wait.wait.answer;
    if (r == KQ_GROUP_MEMBER_ID_REQUIRED)
        kit_text(answer->member_id, client->id);
    if (r == 0) {
        require(kq_str_is(answer->member_id, kq_str_of(client->id)));
        note_generation(client, answer);
        client->generation = answer->generation;
        client->leads = kq_str_is(answer->leader, answer->member_id);
        require(!client->leads || answer->member_count > 0);
    }
    return r;
}

/* The leader gives everybody "<generation>:<member>". */
static int sync_group(struct client *client, const struct kq_group_answer *answer)
{
    struct kq_group_assignment assignments[CLIENTS * 2];
    char texts[CLIENTS * 2][160];
    int32_t count = client->leads && answer ? answer->member_count : 0;
    require(count <= CLIENTS * 2);
    for (int32_t i = 0; i < count; i++) {
        struct kq_str id = answer->members[i].member_id;
        snprintf(texts[i], sizeof(texts[i]), "%d:%.*s", client->generation, id.length, id.data);
        assignments[i] = (struct kq_group_assignment){id, kit_bytes(texts[i])};
    }
    struct kit_wait syncing;
    int64_t asked_ms = now_ms();
    kit_sync(client->kit, client->name, client->id, client->generation, assignments, count,
             &syncing);
    int r = kit_await(&syncing);
    if (r == 0) {
        char wanted[160];
        struct kq_bytes got = syncing.wait.answer->assignment;
        snprintf(wanted, sizeof(wanted), "%d:%s", client->generation, client->id);
        require(got.length == (int32_t)strlen(wanted) &&
                memcmp(got.data, wanted, strlen(wanted)) == 0);
    }
    /* One who hears of a rebalance may have slept through most of the time to join again. */
    if (r == 0)
        client->heard_ms = asked_ms;
    kit_forget(&syncing);
    return r;
}

static bool become_member(struct client *client)
{
    int64_t asked_ms = now_ms();
    int r = join(client);
    bool required = r == KQ_GROUP_MEMBER_ID_REQUIRED;
    if (!required)
        lost(client, now_ms(), r);
    client->heard_ms = asked_ms;
    if (r == 0) {
        r = sync_group(client, client->wait.wait.answer);
        lost(client, now_ms(), r);
    }
    kit_forget(&client->wait);
    return r == 0;
}

static void commit(struct client *client)
{
    struct kit_member member = {.generation = client->generation};
    snprintf(member.id, sizeof(member.id), "%s", client->id);
    int r = kit_commit(client->kit, client->name, &member, client->topic, 0, client->generation,
                       client->id);
    lost(client, now_ms(), r);
    require(r == 0 || r == KQ_GROUP_UNKNOWN_MEMBER || r == KQ_GROUP_ILLEGAL_GENERATION ||
            r == KQ_GROUP_REBALANCE_IN_PROGRESS);
}

/* As a member: false when the group has to be joined anew. */
static bool be_member(struct client *client)
{
    int64_t asked_ms = now_ms();
    int r = kit_heartbeat(client->kit, client->name, client->id, client->generation);
    lost(client, now_ms(), r);
    client->heard_ms = r == 0 ? asked_ms : client->heard_ms;
    if (r == 0 && pick(client, 4) == 0)
        commit(client);
    return r == 0 && client->id[0];
}

static void maybe_go(struct client *client)
{
    if (board.calm || client->id[0] == 0)
        return;
    uint64_t fate = pick(client, 30);
    if (fate == 0) {
        int r = kit_leave(client->kit, client->name, client->id);
        lost(client, now_ms(), r);
        forget_id(client);
    } else if (fate == 1) {
        forget_id(client); /* dies, and comes back as another */
    }
}

static void *live(void *argument)
{
    struct client *client = argument;
    bool member = false;
    for (int turn = 0; turn < TURNS; turn++) {
        if (!member)
            member = become_member(client);
        for (int i = (int)pick(client, 8); member && i > 0; i--) {
            usleep(1000);
            member = be_member(client);
        }
        maybe_go(client);
        member = member && client->id[0];
    }
    return NULL;
}

/* Are all members of one generation, in which nobody else is? Then nothing is left that changes it.
 */
static bool all_have_met(const struct client *client, bool member)
{
    pthread_mutex_lock(&board.lock);
    board.met[client->number] = member ? client->generation : -1;
    bool met =
        member && board.generations[client->group][client->generation].listed == CLIENTS / GROUPS;
    for (int i = client->group; i < CLIENTS; i += GROUPS)
        met = met && board.met[i] == client->generation;
    pthread_mutex_unlock(&board.lock);
    return met;
}

static void *settle_down(void *argument)
{
    struct client *client = argument;
    /* One who was only given an id has not joined yet. */
    bool member = client->generation >= 0 && be_member(client), met = false;
    for (int64_t until_ms = now_ms() + PATIENCE_MS; !met && now_ms() < until_ms;) {
        if (!member)
            member = become_member(client);
        met = all_have_met(client, member);
        usleep(2000);
        member = met || (member && be_member(client));
        if (!member)
            all_have_met(client, false);
    }
    require(met);
    return NULL;
}

static void run(struct client *clients, void *(*what)(void *))
{
    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(pthread_create(&clients[i].thread, NULL, what, &clients[i]), 0);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i].thread, NULL);
}

static void nobody_is_told_two_things(void **state)
{
    static struct client clients[CLIENTS];
    struct kit *kit = *state;
    kit->ground.options.groups.initial_rebalance_delay_ms = 20;
    kit_open(kit);
    struct kq_topic *topic = ground_topic(&kit->ground, "t", 1);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){
            .kit = kit, .number = i, .group = i % GROUPS, .chance = (uint64_t)i, .topic = topic};
        snprintf(clients[i].name, sizeof(clients[i].name), "g%d", i % GROUPS);
        forget_id(&clients[i]);
        board.met[i] = -1;
    }
    run(clients, live);
    __atomic_store_n(&board.calm, true, __ATOMIC_SEQ_CST);
    run(clients, settle_down);
    for (int i = GROUPS; i < CLIENTS; i++)
        assert_int_equal(clients[i].generation, clients[i % GROUPS].generation);
    for (int i = 0; i < GROUPS; i++) {
        struct generation *last = &board.generations[i][clients[i].generation];
        assert_int_equal(last->listed, CLIENTS / GROUPS);
        assert_true(last->told >= CLIENTS / GROUPS);
    }
    assert_int_equal(board.failures, 0);
    kq_topic_unref(topic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nobody_is_told_two_things, kit_setup, kit_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
