#include "auth/rules.h"

#include <stdbool.h>
#include <string.h>
#include <sys/queue.h>

#include "auth/pattern.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"

#define PRINCIPAL_BYTES_MAX 8192
#define NAME_BYTES_MAX 1024
#define COMPONENTS_MAX 8
#define RULES_MAX 1000

enum letters {
    AS_THEY_ARE,
    LOWER,
    UPPER,
};

struct rule {
    STAILQ_ENTRY(rule) list;
    bool is_default;
    enum letters letters;
    struct kq_pattern *match; /* Kerberos: of what FORMAT gives; NULL: any */
    struct kq_pattern *from;  /* Kerberos: NULL: nothing is replaced */
    char *to;
    bool each;
    unsigned components; /* Kerberos */
    char *format;        /* Kerberos */
};

struct kq_rules {
    STAILQ_HEAD(, rule) list; /* in their order */
    char *realm;              /* NULL: rules for subjects */
};

static void free_rule(struct rule *rule)
{
    kq_pattern_free(rule->match);
    kq_pattern_free(rule->from);
    free(rule->to);
    free(rule->format);
    free(rule);
}

void kq_rules_free(struct kq_rules *rules)
{
    if (!rules)
        return;
    struct rule *rule;
    while ((rule = STAILQ_FIRST(&rules->list))) {
        STAILQ_REMOVE_HEAD(&rules->list, list);
        free_rule(rule);
    }
    free(rules->realm);
    free(rules);
}

/* --- Reading them --- */

struct reading {
    const char *where;
    const char *rule; /* where it begins */
    const char *at;
};

static int malformed(const struct reading *reading, const char *reason)
{
    kq_diag(LOG_ERR, "%s: `%.100s`: %s", reading->where, reading->rule, reason);
    return -EINVAL;
}

static bool take(struct reading *reading, const char *word)
{
    size_t length = strlen(word);
    if (strncmp(reading->at, word, length) != 0)
        return false;
    reading->at += length;
    return true;
}

/* The text before END, which is taken too; with ESCAPES, END has no backslash before it. *RET
 * points into what is read. */
static int take_until(struct reading *reading, char end, bool escapes, const char **ret,
                      size_t *ret_length)
{
    const char *at = reading->at;
    while (*at && *at != end)
        at += escapes && at[0] == '\\' && at[1] ? 2 : 1;
    if (!*at) {
        char reason[] = "a ` ` is missing";
        reason[3] = end;
        return malformed(reading, reason);
    }
    *ret = reading->at;
    *ret_length = (size_t)(at - reading->at);
    reading->at = at + 1;
    return 0;
}

static int take_pattern(struct reading *reading, char end, bool escapes, struct kq_pattern **ret)
{
    const char *text;
    size_t length;
    char reason[KQ_PATTERN_REASON];
    int r = take_until(reading, end, escapes, &text, &length);
    if (r < 0)
        return r;
    r = kq_pattern_new(text, length, ret, reason);
    return r == -EINVAL ? malformed(reading, reason) : r;
}

static int take_replacement(struct reading *reading, bool escapes, char **ret)
{
    const char *text;
    size_t length;
    int r = take_until(reading, '/', escapes, &text, &length);
    if (r < 0)
        return r;
    char *copy = kq_format("%.*s", (int)length, text);
    if (!copy)
        return -ENOMEM;
    *ret = copy;
    return kq_pattern_takes(copy) ? 0
                                  : malformed(reading, "a $ without a number behind it, or a "
                                                       "backslash without anything");
}

static enum letters take_letters(struct reading *reading)
{
    return take(reading, "L") ? LOWER : take(reading, "U") ? UPPER : AS_THEY_ARE;
}

static int read_subject_rule(struct reading *reading, struct rule *rule)
{
    int r = take_pattern(reading, '/', true, &rule->from);
    if (r == 0)
        r = take_replacement(reading, true, &rule->to);
    rule->each = true;
    if (r == 0)
        rule->letters = take_letters(reading);
    return r;
}

