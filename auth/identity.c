#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "auth/auth.h"
#include "broker/base/mem.h"

#define ANONYMOUS "User:ANONYMOUS"
#define GROUPS_MAX 65536 /* NGROUPS_MAX of Linux */
#define NAME_BYTES_MAX ((size_t)1 << 20)

struct identity {
    struct kq_identity public;
    atomic_int references;
    gid_t groups[];
};

static struct identity *own(const struct kq_identity *identity)
{
    return (struct identity *)((char *)identity - offsetof(struct identity, public));
}

const struct kq_identity *kq_identity_ref(const struct kq_identity *identity)
{
    atomic_fetch_add_explicit(&own(identity)->references, 1, memory_order_relaxed);
    return identity;
}

void kq_identity_unref(const struct kq_identity *identity)
{
    if (identity &&
        atomic_fetch_sub_explicit(&own(identity)->references, 1, memory_order_acq_rel) == 1)
        free(own(identity));
}

/* Groups and principal live behind the struct. */
static int make(const struct kq_identity *from, const struct kq_identity **ret)
{
    static _Atomic uint64_t last_number;
    size_t group_bytes = from->group_count * sizeof(gid_t), name = strlen(from->principal) + 1;
    struct identity *identity = kq_alloc(sizeof(*identity) + group_bytes + name);
    if (!identity)
        return -ENOMEM;
    char *principal = (char *)(identity->groups + from->group_count);
    memcpy(principal, from->principal, name);
    if (from->groups && group_bytes)
        memcpy(identity->groups, from->groups, group_bytes);
    identity->public = *from;
    identity->public.number = atomic_fetch_add_explicit(&last_number, 1, memory_order_relaxed) + 1;
    identity->public.groups = identity->groups;
    identity->public.principal = principal;
    atomic_init(&identity->references, 1);
    *ret = &identity->public;
    return 0;
}

int kq_identity_anonymous(const struct kq_identity **ret)
{
    struct kq_identity nobody = {.uid = KQ_UID_UNKNOWN, .gid = (gid_t)-1, .principal = ANONYMOUS};
    return make(&nobody, ret);
}

/* --- Users of this host --- */

/* What "not found" looks like differs: getpwnam(3). */
static bool is_failure(int error)
{
    return error == EIO || error == EMFILE || error == ENFILE || error == ENOMEM ||
           error == EAGAIN || error == ETIMEDOUT;
}

/* getpwnam_r and getpwuid_r with as much room as they want: NAME, or UID where it is NULL.
 * 0 with RET->pw_name NULL: there is none. */
static int look_up(const char *name, uid_t uid, struct passwd *ret, char **ret_room)
{
    for (size_t size = 1024; size <= NAME_BYTES_MAX; size *= 2) {
        struct passwd *found;
        char *room = kq_alloc(size);
        if (!room)
            return -ENOMEM;
        int error = name ? getpwnam_r(name, ret, room, size, &found)
                         : getpwuid_r(uid, ret, room, size, &found);
        if (found) {
            *ret_room = room;
            return 0;
        }
        free(room);
        if (error != ERANGE) {
            *ret = (struct passwd){0};
            *ret_room = NULL;
            return is_failure(error) ? -error : 0;
        }
    }
    return -ERANGE;
}

static int list_groups(const char *name, gid_t gid, gid_t **ret, int *ret_count)
{
    int count = 32;
    gid_t *groups = NULL;
    for (;;) {
        gid_t *more = kq_realloc(groups, (size_t)count * sizeof(*groups));
        if (!more) {
            free(groups);
            return -ENOMEM;
        }
        groups = more;
        int room = count;
        if (getgrouplist(name, gid, groups, &count) >= 0 || count > GROUPS_MAX)
            break;
        count = count > room ? count : 2 * room;
    }
    *ret = groups;
    *ret_count = count < GROUPS_MAX ? count : GROUPS_MAX;
    return 0;
}

static int make_from_passwd(const struct passwd *user, const char *principal,
                            const struct kq_identity **ret)
{
    kq_autofree gid_t *groups = NULL;
    int count;
    int r = list_groups(user->pw_name, user->pw_gid, &groups, &count);
    if (r < 0)
        return r;
    struct kq_identity identity = {.uid = user->pw_uid,
                                   .gid = user->pw_gid,
                                   .groups = groups,
                                   .group_count = (size_t)count,
                                   .principal = principal};
    return make(&identity, ret);
}

