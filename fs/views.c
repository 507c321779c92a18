#include "fs/views.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "broker/broker.h"

#define SEGMENT_DIGITS 20

static_assert(KQ_VIEW_COUNT <= 64, "a view has 6 bits of a node's number");

#define DIRECTORY .kind = KQ_KIND_DIRECTORY
#define FILE_OF(x) .kind = KQ_KIND_FILE, .format = KQ_FORMAT_##x
#define LINK .kind = KQ_KIND_LINK
#define OF_TOPIC .per_topic = true
#define OF_PARTITION .per_topic = true, .per_partition = true
#define OF_GROUPS .of_groups = true
#define OF_USERS .of_users = true

static const struct kq_view_row rows[KQ_VIEW_COUNT] = {
    [KQ_VIEW_ROOT] = {DIRECTORY},
    [KQ_VIEW_TOPIC] = {DIRECTORY, OF_TOPIC},
    [KQ_VIEW_APPEND] = {FILE_OF(TEXT), OF_TOPIC, .writable = true},
    [KQ_VIEW_BY_OFFSET] = {DIRECTORY, OF_TOPIC},
    [KQ_VIEW_BY_TIME] = {DIRECTORY, OF_TOPIC},
    [KQ_VIEW_BY_SEGMENT] = {DIRECTORY, OF_TOPIC},
    [KQ_VIEW_BY_OFFSET_PARTITION] = {DIRECTORY, OF_PARTITION},
    [KQ_VIEW_BY_TIME_PARTITION] = {DIRECTORY, OF_PARTITION},
    [KQ_VIEW_BY_SEGMENT_PARTITION] = {DIRECTORY, OF_PARTITION},
    [KQ_VIEW_EARLIEST] = {LINK, OF_PARTITION},
    [KQ_VIEW_LATEST] = {LINK, OF_PARTITION},
    [KQ_VIEW_TIME_LINK] = {LINK, OF_PARTITION},
    [KQ_VIEW_SEGMENT_LINK] = {LINK, OF_PARTITION},
    [KQ_VIEW_TEXT] = {FILE_OF(TEXT), OF_PARTITION, .writable = true},
    [KQ_VIEW_STREAM] = {FILE_OF(TEXT), OF_PARTITION, .stream = true},
    [KQ_VIEW_JSONL] = {FILE_OF(JSONL), OF_PARTITION, .writable = true},
    [KQ_VIEW_JSONL_STREAM] = {FILE_OF(JSONL), OF_PARTITION, .stream = true},
    [KQ_VIEW_LOG] = {FILE_OF(TEXT), OF_PARTITION},
    [KQ_VIEW_OFFSET_TEXT] = {FILE_OF(TEXT), OF_PARTITION},
    [KQ_VIEW_OFFSET_STREAM] = {FILE_OF(TEXT), OF_PARTITION, .stream = true},
    [KQ_VIEW_OFFSET_JSONL] = {FILE_OF(JSONL), OF_PARTITION},
    [KQ_VIEW_OFFSET_JSONL_STREAM] = {FILE_OF(JSONL), OF_PARTITION, .stream = true},
    [KQ_VIEW_OFFSET_VALUE] = {FILE_OF(VALUE), OF_PARTITION, .sealed = true},
    [KQ_VIEW_CONTROL] = {DIRECTORY},
    [KQ_VIEW_METRICS] = {FILE_OF(CONTROL)},
    [KQ_VIEW_VERSION] = {FILE_OF(CONTROL)},
    [KQ_VIEW_CONFIG] = {FILE_OF(CONTROL)},
    [KQ_VIEW_SEGMENTS] = {DIRECTORY},
    [KQ_VIEW_SEGMENTS_TOPIC] = {DIRECTORY, OF_TOPIC},
    [KQ_VIEW_SEGMENTS_PARTITION] = {DIRECTORY, OF_PARTITION},
    [KQ_VIEW_SEGMENT] = {FILE_OF(TEXT), OF_PARTITION, .sealed = true},
    [KQ_VIEW_GROUPS] = {DIRECTORY, OF_GROUPS},
    [KQ_VIEW_GROUP] = {DIRECTORY, OF_GROUPS},
    [KQ_VIEW_GROUP_TOPIC] = {DIRECTORY, OF_TOPIC, OF_GROUPS},
    [KQ_VIEW_GROUP_TEXT] = {FILE_OF(GROUP), OF_PARTITION, OF_GROUPS},
    [KQ_VIEW_GROUP_OFFSET] = {FILE_OF(GROUP), OF_PARTITION, OF_GROUPS, .writable = true},
    [KQ_VIEW_GROUP_LAG] = {FILE_OF(GROUP), OF_PARTITION, OF_GROUPS},
    [KQ_VIEW_USERS] = {DIRECTORY, OF_USERS},
    [KQ_VIEW_USER] = {FILE_OF(CONTROL), OF_USERS},
    [KQ_VIEW_PASSWD] = {FILE_OF(PASSWD), OF_USERS, .writable = true},
};

