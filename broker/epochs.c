#include "broker/epochs.h"

#include <ctype.h>
#include <inttypes.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/log_internal.h"

#define VERSION 0
#define LARGEST_FILE (16 << 20)

static int add(struct kq_buf *list, int32_t epoch, int64_t start)
{
    struct kq_epoch one = {.epoch = epoch, .start = start};
    return kq_buf_append(list, &one, sizeof(one));
}

/* A number in [0, MOST] and the byte END behind it; moves *AT on. */
static int read_number(const char **at, char end, int64_t most, int64_t *ret)
{
    char *behind;
    if (!isdigit((unsigned char)**at))
        return -EBADMSG;
    errno = 0;
    long long number = strtoll(*at, &behind, 10);
    if (errno || *behind != end || number > most)
        return -EBADMSG;
    *at = behind + 1;
    *ret = number;
    return 0;
}

static int parse(const char *at, struct kq_buf *list)
{
    int64_t version, count, epoch, start, last_epoch = -1, last_start = -1;
    int r = read_number(&at, '\n', VERSION, &version);
    if (r == 0)
        r = read_number(&at, '\n', LARGEST_FILE, &count);
    for (int64_t i = 0; r == 0 && i < count; i++) {
        r = read_number(&at, ' ', INT32_MAX, &epoch);
        if (r == 0)
            r = read_number(&at, '\n', INT64_MAX, &start);
        if (r == 0 && (epoch <= last_epoch || start < last_start))
            r = -EBADMSG;
        if (r == 0)
            r = add(list, (int32_t)epoch, start);
        last_epoch = epoch;
        last_start = start;
    }
    return r == 0 && *at ? -EBADMSG : r;
}

static int read_file(int dirfd, struct kq_buf *list)
{
    kq_autobuf struct kq_buf text = {0};
    int r = kq_io_slurp(dirfd, KQ_EPOCHS_FILE, LARGEST_FILE, &text);
    if (r == 0)
        r = text.length == 0 ? -ENOENT : kq_buf_append(&text, "", 1); /* made, and lost */
    if (r == 0)
        r = parse((const char *)text.data, list);
    return r == -EFBIG || r == -EINVAL ? -EBADMSG : r;
}

static int write_file(int dirfd, const struct kq_epochs *epochs)
{
    kq_autobuf struct kq_buf text = {0};
    int r = kq_buf_printf(&text, "%d\n%zu\n", VERSION, epochs->count);
    for (size_t i = 0; i < epochs->count && r == 0; i++)
        r = kq_buf_printf(&text, "%" PRId32 " %" PRId64 "\n", epochs->at[i].epoch,
                          epochs->at[i].start);
    return r < 0 ? r : kq_io_replace(dirfd, KQ_EPOCHS_FILE, text.data, text.length, 0600);
}

/* What began behind the end was lost with it. */
static void cut(struct kq_buf *list, int64_t end)
{
    const struct kq_epoch *at = (const void *)list->data;
    size_t count = list->length / sizeof(*at);
    while (count > 0 && at[count - 1].start > end)
        count--;
    list->length = count * sizeof(*at);
}

static int32_t newest_of(const struct kq_buf *list)
{
    const struct kq_epoch *at = (const void *)list->data;
    return list->length ? at[list->length / sizeof(*at) - 1].epoch : -1;
}

int kq_log_load_epochs(struct kq_log *log, int dirfd, bool adopted, int32_t begun)
{
    struct kq_buf list = {0};
    int r = read_file(dirfd, &list);
    bool write = r < 0;
    if (r == -EBADMSG) {
        kq_diag(LOG_WARNING, "%s/" KQ_EPOCHS_FILE " is damaged: the epochs before are forgotten",
                log->name);
        list.length = 0;
    }
    r = r == -EBADMSG || r == -ENOENT ? 0 : r;
    cut(&list, log->end);
    int32_t last = newest_of(&list);
    if (r == 0 && last < 0)
        r = add(&list, 0, 0);
    last = begun > 0 ? begun - 1 : last < INT32_MAX ? last + 1 : last;
    if (r == 0 && adopted && last > newest_of(&list)) {
        r = add(&list, last, log->end);
        write = true;
    }
    log->epochs =
        (struct kq_epochs){.at = (void *)list.data, .count = list.length / sizeof(struct kq_epoch)};
    return r == 0 && write ? write_file(dirfd, &log->epochs) : r;
}

int32_t kq_log_epoch(const struct kq_log *log)
{
    return log->epochs.at[log->epochs.count - 1].epoch;
}

int32_t kq_log_epoch_at(const struct kq_log *log, int64_t offset)
{
    const struct kq_epochs *epochs = &log->epochs;
    size_t low = 0, high = epochs->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (epochs->at[middle].start <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? epochs->at[low - 1].epoch : -1;
}

int kq_log_epoch_end(struct kq_log *log, int32_t epoch, int32_t *ret_epoch, int64_t *ret_end)
{
    const struct kq_epochs *epochs = &log->epochs;
    size_t low = 0, high = epochs->count; /* the first that is newer than EPOCH */
    if (epoch < 0 || epoch > kq_log_epoch(log))
        return KQ_END;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (epochs->at[middle].epoch <= epoch)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_epoch = low ? epochs->at[low - 1].epoch : epoch;
    *ret_end = low < epochs->count ? epochs->at[low].start
                                   : atomic_load_explicit(&log->end, memory_order_acquire);
    return 0;
}
