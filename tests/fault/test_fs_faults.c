/* Requests of the mount without memory: for each, every allocation that it makes fails in turn. The
 * answer is the right one or ENOMEM, what was refused has not happened, and what was acknowledged
 * before is there.
 *
 * Each round has a mount and a thread of its own, so that nothing is at hand from the round before;
 * what leaks, the address sanitizer says. */
#include "tests/unit/kernel.h"

#include <poll.h>

#include "broker/base/fault.h"
#include "broker/users.h"

#define APPEND (O_WRONLY | O_APPEND)
#define BEFORE "one\ntwo\n" /* in p0 */

struct round {
    struct kernel *kernel;
    const struct act *act;
    long nth;
    bool sticky;
    uint64_t node, fh; /* of what prepare opened */
    int result;        /* of the act */
    char text[4096];   /* that was read so far */
    bool delivered;
};

struct act {
    const char *name;
    void (*prepare)(struct round *round); /* without faults; may be NULL */
    int (*run)(struct round *round);      /* with; 0 or more, or -errno */
    void (*check)(struct round *round);   /* without, afterwards */
    const char *path;                     /* for those that many acts share */
    const char *text;
};

/* --- What many have in common --- */

static void assert_before(struct round *round)
{
    kernel_assert_text(round->kernel, "orders/p0", BEFORE);
}

static void open_path(struct round *round, const char *path, int flags)
{
    round->fh = kernel_open_path(round->kernel, path, flags, &round->node);
}

static void close_path(struct round *round)
{
    assert_int_equal(kernel_close(round->kernel, round->node, round->fh), 0);
}

static void know_directories(struct round *round)
{
    kernel_node(round->kernel, "orders/by-offset/p0");
}

/* --- Looking, opening, reading --- */

static int walk(struct round *round)
{
    uint64_t node = kernel_walk(round->kernel, round->act->path);
    int error = errno;
    if (node)
        kernel_forget(round->kernel, node);
    return node ? 0 : -error;
}

static void walk_again(struct round *round)
{
    assert_int_equal(walk(round), 0);
    assert_before(round);
}

static void know_path(struct round *round)
{
    round->node = kernel_node(round->kernel, round->act->path);
}

static int open_and_close(struct round *round)
{
    int r = kernel_open(round->kernel, round->node, O_RDONLY, &round->fh);
    if (r == 0)
        close_path(round);
    return r;
}

static void open_again(struct round *round)
{
    assert_int_equal(open_and_close(round), 0);
    assert_before(round);
}

static void open_to_read(struct round *round)
{
    open_path(round, round->act->path, O_RDONLY);
}

/* Both messages as JSON, which tells the time too. */
static void assert_lines(const char *text)
{
    const char *second = strchr(text, '\n');
    assert_non_null(second);
    assert_memory_equal(text, "{\"offset\":0,", 12);
    assert_memory_equal(second + 1, "{\"offset\":1,", 12);
    assert_string_equal(strchr(second + 1, '\n'), "\n");
}

/* Has the round read all that there is? */
static bool has_all(const struct round *round)
{
    const char *first = strchr(round->text, '\n');
    return round->act->text ? strcmp(round->text, round->act->text) == 0
                            : first && strchr(first + 1, '\n');
}

/* Reads on. A read that got something before memory was out is short, and the next one goes on. */
static int read_it(struct round *round)
{
    while (!has_all(round)) {
        size_t length = strlen(round->text);
        ssize_t n = kernel_read(round->kernel, round->node, round->fh, (int64_t)length,
                                round->text + length, sizeof(round->text) - length - 1);
        if (n <= 0)
            return n < 0 ? (int)n : -EPIPE;
    }
    return 0;
}

/* The handle is as good as before; a stream goes on where it was. */
static void read_again(struct round *round)
{
    assert_int_equal(read_it(round), 0);
    if (!round->act->text)
        assert_lines(round->text);
    close_path(round);
    assert_before(round);
}

/* --- Listing --- */

