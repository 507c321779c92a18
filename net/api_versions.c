/* ApiVersions: what this broker speaks (KIP-35, KIP-511). */
#include <ctype.h>

#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/api_versions.h"

/* KIP-511: [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])? */
static bool is_software_name(struct kq_str name)
{
    for (int32_t i = 0; i < name.length; i++) {
        unsigned char c = (unsigned char)name.data[i];
        bool inner = i > 0 && i < name.length - 1;
        if (c >= 128 || !(isalnum(c) || (inner && (c == '-' || c == '.'))))
            return false;
    }
    return name.length > 0;
}

static bool list_keys(struct kq_request *request, struct kq_api_versions_response *response)
{
    const struct kq_api *row;
    int32_t count = 0;
    while (kq_api_row((size_t)count))
        count++;
    response->api_keys =
        kq_arena_array(&request->arena, (size_t)count, sizeof(*response->api_keys));
    if (!response->api_keys)
        return false;
    response->api_keys_count = count;
    for (int32_t i = 0; (row = kq_api_row((size_t)i)); i++) {
        response->api_keys[i].api_key = row->key;
        response->api_keys[i].min_version = row->lowest;
        response->api_keys[i].max_version = row->highest;
    }
    return true;
}

enum kq_handled kq_api_versions(struct kq_request *request)
{
    const struct kq_api_versions_request *body = request->body;
    struct kq_api_versions_response *response = request->response;
    bool known =
        request->version >= request->api->lowest && request->version <= request->api->highest;
    if (known && request->version >= 3 &&
        !(is_software_name(body->client_software_name) &&
          is_software_name(body->client_software_version))) {
        response->error_code = KQ_ERROR_INVALID_REQUEST;
        return KQ_HANDLED_NOW;
    }
    if (known && request->version >= 3)
        kq_telemetry_software(request->conn->shard->telemetry, body->client_software_name,
                              body->client_software_version);
    if (!known)
        response->error_code = KQ_ERROR_UNSUPPORTED_VERSION;
    return list_keys(request, response) ? KQ_HANDLED_NOW : KQ_HANDLED_CLOSE;
}
