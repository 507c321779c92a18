#include "broker/service.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/confine.h"

/* --- Who --- */

static int find_groups(const struct passwd *entry, struct kq_service_user *user)
{
    int count = 16;
    for (;;) {
        gid_t *groups = kq_realloc(user->groups, (size_t)count * sizeof(*groups));
        if (!groups)
            return -ENOMEM;
        user->groups = groups;
        int room = count;
        if (getgrouplist(entry->pw_name, entry->pw_gid, groups, &count) >= 0)
            break;
        count = count > room ? count : 2 * room;
    }
    user->group_count = count;
    return 0;
}

static int refuse(const char *name, const char *reason)
{
    kq_diag(LOG_ERR, "user %s: %s", name, reason);
    return -EINVAL;
}

int kq_service_find(const struct kq_config *config, struct kq_service_user *ret)
{
    const char *name = config->user;
    errno = 0;
    const struct passwd *entry = getpwnam(name);
    if (!entry)
        return refuse(name, "no such user; make one with `useradd --system --no-create-home`");
    if (entry->pw_uid == 0)
        return refuse(name, "is root; name a user without rights");
    struct kq_service_user user = {
        .uid = entry->pw_uid, .gid = entry->pw_gid, .is_now = geteuid() == entry->pw_uid};
    if (!user.is_now && geteuid() != 0)
        return refuse(name, "only root can become another user; start kqfs as root, or as that "
                            "user");
    int r = find_groups(entry, &user);
    if (r < 0)
        kq_service_release(&user);
    else
        *ret = user;
    return r;
}

void kq_service_release(struct kq_service_user *user)
{
    free(user->groups);
    user->groups = NULL;
}

/* --- Its data --- */

static int make_directory(const char *path)
{
    kq_autofree char *part = kq_strdup(path);
    if (!part)
        return -ENOMEM;
    for (char *at = part + 1;; at++) {
        if (*at && *at != '/')
            continue;
        char end = *at;
        *at = '\0';
        /* What leads there must be passable for the user. */
        if (mkdir(part, end ? 0755 : 0700) < 0 && errno != EEXIST)
            return -errno;
        if (!end)
            return 0;
        *at = end;
    }
}

static int report_foreign(const struct kq_service_user *user, const char *data, const char *name,
                          uid_t owner)
{
    kq_diag(LOG_ERR,
            "%s%s%s belongs to the user %lu, not to the broker's, %lu: as root run `chown -R "
            "%lu:%lu %s`",
            data, name ? "/" : "", name ? name : "", (unsigned long)owner, (unsigned long)user->uid,
            (unsigned long)user->uid, (unsigned long)user->gid, data);
    return -EPERM;
}

struct search {
    const struct kq_service_user *user;
    const char *data;
    bool empty;
};

/* Each entry of FD, which is closed, and of the directories in it: the directories of partitions.
 * PREFIX: their own directory's name and a slash, or "". */
static int search(int fd, const char *prefix, struct search *s)
{
    int r = 0;
    DIR *directory = fdopendir(fd);
    if (!directory) {
        close(fd);
        return -errno;
    }
    for (const struct dirent *entry; r == 0 && (entry = readdir(directory));) {
        struct stat about;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            fstatat(fd, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        s->empty = false;
        kq_autofree char *name = kq_format("%s%s", prefix, entry->d_name);
        if (!name)
            r = -ENOMEM;
        else if (about.st_uid != s->user->uid && strcmp(name, "lost+found") != 0)
            r = report_foreign(s->user, s->data, name, about.st_uid);
        else if (S_ISDIR(about.st_mode) && !prefix[0]) {
            kq_autofree char *below = kq_format("%s/", name);
            int part = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (!below)
                r = -ENOMEM;
            if (part >= 0 && below)
                r = search(part, below, s);
            else if (part >= 0)
                close(part);
        }
    }
    closedir(directory);
    return r;
}

static int own(const struct kq_service_user *user, const char *data)
{
    struct stat about;
    struct search s = {.user = user, .data = data, .empty = true};
    kq_autoclose int fd = open(data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) < 0)
        return -errno;
    int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = again < 0 ? -errno : search(again, "", &s);
    if (r < 0 || about.st_uid == user->uid)
        return r;
    if (!s.empty || geteuid() != 0)
        return report_foreign(user, data, NULL, about.st_uid);
    return fchown(fd, user->uid, user->gid) < 0 ? -errno : 0;
}

int kq_service_own_data(const struct kq_service_user *user, const char *data)
{
    int r = make_directory(data);
    if (r == 0)
        r = own(user, data);
    if (r < 0 && r != -EPERM)
        kq_diag(LOG_ERR, "cannot make %s the broker's: %s; choose another directory with --data",
                data, strerror(-r));
    return r;
}

/* A file with other names may be anybody's: protected_hardlinks of proc(5) may be off. */
static void give_entry(int directory, const char *name, const struct stat *owner)
{
    struct stat about;
    kq_autoclose int fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) < 0 || about.st_uid != geteuid())
        return;
    if (S_ISDIR(about.st_mode) || (S_ISREG(about.st_mode) && about.st_nlink == 1))
        if (fchownat(fd, "", owner->st_uid, owner->st_gid, AT_EMPTY_PATH) < 0)
            kq_diag(LOG_WARNING, "%s: cannot be given to its directory's owner: %s", name,
                    strerror(errno));
}

static int give_all(int fd, const struct stat *owner, bool deep)
{
    DIR *directory = fdopendir(fd);
    if (!directory) {
        close(fd);
        return -errno;
    }
    for (const struct dirent *entry; (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        give_entry(fd, entry->d_name, owner);
        int below =
            deep ? openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (below >= 0)
            give_all(below, owner, false);
    }
    closedir(directory);
    return 0;
}

int kq_service_give_back(const char *data)
{
    struct stat about;
    int fd = open(data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 || fstat(fd, &about) < 0 ? -errno : 0;
    if (r < 0 || geteuid() != 0 || about.st_uid == 0) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    r = give_all(fd, &about, true);
    if (r < 0)
        kq_diag(LOG_ERR, "%s: %s: give it to its owner again with chown -R", data, strerror(-r));
    return r;
}

/* --- Becoming it --- */

static int drop_ids(const struct kq_service_user *user)
{
    if (user->is_now)
        return 0;
    if (setgroups((size_t)user->group_count, user->groups) < 0 ||
        setresgid(user->gid, user->gid, user->gid) < 0 ||
        setresuid(user->uid, user->uid, user->uid) < 0)
        return -errno;
    return setuid(0) == 0 ? -EPERM : 0;
}

int kq_service_become(const struct kq_service_user *user)
{
    struct rlimit none = {0, 0};
    int r = kq_confine_bounding_set(0);
    if (r == 0)
        r = drop_ids(user);
    if (r == 0)
        r = kq_confine_capabilities(0);
    if (r == 0 && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
                   setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0))
        r = -errno;
    if (r < 0)
        kq_diag(LOG_ERR, "cannot become the user %lu: %s", (unsigned long)user->uid, strerror(-r));
    return r;
}