/* Appends the names behind *OFFSET, which moves on. The bytes that there were; -errno. */
static int list_more(struct round *round, uint32_t opcode, uint64_t *offset, char *names)
{
    struct fuse_read_in in = {.fh = round->fh, .offset = *offset, .size = 8192};
    char bytes[8192];
    ssize_t n = kernel_call(round->kernel, opcode, round->node, &in, sizeof(in), NULL, 0, bytes,
                            sizeof(bytes));
    for (ssize_t at = 0; at < n;) {
        const struct fuse_direntplus *plus = (const void *)(bytes + at);
        const struct fuse_dirent *entry =
            opcode == FUSE_READDIRPLUS ? &plus->dirent : (const void *)plus;
        sprintf(names + strlen(names), "%.*s ", (int)entry->namelen, entry->name);
        *offset = entry->off;
        if (opcode == FUSE_READDIRPLUS && plus->entry_out.nodeid)
            kernel_forget(round->kernel, plus->entry_out.nodeid);
        at += (ssize_t)(opcode == FUSE_READDIRPLUS ? FUSE_DIRENTPLUS_SIZE(plus)
                                                   : FUSE_DIRENT_SIZE(entry));
    }
    return (int)n;
}

static int list(struct round *round, uint32_t opcode, char *names)
{
    uint64_t offset = 0;
    int n;
    names[0] = '\0';
    do {
        n = list_more(round, opcode, &offset, names);
    } while (n > 0);
    return n;
}

static int open_directory(struct round *round)
{
    struct fuse_open_in in = {0};
    struct fuse_open_out out;
    ssize_t n = kernel_call(round->kernel, FUSE_OPENDIR, round->node, &in, sizeof(in), NULL, 0,
                            &out, sizeof(out));
    round->fh = out.fh;
    return n < 0 ? (int)n : 0;
}

static void close_directory(struct round *round)
{
    struct fuse_release_in in = {.fh = round->fh};
    assert_int_equal(
        kernel_simple(round->kernel, FUSE_RELEASEDIR, round->node, &in, sizeof(in), NULL), 0);
}

static int list_all(struct round *round, uint32_t opcode)
{
    char names[1024];
    int r = open_directory(round);
    if (r < 0)
        return r;
    r = list(round, opcode, names);
    close_directory(round);
    if (r == 0)
        assert_string_equal(names, round->act->text);
    return r;
}

static int readdir_it(struct round *round)
{
    return list_all(round, FUSE_READDIR);
}

static int readdirplus_it(struct round *round)
{
    return list_all(round, FUSE_READDIRPLUS);
}

static void list_again(struct round *round)
{
    assert_int_equal(readdir_it(round), 0);
    assert_before(round);
}

/* --- Writing --- */

static void open_to_write(struct round *round)
{
    open_path(round, round->act->path, APPEND);
}

static int write_it(struct round *round)
{
    return (int)kernel_write(round->kernel, round->node, round->fh, APPEND, round->act->text);
}

/* All or nothing; and the file takes more. */
static void check_written(struct round *round)
{
    char expected[256];
    bool json = strstr(round->act->path, "jsonl");
    const char *more = json ? "{\"value\":\"more\"}\n" : "more\n";
    assert_int_equal(kernel_write(round->kernel, round->node, round->fh, APPEND, more),
                     strlen(more));
    close_path(round);
    snprintf(expected, sizeof(expected), BEFORE "%smore\n", round->result < 0 ? "" : "a\nb\n");
    kernel_assert_text(round->kernel, "orders/p0", expected);
}

static void open_with_half_a_line(struct round *round)
{
    open_to_write(round);
    assert_int_equal(kernel_write(round->kernel, round->node, round->fh, APPEND, "a\nh"), 3);
}

/* A half line whose other half was refused is gone; what comes behind the next delimiter is not. */
static void check_completed(struct round *round)
{
    assert_int_equal(kernel_write(round->kernel, round->node, round->fh, APPEND, "\nmore\n"), 6);
    close_path(round);
    kernel_assert_text(round->kernel, "orders/p0",
                       round->result < 0 ? BEFORE "a\nmore\n" : BEFORE "a\nhalf\nb\nmore\n");
}

static int close_it(struct round *round)
{
    return kernel_close(round->kernel, round->node, round->fh);
}

/* A close cannot be refused: the half line is there. */
static void check_closed(struct round *round)
{
    assert_int_equal(round->result, 0);
    kernel_assert_text(round->kernel, "orders/p0", BEFORE "a\nh\n");
}

static void open_with_a_line(struct round *round)
{
    open_to_write(round);
    assert_int_equal(kernel_write(round->kernel, round->node, round->fh, APPEND, "a\n"), 2);
}

static int fsync_it(struct round *round)
{
    return kernel_fsync(round->kernel, round->node, round->fh);
}

