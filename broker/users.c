/* The users of the network, in memory and on disk.
 *
 * kqfs-users.log is text to which each change is appended:
 *
 *     kqfs-users 1 secret=HEX
 *     commit CRC
 *     set NAME SCRAM-SHA-256 iterations=…
 *     delete NAME SCRAM-SHA-512
 *     commit CRC
 *
 * CRC is the CRC-32C of all lines since the last commit. Lines behind the last commit are of a
 * change that was never acknowledged. Blanks, `%` and what is no character stand as %XX in a NAME.
 * When most of the file is of no use any more, it is written anew.
 */
#include "broker/users.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include "broker/base/crc32c.h"
#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/group.h"
#include "broker/internal.h"
#include "broker/metrics.h"
#include "broker/userstore.h"
#include "broker/uthash.h"

#define HEAD "kqfs-users 1 secret="
#define COMMIT "commit "
#define COMMIT_BYTES (sizeof(COMMIT) - 1 + 8 + 1)
#define DAMAGED KQ_USERS_FILE ".damaged"
#define MAX_USERS 100000
#define WASTE_BYTES ((int64_t)64 << 10) /* not worth the effort */

struct user {
    UT_hash_handle by_name, by_number;
    uint64_t number;
    struct kq_scram_credential credentials[KQ_SCRAM_HASHES];
    char name[];
};

struct kq_users {
    int dirfd, fd;
    uint32_t max_users;
    uint8_t secret[KQ_USERS_SECRET_BYTES];
    pthread_mutex_t change; /* who alters; held over disk writes */
    int64_t length;         /* of what is committed in the file; under CHANGE */
    int64_t used;           /* bytes of it that still count, about; under CHANGE */
    bool broken;            /* what lies behind LENGTH could not be taken back; under CHANGE */
    pthread_rwlock_t lock;  /* of what follows; never held over disk I/O */
    struct user *by_name, *by_number;
    uint64_t last_number;
    struct kq_metric_source metrics;
};

bool kq_user_name_valid(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > KQ_USER_NAME_BYTES || !kq_groups_name_valid(kq_str_of(name)))
        return false;
    for (const char *at = name; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 127)
            return false;
    return true;
}

struct kq_users *kq_broker_users(struct kq_broker *broker)
{
    return broker->users;
}

/* --- In memory --- */

static struct user *find(struct kq_users *users, const char *name)
{
    struct user *user;
    HASH_FIND(by_name, users->by_name, name, strlen(name), user);
    return user;
}

static void free_user(struct user *user)
{
    explicit_bzero(user->credentials, sizeof(user->credentials));
    free(user);
}

static void forget(struct kq_users *users, struct user *user)
{
    HASH_DELETE(by_name, users->by_name, user);
    HASH_DELETE(by_number, users->by_number, user);
    free_user(user);
}

static bool is_empty(const struct user *user)
{
    for (int i = 0; i < KQ_SCRAM_HASHES; i++)
        if (user->credentials[i].iterations)
            return false;
    return true;
}

static int add(struct kq_users *users, const char *name, struct user **ret)
{
    size_t length = strlen(name);
    struct user *user = kq_zalloc(sizeof(*user) + length + 1);
    if (!user)
        return -ENOMEM;
    memcpy(user->name, name, length + 1);
    user->number = users->last_number + 1;
    kq_uthash_failed = false;
    HASH_ADD(by_name, users->by_name, name, length, user);
    if (kq_uthash_failed) {
        free_user(user);
        return -ENOMEM;
    }
    HASH_ADD(by_number, users->by_number, number, sizeof(user->number), user);
    if (kq_uthash_failed) {
        HASH_DELETE(by_name, users->by_name, user);
        free_user(user);
        return -ENOMEM;
    }
    users->last_number = user->number;
    *ret = user;
    return 0;
}