const struct kq_view_row *kq_view_row(enum kq_view view)
{
    assert(view < KQ_VIEW_COUNT);
    return &rows[view];
}

/* --- Names --- */

enum form {
    FORM_LITERAL,   /* the text itself */
    FORM_TOPIC,     /* the name of a topic that users may see */
    FORM_GROUP,     /* the name of a group: any */
    FORM_USER,      /* the name of a user's file: any */
    FORM_PARTITION, /* p<N>, then the text */
    FORM_OFFSET,    /* <N>, then the text */
    FORM_EARLIEST,  /* `earliest`, then the text */
    FORM_LATEST,    /* `latest`, then the text */
    FORM_SEGMENT,   /* 20 digits */
    FORM_TIME,
};

struct rule {
    enum kq_view parent;
    enum form form;
    const char *text;
    enum kq_view view;
    bool listed;
};

/* Everything that opens under the mountpoint, in the order in which it is listed. */
static const struct rule rules[] = {
    {KQ_VIEW_ROOT, FORM_LITERAL, ".kqfs", KQ_VIEW_CONTROL, false},
    {KQ_VIEW_ROOT, FORM_TOPIC, "", KQ_VIEW_TOPIC, true},

    {KQ_VIEW_TOPIC, FORM_LITERAL, "append", KQ_VIEW_APPEND, true},
    {KQ_VIEW_TOPIC, FORM_LITERAL, "by-offset", KQ_VIEW_BY_OFFSET, true},
    {KQ_VIEW_TOPIC, FORM_LITERAL, "by-segment", KQ_VIEW_BY_SEGMENT, true},
    {KQ_VIEW_TOPIC, FORM_LITERAL, "by-time", KQ_VIEW_BY_TIME, true},
    {KQ_VIEW_TOPIC, FORM_PARTITION, "", KQ_VIEW_TEXT, true},
    {KQ_VIEW_TOPIC, FORM_PARTITION, ".stream", KQ_VIEW_STREAM, false},
    {KQ_VIEW_TOPIC, FORM_PARTITION, ".jsonl", KQ_VIEW_JSONL, false},
    {KQ_VIEW_TOPIC, FORM_PARTITION, ".jsonl.stream", KQ_VIEW_JSONL_STREAM, false},
    {KQ_VIEW_TOPIC, FORM_PARTITION, ".log", KQ_VIEW_LOG, false},

    {KQ_VIEW_BY_OFFSET, FORM_PARTITION, "", KQ_VIEW_BY_OFFSET_PARTITION, true},
    {KQ_VIEW_BY_TIME, FORM_PARTITION, "", KQ_VIEW_BY_TIME_PARTITION, true},
    {KQ_VIEW_BY_SEGMENT, FORM_PARTITION, "", KQ_VIEW_BY_SEGMENT_PARTITION, true},

    {KQ_VIEW_BY_OFFSET_PARTITION, FORM_LITERAL, "earliest", KQ_VIEW_EARLIEST, true},
    {KQ_VIEW_BY_OFFSET_PARTITION, FORM_LITERAL, "latest", KQ_VIEW_LATEST, true},
#define FROM_OFFSET(suffix, view)                                                                  \
    {KQ_VIEW_BY_OFFSET_PARTITION, FORM_OFFSET, suffix, view, false},                               \
        {KQ_VIEW_BY_OFFSET_PARTITION, FORM_EARLIEST, suffix, view, false},                         \
    {                                                                                              \
        KQ_VIEW_BY_OFFSET_PARTITION, FORM_LATEST, suffix, view, false                              \
    }
    FROM_OFFSET("", KQ_VIEW_OFFSET_TEXT),
    FROM_OFFSET(".stream", KQ_VIEW_OFFSET_STREAM),
    FROM_OFFSET(".jsonl", KQ_VIEW_OFFSET_JSONL),
    FROM_OFFSET(".jsonl.stream", KQ_VIEW_OFFSET_JSONL_STREAM),
    FROM_OFFSET(".value", KQ_VIEW_OFFSET_VALUE),
#undef FROM_OFFSET

    {KQ_VIEW_BY_TIME_PARTITION, FORM_TIME, "", KQ_VIEW_TIME_LINK, false},
    {KQ_VIEW_BY_SEGMENT_PARTITION, FORM_SEGMENT, "", KQ_VIEW_SEGMENT_LINK, true},

    {KQ_VIEW_CONTROL, FORM_LITERAL, "config", KQ_VIEW_CONFIG, true},
    {KQ_VIEW_CONTROL, FORM_LITERAL, "groups", KQ_VIEW_GROUPS, true},
    {KQ_VIEW_CONTROL, FORM_LITERAL, "metrics", KQ_VIEW_METRICS, true},
    {KQ_VIEW_CONTROL, FORM_LITERAL, "passwd", KQ_VIEW_PASSWD, false},
    {KQ_VIEW_CONTROL, FORM_LITERAL, "segments", KQ_VIEW_SEGMENTS, true},
    {KQ_VIEW_CONTROL, FORM_LITERAL, "users", KQ_VIEW_USERS, true},
    {KQ_VIEW_CONTROL, FORM_LITERAL, "version", KQ_VIEW_VERSION, true},
    {KQ_VIEW_SEGMENTS, FORM_TOPIC, "", KQ_VIEW_SEGMENTS_TOPIC, true},
    {KQ_VIEW_SEGMENTS_TOPIC, FORM_PARTITION, "", KQ_VIEW_SEGMENTS_PARTITION, true},
    {KQ_VIEW_SEGMENTS_PARTITION, FORM_SEGMENT, "", KQ_VIEW_SEGMENT, true},

    {KQ_VIEW_USERS, FORM_USER, "", KQ_VIEW_USER, true},
    {KQ_VIEW_GROUPS, FORM_GROUP, "", KQ_VIEW_GROUP, true},
    {KQ_VIEW_GROUP, FORM_TOPIC, "", KQ_VIEW_GROUP_TOPIC, true},
    {KQ_VIEW_GROUP_TOPIC, FORM_PARTITION, "", KQ_VIEW_GROUP_TEXT, false},
    {KQ_VIEW_GROUP_TOPIC, FORM_PARTITION, ".lag", KQ_VIEW_GROUP_LAG, true},
    {KQ_VIEW_GROUP_TOPIC, FORM_PARTITION, ".offset", KQ_VIEW_GROUP_OFFSET, true},
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Reads a number of at most MAX; returns what follows, NULL where there is none. */
static const char *read_number(const char *text, int64_t max, int64_t *ret)
{
    int64_t number = 0;
    const char *at = text;
    for (; is_digit(*at); at++) {
        int digit = *at - '0';
        if (number > (max - digit) / 10)
            return NULL;
        number = number * 10 + digit;
    }
    if (at == text || (*text == '0' && at != text + 1))
        return NULL;
    *ret = number;
    return at;
}

static int parse_segment(const char *name, int64_t *ret)
{
    if (strspn(name, "0123456789") != SEGMENT_DIGITS || name[SEGMENT_DIGITS])
        return -ENOENT;
    const char *digits = name + strspn(name, "0");
    if (!*digits)
        digits--;
    return read_number(digits, INT64_MAX, ret) ? 0 : -ENOENT;
}

static const char *skip_prefix(const char *name, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(name, prefix, length) == 0 ? name + length : NULL;
}

/* Fills RET by what NAME begins with; returns what must equal the rule's text, NULL: no match. Not
 * for literal names. */
static const char *match_form(enum form form, const char *name, struct kq_name *ret)
{
    int64_t partition;
    const char *rest = NULL;
    switch (form) {
    case FORM_LITERAL:
        break;
    case FORM_TOPIC:
        ret->topic = name;
        return kq_topic_name_valid(name) && !kq_topic_is_internal(name) ? "" : NULL;
    case FORM_GROUP:
        ret->group = name;
        return "";
    case FORM_USER:
        ret->user = name;
        return "";
    case FORM_PARTITION:
        rest = *name == 'p' ? read_number(name + 1, INT32_MAX, &partition) : NULL;
        if (rest)
            ret->partition = (int32_t)partition;
        return rest;
    case FORM_OFFSET:
        return read_number(name, INT64_MAX, &ret->number);
    case FORM_EARLIEST:
        ret->from = KQ_FROM_EARLIEST;
        return skip_prefix(name, "earliest");
    case FORM_LATEST:
        ret->from = KQ_FROM_LATEST;
        return skip_prefix(name, "latest");
    case FORM_SEGMENT:
        return parse_segment(name, &ret->number) == 0 ? "" : NULL;
    case FORM_TIME:
        return kq_time_parse(name, &ret->number) == 0 ? "" : NULL;
    }
    return NULL;
}

int kq_view_parse(enum kq_view parent, const char *name, struct kq_name *ret)
{
    for (size_t i = 0; i < kq_array_size(rules); i++) {
        const struct rule *rule = &rules[i];
        if (rule->parent != parent)
            continue;
        struct kq_name found = {.view = rule->view, .partition = -1};
        bool literal = rule->form == FORM_LITERAL;
        const char *rest = literal ? NULL : match_form(rule->form, name, &found);
        if (literal ? strcmp(name, rule->text) == 0 : rest && strcmp(rest, rule->text) == 0) {
            *ret = found;
            return 0;
        }
    }
    return -ENOENT;
}

const char *kq_view_listed(enum kq_view parent, unsigned index, enum kq_view *ret_view)
{
    for (size_t i = 0; i < kq_array_size(rules); i++) {
        const struct rule *rule = &rules[i];
        if (rule->parent != parent || rule->form != FORM_LITERAL || !rule->listed)
            continue;
        if (index-- == 0) {
            *ret_view = rule->view;
            return rule->text;
        }
    }
    return NULL;
}

enum kq_view kq_view_listed_each(enum kq_view parent)
{
    for (size_t i = 0; i < kq_array_size(rules); i++)
        if (rules[i].parent == parent && rules[i].form != FORM_LITERAL && rules[i].listed)
            return rules[i].view;
    return KQ_VIEW_NONE;
}

enum kq_view kq_view_parent(enum kq_view view)
{
    for (size_t i = 0; i < kq_array_size(rules); i++)
        if (rules[i].view == view)
            return rules[i].parent;
    return KQ_VIEW_ROOT;
}

/* --- Times --- */

/* Reads exactly COUNT digits. */
static bool read_digits(const char **at, int count, int *ret)
{
    int number = 0;
    for (int i = 0; i < count; i++, (*at)++) {
        if (!is_digit(**at))
            return false;
        number = number * 10 + (**at - '0');
    }
    *ret = number;
    return true;
}

static bool read_char(const char **at, const char *accepted)
{
    if (!**at || !strchr(accepted, **at))
        return false;
    (*at)++;
    return true;
}

static int days_in_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* Days since 1970-01-01 in the Gregorian calendar; the year counts from March, so that the leap day
 * is its last. */
static int64_t days_since_epoch(int year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t year_of_era = y - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year -
           719468;
}

/* [.digits] in milliseconds, rounded up. */
static bool read_fraction(const char **at, int *ret_ms)
{
    int ms = 0, scale = 100;
    bool more = false;
    *ret_ms = 0;
    if (!read_char(at, "."))
        return true;
    if (!is_digit(**at))
        return false;
    for (; is_digit(**at); (*at)++, scale /= 10) {
        ms += (**at - '0') * scale;
        more |= scale == 0 && **at != '0';
    }
    *ret_ms = ms + more;
    return true;
}

static bool read_zone(const char **at, int *ret_minutes)
{
    int hours, minutes;
    *ret_minutes = 0;
    if (read_char(at, "Zz"))
        return true;
    int sign = **at == '-' ? -1 : 1;
    if (!read_char(at, "+-") || !read_digits(at, 2, &hours) || !read_char(at, ":") ||
        !read_digits(at, 2, &minutes) || hours > 23 || minutes > 59)
        return false;
    *ret_minutes = sign * (hours * 60 + minutes);
    return true;
}

int kq_time_parse(const char *text, int64_t *ret_ms)
{
    int64_t ms;
    const char *rest = read_number(text, INT64_MAX, &ms);
    if (rest && !*rest) {
        *ret_ms = ms;
        return 0;
    }
    int year, month, day, hour, minute, second, fraction_ms, zone_minutes;
    const char *at = text;
    if (!read_digits(&at, 4, &year) || !read_char(&at, "-") || !read_digits(&at, 2, &month) ||
        !read_char(&at, "-") || !read_digits(&at, 2, &day) || !read_char(&at, "Tt ") ||
        !read_digits(&at, 2, &hour) || !read_char(&at, ":") || !read_digits(&at, 2, &minute) ||
        !read_char(&at, ":") || !read_digits(&at, 2, &second) ||
        !read_fraction(&at, &fraction_ms) || !read_zone(&at, &zone_minutes) || *at)
        return -ENOENT;
    if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month) || hour > 23 ||
        minute > 59 || second > 60)
        return -ENOENT;
    int64_t minutes = (days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - zone_minutes;
    *ret_ms = (minutes * 60 + second) * 1000 + fraction_ms;
    return 0;
}
