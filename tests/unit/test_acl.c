/* POSIX ACLs: each rule by itself, and by chance against what a real file system says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "broker/base/acl.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "tests/unit/chance.h"
#include "tests/unit/directory.h"

#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"

enum {
    USER_OBJ = 1,
    USER = 2,
    GROUP_OBJ = 4,
    GROUP = 8,
    MASK = 16,
    OTHER = 32,
};

struct acl {
    size_t length;
    uint8_t bytes[4 + 8 * (KQ_ACL_MAX_ENTRIES + 2)];
};

static void acl_begin(struct acl *acl)
{
    kq_store_le32(acl->bytes, 2);
    acl->length = 4;
}

static void acl_add(struct acl *acl, unsigned tag, unsigned permissions, uint32_t id)
{
    kq_store_le16(acl->bytes + acl->length, tag);
    kq_store_le16(acl->bytes + acl->length + 2, permissions);
    kq_store_le32(acl->bytes + acl->length + 4, id);
    acl->length += 8;
}

/* Entries as tag, permissions, id; ended by tag 0. */
static void acl_make(struct acl *acl, const uint32_t (*entries)[3])
{
    acl_begin(acl);
    for (; (*entries)[0]; entries++)
        acl_add(acl, (*entries)[0], (*entries)[1], (*entries)[2]);
}

/* --- The gate --- */

#define ANY UINT32_MAX
#define MINIMAL                                                                                    \
    {USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY},                                                       \
    {                                                                                              \
        OTHER, 0, ANY                                                                              \
    }

static const struct {
    const char *what;
    int result;
    uint32_t entries[8][3];
} gate_rows[] = {
    {"owner, group and other", 0, {MINIMAL}},
    {"with a mask", 0, {{USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY}, {MASK, 4, ANY}, {OTHER, 0, ANY}}},
    {"named user and mask",
     0,
     {{USER_OBJ, 6, ANY}, {USER, 4, 7}, {GROUP_OBJ, 4, ANY}, {MASK, 4, ANY}, {OTHER, 0, ANY}}},
    {"named group and mask",
     0,
     {{USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY}, {GROUP, 4, 7}, {MASK, 4, ANY}, {OTHER, 0, ANY}}},
    {"ids need not ascend",
     0,
     {{USER_OBJ, 6, ANY},
      {USER, 4, 9},
      {USER, 4, 7},
      {GROUP_OBJ, 4, ANY},
      {MASK, 4, ANY},
      {OTHER, 0, ANY}}},
    {"a user and a group may share a number",
     0,
     {{USER_OBJ, 6, ANY},
      {USER, 4, 7},
      {GROUP_OBJ, 4, ANY},
      {GROUP, 4, 7},
      {MASK, 4, ANY},
      {OTHER, 0, ANY}}},
    {"no owner", -EINVAL, {{GROUP_OBJ, 4, ANY}, {OTHER, 0, ANY}}},
    {"no group", -EINVAL, {{USER_OBJ, 4, ANY}, {OTHER, 0, ANY}}},
    {"no other", -EINVAL, {{USER_OBJ, 4, ANY}, {GROUP_OBJ, 0, ANY}}},
    {"named user without mask",
     -EINVAL,
     {{USER_OBJ, 6, ANY}, {USER, 4, 7}, {GROUP_OBJ, 4, ANY}, {OTHER, 0, ANY}}},
    {"named group without mask",
     -EINVAL,
     {{USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY}, {GROUP, 4, 7}, {OTHER, 0, ANY}}},
    {"two owners", -EINVAL, {{USER_OBJ, 6, ANY}, MINIMAL}},
    {"two others", -EINVAL, {MINIMAL, {OTHER, 0, ANY}}},
    {"two masks",
     -EINVAL,
     {{USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY}, {MASK, 4, ANY}, {MASK, 4, ANY}, {OTHER, 0, ANY}}},
    {"group before owner", -EINVAL, {{GROUP_OBJ, 4, ANY}, {USER_OBJ, 6, ANY}, {OTHER, 0, ANY}}},
    {"named user behind group",
     -EINVAL,
     {{USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY}, {USER, 4, 7}, {MASK, 4, ANY}, {OTHER, 0, ANY}}},
    {"mask behind other",
     -EINVAL,
     {{USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY}, {OTHER, 0, ANY}, {MASK, 4, ANY}}},
    {"the same user twice",
     -EINVAL,
     {{USER_OBJ, 6, ANY},
      {USER, 4, 7},
      {USER, 6, 7},
      {GROUP_OBJ, 4, ANY},
      {MASK, 4, ANY},
      {OTHER, 0, ANY}}},
    {"the same group twice",
     -EINVAL,
     {{USER_OBJ, 6, ANY},
      {GROUP_OBJ, 4, ANY},
      {GROUP, 4, 7},
      {GROUP, 6, 7},
      {MASK, 4, ANY},
      {OTHER, 0, ANY}}},
    {"a user without id",
     -EINVAL,
     {{USER_OBJ, 6, ANY}, {USER, 4, ANY}, {GROUP_OBJ, 4, ANY}, {MASK, 4, ANY}, {OTHER, 0, ANY}}},
    {"an unknown permission", -EINVAL, {{USER_OBJ, 8, ANY}, {GROUP_OBJ, 4, ANY}, {OTHER, 0, ANY}}},
    {"an unknown tag", -EINVAL, {MINIMAL, {64, 0, ANY}}},
    {"two tags in one",
     -EINVAL,
     {{USER_OBJ, 6, ANY}, {3, 0, 1}, {GROUP_OBJ, 4, ANY}, {OTHER, 0, 0}}},
};

