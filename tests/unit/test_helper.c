/* The helper's protocol: what a broker that is broken or taken over can get from it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/base/mem.h"
#include "broker/base/privileged.h"
#include "broker/helper.h"
#include "broker/secretfiles.h"

#define OTHER 65534 /* the broker's user */

static char directory[] = "/tmp/kqfs-helper-XXXXXX";
static char secret[64], fifo[64], foreign[96], link_to_foreign[96];

static struct served {
    int fd;
    pid_t pid;
} served;

static void start_with(const char *mountpoint)
{
    const char *files[] = {secret, fifo, foreign, link_to_foreign, "/nonexistent/key"};
    int ends[2];
    struct kq_helper_options options = {.mountpoint = mountpoint,
                                        .source = "data",
                                        .mount_options = "",
                                        .files = files,
                                        .file_count = kq_array_size(files),
                                        .uid = OTHER,
                                        .gid = OTHER};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    served.pid = fork();
    if (served.pid == 0) {
        struct kq_helper *helper;
        close(ends[0]);
        if (kq_helper_new(&options, &helper) < 0)
            _exit(100);
        int r = kq_helper_serve(helper, ends[1]);
        kq_helper_free(helper);
        _exit(r == -EPROTO ? 2 : r < 0 ? 1 : 0);
    }
    close(ends[1]);
    served.fd = ends[0];
}

