#include "auth/oauthbearer.h"

#include <pthread.h>
#include <string.h>
#include <strings.h>

#include "auth/jwt.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/base/privileged.h"

#define NS_PER_S INT64_C(1000000000)
#define FRAME_BYTES_MAX 4096 /* of a message, besides its token */
#define CHALLENGE "{\"status\":\"invalid_token\"}"
#define REFUSED "Authentication failed: the bearer token is not accepted"
#define MALFORMED "Authentication failed: Invalid OAUTHBEARER client first message"

struct kq_oauth {
    struct kq_jwt_policy policy;
    char *file, *issuer, *audience, *claim;
    pthread_mutex_t lock; /* of what follows; not held while the file is read */
    struct kq_jwks *jwks;
    struct kq_file_mark seen; /* the file as it was read last, whether of use or not */
    int64_t look_ns;          /* when to look at it again */
};

/* --- The file of keys --- */

static int read_file(const char *path, struct kq_jwks **ret)
{
    kq_autobuf struct kq_buf bytes = {0};
    const char *reason = "";
    int r = kq_privileged_slurp(path, KQ_JWKS_BYTES_MAX, &bytes, NULL);
    if (r < 0) {
        kq_diag(LOG_ERR, "sasl.oauthbearer.jwks.file: %s: %s", path,
                r == -EFBIG ? "larger than 4 MiB" : strerror(-r));
        return r;
    }
    r = kq_jwks_parse((const char *)bytes.data, bytes.length, ret, &reason);
    if (r == -EINVAL)
        kq_diag(LOG_ERR, "sasl.oauthbearer.jwks.file: %s: %s", path, reason);
    return r;
}

/* Is it to be read? Only one thread hears yes of each change. */
static bool has_changed(struct kq_oauth *oauth)
{
    struct kq_file_mark now = {0};
    bool look = false, changed = false;
    int64_t now_ns = kq_clock_mono_ns();
    pthread_mutex_lock(&oauth->lock);
    if (now_ns >= oauth->look_ns) {
        oauth->look_ns = now_ns + NS_PER_S;
        look = true;
    }
    pthread_mutex_unlock(&oauth->lock);
    if (!look || kq_privileged_look(oauth->file, &now) < 0)
        return false;
    pthread_mutex_lock(&oauth->lock);
    if (!kq_file_mark_same(&now, &oauth->seen)) {
        oauth->seen = now;
        changed = true;
    }
    pthread_mutex_unlock(&oauth->lock);
    return changed;
}

static struct kq_jwks *current(struct kq_oauth *oauth)
{
    struct kq_jwks *newer = NULL, *before = NULL;
    if (has_changed(oauth) && read_file(oauth->file, &newer) == 0)
        kq_diag(LOG_INFO, "%s: %zu keys for tokens", oauth->file, kq_jwks_count(newer));
    pthread_mutex_lock(&oauth->lock);
    if (newer) {
        before = oauth->jwks;
        oauth->jwks = newer;
    }
    struct kq_jwks *jwks = kq_jwks_ref(oauth->jwks);
    pthread_mutex_unlock(&oauth->lock);
    kq_jwks_unref(before);
    return jwks;
}

/* --- Options --- */

static int parse_algorithms(const char *words, uint32_t *ret)
{
    uint32_t set = 0;
    while (*(words += strspn(words, " ,"))) {
        size_t length = strcspn(words, " ,");
        const struct kq_jose_algorithm *algorithm = kq_jose_algorithm_of(words, length);
        if (!algorithm) {
            kq_diag(LOG_ERR,
                    "sasl.oauthbearer.algorithms: %.*s: there are RS256 to RS512, PS256 "
                    "to PS512, ES256 to ES512 and EdDSA",
                    (int)length, words);
            return -EINVAL;
        }
        set |= kq_jose_algorithm_bit(algorithm);
        words += length;
    }
    *ret = set ? set : KQ_JOSE_ALL;
    return 0;
}

