/* The table of nodes, with topics and partitions of the test's own behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "broker/base/fault.h"
#include "fs/node.h"

#define OFFSETS (INT64_C(1) << 38)
#define THREADS 4
#define ROUNDS 20000
#define PARTITIONS 8

struct kq_topic {
    atomic_int references;
    uint8_t id[16];
};

struct kq_partition {
    atomic_int references;
    struct kq_topic *topic;
    int32_t number;
};

struct kq_topic *kq_topic_ref(struct kq_topic *topic)
{
    atomic_fetch_add(&topic->references, 1);
    return topic;
}

void kq_topic_unref(struct kq_topic *topic)
{
    if (topic)
        atomic_fetch_sub(&topic->references, 1);
}

const uint8_t *kq_topic_id(const struct kq_topic *topic)
{
    return topic->id;
}

bool kq_topic_name_valid(const char *name)
{
    return *name;
}

bool kq_topic_is_internal(const char *name)
{
    return false;
}

struct kq_partition *kq_partition_ref(struct kq_partition *partition)
{
    atomic_fetch_add(&partition->references, 1);
    return partition;
}

void kq_partition_unref(struct kq_partition *partition)
{
    if (partition)
        atomic_fetch_sub(&partition->references, 1);
}

int32_t kq_partition_number(const struct kq_partition *partition)
{
    return partition->number;
}

struct tree {
    struct kq_nodes *nodes;
    struct kq_topic topic;
    struct kq_partition partitions[PARTITIONS];
};

static int make_tree(void **state)
{
    struct tree *tree = calloc(1, sizeof(*tree));
    assert_int_equal(kq_nodes_new(&tree->nodes), 0);
    memcpy(tree->topic.id, "0123456789abcdef", 16);
    for (int32_t i = 0; i < PARTITIONS; i++)
        tree->partitions[i] = (struct kq_partition){.topic = &tree->topic, .number = i};
    *state = tree;
    return 0;
}

static int free_tree(void **state)
{
    struct tree *tree = *state;
    kq_nodes_free(tree->nodes);
    assert_int_equal(tree->topic.references, 0);
    for (int i = 0; i < PARTITIONS; i++)
        assert_int_equal(tree->partitions[i].references, 0);
    free(tree);
    return 0;
}

static uint64_t remember(struct tree *tree, enum kq_view view, int partition, int64_t offset)
{
    uint64_t number = 0;
    struct kq_partition *p = partition < 0 ? NULL : &tree->partitions[partition];
    assert_int_equal(kq_node_remember(tree->nodes, view, &tree->topic, p, offset, 0, &number), 0);
    return number;
}

static void a_number_leads_back_to_what_it_was_made_of(void **state)
{
    struct tree *tree = *state;
    static const int64_t offsets[] = {0, 1, 42, OFFSETS - 1, OFFSETS, 5 * OFFSETS + 7, INT64_MAX};
    for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
        struct kq_node node;
        uint64_t number = remember(tree, KQ_VIEW_OFFSET_TEXT, 3, offsets[i]);
        assert_int_equal(kq_node_resolve(tree->nodes, number, &node), 0);
        assert_int_equal(node.view, KQ_VIEW_OFFSET_TEXT);
        assert_int_equal(node.offset, offsets[i]);
        assert_ptr_equal(node.topic, &tree->topic);
        assert_ptr_equal(node.part->partition, &tree->partitions[3]);
        kq_node_forget(tree->nodes, number, 1);
        assert_int_equal(kq_node_resolve(tree->nodes, number, &node), -ESTALE);
    }
}

static void the_root_is_number_one_and_never_forgotten(void **state)
{
    struct tree *tree = *state;
    struct kq_node node;
    uint64_t number = 0;
    assert_int_equal(kq_node_remember(tree->nodes, KQ_VIEW_ROOT, NULL, NULL, 0, 0, &number), 0);
    assert_int_equal(number, 1);
    kq_node_forget(tree->nodes, 1, 1000);
    assert_int_equal(kq_node_resolve(tree->nodes, 1, &node), 0);
    assert_int_equal(node.view, KQ_VIEW_ROOT);
    assert_int_equal(kq_node_remember(tree->nodes, KQ_VIEW_METRICS, NULL, NULL, 0, 0, &number), 0);
    assert_true(number != 1);
    assert_int_equal(kq_node_resolve(tree->nodes, number, &node), 0);
    assert_int_equal(node.view, KQ_VIEW_METRICS);
    assert_null(node.topic);
}

static void numbers_that_were_never_handed_out_are_stale(void **state)
{
    struct tree *tree = *state;
    struct kq_node node;
    uint64_t known = remember(tree, KQ_VIEW_TEXT, 0, 0);
    static const uint64_t none[] = {0,
                                    2,
                                    UINT64_MAX,
                                    (uint64_t)KQ_VIEW_TEXT << 58,
                                    (uint64_t)KQ_VIEW_TEXT << 58 | UINT64_C(5) << 38,
                                    (uint64_t)KQ_VIEW_TEXT << 58 | UINT64_C(0xfffff) << 38,
                                    (uint64_t)KQ_VIEW_COUNT << 58};
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
        assert_int_equal(kq_node_resolve(tree->nodes, none[i], &node), -ESTALE);
        kq_node_forget(tree->nodes, none[i], 1);
    }
    /* The slot of a partition is none of a topic. */
    uint64_t topic = (known & ((UINT64_C(1) << 58) - 1)) | (uint64_t)KQ_VIEW_TOPIC << 58;
    assert_int_equal(kq_node_resolve(tree->nodes, topic, &node), -ESTALE);
    kq_node_forget(tree->nodes, known, 1);
}

