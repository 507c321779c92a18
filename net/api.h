/* The table that drives the protocol: key -> name, versions, schema, handler.
 *
 * A new key is a row here and a function in an api_*.c. ApiVersions answers from it,
 * docs/protocol.md is generated from it, the fuzz target runs over it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/request.h"

struct kq_message;

enum kq_api_flags {
    KQ_API_BEFORE_AUTH = 1 << 0, /* may be asked before the client has said who it is */
    KQ_API_HEAVY = 1 << 1, /* may wait for a disk, or take long: always runs on a thread of the
                              pool */
};

struct kq_api {
    int16_t key;
    int16_t lowest, highest; /* advertised and taken */
    int16_t refused_below;   /* Produce: versions below are advertised for KAFKA-18659, yet end the
                                connection, as with Kafka 4; otherwise equal to `lowest` */
    unsigned flags;
    enum kq_handled (*handle)(struct kq_request *request);
    const struct kq_message *message; /* the schema; set at start */
    uint16_t index;                   /* of its row; set at start */
};

/* The row of KEY, or NULL: not served. Any thread. */
const struct kq_api *kq_api_find(int16_t key);

/* The rows in order of their keys; NULL behind the last. */
const struct kq_api *kq_api_row(size_t index);

/* --- Handlers: one for each key, in the file named after its subject --- */

/* api_versions.c */
enum kq_handled kq_api_versions(struct kq_request *request);
/* sasl.c */
enum kq_handled kq_api_sasl_handshake(struct kq_request *request);
enum kq_handled kq_api_sasl_authenticate(struct kq_request *request);
/* api_produce.c */
enum kq_handled kq_api_produce(struct kq_request *request);
/* api_fetch.c */
enum kq_handled kq_api_fetch(struct kq_request *request);
/* api_list_offsets.c */
enum kq_handled kq_api_list_offsets(struct kq_request *request);
enum kq_handled kq_api_offset_for_leader_epoch(struct kq_request *request);
/* api_metadata.c */
enum kq_handled kq_api_metadata(struct kq_request *request);
enum kq_handled kq_api_describe_cluster(struct kq_request *request);
enum kq_handled kq_api_describe_topic_partitions(struct kq_request *request);
/* api_acls.c */
enum kq_handled kq_api_describe_acls(struct kq_request *request);
enum kq_handled kq_api_create_acls(struct kq_request *request);
enum kq_handled kq_api_delete_acls(struct kq_request *request);
/* api_init_producer_id.c */
enum kq_handled kq_api_init_producer_id(struct kq_request *request);
/* api_topics.c */
enum kq_handled kq_api_create_topics(struct kq_request *request);
enum kq_handled kq_api_delete_topics(struct kq_request *request);
enum kq_handled kq_api_create_partitions(struct kq_request *request);
enum kq_handled kq_api_delete_records(struct kq_request *request);
/* api_describe_configs.c */
enum kq_handled kq_api_describe_configs(struct kq_request *request);
/* api_configs.c */
enum kq_handled kq_api_alter_configs(struct kq_request *request);
enum kq_handled kq_api_incremental_alter_configs(struct kq_request *request);
/* api_find_coordinator.c */
enum kq_handled kq_api_find_coordinator(struct kq_request *request);
/* api_group_members.c */
enum kq_handled kq_api_join_group(struct kq_request *request);
enum kq_handled kq_api_sync_group(struct kq_request *request);
enum kq_handled kq_api_heartbeat(struct kq_request *request);
enum kq_handled kq_api_leave_group(struct kq_request *request);
/* api_groups.c */
enum kq_handled kq_api_describe_groups(struct kq_request *request);
enum kq_handled kq_api_list_groups(struct kq_request *request);
enum kq_handled kq_api_delete_groups(struct kq_request *request);
/* api_offsets.c */
enum kq_handled kq_api_offset_commit(struct kq_request *request);
enum kq_handled kq_api_offset_fetch(struct kq_request *request);
enum kq_handled kq_api_offset_delete(struct kq_request *request);
/* api_quota.c */
enum kq_handled kq_api_describe_client_quotas(struct kq_request *request);
enum kq_handled kq_api_alter_client_quotas(struct kq_request *request);
/* api_scram.c */
enum kq_handled kq_api_describe_user_scram_credentials(struct kq_request *request);
enum kq_handled kq_api_alter_user_scram_credentials(struct kq_request *request);
/* api_cluster.c */
enum kq_handled kq_api_describe_log_dirs(struct kq_request *request);
enum kq_handled kq_api_elect_leaders(struct kq_request *request);
enum kq_handled kq_api_alter_partition_reassignments(struct kq_request *request);
enum kq_handled kq_api_list_partition_reassignments(struct kq_request *request);
enum kq_handled kq_api_update_features(struct kq_request *request);
enum kq_handled kq_api_list_config_resources(struct kq_request *request);