/* [N:FORMAT], where each $ in FORMAT has a number from 0 to N behind it. */
static int read_format(struct reading *reading, struct rule *rule)
{
    const char *text;
    size_t length;
    if (reading->at[0] < '1' || reading->at[0] > '0' + COMPONENTS_MAX || reading->at[1] != ':')
        return malformed(reading, "behind RULE:[ there is to be a number of components and `:`");
    rule->components = (unsigned)(reading->at[0] - '0');
    reading->at += 2;
    int r = take_until(reading, ']', false, &text, &length);
    if (r < 0)
        return r;
    rule->format = kq_format("%.*s", (int)length, text);
    if (!rule->format)
        return -ENOMEM;
    for (const char *at = rule->format; (at = strchr(at, '$')); at++)
        if (at[1] < '0' || at[1] > reading->rule[6] || (at[2] >= '0' && at[2] <= '9'))
            return malformed(reading, "a $ stands before no number of a component");
    return 0;
}

static int read_kerberos_rule(struct reading *reading, struct rule *rule)
{
    int r = take(reading, "[") ? read_format(reading, rule)
                               : malformed(reading, "behind RULE: there is to be `[`");
    if (r == 0 && take(reading, "("))
        r = take_pattern(reading, ')', false, &rule->match);
    if (r == 0 && take(reading, "s/")) {
        r = take_pattern(reading, '/', false, &rule->from);
        if (r == 0)
            r = take_replacement(reading, false, &rule->to);
        if (r == 0)
            rule->each = take(reading, "g");
    }
    if (r == 0) {
        take(reading, "/");
        rule->letters = take_letters(reading);
    }
    return r;
}

