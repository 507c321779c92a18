/* Credentials as text, whatever it says: lines that alter users, and the file of the users. What
 * was taken is there again, the same, when the file is read anew; what was refused changed nothing.
 *
 * Input: what follows is (0) a text of .kqfs/passwd, (1) the file behind its first line, where a
 * NUL stands for a commit, (2) one credential. */
#include <fcntl.h>
#include <unistd.h>

#include "broker/base/crc32c.h"
#include "broker/base/diag.h"
#include "broker/internal.h"
#include "broker/userstore.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/directory.h"

#define MOST_USERS 5

static char directory[DIRECTORY_BYTES];
static struct kq_broker broker;

static int allow(void *context, const struct kq_caller *caller, unsigned rights,
                 const struct kq_authz_object *object)
{
    return 0;
}

static void end(void)
{
    close(broker.dirfd);
    directory_remove(directory);
}

static void begin(void)
{
    kq_diag_set_level(LOG_EMERG);
    directory_make(directory, "/dev/shm");
    MUST(atexit(end) == 0);
    pthread_rwlock_init(&broker.attributes_lock, NULL);
    broker.options.authz = (struct kq_authz){.check = allow};
    broker.dirfd = open(directory, O_RDONLY | O_DIRECTORY);
    MUST(broker.dirfd >= 0);
}

/* --- What there is, as a number that no order changes --- */

struct names {
    struct kq_buf bytes;
    size_t count;
};

static int take_name(void *context, const char *name, const struct kq_user_facts *facts)
{
    struct names *names = context;
    names->count++;
    return kq_buf_append(&names->bytes, name, strlen(name) + 1);
}

static uint64_t sum_of(const char *name)
{
    uint64_t sum = 0;
    for (int hash = 0; hash < KQ_SCRAM_HASHES; hash++) {
        struct kq_scram_credential credential;
        if (kq_user_find(broker.users, name, (enum kq_scram_hash)hash, &credential) < 0)
            continue;
        MUST(kq_credential_valid(&credential));
        uint32_t crc = kq_crc32c((uint32_t)hash, name, strlen(name));
        sum += kq_crc32c(crc, &credential, sizeof(credential));
    }
    return sum;
}

static uint64_t sum_of_all(size_t *ret_count)
{
    struct names names = {.count = 0};
    uint64_t sum = 0;
    MUST(kq_user_each(broker.users, take_name, &names) == 0);
    for (size_t at = 0; at < names.bytes.length; at += strlen((char *)names.bytes.data + at) + 1) {
        const char *name = (const char *)names.bytes.data + at;
        MUST(kq_user_name_valid(name));
        sum += sum_of(name);
    }
    *ret_count = names.count;
    kq_buf_release(&names.bytes);
    return sum;
}

static void open_users(void)
{
    MUST(kq_users_open(MOST_USERS, broker.dirfd, &broker.users) == 0);
}

static void must_come_back(void)
{
    size_t before, after;
    uint64_t sum = sum_of_all(&before);
    kq_users_close(broker.users);
    open_users();
    MUST(sum_of_all(&after) == sum && before == after);
    kq_users_close(broker.users);
}

/* --- The three of them --- */

static void alter(const char *text, size_t length)
{
    static const struct kq_caller caller = {.uid = 1};
    static const char one[] = "set a SCRAM-SHA-256 iterations=4096 salt=00 stored-key="
                              "0000000000000000000000000000000000000000000000000000000000000000 "
                              "server-key="
                              "0000000000000000000000000000000000000000000000000000000000000000\n";
    size_t before, after;
    unlinkat(broker.dirfd, KQ_USERS_FILE, 0);
    open_users();
    MUST(kq_user_alter_text(&broker, &caller, one, strlen(one)) == 0);
    uint64_t sum = sum_of_all(&before);
    int r = kq_user_alter_text(&broker, &caller, text, length);
    MUST(r == 0 || r == -EINVAL || r == -ENOENT || r == -EDQUOT);
    MUST((r == 0) || (sum_of_all(&after) == sum && before == after));
    must_come_back();
}

static void append_commit(struct kq_buf *file, size_t *from)
{
    uint32_t crc = kq_crc32c(0, file->data + *from, file->length - *from);
    MUST(kq_buf_printf(file, "commit %08x\n", crc) == 0);
    *from = file->length;
}

static void read_file(const char *text, size_t length)
{
    struct kq_buf file = {0};
    size_t from = 0;
    MUST(kq_buf_printf(&file, "kqfs-users 1 secret=%064d\n", 0) == 0);
    append_commit(&file, &from);
    for (size_t i = 0; i < length; i++) {
        if (text[i])
            MUST(kq_buf_append(&file, text + i, 1) == 0);
        else
            append_commit(&file, &from);
    }
    int fd = openat(broker.dirfd, KQ_USERS_FILE, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0 && write(fd, file.data, file.length) == (ssize_t)file.length);
    close(fd);
    kq_buf_release(&file);
    open_users();
    must_come_back();
}

static void read_credential(const char *text, size_t length)
{
    struct kq_scram_credential first, second;
    enum kq_scram_hash hash, again;
    struct kq_buf line = {0};
    if (kq_credential_parse(text, length, &hash, &first) < 0)
        return;
    MUST(hash < KQ_SCRAM_HASHES && kq_credential_valid(&first));
    MUST(kq_credential_format(hash, &first, &line) == 0);
    MUST(kq_credential_parse((char *)line.data, line.length - 1, &again, &second) == 0);
    MUST(hash == again && memcmp(&first, &second, sizeof(first)) == 0);
    kq_buf_release(&line);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length == 0)
        return 0;
    if (!directory[0])
        begin();
    char *text = (char *)fuzz_copy(bytes + 1, length - 1);
    switch (bytes[0] % 3) {
    case 0:
        alter(text, length - 1);
        break;
    case 1:
        read_file(text, length - 1);
        break;
    default:
        read_credential(text, length - 1);
    }
    free(text);
    return 0;
}