static bool parse_uid(const char *text, uid_t *ret)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || number >= KQ_UID_UNKNOWN)
        return false;
    *ret = (uid_t)number;
    return true;
}

int kq_identity_anonymous_as(const char *name, const struct kq_identity **ret)
{
    struct passwd user;
    kq_autofree char *room = NULL;
    uid_t uid = KQ_UID_UNKNOWN;
    bool is_number = parse_uid(name, &uid);
    int r = look_up(is_number ? NULL : name, uid, &user, &room);
    if (r < 0)
        return r;
    if (user.pw_name)
        return make_from_passwd(&user, ANONYMOUS, ret);
    if (!is_number)
        return -ENOENT;
    struct kq_identity nameless = {.uid = uid, .gid = (gid_t)-1, .principal = ANONYMOUS};
    return make(&nameless, ret);
}

static char *principal_of(const char *name, uid_t uid)
{
    return name ? kq_format("User:%s", name) : kq_format("User:#%lu", (unsigned long)uid);
}

int kq_identity_of_uid(uid_t uid, const struct kq_identity **ret)
{
    struct passwd user;
    kq_autofree char *room = NULL, *principal = NULL;
    int r = look_up(NULL, uid, &user, &room);
    if (r < 0)
        return r;
    principal = principal_of(user.pw_name, uid);
    if (!principal)
        return -ENOMEM;
    if (user.pw_name)
        return make_from_passwd(&user, principal, ret);
    struct kq_identity nameless = {.uid = uid, .gid = (gid_t)-1, .principal = principal};
    return make(&nameless, ret);
}

/* A name of digits is nobody's: getpwnam(3) would find a user that is called so, which may be any
 * other than the one of that number. */
static bool may_be_user(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length < LOGIN_NAME_MAX && name[strspn(name, "+-0123456789")] &&
           !strpbrk(name, ":\n");
}

int kq_identity_of_name(const char *name, uid_t uid, const struct kq_identity **ret)
{
    struct passwd user = {0};
    kq_autofree char *room = NULL, *principal = kq_format("User:%s", name);
    bool mapped = uid != KQ_UID_UNKNOWN;
    int r = 0;
    if (!principal)
        return -ENOMEM;
    if (mapped || may_be_user(name))
        r = look_up(mapped ? NULL : name, uid, &user, &room);
    if (r < 0)
        return r;
    if (user.pw_name && (mapped || user.pw_uid != 0))
        return make_from_passwd(&user, principal, ret);
    struct kq_identity nameless = {.uid = uid, .gid = (gid_t)-1, .principal = principal};
    return make(&nameless, ret);
}

/* --- The other end of a unix socket --- */

static int peer_groups(int fd, gid_t **ret, socklen_t *ret_length)
{
    socklen_t length = 0;
    gid_t *groups = NULL;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &length) < 0 && errno == ERANGE) {
        groups = kq_alloc(length);
        if (!groups)
            return -ENOMEM;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &length) < 0) {
            free(groups);
            return -errno;
        }
    }
    *ret = groups;
    *ret_length = groups ? length : 0;
    return 0;
}

int kq_identity_of_peer(int fd, const struct kq_identity **ret)
{
    struct ucred peer;
    struct passwd user;
    socklen_t length = sizeof(peer);
    kq_autofree gid_t *groups = NULL;
    kq_autofree char *room = NULL, *principal = NULL;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
        return -errno;
    int r = peer_groups(fd, &groups, &length);
    if (r == 0)
        r = look_up(NULL, peer.uid, &user, &room);
    if (r < 0)
        return r;
    principal = principal_of(user.pw_name, peer.uid);
    if (!principal)
        return -ENOMEM;
    struct kq_identity identity = {.uid = peer.uid,
                                   .gid = peer.gid,
                                   .groups = groups,
                                   .group_count = length / sizeof(gid_t),
                                   .principal = principal};
    return make(&identity, ret);
}
