/* Files of users: what they are called, what they tell and to whom, how changes are taken. */
#include "tests/unit/tree.h"

#include <fcntl.h>

#include "fs/attr.h"
#include "fs/dir.h"
#include "fs/userfile.h"

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define CREDENTIAL                                                                                 \
    " SCRAM-SHA-256 iterations=4096 salt=0a0b stored-key=" KEY " server-key=" KEY "\n"

static struct kq_fs *fs_of(void **state)
{
    return &((struct tree *)*state)->fs;
}

static int write_once(struct kq_fs *fs, const char *text)
{
    struct kq_passwd_file *file;
    assert_int_equal(kq_passwd_file_new(fs, &file), 0);
    int r = kq_passwd_file_write(file, &ground_caller, text, strlen(text));
    kq_passwd_file_free(file);
    return r;
}

static bool is_there(struct kq_fs *fs, const char *name)
{
    struct kq_user_facts facts;
    return kq_user_facts(kq_broker_users(fs->broker), name, &facts) == 0;
}

static struct kq_node node_of(enum kq_view view, int64_t number)
{
    return (struct kq_node){.view = view, .offset = number};
}

/* --- Names and texts --- */

static void a_file_tells_mechanisms_and_nothing_secret(void **state)
{
    struct kq_fs *fs = fs_of(state);
    kq_autobuf struct kq_buf text = {0};
    int64_t number;
    assert_int_equal(write_once(fs, "set app1" CREDENTIAL), 0);
    assert_int_equal(kq_user_named(fs, "app1", &number), 0);
    struct kq_node node = node_of(KQ_VIEW_USER, number);
    assert_int_equal(kq_user_text(fs, &node, &text), 0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    assert_string_equal((char *)text.data, "SCRAM-SHA-256 iterations=4096\n");
    assert_int_equal(kq_user_remove(fs, &ground_caller, "app1"), 0);
    assert_int_equal(kq_user_remove(fs, &ground_caller, "app1"), -ENOENT);
    assert_int_equal(kq_user_text(fs, &node, &text), -ESTALE);
    assert_int_equal(kq_user_named(fs, "app1", &number), -ENOENT);
}

/* The names that .kqfs/users lists, each with a blank behind it. */
static void names_of(struct kq_fs *fs, char *ret)
{
    struct kq_node node = node_of(KQ_VIEW_USERS, 0);
    struct kq_dir *dir;
    struct kq_dir_item item;
    int r;
    *ret = '\0';
    assert_int_equal(kq_dir_new(&node, &dir), 0);
    for (off_t at = 0; (r = kq_dir_next(fs, &node, dir, at, true, &item)) == 0; at = item.next) {
        strcat(strcat(ret, item.name), " ");
        kq_place_release(&item.place);
    }
    assert_int_equal(r, KQ_END);
    kq_dir_free(dir);
}

static void every_name_that_can_be_one_of_a_file_is_listed_and_found(void **state)
{
    static const struct {
        const char *word, *file, *user;
    } names[] = {
        {"app1", "app1", "app1"},
        {"%2e", "%2e", "."},
        {"..", "%2e%2e", ".."},
        {"a/b%25", "a%2fb%25", "a/b%"},
        {"\xc3\xa4", "\xc3\xa4", "\xc3\xa4"},
        {"x%20y", "x y", "x y"},
    };
    struct kq_fs *fs = fs_of(state);
    char line[1000], listed[1000];
    int64_t number;
    for (size_t i = 0; i < kq_array_size(names); i++) {
        snprintf(line, sizeof(line), "set %s" CREDENTIAL, names[i].word);
        assert_int_equal(write_once(fs, line), 0);
        assert_true(is_there(fs, names[i].user));
        assert_int_equal(kq_user_named(fs, names[i].file, &number), 0);
        names_of(fs, listed);
        snprintf(line, sizeof(line), " %s ", names[i].file);
        assert_non_null(strstr(listed, line));
    }
    /* Not by another way to write it. */
    assert_int_equal(kq_user_named(fs, "%61pp1", &number), -ENOENT);
    assert_int_equal(kq_user_named(fs, "a%2Fb%25", &number), -ENOENT);
    assert_int_equal(kq_user_named(fs, "a%", &number), -ENOENT);
    assert_int_equal(kq_user_named(fs, "", &number), -ENOENT);
    assert_int_equal(kq_user_remove(fs, &ground_caller, "a%2fb%25"), 0);
    assert_false(is_there(fs, "a/b%"));
}

static void a_name_too_long_for_a_file_is_not_listed(void **state)
{
    struct kq_fs *fs = fs_of(state);
    char line[1000], listed[1000], name[KQ_USER_NAME_BYTES + 1];
    memset(name, '/', KQ_USER_NAME_BYTES);
    name[KQ_USER_NAME_BYTES] = '\0';
    snprintf(line, sizeof(line), "set %s" CREDENTIAL "set app1" CREDENTIAL, name);
    assert_int_equal(write_once(fs, line), 0);
    assert_true(is_there(fs, name));
    names_of(fs, listed);
    assert_string_equal(listed, ". .. app1 ");
}

/* --- Owner and mode --- */

static int take_attributes(struct kq_attributes *attributes, void *argument)
{
    const struct kq_attributes *wanted = argument;
    kq_attributes_release(attributes);
    *attributes = *wanted;
    attributes->acl = NULL;
    if (wanted->acl_length) {
        attributes->acl = malloc(wanted->acl_length);
        memcpy(attributes->acl, wanted->acl, wanted->acl_length);
    }
    return 0;
}

static void set_root(struct kq_fs *fs, struct kq_attributes attributes)
{
    assert_int_equal(
        kq_attributes_change(fs->broker, NULL, NULL, &ground_caller, take_attributes, &attributes),
        0);
}

static mode_t mode_of(struct kq_fs *fs, enum kq_view view)
{
    struct kq_node node = node_of(view, 0);
    struct kq_attributes shown;
    assert_int_equal(kq_user_node_attributes(fs, &node, &shown), 0);
    assert_int_equal(shown.uid, 5);
    assert_int_equal(shown.gid, 6);
    mode_t mode = shown.mode;
    kq_attributes_release(&shown);
    return mode;
}

static void who_may_list_the_root_may_read_and_its_owner_may_write(void **state)
{
    static const struct {
        mode_t root, users, user;
    } wanted[] = {{01755, 0755, 0444}, {01711, 0700, 0400}, {01750, 0750, 0440},
                  {01777, 0755, 0444}, {01300, 0300, 0},    {01730, 0700, 0400}};
    struct kq_fs *fs = fs_of(state);
    for (size_t i = 0; i < kq_array_size(wanted); i++) {
        set_root(fs, (struct kq_attributes){.uid = 5, .gid = 6, .mode = wanted[i].root});
        assert_int_equal(mode_of(fs, KQ_VIEW_USERS), wanted[i].users);
        assert_int_equal(mode_of(fs, KQ_VIEW_USER), wanted[i].user);
        assert_int_equal(mode_of(fs, KQ_VIEW_PASSWD), 0200);
    }
}

static void an_acl_lets_read_and_never_write(void **state)
{
    /* version 2; user:: rwx, user:1000 rw-, group:: -wx, mask rwx, other --- */
    static const uint8_t acl[] = {2, 0,   0,   0,   1,   0,   7,  0, 255, 255, 255, 255, 2,   0,  6,
                                  0, 232, 3,   0,   0,   4,   0,  3, 0,   255, 255, 255, 255, 16, 0,
                                  7, 0,   255, 255, 255, 255, 32, 0, 0,   0,   255, 255, 255, 255};
    static const uint8_t users[] = {7, 5, 0, 5, 0}, user[] = {4, 4, 0, 4, 0};
    struct kq_fs *fs = fs_of(state);
    set_root(
        fs,
        (struct kq_attributes){
            .uid = 5, .gid = 6, .mode = 01770, .acl = (uint8_t *)acl, .acl_length = sizeof(acl)});
    for (enum kq_view view = KQ_VIEW_USERS; view <= KQ_VIEW_USER; view++) {
        struct kq_node node = node_of(view, 0);
        struct kq_attributes shown;
        assert_int_equal(kq_user_node_attributes(fs, &node, &shown), 0);
        assert_int_equal(shown.acl_length, sizeof(acl));
        for (size_t i = 0; i < kq_array_size(users); i++)
            assert_int_equal(shown.acl[4 + 8 * i + 2], view == KQ_VIEW_USERS ? users[i] : user[i]);
        kq_attributes_release(&shown);
    }
    struct kq_node passwd = node_of(KQ_VIEW_PASSWD, 0);
    struct kq_attributes shown;
    assert_int_equal(kq_user_node_attributes(fs, &passwd, &shown), 0);
    assert_int_equal(shown.acl_length, 0);
    assert_int_equal(shown.mode, 0200);
    kq_attributes_release(&shown);
}

static void who_may_not_alter_the_cluster_removes_nobody(void **state)
{
    struct tree *tree = *state;
    assert_int_equal(write_once(&tree->fs, "set app1" CREDENTIAL), 0);
    tree->ground.denied = KQ_RIGHT_CHANGE_ATTRIBUTES;
    assert_int_equal(kq_user_remove(&tree->fs, &ground_caller, "app1"), -EACCES);
    assert_int_equal(write_once(&tree->fs, "delete app1\n"), -EACCES);
    assert_true(is_there(&tree->fs, "app1"));
}

/* --- .kqfs/passwd --- */

static void a_line_acts_when_it_is_whole(void **state)
{
    static const char text[] = "set app1" CREDENTIAL "set app2" CREDENTIAL;
    struct kq_fs *fs = fs_of(state);
    struct kq_passwd_file *file;
    size_t first = (size_t)(strchr(text, '\n') - text);
    assert_int_equal(kq_passwd_file_new(fs, &file), 0);
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        assert_int_equal(is_there(fs, "app1"), i > first);
        assert_false(is_there(fs, "app2"));
        assert_int_equal(kq_passwd_file_write(file, &ground_caller, text + i, 1), 0);
        assert_int_equal(kq_passwd_file_flush(file), text[i] == '\n' ? 0 : -EINVAL);
    }
    assert_true(is_there(fs, "app2"));
    kq_passwd_file_free(file);
}

