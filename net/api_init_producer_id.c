/* InitProducerId: a producer that wants to be idempotent gets its id.
 *
 * The id that a client names (from version 3 on) is that of which it could not go on: it gets
 * another one, as from Kafka. The rights are asked for partition by partition and the next block of
 * ids is written to the disk, so it runs where it may take long.
 *
 * Source: Kafka's InitProducerIdRequest.json and InitProducerIdResponse.json,
 * KafkaApis.handleInitProducerIdRequest, TransactionCoordinator.handleInitProducerId; KIP-98,
 * KIP-360. IDEMPOTENT_WRITE comes with the right to write to any topic (KIP-679).
 */
#include "broker/produce.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/init_producer_id.h"

static int16_t check(const struct kq_request *request)
{
    const struct kq_init_producer_id_request *body = request->body;
    if (body->transactional_id.length >= 0) /* there are no transactions here */
        return KQ_ERROR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    if ((body->producer_id < 0) != (body->producer_epoch < 0))
        return KQ_ERROR_INVALID_REQUEST;
    if (kq_producer_id_access(request->broker, &request->caller) < 0)
        return KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
    return KQ_ERROR_NONE;
}

enum kq_handled kq_api_init_producer_id(struct kq_request *request)
{
    struct kq_init_producer_id_response *response = request->response;
    response->error_code = check(request);
    response->producer_epoch = -1;
    if (response->error_code)
        return KQ_HANDLED_NOW;
    int r = kq_producer_id_new(request->broker, true, &response->producer_id);
    if (r < 0)
        response->error_code = kq_error_from(r);
    else
        response->producer_epoch = 0;
    return KQ_HANDLED_NOW;
}
