/* What stands behind -o: our settings, the kernel's and libfuse's options, and what only mount(8)
 * reads. */
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/config.h"
#include "broker/octal.h"

enum fate {
    PASS,       /* to libfuse */
    PASS_VALUE, /* to libfuse, NAME=VALUE */
    DROP,       /* for mount(8) alone, or on anyway; with or without a value */
    REFUSE,
};

static const struct mount_option {
    const char *name;
    enum fate fate;
    const char *reason;
} mount_options[] = {
    {"allow_other", PASS, NULL},
    {"allow_root", PASS, NULL},
    {"auto_unmount", PASS, NULL},
    {"fsname", PASS_VALUE, NULL},
    {"subtype", PASS_VALUE, NULL},
    {"context", PASS_VALUE, NULL},
    {"fscontext", PASS_VALUE, NULL},
    {"defcontext", PASS_VALUE, NULL},
    {"rootcontext", PASS_VALUE, NULL},
    {"ro", PASS, NULL},
    {"rw", PASS, NULL},
    {"suid", PASS, NULL},
    {"nosuid", PASS, NULL},
    {"dev", PASS, NULL},
    {"nodev", PASS, NULL},
    {"exec", PASS, NULL},
    {"noexec", PASS, NULL},
    {"atime", PASS, NULL},
    {"noatime", PASS, NULL},
    {"async", PASS, NULL},
    {"default_permissions", DROP, NULL}, /* always on */
    {"defaults", DROP, NULL},
    {"auto", DROP, NULL},
    {"noauto", DROP, NULL},
    {"nofail", DROP, NULL},
    {"user", DROP, NULL},
    {"nouser", DROP, NULL},
    {"users", DROP, NULL},
    {"nousers", DROP, NULL},
    {"owner", DROP, NULL},
    {"noowner", DROP, NULL},
    {"group", DROP, NULL},
    {"nogroup", DROP, NULL},
    {"_netdev", DROP, NULL},
    {"comment", DROP, NULL},
    {"helper", DROP, NULL},
    {"uhelper", DROP, NULL},
    {"relatime", DROP, NULL}, /* nothing here has an access time */
    {"norelatime", DROP, NULL},
    {"strictatime", DROP, NULL},
    {"nodiratime", DROP, NULL},
    {"diratime", DROP, NULL},
    /* FUSE does not turn it into an fsync of each write: taking it would be a false promise. */
    {"sync", REFUSE, "not kept by a FUSE mount; -o topic.flush.messages=1 syncs each append"},
    {"dirsync", REFUSE, "needless: a topic is durable when mkdir returns"},
};

static const struct mount_option *find(const char *name)
{
    static const struct mount_option dropped = {"x-", DROP, NULL};
    if (strncmp(name, "x-", 2) == 0 || strncmp(name, "X-", 2) == 0)
        return &dropped;
    for (size_t i = 0; i < kq_array_size(mount_options); i++)
        if (strcmp(mount_options[i].name, name) == 0)
            return &mount_options[i];
    return NULL;
}

/* Adds RAW behind what libfuse will see. */
static int pass_on(struct kq_config *config, enum kq_origin origin, const char *raw)
{
    const char *have = config->mount_options;
    char *joined = have[0] ? kq_format("%s,%s", have, raw) : kq_strdup(raw);
    if (!joined)
        return -ENOMEM;
    free(config->mount_options);
    config->mount_options = joined;
    if (origin > config->mount_options_origin)
        config->mount_options_origin = origin;
    return 0;
}

static int refuse(const char *where, const char *name, const char *reason)
{
    kq_diag(LOG_ERR, "%s: %.64s: %s", where, name, reason);
    return -EINVAL;
}

/* NAME and VALUE are unescaped, VALUE NULL without `=`; RAW is the option as it was written. */
static int set_option(struct kq_config *config, enum kq_origin origin, const char *where, int line,
                      const char *name, const char *value, const char *raw)
{
    const struct mount_option *option = find(name);
    if (!option) {
        if (config->sloppy && !kq_config_knows(name)) {
            kq_diag(LOG_WARNING, "%s: %.64s: no such mount option, left out", where, name);
            return 0;
        }
        if (value)
            return kq_config_set(config, origin, where, line, NULL, name, value);
        if (strcmp(name, "debug") == 0 || strcmp(name, "foreground") == 0)
            return kq_config_set(config, origin, where, line, NULL, name, "true");
        if (kq_config_knows(name))
            return refuse(where, name, "needs a value");
        return refuse(where, name, "no such mount option (kqfs(1) lists them)");
    }
    switch (option->fate) {
    case REFUSE:
        return refuse(where, name, option->reason);
    case DROP:
        return 0;
    case PASS:
        return value ? refuse(where, name, "takes no value") : pass_on(config, origin, raw);
    default:
        return value ? pass_on(config, origin, raw) : refuse(where, name, "needs a value");
    }
}

/* Takes the first option off *OPTIONS, as written, and returns its length; 0 at the end. */
static size_t next_option(const char **options)
{
    const char *at = *options;
    while (*at && *at != ',')
        at += at[0] == '\\' && at[1] ? 2 : 1;
    size_t length = (size_t)(at - *options);
    *options = *at ? at + 1 : at;
    return length;
}

static char *copy(const char *text, size_t length)
{
    char *copied = kq_alloc(length + 1);
    if (!copied)
        return NULL;
    memcpy(copied, text, length);
    copied[length] = '\0';
    return copied;
}

/* Does its last backslash escape nothing? It would escape the comma before what is added. */
static bool is_cut(const char *raw, size_t length)
{
    size_t backslashes = 0;
    while (backslashes < length && raw[length - backslashes - 1] == '\\')
        backslashes++;
    return backslashes % 2;
}

static int set_each(struct kq_config *config, enum kq_origin origin, const char *where, int line,
                    const char *options)
{
    int r = 0;
    while (r == 0 && *options) {
        const char *start = options;
        size_t length = next_option(&options);
        kq_autofree char *raw = copy(start, length), *name = copy(start, length);
        if (!raw || !name)
            return -ENOMEM;
        if (is_cut(raw, length))
            return refuse(where, raw, "ends in a backslash; write it twice");
        kq_octal_decode(name, KQ_OCTAL_OPTION); /* as libfuse does with those it gets */
        char *value = strchr(name, '=');
        if (value)
            *value++ = '\0';
        if (name[0])
            r = set_option(config, origin, where, line, name, value, raw);
    }
    return r;
}

int kq_config_set_mount_options(struct kq_config *config, enum kq_origin origin, const char *where,
                                int line, const char *options)
{
    if (origin != KQ_ORIGIN_FILE)
        return set_each(config, origin, where, line, options);
    /* The last of two that contradict each other wins in libfuse, so the file's go in front of
     * what the command line has given already. */
    kq_autofree char *given = config->mount_options;
    config->mount_options = kq_strdup("");
    int r = config->mount_options ? set_each(config, origin, where, line, options) : -ENOMEM;
    return r == 0 && given[0] ? pass_on(config, origin, given) : r;
}