static void check_synced(struct round *round)
{
    assert_int_equal(round->result, 0);
    close_path(round);
}

static void open_with_keys(struct round *round)
{
    struct kq_topic *topic = ground_find(&round->kernel->ground, "orders");
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "key.separator", ":"), 0);
    kq_topic_unref(topic);
    open_path(round, "orders/append", O_WRONLY);
}

/* Shares of several partitions may have been appended before the one that failed; none is cut, none
 * is there twice. */
static void check_keys(struct round *round)
{
    char text[256], both[512];
    close_path(round);
    assert_true(kernel_cat(round->kernel, "orders/p0", text, sizeof(text)) >= 0);
    snprintf(both, sizeof(both), "%s", text);
    assert_memory_equal(both, BEFORE, strlen(BEFORE));
    assert_true(kernel_cat(round->kernel, "orders/p1", text, sizeof(text)) >= 0);
    strcat(both, text);
    for (char key = 'a'; key <= 'e'; key++) {
        const char line[] = {key, ':', '1', '\n', '\0'};
        const char *found = strstr(both, line);
        assert_true(found || round->result < 0);
        assert_false(found && strstr(found + 1, line));
    }
}

/* --- Waiting --- */

static void open_stream_at_end(struct round *round)
{
    open_path(round, "orders/by-offset/p0/2.stream", O_RDONLY);
}

static int wait_for_message(struct round *round)
{
    struct fuse_read_in in = {.fh = round->fh, .size = 4096};
    char text[64];
    uint64_t unique = kernel_send(round->kernel, FUSE_READ, round->node, &in, sizeof(in), NULL, 0);
    round->delivered = kq_fault_disarm(); /* the fault is for the reader */
    assert_int_equal(kernel_append(round->kernel, "orders/p0", "new\n"), 0);
    ssize_t n = kernel_answer(round->kernel, unique, text, sizeof(text));
    if (n >= 0) {
        assert_int_equal(n, 4);
        assert_memory_equal(text, "new\n", 4);
    }
    return n < 0 ? (int)n : 0;
}

static void check_stream(struct round *round)
{
    char text[64];
    if (round->result < 0) {
        assert_int_equal(kernel_read(round->kernel, round->node, round->fh, 0, text, sizeof(text)),
                         4);
        assert_memory_equal(text, "new\n", 4);
    }
    close_path(round);
}

static int poll_it(struct round *round)
{
    return kernel_poll(round->kernel, round->node, round->fh, 7);
}

/* Woken by the message, or at once where nothing could be remembered. */
static void check_poll(struct round *round)
{
    assert_int_equal(round->result, 0);
    assert_int_equal(kernel_append(round->kernel, "orders/p0", "new\n"), 0);
    while (strcmp(kernel_notice(round->kernel), "poll 7") != 0)
        ;
    assert_int_equal(kernel_poll(round->kernel, round->node, round->fh, 0), POLLIN | POLLRDNORM);
    close_path(round);
}

/* --- Extended attributes --- */

#define RETENTION "user.kqfs.retention.ms"
#define ACL "system.posix_acl_access"

static int set_xattr(struct round *round, const char *name, const void *value, size_t size)
{
    const uint32_t in[2] = {(uint32_t)size, 0};
    char tail[256];
    size_t length = strlen(name) + 1;
    memcpy(tail, name, length);
    memcpy(tail + length, value, size);
    return (int)kernel_call(round->kernel, FUSE_SETXATTR, round->node, in, sizeof(in), tail,
                            length + size, NULL, 0);
}

static int set_retention(struct round *round)
{
    return set_xattr(round, RETENTION, "60000", 5);
}

static int get_xattr(struct round *round, const char *name, void *ret, uint32_t room)
{
    struct fuse_getxattr_in in = {.size = room};
    return (int)kernel_call(round->kernel, FUSE_GETXATTR, round->node, &in, sizeof(in), name,
                            strlen(name) + 1, ret, room);
}

static int get_retention(struct round *round)
{
    char value[32];
    int n = get_xattr(round, RETENTION, value, sizeof(value));
    if (n >= 0)
        assert_memory_equal(value, "604800000", 9);
    return n;
}

static void check_retention(struct round *round)
{
    char value[32] = "";
    assert_true(get_xattr(round, RETENTION, value, sizeof(value)) > 0);
    assert_string_equal(value, round->result < 0 ? "604800000" : "60000");
    assert_int_equal(set_retention(round), 0);
    assert_before(round);
}