static void gate_passes_what_the_kernel_means(void **state)
{
    static struct acl acl;
    for (size_t i = 0; i < kq_array_size(gate_rows); i++) {
        acl_make(&acl, gate_rows[i].entries);
        int r = kq_acl_check(acl.bytes, acl.length);
        if (r != gate_rows[i].result)
            fail_msg("%s: %d", gate_rows[i].what, r);
    }
}

static void gate_refuses_odd_lengths_and_versions(void **state)
{
    static struct acl acl;
    acl_make(&acl, (const uint32_t[][3]){MINIMAL, {0}});
    assert_int_equal(kq_acl_check(NULL, 0), 0);
    assert_int_equal(kq_acl_check(acl.bytes, 4), 0);
    for (size_t length = 1; length < acl.length; length++)
        if (length != 4)
            assert_int_equal(kq_acl_check(acl.bytes, length), -EINVAL);
    assert_int_equal(kq_acl_check(acl.bytes, acl.length), 0);
    kq_store_le32(acl.bytes, 1);
    assert_int_equal(kq_acl_check(acl.bytes, acl.length), -EOPNOTSUPP);
}

static void gate_limits_the_number_of_entries(void **state)
{
    static struct acl acl;
    for (size_t users = KQ_ACL_MAX_ENTRIES - 4; users <= KQ_ACL_MAX_ENTRIES - 3; users++) {
        acl_begin(&acl);
        acl_add(&acl, USER_OBJ, 6, ANY);
        for (size_t i = 0; i < users; i++)
            acl_add(&acl, USER, 4, 1000 + i);
        acl_add(&acl, GROUP_OBJ, 4, ANY);
        acl_add(&acl, MASK, 4, ANY);
        acl_add(&acl, OTHER, 4, ANY);
        int expected = users + 4 <= KQ_ACL_MAX_ENTRIES ? 0 : -E2BIG;
        assert_int_equal(kq_acl_check(acl.bytes, acl.length), expected);
    }
}

/* --- The question --- */

static bool permits(const struct acl *acl, mode_t mode, uid_t uid, gid_t gid, unsigned want)
{
    gid_t groups[] = {55, 300};
    struct kq_acl_object object = {100, 200, mode, acl ? acl->bytes : NULL, acl ? acl->length : 0};
    struct kq_acl_subject subject = {uid, gid, groups, uid == 103 ? 2 : 0};
    return kq_acl_permits(&object, &subject, want);
}

static void mode_decides_where_there_is_no_acl(void **state)
{
    assert_true(permits(NULL, 0640, 100, 1, KQ_ACL_READ | KQ_ACL_WRITE));
    assert_false(permits(NULL, 0640, 101, 200, KQ_ACL_WRITE));
    assert_true(permits(NULL, 0640, 101, 200, KQ_ACL_READ));
    assert_false(permits(NULL, 0640, 101, 201, KQ_ACL_READ));
    assert_false(permits(NULL, 0077, 100, 200, KQ_ACL_READ));
    assert_false(permits(NULL, 0707, 101, 200, KQ_ACL_READ));
    assert_false(permits(NULL, 0070, 0, 0, KQ_ACL_READ));
}