/* Takes away those of CHANGES that have no credential. */
static void drop_empty(struct kq_users *users, const struct kq_user_change *changes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct user *user = find(users, changes[i].name);
        if (user && is_empty(user))
            forget(users, user);
    }
}

/* CHANGES are sound, and the users that they make are there already. */
static void put(struct kq_users *users, const struct kq_user_change *changes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct user *user = find(users, changes[i].name);
        if (user && changes[i].credential)
            user->credentials[changes[i].hash] = *changes[i].credential;
        else if (user)
            explicit_bzero(&user->credentials[changes[i].hash], sizeof(user->credentials[0]));
    }
    drop_empty(users, changes, count);
}

/* Makes the users that CHANGES set something of, MOST in all, so that nothing can fail once they
 * are on disk. */
static int make(struct kq_users *users, const struct kq_user_change *changes, size_t count,
                uint32_t most)
{
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        struct user *user = find(users, changes[i].name);
        if (!user && changes[i].credential)
            r = HASH_CNT(by_name, users->by_name) >= most ? -EDQUOT
                                                          : add(users, changes[i].name, &user);
    }
    return r;
}

/* --- Lines --- */

int kq_user_name_append(struct kq_buf *ret, const char *name)
{
    int r = 0;
    for (const char *at = name; *at && r == 0; at++)
        r = (unsigned char)*at <= ' ' || *at == '%' || *at == 127
                ? kq_buf_printf(ret, "%%%02x", (unsigned char)*at)
                : kq_buf_append(ret, at, 1);
    return r;
}

bool kq_user_name_read(const char *text, size_t length, char ret[KQ_USER_NAME_BYTES + 1])
{
    size_t at = 0;
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)text[i];
        if (byte == '%' && (length - i < 3 || !kq_hex_read(text + i + 1, 1, &byte)))
            return false;
        i += text[i] == '%' ? 2 : 0;
        if (at == KQ_USER_NAME_BYTES)
            return false;
        ret[at++] = (char)byte;
    }
    ret[at] = '\0';
    return strlen(ret) == at && kq_user_name_valid(ret);
}

static int append_change(struct kq_buf *ret, const struct kq_user_change *change)
{
    int r = kq_buf_append_string(ret, change->credential ? "set " : "delete ");
    if (r == 0)
        r = kq_user_name_append(ret, change->name);
    if (r == 0)
        r = kq_buf_append_string(ret, " ");
    if (r == 0 && change->credential)
        return kq_credential_format(change->hash, change->credential, ret);
    return r < 0 ? r : kq_buf_printf(ret, "%s\n", kq_scram_name(change->hash));
}

static int append_commit(struct kq_buf *ret, size_t from)
{
    uint32_t crc = kq_crc32c(0, ret->data + from, ret->length - from);
    return kq_buf_printf(ret, COMMIT "%08x\n", crc);
}

static int append_head(const struct kq_users *users, struct kq_buf *ret)
{
    int r = kq_buf_append_string(ret, HEAD);
    if (r == 0)
        r = kq_hex_append(ret, users->secret, sizeof(users->secret));
    return r < 0 ? r : kq_buf_append_string(ret, "\n");
}

static void wipe(struct kq_buf *buf)
{
    if (buf->data)
        explicit_bzero(buf->data, buf->capacity);
    kq_buf_release(buf);
}

#define autowipe __attribute__((cleanup(wipe)))

/* --- Writing --- */

static int append_user(struct kq_buf *ret, const struct user *user)
{
    int r = 0;
    for (int i = 0; i < KQ_SCRAM_HASHES && r == 0; i++) {
        struct kq_user_change change = {user->name, (enum kq_scram_hash)i, &user->credentials[i]};
        if (user->credentials[i].iterations)
            r = append_change(ret, &change);
    }
    return r;
}