static const uint8_t acl[] = {2,  0, 0, 0,                         //
                              1,  0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
                              2,  0, 6, 0, 7,    0,    0,    0,    //
                              4,  0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
                              16, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
                              32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};

static void know_setgid(struct round *round)
{
    const struct kq_attributes setgid = {.uid = 10, .gid = 4321, .mode = S_ISGID | 0750};
    struct kq_topic *topic = ground_find(&round->kernel->ground, "orders");
    assert_int_equal(
        kq_attributes_set(round->kernel->ground.broker, topic, NULL, &ground_caller, &setgid), 0);
    kq_topic_unref(topic);
    know_path(round);
    round->kernel->who.uid = 10;
    round->kernel->who.gid = 4321;
}

static int set_acl(struct round *round)
{
    return set_xattr(round, ACL, acl, sizeof(acl));
}

static void check_acl(struct round *round)
{
    struct fuse_attr_out out;
    uint8_t value[64];
    assert_int_equal(kernel_getattr(round->kernel, round->node, &out), 0);
    assert_int_equal(out.attr.mode & 07777, S_ISGID | S_ISVTX | (round->result < 0 ? 0750 : 0660));
    assert_int_equal(get_xattr(round, ACL, value, sizeof(value)),
                     round->result < 0 ? -ENODATA : (int)sizeof(acl));
}

static int list_xattrs(struct round *round)
{
    struct fuse_getxattr_in in = {.size = 256};
    char names[256];
    ssize_t n = kernel_call(round->kernel, FUSE_LISTXATTR, round->node, &in, sizeof(in), NULL, 0,
                            names, sizeof(names));
    if (n >= 0)
        assert_memory_equal(names, "user.kqfs.start\0user.kqfs.end", 30);
    return n < 0 ? (int)n : 0;
}

static void list_xattrs_again(struct round *round)
{
    assert_int_equal(list_xattrs(round), 0);
    assert_before(round);
}

/* --- Making and removing --- */

static int mkdir_it(struct round *round)
{
    struct fuse_mkdir_in in = {.mode = 0755};
    struct fuse_entry_out out;
    ssize_t n = kernel_call(round->kernel, FUSE_MKDIR, FUSE_ROOT_ID, &in, sizeof(in), "new", 4,
                            &out, sizeof(out));
    if (n > 0)
        kernel_forget(round->kernel, out.nodeid);
    return n < 0 ? (int)n : 0;
}

/* A topic that was made although its maker was told ENOMEM, for want of memory for the answer, is
 * whole: mkdir -p would be content. */
static void check_mkdir(struct round *round)
{
    int r = mkdir_it(round);
    assert_true(r == (round->result < 0 ? 0 : -EEXIST) || r == -EEXIST);
    assert_int_equal(kernel_append(round->kernel, "new/p0", "line\n"), 0);
    kernel_assert_text(round->kernel, "new/p0", "line\n");
    assert_before(round);
}

static void know_topic(struct round *round)
{
    round->node = kernel_node(round->kernel, "orders");
}

static int create_it(struct round *round)
{
    struct fuse_create_in in = {.flags = APPEND | O_CREAT, .mode = S_IFREG | 0644};
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out;
    ssize_t n = kernel_call(round->kernel, FUSE_CREATE, round->node, &in, sizeof(in), "p2", 3, &out,
                            sizeof(out));
    if (n < 0)
        return (int)n;
    ssize_t written = kernel_write(round->kernel, out.entry.nodeid, out.open.fh, APPEND, "line\n");
    assert_int_equal(kernel_close(round->kernel, out.entry.nodeid, out.open.fh), 0);
    kernel_forget(round->kernel, out.entry.nodeid);
    return written < 0 ? (int)written : 0;
}

static void check_create(struct round *round)
{
    if (round->result < 0)
        assert_int_equal(create_it(round), 0);
    kernel_assert_text(round->kernel, "orders/p2", "line\n");
    assert_before(round);
}

static int unlink_it(struct round *round)
{
    return kernel_simple(round->kernel, FUSE_UNLINK, round->node, NULL, 0, "p0");
}

