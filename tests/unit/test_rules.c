/* Rules that make names of certificates' subjects and Kerberos principals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "auth/pattern.h"
#include "auth/rules.h"
#include "broker/base/diag.h"
#include "broker/base/fault.h"
#include "broker/base/mem.h"

#define REALM "EXAMPLE.ORG"

static char said[512];

static void listen_to(int priority, const char *line)
{
    snprintf(said, sizeof(said), "%s", line);
}

static int make(const char *text, bool kerberos, struct kq_rules **ret)
{
    said[0] = '\0';
    kq_diag_set_tap(listen_to);
    int r = kerberos ? kq_rules_new_kerberos("setting", text, REALM, ret)
                     : kq_rules_new_subject("setting", text, ret);
    kq_diag_set_tap(NULL);
    return r;
}

/* NAME NULL: no rule applies. */
static void expect(const char *text, bool kerberos, const char *principal, const char *name)
{
    struct kq_rules *rules;
    char *got = NULL;
    assert_int_equal(make(text, kerberos, &rules), 0);
    int r = kq_rules_apply(rules, principal, &got);
    if (name) {
        assert_int_equal(r, 0);
        assert_string_equal(got, name);
    } else {
        assert_int_equal(r, -EACCES);
        assert_null(got);
    }
    free(got);
    kq_rules_free(rules);
}

static void subject(const char *text, const char *dn, const char *name)
{
    expect(text, false, dn, name);
}

static void kerberos(const char *text, const char *principal, const char *name)
{
    expect(text, true, principal, name);
}

static void expect_malformed(const char *text, bool is_kerberos, const char *reason)
{
    struct kq_rules *rules;
    assert_int_equal(make(text, is_kerberos, &rules), -EINVAL);
    if (!strstr(said, reason))
        fail_msg("`%s`: %s", text, said);
    assert_ptr_equal(strstr(said, "setting: `"), said);
}

/* --- Subjects --- */

static void without_rules_the_subject_is_the_name(void **state)
{
    subject("", "CN=kate,O=Org", "CN=kate,O=Org");
    subject(" , ", "CN=kate", "CN=kate");
    subject("DEFAULT", "CN=kate", "CN=kate");
}

/* What Kafka's documentation shows. */
static void kafkas_own_examples_give_its_names(void **state)
{
    const char *rules = "RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/,"
                        "RULE:^CN=(.*?),OU=(.*?),O=(.*?),L=(.*?),ST=(.*?),C=(.*?)$/$1@$2/L,"
                        "RULE:^.*[Cc][Nn]=([a-zA-Z0-9.]*).*$/$1/L, DEFAULT";
    subject(rules, "CN=serviceuser,OU=ServiceUsers,O=Unknown,L=Unknown,ST=Unknown,C=Unknown",
            "serviceuser");
    subject(rules, "CN=adminUser,OU=Admin,O=Unknown,L=Unknown,ST=Unknown,C=Unknown",
            "adminuser@admin");
    subject(rules, "cn=Somebody", "somebody");
    subject(rules, "O=nobody", "O=nobody");
}

static void a_pattern_has_to_match_the_whole_subject(void **state)
{
    subject("RULE:CN=admin/root/", "CN=admin", "root");
    subject("RULE:CN=admin/root/", "CN=admin,O=Mallory", NULL);
    subject("RULE:CN=admin/root/", "O=x,CN=admin", NULL);
    subject("RULE:CN=admin|O=x/root/", "CN=admin,O=y", NULL);
    subject("RULE:^CN=admin$/root/", "CN=admin\n", NULL);
}

static void the_first_rule_that_matches_decides(void **state)
{
    subject("RULE:^CN=(.+)$/first-$1/,RULE:^CN=(.+)$/second-$1/", "CN=a", "first-a");
    subject("RULE:^CN=b$/b/,DEFAULT,RULE:^CN=a$/a/", "CN=a", "CN=a");
    subject("RULE:^CN=b$/b/", "CN=a", NULL);
}

static void letters_change_where_the_rule_says_so(void **state)
{
    subject("RULE:^CN=(.*)$/$1/L", "CN=McDuck", "mcduck");
    subject("RULE:^CN=(.*)$/$1/U", "CN=McDuck", "MCDUCK");
    subject("RULE:^CN=(.*)$/$1/", "CN=McDuck", "McDuck");
}

