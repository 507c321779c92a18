/* landlock(7) by its system calls: Debian 12 has no wrapper, and its headers know the first
 * versions only. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/confine.h"

/* Of linux/landlock.h. */
#define CREATE_RULESET_VERSION 1U
#define RULE_PATH_BENEATH 1
#define FS_EXECUTE (1U << 0)
#define FS_WRITE_FILE (1U << 1)
#define FS_READ_FILE (1U << 2)
#define FS_READ_DIR (1U << 3)
#define FS_REMOVE_DIR (1U << 4)
#define FS_REMOVE_FILE (1U << 5)
#define FS_MAKE_DIR (1U << 7)
#define FS_MAKE_REG (1U << 8)
#define FS_ALL_OF_1 ((1U << 13) - 1)
#define FS_REFER (1U << 13)
#define FS_TRUNCATE (1U << 14)
#define FS_IOCTL_DEV (1U << 15)
#define NET_ALL 3U   /* bind and connect, of TCP */
#define SCOPE_ALL 3U /* abstract unix sockets, signals */
#define SCOPE_SIGNAL 2U

#define READ (FS_READ_FILE | FS_READ_DIR)
#define FILE_RIGHTS (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)
#define CHANGE                                                                                     \
    (READ | FS_WRITE_FILE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG |           \
     FS_REFER | FS_TRUNCATE)

struct ruleset {
    uint64_t fs, net, scoped;
};

struct rule {
    uint64_t rights;
    int32_t fd;
} __attribute__((packed));

/* What libraries read: names of users and hosts (nsswitch.conf(5)), Kerberos, OpenSSL, time zones,
 * modules; what libc asks of the machine. */
static const struct place {
    const char *path;
    uint64_t rights;
} places[] = {
    {"/etc", READ},           {"/usr", READ},
    {"/lib", READ},           {"/lib64", READ},
    {"/run/systemd", READ},   {"/run/nscd", READ},
    {"/var/lib/sss", READ},   {"/var/lib/extrausers", READ},
    {"/var/lib/nscd", READ},  {"/var/cache/nscd", READ},
    {"/proc/self", READ},     {"/proc/sys", READ},
    {"/proc/stat", READ},     {"/proc/cpuinfo", READ},
    {"/proc/meminfo", READ},  {"/sys/devices/system/cpu", READ},
    {"/sys/fs/cgroup", READ}, {"/dev/null", READ | FS_WRITE_FILE},
    {"/dev/urandom", READ},   {"/dev/random", READ},
};

int kq_landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
    return version < 0 ? 0 : (int)version;
}

static struct ruleset handled(int version)
{
    const char *notify = getenv("NOTIFY_SOCKET");
    struct ruleset all = {.fs = FS_ALL_OF_1};
    if (version >= 2)
        all.fs |= FS_REFER;
    if (version >= 3)
        all.fs |= FS_TRUNCATE;
    if (version >= 5)
        all.fs |= FS_IOCTL_DEV;
    if (version >= 4)
        all.net = NET_ALL;
    if (version >= 6)
        all.scoped = notify && notify[0] == '@' ? SCOPE_SIGNAL : SCOPE_ALL;
    return all;
}

/* What is not there needs no rule. */
static int allow(int ruleset, const struct ruleset *all, const char *path, uint64_t rights)
{
    struct stat about;
    kq_autoclose int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == EACCES ? 0 : -errno;
    if (fstat(fd, &about) == 0 && !S_ISDIR(about.st_mode))
        rights &= FILE_RIGHTS;
    struct rule rule = {.rights = rights & all->fs, .fd = fd};
    return syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

static int allow_parent(int ruleset, const struct ruleset *all, const char *path)
{
    kq_autofree char *parent = kq_strdup(path);
    if (!parent)
        return -ENOMEM;
    char *slash = strrchr(parent, '/');
    if (!slash)
        return 0;
    slash[slash == parent] = '\0';
    return allow(ruleset, all, parent, FS_REMOVE_FILE);
}

/* krb5.conf(5) and where the replay cache is: what libkrb5 reads at each exchange. */
static int allow_kerberos(int ruleset, const struct ruleset *all)
{
    const char *cache = getenv("KRB5RCACHEDIR"), *settings = getenv("KRB5_CONFIG");
    int r = allow(ruleset, all, cache ? cache : "/var/tmp",
                  READ | FS_WRITE_FILE | FS_MAKE_REG | FS_REMOVE_FILE | FS_TRUNCATE);
    kq_autofree char *paths = kq_strdup(settings ? settings : "");
    if (!paths)
        return -ENOMEM;
    char *rest = NULL;
    for (char *path = strtok_r(paths, ":", &rest); path && r == 0;
         path = strtok_r(NULL, ":", &rest))
        r = allow(ruleset, all, path, READ);
    return r;
}

static int add_rules(int ruleset, const struct ruleset *all,
                     const struct kq_confine_options *options)
{
    int r = allow(ruleset, all, options->data, CHANGE);
    for (size_t i = 0; r == 0 && i < kq_array_size(places); i++)
        r = allow(ruleset, all, places[i].path, places[i].rights);
    for (size_t i = 0; r == 0 && i < options->socket_count; i++)
        r = allow_parent(ruleset, all, options->sockets[i]);
    if (r == 0 && options->kerberos)
        r = allow_kerberos(ruleset, all);
    return r;
}

int kq_landlock_apply(const struct kq_confine_options *options)
{
    int version = kq_landlock_version();
    if (version == 0)
        return -ENOTSUP;
    struct ruleset all = handled(version);
    kq_autoclose int ruleset = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
    if (ruleset < 0)
        return -errno;
    int r = add_rules(ruleset, &all, options);
    if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        r = -errno;
    return r;
}