static int copy(const struct kq_oauth_options *options, struct kq_oauth *to)
{
    to->file = kq_strdup(options->jwks_file);
    to->issuer = kq_strdup(options->issuer);
    to->audience = kq_strdup(options->audience);
    to->claim = kq_strdup(options->claim[0] ? options->claim : "sub");
    if (!to->file || !to->issuer || !to->audience || !to->claim)
        return -ENOMEM;
    to->policy = (struct kq_jwt_policy){.issuer = to->issuer,
                                        .audience = to->audience,
                                        .claim = to->claim,
                                        .skew_ms = options->skew_ms,
                                        .max_bytes = options->max_bytes};
    return parse_algorithms(options->algorithms, &to->policy.algorithms);
}

int kq_oauth_new(const struct kq_oauth_options *options, struct kq_oauth **ret)
{
    struct kq_oauth *oauth = kq_zalloc(sizeof(*oauth));
    if (!oauth)
        return -ENOMEM;
    pthread_mutex_init(&oauth->lock, NULL);
    int r = copy(options, oauth);
    if (r == 0) {
        kq_privileged_look(oauth->file, &oauth->seen); /* where it fails, read_file says why */
        r = read_file(oauth->file, &oauth->jwks);
    }
    if (r < 0) {
        kq_oauth_free(oauth);
        return r;
    }
    *ret = oauth;
    return 0;
}

void kq_oauth_free(struct kq_oauth *oauth)
{
    if (!oauth)
        return;
    kq_jwks_unref(oauth->jwks);
    pthread_mutex_destroy(&oauth->lock);
    free(oauth->file);
    free(oauth->issuer);
    free(oauth->audience);
    free(oauth->claim);
    free(oauth);
}

/* --- The exchange --- */

struct kq_sasl_exchange {
    struct kq_oauth *oauth;
    enum {
        FIRST,
        REFUSING, /* the client has been told, and is to say that it heard it */
        ENDED,
    } state;
    struct kq_jwt_outcome outcome;
};

static int fail(struct kq_sasl_exchange *exchange, struct kq_sasl_outcome *ret,
                const char *complaint, const char *reason)
{
    exchange->state = ENDED;
    ret->result = KQ_SASL_FAILED;
    ret->complaint = complaint;
    ret->reason = reason;
    return 0;
}

/* What is left of a message. */
struct message {
    const char *at, *end;
};

/* What stands before END, which is taken too. */
static bool take_until(struct message *message, char end, const char **ret, size_t *ret_length)
{
    const char *found = memchr(message->at, end, (size_t)(message->end - message->at));
    if (!found)
        return false;
    *ret = message->at;
    *ret_length = (size_t)(found - message->at);
    message->at = found + 1;
    return true;
}

struct first {
    const char *authzid, *token;
    size_t authzid_length, token_length;
};

/* `n,` or `y,`, perhaps `a=NAME`, `,`: there is no channel binding (RFC 5801). */
static bool take_gs2_header(struct message *message, struct first *ret)
{
    const char *text;
    size_t length;
    if (!take_until(message, ',', &text, &length) || length != 1 || (*text != 'n' && *text != 'y'))
        return false;
    if (!take_until(message, ',', &text, &length))
        return false;
    if (length == 0)
        return true;
    if (length < 3 || text[0] != 'a' || text[1] != '=')
        return false;
    ret->authzid = text + 2;
    ret->authzid_length = length - 2;
    return true;
}

/* A key is letters, a value printable or blank (RFC 7628, section 3.1). */
static bool is_pair(const char *text, size_t length, size_t *ret_key)
{
    size_t key = 0;
    while (key < length && ((text[key] | 32) >= 'a' && (text[key] | 32) <= 'z'))
        key++;
    if (key == 0 || key == length || text[key] != '=')
        return false;
    for (size_t i = key + 1; i < length; i++)
        if ((text[i] < ' ' && !strchr("\t\r\n", text[i])) || text[i] == 127)
            return false;
    *ret_key = key;
    return true;
}

static bool take_bearer(const char *value, size_t length, struct first *ret)
{
    static const char scheme[] = "Bearer ";
    size_t prefix = sizeof(scheme) - 1;
    if (ret->token || length <= prefix || strncasecmp(value, scheme, prefix) != 0)
        return false;
    ret->token = value + prefix;
    ret->token_length = length - prefix;
    while (ret->token_length && *ret->token == ' ') {
        ret->token++;
        ret->token_length--;
    }
    return true;
}