/* The helper's exit status. */
static int end(void)
{
    int status;
    close(served.fd);
    assert_int_equal(waitpid(served.pid, &status, 0), served.pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static struct kq_helper_request ask_for(enum kq_helper_act act, const char *name)
{
    struct kq_helper_request request = {.act = act};
    memcpy(request.name, name, strlen(name));
    return request;
}

/* The result; *RET_FD is what came with it, or -1. */
static int answer_to(const struct kq_helper_request *request, int *ret_fd)
{
    struct kq_helper_answer answer;
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = &answer, .iov_len = sizeof(answer)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    assert_int_equal(send(served.fd, request, sizeof(*request), MSG_NOSIGNAL), sizeof(*request));
    assert_int_equal(recvmsg(served.fd, &message, MSG_CMSG_CLOEXEC), sizeof(answer));
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *ret_fd = -1;
    if (header) {
        assert_int_equal(header->cmsg_len, CMSG_LEN(sizeof(int)));
        memcpy(ret_fd, CMSG_DATA(header), sizeof(int));
    }
    assert_int_equal(answer.pid, served.pid);
    return answer.result;
}

static int result_of(enum kq_helper_act act, const char *name)
{
    int fd;
    struct kq_helper_request request = ask_for(act, name);
    int r = answer_to(&request, &fd);
    if (fd >= 0)
        close(fd);
    assert_true(r < 0 || act != KQ_HELPER_OPEN || fd >= 0);
    return r;
}

/* --- Requests that no broker sends --- */

static void what_breaks_the_protocol_is_no_request(void **state)
{
    struct kq_helper_request good = ask_for(KQ_HELPER_MODIFIED, "topic"), bad;
    good.partition = 3;
    good.size = 7;
    assert_true(kq_helper_request_is_valid(&good, sizeof(good)));
    assert_false(kq_helper_request_is_valid(&good, sizeof(good) - 1));
    assert_false(kq_helper_request_is_valid(&good, 0));
    for (uint32_t act = 0; act < 300; act++) {
        bad = good;
        bad.act = act;
        assert_int_equal(kq_helper_request_is_valid(&bad, sizeof(bad)), act == KQ_HELPER_MODIFIED);
    }
    bad = good;
    bad.partition = -1;
    assert_false(kq_helper_request_is_valid(&bad, sizeof(bad)));
    bad = good;
    bad.size = -1;
    assert_false(kq_helper_request_is_valid(&bad, sizeof(bad)));
    bad = good;
    bad.name[KQ_HELPER_NAME_BYTES - 1] = 'x'; /* behind the end */
    assert_false(kq_helper_request_is_valid(&bad, sizeof(bad)));
    bad = good;
    memset(bad.name, 'a', sizeof(bad.name)); /* no end */
    assert_false(kq_helper_request_is_valid(&bad, sizeof(bad)));
    bad = ask_for(KQ_HELPER_OPEN, "/key");
    assert_true(kq_helper_request_is_valid(&bad, sizeof(bad)));
    bad.size = 1;
    assert_false(kq_helper_request_is_valid(&bad, sizeof(bad)));
    bad = ask_for(KQ_HELPER_OPEN, "key");
    assert_false(kq_helper_request_is_valid(&bad, sizeof(bad)));
    bad = ask_for(KQ_HELPER_MOUNT, "/mnt");
    assert_false(kq_helper_request_is_valid(&bad, sizeof(bad)));
}

static void a_nudge_names_a_topic_and_no_path(void **state)
{
    static const char *const names[] = {"",     ".",   "..",  "../etc", "a/b",
                                        "/etc", "a b", "a\n", "\xff"};
    char longest[251];
    for (size_t i = 0; i < kq_array_size(names); i++) {
        struct kq_helper_request request = ask_for(KQ_HELPER_MODIFIED, names[i]);
        assert_false(kq_helper_request_is_valid(&request, sizeof(request)));
    }
    memset(longest, 'a', sizeof(longest));
    longest[250] = '\0';
    struct kq_helper_request request = ask_for(KQ_HELPER_MODIFIED, longest);
    assert_false(kq_helper_request_is_valid(&request, sizeof(request)));
    request.name[249] = '\0';
    assert_true(kq_helper_request_is_valid(&request, sizeof(request)));
}

static void such_a_request_ends_the_service(void **state)
{
    struct kq_helper_request bad = ask_for((enum kq_helper_act)77, "");
    char longer[sizeof(bad) + 1] = {0};
    const struct {
        const void *bytes;
        size_t length;
    } cases[] = {{"x", 1}, {&bad, sizeof(bad)}, {&bad, sizeof(bad) - 8}, {longer, sizeof(longer)}};
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        char byte;
        start_with(NULL);
        assert_true(send(served.fd, cases[i].bytes, cases[i].length, MSG_NOSIGNAL) > 0);
        assert_true(recv(served.fd, &byte, 1, 0) <= 0);
        assert_int_equal(end(), 2);
    }
}

static void a_descriptor_is_never_taken(void **state)
{
    struct kq_helper_request request = ask_for(KQ_HELPER_UNMOUNT, "");
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = &request, .iov_len = sizeof(request)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memset(CMSG_DATA(header), 0, sizeof(int));
    start_with(NULL);
    assert_true(sendmsg(served.fd, &message, 0) > 0);
    assert_int_equal(end(), 2);
}

/* --- Files --- */

static void only_files_that_settings_name_are_opened(void **state)
{
    char text[8] = "";
    int fd;
    struct kq_helper_request request = ask_for(KQ_HELPER_OPEN, secret);
    start_with(NULL);
    assert_int_equal(answer_to(&request, &fd), 0);
    assert_int_equal(read(fd, text, sizeof(text)), 6);
    assert_string_equal(text, "secret");
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    close(fd);
    assert_int_equal(result_of(KQ_HELPER_OPEN, "/etc/shadow"), -EACCES);
    assert_int_equal(result_of(KQ_HELPER_OPEN, "/nonexistent/key"), -ENOENT);
    assert_int_equal(result_of(KQ_HELPER_OPEN, fifo), -EINVAL);
    assert_int_equal(result_of(KQ_HELPER_OPEN, secret), 0); /* it goes on */
    assert_int_equal(end(), 0);
}

static void a_way_that_the_broker_could_change_is_refused(void **state)
{
    if (geteuid() != 0)
        skip();
    char own[64];
    snprintf(own, sizeof(own), "%s/own", directory);
    assert_int_equal(chown(own, OTHER, OTHER), 0);
    start_with(NULL);
    assert_int_equal(result_of(KQ_HELPER_OPEN, foreign), -EPERM);
    assert_int_equal(chown(foreign, OTHER, OTHER), 0); /* its own file it could read anyway */
    assert_int_equal(result_of(KQ_HELPER_OPEN, foreign), 0);
    assert_int_equal(end(), 0);
}

static void a_link_to_where_the_broker_could_change_it_is_refused(void **state)
{
    if (geteuid() != 0)
        skip();
    assert_int_equal(chown(foreign, 0, 0), 0);
    start_with(NULL);
    assert_int_equal(result_of(KQ_HELPER_OPEN, link_to_foreign), -EPERM);
    assert_int_equal(end(), 0);
}

/* --- Which files they are --- */

static void set(struct kq_config *config, const char *name, const char *value)
{
    assert_int_equal(
        kq_config_set(config, KQ_ORIGIN_COMMAND_LINE, "command line", 0, NULL, name, value), 0);
}

static bool has(const struct kq_secret_files *files, const char *path)
{
    for (size_t i = 0; i < files->count; i++)
        if (strcmp(files->paths[i], path) == 0)
            return true;
    return false;
}

static void they_are_those_of_keys_and_certificates_and_no_others(void **state)
{
    static const char *const wanted[] = {"/k/certificate", "/k/key",  "/k/ca",   "/k/crl",
                                         "/k/keytab",      "/k/jwks", "/l/cert", "/l/key",
                                         "/l/ca",          "/l/crl",  "/m/key"};
    struct kq_config *config;
    struct kq_secret_files files;
    assert_int_equal(kq_config_new(&config), 0);
    assert_int_equal(kq_secret_files_of(config, &files), 0);
    assert_int_equal(files.count, 0);
    kq_secret_files_release(&files);
    set(config, "config", "/n/config");
    set(config, "data", "/n/data");
    set(config, "helper", "/n/helper");
    set(config, "certificate", "/k/certificate");
    set(config, "key", "/k/key");
    set(config, "ca", "/k/ca");
    set(config, "crl", "/k/crl");
    set(config, "sasl.kerberos.keytab", "/k/keytab");
    set(config, "sasl.oauthbearer.jwks.file", "/k/jwks");
    set(config, "listen",
        "ssl://a:1,advertised=/n:2,certificate=/l/cert,KEY=/l/key,client_authentication=/n/no,"
        "ca=/l/ca,crl=/l/crl unix:///n/socket,key=/n/key");
    set(config, "listen", "plaintext://b:3,key=/n/key");
    set(config, "listen", "SASL_SSL://c:4,key=/m/key,certificate=,ca=n/relative,=/n,,key");
    assert_int_equal(kq_secret_files_of(config, &files), 0);
    for (size_t i = 0; i < kq_array_size(wanted); i++)
        assert_true(has(&files, wanted[i]));
    assert_int_equal(files.count, kq_array_size(wanted));
    kq_secret_files_release(&files);
    kq_config_free(config);
}

/* --- Following one --- */

static void replace_secret(const char *by)
{
    char path[96];
    snprintf(path, sizeof(path), "%s/new", directory);
    kq_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, by, strlen(by)), strlen(by));
    assert_int_equal(rename(path, secret), 0);
}