static void a_partition_is_held_until_its_last_lookup_is_forgotten(void **state)
{
    struct tree *tree = *state;
    struct kq_node node;
    uint64_t text = remember(tree, KQ_VIEW_TEXT, 0, 0);
    uint64_t same = remember(tree, KQ_VIEW_TEXT, 0, 0);
    uint64_t message = remember(tree, KQ_VIEW_OFFSET_TEXT, 0, 99);
    assert_int_equal(text, same);
    assert_int_equal(tree->partitions[0].references, 1);
    kq_node_forget(tree->nodes, text, 2);
    assert_int_equal(kq_node_resolve(tree->nodes, message, &node), 0);
    assert_int_equal(tree->partitions[0].references, 1);
    kq_node_forget(tree->nodes, message, 1);
    assert_int_equal(tree->partitions[0].references, 0);
}

static void forgetting_too_much_frees_only_once(void **state)
{
    struct tree *tree = *state;
    uint64_t number = remember(tree, KQ_VIEW_TOPIC, -1, 0);
    kq_node_forget(tree->nodes, number, 1000);
    kq_node_forget(tree->nodes, number, 1);
    assert_int_equal(tree->topic.references, 0);
    remember(tree, KQ_VIEW_TOPIC, -1, 0);
    assert_int_equal(tree->topic.references, 1);
}

static void find_tells_only_of_what_the_kernel_may_know(void **state)
{
    struct tree *tree = *state;
    struct kq_partition *partition = &tree->partitions[1];
    assert_int_equal(kq_node_find(tree->nodes, KQ_VIEW_TEXT, &tree->topic, partition, 0), 0);
    uint64_t number = remember(tree, KQ_VIEW_TEXT, 1, 0);
    assert_int_equal(kq_node_find(tree->nodes, KQ_VIEW_TEXT, &tree->topic, partition, 0), number);
    assert_int_equal(kq_node_find(tree->nodes, KQ_VIEW_TEXT, &tree->topic, partition, OFFSETS), 0);
    assert_int_equal(kq_node_find(tree->nodes, KQ_VIEW_TOPIC, &tree->topic, NULL, 0), 0);
    kq_node_forget(tree->nodes, number, 1);
    assert_int_equal(kq_node_find(tree->nodes, KQ_VIEW_TEXT, &tree->topic, partition, 0), 0);
}