static void replacements_are_as_in_java(void **state)
{
    subject("RULE:^CN=(.)(.)$/$2$1/", "CN=ab", "ba");
    subject("RULE:^CN=(.)(.)$/$12/", "CN=ab", "a2");     /* there is no group 12 */
    subject("RULE:^CN=(.)(.)$/$1@$4/", "CN=ab", "a@$4"); /* nor a group 4 */
    subject("RULE:^CN=(.)(.)$/\\$1/", "CN=ab", "$1");
    subject("RULE:^CN=(.)(.)$/$0!/", "CN=ab", "CN=ab!");
    subject("RULE:^CN=(a)?(b)$/<$1$2>/", "CN=b", "<b>");
    subject("RULE:^CN=(.)(.)$/$1\\/$2/", "CN=ab", "a/b");
    subject("RULE:^CN=a\\/b$/yes/", "CN=a/b", "yes");
    /* Matcher.replaceAll finds the empty text behind the last letter too. */
    subject("RULE:.*/x/", "CN=a", "xx");
}

static void commas_and_blanks_may_stand_in_a_pattern(void **state)
{
    subject("  RULE:^CN=(a b), O=(.*)$/$1 of $2/ ,\n DEFAULT ", "CN=a b, O=c", "a b of c");
    subject("RULE:^CN=a$/1/ RULE:^CN=b$/2/", "CN=b", "2");
}

static void a_name_that_is_no_name_is_refused(void **state)
{
    char longer[9000];
    memset(longer, 'a', sizeof(longer));
    longer[8999] = '\0';
    subject("RULE:^CN=(.*)$/$1/", "CN=", NULL);
    subject("DEFAULT", longer, NULL);
    longer[2000] = '\0';
    subject("DEFAULT", longer, NULL);
    subject("RULE:.*/$0$0/", longer, NULL);
    subject("RULE:^CN=(.*)$/$1/,DEFAULT", "CN=\xff\xfe", NULL);
}

/* Neither the next rule nor an endless search may answer. */
static void a_pattern_that_blows_up_is_stopped_and_refuses(void **state)
{
    char dn[64] = "CN=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";
    subject("RULE:CN=((a+)+)+\\2[b-y]/bad/,DEFAULT", dn, NULL);
}

static void a_malformed_rule_is_quoted_with_its_reason(void **state)
{
    expect_malformed("RULE:CN=(/a/", false, "parenthes");
    expect_malformed("RULE:CN=a", false, "`/` is missing");
    expect_malformed("RULE:CN=a/b", false, "`/` is missing");
    expect_malformed("RULE:CN=a/b/X", false, "something stands behind");
    expect_malformed("RULE:CN=a/$/", false, "a $ without a number");
    expect_malformed("RULE:CN=a/${n}/", false, "a $ without a number");
    expect_malformed("RULES:CN=a/b/", false, "a rule is DEFAULT or begins with RULE:");
    expect_malformed("DEFAULT,default", false, "`default`");
    expect_malformed("DEFAULTS", false, "something stands behind");
}

/* --- Kerberos --- */

static void by_default_the_first_component_of_our_realm_is_the_name(void **state)
{
    kerberos("", "alice@" REALM, "alice");
    kerberos("DEFAULT", "alice/host.example.org@" REALM, "alice");
    kerberos("DEFAULT", "alice@ELSEWHERE.ORG", NULL);
    kerberos("DEFAULT", "alice@example.org", NULL);
}

static void rules_for_principals_give_kafkas_names(void **state)
{
    const char *rules =
        "RULE:[1:$1](App\\..*)s/App\\.(.*)/$1/g,RULE:[2:$1](App\\..*)s/App\\.(.*)/$1/g,"
        "DEFAULT";
    kerberos(rules, "App.service-name@REALM.COM", "service-name");
    kerberos(rules, "App.service-name/example.com@REALM.COM", "service-name");
    kerberos(rules, "user/host@" REALM, "user");
    kerberos("RULE:[1:$1]/L", "User@REALM.COM", "user");
    kerberos("RULE:[2:$1]/U", "Test/h@REALM.COM", "TEST");
    kerberos("RULE:[1:$1@$0](.*@ELSE\\.ORG)s/@.*//L", "Bob@ELSE.ORG", "bob");
    kerberos("RULE:[1:$1@$0](.*@ELSE\\.ORG)s/@.*//L", "Bob@ELSE.ORG.EVIL", NULL);
    kerberos("RULE:[1:$1]s/a/b/", "banana@R", "bbnana");
    kerberos("RULE:[1:$1]s/a/b/g", "banana@R", "bbnbnb");
    kerberos("RULE:[2:$2-$1]", "nfs/host@R", "host-nfs");
    kerberos("RULE:[3:$1$2$3]", "a/b/c@R", "abc");
    kerberos("RULE:[1:$1]", "a/b@R", NULL);
}