static void another_file_has_another_mark_and_its_own_bytes(void **state)
{
    struct kq_file_mark before = {0}, now = {0}, read = {0};
    kq_autobuf struct kq_buf bytes = {0};
    assert_int_equal(kq_privileged_look(secret, &before), 0);
    assert_int_equal(kq_privileged_look(secret, &now), 0);
    assert_true(kq_file_mark_same(&before, &now));
    replace_secret("SECRET");
    assert_int_equal(kq_privileged_look(secret, &now), 0);
    assert_false(kq_file_mark_same(&before, &now));
    assert_int_equal(kq_privileged_slurp(secret, 5, &bytes, &read), -EFBIG);
    assert_int_equal(kq_privileged_slurp(directory, 100, &bytes, &read), -EINVAL);
    assert_int_equal(kq_privileged_slurp("/nonexistent/key", 100, &bytes, &read), -ENOENT);
    assert_int_equal(bytes.length, 0);
    assert_int_equal(kq_privileged_slurp(secret, 6, &bytes, &read), 0);
    assert_true(kq_file_mark_same(&read, &now));
    assert_int_equal(bytes.length, 6);
    assert_memory_equal(bytes.data, "SECRET", 6);
    replace_secret("secret");
}

/* --- The mount --- */

static void without_a_mountpoint_nothing_is_mounted(void **state)
{
    start_with(NULL);
    assert_int_equal(result_of(KQ_HELPER_MOUNT, ""), -EPERM);
    assert_int_equal(result_of(KQ_HELPER_UNMOUNT, ""), 0);
    assert_int_equal(result_of(KQ_HELPER_MODIFIED, "topic"), -ENOTCONN);
    assert_int_equal(end(), 0);
}