static void a_partition_has_one_state_for_all_who_look(void **state)
{
    struct tree *tree = *state;
    struct kq_fspart *a, *b;
    struct kq_node node;
    assert_null(kq_fspart_find(tree->nodes, &tree->partitions[2]));
    assert_int_equal(kq_fspart_get(tree->nodes, &tree->partitions[2], &a), 0);
    uint64_t number = remember(tree, KQ_VIEW_TEXT, 2, OFFSETS);
    assert_int_equal(kq_node_resolve(tree->nodes, number, &node), 0);
    assert_ptr_equal(node.part, a);
    b = kq_fspart_find(tree->nodes, &tree->partitions[2]);
    assert_ptr_equal(a, b);
    kq_fspart_unref(tree->nodes, b);
    kq_node_forget(tree->nodes, number, 1);
    assert_int_equal(tree->partitions[2].references, 1);
    kq_fspart_unref(tree->nodes, a);
    assert_null(kq_fspart_find(tree->nodes, &tree->partitions[2]));
}

static void names_looked_up_cost_no_memory(void **state)
{
    struct tree *tree = *state;
    remember(tree, KQ_VIEW_OFFSET_TEXT, 0, 0);
    size_t before = mallinfo2().uordblks;
    for (int64_t offset = 0; offset < 200000; offset++)
        remember(tree, KQ_VIEW_OFFSET_TEXT, 0, offset);
    assert_int_equal(mallinfo2().uordblks, before);
}

static void slots_are_used_again(void **state)
{
    struct tree *tree = *state;
    uint64_t first = remember(tree, KQ_VIEW_TEXT, 0, 0);
    kq_node_forget(tree->nodes, first, 1);
    for (int64_t window = 0; window < 100000; window++)
        kq_node_forget(tree->nodes, remember(tree, KQ_VIEW_TEXT, 0, window * OFFSETS), 1);
    assert_int_equal(remember(tree, KQ_VIEW_TEXT, 0, 0), first);
}

static void many_partitions_are_told_apart(void **state)
{
    struct tree *tree = *state;
    enum { MANY = 5000 };
    struct kq_partition *many = calloc(MANY, sizeof(*many));
    uint64_t *numbers = calloc(MANY, sizeof(*numbers));
    for (int32_t i = 0; i < MANY; i++) {
        many[i] = (struct kq_partition){.topic = &tree->topic, .number = i};
        assert_int_equal(
            kq_node_remember(tree->nodes, KQ_VIEW_TEXT, &tree->topic, &many[i], i, 0, &numbers[i]),
            0);
    }
    for (int32_t i = 0; i < MANY; i++) {
        struct kq_node node;
        assert_int_equal(kq_node_resolve(tree->nodes, numbers[i], &node), 0);
        assert_ptr_equal(node.part->partition, &many[i]);
        assert_int_equal(node.offset, i);
        kq_node_forget(tree->nodes, numbers[i], 1);
        assert_int_equal(many[i].references, 0);
    }
    free(numbers);
    free(many);
}

static void without_memory_nothing_is_remembered_and_nothing_leaks(void **state)
{
    struct tree *tree = *state;
    uint64_t number = 0;
    for (long nth = 1;; nth++) {
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_node_remember(tree->nodes, KQ_VIEW_TEXT, &tree->topic, &tree->partitions[0], 0,
                                 0, &number);
        if (!kq_fault_disarm())
            break;
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(number, 0);
        assert_int_equal(tree->partitions[0].references, 0);
    }
    kq_node_forget(tree->nodes, number, 1);
}

/* --- st_ino --- */

static void inodes_outlive_restarts_and_generations(void **state)
{
    const struct kq_topic *topic = &((struct tree *)*state)->topic;
    uint64_t p0 = kq_inode(KQ_VIEW_TEXT, topic, 0, 0);
    assert_int_equal(p0, kq_inode(KQ_VIEW_TEXT, topic, 0, 4711));
    /* Log shippers have it on disk: the hash must never change. */
    assert_int_equal(p0, UINT64_C(0x108418b0621885f2));
    assert_int_not_equal(p0, kq_inode(KQ_VIEW_TEXT, topic, 1, 0));
    assert_int_not_equal(p0, kq_inode(KQ_VIEW_LOG, topic, 0, 0));
    assert_int_not_equal(kq_inode(KQ_VIEW_SEGMENT, topic, 0, 0),
                         kq_inode(KQ_VIEW_SEGMENT, topic, 0, 1));
    assert_int_equal(kq_inode(KQ_VIEW_ROOT, NULL, -1, 0), 1);
}