/* The log's start may have moved before what failed was tried: it is at one end or the other. */
static void check_unlink(struct round *round)
{
    char text[64];
    ssize_t n = kernel_cat(round->kernel, "orders/p0", text, sizeof(text));
    assert_true(n == 0 || (round->result < 0 && strcmp(text, BEFORE) == 0));
    assert_int_equal(unlink_it(round), 0);
    kernel_assert_text(round->kernel, "orders/p0", "");
}

static void make_empty(struct round *round)
{
    kq_topic_unref(ground_topic(&round->kernel->ground, "empty", 2));
}

static int rmdir_it(struct round *round)
{
    return kernel_simple(round->kernel, FUSE_RMDIR, FUSE_ROOT_ID, NULL, 0, "empty");
}

static void check_rmdir(struct round *round)
{
    assert_int_equal(rmdir_it(round), round->result < 0 ? 0 : -ENOENT);
    assert_before(round);
}

static int chmod_it(struct round *round)
{
    struct fuse_setattr_in in = {.valid = FATTR_MODE, .mode = 0711};
    return kernel_simple(round->kernel, FUSE_SETATTR, round->node, &in, sizeof(in), NULL);
}

static void check_chmod(struct round *round)
{
    struct fuse_attr_out out;
    assert_int_equal(kernel_getattr(round->kernel, round->node, &out), 0);
    assert_int_equal(out.attr.mode & 0777, round->result < 0 ? 0750 : 0711);
}

/* --- Users --- */

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define SET(name)                                                                                  \
    "set " name " SCRAM-SHA-256 iterations=4096 salt=00 stored-key=" KEY " server-key=" KEY "\n"

static void make_users(struct round *round)
{
    static const char text[] = SET("app1") SET("app2");
    assert_int_equal(
        kq_user_alter_text(round->kernel->ground.broker, &ground_caller, text, strlen(text)), 0);
    know_path(round);
}

static bool has_user(struct round *round, const char *name)
{
    struct kq_user_facts facts;
    return kq_user_facts(kq_broker_users(round->kernel->ground.broker), name, &facts) == 0;
}

static void open_passwd(struct round *round)
{
    open_path(round, round->act->path, O_WRONLY);
}

/* All or nothing; a file that is opened anew takes it. */
static void check_set(struct round *round)
{
    assert_int_equal(has_user(round, "new"), round->result >= 0);
    close_path(round);
    open_passwd(round);
    assert_true(write_it(round) > 0);
    close_path(round);
    assert_true(has_user(round, "new") && has_user(round, "newer"));
}

static int remove_user(struct round *round)
{
    return kernel_simple(round->kernel, FUSE_UNLINK, round->node, NULL, 0, "app1");
}

static void check_removed(struct round *round)
{
    assert_int_equal(has_user(round, "app1"), round->result < 0);
    assert_int_equal(remove_user(round), round->result < 0 ? 0 : -ENOENT);
    assert_true(has_user(round, "app2"));
}