/* A buffer that grows leaves what was in it behind; here it is asked for at once. */
static int reserve(const struct kq_users *users, size_t changes, struct kq_buf *ret)
{
    const size_t line = 3 * KQ_USER_NAME_BYTES + 2 * (KQ_SCRAM_SALT_BYTES + 2 * KQ_SCRAM_KEY_BYTES);
    size_t count = changes + 2 * HASH_CNT(by_name, users->by_name);
    return kq_buf_reserve(ret, 4096 + (changes ? changes : count) * (line + 128));
}

/* The whole file anew; under CHANGE, so that nobody else alters. */
static int rewrite(struct kq_users *users)
{
    autowipe struct kq_buf bytes = {0};
    int r = reserve(users, 0, &bytes);
    if (r == 0)
        r = append_head(users, &bytes);
    for (struct user *user = users->by_name; user && r == 0; user = user->by_name.next)
        r = append_user(&bytes, user);
    if (r == 0)
        r = append_commit(&bytes, 0);
    if (r == 0)
        r = kq_io_replace(users->dirfd, KQ_USERS_FILE, bytes.data, bytes.length, 0600);
    if (r < 0)
        return r;
    int fd = kq_io_open(users->dirfd, KQ_USERS_FILE, O_RDWR | O_NOFOLLOW, 0);
    if (fd < 0) {
        users->broken = true; /* what is open is another file by now */
        return fd;
    }
    if (users->fd >= 0)
        close(users->fd);
    users->fd = fd;
    users->length = users->used = (int64_t)bytes.length;
    users->broken = false;
    return 0;
}

/* CHANGES on disk, behind what is there. */
static int write_changes(struct kq_users *users, const struct kq_user_change *changes, size_t count)
{
    autowipe struct kq_buf bytes = {0};
    int r = users->broken ? rewrite(users) : 0;
    if (r == 0)
        r = reserve(users, count, &bytes);
    for (size_t i = 0; i < count && r == 0; i++)
        r = append_change(&bytes, &changes[i]);
    if (r == 0)
        r = append_commit(&bytes, 0);
    if (r < 0)
        return r;
    r = kq_io_pwrite(users->fd, bytes.data, bytes.length, users->length);
    if (r == 0)
        r = kq_io_datasync(users->fd);
    if (r == 0) {
        users->length += (int64_t)bytes.length;
        return 0;
    }
    /* What was written may be there after all, and must not come back. */
    users->broken = kq_io_truncate(users->fd, users->length) < 0 || kq_io_datasync(users->fd) < 0;
    return r;
}

/* Most of the file is of credentials that were set anew, or deleted. It can wait. */
static void tidy(struct kq_users *users)
{
    if (users->length < WASTE_BYTES || users->length / 2 < users->used)
        return;
    int r = rewrite(users);
    if (r < 0) {
        users->used = users->length; /* to be tried when it has doubled */
        kq_diag_limited(10000, LOG_WARNING, "cannot write " KQ_USERS_FILE " anew: %s",
                        strerror(-r));
    }
}

/* --- Altering --- */

static bool has(struct kq_users *users, const struct kq_user_change *change)
{
    const struct user *user = find(users, change->name);
    return user && user->credentials[change->hash].iterations;
}

static int check(struct kq_users *users, const struct kq_user_change *changes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!kq_user_name_valid(changes[i].name) || changes[i].hash >= KQ_SCRAM_HASHES ||
            (changes[i].credential && !kq_credential_valid(changes[i].credential)))
            return -EINVAL;
        if (!changes[i].credential && !has(users, &changes[i]))
            return -ENOENT;
    }
    return 0;
}