static void half_a_line_changes_nothing(void **state)
{
    struct kq_fs *fs = fs_of(state);
    struct kq_passwd_file *file;
    assert_int_equal(write_once(fs, "set app1" CREDENTIAL), 0);
    assert_int_equal(kq_passwd_file_new(fs, &file), 0);
    assert_int_equal(kq_passwd_file_write(file, &ground_caller, "delete app1", 11), 0);
    assert_int_equal(kq_passwd_file_flush(file), -EINVAL);
    kq_passwd_file_free(file);
    assert_true(is_there(fs, "app1"));
}

static void after_a_failure_nothing_more_is_taken(void **state)
{
    static const char wrong[] = "delete nobody\ndelete app1\ndelete", good[] = " app1\n";
    static const char long_line[KQ_USER_LINE_BYTES] = {'d'};
    struct kq_fs *fs = fs_of(state);
    struct kq_passwd_file *file;
    assert_int_equal(write_once(fs, "set app1" CREDENTIAL), 0);
    assert_int_equal(kq_passwd_file_new(fs, &file), 0);
    assert_int_equal(kq_passwd_file_write(file, &ground_caller, wrong, strlen(wrong)), -ENOENT);
    assert_int_equal(kq_passwd_file_write(file, &ground_caller, good, strlen(good)), -ENOENT);
    assert_int_equal(kq_passwd_file_flush(file), 0);
    kq_passwd_file_free(file);
    assert_int_equal(kq_passwd_file_new(fs, &file), 0);
    assert_int_equal(kq_passwd_file_write(file, &ground_caller, long_line, sizeof(long_line)),
                     -EMSGSIZE);
    assert_int_equal(kq_passwd_file_write(file, &ground_caller, "\ndelete app1\n", 13), -EMSGSIZE);
    kq_passwd_file_free(file);
    assert_true(is_there(fs, "app1"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, tree_setup, tree_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_file_tells_mechanisms_and_nothing_secret),
        TEST(every_name_that_can_be_one_of_a_file_is_listed_and_found),
        TEST(a_name_too_long_for_a_file_is_not_listed),
        TEST(who_may_list_the_root_may_read_and_its_owner_may_write),
        TEST(an_acl_lets_read_and_never_write),
        TEST(who_may_not_alter_the_cluster_removes_nobody),
        TEST(a_line_acts_when_it_is_whole),
        TEST(half_a_line_changes_nothing),
        TEST(after_a_failure_nothing_more_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
