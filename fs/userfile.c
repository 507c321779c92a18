#include "fs/userfile.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"

#define NAME_MOST 255 /* NAME_MAX */
#define FILE_NAME_BYTES (3 * KQ_USER_NAME_BYTES + 1)
#define REPORT_MS 1000

#define ACL_HEAD 4 /* linux/posix_acl_xattr.h: a version, then entries of tag, bits and id */
#define ACL_ENTRY 8
#define ACL_BITS_AT 2
#define BIT_READ 4
#define BIT_EXECUTE 1

/* --- Names --- */

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Returns the length of what goes into RET. */
static size_t write_file_name(const char *name, char ret[FILE_NAME_BYTES])
{
    bool dots = is_dots(name);
    char *to = ret;
    for (const char *at = name; *at; at++)
        if (dots || *at == '/' || *at == '%')
            to += sprintf(to, "%%%02x", (unsigned char)*at);
        else
            *to++ = *at;
    *to = '\0';
    return (size_t)(to - ret);
}

/* One name leads to a user, not every way to write it. */
static int read_file_name(const char *name, char ret[KQ_USER_NAME_BYTES + 1])
{
    char again[FILE_NAME_BYTES];
    if (!kq_user_name_read(name, strlen(name), ret))
        return -ENOENT;
    write_file_name(ret, again);
    return strcmp(again, name) == 0 ? 0 : -ENOENT;
}

int kq_user_named(struct kq_fs *fs, const char *name, int64_t *ret)
{
    char user[KQ_USER_NAME_BYTES + 1];
    struct kq_user_facts facts;
    int r = read_file_name(name, user);
    if (r == 0)
        r = kq_user_facts(kq_broker_users(fs->broker), user, &facts);
    if (r == 0)
        *ret = (int64_t)facts.number;
    return r;
}

static int list_one(void *context, const char *name, const struct kq_user_facts *facts)
{
    char file[FILE_NAME_BYTES];
    size_t length = write_file_name(name, file);
    return length <= NAME_MOST ? kq_buf_append(context, file, length + 1) : 0;
}

int kq_user_list(struct kq_fs *fs, struct kq_buf *names)
{
    return kq_user_each(kq_broker_users(fs->broker), list_one, names);
}

/* --- Owner, mode and ACL --- */

/* The file: `r` of the root. The directory: `x` with it, since that is what opens the files; and
 * its owner may take users away. */
static unsigned bits_of(bool directory, unsigned root)
{
    if (!(root & BIT_READ))
        return 0;
    return directory ? BIT_READ | BIT_EXECUTE : BIT_READ;
}

static void show_list(struct kq_attributes *attributes, bool directory)
{
    mode_t mode = 0;
    for (unsigned shift = 0; shift <= 6; shift += 3)
        mode |= bits_of(directory, attributes->mode >> shift & 7) << shift;
    attributes->mode = directory ? mode | 0300 : mode;
    for (size_t at = ACL_HEAD; at + ACL_ENTRY <= attributes->acl_length; at += ACL_ENTRY) {
        uint8_t *bits = &attributes->acl[at + ACL_BITS_AT];
        bool owner = at == ACL_HEAD; /* its entry is the first */
        *bits = (bits_of(directory, *bits) | (owner && directory ? 3 : 0)) & 0xff;
    }
}

int kq_user_node_attributes(struct kq_fs *fs, const struct kq_node *node, struct kq_attributes *ret)
{
    int r = kq_attributes_get(fs->broker, NULL, NULL, ret);
    if (r < 0)
        return r;
    free(ret->default_acl);
    ret->default_acl = NULL;
    ret->default_acl_length = 0;
    if (node->view != KQ_VIEW_PASSWD) {
        show_list(ret, node->view == KQ_VIEW_USERS);
        return 0;
    }
    free(ret->acl);
    ret->acl = NULL;
    ret->acl_length = 0;
    ret->mode = 0200;
    return 0;
}

/* --- Files of users --- */

int kq_user_text(struct kq_fs *fs, const struct kq_node *node, struct kq_buf *ret)
{
    char name[KQ_USER_NAME_BYTES + 1];
    struct kq_user_facts facts;
    if (kq_user_by_number(kq_broker_users(fs->broker), (uint64_t)node->offset, &facts, name) < 0)
        return -ESTALE;
    int r = 0;
    for (int i = 0; i < KQ_SCRAM_HASHES && r == 0; i++)
        if (facts.iterations[i])
            r = kq_buf_printf(ret, "%s iterations=%d\n", kq_scram_name((enum kq_scram_hash)i),
                              (int)facts.iterations[i]);
    return r;
}