/* Other keys than auth are extensions, of which none means anything here. */
static bool parse_first(const uint8_t *bytes, size_t length, struct first *ret)
{
    struct message message = {(const char *)bytes, (const char *)bytes + length};
    const char *text;
    size_t pair, key;
    *ret = (struct first){0};
    if (!take_gs2_header(&message, ret) || !take_until(&message, '\x01', &text, &pair) || pair)
        return false;
    while (take_until(&message, '\x01', &text, &pair)) {
        if (pair == 0)
            return ret->token && message.at == message.end;
        if (!is_pair(text, pair, &key))
            return false;
        if (key == 4 && memcmp(text, "auth", 4) == 0 && !take_bearer(text + 5, pair - 5, ret))
            return false;
    }
    return false;
}

/* Is TEXT, in which =2C is a comma and =3D an equals sign (RFC 5801), the name? */
static bool is_saslname_of(const char *text, size_t length, const char *name)
{
    size_t i = 0;
    for (; i < length && *name; i++, name++) {
        char c = text[i];
        if (c == '=') {
            bool comma = length - i >= 3 && memcmp(text + i, "=2C", 3) == 0;
            bool equals = length - i >= 3 && memcmp(text + i, "=3D", 3) == 0;
            if (!comma && !equals)
                return false;
            c = comma ? ',' : '=';
            i += 2;
        }
        if (c != *name)
            return false;
    }
    return i == length && !*name;
}

static int refuse(struct kq_sasl_exchange *exchange, struct kq_buf *ret_token,
                  struct kq_sasl_outcome *ret)
{
    exchange->state = REFUSING;
    ret->result = KQ_SASL_MORE;
    return kq_buf_append_string(ret_token, CHALLENGE);
}

static int take_first(struct kq_sasl_exchange *exchange, const uint8_t *bytes, size_t length,
                      struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    struct first first;
    struct kq_oauth *oauth = exchange->oauth;
    if (length > oauth->policy.max_bytes + FRAME_BYTES_MAX || !parse_first(bytes, length, &first))
        return fail(exchange, ret, MALFORMED, "a malformed first message");
    struct kq_jwks *jwks = current(oauth);
    int r = kq_jwt_check(jwks, &oauth->policy, first.token, first.token_length, kq_clock_wall_ms(),
                         &exchange->outcome);
    kq_jwks_unref(jwks);
    if (r == -EACCES)
        return refuse(exchange, ret_token, ret);
    if (r < 0)
        return r;
    ret->name = exchange->outcome.name;
    if (first.authzid && !is_saslname_of(first.authzid, first.authzid_length, ret->name)) {
        exchange->outcome.reason = "an authorization id that is not the name";
        return refuse(exchange, ret_token, ret);
    }
    exchange->state = ENDED;
    ret->result = KQ_SASL_DONE;
    ret->expires_ms = exchange->outcome.expires_ms;
    return 0;
}

static int step(struct kq_sasl_exchange *exchange, const uint8_t *token, size_t length,
                struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    *ret = (struct kq_sasl_outcome){0};
    switch (exchange->state) {
    case FIRST:
        return take_first(exchange, token, length, ret_token, ret);
    case REFUSING:
        return fail(exchange, ret, REFUSED, exchange->outcome.reason);
    default:
        return fail(exchange, ret, MALFORMED, "a token behind the last");
    }
}

static int begin(void *context, struct kq_sasl_exchange **ret)
{
    struct kq_sasl_exchange *exchange = kq_zalloc(sizeof(*exchange));
    if (!exchange)
        return -ENOMEM;
    exchange->oauth = context;
    *ret = exchange;
    return 0;
}

static void end(struct kq_sasl_exchange *exchange)
{
    free(exchange); /* it keeps no token */
}

const struct kq_sasl_class kq_oauthbearer = {"OAUTHBEARER", true, begin, step, end};