static const struct act acts[] = {
    {"lookup", know_directories, walk, walk_again, "orders/by-offset/p0/1.jsonl", NULL},
    {"lookup of nothing known", NULL, walk, walk_again, "orders/by-segment/p0", NULL},
    {"open p0", know_path, open_and_close, open_again, "orders/p0", NULL},
    {"open p0.log", know_path, open_and_close, open_again, "orders/p0.log", NULL},
    {"open p0.jsonl", know_path, open_and_close, open_again, "orders/p0.jsonl", NULL},
    {"open p0.stream", know_path, open_and_close, open_again, "orders/p0.stream", NULL},
    {"open a value", know_path, open_and_close, open_again, "orders/by-offset/p0/1.value", NULL},
    {"open append", know_path, open_and_close, open_again, "orders/append", NULL},
    {"open metrics", know_path, open_and_close, open_again, ".kqfs/metrics", NULL},
    {"read p0", open_to_read, read_it, read_again, "orders/p0", BEFORE},
    {"read p0.log", open_to_read, read_it, read_again, "orders/p0.log", BEFORE},
    {"read p0.jsonl", open_to_read, read_it, read_again, "orders/p0.jsonl", NULL},
    {"read p0.stream", open_to_read, read_it, read_again, "orders/p0.stream", BEFORE},
    {"read p0.jsonl.stream", open_to_read, read_it, read_again, "orders/p0.jsonl.stream", NULL},
    {"read a value", open_to_read, read_it, read_again, "orders/by-offset/p0/1.value", "two"},
    {"read from an offset", open_to_read, read_it, read_again, "orders/by-offset/p0/1", "two\n"},
    {"readdir", know_topic, readdir_it, list_again, NULL,
     ". .. append by-offset by-segment by-time p0 p1 "},
    {"readdirplus", know_topic, readdirplus_it, list_again, NULL,
     ". .. append by-offset by-segment by-time p0 p1 "},
    {"write", open_to_write, write_it, check_written, "orders/p0", "a\nb\n"},
    {"write JSON", open_to_write, write_it, check_written, "orders/p0.jsonl",
     "{\"value\":\"a\"}\n{\"value\":\"b\"}\n"},
    {"write the rest of a line", open_with_half_a_line, write_it, check_completed, "orders/p0",
     "alf\nb"},
    {"write with keys", open_with_keys, write_it, check_keys, NULL, "a:1\nb:1\nc:1\nd:1\ne:1\n"},
    {"close with half a line", open_with_half_a_line, close_it, check_closed, "orders/p0", NULL},
    {"fsync", open_with_a_line, fsync_it, check_synced, "orders/p0", NULL},
    {"wait in a stream", open_stream_at_end, wait_for_message, check_stream, NULL, NULL},
    {"poll a stream", open_stream_at_end, poll_it, check_poll, NULL, NULL},
    {"setxattr", know_topic, set_retention, check_retention, NULL, NULL},
    {"getxattr", know_topic, get_retention, assert_before, NULL, NULL},
    {"setxattr of an ACL", know_setgid, set_acl, check_acl, "orders", NULL},
    {"listxattr", know_path, list_xattrs, list_xattrs_again, "orders/p0", NULL},
    {"mkdir", NULL, mkdir_it, check_mkdir, NULL, NULL},
    {"create", know_topic, create_it, check_create, NULL, NULL},
    {"unlink", know_topic, unlink_it, check_unlink, NULL, NULL},
    {"rmdir", make_empty, rmdir_it, check_rmdir, NULL, NULL},
    {"chmod", know_topic, chmod_it, check_chmod, NULL, NULL},
    {"list the users", make_users, readdir_it, list_again, ".kqfs/users", ". .. app1 app2 "},
    {"open a user", make_users, open_and_close, open_again, ".kqfs/users/app1", NULL},
    {"set passwords", open_passwd, write_it, check_set, ".kqfs/passwd", SET("new") SET("newer")},
    {"rm of a user", make_users, remove_user, check_removed, ".kqfs/users", NULL},
};

/* --- The rounds --- */

static void *run_round(void *argument)
{
    struct round *round = argument;
    kq_fault_arm(KQ_FAULT_MEMORY, round->nth, ENOMEM, round->sticky);
    round->result = round->act->run(round);
    round->delivered |= kq_fault_disarm();
    return NULL;
}

/* The NTH allocation of ACT fails, with STICKY all after it too. Is there one? */
static bool fail_nth(const struct act *act, long nth, bool sticky)
{
    struct round round = {.act = act, .nth = nth, .sticky = sticky};
    pthread_t thread;
    kernel_setup((void **)&round.kernel);
    kernel_append(round.kernel, "orders/p0", BEFORE);
    if (act->prepare)
        act->prepare(&round);
    assert_int_equal(pthread_create(&thread, NULL, run_round, &round), 0);
    pthread_join(thread, NULL);
    if (round.result < 0 && round.result != -ENOMEM)
        fail_msg("%s, allocation %ld: %s", act->name, nth, strerror(-round.result));
    assert_true(round.result >= 0 || round.delivered);
    act->check(&round);
    kernel_teardown((void **)&round.kernel);
    return round.delivered;
}

static void no_request_without_memory_does_harm(void **state)
{
    for (size_t i = 0; i < kq_array_size(acts); i++) {
        long nth = 1;
        while (fail_nth(&acts[i], nth, false))
            nth++;
        print_message("%s: %ld allocations failed in turn\n", acts[i].name, nth - 1);
    }
}

/* A close that finds no memory for a second loses its half line, and says so. */
static void no_request_does_harm_while_memory_is_out(void **state)
{
    for (size_t i = 0; i < kq_array_size(acts); i++)
        if (acts[i].run != close_it)
            for (long nth = 1; fail_nth(&acts[i], nth, true);)
                nth++;
}

int main(void)
{
    if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_request_without_memory_does_harm),
        cmocka_unit_test(no_request_does_harm_while_memory_is_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