int kq_users_alter_held(struct kq_users *users, const struct kq_user_change *changes, size_t count)
{
    int r = check(users, changes, count);
    if (r < 0)
        return r;
    pthread_rwlock_wrlock(&users->lock);
    r = make(users, changes, count, users->max_users);
    if (r < 0)
        drop_empty(users, changes, count);
    pthread_rwlock_unlock(&users->lock);
    if (r < 0)
        return r;
    r = write_changes(users, changes, count);
    pthread_rwlock_wrlock(&users->lock);
    if (r == 0)
        put(users, changes, count);
    else
        drop_empty(users, changes, count);
    users->used = (int64_t)HASH_CNT(by_name, users->by_name) * 512;
    pthread_rwlock_unlock(&users->lock);
    if (r == 0)
        tidy(users);
    else
        kq_diag_limited(10000, LOG_ERR, "cannot write " KQ_USERS_FILE ": %s; the users stay",
                        strerror(-r));
    return r;
}

void kq_users_hold(struct kq_users *users)
{
    pthread_mutex_lock(&users->change);
}

void kq_users_let_go(struct kq_users *users)
{
    pthread_mutex_unlock(&users->change);
}

int kq_users_alter(struct kq_users *users, const struct kq_user_change *changes, size_t count)
{
    kq_users_hold(users);
    int r = kq_users_alter_held(users, changes, count);
    kq_users_let_go(users);
    return r;
}

int kq_user_may_list(struct kq_broker *broker, const struct kq_caller *caller)
{
    return kq_authorize(broker, caller, KQ_RIGHT_LIST, NULL, NULL);
}

int kq_user_may_alter(struct kq_broker *broker, const struct kq_caller *caller)
{
    return kq_authorize(broker, caller, KQ_RIGHT_CHANGE_ATTRIBUTES, NULL, NULL);
}

int kq_user_alter(struct kq_broker *broker, const struct kq_caller *caller,
                  const struct kq_user_change *changes, size_t count)
{
    int r = kq_user_may_alter(broker, caller);
    return r < 0 || count == 0 ? r : kq_users_alter(broker->users, changes, count);
}

/* --- Reading --- */

static int take_line(struct kq_users *users, const char *line, size_t length)
{
    char name[KQ_USER_NAME_BYTES + 1];
    struct kq_scram_credential credential = {0};
    struct kq_user_change change = {.name = name};
    bool set = length > 4 && memcmp(line, "set ", 4) == 0;
    size_t word = set ? 4 : 7;
    if (!set && (length < 7 || memcmp(line, "delete ", 7) != 0))
        return -EBADMSG;
    const char *blank = memchr(line + word, ' ', length - word);
    if (!blank || !kq_user_name_read(line + word, (size_t)(blank - line) - word, name))
        return -EBADMSG;
    const char *rest = blank + 1;
    size_t left = length - (size_t)(rest - line);
    if (set && kq_credential_parse(rest, left, &change.hash, &credential) < 0)
        return -EBADMSG;
    if (!set) {
        bool first = left == strlen(kq_scram_name(KQ_SCRAM_SHA_256)) &&
                     memcmp(rest, kq_scram_name(KQ_SCRAM_SHA_256), left) == 0;
        change.hash = first ? KQ_SCRAM_SHA_256 : KQ_SCRAM_SHA_512;
        if (left != strlen(kq_scram_name(change.hash)) ||
            memcmp(rest, kq_scram_name(change.hash), left) != 0)
            return -EBADMSG;
    }
    change.credential = set ? &credential : NULL;
    /* Those that are there stay, also where the setting allows fewer by now. */
    int r = make(users, &change, 1, UINT32_MAX);
    if (r == 0)
        put(users, &change, 1);
    explicit_bzero(&credential, sizeof(credential));
    return r;
}

static int take_head(struct kq_users *users, const char *line, size_t length)
{
    size_t head = strlen(HEAD);
    bool good = length == head + 2 * sizeof(users->secret) && memcmp(line, HEAD, head) == 0 &&
                kq_hex_read(line + head, sizeof(users->secret), users->secret);
    return good ? 0 : -EBADMSG;
}

/* The lines from AT to END, which a commit follows. */
static int take_block(struct kq_users *users, const char *at, const char *end, bool first)
{
    int r = 0;
    while (at < end && r == 0) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)(newline - at);
        r = first ? take_head(users, at, length) : take_line(users, at, length);
        first = false;
        at = newline + 1;
    }
    return r;
}

