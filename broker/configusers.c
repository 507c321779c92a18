#include "broker/configusers.h"

#include <search.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/octal.h"

#define NAME_BYTES_MAX 1024
#define LINE_BYTES 190 /* an INI line's, with room for the number */

struct user {
    uint32_t uid;
    enum kq_origin origin;
    int line; /* of the file; 0: not there */
    char name[];
};

static int compare(const void *a, const void *b)
{
    const struct user *left = a, *right = b;
    return strcmp(left->name, right->name);
}

static int complain(const char *where, const char *name, const char *reason)
{
    kq_diag(LOG_ERR, "%s: [users] %.100s: %s", where, name, reason);
    return -EINVAL;
}

static int parse_uid(const char *where, const char *name, const char *value, uint32_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end || errno || number >= UINT32_MAX)
        return complain(where, name, "a uid is a number from 0 to 4294967294");
    *ret = (uint32_t)number;
    return 0;
}

static int check_name(const char *where, const char *name)
{
    if (!name[0] || strlen(name) > NAME_BYTES_MAX)
        return complain(where, name, "a name has 1 to 1024 bytes");
    for (const char *at = name; *at; at++)
        if ((*at >= 0 && *at < ' ') || *at == 127)
            return complain(where, name, "a name has no control characters");
    return 0;
}

static int make(const char *name, bool in_section, struct user **ret)
{
    size_t size = strlen(name) + 1;
    struct user *user = kq_zalloc(sizeof(*user) + size);
    if (!user)
        return -ENOMEM;
    memcpy(user->name, name, size);
    if (in_section)
        kq_octal_decode(user->name, KQ_OCTAL_PATH);
    *ret = user;
    return 0;
}

/* NEWER is put in, or what it says into the one that is there. */
static int put(struct kq_config *config, const char *where, struct user **newer)
{
    struct user *const *there = tfind(*newer, &config->users, compare);
    if (!there) {
        if (!tsearch(*newer, &config->users, compare))
            return -ENOMEM;
        *newer = NULL;
        config->user_count++;
        return 0;
    }
    struct user *user = *there;
    if ((*newer)->origin == KQ_ORIGIN_FILE && user->line) {
        kq_diag(LOG_ERR, "%s: [users] %.100s: set twice, first in line %d", where, user->name,
                user->line);
        return -EINVAL;
    }
    if ((*newer)->line)
        user->line = (*newer)->line;
    if ((*newer)->origin >= user->origin) {
        user->origin = (*newer)->origin;
        user->uid = (*newer)->uid;
    }
    return 0;
}

int kq_config_users_set(struct kq_config *config, enum kq_origin origin, const char *where,
                        int line, bool in_section, const char *name, const char *value)
{
    kq_autofree struct user *user = NULL;
    int r = make(name, in_section, &user);
    if (r == 0)
        r = check_name(where, user->name);
    if (r == 0)
        r = parse_uid(where, user->name, value, &user->uid);
    if (r < 0)
        return r;
    user->origin = origin;
    user->line = origin == KQ_ORIGIN_FILE ? line : 0;
    return put(config, where, &user);
}

/* --- All of them --- */

struct walk {
    void (*take)(void *context, const char *name, uint32_t uid);
    void *context;
};

static void visit(const void *node, VISIT which, void *context)
{
    const struct walk *walk = context;
    const struct user *user = *(struct user *const *)node;
    if (which == postorder || which == leaf)
        walk->take(walk->context, user->name, user->uid);
}

void kq_config_each_user(const struct kq_config *config,
                         void (*take)(void *context, const char *name, uint32_t uid), void *context)
{
    struct walk walk = {take, context};
    twalk_r(config->users, visit, &walk);
}

struct formatting {
    struct kq_buf *to;
    int error;
};

/* What would end the name in an INI file, or begin something else, is escaped. */
static int format_name(struct kq_buf *to, const char *name)
{
    int r = 0;
    for (const char *at = name; r == 0 && *at; at++) {
        bool plain = *at < 0 || (*at > ' ' && !strchr("=:;#[]\\", *at));
        r = plain ? kq_buf_append(to, at, 1) : kq_buf_printf(to, "\\%03o", (unsigned char)*at);
    }
    return r;
}

static void format(void *context, const char *name, uint32_t uid)
{
    struct formatting *formatting = context;
    kq_autobuf struct kq_buf line = {0};
    int r = formatting->error;
    if (r == 0)
        r = format_name(&line, name);
    if (r == 0 && line.length > LINE_BYTES - 16)
        r = kq_buf_append_string(formatting->to, "; too long for a line: ");
    if (r == 0)
        r = kq_buf_append(formatting->to, line.data, line.length);
    if (r == 0)
        r = kq_buf_printf(formatting->to, " = %u\n", uid);
    formatting->error = r;
}

int kq_config_users_format(const struct kq_config *config, struct kq_buf *ret)
{
    struct formatting formatting = {.to = ret};
    formatting.error = kq_buf_append_string(ret, "[" KQ_USERS_SECTION "]\n");
    kq_config_each_user(config, format, &formatting);
    return formatting.error;
}

void kq_config_users_free(struct kq_config *config)
{
    tdestroy(config->users, free);
    config->users = NULL;
}
