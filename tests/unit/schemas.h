/* Every schema there is. */
#pragma once

#include "broker/message/cluster_metadata.h"
#include "broker/message/consumer_offsets.h"
#include "broker/message/consumer_protocol.h"
#include "net/message.h"

static const struct kq_wire_schema *const record_schemas[] = {
    &kq_offset_commit_key_schema,
    &kq_offset_commit_value_schema,
    &kq_group_metadata_key_schema,
    &kq_group_metadata_value_schema,
    &kq_consumer_protocol_subscription_schema,
    &kq_consumer_protocol_assignment_schema,
    &kq_topic_record_schema,
    &kq_partition_record_schema,
    &kq_config_record_schema,
    &kq_partition_change_record_schema,
    &kq_remove_topic_record_schema,
    &kq_user_scram_credential_record_schema,
    &kq_feature_level_record_schema,
    &kq_client_quota_record_schema,
    &kq_producer_ids_record_schema,
    &kq_access_control_entry_record_schema,
    &kq_remove_access_control_entry_record_schema,
    &kq_no_op_record_schema,
    &kq_remove_user_scram_credential_record_schema,
    &kq_begin_transaction_record_schema,
    &kq_end_transaction_record_schema,
    &kq_abort_transaction_record_schema,
};

/* All there are, by number; NULL behind the last. */
static inline const struct kq_wire_schema *schema_at(size_t index)
{
    if (index < 2 * kq_message_count) {
        const struct kq_message *message = &kq_messages[index / 2];
        return index % 2 ? message->response : message->request;
    }
    index -= 2 * kq_message_count;
    return index < kq_array_size(record_schemas) ? record_schemas[index] : NULL;
}