static bool is_commit(const char *line, size_t length, const char *from)
{
    uint8_t crc[4];
    size_t word = strlen(COMMIT);
    if (length != COMMIT_BYTES - 1 || !kq_hex_read(line + word, sizeof(crc), crc))
        return false;
    return kq_load_be32(crc) == kq_crc32c(0, from, (size_t)(line - from));
}

/* What is committed; *RET_LENGTH bytes of the file. */
static int take_all(struct kq_users *users, const struct kq_buf *bytes, int64_t *ret_length)
{
    const char *start = (const char *)bytes->data, *end = start + bytes->length, *from = start;
    const char *newline;
    for (const char *at = start; at < end && (newline = memchr(at, '\n', (size_t)(end - at)));
         at = newline + 1) {
        size_t length = (size_t)(newline - at);
        if (length < strlen(COMMIT) || memcmp(at, COMMIT, strlen(COMMIT)) != 0)
            continue;
        bool good = is_commit(at, length, from);
        /* A disk that lost its power may have written the end of a change before its middle. */
        if (!good && newline + 1 == end && from > start) {
            kq_diag(LOG_WARNING, "the last change in " KQ_USERS_FILE
                                 " is not whole and is left out: look at its users, and set again "
                                 "what is missing");
            break;
        }
        int r = good ? take_block(users, from, at, from == start) : -EBADMSG;
        if (r < 0)
            return r;
        from = newline + 1;
    }
    *ret_length = from - start;
    return from == start ? -EBADMSG : 0;
}

static void forget_all(struct kq_users *users)
{
    struct user *user;
    while ((user = users->by_name))
        forget(users, user);
}

static int start_new(struct kq_users *users)
{
    if (getrandom(users->secret, sizeof(users->secret), 0) != sizeof(users->secret))
        return -EIO;
    return rewrite(users);
}

static int put_aside(struct kq_users *users)
{
    forget_all(users);
    int r = kq_io_rename(users->dirfd, KQ_USERS_FILE, users->dirfd, DAMAGED);
    if (r < 0)
        return r;
    kq_diag(LOG_ERR, KQ_USERS_FILE " is damaged and is now called " DAMAGED
                                   ": nobody can log in with a password until kqfs passwd or "
                                   "kafka-configs has set it again");
    return start_new(users);
}