int kq_user_remove(struct kq_fs *fs, const struct kq_caller *caller, const char *name)
{
    char user[KQ_USER_NAME_BYTES + 1];
    kq_autobuf struct kq_buf text = {0};
    struct kq_caller unchecked =
        *caller; /* the kernel has compared what is shown here, not the root */
    unchecked.kernel_checked = false;
    int r = read_file_name(name, user);
    if (r == 0)
        r = kq_buf_append_string(&text, "delete ");
    if (r == 0)
        r = kq_user_name_append(&text, user);
    if (r == 0)
        r = kq_buf_append_string(&text, "\n");
    if (r < 0)
        return r;
    return kq_user_alter_text(fs->broker, &unchecked, (const char *)text.data, text.length);
}

/* --- .kqfs/passwd --- */

struct kq_passwd_file {
    struct kq_fs *fs;
    pthread_mutex_t lock;
    int failed;    /* 0, or what every further write is told */
    size_t length; /* of the half line */
    char half[KQ_USER_LINE_BYTES];
};

int kq_passwd_file_new(struct kq_fs *fs, struct kq_passwd_file **ret)
{
    struct kq_passwd_file *file = kq_zalloc(sizeof(*file));
    if (!file)
        return -ENOMEM;
    file->fs = fs;
    pthread_mutex_init(&file->lock, NULL);
    *ret = file;
    return 0;
}

static void drop_half(struct kq_passwd_file *file)
{
    explicit_bzero(file->half, sizeof(file->half));
    file->length = 0;
}

void kq_passwd_file_free(struct kq_passwd_file *file)
{
    if (!file)
        return;
    drop_half(file);
    pthread_mutex_destroy(&file->lock);
    free(file);
}

static const char *remedy_of(int r)
{
    switch (-r) {
    case EINVAL:
    case EMSGSIZE:
        return "it takes whole lines as `kqfs passwd` writes them";
    case EPERM:
    case EACCES:
        return "only root and the owner of the mount's root may write to it";
    case EDQUOT:
        return "there are as many users as max_users allows";
    case ENOENT:
        return "who is to be deleted is not there";
    default:
        return "try again";
    }
}

/* The half line and LENGTH bytes, which end with a newline. */
static int alter(struct kq_passwd_file *file, const struct kq_caller *caller, const char *bytes,
                 size_t length)
{
    size_t whole = file->length + length;
    char *text = kq_alloc(whole);
    if (!text)
        return -ENOMEM;
    memcpy(text, file->half, file->length);
    memcpy(text + file->length, bytes, length);
    int r = kq_user_alter_text(file->fs->broker, caller, text, whole);
    explicit_bzero(text, whole);
    free(text);
    return r;
}

static int take(struct kq_passwd_file *file, const struct kq_caller *caller, const char *bytes,
                size_t size)
{
    const char *newline = memrchr(bytes, '\n', size);
    size_t whole = newline ? (size_t)(newline - bytes) + 1 : 0, rest = size - whole;
    if ((newline ? rest : file->length + rest) >= sizeof(file->half))
        return -EMSGSIZE;
    int r = newline ? alter(file, caller, bytes, whole) : 0;
    if (r < 0)
        return r;
    if (newline)
        drop_half(file);
    memcpy(file->half + file->length, bytes + whole, rest);
    file->length += rest;
    return 0;
}

int kq_passwd_file_write(struct kq_passwd_file *file, const struct kq_caller *caller,
                         const char *bytes, size_t size)
{
    pthread_mutex_lock(&file->lock);
    int r = file->failed;
    if (r == 0) {
        r = take(file, caller, bytes, size);
        if (r < 0) {
            drop_half(file);
            kq_diag_limited(REPORT_MS, LOG_WARNING, ".kqfs/passwd: %s, nothing was changed: %s",
                            strerror(-r), remedy_of(r));
        }
        file->failed = r;
    }
    pthread_mutex_unlock(&file->lock);
    return r;
}

int kq_passwd_file_flush(struct kq_passwd_file *file)
{
    if (pthread_mutex_trylock(&file->lock) != 0)
        return 0; /* somebody writes on */
    int r = file->length > 0 ? -EINVAL : 0;
    pthread_mutex_unlock(&file->lock);
    if (r < 0)
        kq_diag_limited(REPORT_MS, LOG_WARNING, ".kqfs/passwd: half a line does nothing: %s",
                        remedy_of(r));
    return r;
}
