#include "broker/paths.h"

#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/options.h"

static int report(int code, const char *path, const char *reason)
{
    kq_diag(LOG_ERR, "%s: %s", path, reason);
    return code;
}

static int report_mountpoint(const char *path)
{
    int error = errno;
    if (error == ENOTCONN)
        kq_diag(LOG_ERR, "%s: a dead mount is left over; remove it with `fusermount3 -u %s`", path,
                path);
    else if (error == ENOENT)
        kq_diag(LOG_ERR, "%s: no such directory; create it with `mkdir -p %s`", path, path);
    else
        kq_diag(LOG_ERR, "%s: %s", path, strerror(error));
    return KQ_EXIT_MOUNT;
}

static int resolve_mountpoint(struct kq_config *config)
{
    struct stat status;
    struct statvfs below;
    kq_autofree char *real = realpath(config->mountpoint, NULL);
    /* The kernel may still remember what stat(2) says of a dead mount; statvfs(3) has to ask. */
    if (!real || stat(real, &status) < 0 || statvfs(real, &below) < 0)
        return report_mountpoint(config->mountpoint);
    if (!S_ISDIR(status.st_mode))
        return report(KQ_EXIT_MOUNT, real, "is not a directory; mount on one");
    free(config->mountpoint);
    config->mountpoint = real;
    real = NULL;
    return 0;
}

/* The real path of PATH, whose last parts need not exist: those are kept as they are. */
static char *real_path_of_new(const char *path)
{
    char *real = realpath(path, NULL);
    if (real || errno != ENOENT)
        return real;
    kq_autofree char *parent = kq_strdup(path);
    char *slash = parent ? strrchr(parent, '/') : NULL;
    while (slash && slash > parent && !slash[1]) { /* trailing slashes */
        *slash = '\0';
        slash = strrchr(parent, '/');
    }
    if (!slash || !slash[1] || strcmp(slash, "/..") == 0 || strcmp(slash, "/.") == 0)
        return NULL;
    kq_autofree char *name = kq_strdup(slash + 1);
    slash[slash == parent] = '\0';
    kq_autofree char *above = real_path_of_new(parent);
    if (!above || !name)
        return NULL;
    return kq_format("%s/%s", strcmp(above, "/") == 0 ? "" : above, name);
}

static int resolve_data(struct kq_config *config)
{
    char *real = real_path_of_new(config->data);
    if (!real) {
        if (errno == ENOTCONN)
            return report(KQ_EXIT_DATA_UNUSABLE, config->data,
                          "lies on a dead mount; remove that with fusermount3 -u");
        kq_diag(LOG_ERR, "%s: %s; choose another place with --data", config->data, strerror(errno));
        return KQ_EXIT_DATA_UNUSABLE;
    }
    free(config->data);
    config->data = real;
    return 0;
}

static bool within(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    if (strcmp(directory, "/") == 0)
        return true;
    return strncmp(path, directory, length) == 0 && (path[length] == '/' || !path[length]);
}

int kq_paths_check(struct kq_config *config)
{
    int code = config->no_mount ? 0 : resolve_mountpoint(config);
    if (code == 0)
        code = resolve_data(config);
    if (code || config->no_mount)
        return code;
    if (within(config->data, config->mountpoint))
        return report(KQ_EXIT_DATA_UNUSABLE, config->data,
                      "the data directory lies inside its own mount; choose another with --data");
    if (within(config->mountpoint, config->data))
        return report(KQ_EXIT_MOUNT, config->mountpoint,
                      "the mountpoint lies inside the data directory; mount elsewhere");
    return 0;
}

char *kq_paths_mount_options(const struct kq_config *config)
{
    const char *given = config->mount_options;
    kq_autofree char *escaped = kq_alloc(2 * strlen(config->data) + 1);
    if (!escaped)
        return NULL;
    char *to = escaped;
    for (const char *from = config->data; *from; from++) {
        if (*from == ',' || *from == '\\')
            *to++ = '\\';
        *to++ = *from;
    }
    *to = '\0';
    return kq_format("fsname=%s,subtype=kqfs%s%s", escaped, given[0] ? "," : "", given);
}