static int read_file(struct kq_users *users)
{
    autowipe struct kq_buf bytes = {0};
    struct stat st;
    int r = fstatat(users->dirfd, KQ_USERS_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
    if (r == 0)
        r = kq_buf_reserve(&bytes, (size_t)kq_min64(st.st_size, KQ_USERS_FILE_BYTES) + 1);
    if (r == 0)
        r = kq_io_slurp(users->dirfd, KQ_USERS_FILE, KQ_USERS_FILE_BYTES, &bytes);
    if (r == -ENOENT)
        return start_new(users);
    if (r == 0)
        r = take_all(users, &bytes, &users->length);
    if (r == -EBADMSG || r == -EFBIG)
        return put_aside(users);
    if (r < 0)
        return r;
    users->fd = kq_io_open(users->dirfd, KQ_USERS_FILE, O_RDWR | O_NOFOLLOW, 0);
    if (users->fd < 0)
        return users->fd;
    users->used = (int64_t)HASH_CNT(by_name, users->by_name) * 512;
    return (size_t)users->length < bytes.length ? kq_io_truncate(users->fd, users->length) : 0;
}

/* --- Asking --- */

static void copy_facts(const struct user *user, struct kq_user_facts *ret)
{
    ret->number = user->number;
    for (int i = 0; i < KQ_SCRAM_HASHES; i++)
        ret->iterations[i] = user->credentials[i].iterations;
}

int kq_user_find(struct kq_users *users, const char *name, enum kq_scram_hash hash,
                 struct kq_scram_credential *ret)
{
    pthread_rwlock_rdlock(&users->lock);
    const struct user *user = find(users, name);
    bool found = user && user->credentials[hash].iterations;
    if (found)
        *ret = user->credentials[hash];
    pthread_rwlock_unlock(&users->lock);
    return found ? 0 : -ENOENT;
}

void kq_users_secret(struct kq_users *users, uint8_t ret[KQ_USERS_SECRET_BYTES])
{
    memcpy(ret, users->secret, sizeof(users->secret));
}

int kq_user_facts(struct kq_users *users, const char *name, struct kq_user_facts *ret)
{
    pthread_rwlock_rdlock(&users->lock);
    const struct user *user = find(users, name);
    bool found = user && !is_empty(user);
    if (found)
        copy_facts(user, ret);
    pthread_rwlock_unlock(&users->lock);
    return found ? 0 : -ENOENT;
}

int kq_user_by_number(struct kq_users *users, uint64_t number, struct kq_user_facts *ret,
                      char ret_name[KQ_USER_NAME_BYTES + 1])
{
    struct user *user;
    pthread_rwlock_rdlock(&users->lock);
    HASH_FIND(by_number, users->by_number, &number, sizeof(number), user);
    bool found = user && !is_empty(user);
    if (found) {
        copy_facts(user, ret);
        memcpy(ret_name, user->name, strlen(user->name) + 1);
    }
    pthread_rwlock_unlock(&users->lock);
    return found ? 0 : -ENOENT;
}

int kq_user_each(struct kq_users *users,
                 int (*step)(void *context, const char *name, const struct kq_user_facts *facts),
                 void *context)
{
    int r = 0;
    pthread_rwlock_rdlock(&users->lock);
    for (const struct user *user = users->by_name; user && r >= 0; user = user->by_name.next) {
        struct kq_user_facts facts;
        copy_facts(user, &facts);
        if (!is_empty(user))
            r = step(context, user->name, &facts);
    }
    pthread_rwlock_unlock(&users->lock);
    return r < 0 ? r : 0;
}

/* --- Opening and closing --- */

static int format_metrics(struct kq_metric_source *source, struct kq_buf *ret)
{
    struct kq_users *users =
        (struct kq_users *)((char *)source - offsetof(struct kq_users, metrics));
    pthread_rwlock_rdlock(&users->lock);
    unsigned count = HASH_CNT(by_name, users->by_name);
    pthread_rwlock_unlock(&users->lock);
    int r = kq_metrics_head(ret, "kqfs_users", "Users that have a password.", KQ_GAUGE);
    return r < 0 ? r : kq_buf_printf(ret, "kqfs_users %u\n", count);
}

int kq_users_open(uint32_t max_users, int dirfd, struct kq_users **ret)
{
    struct kq_users *users = kq_zalloc(sizeof(*users));
    if (!users)
        return -ENOMEM;
    users->dirfd = dirfd;
    users->fd = -1;
    users->max_users = max_users ? max_users : MAX_USERS;
    pthread_mutex_init(&users->change, NULL);
    pthread_rwlock_init(&users->lock, NULL);
    users->metrics.format = format_metrics;
    kq_metric_source_add(&users->metrics);
    int r = read_file(users);
    if (r < 0) {
        kq_diag(LOG_ERR, "cannot read or write " KQ_USERS_FILE ": %s", strerror(-r));
        kq_users_close(users);
        return r;
    }
    *ret = users;
    return 0;
}

void kq_users_close(struct kq_users *users)
{
    if (!users)
        return;
    kq_metric_source_remove(&users->metrics);
    forget_all(users);
    if (users->fd >= 0)
        close(users->fd);
    pthread_rwlock_destroy(&users->lock);
    pthread_mutex_destroy(&users->change);
    explicit_bzero(users->secret, sizeof(users->secret));
    free(users);
}
