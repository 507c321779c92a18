#include "broker/producerid.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"

#define BLOCK 1000           /* ids, as in Kafka */
#define MOST (INT64_MAX / 2) /* nobody ever gave more: such an id was made up */
#define VERSION 0
#define FILE_BYTES 64

/* "0\n<number>\n", as Kafka's checkpoints begin with their version. */
static int parse(const char *text, int64_t *ret)
{
    char *end;
    errno = 0;
    long version = strtol(text, &end, 10);
    if (end == text || *end != '\n' || version != VERSION)
        return -EBADMSG;
    const char *number = end + 1;
    long long next = strtoll(number, &end, 10);
    if (errno || end == number || *end != '\n' || end[1] || next < 0)
        return -EBADMSG;
    *ret = next;
    return 0;
}

static int read_file(int dirfd, int64_t *ret)
{
    kq_autobuf struct kq_buf text = {0};
    int r = kq_io_slurp(dirfd, KQ_PRODUCER_IDS, FILE_BYTES, &text);
    if (r == 0)
        r = kq_buf_append(&text, "", 1);
    if (r == 0)
        r = parse((const char *)text.data, ret);
    return r == -EFBIG || r == -EINVAL ? -EBADMSG : r;
}

void kq_producer_ids_init(struct kq_producer_ids *ids)
{
    *ids = (struct kq_producer_ids){.dirfd = -1};
    pthread_mutex_init(&ids->lock, NULL);
}

void kq_producer_ids_destroy(struct kq_producer_ids *ids)
{
    pthread_mutex_destroy(&ids->lock);
}

int kq_producer_ids_read(struct kq_producer_ids *ids, int dirfd)
{
    int64_t next = KQ_PRODUCER_FIRST;
    int r = read_file(dirfd, &next);
    if (r == -EBADMSG)
        kq_diag(LOG_WARNING, KQ_PRODUCER_IDS " is damaged: producer ids go on behind the largest "
                                             "that a log knows");
    if (r < 0 && r != -EBADMSG && r != -ENOENT)
        return r;
    ids->dirfd = dirfd;
    ids->end = kq_max64(next, KQ_PRODUCER_FIRST);
    ids->next = ids->end;
    return 0;
}

void kq_producer_ids_met(struct kq_producer_ids *ids, int64_t id)
{
    int64_t next = atomic_load(&ids->next);
    while (id >= next && id < MOST && !atomic_compare_exchange_weak(&ids->next, &next, id + 1))
        ;
}

int64_t kq_producer_ids_given(const struct kq_producer_ids *ids)
{
    return atomic_load(&ids->next) - 1;
}

/* With the lock: the block that begins with NEXT. */
static int begin_block(struct kq_producer_ids *ids, int64_t next)
{
    char text[FILE_BYTES];
    if (next > INT64_MAX - BLOCK)
        return -EOVERFLOW;
    int n = snprintf(text, sizeof(text), "%d\n%" PRId64 "\n", VERSION, next + BLOCK);
    int r = kq_io_replace(ids->dirfd, KQ_PRODUCER_IDS, text, (size_t)n, 0600);
    if (r == 0)
        ids->end = next + BLOCK;
    return r;
}

int kq_producer_ids_take(struct kq_producer_ids *ids, bool may_block, int64_t *ret)
{
    int r = 0;
    if (may_block)
        pthread_mutex_lock(&ids->lock);
    else if (pthread_mutex_trylock(&ids->lock) != 0)
        return KQ_WOULD_BLOCK;
    int64_t next = atomic_load(&ids->next);
    if (next >= ids->end)
        r = may_block ? begin_block(ids, next) : KQ_WOULD_BLOCK;
    while (r == 0 && !atomic_compare_exchange_weak(&ids->next, &next, next + 1))
        if (next >= ids->end)
            r = may_block ? begin_block(ids, next) : KQ_WOULD_BLOCK;
    pthread_mutex_unlock(&ids->lock);
    if (r == 0)
        *ret = next;
    return r;
}
