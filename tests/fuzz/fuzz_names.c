/* Names under the mountpoint: any bytes in any directory are refused or mean one thing, and what
 * they mean written down as a name means the same. */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/broker.h"
#include "fs/views.h"

#define NAME_BYTES 512

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void check(bool holds)
{
    if (!holds)
        abort();
}

/* The numbers in a name have one spelling each, so every name but a time's can be made again. */
static void check_spelling(const char *text, const struct kq_name *name)
{
    char again[NAME_BYTES];
    const char *suffix = strchr(text, '.');
    if (name->partition >= 0)
        snprintf(again, sizeof(again), "p%" PRId32 "%s", name->partition, suffix ? suffix : "");
    else if (name->view == KQ_VIEW_SEGMENT || name->view == KQ_VIEW_SEGMENT_LINK)
        snprintf(again, sizeof(again), "%020" PRId64, name->number);
    else if (name->view >= KQ_VIEW_OFFSET_TEXT && name->view <= KQ_VIEW_OFFSET_VALUE &&
             name->from == KQ_FROM_NUMBER)
        snprintf(again, sizeof(again), "%" PRId64 "%s", name->number, suffix ? suffix : "");
    else
        return;
    check(strcmp(again, text) == 0);
}

static void check_name(enum kq_view parent, const char *text)
{
    struct kq_name name;
    if (kq_view_parse(parent, text, &name) != 0)
        return;
    const struct kq_view_row *row = kq_view_row(name.view);
    check(kq_view_parent(name.view) == parent);
    check(kq_view_row(parent)->kind == KQ_KIND_DIRECTORY);
    check(name.partition >= -1);
    check(name.number >= 0 || name.view == KQ_VIEW_TIME_LINK);
    check(!name.topic || (row->per_topic && kq_topic_name_valid(name.topic)));
    check(name.partition < 0 || row->per_partition);
    check_spelling(text, &name);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char text[NAME_BYTES];
    if (length < 1 || length > sizeof(text))
        return 0;
    memcpy(text, bytes + 1, length - 1);
    text[length - 1] = '\0';
    check_name((enum kq_view)(bytes[0] % KQ_VIEW_COUNT), text);
    int64_t ms;
    if (kq_time_parse(text, &ms) == 0)
        check(strpbrk(text, "0123456789") != NULL);
    return 0;
}