static void acl_entries_decide_behind_the_mask(void **state)
{
    static struct acl acl;
    acl_make(&acl, (const uint32_t[][3]){{USER_OBJ, 6, ANY},
                                         {USER, 7, 101},
                                         {USER, 0, 103},
                                         {GROUP_OBJ, 4, ANY},
                                         {GROUP, 2, 300},
                                         {MASK, 6, ANY},
                                         {OTHER, 1, ANY},
                                         {0}});
    assert_true(permits(&acl, 0661, 101, 1, 6));
    assert_false(permits(&acl, 0661, 101, 1, KQ_ACL_EXECUTE)); /* the mask */
    assert_false(permits(&acl, 0661, 103, 200, KQ_ACL_READ));  /* the user's entry comes first */
    assert_true(permits(&acl, 0661, 104, 200, KQ_ACL_READ));
    assert_true(permits(&acl, 0661, 104, 300, KQ_ACL_WRITE));
    assert_false(permits(&acl, 0661, 104, 300, KQ_ACL_EXECUTE)); /* in a group: not other */
    assert_true(permits(&acl, 0661, 104, 1, KQ_ACL_EXECUTE));
    assert_false(permits(&acl, 0061, 100, 300, KQ_ACL_READ)); /* the owner: by the mode alone */
}

static void no_two_group_entries_add_up(void **state)
{
    static struct acl acl;
    acl_make(&acl, (const uint32_t[][3]){{USER_OBJ, 6, ANY},
                                         {GROUP_OBJ, 0, ANY},
                                         {GROUP, 4, 55},
                                         {GROUP, 2, 300},
                                         {MASK, 7, ANY},
                                         {OTHER, 7, ANY},
                                         {0}});
    assert_true(permits(&acl, 0677, 103, 1, KQ_ACL_READ));
    assert_true(permits(&acl, 0677, 103, 1, KQ_ACL_WRITE));
    assert_false(permits(&acl, 0677, 103, 1, KQ_ACL_READ | KQ_ACL_WRITE));
}

/* --- The changes --- */

static void an_acl_that_a_mode_can_say_is_dropped(void **state)
{
    static struct acl acl;
    struct kq_buf stored = {0};
    mode_t mode = S_ISVTX | 0777;
    acl_make(&acl, (const uint32_t[][3]){MINIMAL, {0}});
    assert_int_equal(kq_buf_append_string(&stored, "what was there before"), 0);
    assert_int_equal(kq_acl_set_access(acl.bytes, acl.length, &mode, &stored), 0);
    assert_int_equal(stored.length, 0);
    assert_int_equal(mode, S_ISVTX | 0640);
    assert_int_equal(kq_acl_set_access(NULL, 0, &mode, &stored), 0);
    assert_int_equal(mode, S_ISVTX | 0640);
    kq_buf_release(&stored);
}

static void without_memory_nothing_changes(void **state)
{
    static struct acl acl;
    struct kq_buf stored = {0}, inherited = {0};
    mode_t mode = 0777;
    acl_make(&acl,
             (const uint32_t[][3]){
                 {USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY}, {MASK, 4, ANY}, {OTHER, 0, ANY}, {0}});
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, false);
    assert_int_equal(kq_acl_set_access(acl.bytes, acl.length, &mode, &stored), -ENOMEM);
    assert_true(kq_fault_disarm());
    assert_int_equal(mode, 0777);
    for (long nth = 1; nth <= 2; nth++) {
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_acl_create(acl.bytes, acl.length, true, 0700, 0, &stored, &inherited, &mode);
        assert_true(kq_fault_disarm());
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(mode, 0777);
        assert_int_equal(stored.length + inherited.length, 0);
        kq_buf_release(&stored);
    }
    kq_buf_release(&inherited);
}

/* --- By chance, against a file system --- */

static char directory[DIRECTORY_BYTES];

static int make_directory(void **state)
{
    directory_make(directory, NULL);
    return chmod(directory, 0755) | chdir(directory);
}

static int remove_directory(void **state)
{
    return chdir("/") | directory_remove(directory);
}

static const uint32_t users[] = {1001, 1002, 1003}, groups[] = {2001, 2002, 2003};

static void random_acl(struct acl *acl)
{
    bool named = false;
    acl_begin(acl);
    acl_add(acl, USER_OBJ, chance(8), ANY);
    for (size_t i = 0; i < kq_array_size(users); i++)
        if (chance(3) == 0) {
            acl_add(acl, USER, chance(8), users[i]);
            named = true;
        }
    acl_add(acl, GROUP_OBJ, chance(8), ANY);
    for (size_t i = 0; i < kq_array_size(groups); i++)
        if (chance(3) == 0) {
            acl_add(acl, GROUP, chance(8), groups[i]);
            named = true;
        }
    if (named || chance(4) == 0)
        acl_add(acl, MASK, chance(4) ? chance(8) : 0, ANY);
    acl_add(acl, OTHER, chance(8), ANY);
}

