#include "net/scratch.h"

#include <pthread.h>

#include "broker/base/mem.h"

static _Thread_local struct kq_buf *mine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void release(void *scratch)
{
    kq_buf_release(scratch);
    free(scratch);
}

static void make_key(void)
{
    pthread_key_create(&key, release);
}

static struct kq_buf *make(void)
{
    pthread_once(&once, make_key);
    struct kq_buf *scratch = kq_zalloc(sizeof(*scratch));
    if (scratch && pthread_setspecific(key, scratch) != 0) {
        free(scratch);
        scratch = NULL;
    }
    return mine = scratch;
}

struct kq_buf *kq_net_scratch(void)
{
    return kq_likely(mine != NULL) ? mine : make();
}