/* --- Threads --- */

static void *look_and_forget(void *argument)
{
    struct tree *tree = argument;
    unsigned random = (unsigned)(uintptr_t)&random;
    for (int i = 0; i < ROUNDS; i++) {
        int partition = rand_r(&random) % PARTITIONS;
        int64_t offset = (rand_r(&random) % 3) * OFFSETS + i;
        enum kq_view view = rand_r(&random) % 2 ? KQ_VIEW_TEXT : KQ_VIEW_OFFSET_TEXT;
        bool topic = rand_r(&random) % 4 == 0;
        uint64_t number =
            topic ? remember(tree, KQ_VIEW_TOPIC, -1, 0) : remember(tree, view, partition, offset);
        struct kq_node node;
        assert_int_equal(kq_node_resolve(tree->nodes, number, &node), 0);
        assert_ptr_equal(node.topic, &tree->topic);
        if (!topic) {
            assert_int_equal(node.offset, offset);
            assert_ptr_equal(node.part->partition, &tree->partitions[partition]);
            assert_true(tree->partitions[partition].references > 0);
        }
        kq_node_forget(tree->nodes, number, 1);
    }
    return NULL;
}

static void *find_and_let_go(void *argument)
{
    struct tree *tree = argument;
    for (int i = 0; i < ROUNDS; i++) {
        struct kq_partition *partition = &tree->partitions[i % PARTITIONS];
        struct kq_fspart *part = kq_fspart_find(tree->nodes, partition);
        if (part) {
            assert_ptr_equal(part->partition, partition);
            assert_true(partition->references > 0);
            kq_fspart_unref(tree->nodes, part);
        }
    }
    return NULL;
}

static void threads_that_look_and_forget_keep_every_count(void **state)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, i == 0 ? find_and_let_go : look_and_forget, *state),
            0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    struct tree *tree = *state;
    assert_int_equal(tree->topic.references, 0);
    for (int i = 0; i < PARTITIONS; i++)
        assert_int_equal(tree->partitions[i].references, 0);
}

static void every_layout_of_the_text_has_nodes_of_its_own(void **state)
{
    struct tree *tree = *state;
    static const int64_t offsets[] = {0, 1, (INT64_C(1) << 38) + 5, INT64_MAX};
    static const uint64_t layouts[] = {0, 1, 2, (UINT64_C(1) << 38) - 1};
    uint64_t numbers[4][4];
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            struct kq_node node;
            assert_int_equal(kq_node_remember(tree->nodes, KQ_VIEW_TEXT, &tree->topic,
                                              &tree->partitions[0], offsets[i], layouts[j],
                                              &numbers[i][j]),
                             0);
            assert_int_equal(kq_node_resolve(tree->nodes, numbers[i][j], &node), 0);
            assert_int_equal(node.offset, offsets[i]);
            assert_int_equal(node.layout, layouts[j]);
            assert_int_equal(kq_node_inode(&node), kq_inode(KQ_VIEW_TEXT, &tree->topic, 0, 0));
        }
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            kq_node_forget(tree->nodes, numbers[i][j], 1);
}

#define NODE_TEST(name) cmocka_unit_test_setup_teardown(name, make_tree, free_tree)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NODE_TEST(every_layout_of_the_text_has_nodes_of_its_own),
        NODE_TEST(a_number_leads_back_to_what_it_was_made_of),
        NODE_TEST(the_root_is_number_one_and_never_forgotten),
        NODE_TEST(numbers_that_were_never_handed_out_are_stale),
        NODE_TEST(a_partition_is_held_until_its_last_lookup_is_forgotten),
        NODE_TEST(forgetting_too_much_frees_only_once),
        NODE_TEST(find_tells_only_of_what_the_kernel_may_know),
        NODE_TEST(a_partition_has_one_state_for_all_who_look),
        NODE_TEST(names_looked_up_cost_no_memory),
        NODE_TEST(slots_are_used_again),
        NODE_TEST(many_partitions_are_told_apart),
        NODE_TEST(without_memory_nothing_is_remembered_and_nothing_leaks),
        NODE_TEST(inodes_outlive_restarts_and_generations),
        NODE_TEST(threads_that_look_and_forget_keep_every_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
