#include "broker/helper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/helper_internal.h"

#define TOPIC_BYTES_MAX 249

static atomic_int serving = -1; /* the socket */

/* --- What may be asked --- */

static bool is_topic(const char *name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strspn(name, allowed);
    return length >= 1 && length <= TOPIC_BYTES_MAX && !name[length] && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

/* Terminated, and with nothing behind the end. */
static bool is_clean(const char name[KQ_HELPER_NAME_BYTES])
{
    size_t length = strnlen(name, KQ_HELPER_NAME_BYTES);
    for (size_t i = length; i < KQ_HELPER_NAME_BYTES; i++)
        if (name[i])
            return false;
    return length < KQ_HELPER_NAME_BYTES;
}

bool kq_helper_request_is_valid(const struct kq_helper_request *request, size_t length)
{
    if (length != sizeof(*request) || !is_clean(request->name))
        return false;
    bool plain = request->partition == 0 && request->size == 0;
    switch (request->act) {
    case KQ_HELPER_MOUNT:
    case KQ_HELPER_UNMOUNT:
        return plain && !request->name[0];
    case KQ_HELPER_OPEN:
        return plain && request->name[0] == '/';
    case KQ_HELPER_MODIFIED:
        return request->partition >= 0 && request->size >= 0 && is_topic(request->name);
    default:
        return false;
    }
}

/* --- Files --- */

/* Could the broker make DIRECTORY lead elsewhere? */
static bool is_the_brokers(const struct kq_helper *helper, const char *directory)
{
    struct stat about;
    if (stat(directory, &about) < 0)
        return false; /* neither does it lead anywhere */
    bool sticky = about.st_mode & S_ISVTX;
    return about.st_uid == helper->uid || (about.st_mode & S_IWOTH && !sticky) ||
           (about.st_mode & S_IWGRP && about.st_gid == helper->gid && !sticky);
}

/* Is there a directory on the way to PATH that the broker may write to? It could put a link to any
 * file of root's there. */
static bool leads_astray(const struct kq_helper *helper, const char *path)
{
    char part[KQ_HELPER_NAME_BYTES];
    for (size_t i = 1; path[i]; i++) {
        if (path[i] != '/')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (is_the_brokers(helper, part))
            return true;
    }
    return false;
}

/* Neither by PATH nor, links followed, by where FD is. */
static bool is_out_of_reach(const struct kq_helper *helper, const char *path, int fd)
{
    char link[32], real[KQ_HELPER_NAME_BYTES];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, real, sizeof(real));
    if (n < 0 || (size_t)n >= sizeof(real))
        return false;
    real[n] = '\0';
    return !leads_astray(helper, path) && !leads_astray(helper, real);
}

static int open_file(const struct kq_helper *helper, const char *path)
{
    bool known = false;
    for (size_t i = 0; i < helper->file_count && !known; i++)
        known = strcmp(helper->files[i], path) == 0;
    if (!known) {
        kq_diag(LOG_ERR, "the broker asked for %.200s, which no setting names: refused", path);
        return -EACCES;
    }
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -errno;
    int r = fstat(fd, &about) < 0 ? -errno : 0;
    if (r == 0 && !S_ISREG(about.st_mode))
        r = -EINVAL;
    else if (r == 0 && about.st_uid != helper->uid && !is_out_of_reach(helper, path, fd)) {
        kq_diag(LOG_ERR,
                "%s: the broker's user may change a directory on the way: move the file "
                "below directories of root, or give it to that user",
                path);
        r = -EPERM;
    }
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

/* --- Serving --- */

/* 0 or a descriptor to be sent and closed; -errno. */
static int act(struct kq_helper *helper, const struct kq_helper_request *request,
               struct kq_helper_answer *answer)
{
    switch (request->act) {
    case KQ_HELPER_MOUNT:
        return kq_helper_mount(helper, &answer->device);
    case KQ_HELPER_UNMOUNT:
        return kq_helper_unmount(helper);
    case KQ_HELPER_OPEN:
        return open_file(helper, request->name);
    default:
        return kq_helper_modified(helper, request);
    }
}

static int answer_with(int socket, const struct kq_helper_answer *answer, int fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)answer, .iov_len = sizeof(*answer)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd > 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    }
    ssize_t n;
    do
        n = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