static void what_is_not_simple_is_refused(void **state)
{
    kerberos("RULE:[1:$1@$0]", "alice@R", NULL);
    kerberos("RULE:[1:$1]s/x/a\\@b/,DEFAULT", "x@" REALM, NULL);
}

static void a_malformed_principal_is_nobody(void **state)
{
    const char *any = "RULE:[1:$1],RULE:[2:$1],DEFAULT";
    const char *bad[] = {"alice",
                         "alice@",
                         "@R",
                         "a/@R",
                         "/a@R",
                         "a@b@" REALM,
                         "root\\/x@" REALM,
                         "a@" REALM "/x",
                         "a\\@" REALM "@R",
                         "a/b/c/d/e/f/g/h/i@R",
                         ""};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        kerberos(any, bad[i], NULL);
}

static void a_malformed_kerberos_rule_is_quoted(void **state)
{
    expect_malformed("RULE:1:$1", true, "there is to be `[`");
    expect_malformed("RULE:[x:$1]", true, "number of components");
    expect_malformed("RULE:[9:$1]", true, "number of components");
    expect_malformed("RULE:[1:$2]", true, "no number of a component");
    expect_malformed("RULE:[1:$]", true, "no number of a component");
    expect_malformed("RULE:[1:$10]", true, "no number of a component");
    expect_malformed("RULE:[1:$1", true, "`]` is missing");
    expect_malformed("RULE:[1:$1](a", true, "`)` is missing");
    expect_malformed("RULE:[1:$1](*)", true, "at byte");
    expect_malformed("RULE:[1:$1]s/a/b", true, "`/` is missing");
    expect_malformed("RULE:[1:$1]s/a/\\/", true, "backslash without");
    expect_malformed("RULE:[1:$1]/X", true, "something stands behind");
}

/* --- Memory --- */

static void without_memory_nothing_is_half_made(void **state)
{
    struct kq_rules *rules = NULL;
    char *name = NULL;
    int r = -ENOMEM;
    for (int n = 1; r == -ENOMEM; n++) {
        kq_fault_arm(KQ_FAULT_MEMORY, n, ENOMEM, false);
        r = make("RULE:[1:$1@$0](.*@R)s/@(.*)//g/L", true, &rules);
        kq_fault_disarm();
        assert_true(r == 0 || r == -ENOMEM);
    }
    r = -ENOMEM;
    for (int n = 1; r == -ENOMEM; n++) {
        kq_fault_arm(KQ_FAULT_MEMORY, n, ENOMEM, false);
        r = kq_rules_apply(rules, "Bob@R", &name);
        kq_fault_disarm();
    }
    assert_int_equal(r, 0);
    assert_string_equal(name, "bob");
    free(name);
    kq_rules_free(rules);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_rules_the_subject_is_the_name),
        cmocka_unit_test(kafkas_own_examples_give_its_names),
        cmocka_unit_test(a_pattern_has_to_match_the_whole_subject),
        cmocka_unit_test(the_first_rule_that_matches_decides),
        cmocka_unit_test(letters_change_where_the_rule_says_so),
        cmocka_unit_test(replacements_are_as_in_java),
        cmocka_unit_test(commas_and_blanks_may_stand_in_a_pattern),
        cmocka_unit_test(a_name_that_is_no_name_is_refused),
        cmocka_unit_test(a_pattern_that_blows_up_is_stopped_and_refuses),
        cmocka_unit_test(a_malformed_rule_is_quoted_with_its_reason),
        cmocka_unit_test(by_default_the_first_component_of_our_realm_is_the_name),
        cmocka_unit_test(rules_for_principals_give_kafkas_names),
        cmocka_unit_test(what_is_not_simple_is_refused),
        cmocka_unit_test(a_malformed_principal_is_nobody),
        cmocka_unit_test(a_malformed_kerberos_rule_is_quoted),
        cmocka_unit_test(without_memory_nothing_is_half_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