static bool is_between(char c)
{
    return c == ',' || c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static int read_rule(struct kq_rules *rules, struct reading *reading)
{
    struct rule *rule = kq_zalloc(sizeof(*rule));
    int r = 0;
    if (!rule)
        return -ENOMEM;
    STAILQ_INSERT_TAIL(&rules->list, rule, list);
    if (take(reading, "DEFAULT"))
        rule->is_default = true;
    else if (!take(reading, "RULE:"))
        r = malformed(reading, "a rule is DEFAULT or begins with RULE:");
    else
        r = rules->realm ? read_kerberos_rule(reading, rule) : read_subject_rule(reading, rule);
    if (r == 0 && *reading->at && !is_between(*reading->at))
        r = malformed(reading, "something stands behind the rule; a comma is to be between two");
    return r;
}

static int read_rules(struct kq_rules *rules, const char *where, const char *text)
{
    struct reading reading = {.where = where, .at = text};
    for (unsigned count = 0;; count++) {
        while (is_between(*reading.at))
            reading.at++;
        if (!*reading.at)
            return count ? 0 : read_rules(rules, where, "DEFAULT");
        reading.rule = reading.at;
        int r = count < RULES_MAX ? read_rule(rules, &reading)
                                  : malformed(&reading, "there are more than 1000 rules");
        if (r < 0)
            return r;
    }
}

static int make(const char *where, const char *text, const char *realm, struct kq_rules **ret)
{
    struct kq_rules *rules = kq_zalloc(sizeof(*rules));
    if (!rules)
        return -ENOMEM;
    STAILQ_INIT(&rules->list);
    if (realm)
        rules->realm = kq_strdup(realm);
    int r = realm && !rules->realm ? -ENOMEM : read_rules(rules, where, text);
    if (r < 0) {
        kq_rules_free(rules);
        return r;
    }
    *ret = rules;
    return 0;
}

int kq_rules_new_subject(const char *where, const char *text, struct kq_rules **ret)
{
    return make(where, text, NULL, ret);
}

int kq_rules_new_kerberos(const char *where, const char *text, const char *realm,
                          struct kq_rules **ret)
{
    return make(where, text, realm, ret);
}

/* --- Applying them --- */

static void set_letters(char *name, enum letters letters)
{
    for (; letters != AS_THEY_ARE && *name; name++) {
        if (letters == LOWER && *name >= 'A' && *name <= 'Z')
            *name = (char)(*name - 'A' + 'a');
        if (letters == UPPER && *name >= 'a' && *name <= 'z')
            *name = (char)(*name - 'a' + 'A');
    }
}

/* A client that no rule fits, and one whose name a rule cannot be asked about, is refused: to go on
 * to the next rule could give it a name that was meant for others. */
static int refusal_of(int r)
{
    return r == 0 || r == -ENOENT || r == -ENOMEM ? r : -EACCES;
}

static int replace(const struct rule *rule, const char *text, char **ret)
{
    kq_autobuf struct kq_buf name = {0};
    int r = 0;
    if (rule->from)
        r = kq_pattern_replace(rule->from, text, rule->to, rule->each, NAME_BYTES_MAX, &name);
    else if (strlen(text) > NAME_BYTES_MAX)
        r = -E2BIG;
    else
        r = kq_buf_append_string(&name, text);
    if (r == 0)
        r = kq_buf_append(&name, "", 1);
    if (r < 0)
        return refusal_of(r);
    set_letters((char *)name.data, rule->letters);
    char *copy = kq_strdup((const char *)name.data);
    if (!copy)
        return -ENOMEM;
    *ret = copy;
    return 0;
}

static int apply_to_subject(const struct rule *rule, const char *subject, char **ret)
{
    int r = rule->is_default ? 0 : refusal_of(kq_pattern_match(rule->from, subject));
    return r == 0 ? replace(rule, subject, ret) : r;
}

struct principal {
    char *parts[COMPONENTS_MAX + 1]; /* the realm first */
    unsigned components;
};

/* Splits TEXT in place. What has to be quoted in a principal (a slash, an @) is in no name of a
 * user, and to read over it would mistake one principal for another. */
static int split(char *text, struct principal *ret)
{
    char *at = strchr(text, '@');
    if (!at || !at[1] || strchr(at + 1, '@') || strchr(at, '/') || strchr(text, '\\'))
        return -EACCES;
    *at = '\0';
    ret->parts[0] = at + 1;
    ret->components = 0;
    for (char *part; (part = strsep(&text, "/"));) {
        if (!part[0] || ret->components == COMPONENTS_MAX)
            return -EACCES;
        ret->parts[++ret->components] = part;
    }
    return 0;
}

static int fill_format(const char *format, const struct principal *principal, struct kq_buf *ret)
{
    int r = 0;
    for (; r == 0 && *format; format++) {
        if (*format == '$')
            r = kq_buf_append_string(ret, principal->parts[*++format - '0']);
        else
            r = kq_buf_append(ret, format, 1);
        if (ret->length > PRINCIPAL_BYTES_MAX)
            return -EACCES;
    }
    return r ? r : kq_buf_append(ret, "", 1);
}

static int apply_to_principal(const struct rule *rule, const struct principal *principal,
                              const char *realm, char **ret)
{
    kq_autobuf struct kq_buf text = {0};
    if (rule->is_default)
        return strcmp(principal->parts[0], realm) == 0 ? replace(rule, principal->parts[1], ret)
                                                       : -ENOENT;
    if (principal->components != rule->components)
        return -ENOENT;
    int r = fill_format(rule->format, principal, &text);
    if (r == 0 && rule->match)
        r = refusal_of(kq_pattern_match(rule->match, (const char *)text.data));
    return r == 0 ? replace(rule, (const char *)text.data, ret) : r;
}

int kq_rules_apply(const struct kq_rules *rules, const char *principal, char **ret)
{
    struct principal parts = {0};
    kq_autofree char *copy = NULL, *name = NULL;
    const struct rule *rule;
    int r = -ENOENT;
    if (strlen(principal) > PRINCIPAL_BYTES_MAX)
        return -EACCES;
    if (rules->realm) {
        copy = kq_strdup(principal);
        if (!copy)
            return -ENOMEM;
        if (split(copy, &parts) < 0)
            return -EACCES;
    }
    STAILQ_FOREACH (rule, &rules->list, list) {
        r = rules->realm ? apply_to_principal(rule, &parts, rules->realm, &name)
                         : apply_to_subject(rule, principal, &name);
        if (r != -ENOENT)
            break;
    }
    if (r < 0)
        return r == -ENOENT ? -EACCES : r;
    if (!name || !name[0] || (rules->realm && strpbrk(name, "/@")))
        return -EACCES;
    *ret = name;
    name = NULL;
    return 0;
}
