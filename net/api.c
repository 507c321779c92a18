#include "net/api.h"

#include <pthread.h>

#include "broker/base/err.h"
#include "net/message.h"

#define KEYS 128

/* In order of the keys. A row is here when its handler works: what clients see is what there is. */
static struct kq_api rows[] = {
    /* key, lowest, highest, refused below, flags, handler */
    {0, 0, 13, 3, 0, kq_api_produce, NULL, 0},
    {1, 4, 17, 4, 0, kq_api_fetch, NULL, 0},
    {2, 1, 9, 1, 0, kq_api_list_offsets, NULL, 0},
    {3, 0, 13, 0, 0, kq_api_metadata, NULL, 0},
    {8, 2, 9, 2, 0, kq_api_offset_commit, NULL, 0},
    {9, 1, 9, 1, 0, kq_api_offset_fetch, NULL, 0},
    {10, 0, 6, 0, 0, kq_api_find_coordinator, NULL, 0},
    {11, 0, 9, 0, 0, kq_api_join_group, NULL, 0},
    {12, 0, 4, 0, 0, kq_api_heartbeat, NULL, 0},
    {13, 0, 5, 0, 0, kq_api_leave_group, NULL, 0},
    {14, 0, 5, 0, 0, kq_api_sync_group, NULL, 0},
    {15, 0, 6, 0, 0, kq_api_describe_groups, NULL, 0},
    {16, 0, 5, 0, 0, kq_api_list_groups, NULL, 0},
    {17, 0, 1, 0, KQ_API_BEFORE_AUTH, kq_api_sasl_handshake, NULL, 0},
    {18, 0, 4, 0, KQ_API_BEFORE_AUTH, kq_api_versions, NULL, 0},
    {19, 2, 7, 2, KQ_API_HEAVY, kq_api_create_topics, NULL, 0},
    {20, 1, 6, 1, KQ_API_HEAVY, kq_api_delete_topics, NULL, 0},
    {21, 0, 2, 0, KQ_API_HEAVY, kq_api_delete_records, NULL, 0},
    {22, 0, 5, 0, KQ_API_HEAVY, kq_api_init_producer_id, NULL, 0},
    {23, 2, 4, 2, 0, kq_api_offset_for_leader_epoch, NULL, 0},
    {29, 1, 3, 1, KQ_API_HEAVY, kq_api_describe_acls, NULL, 0},
    {30, 1, 3, 1, KQ_API_HEAVY, kq_api_create_acls, NULL, 0},
    {31, 1, 3, 1, KQ_API_HEAVY, kq_api_delete_acls, NULL, 0},
    {32, 1, 4, 1, KQ_API_HEAVY, kq_api_describe_configs, NULL, 0},
    {33, 0, 2, 0, KQ_API_HEAVY, kq_api_alter_configs, NULL, 0},
    {35, 1, 4, 1, KQ_API_HEAVY, kq_api_describe_log_dirs, NULL, 0},
    {36, 0, 2, 0, KQ_API_BEFORE_AUTH, kq_api_sasl_authenticate, NULL, 0},
    {37, 0, 3, 0, KQ_API_HEAVY, kq_api_create_partitions, NULL, 0},
    {42, 0, 2, 0, 0, kq_api_delete_groups, NULL, 0},
    {43, 0, 2, 0, KQ_API_HEAVY, kq_api_elect_leaders, NULL, 0},
    {44, 0, 1, 0, KQ_API_HEAVY, kq_api_incremental_alter_configs, NULL, 0},
    {45, 0, 1, 0, KQ_API_HEAVY, kq_api_alter_partition_reassignments, NULL, 0},
    {46, 0, 0, 0, 0, kq_api_list_partition_reassignments, NULL, 0},
    {47, 0, 0, 0, 0, kq_api_offset_delete, NULL, 0},
    {48, 0, 1, 0, KQ_API_HEAVY, kq_api_describe_client_quotas, NULL, 0},
    {49, 0, 1, 0, KQ_API_HEAVY, kq_api_alter_client_quotas, NULL, 0},
    {50, 0, 0, 0, KQ_API_HEAVY, kq_api_describe_user_scram_credentials, NULL, 0},
    {51, 0, 0, 0, KQ_API_HEAVY, kq_api_alter_user_scram_credentials, NULL, 0},
    {57, 0, 2, 0, 0, kq_api_update_features, NULL, 0},
    {60, 0, 2, 0, 0, kq_api_describe_cluster, NULL, 0},
    {74, 0, 1, 0, KQ_API_HEAVY, kq_api_list_config_resources, NULL, 0},
    {75, 0, 0, 0, 0, kq_api_describe_topic_partitions, NULL, 0},
};

static const struct kq_api *by_key[KEYS];

static void fill(void)
{
    for (size_t i = 0; i < kq_array_size(rows); i++) {
        rows[i].message = kq_message_find(rows[i].key);
        rows[i].index = (uint16_t)i;
        by_key[rows[i].key] = &rows[i];
    }
}

static void prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
}

const struct kq_api *kq_api_find(int16_t key)
{
    prepare();
    return key >= 0 && key < KEYS ? by_key[key] : NULL;
}

const struct kq_api *kq_api_row(size_t index)
{
    prepare();
    return index < kq_array_size(rows) ? &rows[index] : NULL;
}