static bool is_mounted(const char *path)
{
    char line[4096], wanted[128];
    bool found = false;
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    snprintf(wanted, sizeof(wanted), " %s ", path);
    while (mounts && !found && fgets(line, sizeof(line), mounts))
        found = strstr(line, wanted) != NULL;
    if (mounts)
        fclose(mounts);
    return found;
}

static void a_mount_is_made_once_and_goes_with_the_broker(void **state)
{
    int fd;
    char place[64];
    struct kq_helper_request request = ask_for(KQ_HELPER_MOUNT, "");
    snprintf(place, sizeof(place), "%s/mnt", directory);
    start_with(place);
    int r = answer_to(&request, &fd);
    if (r == -EPERM || r == -ENOENT || r == -EACCES || r == -ENODEV) {
        end();
        skip(); /* this container may not mount */
    }
    assert_int_equal(r, 0);
    assert_true(fd >= 0 && is_mounted(place));
    assert_int_equal(result_of(KQ_HELPER_MOUNT, ""), -EPERM);
    assert_int_equal(end(), 0);
    assert_false(is_mounted(place));
    close(fd);
}

static void options_become_what_mount_2_takes(void **state)
{
    struct kq_helper_mount plan;
    struct kq_helper_options options = {
        .source = "/data",
        .mount_options = "fsname=/a\\,b,subtype=kqfs,ro,suid,noexec,allow_root,context=\"x\"",
        .uid = 7,
        .gid = 8};
    assert_int_equal(kq_helper_mount_plan(&options, &plan), 0);
    assert_string_equal(plan.source, "/a,b");
    assert_string_equal(plan.type, "fuse.kqfs");
    assert_string_equal(plan.data, "rootmode=40000,user_id=7,group_id=8,default_permissions,"
                                   "allow_other,context=\"x\"");
    assert_int_equal(plan.flags, MS_RDONLY | MS_NODEV | MS_NOEXEC);
    kq_helper_mount_release(&plan);
}

static int set_up(void **state)
{
    char path[96];
    if (!mkdtemp(directory))
        return -1;
    chmod(directory, 0755);
    snprintf(secret, sizeof(secret), "%s/secret", directory);
    snprintf(fifo, sizeof(fifo), "%s/fifo", directory);
    snprintf(foreign, sizeof(foreign), "%s/own/key", directory);
    snprintf(link_to_foreign, sizeof(link_to_foreign), "%s/link", directory);
    snprintf(path, sizeof(path), "%s/own", directory);
    mkdir(path, 0755);
    snprintf(path, sizeof(path), "%s/mnt", directory);
    mkdir(path, 0755);
    mkfifo(fifo, 0600);
    if (symlink(foreign, link_to_foreign) < 0)
        return -1;
    const char *files[] = {secret, foreign};
    for (size_t i = 0; i < kq_array_size(files); i++) {
        kq_autoclose int fd = open(files[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || write(fd, "secret", 6) != 6)
            return -1;
    }
    return 0;
}

static int tear_down(void **state)
{
    char command[96];
    snprintf(command, sizeof(command), "rm -rf %s", directory);
    return system(command); /* NOLINT(cert-env33-c) */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_breaks_the_protocol_is_no_request),
        cmocka_unit_test(a_nudge_names_a_topic_and_no_path),
        cmocka_unit_test(such_a_request_ends_the_service),
        cmocka_unit_test(a_descriptor_is_never_taken),
        cmocka_unit_test(only_files_that_settings_name_are_opened),
        cmocka_unit_test(a_way_that_the_broker_could_change_is_refused),
        cmocka_unit_test(a_link_to_where_the_broker_could_change_it_is_refused),
        cmocka_unit_test(they_are_those_of_keys_and_certificates_and_no_others),
        cmocka_unit_test(another_file_has_another_mark_and_its_own_bytes),
        cmocka_unit_test(without_a_mountpoint_nothing_is_mounted),
        cmocka_unit_test(a_mount_is_made_once_and_goes_with_the_broker),
        cmocka_unit_test(options_become_what_mount_2_takes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
