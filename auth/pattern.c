#define PCRE2_CODE_UNIT_WIDTH 8
#include "auth/pattern.h"

#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/mem.h"

/* Names are short and rules simple: these are far from what any of them takes. */
#define STEPS_MAX 100000
#define DEPTH_MAX 5000
#define HEAP_KIB_MAX 1024

struct kq_pattern {
    pcre2_code *code;
    pcre2_match_context *limits;
    pcre2_general_context *memory;
    unsigned groups;
};

static void *take(size_t size, void *context)
{
    return kq_alloc(size);
}

static void give_back(void *memory, void *context)
{
    free(memory);
}

static int compile(struct kq_pattern *pattern, const char *text, size_t length, char *reason)
{
    int error;
    size_t at;
    uint32_t options = PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *context = pcre2_compile_context_create(pattern->memory);
    if (!context)
        return -ENOMEM;
    pattern->code = pcre2_compile((PCRE2_SPTR)text, length, options, &error, &at, context);
    pcre2_compile_context_free(context);
    if (pattern->code) {
        uint32_t groups = 0;
        pcre2_pattern_info(pattern->code, PCRE2_INFO_CAPTURECOUNT, &groups);
        pattern->groups = groups;
        return 0;
    }
    if (error == PCRE2_ERROR_HEAP_FAILED)
        return -ENOMEM;
    PCRE2_UCHAR message[KQ_PATTERN_REASON - 32];
    pcre2_get_error_message(error, message, sizeof(message));
    snprintf(reason, KQ_PATTERN_REASON, "%s, at byte %zu", (const char *)message, at);
    return -EINVAL;
}

int kq_pattern_new(const char *text, size_t length, struct kq_pattern **ret, char *ret_reason)
{
    struct kq_pattern *pattern = kq_zalloc(sizeof(*pattern));
    if (!pattern)
        return -ENOMEM;
    int r = -ENOMEM;
    pattern->memory = pcre2_general_context_create(take, give_back, NULL);
    if (pattern->memory)
        pattern->limits = pcre2_match_context_create(pattern->memory);
    if (pattern->limits) {
        pcre2_set_match_limit(pattern->limits, STEPS_MAX);
        pcre2_set_depth_limit(pattern->limits, DEPTH_MAX);
        pcre2_set_heap_limit(pattern->limits, HEAP_KIB_MAX);
        r = compile(pattern, text, length, ret_reason);
    }
    if (r < 0) {
        kq_pattern_free(pattern);
        return r;
    }
    *ret = pattern;
    return 0;
}

void kq_pattern_free(struct kq_pattern *pattern)
{
    if (!pattern)
        return;
    pcre2_code_free(pattern->code);
    pcre2_match_context_free(pattern->limits);
    pcre2_general_context_free(pattern->memory);
    free(pattern);
}

/* --- Matching --- */

static int error_of(int pcre2)
{
    switch (pcre2) {
    case PCRE2_ERROR_NOMATCH:
        return -ENOENT;
    case PCRE2_ERROR_NOMEMORY:
        return -ENOMEM;
    case PCRE2_ERROR_MATCHLIMIT:
    case PCRE2_ERROR_DEPTHLIMIT:
    case PCRE2_ERROR_HEAPLIMIT:
        return -ELOOP;
    default:
        return pcre2 >= 0 ? 0 : -EILSEQ;
    }
}

int kq_pattern_match(const struct kq_pattern *pattern, const char *subject)
{
    pcre2_match_data *found = pcre2_match_data_create_from_pattern(pattern->code, pattern->memory);
    if (!found)
        return -ENOMEM;
    int r = pcre2_match(pattern->code, (PCRE2_SPTR)subject, strlen(subject), 0,
                        PCRE2_ANCHORED | PCRE2_ENDANCHORED, found, pattern->limits);
    pcre2_match_data_free(found);
    return error_of(r);
}

