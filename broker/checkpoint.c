#include "broker/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>

#include "broker/base/io.h"
#include "broker/base/mem.h"

#define LIMIT_BYTES (256u << 20)
#define SMALLEST_LINE 6 /* "t 0 0\n" */

/* A number that ends at END; *AT moves behind it. */
static int take_number(char **at, char end, int64_t maximum, int64_t *ret)
{
    char *behind;
    if (**at < '0' || **at > '9')
        return -EBADMSG;
    errno = 0;
    long long number = strtoll(*at, &behind, 10);
    if (errno || *behind != end || number > maximum)
        return -EBADMSG;
    *at = behind + 1;
    *ret = number;
    return 0;
}

static int parse_line(char **at, struct kq_checkpoint_entry *ret)
{
    char *space = strchr(*at, ' ');
    int64_t partition = 0;
    if (!space || space == *at || memchr(*at, '\n', (size_t)(space - *at)))
        return -EBADMSG;
    ret->topic = *at;
    *space = '\0';
    *at = space + 1;
    int r = take_number(at, ' ', INT32_MAX, &partition);
    ret->partition = (int32_t)partition;
    return r < 0 ? r : take_number(at, '\n', INT64_MAX, &ret->offset);
}

static int compare(const void *a, const void *b)
{
    const struct kq_checkpoint_entry *left = a, *right = b;
    int order = strcmp(left->topic, right->topic);
    return order ? order
                 : (left->partition > right->partition) - (left->partition < right->partition);
}

static int parse(struct kq_checkpoint *checkpoint)
{
    char *at = (char *)checkpoint->text.data;
    int64_t version, count;
    if (take_number(&at, '\n', 0, &version) < 0 || take_number(&at, '\n', INT32_MAX, &count) < 0)
        return -EBADMSG;
    if ((uint64_t)count > checkpoint->text.length / SMALLEST_LINE)
        return -EBADMSG;
    checkpoint->entries = kq_alloc((size_t)count * sizeof(*checkpoint->entries) + 1);
    if (!checkpoint->entries)
        return -ENOMEM;
    while (checkpoint->count < (size_t)count) {
        int r = parse_line(&at, &checkpoint->entries[checkpoint->count]);
        if (r < 0)
            return r;
        checkpoint->count++;
    }
    if (at != (char *)checkpoint->text.data + checkpoint->text.length - 1)
        return -EBADMSG;
    qsort(checkpoint->entries, checkpoint->count, sizeof(*checkpoint->entries), compare);
    return 0;
}

int kq_checkpoint_read(int dirfd, const char *name, struct kq_checkpoint *ret)
{
    struct kq_checkpoint checkpoint = {0};
    int r = kq_io_slurp(dirfd, name, LIMIT_BYTES, &checkpoint.text);
    if (r == 0)
        r = kq_buf_append(&checkpoint.text, "", 1);
    if (r == 0)
        r = parse(&checkpoint);
    if (r < 0)
        kq_checkpoint_release(&checkpoint);
    else
        *ret = checkpoint;
    return r;
}

void kq_checkpoint_release(struct kq_checkpoint *checkpoint)
{
    free(checkpoint->entries);
    kq_buf_release(&checkpoint->text);
    *checkpoint = (struct kq_checkpoint){0};
}

int64_t kq_checkpoint_find(const struct kq_checkpoint *checkpoint, const char *topic,
                           int32_t partition, int64_t otherwise)
{
    struct kq_checkpoint_entry key = {.topic = topic, .partition = partition};
    const struct kq_checkpoint_entry *found =
        checkpoint->count
            ? bsearch(&key, checkpoint->entries, checkpoint->count, sizeof(key), compare)
            : NULL;
    return found ? found->offset : otherwise;
}

int kq_checkpoint_add(struct kq_checkpoint_writer *writer, const char *topic, int32_t partition,
                      int64_t offset)
{
    int r = kq_buf_printf(&writer->lines, "%s %d %lld\n", topic, partition, (long long)offset);
    if (r == 0)
        writer->count++;
    return r;
}

int kq_checkpoint_write(struct kq_checkpoint_writer *writer, int dirfd, const char *name)
{
    kq_autobuf struct kq_buf text = {0};
    int r = kq_buf_printf(&text, "0\n%zu\n", writer->count);
    if (r == 0)
        r = kq_buf_append(&text, writer->lines.data, writer->lines.length);
    if (r == 0)
        r = kq_io_replace(dirfd, name, text.data, text.length, 0600);
    kq_buf_release(&writer->lines);
    writer->count = 0;
    return r;
}