static void require_acls(void)
{
    struct acl *acl = calloc(1, sizeof(*acl));
    acl_make(acl,
             (const uint32_t[][3]){
                 {USER_OBJ, 6, ANY}, {GROUP_OBJ, 4, ANY}, {MASK, 4, ANY}, {OTHER, 0, ANY}, {0}});
    close(open("probe", O_CREAT | O_WRONLY, 0600));
    int r = setxattr("probe", ACCESS, acl->bytes, acl->length, 0);
    free(acl);
    unlink("probe");
    if (r < 0) {
        print_message("skipped: no POSIX ACLs in %s\n", directory);
        skip();
    }
}

static void assert_same_acl(const char *path, const char *name, const struct kq_buf *ours)
{
    uint8_t theirs[4 + 8 * 16];
    ssize_t length = getxattr(path, name, theirs, sizeof(theirs));
    if (length < 0) {
        assert_int_equal(errno, ENODATA);
        length = 0;
    }
    assert_int_equal(length, ours->length);
    if (length)
        assert_memory_equal(theirs, ours->data, length);
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void setfacl_and_chmod_do_as_on_a_file(void **state)
{
    static struct acl acl;
    require_acls();
    for (int i = 0; i < 500; i++) {
        struct kq_buf stored = {0};
        mode_t mode = chance(0777);
        random_acl(&acl);
        assert_int_equal(kq_acl_check(acl.bytes, acl.length), 0);
        close(open("file", O_CREAT | O_WRONLY, 0600));
        assert_int_equal(chmod("file", mode), 0);
        assert_int_equal(setxattr("file", ACCESS, acl.bytes, acl.length, 0), 0);
        assert_int_equal(kq_acl_set_access(acl.bytes, acl.length, &mode, &stored), 0);
        assert_int_equal(mode, mode_of("file"));
        assert_same_acl("file", ACCESS, &stored);
        mode = chance(0777);
        assert_int_equal(chmod("file", mode), 0);
        kq_acl_chmod(stored.data, stored.length, mode);
        assert_same_acl("file", ACCESS, &stored);
        assert_int_equal(removexattr("file", ACCESS) < 0 && errno != ENODATA, 0);
        assert_int_equal(kq_acl_set_access(NULL, 0, &mode, &stored), 0);
        assert_int_equal(mode, mode_of("file"));
        kq_buf_release(&stored);
        unlink("file");
    }
}

static void inherit_once(bool is_directory)
{
    static struct acl acl;
    struct kq_buf access = {0}, inherited = {0};
    mode_t asked = chance(01000), mask = chance(01000), mode;
    acl.length = 0;
    if (chance(8))
        random_acl(&acl);
    assert_int_equal(mkdir("parent", 0700), 0);
    if (acl.length)
        assert_int_equal(setxattr("parent", DEFAULT, acl.bytes, acl.length, 0), 0);
    mode_t old = umask(mask);
    if (is_directory)
        assert_int_equal(mkdir("parent/child", asked), 0);
    else
        close(open("parent/child", O_CREAT | O_EXCL | O_WRONLY, asked));
    umask(old);
    assert_int_equal(
        kq_acl_create(acl.bytes, acl.length, is_directory, asked, mask, &access, &inherited, &mode),
        0);
    assert_int_equal(mode, mode_of("parent/child"));
    assert_same_acl("parent/child", ACCESS, &access);
    if (is_directory)
        assert_same_acl("parent/child", DEFAULT, &inherited);
    else
        assert_int_equal(inherited.length, 0);
    kq_buf_release(&access);
    kq_buf_release(&inherited);
    assert_int_equal(remove("parent/child") | rmdir("parent"), 0);
}

static void new_nodes_inherit_as_on_a_file_system(void **state)
{
    require_acls();
    for (int i = 0; i < 500; i++)
        inherit_once(i % 2);
}

static void gate_refuses_what_the_kernel_refuses(void **state)
{
    static struct acl acl;
    int refused = 0;
    require_acls();
    close(open("file", O_CREAT | O_WRONLY, 0600));
    for (int i = 0; i < 3000; i++) {
        random_acl(&acl);
        for (unsigned n = chance(3); n > 0; n--)
            acl.bytes[chance(acl.length)] ^= 1U << chance(8);
        if (chance(8) == 0)
            acl.length -= chance(acl.length - 4) + 1;
        int theirs = setxattr("file", ACCESS, acl.bytes, acl.length, 0);
        int ours = kq_acl_check(acl.bytes, acl.length);
        /* A flipped bit can make an id occur twice, which the kernel lets pass. */
        if (ours == 0 && theirs < 0)
            fail_msg("round %d: passed, the kernel says %s", i, strerror(errno));
        refused += theirs < 0;
    }
    assert_true(refused > 500);
    unlink("file");
}

#define FILES 400

struct file {
    uid_t uid;
    gid_t gid;
    mode_t mode;
    struct kq_buf acl;
};

static void make_random_file(int number, struct file *file)
{
    static struct acl acl;
    char name[32];
    file->uid = users[chance(3)];
    file->gid = groups[chance(3)];
    file->mode = chance(01000);
    snprintf(name, sizeof(name), "file%d", number);
    close(open(name, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(chown(name, file->uid, file->gid) | chmod(name, file->mode), 0);
    if (number % 4 == 0)
        return;
    random_acl(&acl);
    assert_int_equal(setxattr(name, ACCESS, acl.bytes, acl.length, 0), 0);
    assert_int_equal(kq_acl_set_access(acl.bytes, acl.length, &file->mode, &file->acl), 0);
}

/* In a child: which of the wishes 1 to 7 SUBJECT is granted on each file, as bits. */
static void ask_kernel(const struct kq_acl_subject *subject, int out)
{
    uint8_t answers[FILES] = {0};
    if (setgroups(subject->group_count, subject->groups) || setgid(subject->gid) ||
        setuid(subject->uid))
        _exit(1);
    for (int i = 0; i < FILES; i++) {
        char name[32];
        snprintf(name, sizeof(name), "file%d", i);
        for (int want = 1; want < 8; want++)
            answers[i] |= (access(name, want) == 0) << want;
    }
    _exit(write(out, answers, sizeof(answers)) != sizeof(answers));
}

static void compare_answers(const struct file *files, const struct kq_acl_subject *subject)
{
    uint8_t theirs[FILES];
    int pipes[2], status;
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    if (pid == 0)
        ask_kernel(subject, pipes[1]);
    assert_int_equal(read(pipes[0], theirs, sizeof(theirs)), sizeof(theirs));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(pipes[0]);
    close(pipes[1]);
    for (int i = 0; i < FILES; i++) {
        const struct file *file = &files[i];
        struct kq_acl_object object = {file->uid, file->gid, file->mode, file->acl.data,
                                       file->acl.length};
        for (unsigned want = 1; want < 8; want++)
            if (kq_acl_permits(&object, subject, want) != (theirs[i] >> want & 1))
                fail_msg("file%d, uid %u, want %u: the kernel says otherwise", i, subject->uid,
                         want);
    }
}

static void permission_is_what_the_kernel_grants(void **state)
{
    static struct file files[FILES];
    static const gid_t lists[][2] = {{2001, 2002}, {2003, 9}, {8, 9}};
    require_acls();
    if (geteuid() != 0) {
        print_message("skipped: only root can ask as somebody else\n");
        skip();
    }
    for (int i = 0; i < FILES; i++)
        make_random_file(i, &files[i]);
    for (uid_t uid = 1001; uid <= 1005; uid++)
        for (gid_t gid = 2001; gid <= 2004; gid++)
            for (size_t list = 0; list < kq_array_size(lists); list++)
                for (size_t count = 0; count <= 2; count += 2)
                    compare_answers(files, &(struct kq_acl_subject){uid, gid, lists[list], count});
    for (int i = 0; i < FILES; i++)
        kq_buf_release(&files[i].acl);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gate_passes_what_the_kernel_means),
        cmocka_unit_test(gate_refuses_odd_lengths_and_versions),
        cmocka_unit_test(gate_limits_the_number_of_entries),
        cmocka_unit_test(mode_decides_where_there_is_no_acl),
        cmocka_unit_test(acl_entries_decide_behind_the_mask),
        cmocka_unit_test(no_two_group_entries_add_up),
        cmocka_unit_test(an_acl_that_a_mode_can_say_is_dropped),
        cmocka_unit_test(without_memory_nothing_changes),
        cmocka_unit_test(setfacl_and_chmod_do_as_on_a_file),
        cmocka_unit_test(new_nodes_inherit_as_on_a_file_system),
        cmocka_unit_test(gate_refuses_what_the_kernel_refuses),
        cmocka_unit_test(permission_is_what_the_kernel_grants),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