/* --- Replacing --- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool kq_pattern_takes(const char *text)
{
    for (; *text; text++) {
        if (*text == '$' && !is_digit(text[1]))
            return false;
        if (*text == '\\' && !*++text)
            return false;
    }
    return true;
}

struct replacing {
    const struct kq_pattern *pattern;
    const char *subject;
    pcre2_match_data *found;
    size_t most;
    struct kq_buf *to;
};

static int add(struct replacing *replacing, const char *bytes, size_t length)
{
    if (length > replacing->most)
        return -E2BIG;
    replacing->most -= length;
    return kq_buf_append(replacing->to, bytes, length);
}

/* The number of a group at AT, behind the $; moves AT behind it. */
static unsigned group_at(const struct replacing *replacing, const char **at)
{
    unsigned group = (unsigned)(*(*at)++ - '0');
    while (is_digit(**at)) {
        unsigned longer = group * 10 + (unsigned)(**at - '0');
        if (longer > replacing->pattern->groups)
            break;
        group = longer;
        (*at)++;
    }
    return group;
}

static int add_group(struct replacing *replacing, const char **at)
{
    const char *dollar = *at - 1;
    unsigned group = group_at(replacing, at);
    if (group > replacing->pattern->groups)
        return add(replacing, dollar, (size_t)(*at - dollar));
    const size_t *ends = pcre2_get_ovector_pointer(replacing->found) + 2 * group;
    if (ends[0] == PCRE2_UNSET || ends[1] < ends[0])
        return 0; /* has no part in the match */
    return add(replacing, replacing->subject + ends[0], ends[1] - ends[0]);
}

static int add_replacement(struct replacing *replacing, const char *text)
{
    int r = 0;
    while (r == 0 && *text) {
        char c = *text++;
        if (c == '$' && is_digit(*text))
            r = add_group(replacing, &text);
        else if (c == '\\' && *text)
            r = add(replacing, text++, 1);
        else
            r = add(replacing, &c, 1);
    }
    return r;
}

/* Behind the character at AT, or the end: UTF-8, which PCRE2 has checked. */
static size_t behind(const char *subject, size_t at)
{
    if (!subject[at++])
        return at;
    while (((unsigned char)subject[at] & 0xc0) == 0x80)
        at++;
    return at;
}

static int replace(struct replacing *replacing, const char *replacement, bool each)
{
    const struct kq_pattern *pattern = replacing->pattern;
    size_t length = strlen(replacing->subject), copied = 0, at = 0;
    while (at <= length) {
        int r = error_of(pcre2_match(pattern->code, (PCRE2_SPTR)replacing->subject, length, at, 0,
                                     replacing->found, pattern->limits));
        if (r == -ENOENT)
            break;
        const size_t *ends = pcre2_get_ovector_pointer(replacing->found);
        if (r == 0 && (ends[0] < copied || ends[1] < ends[0]))
            r = -EILSEQ; /* \K in a lookaround: nothing sensible can be replaced */
        if (r == 0)
            r = add(replacing, replacing->subject + copied, ends[0] - copied);
        if (r == 0)
            r = add_replacement(replacing, replacement);
        if (r < 0)
            return r;
        copied = ends[1];
        at = ends[1] > ends[0] ? ends[1] : behind(replacing->subject, ends[1]);
        if (!each)
            break;
    }
    return add(replacing, replacing->subject + copied, length - copied);
}

int kq_pattern_replace(const struct kq_pattern *pattern, const char *subject,
                       const char *replacement, bool each, size_t most, struct kq_buf *ret)
{
    struct replacing replacing = {.pattern = pattern, .subject = subject, .most = most, .to = ret};
    replacing.found = pcre2_match_data_create_from_pattern(pattern->code, pattern->memory);
    if (!replacing.found)
        return -ENOMEM;
    int r = replace(&replacing, replacement, each);
    pcre2_match_data_free(replacing.found);
    return r;
}
