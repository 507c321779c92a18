/* PLAIN (RFC 4616): the password itself, in one token: [authzid] NUL name NUL password. It is held
 * against what is kept for SCRAM, so that no password is ever kept. */
#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>

#include "auth/scram.h"
#include "broker/base/mem.h"

#define WRONG "Authentication failed: Invalid username or password"
#define MALFORMED "Authentication failed: Invalid SASL/PLAIN message"

struct kq_sasl_exchange {
    const struct kq_scram_users *users;
    bool ended;
    char name[KQ_USER_NAME_BYTES + 1];
};

static int fail(struct kq_sasl_outcome *ret, const char *complaint, const char *reason)
{
    ret->result = KQ_SASL_FAILED;
    ret->complaint = complaint;
    ret->reason = reason;
    return 0;
}

/* The parts of a token. */
struct parts {
    const char *authzid, *name, *password;
    size_t authzid_length, name_length, password_length;
};

static bool split(const char *token, size_t length, struct parts *ret)
{
    const char *end = token + length;
    const char *first = memchr(token, '\0', length);
    const char *second = first ? memchr(first + 1, '\0', (size_t)(end - first - 1)) : NULL;
    if (!second)
        return false;
    *ret = (struct parts){.authzid = token,
                          .name = first + 1,
                          .password = second + 1,
                          .authzid_length = (size_t)(first - token),
                          .name_length = (size_t)(second - first - 1),
                          .password_length = (size_t)(end - second - 1)};
    return ret->name_length > 0 && ret->name_length <= KQ_USER_NAME_BYTES &&
           ret->password_length > 0 && ret->password_length <= KQ_PASSWORD_BYTES &&
           !memchr(ret->password, '\0', ret->password_length);
}

/* The credential of one mechanism will do; where there is none, the work is the same. */
static int find(const struct kq_scram_users *users, const char *name,
                struct kq_scram_credential *ret, enum kq_scram_hash *ret_hash, bool *ret_fake)
{
    *ret_hash = KQ_SCRAM_SHA_512;
    int r = users->find(users->context, name, KQ_SCRAM_SHA_256, ret);
    if (r == -ENOENT)
        r = users->find(users->context, name, KQ_SCRAM_SHA_512, ret);
    else
        *ret_hash = KQ_SCRAM_SHA_256;
    if (r != -ENOENT) {
        *ret_fake = false;
        return r;
    }
    *ret_hash = KQ_SCRAM_SHA_256;
    return kq_scram_find(users, name, KQ_SCRAM_SHA_256, ret, ret_fake);
}

static int check(struct kq_sasl_exchange *exchange, const struct parts *parts,
                 struct kq_sasl_outcome *ret)
{
    struct kq_scram_credential credential = {0};
    enum kq_scram_hash hash;
    bool fake = true, good = false;
    int r = find(exchange->users, exchange->name, &credential, &hash, &fake);
    if (r == 0)
        r = kq_scram_check(hash, &credential, parts->password, parts->password_length, &good);
    OPENSSL_cleanse(&credential, sizeof(credential));
    if (r < 0)
        return r;
    if (!good || fake)
        return fail(ret, WRONG, fake ? "no such user" : "a wrong password");
    ret->result = KQ_SASL_DONE;
    return 0;
}

static int step(struct kq_sasl_exchange *exchange, const uint8_t *token, size_t length,
                struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    struct parts parts;
    *ret = (struct kq_sasl_outcome){0};
    if (exchange->ended)
        return fail(ret, MALFORMED, "a token behind the last");
    exchange->ended = true;
    if (length == 0 || !split((const char *)token, length, &parts))
        return fail(ret, MALFORMED, "a malformed token");
    memcpy(exchange->name, parts.name, parts.name_length);
    ret->name = exchange->name;
    if (parts.authzid_length && (parts.authzid_length != parts.name_length ||
                                 memcmp(parts.authzid, parts.name, parts.name_length) != 0))
        return fail(ret,
                    "Authentication failed: Client requested an authorization id that is "
                    "different from username",
                    "an authorization id that is not the name");
    return check(exchange, &parts, ret);
}

static int begin(void *context, struct kq_sasl_exchange **ret)
{
    struct kq_sasl_exchange *exchange = kq_zalloc(sizeof(*exchange));
    if (!exchange)
        return -ENOMEM;
    exchange->users = context;
    *ret = exchange;
    return 0;
}

static void end(struct kq_sasl_exchange *exchange)
{
    free(exchange); /* it keeps no secret */
}

const struct kq_sasl_class kq_plain = {"PLAIN", true, begin, step, end};
