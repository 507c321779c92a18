/* GSSAPI behind Kerberos: what its library says of tokens, and the bytes that they wrap, are the
 * input's. Nobody is let in whom it did not accept, without a choice of no security layer, or as
 * another one.
 *
 * The input is tokens: two bytes of a length, and as many bytes; tests/unit/fakegss.h says what
 * they mean. */
#include <stdbool.h>

#include "auth/gssapi.h"
#include "broker/base/mem.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/fakegss.h"

static struct kq_gssapi *gssapi;

static void make_gssapi(void)
{
    static const struct kq_principals_options rules = {
        .certificate_rules = "", .kerberos_rules = "", .kerberos_realm = "R", .max_entries = 10};
    static const struct kq_gssapi_options options = {.keytab = "/none", .principal = ""};
    struct kq_principals *principals;
    MUST(kq_principals_new(&rules, &principals) == 0);
    MUST(kq_gssapi_new(&options, principals, &gssapi) == 0);
}

/* What the broker may believe. */
struct belief {
    char principal[1100]; /* that Kerberos has vouched for; "": nobody */
    bool offered, ended;
};

static bool is_name_of(const char *name, const char *principal)
{
    size_t length = strlen(name), whole = strlen(principal);
    return length > 0 && length < whole && memcmp(name, principal, length) == 0 &&
           (principal[length] == '@' || principal[length] == '/') && whole > 2 &&
           strcmp(principal + whole - 2, "@R") == 0;
}

/* May a client that sends TOKEN last, four bytes of layers and a name, be let in as NAME? */
static bool is_choice(const struct belief *belief, const uint8_t *token, size_t length,
                      const char *name)
{
    size_t rest = length - 5;
    return belief->offered && length >= 5 && token[0] % FAKEGSS_UNWRAPS == FAKEGSS_UNWRAP &&
           token[1] == 1 && is_name_of(name, belief->principal) &&
           (rest == 0 || (rest == strlen(name) && memcmp(token + 5, name, rest) == 0) ||
            (rest == strlen(belief->principal) && memcmp(token + 5, belief->principal, rest) == 0));
}

static void take_accepted(struct belief *belief, const uint8_t *token, size_t length)
{
    size_t name = length > 2 ? length - 2 : 0;
    unsigned what = length ? token[0] % FAKEGSS_ACCEPTS : FAKEGSS_REFUSE;
    MUST(what == FAKEGSS_COMPLETE || what == FAKEGSS_CONTINUE);
    if (what == FAKEGSS_CONTINUE)
        return;
    MUST(name > 0 && name <= 1024 && !memchr(token + 2, 0, name));
    memcpy(belief->principal, token + 2, name);
    belief->principal[name] = '\0';
    belief->offered = token[1] == 0;
}

static void step(struct kq_sasl_exchange *exchange, struct belief *belief, const uint8_t *bytes,
                 size_t length)
{
    kq_autobuf struct kq_buf answer = {0};
    struct kq_sasl_outcome outcome;
    uint8_t *token = fuzz_copy(bytes, length);
    MUST(kq_gssapi_class.step(exchange, token, length, &answer, &outcome) == 0);
    MUST(!belief->ended || outcome.result == KQ_SASL_FAILED);
    if (outcome.result == KQ_SASL_DONE) {
        MUST(is_choice(belief, token, length, outcome.name) && answer.length == 0);
    } else if (outcome.result == KQ_SASL_FAILED) {
        MUST(outcome.complaint && outcome.reason && answer.length == 0);
    } else if (belief->principal[0]) {
        MUST(!belief->offered && length == 0 && answer.length == 4 && answer.data[0] == 1);
        belief->offered = true;
    } else {
        take_accepted(belief, token, length);
    }
    belief->ended |= outcome.result != KQ_SASL_MORE;
    free(token);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, bytes + length};
    struct kq_sasl_exchange *exchange;
    static struct belief belief;
    if (!gssapi)
        make_gssapi();
    int before = fakegss_held;
    belief = (struct belief){0};
    MUST(kq_gssapi_class.begin(gssapi, &exchange) == 0);
    for (int i = 0; i < 6 && input.at < input.end; i++) {
        size_t size = (size_t)fuzz_byte(&input) << 8;
        size |= fuzz_byte(&input);
        size_t left = (size_t)(input.end - input.at);
        size = size < left ? size : left;
        input.at += size;
        step(exchange, &belief, input.at - size, size);
    }
    kq_gssapi_class.end(exchange);
    MUST(fakegss_held == before);
    return 0;
}