/* One request. 1; 0: the broker has gone; -EPROTO. */
static int serve_one(struct kq_helper *helper, int socket)
{
    struct kq_helper_request request;
    struct iovec part = {.iov_base = &request, .iov_len = sizeof(request)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR)
        return 1;
    if (n <= 0)
        return 0;
    /* No descriptor is ever taken: what was sent with one is MSG_CTRUNC here, and closed. */
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
        !kq_helper_request_is_valid(&request, (size_t)n)) {
        kq_diag(LOG_ERR, "the broker sent its helper what no broker sends: it is broken or taken "
                         "over; unmounting");
        return -EPROTO;
    }
    struct kq_helper_answer answer = {.pid = getpid()};
    int fd = act(helper, &request, &answer);
    answer.result = fd < 0 ? fd : 0;
    int r = answer_with(socket, &answer, fd);
    if (fd > 0)
        close(fd); /* the broker's end of /dev/fuse must be the only one: it says when it is gone */
    return r < 0 ? 0 : 1;
}

void kq_helper_stop(void)
{
    int saved = errno, socket = serving;
    if (socket >= 0)
        shutdown(socket, SHUT_RD);
    errno = saved;
}

int kq_helper_serve(struct kq_helper *helper, int fd)
{
    int r;
    serving = fd;
    do
        r = serve_one(helper, fd);
    while (r > 0);
    serving = -1;
    close(fd); /* a broker that still lives hears that it is alone */
    int unmounted = kq_helper_unmount(helper);
    if (unmounted < 0)
        kq_diag(LOG_ERR, "%s: cannot unmount: %s; run `umount -l %s`", helper->mountpoint,
                strerror(-unmounted), helper->mountpoint);
    return r < 0 ? r : 0;
}

/* --- Its life --- */

static int copy_files(struct kq_helper *helper, const struct kq_helper_options *options)
{
    helper->files = kq_zalloc((options->file_count + 1) * sizeof(*helper->files));
    if (!helper->files)
        return -ENOMEM;
    for (size_t i = 0; i < options->file_count; i++) {
        helper->files[i] = kq_strdup(options->files[i]);
        if (!helper->files[i])
            return -ENOMEM;
        helper->file_count++;
    }
    return 0;
}

static int open_place(struct kq_helper *helper, const char *mountpoint)
{
    if (!mountpoint)
        return 0;
    helper->mountpoint = kq_strdup(mountpoint);
    if (!helper->mountpoint)
        return -ENOMEM;
    helper->place = open(mountpoint, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (helper->place >= 0)
        return 0;
    int error = errno;
    kq_diag(LOG_ERR, "%s: %s; choose a directory to mount on", mountpoint, strerror(error));
    return -error;
}

int kq_helper_new(const struct kq_helper_options *options, struct kq_helper **ret)
{
    struct kq_helper *helper = kq_zalloc(sizeof(*helper));
    if (!helper)
        return -ENOMEM;
    helper->place = -1;
    helper->uid = options->uid;
    helper->gid = options->gid;
    int r = kq_helper_mount_plan(options, &helper->plan);
    if (r == 0)
        r = copy_files(helper, options);
    if (r == 0)
        r = open_place(helper, options->mountpoint);
    if (r < 0)
        kq_helper_free(helper);
    else
        *ret = helper;
    return r;
}

void kq_helper_free(struct kq_helper *helper)
{
    if (!helper)
        return;
    for (size_t i = 0; i < helper->file_count; i++)
        free(helper->files[i]);
    free(helper->files);
    if (helper->place >= 0)
        close(helper->place);
    kq_helper_mount_release(&helper->plan);
    free(helper->mountpoint);
    free(helper);
}
