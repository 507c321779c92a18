#include "net/audit.h"

#include "broker/base/diag.h"
#include "net/address.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/message.h"

#define BETWEEN_LINES_MS 100
#define NAME_BYTES 256

bool kq_audit_is_refusal(int16_t code)
{
    switch (code) {
    case KQ_ERROR_TOPIC_AUTHORIZATION_FAILED:
    case KQ_ERROR_GROUP_AUTHORIZATION_FAILED:
    case KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED:
    case KQ_ERROR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
    case KQ_ERROR_SASL_AUTHENTICATION_FAILED:
        return true;
    default:
        return false;
    }
}

/* What a client chose cannot end the line, nor look like another field. */
static void copy_name(const char *from, char ret[NAME_BYTES])
{
    size_t at = 0;
    for (; at < NAME_BYTES - 1 && from[at]; at++)
        ret[at] = from[at];
    ret[at] = 0;
    for (char *c = ret; *c; c++)
        if ((unsigned char)*c <= ' ' || *c == '"' || *c == '\\' || (unsigned char)*c >= 0x7f)
            *c = '?';
}

static void find_peer(const struct kq_conn *conn, struct kq_host_port *ret)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    *ret = (struct kq_host_port){.host = "unix"};
    if (conn->listener->address.is_unix)
        return;
    if (getpeername(conn->transport.fd, (struct sockaddr *)&address, &length) < 0 ||
        !kq_address_format(&address, ret))
        *ret = (struct kq_host_port){.host = "gone"};
}

void kq_audit_refused(const struct kq_request *request, int16_t code)
{
    static struct kq_diag_limit limit;
    char principal[NAME_BYTES], client[NAME_BYTES];
    struct kq_host_port peer;
    if (!kq_diag_limit_pass(&limit, BETWEEN_LINES_MS))
        return;
    const struct kq_caller *caller = &request->caller;
    copy_name(caller->principal ? caller->principal : "", principal);
    copy_name(request->client_id ? request->client_id : "", client);
    find_peer(request->conn, &peer);
    kq_diag(LOG_NOTICE,
            "audit: denied request=%s code=%s principal=\"%s\" uid=%lld peer=%s client=\"%s\"",
            request->api->message->name, kq_error_name(code), principal,
            caller->uid == KQ_UID_UNKNOWN ? -1LL : (long long)caller->uid, peer.host, client);
}
